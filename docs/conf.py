"""The site that `make docs` builds with Sphinx: how, and the little that Markdown on a code host does otherwise.

The pages stay plain Markdown. What the site adds: the contents beside each page, made from index.md; and a page for
each file outside of docs/ that is linked to, where a code host would show the file.
"""

import os
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT / "src")]

import api  # noqa: E402
from contents import toctrees  # noqa: E402

project = "polyak"
author = copyright = "The polyak developers"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
root_doc = "index"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_url_schemes = ("http", "https", "mailto", "shown")
highlight_language = "none"  # of blocks that do not say theirs
smartquotes = False  # a prime is a prime
html_theme = "furo"
html_title = "polyak"
html_static_path = ["site"]
html_css_files = ["polyak.css"]
html_copy_source = html_show_sourcelink = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d4fa8", "color-brand-content": "#2563c9"},
    "dark_css_variables": {"color-brand-primary": "#8ab4ff", "color-brand-content": "#8ab4ff"},
}


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """Mark links out of docs/, which Sphinx would not follow; give the index the contents of the site."""

    def mark(found: re.Match[str]) -> str:
        path, _, anchor = found[1].partition("#")
        file = Path(os.path.normpath(DOCS / Path(page).parent / path))
        return found[0] if DOCS in file.parents else f"](shown:{file.relative_to(ROOT)}#{anchor})"

    if page.startswith("api"):
        source[0] = api.with_directives(source[0])
    source[0] = re.sub(r"\]\((\.\./[^)\s]+)(?<!\.png)\)", mark, source[0])
    if page == root_doc:
        source[0] += "\n\n" + toctrees(source[0]) + "\n"


def link_files(app: Sphinx, tree: nodes.document) -> None:
    """Lead marked links to the pages that show their files."""
    for node in tree.findall(nodes.reference):
        if node.get("refuri", "").startswith("shown:"):
            path, _, anchor = node["refuri"].removeprefix("shown:").partition("#")
            app.env.shown_files = getattr(app.env, "shown_files", set()) | {ROOT / path}
            there = app.builder.get_relative_uri(app.env.docname, name_of(ROOT / path))
            node["refuri"] = there + (f"#{anchor}" if anchor else "")
            node["internal"] = True
            node["classes"] = ["internal"]


def name_of(file: Path) -> str:
    """The page that shows a file: src/polyak/cli.py is source/src/polyak/cli."""
    path = file.relative_to(ROOT)
    return f"source/{path.with_suffix('') if path.suffix in ('.py', '.md') else path}"


def show_files(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The pages of these files: code in colours, Markdown as it reads, with the Markdown that it links to."""
    waiting = sorted(getattr(app.env, "shown_files", ()))
    shown = set(waiting)
    while waiting:
        file = waiting.pop()
        title = file.relative_to(ROOT).as_posix()
        head = f"<h1>{title.replace('/', '/<wbr>')}</h1>"
        if file.is_dir():
            body = head + listing(app, file, shown, waiting)
        elif file.suffix == ".md":
            body = rendered(app, file, shown, waiting)
        else:
            body = head + coloured(file.read_text(encoding="utf-8"), file.name)
        yield name_of(file), {"title": title, "body": f'<div class="source">{body}</div>'}, "page.html"


def coloured(code: str, name: str) -> str:
    """A file of code as HTML, its lines numbered."""
    formatter = HtmlFormatter(linenos="inline", anchorlinenos=True, lineanchors="L")
    return highlight(code, get_lexer_for_filename(name), formatter)


def listing(app: Sphinx, folder: Path, shown: set[Path], waiting: list[Path]) -> str:
    """What is in a folder, with the first line of each file's docstring; the files are shown too."""
    lines = []
    for file in sorted(folder.rglob("*.py")):
        said = re.match(r'"""(.+?)("""|$)', file.read_text(encoding="utf-8"), re.MULTILINE)
        if said and file.name != "__init__.py":
            if file not in shown:
                shown.add(file)
                waiting.append(file)
            there = app.builder.get_relative_uri(name_of(folder), name_of(file))
            lines.append(
                f'<dt><a href="{there}">{file.relative_to(folder)}</a></dt><dd>{escape(said[1])}</dd>'
            )
    return f"<dl>{''.join(lines)}</dl>"


def rendered(app: Sphinx, file: Path, shown: set[Path], waiting: list[Path]) -> str:
    """A Markdown file outside of docs/ as HTML; the Markdown that it links to is shown too."""

    def link(found: re.Match[str]) -> str:
        path, _, anchor = found[1].partition("#")
        there = Path(os.path.normpath(file.parent / path))
        if DOCS in there.parents and there.suffix == ".md":
            page = there.relative_to(DOCS).with_suffix("").as_posix()
        elif there in shown or there.suffix == ".md":
            page = name_of(there)
            if there not in shown:
                shown.add(there)
                waiting.append(there)
        else:
            return 'class="elsewhere"'  # text alone
        return f'href="{app.builder.get_relative_uri(name_of(file), page)}{"#" + anchor if anchor else ""}"'

    markdown = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=4)
    html = markdown.render(file.read_text(encoding="utf-8"))
    html = html.replace("<code>", '<code class="literal">').replace("<table>", '<table class="docutils">')
    html = re.sub(
        r"<pre><code[^>]*>(.*?)</code></pre>", r'<div class="highlight"><pre>\1</pre></div>', html, flags=re.S
    )
    return re.sub(r'href="(?![a-z]+:|#)([^"]+)"', link, html)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the above."""
    app.connect("source-read", prepare)
    app.connect("doctree-read", link_files)
    app.connect("html-collect-pages", show_files)
    app.connect("autodoc-process-docstring", api.as_rst)
    app.connect("autodoc-process-signature", api.as_written)
    app.connect("autodoc-skip-member", api.left_out)
    return {"parallel_read_safe": False}

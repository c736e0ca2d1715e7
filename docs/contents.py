"""The contents of the site, from docs/index.md itself: its headings are the parts, its links the pages in order."""

import re
from typing import NamedTuple

HEADING = re.compile(r"^(?:## (.+)|\*\*(.+)\*\*)$")
LINK = re.compile(r"\[([^\]]+)\]\((\w[\w/]*)\.md\)")


class Part(NamedTuple):
    """Pages below one heading."""

    title: str
    pages: list[tuple[str, str]]  # title in the list, and name without .md


def contents(index: str) -> list[Part]:
    """The parts of an index in Markdown: each page once, where it is linked first; algorithms, which are many, last."""
    parts, seen = [Part("", [])], {"index"}
    for line in index.splitlines():
        if heading := HEADING.match(line):
            parts.append(Part(heading[1] or heading[2], []))
        for title, page in LINK.findall(line):
            if page not in seen:
                seen.add(page)
                parts[-1].pages.append((title, page))
    return sorted(filter(lambda part: part.pages, parts), key=about_algorithms)


def about_algorithms(part: Part) -> bool:
    """Whether a part's first page is that of an algorithm."""
    return part.pages[0][1].startswith("algorithms/")


def toctrees(index: str) -> str:
    """The contents as Sphinx's directives, which are shown beside each page and nowhere in it."""
    blocks = []
    for title, pages in contents(index):
        lines = [f"{shown} <{page}>" for shown, page in pages]
        blocks.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *lines, "```"]))
    return "\n\n".join(blocks)

"""The parts of the pages that are made from the code: `make docs-tables`, or `python docs/generate.py`.

Each stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` on its page. What is made from what:

- an algorithm's facts: its record;
- its settings: the fields of its Config, and the comments beside them;
- its metrics: the comments beside the entries of its dictionaries of metrics;
- its presets: `src/polyak/presets/NAME.toml`, and the scores in `benchmarks/scores/NAME.json`;
- its learning curve: `docs/algorithms/curves/NAME.svg`, whose description says how it came about;
- the lists of algorithms in README and index: their records and the first lines of their files;
- the tables of the Python interface: docstrings;
- the last column of the tables in slides.md: the lines `**Rows:** A1, A2; in part A3.` of all pages, and
  `reproductions/rows.toml`, which says what is there in part.
"""

import ast
import dataclasses
import importlib
import json
import re
import sys
import tomllib
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import api

from polyak import algorithms
from polyak.drivers.check import ASKED
from polyak.flags import comment_of, comments, comments_by_line
from polyak.runs.presets import DEFAULT

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SLIDES = DOCS / "slides.md"
NAMES = algorithms.names()
LECTURES = range(5)


def read(page: Path) -> str:
    """The text of a file."""
    return page.read_text(encoding="utf-8")


def page_of(name: str) -> Path:
    """The page of an algorithm."""
    return DOCS / "algorithms" / f"{name}.md"


def source_of(name: str) -> Path:
    """The file of an algorithm."""
    return ROOT / "src" / "polyak" / "algorithms" / f"{name}.py"


def table(head: list[str], cells: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def escaped(text: str) -> str:
    """A text that can stand in a cell."""
    return text.replace("|", "\\|")


# ---- algorithms


def family(name: str) -> str:
    """The word that algorithms are grouped by."""
    return algorithms.find(name).family


def by_family() -> dict[str, list[str]]:
    """The names of algorithms by their families, both in alphabetical order."""
    return {word: [name for name in NAMES if family(name) == word] for word in sorted(map(family, NAMES))}


def data_of(name: str) -> str:
    """What an algorithm learns from: OnPolicy is "on policy"."""
    kind = type(algorithms.find(name).Config().data).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()


def algorithms_table() -> str:
    """README's table, one family after the other."""
    cells = []
    for word, names in by_family().items():
        for name in names:
            source = f"[{name}](src/polyak/algorithms/{name}.py)"
            actions = ", ".join(algorithms.find(name).actions)
            page = f"[page](docs/algorithms/{name}.md)"
            cells.append([source, word, algorithms.title(name), actions, data_of(name), page])
    return table(["name", "family", "what", "actions", "data", "more"], cells)


def algorithms_list() -> str:
    """The index's list, by families."""
    parts = []
    for word, names in by_family().items():
        lines = [f"**{word.capitalize()}**\n\n"]
        for name in names:
            short, _, long = algorithms.title(name).rstrip(".").partition(": ")
            actions = " and ".join(algorithms.find(name).actions)
            what = f"{long}; {actions}" if long else actions
            lines.append(f"- [{short}](algorithms/{name}.md): {what} actions, {data_of(name)}\n")
        parts.append("".join(lines))
    return "\n".join(parts)


def facts_table(name: str) -> str:
    """What an algorithm's record says of it."""
    source = f"[`{name}.py`](../../src/polyak/algorithms/{name}.py)"
    actions = ", ".join(algorithms.find(name).actions)
    return table(["file", "family", "actions", "data"], [[source, family(name), actions, data_of(name)]])


def settings_table(name: str) -> str:
    """Every field of an algorithm's Config that can be set: default, and meaning from the comment."""
    algorithm = algorithms.find(name)
    cfg, hidden = (
        algorithm.Config(),
        {each for each, (_, may) in ASKED.items() if not may(algorithm)},
    )
    cells = []
    for prefix, record in (("", cfg), ("data.", cfg.data)):
        said, hints = comments(type(record)), typing.get_type_hints(type(record))
        for entry in dataclasses.fields(record):
            if prefix and entry.name in hidden:
                continue
            value = getattr(record, entry.name)
            if (
                prefix and entry.name == "episodes" and not value
            ):  # only what learns from episodes is given them
                continue
            default = type(value).__name__ if dataclasses.is_dataclass(value) else str(value)
            meaning = escaped(said.get(entry.name, ""))
            if typing.get_origin(hints[entry.name]) is typing.Literal:
                meaning += f": {' or '.join(f'`{choice}`' for choice in typing.get_args(hints[entry.name]))}"
            cells.append([f"`{prefix}{entry.name}`", f"`{default}`", meaning])
    return table(["name", "default", "meaning"], cells)


def metrics(name: str) -> dict[str, str]:
    """Each metric of an algorithm and its meaning: the dictionary entries of its file that have a comment."""
    source = read(source_of(name))
    beside, found = comments_by_line(source), {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and (
                    said := comment_of(key, beside) or comment_of(value, beside)
                ):
                    found[key.value] = said
    return found


def metrics_table(name: str) -> str:
    """What an algorithm's updates report."""
    cells = [[f"`update/{metric}`", escaped(meaning)] for metric, meaning in metrics(name).items()]
    return table(["name", "meaning"], cells)


def presets_table(name: str) -> str:
    """The tuned settings of an algorithm: where they come from, and what `make score` measured with them."""
    path = ROOT / "src" / "polyak" / "presets" / f"{name}.toml"
    presets = tomllib.loads(read(path)) if path.exists() else {}
    scores = benchmark("scores")
    found, unit = scores.read(name), "updates" if algorithms.find(name).Config().data.plans else "steps"
    cells = [
        [
            "any other" if env == DEFAULT else f"`{env}`",
            f"{tuned[unit]:,}",
            tuned["source"],
            scores.describe(found.get(env), env, tuned[unit]),
        ]
        for env, tuned in presets.items()
    ]
    return table(["environment", unit, "where the values come from", "measured here"], cells)


def picture_of(name: str) -> Path:
    """The learning curve of an algorithm."""
    return DOCS / "algorithms" / "curves" / f"{name}.svg"


def curve(name: str) -> str:
    """The learning curve of an algorithm, and what its picture says of itself; how to draw it where there is none."""
    path = picture_of(name)
    if not path.exists():
        return f"Not drawn yet: `python -m reproductions.curves {name}`.\n"
    picture = ElementTree.parse(path).getroot()
    title, said = (picture.findtext(f"{{*}}{part}", "") for part in ("title", "desc"))
    return f"![{title}](curves/{path.name})\n\n{said}\n"


# ---- benchmarks


def benchmark(name: str) -> typing.Any:
    """A program of benchmarks/ as a module."""
    file = ROOT / "benchmarks" / name
    sys.path.insert(0, str(file.parent))
    try:
        return importlib.import_module(file.name)
    finally:
        sys.path.remove(str(file.parent))


def bench_table() -> str:
    """What the last `make bench` found, which its results keep."""
    results = json.loads(read(ROOT / "benchmarks" / "speed" / "results" / "cpu.json"))
    return benchmark("speed/bench").report(results)


# ---- slides


def rows_of(page: Path) -> tuple[list[str], list[str]]:
    """The rows of the lectures that a page says are there: in full, and in part."""
    full, part = [], []
    for said in re.findall(r"^\*\*Rows:\*\* ((?:.+\n)+)", read(page), re.MULTILINE):
        for kind, text in zip((full, part), said.split("in part"), strict=False):
            kind += re.findall(r"\b[A-H]\d+\b", text)
    return full, part


def in_part() -> set[str]:
    """The rows whose check says what is missing."""
    rows = tomllib.loads(read(ROOT / "reproductions" / "rows.toml"))
    return {name for name, row in rows.items() if row.get("part")}


def where(row: str) -> str:
    """Links to what serves a row of the lectures, or "not yet"; whether all of it is there is what its check says."""
    pages = [page for page in sorted(DOCS.rglob("*.md")) if page != SLIDES]
    full, part = ([page for page in pages if row in rows_of(page)[kind]] for kind in (0, 1))
    links = ", ".join(map(links_to, full + part))
    return f"in part: {links}" if links and row in in_part() else links or "not yet"


def links_to(page: Path) -> str:
    """Links from slides.md to a page, and to the file of the algorithm that it is about."""
    path = page.relative_to(DOCS).as_posix()
    if page.parent.name != "algorithms":
        return f"[{read(page).splitlines()[0].lstrip('# ')}]({path})"
    return f"[{page.stem}.py](../src/polyak/algorithms/{page.stem}.py) ([page]({path}))"


def lecture_table(number: int) -> str:
    """The table of a lecture as it stands, with its last column made anew."""
    lines = between(f"lecture {number}").findall(read(SLIDES))[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]
    return table(["slide", "method", "row", "where"], [[*line[:3], where(line[2])] for line in cells])


# ---- the Python interface


def api_table(part: str) -> str:
    """The names of a part of the Python interface, from their docstrings."""
    return table(api.head(part), [[escaped(cell) for cell in line] for line in api.cells(part)])


# ---- pages


TABLES: list[tuple[Path, str, Callable[[], str]]] = [
    (ROOT / "README.md", "algorithms", algorithms_table),
    (DOCS / "index.md", "algorithms by family", algorithms_list),
    (DOCS / "performance.md", "bench", bench_table),
    *((page_of(name), f"facts {name}", partial(facts_table, name)) for name in NAMES),
    *((page_of(name), f"curve {name}", partial(curve, name)) for name in NAMES),
    *((page_of(name), f"settings {name}", partial(settings_table, name)) for name in NAMES),
    *((page_of(name), f"presets {name}", partial(presets_table, name)) for name in NAMES),
    *((page_of(name), f"metrics {name}", partial(metrics_table, name)) for name in NAMES),
    *((DOCS / "api.md", f"api {part}", partial(api_table, part)) for part in api.NAMES),
    *((DOCS / "api_parts.md", f"api {part}", partial(api_table, part)) for part in api.ROOMS),
    *((SLIDES, f"lecture {number}", partial(lecture_table, number)) for number in LECTURES),
]


def between(name: str) -> re.Pattern[str]:
    """Matches what stands between the two marks of a name."""
    return re.compile(rf"(?<=<!-- {name}: begin -->\n)(.*?)(?=<!-- {name}: end -->)", re.DOTALL)


def write() -> None:
    """Put what the code says into the pages."""
    for page, name, make in TABLES:
        text, mark = read(page), between(name)
        if len(mark.findall(text)) != 1:
            path = page.relative_to(ROOT)
            sys.exit(f"{path} needs <!-- {name}: begin --> and <!-- {name}: end -->, once")
        made = make()
        page.write_text(mark.sub(lambda _: made, text), encoding="utf-8")  # noqa: B023


if __name__ == "__main__":
    write()

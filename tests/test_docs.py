"""The documentation says what is so: its Python runs, its commands are accepted, its tables are the code's.

Tables between `<!-- NAME: begin -->` and `<!-- NAME: end -->` are made from the code:
`python tests/test_docs.py` writes them.
"""

import dataclasses
import doctest
import importlib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

import polyak
from polyak import algorithms, cli, flags
from polyak.drivers.in_graph import metric_shapes
from polyak.drivers.learn import row_shape
from polyak.envs.find import find as find_env
from polyak.interface import Box, Discrete, OnPolicy, Spec
from polyak.runs.plan import default_config
from polyak.runs.values import amend

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = algorithms.names()
SHORT = 1_100  # steps of a training in an example, where the page does not need more
FULL = {"writing_an_algorithm.md"}  # its result is a claim
SPACES = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
each_algorithm = pytest.mark.parametrize("name", NAMES)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


def page_of(name: str) -> Path:
    return ROOT / "docs" / "algorithms" / f"{name}.md"


def section(page: Path, title: str) -> str:
    return re.split(r"^## ", read(page).partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def with_examples() -> list[str]:
    sources = [path for path in (ROOT / "src").rglob("*.py") if ">>> " in read(path)]
    return sorted(".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in sources)


@pytest.mark.parametrize("module", with_examples())
def test_the_examples_in_docstrings_give_what_they_say(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed


def with_python() -> list[Path]:
    return [page for page in PAGES if blocks(page, "python")]


# ---- what is made from the code


def table(head: list[str], cells: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def algorithms_table() -> str:
    cells = []
    for name in NAMES:
        record = algorithms.find(name)
        data = "on policy" if isinstance(record.Config().data, OnPolicy) else "replay"
        source = f"[{name}](src/polyak/algorithms/{name}.py)"
        page = f"[page](docs/algorithms/{name}.md)"
        cells.append([source, algorithms.title(name), ", ".join(record.actions), data, page])
    return table(["name", "what", "actions", "data", "more"], cells)


def benchmark(name: str) -> Any:
    """A program of benchmarks/ as a module."""
    file = ROOT / "benchmarks" / name
    sys.path.insert(0, str(file.parent))
    try:
        return importlib.import_module(file.name)
    finally:
        sys.path.remove(str(file.parent))


def presets_table(name: str) -> str:
    """Presets, and what `make score` measured with them."""
    path = ROOT / "src" / "polyak" / "presets" / f"{name}.toml"
    presets = tomllib.loads(read(path)) if path.exists() else {}
    scores = benchmark("scores")
    found = scores.read(name)
    cells = [
        [
            f"`{env}`",
            f"{tuned['steps']:,}",
            tuned["source"],
            scores.describe(found.get(env), env, tuned["steps"]),
        ]
        for env, tuned in presets.items()
    ]
    return table(["environment", "steps", "where the values come from", "measured here"], cells)


def bench_table() -> str:
    """What the last `make bench` found, which its results keep."""
    bench = benchmark("speed/bench")
    return bench.report(json.loads(read(ROOT / "benchmarks" / "speed" / "results" / "cpu.json")))


GENERATED: list[tuple[Path, str, Callable[[], str]]] = [
    (ROOT / "README.md", "algorithms", algorithms_table),
    (ROOT / "docs" / "performance.md", "bench", bench_table),
    *((page_of(name), f"presets {name}", lambda name=name: presets_table(name)) for name in NAMES),
]


def between(name: str) -> re.Pattern:
    return re.compile(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", re.DOTALL)


def write() -> None:
    """Put what the code says into the pages."""
    for page, name, make in GENERATED:
        begin, _, rest = read(page).partition(f"<!-- {name}: begin -->\n")
        end = rest.partition(f"<!-- {name}: end -->")[1:]
        page.write_text("".join((begin, f"<!-- {name}: begin -->\n", make(), *end)), encoding="utf-8")


@pytest.mark.parametrize(("page", "name", "make"), GENERATED, ids=[name for _, name, _ in GENERATED])
def test_a_generated_table_is_what_the_code_says(page, name, make):
    found = between(name).findall(read(page))
    assert len(found) == 1, f"{page.name} needs <!-- {name}: begin --> and <!-- {name}: end --> once"
    assert found[0] == make(), f"write it with: {sys.executable} tests/test_docs.py"


# ---- the pages of algorithms


@each_algorithm
def test_the_settings_of_a_page_are_those_of_the_config(name):
    cfg = algorithms.find(name).Config()
    found = re.findall(r"^\| `([a-z_.]+)` \| `(.+?)` \|", section(page_of(name), "Settings"), re.MULTILINE)
    said = dict(found)
    assert len(found) == len(said)
    usual = type(cfg.data)()
    needed = {f.name for f in dataclasses.fields(cfg)} - {"data"}
    values = {f.name: getattr(cfg.data, f.name) for f in dataclasses.fields(cfg.data)}
    needed |= {f"data.{key}" for key, value in values.items() if value != getattr(usual, key)}
    assert needed <= said.keys()
    assert said == {key: str(reached(cfg, key)) for key in said}


def reached(thing: Any, path: str) -> Any:
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


@each_algorithm
def test_every_name_beside_the_pseudocode_is_in_the_file(name):
    source = inspect.getsource(sys.modules[algorithms.find(name).init.__module__])
    cfg = algorithms.find(name).Config()
    beside = " ".join(cells[-1] for cells in rows(section(page_of(name), "Pseudocode")))
    words = re.findall(r"`([A-Za-z_.]+)`", beside)
    assert len(words) > 5
    for word in words:
        if word.startswith("cfg."):
            reached(cfg, word.removeprefix("cfg."))
        else:
            assert re.search(rf"\b{word.rpartition('.')[2]}\b", source), f"{name}.py has no {word}"


@each_algorithm
def test_the_metrics_of_a_page_are_those_of_the_update(name):
    algorithm = algorithms.find(name)
    cfg, spec = algorithm.Config(), Spec(Box((3,)), SPACES[algorithm.actions[-1]], num_envs=2)
    state = jax.eval_shape(lambda key: algorithm.init(cfg, spec, key), jax.random.key(0))
    shapes = metric_shapes(algorithm, cfg, spec, state, row_shape(algorithm, cfg, spec, state))
    said = {cells[0].strip("`") for cells in rows(section(page_of(name), "What it logs"))}
    assert said == {f"update/{metric}" for metric in shapes}


# ---- links


@each_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_leads_to_every_page():
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)", read(index))}
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= linked


# ---- commands


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted({line.split("  #")[0].strip() for line in lines if line.startswith("polyak ")})


@pytest.mark.parametrize("line", commands())
def test_every_command_is_accepted(line, monkeypatch, capsys):
    given = []

    def take(said: flags.Said, options: Any) -> int:
        given.append(said)
        return 0

    taking = {name: command._replace(call=take) for name, command in cli.COMMANDS.items()}
    monkeypatch.setattr(cli, "COMMANDS", taking)
    assert cli.main(line.split()[1:]) == 0, capsys.readouterr().err
    said = given[0] if given else flags.Said()
    if line.startswith("polyak train") and given and ":" not in said.words[0]:
        amend(default_config(said.words[0], {}), said.groups.get("config", {}))
        if said.words[1].partition(":")[0] in ("jax", "gymnax", said.words[1]):
            find_env(said.words[1], flags.literals(said.groups.get("env", {})))


def test_there_are_commands_and_the_readme_lists_them_all():
    assert len(commands()) > 15
    said = {word for cells in rows(section(ROOT / "README.md", "Commands")) for word in cells[0].split()[1:2]}
    assert {word.strip("`") for word in said} == set(cli.COMMANDS)


def test_every_make_target_of_the_pages_exists():
    targets = re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE)
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    asked = {line.split()[1] for line in lines if line.startswith("make ")}
    assert asked
    assert asked <= set(targets)


# ---- Python


@pytest.fixture
def _hardly_optimised():
    """For what is compiled meanwhile."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.usefixtures("_hardly_optimised")
@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, capsys):
    """All of a page's blocks, one after the other; one that begins with `# FILE.py` is that file."""
    shorten(monkeypatch, 10**9 if page.name in FULL else SHORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    place: dict[str, Any] = {"__name__": "__main__"}
    promised = []
    for code in blocks(page, "python"):
        file = re.match(r"# (\w+)\.py\n", code)
        if file:
            Path(f"{file[1]}.py").write_text(code, encoding="utf-8")
            assert file[1] not in modules
        else:
            promised += re.findall(r"^print\(.*\)  # ([^:\n]+)", code, re.MULTILINE)
            exec(compile(code, str(page), "exec"), place)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in promised if line not in printed] == []


def shorten(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let the examples train for at most so many steps; they are what a user types all the same."""
    train, learn = polyak.train, polyak.Agent.learn

    def short_train(*args: Any, steps: int | None = None, **said: Any) -> Any:
        steps = min(steps or SHORT, most)
        return train(*args, steps=steps, **{"eval_every": steps, "eval_episodes": 2, **said})

    def short_learn(self: Any, total_timesteps: int, **said: Any) -> Any:
        steps = min(total_timesteps, most)
        self.settings = dataclasses.replace(self.settings, eval_every=steps, eval_episodes=2)
        return learn(self, steps, **said)

    monkeypatch.setattr(polyak, "train", short_train)
    monkeypatch.setattr(polyak.Agent, "learn", short_learn)


if __name__ == "__main__":
    write()

"""The documentation says what is so: its Python runs, its commands are accepted, its tables are the code's.

Tables between `<!-- NAME: begin -->` and `<!-- NAME: end -->` are made by docs/generate.py.
"""

import dataclasses
import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from cases import CASE

import polyak
from polyak import algorithms, cli, flags
from polyak.drivers.act import row_shape
from polyak.drivers.learn import empty_metrics
from polyak.envs.find import find as find_env
from polyak.runs.plan import default_config
from polyak.runs.values import amend

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import generate
from generate import page_of, read

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = algorithms.names()
SHORT = 1_100  # steps of a training in an example, where the page does not need more
FULL = {"writing_an_algorithm.md"}  # its result is a claim

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
each_algorithm = pytest.mark.parametrize("name", NAMES)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize(
    ("page", "name", "make"), generate.TABLES, ids=[name for _, name, _ in generate.TABLES]
)
def test_a_generated_table_is_what_the_code_says(page, name, make):
    found = generate.between(name).findall(read(page))
    assert len(found) == 1, f"{page.name} needs <!-- {name}: begin --> and <!-- {name}: end --> once"
    assert found[0] == make(), "write it with: make docs-tables"


def test_every_algorithm_has_its_tables():
    for name in NAMES:
        marks = set(re.findall(r"<!-- (\w+) \w+: begin -->", read(page_of(name))))
        assert marks == {"facts", "settings", "presets", "metrics"}


def test_a_table_of_settings_shows_each_field_once_with_its_default_and_comment():
    cells = rows(generate.settings_table("ppo"))
    names = [cell[0] for cell in cells]
    assert len(names) == len(set(names))
    assert {"`gamma`", "`data.steps`"} <= set(names)
    assert not any("episodes" in name for name in names)  # not served yet
    assert [cell for cell in cells if cell[0] == "`minibatch`"] == [
        ["`minibatch`", "`64`", flags.comments(algorithms.find("ppo").Config)["minibatch"]]
    ]
    assert all(meaning for _, _, meaning in cells)


@each_algorithm
def test_the_metrics_that_are_explained_are_those_of_the_update(name):
    algorithm = algorithms.find(name)
    cfg, spec = algorithm.Config(), CASE[name].spec(algorithm.actions[-1], num_envs=2, time_limit=20)
    state = jax.eval_shape(lambda key: algorithm.init(cfg, spec, key), jax.random.key(0))
    shapes = empty_metrics(algorithm, cfg, spec, state, row_shape(algorithm, cfg, spec, state))
    assert set(generate.metrics(name)) == set(shapes), (
        "each needs a comment beside its entry, and nothing else"
    )


# ---- the pages of algorithms


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


# ---- the slides


def lectures() -> dict[int, list[list[str]]]:
    """The lines of each lecture's table: slide, method, row, where."""
    text = read(generate.SLIDES)
    return {n: rows(generate.between(f"lecture {n}").findall(text)[0]) for n in generate.LECTURES}


def test_the_slides_have_every_row_of_the_lectures_and_none_twice_in_one():
    tables = lectures()
    assert [len(cells) for cells in tables.values()] == [17, 37, 21, 15, 24]
    for cells in tables.values():
        assert all(len(line) == 4 and all(line) for line in cells)
        ids = [line[2] for line in cells]
        assert len(ids) == len(set(ids))
    last = {"A": 12, "B": 8, "C": 16, "D": 15, "E": 6, "F": 12, "G": 18, "H": 6}
    every = {f"{letter}{n}" for letter, count in last.items() for n in range(1, count + 1)}
    assert len(every) == 93
    assert {line[2] for cells in tables.values() for line in cells} == every


def test_no_page_claims_a_row_that_the_lectures_do_not_have():
    ids = {line[2] for cells in lectures().values() for line in cells}
    for page in PAGES:
        full, part = generate.rows_of(page)
        assert {*full, *part} <= ids, page.name
        assert len({*full, *part}) == len(full) + len(part), page.name


@each_algorithm
def test_an_algorithm_is_on_the_slides_of_the_lectures_that_its_docstring_names(name):
    there = {
        number
        for number, cells in lectures().items()
        if any(f"algorithms/{name}.md" in line[3] for line in cells)
    }
    said = re.search(
        r"\bLectures? ([\d, and]+)\.", sys.modules[algorithms.find(name).init.__module__].__doc__
    )
    named = {int(number) for number in re.findall(r"\d", said[1])}
    assert named
    assert named <= there


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


@pytest.mark.slow
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

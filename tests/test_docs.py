"""The documentation says what is so: its Python runs, its commands are accepted, its tables are the code's.

Tables between `<!-- NAME: begin -->` and `<!-- NAME: end -->` are made by docs/generate.py.
"""

import dataclasses
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jax
import pytest
from cases import CASE

import polyak
import polyak.interface
from polyak import algorithms, cli, errors, flags, pytree
from polyak.drivers.act import row_shape
from polyak.drivers.learn import empty_metrics
from polyak.envs.find import find as find_env
from polyak.interface import Transition
from polyak.runs.presets import default_config
from polyak.runs.values import amend

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import api
import choosing
import generate
from contents import contents, toctrees
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
        assert marks == {"facts", "curve", "settings", "presets", "metrics"}


UNDRAWN = 2  # pages whose curve nobody has drawn yet, which may become fewer and never more


def test_few_pages_wait_for_their_learning_curve_and_those_say_so():
    waiting = [name for name in NAMES if not generate.picture_of(name).exists()]
    assert len(waiting) <= UNDRAWN, f"draw them with: python -m reproductions.curves {' '.join(waiting)}"
    for name in waiting:
        assert f"`python -m reproductions.curves {name}`" in section(page_of(name), "Learning curve")


@pytest.mark.parametrize("name", [name for name in NAMES if generate.picture_of(name).exists()])
def test_the_page_of_an_algorithm_shows_its_learning_curve(name):
    path = generate.picture_of(name)
    picture = ElementTree.fromstring(text := read(path))
    assert len(text) < 15_000
    assert "prefers-color-scheme: dark" in text
    points = [each for each in picture.iter() if each.get("class") == "iqm"]
    assert len(points) == 1
    assert len(points[0].get("points", "").split()) >= 5
    said = picture.findtext("{*}desc", "")
    assert said.startswith(f"`python -m reproductions.curves {name}` ")
    assert re.search(r" at first, .+ at the end; \d{4}-\d\d-\d\d, [0-9a-f]{7}\+?\.", said)
    shown = section(page_of(name), "Learning curve")
    assert f"](curves/{name}.svg)" in shown
    assert said in shown


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


# ---- the Python interface


def test_the_page_of_the_python_interface_has_every_public_name():
    assert {f"polyak.{name}" for name in polyak.__all__ if name[0].isalpha()} == set(api.NAMES["polyak"])
    interface = {f"polyak.interface.{name}" for name in api.members(polyak.interface)}
    assert set(api.NAMES["interface"]) <= interface | set(map("polyak.pytree.{}".format, api.members(pytree)))
    for part in {**api.NAMES, **api.ROOMS}:
        assert all(line[1] for line in api.cells(part)), f"what is in {part} without a docstring?"


def test_a_docstring_of_the_house_becomes_a_list_that_sphinx_reads():
    lines = inspect.cleandoc("""Sum of x_ and *y*, as `train` has it.

    x, y   [T, N]  numbers
           of two lines
    Raises nothing.

    >>> f(**{"x": 1})
    1
    """).splitlines()
    assert api.converted(lines) == [
        r"Sum of x\_ and \*y\*, as ``train`` has it.",
        "",
        "``x, y``",
        "    [T, N]  numbers",
        "    of two lines",
        "",
        "Raises nothing.",
        "",
        '>>> f(**{"x": 1})',
        "1",
    ]


def test_the_fields_of_a_record_are_listed_with_the_comments_beside_them():
    assert "``next_obs``" not in api.own_fields(Transition)  # its comment is in the docstring
    assert api.own_fields(Transition)[:2] == ["``terminated``", "    the world ended: there is no future"]
    assert api.own_fields(polyak.Run) == []
    signature, _ = api.as_written(None, "class", "", Transition, None, "(...)", "")
    assert signature.startswith("(obs: Tree, action: Array, ")
    assert signature.endswith(", extras: Tree = ())")


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


@pytest.mark.parametrize("number", generate.LECTURES)
def test_the_page_of_a_lecture_walks_by_every_row_of_it(number):
    page = read(ROOT / "docs" / "lectures" / f"{number}.md")
    named = set(re.findall(r"\[([A-H]\d+)\]\(\.\./coverage\.md#([a-h])-", page))
    assert all(row[0].lower() == chapter for row, chapter in named)
    assert {line[2] for line in lectures()[number]} <= {row for row, _ in named}


def test_no_page_claims_a_row_that_the_lectures_do_not_have():
    ids = {line[2] for cells in lectures().values() for line in cells}
    for page in PAGES:
        full, part = generate.rows_of(page)
        assert {*full, *part} <= ids, page.name
        assert len({*full, *part}) == len(full) + len(part), page.name


def test_a_page_claims_no_row_in_full_of_which_its_check_says_that_something_is_missing():
    claimed = {row: page.name for page in PAGES for row in generate.rows_of(page)[0]}
    assert len(claimed) > 60
    assert {row: page for row, page in claimed.items() if row in generate.in_part()} == {}


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
    lines += [line for name in NAMES for line in re.findall(r"`(polyak [^`]+)`", generate.curve(name))]
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


# ---- the site


def test_the_contents_of_the_site_name_every_page_once():
    index = read(ROOT / "docs" / "index.md")
    listed = [page for part in contents(index) for _, page in part.pages]
    pages = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == pages - {"index"}
    assert all(page in toctrees(index) for page in listed)


def test_the_contents_are_in_the_order_of_the_index_and_algorithms_come_last():
    index = "# x\n## A\n**F**\n- [T](algorithms/t.md), [S](slides.md)\n## B\n- [P](p.md) [P](p.md#q) [I](index.md)\n"
    assert contents(index) == [
        ("B", [("P", "p")]),
        ("F", [("T", "algorithms/t"), ("S", "slides")]),
    ]
    assert toctrees(index).startswith("```{toctree}\n:hidden:\n:caption: B\n\nP <p>\n```\n\n")


def test_the_picture_of_the_choice_is_what_its_program_draws_and_its_names_are_on_the_page():
    assert read(choosing.PICTURE) == choosing.draw()
    words = read(ROOT / "docs" / "choosing.md").partition("## ")[0]
    shown = (
        " ".join(text for *_, names, more in choosing.QUESTIONS for text in (names, more))
        + choosing.OTHERWISE[0]
    )
    titles = {algorithms.title(name).rstrip(".").partition(": ")[0] for name in NAMES} | {"Q-learning"}
    named = {title for title in titles if re.search(rf"(?<![\w-]){re.escape(title)}(?![\w-])", shown)}
    assert len(named) > 12
    assert [title for title in named if f"[{title}](" not in words] == []


def test_every_name_of_the_glossary_is_in_the_code():
    source = "\n".join(read(path) for path in (ROOT / "src").rglob("*.py"))
    cells = [line for line in rows(read(ROOT / "docs" / "glossary.md")) if len(line) == 3]
    words = {
        word.rpartition(".")[2]
        for line in cells
        for code in re.findall(r"`([^`]+)`", line[2])
        for word in re.findall(r"[A-Za-z_][\w.]*", re.sub(r'"[^"]*"', "", code))
    }
    assert len(words) > 60
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", source)] == []


def setting(word: str) -> str:
    """A setting's name without what flags have around it."""
    return word.split()[0].split("=")[0].removeprefix("--").removeprefix("config.").replace("-", "_")


@pytest.mark.parametrize("page", ["coming_from_stable_baselines3.md", "coming_from_cleanrl.md"])
def test_a_word_of_another_library_is_answered_with_what_the_page_says(page):
    asked = 0
    for theirs, ours, *_ in rows(read(ROOT / "docs" / page)):
        names = {setting(word) for word in re.findall(r"`([^`]+)`", ours)}
        for word in map(setting, re.findall(r"`([a-z_-]+)`", theirs)):
            if (said := errors.also_called().get(word)) and word not in names:
                asked += 1
                assert names & set(said), f"{word} is answered with {said}, and the page says {names}"
    assert asked > 12


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    words = ["-q", "-E", "-W", "--keep-going", "-d", tmp_path / "doctrees", ROOT / "docs", tmp_path / "site"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'href="../source/src/polyak/algorithms/td3.html"' in read(
        tmp_path / "site" / "algorithms" / "td3.html"
    )
    interface = read(tmp_path / "site" / "api.html")
    assert all(
        f'id="{name}"' in interface
        for name in ("polyak.train", "polyak.Run.evaluate", "polyak.interface.Spec")
    )
    assert 'id="polyak.parts.returns.gae"' in read(tmp_path / "site" / "api_parts.html")
    assert 'id="L-1"' in read(tmp_path / "site" / "source" / "src" / "polyak" / "algorithms" / "td3.html")

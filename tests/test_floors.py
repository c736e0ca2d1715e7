"""The floors: a file imports only from lower ones, and what each floor may never touch."""

import ast
import functools
from pathlib import Path

import pytest
from cases import FEW
from house import FLOOR, GUIDES, RUNS, TOP, House, floor

import polyak
from polyak.algorithms import names

ROOT = Path(polyak.__file__).parent
HOUSE = House(ROOT)
FILES = HOUSE.paths
READING = 670  # lines of code to read to understand an algorithm and how it learns, networks of its own aside

name, place, reading = HOUSE.title, HOUSE.place, functools.cache(HOUSE.reading)


def imported(path: Path) -> set[str]:
    """Every module that a file names, anywhere in it: `from a import b` is a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def calls_and_attributes(path: Path) -> set[str]:
    """Dotted names that occur in a file, as `jax.devices`, and the names that it calls."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute | ast.Name):
            found.add(ast.unparse(node))
    return found


def inside(*folders: str) -> list[Path]:
    return [path for path in FILES if place(path) in folders]


def reaches(modules: set[str], *wanted: str) -> set[str]:
    """Those of `modules` that are one of `wanted` or below it."""
    return {m for m in modules if any(m == w or m.startswith(w + ".") for w in wanted)}


def test_there_is_something_to_test():
    assert {"parts/replay/ring.py", "algorithms/td3.py", "interface.py", "drivers/learn.py"} <= set(
        map(name, FILES)
    )
    assert imported(ROOT / "parts/replay/draw.py") >= {"jax", "jax.numpy", "polyak.interface.Array"}
    assert "jax.random.split" in calls_and_attributes(ROOT / "parts/replay/draw.py")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_imports_only_from_lower_floors(path):
    assert place(path) in FLOOR or path.parent == ROOT, f"{place(path)} has no floor"
    own = floor(place(path))
    for module in reaches(imported(path), "polyak"):
        target = module.split(".")[1] if "." in module else ""
        if not target or not ((ROOT / target).is_dir() or (ROOT / f"{target}.py").is_file()):
            continue  # polyak itself, or a name that it exports
        same = target == place(path) or own in (0, TOP)
        assert floor(target) < own or same, f"{name(path)} (floor {own}) imports {module}"


@pytest.mark.parametrize("path", inside("parts", "algorithms"), ids=name)
def test_parts_and_algorithms_know_no_world_no_clock_and_no_device(path):
    modules = imported(path)
    above = [f"polyak.{floor}" for floor in ("envs", "drivers", "runs", "presets", "lab", "cli")]
    assert not reaches(modules, *above)
    if path.name != "__init__.py":  # the folder's own finds a user's module
        assert not reaches(modules, "os", "sys")
    assert not reaches(modules, "time", "datetime", "random", "numpy.random", "logging")
    used = calls_and_attributes(path)
    assert not used & {"print", "open", "input", "global"} or path.name == "__init__.py"
    for device in (
        "jax.devices",
        "jax.local_devices",
        "jax.device_put",
        "jax.default_device",
        "jax.device_count",
    ):
        assert device not in used | modules
    assert not reaches(used, "np.random", "numpy.random")
    for axis_wise in ("jax.lax.pmean", "jax.lax.psum", "lax.pmean", "jax.pmap"):
        assert axis_wise not in used


@pytest.mark.parametrize("path", inside("parts", "algorithms"), ids=name)
def test_nothing_below_the_drivers_is_global_or_a_mutable_default(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Global | ast.Nonlocal)
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            assert not any(isinstance(default, ast.List | ast.Dict | ast.Set) for default in defaults)


@pytest.mark.parametrize("algorithm", names())
def test_no_algorithm_imports_an_algorithm(algorithm):
    assert not reaches(imported(ROOT / f"algorithms/{algorithm}.py"), "polyak.algorithms")


@pytest.mark.parametrize("algorithm", names())
def test_an_algorithm_fits_on_a_few_screens(algorithm):
    lines = (ROOT / f"algorithms/{algorithm}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 220


def test_the_interface_imports_neither_jax_nor_numpy():
    assert not reaches(
        imported(ROOT / "interface.py"), "jax", "jaxlib", "numpy", "optax", "gymnasium", "polyak"
    )


def test_the_list_of_algorithms_imports_no_jax_where_a_command_line_reads_it():
    tree = ast.parse((ROOT / "algorithms/__init__.py").read_text(encoding="utf-8"))
    top = {ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert not any("jax" in line or "numpy" in line for line in top)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_can_run_code_from_a_file_or_opens_ray_elsewhere(path):
    modules = imported(path)
    assert not reaches(modules, "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
    assert not {"eval", "exec"} & called(path)
    assert "np.load" not in calls_and_attributes(path)
    if name(path) not in ("drivers/cluster.py", "drivers/distributed.py"):
        assert not reaches(modules, "ray")


LAPACK = {
    "cholesky",
    "det",
    "eig",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
}


@pytest.mark.parametrize("path", inside("parts", "algorithms", "envs", "wrappers", "drivers"), ids=name)
def test_only_one_file_calls_lapack_from_a_compiled_program(path):
    """Which is never given a batch there: seeds side by side would wait for each other for ever."""
    heads = ("jnp.linalg.", "jax.numpy.linalg.", "jax.scipy.linalg.", "jsp.linalg.", "jax.lax.linalg.")
    calls = {f"{head}{each}" for head in heads for each in LAPACK} & calls_and_attributes(path)
    assert not calls or name(path) == "parts/eigen.py"


def called(path: Path) -> set[str]:
    """Plain names that are called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {node.func.id for node in calls if isinstance(node.func, ast.Name)}


def test_files_use_one_another_without_circles():
    assert [[name(path) for path in circle] for circle in HOUSE.circles()] == []


@pytest.mark.parametrize("algorithm", names())
def test_an_algorithm_is_understood_by_reading_a_few_hundred_lines(algorithm):
    lines = reading(algorithm)
    assert {ROOT / f"algorithms/{algorithm}.py", ROOT / "drivers/learn.py", ROOT / "interface.py"} <= set(
        lines
    )
    others = {path for other in names() if other != algorithm for path in reading(other)}
    own = {path for path in lines if path.parent.name == "networks"} - others
    assert sum(code for path, (code, _) in lines.items() if path not in own) <= READING


@pytest.mark.parametrize("algorithm", names())
def test_an_algorithm_has_its_file_its_test_its_page_and_a_row_of_cases(algorithm):
    """And nothing else knows of it, but for guides, whole runs, and the few that tests and pages show things with."""
    named = HOUSE.mentions(algorithm)
    assert HOUSE.own(algorithm) <= set(HOUSE.texts)
    assert "tests/cases.py" in named
    if algorithm not in FEW:
        assert named - HOUSE.own(algorithm) - GUIDES - RUNS == {"tests/cases.py"}


def test_only_cases_is_a_table_of_all_algorithms():
    assert HOUSE.tables() == {"tests/cases.py"}


# ---- the figures themselves, of a small house


@pytest.fixture
def small(tmp_path):
    """A house of which everything is known; two files go round in a circle."""
    root = tmp_path / "src" / "polyak"
    written = {
        "interface.py": '"""Doc."""\n\n\ndef used():\n    """Doc."""\n    # why\n    return {\n        1: 2,\n    }\n',
        "parts/__init__.py": "from polyak.parts.one import first\n",
        "parts/one.py": "import math\nfrom polyak.parts import two\ndef first(x): return two.second(x)\nspare = 1\n",
        "parts/two.py": "def second(x):\n    from polyak.interface import used\n    return used\n",
        "parts/round.py": "from polyak.parts import turn\n",
        "parts/turn.py": "def f():\n    import polyak.parts.round as r\n",
        "algorithms/new.py": "from polyak.parts import first\n\nnew = first(1)\n",
        "algorithms/sum.py": "plus = 1  # unlike new\n",
        "drivers/learn.py": "def learn():\n    return 1\n\n\ndef more(): pass\n",
    }
    for path, text in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path in ("tests/test_new.py", "docs/algorithms/new.md", "tests/cases.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("new, sum")
    (tmp_path / "README.md").write_text("renewed <!-- list: begin -->\nnew\n<!-- list: end -->\n")
    return House(root)


def test_definitions_are_followed_through_modules_packages_and_functions(small):
    lines = {small.title(path): counts for path, counts in small.reading("new").items()}
    assert lines == {
        "algorithms/new.py": (1, 1),
        "drivers/learn.py": (2, 0),
        "interface.py": (4, 0),
        "parts/one.py": (1, 2),
        "parts/two.py": (3, 0),
    }


def test_of_a_table_of_choices_only_what_somebody_names_is_read(small):
    (small.root / "parts/two.py").write_text(
        'def plain(): pass\n\n\ndef other(): pass\n\n\nKINDS = {\n    "plain": plain,\n    "other": other,\n}\n\n\n'
        "def second(x):\n    return KINDS[x]\n"
    )

    def lines(text):
        (small.root / "algorithms/new.py").write_text("from polyak.parts import first\n" + text)
        return House(small.root).reading("new")[small.root / "parts/two.py"][0]

    table = 4 + 2  # with `second`
    assert lines("new = first(1)\n") == table
    assert lines("new = first('plain')\n") == table + 1
    assert lines("def new(kind='plain', more=dict(kind='other')): return first(kind)\n") == table + 2
    assert lines("class New:\n    kind: str = 'other'\n    new = first\n") == table + 1


def test_circles_and_imports_by_floor_are_found(small):
    assert [[small.title(path) for path in circle] for circle in small.circles()] == [
        ["parts/round.py", "parts/turn.py"]
    ]
    files, imports = small.by_floor()
    assert files == {0: 1, 1: 5, 2: 2, 3: 1}
    assert imports == {(1, 1): 4, (1, 0): 1, (2, 1): 1}


def test_a_file_that_names_an_algorithm_is_found_and_a_generated_list_is_not(small):
    assert small.mentions("new") - small.own("new") == {"tests/cases.py"}
    (small.checkout / "tests/test_all.py").write_text("BEST = ['new']")
    assert House(small.root).mentions("new") - small.own("new") == {"tests/cases.py", "tests/test_all.py"}


def test_a_table_of_all_algorithms_is_found_and_two_names_apart_are_not(small):
    (small.checkout / "tests/test_apart.py").write_text("one = ['new']\nother = ['sum']")
    assert House(small.root).tables() == set()
    for number, text in enumerate(("{'new': 1, 'sum': 2}", "[('sum', 0), ('new', 1)]", "f({'new', 'sum'})")):
        (small.checkout / f"tests/test_{number}.py").write_text(text)
        assert f"tests/test_{number}.py" in House(small.root).tables()

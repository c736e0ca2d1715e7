"""The floors: a file imports only from lower ones, and what each floor may never touch."""

import ast
from pathlib import Path

import pytest

import polyak
from polyak.algorithms import names

ROOT = Path(polyak.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOOR = {
    "interface": 0,
    "pytree": 0,
    "errors": 0,
    "parts": 1,
    "envs": 1,
    "wrappers": 2,
    "algorithms": 2,
    "drivers": 3,
    "store": 4,
    "show": 4,
    "lab": 4,
    "presets": 4,
    "runs": 5,
}


TOP = 6  # cli.py, __init__.py and the files beside them


def floor(part: str) -> int:
    return FLOOR.get(part, TOP)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def place(path: Path) -> str:
    """The folder, or the file's own name where it lies at the top."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


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
    if name(path) != "drivers/distributed.py":
        assert not reaches(modules, "ray")


def called(path: Path) -> set[str]:
    """Plain names that are called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {node.func.id for node in calls if isinstance(node.func, ast.Name)}


def test_no_file_needs_itself_by_way_of_others():
    """Circles of imports at the top of files; what a function imports when it is called makes none."""
    uses = {module_of(path): needed_at_once(path) for path in FILES}
    while uses:
        free = {file for file, needs in uses.items() if not needs & set(uses) - {file}}
        assert free, f"a circle among {sorted(uses)}"
        uses = {file: needs for file, needs in uses.items() if file not in free}


def module_of(path: Path) -> str:
    return ".".join(["polyak", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def needed_at_once(path: Path) -> set[str]:
    """Our modules that a file imports at its top."""
    known, found = {module_of(file) for file in FILES}, set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inside or {node.module} & known
    return found

"""The pages of the Python interface: which names they have, a table for every reader, autodoc for the site's.

A docstring of this house is a sentence, then lines `name  what it is`, then an example. On the site these lines become
a list, and the comments beside the fields of a record become one too.
"""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from polyak.flags import comments

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# part of a page -> what stands there, as one imports it
NAMES: dict[str, list[str]] = {
    "polyak": [
        *(
            f"polyak.{name}"
            for name in ("train", "load", "Run", "Agent", "watch", "check_env", "doctor", "Event")
        ),
        *(f"polyak.{name}" for name in ("UserError", "EnvironmentFault", "CheckpointError")),
    ],
    "results": [
        "polyak.runs.run.Evaluation",
        "polyak.runs.run.Policy",
        "polyak.runs.plan.Settings",
        "polyak.health.finding.Report",
        "polyak.runs.watch.Film",
    ],
    "interface": [
        f"polyak.interface.{name}"
        for name in (
            *("Algorithm", "Transition", "Batch", "Update", "Spec", "Box", "Discrete", "OnPolicy", "Replay"),
            *("Hindsight", "Shown", "Clock", "Goal", "Given", "within", "count_steps"),
        )
    ]
    + ["polyak.pytree.pytree", "polyak.pytree.Record", "polyak.pytree.static"],
    "environments": [
        "polyak.envs.environment.Environment",
        "polyak.envs.environment.Step",
        "polyak.envs.environment.Rules",
        "polyak.envs.environment.rules",
        "polyak.envs.find.find",
    ],
}
# part of a page -> folder of modules that are shown whole
ROOMS = {
    "parts": "polyak.parts",
    "networks": "polyak.parts.networks",
    "replay": "polyak.parts.replay",
    "lab": "polyak.lab",
}


def found(name: str) -> Any:
    """What a dotted name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def modules(room: str) -> list[ModuleType]:
    """The modules of a folder, in alphabetical order."""
    names = [path.stem for path in sorted((SOURCE / room.replace(".", "/")).glob("*.py"))]
    return [importlib.import_module(f"{room}.{name}") for name in names if name != "__init__"]


def members(module: ModuleType) -> list[str]:
    """What a module defines under a name that begins with a letter, in the order of its file."""
    tree = ast.parse(inspect.getsource(module))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


def first_sentence(thing: Any) -> str:
    """The first sentence of its docstring."""
    paragraph = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.;]) (?=[A-Z])", paragraph)[0]


def cells(part: str) -> list[list[str]]:
    """The lines of a part's table: name with a link to its file, and what it is."""

    def link(words: str, thing: Any) -> str:
        path = Path(inspect.getsourcefile(thing) or "").relative_to(ROOT).as_posix()
        return f"[{words}](../{path})"

    if part in NAMES:
        return [[link(f"`{name}`", found(name)), first_sentence(found(name))] for name in NAMES[part]]
    return [
        [
            link(f"`{module.__name__}`", module),
            f"{first_sentence(module)}",
            ", ".join(f"`{name}`" for name in members(module)),
        ]
        for module in modules(ROOMS[part])
    ]


def head(part: str) -> list[str]:
    """The head of a part's table."""
    return ["name", "what"] if part in NAMES else ["module", "what", "names"]


# ---- on the site


def directives(part: str) -> str:
    """Sphinx's directives for all that a part of a page names."""
    lines = []
    for name in NAMES.get(part, []):
        thing = found(name)
        if not isinstance(thing, type):
            lines += [f".. autofunction:: {name}", ""]
        else:
            kind = "autoexception" if issubclass(thing, Exception) else "autoclass"
            lines += [f".. {kind}:: {name}", *(["   :members:"] if kind == "autoclass" else []), ""]
    for module in modules(ROOMS[part]) if part in ROOMS else ():
        title = module.__name__
        lines += [f".. rubric:: {title}", "   :heading-level: 3", ""]
        lines += [f".. automodule:: {title}", "   :members:", ""]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def with_directives(page: str) -> str:
    """A page in which autodoc's part stands below each table, whose names lead there."""
    page = re.sub(r"^\| \[`([\w.]+)`\]\(([^)]+)\)", r"| {py:obj}`\1` ([file](\2))", page, flags=re.MULTILINE)
    return re.sub(r"<!-- api (\w+): end -->", lambda mark: f"{mark[0]}\n\n{directives(mark[1])}", page)


FIELD = re.compile(r"(\S(?:.*?\S)?) {2,}(\S.*)")


def as_rst(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring of this house into what Sphinx reads; a record's commented fields come after it."""
    lines[:] = converted(lines)
    if isinstance(thing, type) and (said := own_fields(thing)):
        lines += ["", *said, ""]


def as_written(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """The signature of a NamedTuple as its file has it: defaults that are functions have no other that can be read."""
    if not (isinstance(thing, type) and hasattr(thing, "_fields")):
        return None
    (tree,) = ast.parse(inspect.getsource(thing)).body
    assert isinstance(tree, ast.ClassDef)
    fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    return f"({', '.join(ast.unparse(field) for field in fields)})", returned


def own_fields(cls: type) -> list[str]:
    """The fields of a record that have a comment beside them, each with its default."""
    if not (dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")):
        return []
    lines = []
    for field, said in comments(cls).items():
        lines += [f"``{field}``", f"    {escaped(said)}"]
    return lines


def converted(lines: list[str]) -> list[str]:
    """Lines `name  what it is`, with what belongs to them, as a list of definitions; examples as they are."""
    made: list[str] = []
    inside, example = "", False
    for line in lines:
        if line.startswith(">>>"):
            made += [""] * bool(made and made[-1] and not example)
            example = True
        example = example and bool(line.strip())
        if example:
            made.append(line)
        elif match := FIELD.fullmatch(line):
            made += [""] * bool(not inside and made and made[-1])
            made += [f"``{match[1]}``", f"    {escaped(match[2])}"]
            inside = " " * match.start(2)
        elif inside and line.startswith("  "):
            made.append(f"    {escaped(line.strip())}")
        else:
            made += [""] * bool(inside and line)
            inside = ""
            made.append(escaped(line))
    return made


def escaped(line: str) -> str:
    """A line in which nothing but `code` has a meaning to Sphinx."""
    parts = re.split(r"(`[^`]+`)", line)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"`{part}`"
        else:
            parts[number] = re.sub(r"([*_|\\`])", r"\\\1", part)
    return "".join(parts)


def left_out(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out fields of records, which are in the list of their comments, and what has no docstring."""
    field = type(thing).__name__ in ("_tuplegetter", "member_descriptor")
    return True if field or not inspect.getdoc(thing) or isinstance(thing, int | float | str | bool) else None

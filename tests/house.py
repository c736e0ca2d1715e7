"""Figures of the house: imports by floor, circles, what a reader of an algorithm reads, what a new one touches.

    python tests/house.py [SRC]      SRC is a folder `src/polyak`; usually this checkout's

Only the text of the files is read, so any checkout can be measured and compared with any other.
"""

import ast
import functools
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FLOOR = {
    "interface": 0,
    "pytree": 0,
    "errors": 0,
    "files": 0,
    "signals": 0,
    "temporary": 0,
    "parts": 1,
    "envs": 1,
    "algorithms": 2,
    "wrappers": 2,
    "drivers": 3,
    "store": 4,
    "show": 4,
    "lab": 4,
    "presets": 4,
    "runs": 5,
    "health": 6,
    "commands": 7,
}
TOP = 7  # the commands, cli.py, __init__.py and the files beside them
STOREYS = {
    0: "ground",
    1: "parts, envs",
    2: "algorithms, wrappers",
    3: "drivers",
    4: "store, show",
    5: "runs",
    6: "health",
    7: "top",
}


def floor(place: str) -> int:
    """The floor of a folder, or of a file at the top."""
    return FLOOR.get(place, TOP)


# ---- files and what they import


class Name(NamedTuple):
    """A name that a file imports: `name` of `module`, or the module itself where `name` is None."""

    module: str
    name: str | None


Reached = set[tuple[Path, str]]  # definitions, by file and name


class File:
    """A file: its code lines, its definitions, and the names that it imports anywhere."""

    def __init__(self, path: Path):
        text = path.read_text(encoding="utf-8")
        self.path, self.tree = path, ast.parse(text)
        self.code = code_lines(text, self.tree)
        self.definitions: dict[str, list[ast.stmt]] = {}
        for node in self.tree.body:
            for name in defined(node):
                self.definitions.setdefault(name, []).append(node)
        self.names = dict(imported_names(self.tree))
        self.typing = dict(imported_names(for_types_only(self.tree)))
        self.imports = {
            line
            for node in self.tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in span(node)
        }


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Numbers of the lines that are code: neither blank, nor comment, nor docstring."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                lines -= set(span(first))
    return lines


def span(node: ast.stmt) -> range:
    """The lines of a statement, decorators included."""
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    return range(first, (node.end_lineno or first) + 1)


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a file defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [x.id for target in node.targets for x in ast.walk(target) if isinstance(x, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def choices(node: ast.stmt) -> dict[str, ast.expr]:
    """The entries of a dict from words to names, if that is what a statement defines."""
    table = getattr(node, "value", None)
    if not isinstance(table, ast.Dict) or not all(
        isinstance(x, ast.Name | ast.Attribute) for x in table.values
    ):
        return {}
    words = [getattr(key, "value", None) for key in table.keys]
    return {word: x for word, x in zip(words, table.values, strict=True) if isinstance(word, str)}


def handed(node: ast.stmt) -> set[str]:
    """The words that stand as the default of a field or an argument, or as an argument of a call."""
    values: list[Any] = []
    for part in ast.walk(node):
        if isinstance(part, ast.AnnAssign):
            values.append(part.value)
        elif isinstance(part, ast.arguments):
            values += [*part.defaults, *part.kw_defaults]
        elif isinstance(part, ast.Call):
            values += [*part.args, *(keyword.value for keyword in part.keywords)]
    words = {getattr(value, "value", None) for value in values if isinstance(value, ast.Constant)}
    return {word for word in words if isinstance(word, str)}


def imported_names(tree: ast.AST) -> Iterator[tuple[str, Name]]:
    """What a file calls each thing that it imports, and what that is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                yield each.asname or each.name, Name(node.module, each.name)
        elif isinstance(node, ast.Import):
            for each in node.names:
                if each.asname:
                    yield each.asname, Name(each.name, None)
                else:
                    yield each.name.partition(".")[0], Name(each.name.partition(".")[0], None)


def for_types_only(tree: ast.Module) -> ast.Module:
    """The parts of a file that only a type checker reads."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    return ast.Module(
        [x for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING" for x in node.body], []
    )


class House:
    """A folder of sources `.../src/polyak`."""

    def __init__(self, root: Path):
        self.root, self.paths = root, sorted(root.rglob("*.py"))

    @functools.cached_property
    def files(self) -> dict[Path, File]:
        """All of them, read: which takes seconds, and so not before somebody asks."""
        return {path: File(path) for path in self.paths}

    @functools.cached_property
    def algorithms(self) -> list[str]:
        """Names of the algorithms."""
        return sorted(path.stem for path in (self.root / "algorithms").glob("[!_]*.py"))

    def title(self, path: Path) -> str:
        """A file's path below the root."""
        return path.relative_to(self.root).as_posix()

    def place(self, path: Path) -> str:
        """The folder of a file, or its own name where it lies at the top."""
        return path.relative_to(self.root).parts[0].removesuffix(".py")

    def find(self, module: str) -> Path | None:
        """The file of a module of this house; None for any other."""
        head, *rest = module.split(".")
        if head != self.root.name:
            return None
        base = self.root.joinpath(*rest)
        for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
            if path in self.files:
                return path
        return None

    # ---- who imports whom

    def imported(self, path: Path) -> set[Path]:
        """The other files that a file imports, at its top or inside a function; not for types alone."""
        file = self.files[path]
        found = {
            self.find(f"{name.module}.{name.name}") or self.find(name.module)
            for word, name in file.names.items()
            if word not in file.typing
        }
        return {other for other in found if other} - {path}

    def by_floor(self) -> tuple[Counter, Counter]:
        """Files of each floor, and imports from one floor by another."""
        files: Counter = Counter(floor(self.place(path)) for path in self.files)
        imports: Counter = Counter()
        for path in self.files:
            for other in self.imported(path):
                imports[floor(self.place(path)), floor(self.place(other))] += 1
        return files, imports

    def circles(self) -> list[list[Path]]:
        """Groups of files of which each imports, in the end, every other."""
        imports = {path: self.imported(path) for path in self.files}
        below = {path: set() for path in imports}  # everything that can be reached
        for path, reached in below.items():
            todo = imports[path]
            while todo := todo - reached:
                reached |= todo
                todo = set().union(*(imports[other] for other in todo))
        groups = {frozenset(o for o in below[p] if p in below[o]) for p in below if p in below[p]}
        return sorted(sorted(group) for group in groups)

    # ---- what a reader reads

    def origin(self, path: Path, name: str) -> tuple[Path, str | None] | None:
        """Where a name of a file is defined, through whatever passes it on; (file, None) for a whole module."""
        for _ in range(9):
            file = self.files[path]
            if name in file.definitions:
                return path, name
            if name not in file.names:
                return None
            module, inner = file.names[name]
            if inner is None or (whole := self.find(f"{module}.{inner}")):
                there = self.find(module) if inner is None else whole
                return (there, None) if there else None
            there = self.find(module)
            if there is None:
                return None
            path, name = there, inner
        return None

    def uses(self, path: Path, node: ast.AST) -> Iterator[tuple[Path, str]]:
        """The definitions that a piece of code names."""
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                found = self.origin(path, part.id)
                if found and found[1]:
                    yield found[0], found[1]
            elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                found = self.origin(path, part.value.id)
                if found and found[1] is None:
                    inner = self.origin(found[0], part.attr)
                    if inner and inner[1]:
                        yield inner[0], inner[1]

    def reached(self, todo: list[tuple[Path, str]]) -> Reached:
        """Every definition that these name, and those that they name in turn.

        A table of choices is read where a default or a call names one of them: `network = "mlp"` needs no other.
        """
        seen: Reached = set()
        tables: list[tuple[Path, dict[str, ast.expr]]] = []
        words: set[str] = set()
        while todo:
            path, name = todo.pop()
            if (path, name) not in seen:
                seen.add((path, name))
                for node in self.files[path].definitions[name]:
                    words |= handed(node)
                    if table := choices(node):
                        tables.append((path, table))
                    else:
                        todo += self.uses(path, node)
            if not todo:
                named = [(path, table[word]) for path, table in tables for word in words & table.keys()]
                todo = [use for path, value in named for use in self.uses(path, value) if use not in seen]
        return seen

    def reading(self, algorithm: str) -> dict[Path, tuple[int, int]]:
        """Lines that a reader reads to understand an algorithm and how it learns: (code, imports) of each file.

        How it learns is told by the function of `drivers/learn.py` for its kind of data, or by `learn`, for all kinds.
        """
        own, learn = self.root / f"algorithms/{algorithm}.py", self.root / "drivers/learn.py"
        ways = [LEARN[kind] for kind in LEARN if kind in self.files[own].names]
        ways = [way for way in ways if way in self.files[learn].definitions] or ["learn"]
        lines: dict[Path, set[int]] = {}
        for path, name in self.reached(
            [*((own, name) for name in self.files[own].definitions), *((learn, way) for way in ways)]
        ):
            for node in self.files[path].definitions[name]:
                lines.setdefault(path, set()).update(self.files[path].code & set(span(node)))
        return {path: (len(found), len(self.files[path].imports)) for path, found in sorted(lines.items())}

    # ---- what a new algorithm touches

    def own(self, algorithm: str) -> set[str]:
        """An algorithm's own files: itself, its test, its page, and its presets where it has any."""
        presets = f"{self.folder}/presets/{algorithm}.toml"
        own = {
            f"{self.folder}/algorithms/{algorithm}.py",
            f"tests/test_{algorithm}.py",
            f"docs/algorithms/{algorithm}.md",
        }
        return own | ({presets} if presets in self.texts else set())

    @property
    def checkout(self) -> Path:
        """The folder of the checkout."""
        return self.root.parents[1]

    @property
    def folder(self) -> str:
        """The sources, seen from the checkout: src/polyak."""
        return self.root.relative_to(self.checkout).as_posix()

    @functools.cached_property
    def texts(self) -> dict[str, str]:
        """What people write by hand in sources, tests and documentation, without its generated parts."""
        found = [*self.root.rglob("*"), *self.checkout.glob("*.md")]
        for folder in ("tests", "docs"):
            found += (self.checkout / folder).rglob("*")
        texts = {}
        for path in found:
            name = path.relative_to(self.checkout).as_posix()
            if path.suffix in (".py", ".md", ".toml") and name not in HISTORY:
                text = path.read_text(encoding="utf-8")
                texts[name] = GENERATED.sub("", text) if path.suffix == ".md" else text
        return texts

    def mentions(self, algorithm: str) -> set[str]:
        """Files that name an algorithm as a user types it; other algorithms' own files may compare themselves."""
        others = set().union(*(self.own(name) for name in self.algorithms if name != algorithm))
        word = re.compile(rf"\b{re.escape(algorithm)}\b")
        return (
            {name for name, text in self.texts.items() if word.search(text)}
            - others
            - ALIKE.get(algorithm, set())
        )

    def tables(self) -> set[str]:
        """Python files with a literal that holds the name of every algorithm: a list that somebody must keep."""
        wanted, found = set(self.algorithms), set()
        for name, text in self.texts.items():
            for node in ast.walk(ast.parse(text)) if name.endswith(".py") else ():
                if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
                    words = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                    if wanted <= words:
                        found.add(name)
        return found


LEARN = {
    "OnPolicy": "learn_on_policy",
    "Replay": "learn_from_replay",
    "Planning": "learn_from_rules",
}  # by the kind of data
HISTORY = {"CHANGELOG.md", "docs/coverage.md"}  # of what was, and of what is checked
GUIDES = {  # pages that lead people to algorithms; a new one need not be on them
    "docs/choosing.md",
    "docs/coming_from_cleanrl.md",
    "docs/coming_from_stable_baselines3.md",
    "docs/glossary.md",
    *(f"docs/lectures/{number}.md" for number in range(5)),
}
RUNS = {"tests/sick_runs.py"}  # whole runs, each sick or sound by settings that only its own algorithm has
ALIKE = {  # by algorithm: files in which the word is another thing: a kind of picture, a function for any MDP or system
    "svg": {
        *(
            "README.md",
            "docs/choosing.py",
            "docs/generate.py",
            "src/polyak/show/charts.py",
            "src/polyak/show/page.py",
        ),
        *("tests/house.py", "tests/test_curves.py", "tests/test_docs.py"),
    },
    "value_iteration": {
        *("src/polyak/lab/grid.py", "src/polyak/lab/planning.py"),
        *("tests/house.py", "tests/test_lab_mdp.py", "tests/test_car_on_hill.py"),
    },
    "riccati": {
        "src/polyak/lab/linear.py",
        "tests/house.py",
        "tests/test_lab_linear.py",
        "tests/test_lqr.py",
    },
}
GENERATED = re.compile(r"<!-- ([^>]*): begin -->.*?<!-- \1: end -->", re.DOTALL)


def report(house: House) -> Iterator[str]:
    """The figures, line by line."""
    files, imports = house.by_floor()
    yield f"{len(house.files)} files import one another {imports.total()} times"
    for level in sorted(files, reverse=True):
        down = [
            f"{imports[level, to]} from {STOREYS[to]}"
            for to in sorted(files, reverse=True)
            if imports[level, to]
        ]
        yield f"  {STOREYS[level]:12} {files[level]:3} files: {', '.join(down) or 'nothing'}"
    circles = house.circles()
    yield f"circles: {len(circles) or 'none'}"
    for circle in circles:
        yield "  " + ", ".join(map(house.title, circle))
    for algorithm in house.algorithms:
        lines = house.reading(algorithm)
        code, head = (sum(counts) for counts in zip(*lines.values(), strict=True))
        yield f"{algorithm}: {code + head} lines in {len(lines)} files ({code} of code, {head} of imports)"
        for path, (inner, top) in lines.items():
            yield f"  {inner + top:5} {house.title(path)}"
    for algorithm in house.algorithms:
        outside = sorted(house.mentions(algorithm) - house.own(algorithm))
        yield f"{algorithm} is named in {len(outside)} files that are not its own: {', '.join(outside)}"
    yield f"tables of all algorithms, kept by hand: {', '.join(sorted(house.tables())) or 'none'}"


def main(words: list[str]) -> None:
    """Print the figures of a folder of sources."""
    here = Path(__file__).resolve().parents[1] / "src" / "polyak"
    print(*report(House(Path(words[0]).resolve() if words else here)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])

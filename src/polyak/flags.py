"""From the words of a command line to typed values, each mistake one line; tyro draws the pages of help."""

import ast
import dataclasses
import difflib
import inspect
import io
import json
import re
import textwrap
import tokenize
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from polyak import algorithms
from polyak.errors import UserError, also_called, out_of_range
from polyak.runs.plan import Settings
from polyak.runs.presets import STEPS, UPDATES, default_config, flags_of, preset, usual_config
from polyak.runs.values import amend

T = TypeVar("T")


@dataclass(frozen=True)
class NoOptions:
    """None but --help."""


@dataclass
class Said:
    """A command line in its parts.

    words   what is no flag, in order: names and paths
    values  by field: the words of a flag, True or False of a switch
    groups  by group, of `--config.lr 1e-3`: {"config": {"lr": "1e-3"}}
    """

    words: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)


def read(
    argv: Iterable[str],
    options: Any,
    wanted: int,
    groups: Sequence[str] = (),
    further: Callable[[list[str]], Iterable[str]] = lambda words: (),
) -> Said:
    """Take a command line apart; UserError for a flag that is unknown, given twice or without its value.

    options  a dataclass: its field `num_envs` is --num-envs (or --num_envs); a bool that is True is --no-NAME
    wanted   how many words the command takes
    groups   prefixes of flags whose names are checked by others, later
    further  from the words so far to flags of the groups, asked only where a flag is unknown
    """
    hints, switches = typing.get_type_hints(type(options)), dict(_switches(options))
    said, rest = Said(), list(argv)
    while rest:
        word = rest.pop(0)
        if not re.match(r"--?[A-Za-z]", word):
            if len(said.words) == wanted:
                hint = ": flags begin with --" if "=" in word else ""
                raise UserError(f"unexpected {word!r} after {' '.join(said.words) or 'the command'!r}{hint}")
            said.words.append(word)
            continue
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        group, _, inner = name.partition(".")
        grouped = bool(inner) and group in groups
        if name in switches and not equals:
            _put(said.values, *switches[name], flag)
        elif grouped or (name in hints and hints[name] is not bool):
            values = [text] if equals else _take(flag, rest, room=wanted - len(said.words))
            into = said.groups.setdefault(group, {}) if grouped else said.values
            many = not grouped and typing.get_origin(hints[name]) is tuple
            _put(into, inner if grouped else name, " ".join(values), flag, many)
        elif name in switches:
            raise UserError(f"{flag} takes no value, given {text!r}")
        else:
            known = [*_spelled(options), *(f"--{group.replace('_', '-')}.FIELD" for group in groups)]
            raise UserError(f"unknown flag {flag}: {_nearest_flag(flag, [*known, *further(said.words)])}")
    return said


def typed(options: T, said: Said) -> T:
    """The options with what was said, converted and inside their bounds; UserError lists all that is wrong."""
    options = amend(options, said.values, "--")
    if wrong := out_of_range(options, "--"):
        raise UserError("; ".join(wrong))
    return options


def literals(texts: Mapping[str, str]) -> dict[str, Any]:
    """Each text as the value that it looks like."""
    return {name: literal(text) for name, text in texts.items()}


def literal(text: str) -> Any:
    """An int, float, bool, None, or a list of these as JSON writes it or between commas; else the text itself.

    >>> [literal(text) for text in ("3", "1e5", "0.5", "true", "None", "[1, 2]", "1,2", "reach", '"3"')]
    [3, 100000, 0.5, True, None, [1, 2], [1, 2], 'reach', '3']
    """
    if re.fullmatch(r"\(?\s*[^\s,()\[\]{}\"]+(\s*,\s*[^\s,()\[\]{}\"]+)*\s*,?\s*\)?", text) and "," in text:
        parts = [literal(part.strip()) for part in text.strip("() ").rstrip(", ").split(",")]
        return text if any(isinstance(part, str) for part in parts) else parts
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        value = json.loads(text, parse_constant=lambda constant: text)
    except (ValueError, RecursionError):
        whole = text.replace("_", "")
        return int(whole) if re.fullmatch(r"[+-]?\d+", whole) else text
    counts = isinstance(value, float) and value.is_integer() and "." not in text
    return int(value) if counts else value


def _switches(options: Any) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Names that turn each bool over: ("no_preset", ("preset", False))."""
    for name, hint in typing.get_type_hints(type(options)).items():
        if hint is bool:
            default = getattr(options, name)
            yield f"no_{name}" if default else name, (name, not default)


def _spelled(options: Any) -> list[str]:
    names = {name for name, hint in typing.get_type_hints(type(options)).items() if hint is not bool}
    return ["--" + name.replace("_", "-") for name in names | dict(_switches(options)).keys()]


INSTEAD = {  # what is no setting here, and how it is done
    "cuda": "JAX uses an accelerator that it sees; JAX_PLATFORMS=cpu before the command keeps it off",
    "device": "JAX uses an accelerator that it sees; JAX_PLATFORMS=cpu before the command keeps it off",
    "gpu": "JAX uses an accelerator that it sees; JAX_PLATFORMS=cpu before the command keeps it off",
    "deterministic": "evaluate does not explore, unless --sample is given",
    "load": "polyak resume RUN goes on with a run, and --init RUN begins a new one with its weights",
    "log-interval": "it logs ten times between two evaluations (--eval-every)",
    "render": "training draws nothing; polyak watch RUN makes a video",
    "render-mode": "training draws nothing; polyak watch RUN makes a video",
    "save": "every run is saved; --name and --out say where",
    "save-path": "every run is saved; --name and --out say where",
    "model-path": "every run is saved; --name and --out say where",
    "tensorboard-log": "every run's folder has TensorBoard's files; --out says where folders are made",
    "vec-normalize": "--wrap normalize_obs,normalize_reward",
    "verbose": "it says what it does, unless --quiet is given",
    "video": "polyak watch RUN makes a video",
    "wandb": "--track wandb",
}


def _nearest_flag(flag: str, known: list[str]) -> str:
    """The most similar flag, or those that end with this name (--lr: --config.lr), by whatever name it is known."""
    word = flag.lstrip("-").replace("_", "-")
    if word.lower() in INSTEAD:
        return INSTEAD[word.lower()]
    close = []
    for other in also_called().get(word.replace("-", "_"), ()):
        close = close or _ending(other.replace("_", "-"), known)
    close = close or difflib.get_close_matches(f"--{word}", known, n=1, cutoff=0.8) or _ending(word, known)
    close = close or difflib.get_close_matches(f"--{word}", known, n=1, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else "--help lists all there are"


def _ending(word: str, known: list[str]) -> list[str]:
    """The flag of this name, or those that end with it."""
    return (
        [f"--{word}"]
        if f"--{word}" in known
        else [n for n in known if re.search(rf"[.-]{re.escape(word)}$", n)]
    )


def _take(flag: str, rest: list[str], room: int) -> list[str]:
    """The words that belong to a flag: one, and what follows it once the command has all of its own."""
    if not rest or rest[0].startswith("--"):
        raise UserError(f"{flag} needs a value")
    taken = [rest.pop(0)]
    while room <= 0 and rest and not re.match(r"--?[A-Za-z]", rest[0]):
        taken.append(rest.pop(0))
    return taken


def _put(values: dict[str, Any], name: str, value: Any, flag: str, many: bool = False) -> None:
    if name in values and not many:
        raise UserError(f"{flag} is given twice")
    values[name] = f"{values[name]} {value}" if name in values else value


def of_config(words: list[str]) -> list[str]:
    """--config.FIELD for every field of the algorithm that the first word names, [] where it names none."""
    if not words or words[0] not in algorithms.names():
        return []
    config = default_config(words[0], {})
    names = [field.name for field in dataclasses.fields(config) if field.name != "data"]
    names += [f"data.{field.name}" for field in dataclasses.fields(config.data)]
    return [f"--config.{name}".replace("_", "-") for name in names]


# ---- pages of help


def show_train_page(algorithm: str, env: str, about: str, with_preset: bool) -> None:
    """Print the help of `train ALGO ENV`: the algorithm's settings too, with their tuned values."""
    tuned = preset(algorithm, env) if with_preset else {}
    budget = {"updates": UPDATES} if usual_config(algorithm).data.plans else {"steps": STEPS}
    usual = {**budget, "num_envs": 1, "wrap": ()}
    settings = [
        amend(Settings(), {name: said.get(name, usual[name]) for name in usual}) for said in (tuned, {})
    ]
    configs = default_config(algorithm, tuned), default_config(algorithm, {})
    about += (
        "\n\n--env.FIELD VALUE sets a constant of the environment, --eval-env.FIELD one of evaluation's own."
    )
    if sets := flags_of(tuned):
        about += f"\n\nThe preset sets {sets}."
    hidden = ("hindsight",)  # which --her sets
    show_page("train", f"{algorithm} {env}", about, (settings[0], settings[1]), {"config": configs}, hidden)


def show_page(
    name: str,
    usage: str,
    about: str,
    options: tuple[Any, Any],
    groups: Mapping[str, tuple[Any, Any]] | None = None,
    hidden: Iterable[str] = (),
) -> None:
    """Print the help of `polyak NAME USAGE`.

    options  the record whose values are shown, and the one with what they would be without a preset
    groups   the same by prefix
    hidden   fields of the groups that are left out
    """
    import tyro

    parts = [(name.replace("-", "_"), tyro.conf.OmitArgPrefixes[_drawn(*options, switches=True)])]
    for group, records in (groups or {}).items():
        parts.append((group, _drawn(*records, switches=False, hidden=hidden)))
    page = dataclasses.make_dataclass(
        "Page", [(name, part, field(default_factory=part)) for name, part in parts]
    )
    try:
        tyro.cli(
            page,
            prog=f"polyak {name} {usage}",
            args=["--help"],
            description=about,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
        )
    except SystemExit:
        return


def _drawn(record: Any, usual: Any, switches: bool, hidden: Iterable[str] = ()) -> Any:
    """A dataclass that tyro shows like this record: its fields as texts, with their comments as help."""
    import tyro

    notes, hints, entries = comments(type(record)), typing.get_type_hints(type(record)), []
    for name, hint in hints.items():
        value, without = getattr(record, name), getattr(usual, name)
        if name in hidden:
            continue
        if dataclasses.is_dataclass(value):
            inner = _drawn(value, without, switches, hidden)
            entries.append((name, inner, field(default_factory=inner)))
            continue
        switch = switches and hint is bool
        note = notes.get(name, "")
        said = "" if switch or value in (None, "", ()) else f"(default: {_text(value)})"
        if value != without:
            said = f"(tuned: {_text(value)}; --no-preset: {_text(without)})"
        if switch and value:
            note = f"do not {note}"
        help = f"{note} {said}".strip()
        shown = tyro.conf.arg(metavar=None if switch else _takes(hint), help=help, help_behavior_hint="")
        kind = bool if switch else str
        entries.append((name, Annotated[kind, shown], value if switch else _text(value)))
    return dataclasses.make_dataclass(
        type(record).__name__, entries, namespace={"__doc__": type(record).__doc__}
    )


def comments(cls: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, by name; {} where there is no source."""
    found = {}
    for base in reversed(cls.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        beside = comments_by_line(source)
        for node in typing.cast(ast.ClassDef, ast.parse(source).body[0]).body:
            if isinstance(node, ast.AnnAssign) and (said := comment_of(node, beside)):
                found[ast.unparse(node.target)] = said
    return found


def comments_by_line(source: str) -> dict[int, str]:
    """Every comment of a Python source that stands behind code, by the number of its line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    behind = [token for token in comments if not token.line.lstrip().startswith("#")]
    return {token.start[0]: token.string.lstrip("# ").rstrip() for token in behind}


def comment_of(node: ast.stmt | ast.expr, beside: Mapping[int, str]) -> str:
    """The first comment beside the lines of a node, of `comments_by_line`; "" without one."""
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return next((beside[line] for line in lines if line in beside), "")


def _takes(hint: Any) -> str:
    """Placeholder for the value of a flag: N, X, NAME, NAME,... or the words to choose from."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return ",".join([_takes(args[0]), "..."] if args[-1] is Ellipsis else map(_takes, args))
    if origin is Literal:
        return "|".join(map(str, args))
    if args:
        return "|".join(_takes(arg) for arg in args if arg is not type(None))
    return {bool: "true|false", int: "N", float: "X", str: "NAME"}.get(hint, "VALUE")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

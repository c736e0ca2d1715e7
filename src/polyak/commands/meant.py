"""Which run a person means: by its folder, or the newest of an algorithm and an environment; and what they trust."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polyak import algorithms
from polyak.commands.ending import fail
from polyak.errors import CheckpointError, UserError, printable
from polyak.runs.folder import RunFolder
from polyak.runs.plan import Plan

if TYPE_CHECKING:
    from polyak.runs.run import Run


def open_trusted(path: Path, names: Sequence[str]) -> "Run":
    """A run that may import what the user trusts."""
    from polyak.runs.run import Run

    run = Run(path)
    run.trusted |= set(names)
    run.warn = lambda text: fail(printable(text))
    return run


def named_run(command: str, words: list[str], out: str) -> tuple[Path, list[str]]:
    """The run folder that RUN, or ALGO ENV, means, and the names of code that were typed: those are trusted."""
    if len(words) == 2:
        algorithms.check(words[0])
        return newest(out, *words), words
    path = Path(words[0])
    if path.suffix == ".zip":
        raise UserError(
            f"{path} is a file, but a run is a folder of polyak's, as polyak train and Agent.save make it"
        )
    if path.name in algorithms.names() and not path.exists():
        raise UserError(f"{command} {path.name} needs its environment too: polyak {command} {path.name} ENV")
    RunFolder(path).config()
    return path, []


def newest(out: str, algorithm: str | None = None, env: str | None = None) -> Path:
    """The run folder in `out` that was touched last, of this algorithm and environment if they are given."""
    found = []
    for config in Path(out).glob("*/config.json"):
        plan = readable_plan(config.parent)
        if plan and (algorithm is None or (plan.algorithm, plan.env) == (algorithm, env)):
            metrics = config.with_name("metrics.jsonl")
            found.append(((metrics if metrics.exists() else config).stat().st_mtime, config.parent))
    if not found:
        what = "run folder" if algorithm is None else f"run of {algorithm} on {env}"
        raise CheckpointError(f"there is no {what} in {out!r}: name one, train first, or say --out")
    return max(found)[1]


def readable_plan(path: Path) -> Plan | None:
    """The plan of a run folder, None where it is damaged."""
    try:
        return RunFolder(path).plan()
    except CheckpointError:
        return None

"""What the programs of this folder share: a finding, the command line that asks for one, and training."""

import argparse
import atexit
import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

import polyak
from polyak.temporary import TemporaryFolder


class Finding(NamedTuple):
    """The outcome of a check.

    claims  each thing that has to be so, in words, and whether it was found so
    figure  the outcome in one line, with its numbers
    """

    claims: Mapping[str, bool]
    figure: str


Check = Callable[[], Finding]


def main(rows: Mapping[str, Check], long: Mapping[str, Check] | None = None) -> NoReturn:
    """Run the check that the command line names. Exits with 0 where its claims hold, else with 1.

    rows  the check of each row
    long  the published protocol, for rows where that takes more than two minutes
    """
    long = long or {}
    parser = argparse.ArgumentParser(prog=f"python -m reproductions.{program_name()}")
    parser.add_argument(
        "--row", required=True, choices=sorted({*rows, *long}), help="a row of the lecture notes"
    )
    if long:
        parser.add_argument("--long", action="store_true", help="the published protocol")
    said = parser.parse_args()
    wanted = long if getattr(said, "long", False) else rows
    if said.row not in wanted:
        parser.error(f"{said.row} has no longer form")
    sys.exit(report(wanted[said.row]()))


def report(finding: Finding) -> int:
    """Print a finding, the figure last, and return the exit code."""
    for claim, held in finding.claims.items():
        print(f"{'yes' if held else 'NO ':<3}  {claim}")
    print(finding.figure, flush=True)
    return 0 if finding.claims and all(finding.claims.values()) else 1


def program_name() -> str:
    """The name of the program that runs."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.rpartition(".")[2] if spec else "NAME"


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def train(algorithm: str, env: str, *, seeds: int = 1, **said: Any) -> polyak.Run:
    """`polyak.train` into a folder that is deleted when the program ends; evaluates at the end only."""
    began = time.monotonic()
    settings = ", ".join(f"{name} {value}" for name, value in said.get("config", {}).items())
    print(
        f"{algorithm} on {env}, {seeds} seed{'s' if seeds > 1 else ''}{': ' if settings else ''}{settings} ...",
        flush=True,
    )
    live = sys.stdout.isatty()
    if "steps" in said:
        said.setdefault("eval_every", said["steps"])
    said.setdefault("eval_episodes", 1)
    run = polyak.train(algorithm, env, seeds=seeds, out=folder(), verbose=live, **said)
    print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return run


@functools.cache
def folder() -> str:
    """Where the run folders of this program lie."""
    place = TemporaryFolder()
    atexit.register(place.close)
    return place.path

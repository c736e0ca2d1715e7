"""Scores as data: `make score ALGO=td3 ENV=Pendulum-v1`, or `python benchmarks/scores.py td3 Pendulum-v1`.

Trains an algorithm's preset as it is, plays 100 episodes of each seed's last policy and writes what came of it to
benchmarks/scores/ALGO.json, under the preset's name (that of X for `jax:X`). Other entries stay as they are.

Runs are kept in runs/scores: after Ctrl-C the same command goes on where it stopped, as long as polyak's source is
the same. If the seeds fail together, each is trained alone, and those that fail alone are named in the entry.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

import polyak
from polyak.errors import EnvironmentFault, UserError
from polyak.runs.loop import Interrupted
from polyak.runs.presets import preset_name
from polyak.show.curve import interquartile_mean, iqm_interval
from polyak.show.terminal import Terminal

ROOT = Path(__file__).parents[1]
SCORES = ROOT / "benchmarks" / "scores"
RUNS = ROOT / "runs" / "scores"
EPISODES = 100
DIGITS = 4  # after the point

Entry = dict[str, Any]


# ---- training


def score(algorithm: str, env: str, seeds: int, steps: int | None = None) -> Entry:
    """The entry of a preset: trains, evaluates and sums up. Raises UserError if no seed came to its end."""
    commit = commit_of(ROOT)
    world = re.sub(r"[^A-Za-z0-9._-]", "-", env)
    name = f"{algorithm}-{world}-{steps or 'preset'}-steps-{seeds}-seeds-{source_digest()}"
    means: dict[int, float] = {}
    failed: dict[int, str] = {}
    try:
        run, means = trained(algorithm, env, name, 0, seeds, steps)
    except Exception as error:
        stop_if_hopeless(error)
        if seeds == 1:
            raise UserError(f"seed 0 failed: {one_line(error)}") from error
        print(f"the seeds failed together, now each alone: {one_line(error)}", file=sys.stderr, flush=True)
        for seed in range(seeds):
            try:
                run, found = trained(algorithm, env, f"{name}-seed-{seed}", seed, 1, steps)
                means |= found
            except Exception as error:
                stop_if_hopeless(error)
                failed[seed] = one_line(error)
                print(f"seed {seed} failed: {failed[seed]}", file=sys.stderr, flush=True)
    if not means:
        raise UserError(f"all {seeds} seeds failed: {failed[0]}")
    entry = {
        "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "env": env,
        "episodes": EPISODES,
        "steps": run.plan.steps,
        **summary(list(means.values())),
    }
    if failed:
        entry["failed"] = {str(seed): error for seed, error in failed.items()}
    if anchor := anchor_of(algorithm, preset_name(env), run.plan.steps):
        entry["anchor"] = anchor
    return entry


def trained(
    algorithm: str, env: str, name: str, seed: int, seeds: int, steps: int | None
) -> tuple[polyak.Run, dict[int, float]]:
    """A run at its end, and each seed's mean return over EPISODES episodes of its last policy."""
    run = polyak.train(algorithm, env, steps=steps, seed=seed, seeds=seeds, out=str(RUNS), name=name)
    with Terminal().status(f"evaluating: {EPISODES} episodes of {seeds} seeds"):
        evaluation = run.evaluate(episodes=EPISODES)
    means = dict(zip(evaluation.seeds, evaluation.returns.mean(axis=1).tolist(), strict=True))
    if lost := [seed for seed, mean in means.items() if not np.isfinite(mean)]:
        raise ArithmeticError(f"the return of seed {lost[0]} is not finite")
    return run, means


def stop_if_hopeless(error: Exception) -> None:
    """Raise again what would meet every seed: a person's mistake, or their wish to stop."""
    mistake = isinstance(error, UserError) and not isinstance(error, EnvironmentFault)
    if mistake or isinstance(error, Interrupted):
        raise error


def one_line(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def summary(means: list[float]) -> Entry:
    """Interquartile mean, its 95 % interval over seeds (of three or more), mean, and all means [S]."""
    values = np.array(means)
    found = {"iqm": interquartile_mean(values), "mean": values.mean(), "per_seed": values}
    if len(values) >= 3:
        found["interval"] = np.array(iqm_interval(values))
    return {"seeds": len(values), **{name: np.round(x, DIGITS).tolist() for name, x in found.items()}}


def source_digest() -> str:
    """Eight letters that differ where polyak's source or presets do: other code begins another run."""
    package = Path(polyak.__file__).parent
    found = hashlib.sha256()
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.toml")]):
        found.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:8]


def commit_of(checkout: Path) -> str:
    """The short name of the commit that is checked out, with a + where src differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "src") else "")


# ---- the files


def file_of(algorithm: str) -> Path:
    """Where an algorithm's scores are kept."""
    return SCORES / f"{algorithm}.json"


def read(algorithm: str) -> dict[str, Entry]:
    """All entries of an algorithm by the preset's name, {} where there are none. Raises UserError if damaged."""
    path = file_of(algorithm)
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def write(algorithm: str, name: str, entry: Entry) -> Path:
    """Put one entry in its file, whole or not at all; the others stay."""
    path = file_of(algorithm)
    text = json.dumps(read(algorithm) | {name: entry}, indent=2, sort_keys=True, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def anchor_of(algorithm: str, name: str, steps: int) -> Entry | None:
    """The published result of anchors.toml for so many steps, else the first for this environment, if any."""
    anchors = tomllib.loads((SCORES / "anchors.toml").read_text(encoding="utf-8"))
    found = anchors.get(algorithm, {}).get(name, [])
    same = [anchor for anchor in found if anchor.get("steps") == steps]
    return next(iter(same or found), None)


# ---- words


def describe(entry: Entry | None, name: str, steps: int) -> str:
    """An entry in words, where `name` and `steps` are the preset's and need not be repeated."""
    if entry is None:
        return "not measured"
    if "iqm" in entry:
        words = f"IQM {number(entry['iqm'])}"
        if "interval" in entry:
            words += " [{}, {}]".format(*map(number, entry["interval"]))
    else:
        words = f"mean {number(entry['mean'])}"
        if "range" in entry:
            words += " ({} to {})".format(*map(number, entry["range"]))
    words += f" over {entry['seeds']} seeds"
    if entry["steps"] != steps:
        words += f" after {entry['steps']:,} steps"
    if entry["env"] != name:
        words += f", on {entry['env']}"
    if entry["episodes"] != EPISODES:
        words += f", {entry['episodes']} episodes each"
    if "failed" in entry:
        words += f"; {len(entry['failed'])} seeds failed"
    if "anchor" in entry:
        anchor = entry["anchor"]
        other = anchor.get("steps", steps) != entry["steps"]
        after = f" after {anchor['steps']:,} steps" if other else ""
        words += f"; published: {number(anchor['value'])}{after} ({anchor['source']})"
    return words


def number(value: float) -> str:
    """A return with as many digits as say something."""
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}".removesuffix(".0")


def main() -> int:
    """Train, evaluate, write, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("algorithm")
    options.add_argument("env")
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--steps", type=int, help="instead of the preset's")
    said = options.parse_args()
    name = preset_name(said.env)
    try:
        before = read(said.algorithm).get(name)
        entry = score(said.algorithm, said.env, said.seeds, said.steps)
        path = write(said.algorithm, name, entry)
    except Interrupted:
        print("stopped; the run is saved, and the same command goes on", file=sys.stderr)
        return 130
    except UserError as error:
        print("scores:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if before:
        print(f"before: {describe(before, name, 0)}")
    print(f"{said.algorithm} on {name}: {describe(entry, name, 0)}")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

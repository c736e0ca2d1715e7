"""Every way to misbehave, in this process and in workers: one line that names it, and nobody waits."""

import os
import subprocess
import sys
import time
from pathlib import Path

from misbehaving import BOX, ENDS, GIVES, RAISES

from polyak.temporary import TemporaryFolder

SLOW = 90.0
HERE = Path(__file__).parents[1]
HARMLESS = {"info is no mapping", "nothing"}
BASE = [
    "train",
    "ppo",
    "misbehaving:Bad",
    "--no-preset",
    "--num-envs",
    "2",
    "--steps",
    "96",
    "--eval-every",
    "48",
]
BASE += [
    "--eval-episodes",
    "2",
    "--checkpoint-every",
    "16",
    "--config.data.steps",
    "8",
    "--config.minibatch",
    "8",
]
BASE += ["--config.epochs", "1", "--config.hidden", "4", "--name", "run", "--deadline", "3"]


def torture(table, seconds):
    """Each way in each call; those that end or block this process only where they have one of their own."""
    for place in ("sync", "async"):
        until = time.monotonic() + seconds / 2
        hows = [*RAISES, *GIVES] if place == "sync" else [*RAISES, *ENDS, *GIVES]
        for how in hows:
            for where in ("step", "reset", "close") if how in RAISES else ("step",):
                if time.monotonic() > until:
                    break
                table.add(f"environments, {place}", attempt(how, where, place), f"{how} in {where}")


def attempt(how, where, place):
    """What comes of a run on such an environment."""
    at = 5 if where == "step" else 2 if where == "reset" else 1
    words = [*BASE, "--vectorization", place, "--env.how", how, "--env.where", where, "--env.at", str(at)]
    same = how in GIVES and GIVES[how][0] is not BOX  # else the spaces of evaluation are others
    words += ["--eval-env.how", how if same else "nothing"]
    with TemporaryFolder() as folder:
        path = os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))
        process = subprocess.Popen(
            [sys.executable, "-m", "polyak", *words], cwd=folder, env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            _, errors = process.communicate(timeout=SLOW)
        except subprocess.TimeoutExpired:
            process.kill()
            return "hung"
        if "Traceback" in errors or "\x1b" in errors:
            print(how, where, place, errors[-1000:], file=sys.stderr)
            return "crashed"
        lines = [line for line in errors.splitlines() if line.startswith("polyak: ")]
        if where == "close" or how in HARMLESS or process.returncode == 0:
            warned = where == "close" or how in HARMLESS
            return (
                "done"
                if process.returncode == 0 and warned
                else "refused"
                if process.returncode == 2
                else "lost"
            )
        named = process.returncode == 2 and len(lines) == 1 and "environment" in lines[0]
        if not named:
            print(how, where, place, process.returncode, errors[-1000:], file=sys.stderr)
        return "refused" if named else "crashed"

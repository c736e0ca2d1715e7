"""Signals at random moments: a run that was stopped so often ends as one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from polyak.temporary import TemporaryFolder

SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "pipe")
WORDS = [
    "train",
    "dqn",
    "CartPole-v1",
    "--no-preset",
    "--num-envs",
    "2",
    "--eval-every",
    "400",
    "--eval-episodes",
    "1",
]
WORDS += [
    "--eval-limit",
    "20",
    "--checkpoint-every",
    "40",
    "--config.hidden",
    "8",
    "--config.data.capacity",
    "500",
]
WORDS += ["--config.data.batch_size", "8", "--config.data.warmup", "40"]


def torture(table, seconds):
    """Stop and resume runs until the time is over."""
    until, rng = time.monotonic() + seconds, random.Random(0)
    with TemporaryFolder() as folder:
        words = [*WORDS, "--steps", "4000"]
        run(words, folder, "whole").communicate()
        whole = digest(folder, "whole")
        for number in range(1000):
            if time.monotonic() > until:
                break
            stop_often(table, folder, f"parts{number}", words, rng, until, whole)


def stop_often(table, folder, name, words, rng, until, whole):
    """One run, stopped until it is done."""
    again, stops = words, []
    for _ in range(100):
        process = run(again, folder, name)
        how = rng.choice(SIGNALS)
        wait = rng.random() * 6.0 if len(stops) < 8 and time.monotonic() < until else 300.0
        try:
            _, errors = process.communicate(timeout=wait)
            if process.returncode == 0:
                break
            table.add("kills", "crashed", f"exit {process.returncode}: {errors[-300:]}")
            return
        except subprocess.TimeoutExpired:
            stops.append(how)
            table.add("kills", stop(process, how), how)
        config = Path(folder) / "runs" / name / "config.json"
        again = ["resume", f"runs/{name}"] if config.is_file() else words
    found = digest(folder, name)
    table.add("kills", "done" if found == whole else "lost", f"{name}: {stops}")


def stop(process, how):
    """Stop a run; what came of it."""
    if how == "pipe":
        process.stdout.close()
        process.stdout = None
    else:
        os.killpg(process.pid, getattr(signal, how)) if how != "SIGINT" else process.send_signal(
            signal.SIGINT
        )
    try:
        _, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        return "hung"
    early = process.returncode in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)  # before its first line
    expected = {"SIGKILL": (-signal.SIGKILL,)}.get(how, (0, 130, 141))
    if "Traceback" in errors and not early and "KeyboardInterrupt" not in errors.splitlines()[-1]:
        return "crashed"
    return "done" if early or process.returncode in expected else "crashed"


def run(words, folder, name):
    """A command in a process group of its own."""
    if words[0] == "train":
        words = [*words, "--name", name]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-m", "polyak", *words], cwd=folder, **pipes)


def digest(folder, name):
    """One line that equal runs share."""
    said, _ = run(["digest", f"runs/{name}"], folder, name).communicate()
    return said.strip() or None

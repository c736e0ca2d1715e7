"""`make demo`: train TD3 on Pendulum-v1, evaluate it, draw its curve and film it, by the commands a user types."""

import shlex
import sys
import time
from pathlib import Path

from polyak.cli import main
from polyak.runs.folder import name_run


def demo(out: str = "runs", steps: int = 20_000, episodes: int = 100) -> int:
    """Every part as its command; says where the results are and how long each part took. Returns an exit code."""
    name = name_run("demo", "", out)
    run = Path(out) / name
    train = ["train", "td3", "Pendulum-v1", "--steps", str(steps)]
    parts = [
        [*train, "--out", out, "--name", name],
        ["evaluate", str(run), "--episodes", str(episodes)],
        ["watch", str(run)],
    ]
    took = []
    for part in parts:
        print(f"\n$ polyak {shlex.join(part)}", flush=True)
        began = time.monotonic()
        if code := main(part):
            return code
        took.append((part[0], time.monotonic() - began))
    print("\ndone in " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took))
    print(f"  curve  {run / 'curve.png'}")
    for video in sorted((run / "videos").glob("*.mp4")):
        print(f"  video  {video}")
    return 0


if __name__ == "__main__":
    sys.exit(demo())

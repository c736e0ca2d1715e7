"""Seconds that a person waits from the start of a command, as one line of JSON.

`help` is `polyak --help`; of `polyak train td3 Pendulum-v1`: `header` the run's name and folder, `facts` the planned
memory, `progress` the first line of progress. `compile_cached` is what compiling takes when the same run starts a
second time.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

RUN = ["train", "td3", "Pendulum-v1", "--steps", "30000"]


def first_lines(words: list[str], cwd: str, environment: dict[str, str]) -> dict[str, float]:
    """When each kind of line was first printed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "polyak", *words], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = {}
    assert process.stdout is not None
    for line in process.stdout:
        now = time.perf_counter() - began
        for name, mark in (
            ("header", r"^td3-"),
            ("facts", r"^ +replay"),
            ("compile", r"^compiling"),
            ("progress", r"^ *[\d,]+/[\d,]+ steps|evaluation"),
        ):
            if re.search(mark, line):
                found.setdefault(name, now)
        if took := re.match(r"compiling: ([\d.]+) s", line):
            found["compile_s"] = float(took[1])
        if "progress" in found:
            break
    process.kill()
    process.wait()
    return found


def main() -> None:
    """Measure with an empty cache, then with the one it left."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "polyak", "--help"], stdout=subprocess.DEVNULL, check=True)
    found: dict[str, Any] = {"help": time.perf_counter() - began}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "POLYAK_CACHE": f"{folder}/cache"}
        found["first"] = first_lines(RUN, folder, environment)
        found["second"] = first_lines(RUN, folder, environment)
    if not all({"header", "facts", "progress"} <= found[name].keys() for name in ("first", "second")):
        sys.exit("a run ended before its first line of progress")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""polyak and its rivals in turn: `make bench`, or `.venv/bin/python benchmarks/bench.py [WORK ...]`.

Every measurement is a process of its own. Those of a work take turns of a second (see turns.py), as often as
`--repeats` says. Writes benchmarks/results/LABEL.json and LABEL.png and prints the table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measured import versions
from turns import take_turns
from works import SEEDS, USUAL, WORKS

HERE = Path(__file__).parent
ROOT = HERE.parent
RIVALS = HERE / ".venv" / "bin" / "python"
START = "start"


def call(python: Path | str, *words: str) -> dict[str, Any]:
    """One measurement in a process; its last line is JSON."""
    done = subprocess.run(
        [str(python), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "POLYAK_CACHE": "off"},
    )
    if done.returncode:
        return {
            "error": done.stderr.strip().splitlines()[-1]
            if done.stderr.strip()
            else f"exit {done.returncode}"
        }
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(name: str, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Each side's measurements of one work, made in turns."""
    found: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(repeats):
        commands = {"polyak": [sys.executable, "benchmarks/ours.py", name, "--seed", str(repeat)]}
        if name in SEEDS:
            commands["one"] = [*commands["polyak"], "--seeds", "1"]
            commands["polyak"] += ["--seeds", str(SEEDS[name].seeds)]
        else:
            rivals = WORKS[name].goals
            commands |= {rival: [str(RIVALS), "benchmarks/rivals.py", rival, name] for rival in rivals}
        say(f"{name}: {', '.join(commands)} ({repeat + 1} of {repeats})")
        for side, measured in take_turns(commands).items():
            found.setdefault(side, []).append(measured)
    return found


def say(text: str) -> None:
    """What is being measured, on stderr."""
    print(text, file=sys.stderr, flush=True)


def median(measured: list[dict[str, Any]], what: str) -> float | None:
    """Over the repeats that gave it."""
    values = [m[what] for m in measured if what in m]
    return statistics.median(values) if values else None


def ratios(found: dict[str, list[dict[str, Any]]], side: str) -> list[float]:
    """polyak's rate over a rival's, repeat by repeat."""
    pairs = zip(found["polyak"], found[side], strict=True)
    return [
        ours["steps_per_s"] / theirs["steps_per_s"]
        for ours, theirs in pairs
        if "error" not in {**ours, **theirs}
    ]


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The table: one line for each pair."""
    lines = []
    for name, found in results["works"].items():
        work = {**WORKS, **SEEDS}[name]
        limit = results["limits"].get(name, {})
        rate = median(found["polyak"], "steps_per_s")
        share = rate / limit["steps_per_s"] if rate and limit else None
        measured = {side: goal for side, goal in work.goals.items() if side in found}
        for side, goal in measured.items() or [("nothing", 0.0)]:
            pairs = ratios(found, side) if side in found else []
            middle = (
                f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})" if pairs else "-"
            )
            label = "1 seed" if side == "one" else side
            theirs = median(found.get(side, []), "steps_per_s")
            memory = [median(found.get(who, []), "peak_mb") for who in ("polyak", side)]
            compiled = [median(found.get(who, []), "compile_s") for who in ("polyak", side)]
            lines.append(
                [
                    work.title + (f", {work.seeds} seeds" if side == "one" else ""),
                    label,
                    number(rate),
                    number(theirs),
                    middle,
                    f"{goal:g}",
                    "-" if share is None else f"{share:.0%}",
                    " / ".join("-" if s is None else f"{s:.1f}" for s in compiled),
                    " / ".join("-" if m is None else f"{m:,.0f}" for m in memory),
                ]
            )
    return lines


HEAD = [
    "work",
    "beside",
    "polyak, steps/s",
    "beside, steps/s",
    "ratio",
    "goal",
    "of the products",
    "compile, s",
    "peak, MB",
]


def number(value: float | None) -> str:
    """With commas."""
    return "-" if value is None else f"{value:,.0f}"


def table(results: dict[str, Any]) -> str:
    """In Markdown, its columns aligned."""
    cells = [HEAD, *rows(results)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def report(results: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    about = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    lines = [
        f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, {packages}; {about['time']} UTC."
    ]
    if START in results:
        start = results[START]
        lines.append(
            "Start, in seconds: `polyak --help` {help:.2f}; a first run of TD3 on Pendulum-v1 shows name and folder "
            "after {header:.2f}, planned memory after {facts:.1f}, its first progress after {progress:.1f}; "
            "a second one {again:.1f}, of which compiling {compiled}.".format(
                help=start["help"],
                again=start["second"]["progress"],
                compiled=start["second"].get("compile_s", "under 1"),
                **{name: start["first"][name] for name in ("header", "facts", "progress")},
            )
        )
    return "\n\n".join([table(results), *lines]) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Ratios as bars, the goals as marks."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    bars = []
    for name, found in results["works"].items():
        work = {**WORKS, **SEEDS}[name]
        for side, goal in work.goals.items():
            if pairs := ratios(found, side) if side in found else []:
                label = (
                    f"{work.title}\n{f'{work.seeds} seeds / 1 seed' if side == 'one' else f'polyak / {side}'}"
                )
                bars.append((label, statistics.median(pairs), min(pairs), max(pairs), goal))
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(bars) + 1.2), layout="constrained")
    places = range(len(bars))[::-1]
    middles = [bar[1] for bar in bars]
    spread = [[bar[1] - bar[2] for bar in bars], [bar[3] - bar[1] for bar in bars]]
    axes.barh(places, middles, xerr=spread, color="#3b6ea5", ecolor="#1c2f45", height=0.6)
    axes.scatter([bar[4] for bar in bars], places, marker="|", s=300, color="#d1495b", label="goal", zorder=3)
    axes.axvline(1.0, color="#888888", linewidth=0.8)
    axes.set_yticks(places, [bar[0] for bar in bars], fontsize=8)
    axes.set_xlabel("steps per second, as a ratio (same machine, in turns)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() + ("+" if changed.strip() else ""),
        "packages": versions("jax", "jaxlib", "gymnasium", "mujoco", "numpy"),
        "time": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def main() -> None:
    """Measure, write, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("works", nargs="*", default=[*USUAL, START], help=" ".join([*WORKS, *SEEDS, START]))
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--label", default="cpu")
    said = options.parse_args()
    results: dict[str, Any] = {"machine": machine(), "works": {}, "limits": {}}
    on_products = [name for name in said.works if name in WORKS]
    if on_products:
        say("limits")
        results["limits"] = call(sys.executable, "benchmarks/limits.py", *on_products)
    for name in said.works:
        if name == START:
            say(START)
            results[START] = call(sys.executable, "benchmarks/start.py")
        else:
            results["works"][name] = compare(name, said.repeats)
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{said.label}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if results["works"]:
        draw(results, folder / f"{said.label}.png")
        print(table(results))
    if START in results:
        print("\nstart, seconds:", json.dumps(results[START]))
    recompiled = {m.get("compilations", 0) for found in results["works"].values() for m in found["polyak"]}
    print(f"programs compiled by polyak while it was timed: {max(recompiled, default=0)}")
    for name, found in results["works"].items():
        for side, measured in found.items():
            for error in {m["error"] for m in measured if "error" in m}:
                print(f"{name}, {side}: {error}")


if __name__ == "__main__":
    main()

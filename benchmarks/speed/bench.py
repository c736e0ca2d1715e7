"""polyak and its rivals in turn: `make bench`, or `.venv/bin/python benchmarks/speed/bench.py [WORKLOAD ...]`.

Every measurement is a process of its own. Those of a workload take turns of a second (see interleave.py), as often as
`--repeats` says. Writes benchmarks/speed/results/LABEL.json and LABEL.png and prints the table. One that cannot
start, dies or hangs is named with its error, left out of further repeats, and the rest goes on.

`--against DIR` measures this checkout beside the polyak of another one instead, and stores nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interleave import interleave, lines_of, short, text_file
from measure import versions
from workloads import SEEDS, USUAL, WORKLOADS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RIVALS = HERE.parent / ".venv" / "bin" / "python"
START = "start"
CALL_SECONDS = 1800.0  # for a measurement that stands alone
LONGEST = 100  # characters of an error in a table

Found = dict[str, list[dict[str, Any]]]  # contender -> one result for each repeat


def call(python: Path | str, *words: str, patience: float = CALL_SECONDS) -> dict[str, Any]:
    """The result of one measurement in a process, whose last line is JSON; or an error."""
    environment = {**os.environ, **import_from(ROOT), "POLYAK_CACHE": "off"}
    with text_file() as printed, text_file() as errors:
        try:
            process = subprocess.Popen(
                [str(python), *words],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            return {"error": f"{short(str(python))} cannot be started: {error.strerror}"}
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            return {"error": f"no result within {patience:g} s"}
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        said, wrong = (lines_of(file) for file in (printed, errors))
    if process.returncode:
        return {"error": wrong[-1] if wrong else f"exit {process.returncode}"}
    try:
        return json.loads(said[-1])
    except (ValueError, IndexError):
        return {"error": wrong[-1] if wrong else "left without a line of JSON"}


def import_from(checkout: Path) -> dict[str, str]:
    """The environment in which `import polyak` finds this checkout's, whatever is installed."""
    before = [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {"PYTHONPATH": os.pathsep.join([str(checkout / "src"), *before])}


def contenders(name: str, repeat: int) -> dict[str, list[str]]:
    """The commands of one workload: polyak's, and each rival's or one seed's."""
    ours = [sys.executable, "benchmarks/speed/polyak_side.py", name, "--seed", str(repeat)]
    if name in SEEDS:
        return {"polyak": [*ours, "--seeds", str(SEEDS[name].seeds)], "one": [*ours, "--seeds", "1"]}
    rivals = WORKLOADS[name].goals
    return {"polyak": ours} | {
        rival: [str(RIVALS), "benchmarks/speed/rivals.py", rival, name] for rival in rivals
    }


def compare(name: str, repeats: int) -> Found:
    """Each contender's results in one workload, made in turns."""
    theirs = {"polyak": import_from(ROOT), "one": import_from(ROOT)}
    return repeated(name, repeats, lambda repeat: contenders(name, repeat), theirs)


def repeated(
    name: str,
    repeats: int,
    commands: Callable[[int], dict[str, list[str]]],
    environments: dict[str, dict[str, str]],
) -> Found:
    """Results of so many repeats. A contender that failed once keeps its error and is left out."""
    found: Found = {}
    for repeat in range(repeats):
        left = commands(repeat)
        failed = {side: found[side][-1] for side in left if side in found and "error" in found[side][-1]}
        left = {side: words for side, words in left.items() if side not in failed}
        say(f"{name}: {', '.join(left) or 'nothing is left'} ({repeat + 1} of {repeats})")
        for side, measured in (interleave(left, environments) | failed).items():
            if "error" in measured and side not in failed:
                say(f"{name}, {side} is left out: {measured['error']}")
            found.setdefault(side, []).append(measured)
    return found


def against(name: str, repeats: int, other: Path) -> Found:
    """This checkout's results and those of another one ("before") in one workload, made in turns."""
    script = side_script(other)

    def commands(repeat: int) -> dict[str, list[str]]:
        ours = contenders(name, repeat)["polyak"]
        return {"polyak": ours, "before": [ours[0], str(script), *ours[2:]]}

    return repeated(name, repeats, commands, {"polyak": import_from(ROOT), "before": import_from(other)})


def side_script(checkout: Path) -> Path:
    """The program of another checkout that measures its polyak, since what it calls differs between checkouts."""
    places = [checkout / "benchmarks" / place for place in ("speed/polyak_side.py", "ours.py")]
    for place in places:
        if place.is_file():
            return place
    sys.exit(f"{checkout} has neither of " + ", ".join(str(place.relative_to(checkout)) for place in places))


def check_import(checkout: Path) -> None:
    """Exit unless `import polyak` finds this checkout's when it is asked for."""
    program = "import json, polyak; print(json.dumps({'file': polyak.__file__}))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **import_from(checkout)},
        capture_output=True,
        text=True,
    )
    found = json.loads(ran.stdout)["file"] if ran.returncode == 0 else ran.stderr.strip()
    if not Path(found).is_relative_to(checkout):
        sys.exit(f"`import polyak` does not find that of {checkout}: {found}")


def say(text: str) -> None:
    """Tell on stderr what is being measured."""
    print(text, file=sys.stderr, flush=True)


def median(measured: list[dict[str, Any]], what: str) -> float | None:
    """The median over the repeats that gave it."""
    values = [m[what] for m in measured if what in m]
    return statistics.median(values) if values else None


def ratios(found: Found, side: str) -> list[float]:
    """polyak's rate over a rival's, repeat by repeat."""
    pairs = zip(found["polyak"], found[side], strict=True)
    return [
        ours["steps_per_s"] / theirs["steps_per_s"]
        for ours, theirs in pairs
        if "error" not in {**ours, **theirs}
    ]


def middle(pairs: list[float]) -> str:
    """The median of ratios and their range."""
    if not pairs:
        return "-"
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def errors(found: Found, *sides: str) -> str:
    """The errors that left these contenders out, fit for a cell of a table; "" if there was none."""
    seen = {side: m["error"] for side in sides for m in found.get(side, []) if "error" in m}
    words = "; ".join(f"{side} left out: {error}" for side, error in seen.items())
    words = " ".join(words.replace("|", "/").split())
    return words if len(words) <= LONGEST else words[: LONGEST - 3] + "..."


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The cells of the table: one line for each pair."""
    lines = []
    for name, found in results["workloads"].items():
        workload = {**WORKLOADS, **SEEDS}[name]
        limit = results["roofline"].get(name, {})
        rate = median(found["polyak"], "steps_per_s")
        share = rate / limit["steps_per_s"] if rate and limit else None
        beside = {side: goal for side, goal in workload.goals.items() if side in found}
        for side, goal in beside.items() or [("nothing", 0.0)]:
            pairs = ratios(found, side) if side in found else []
            memory = [median(found.get(who, []), "peak_mb") for who in ("polyak", side)]
            compiled = [median(found.get(who, []), "compile_s") for who in ("polyak", side)]
            lines.append(
                [
                    workload.title + (f", {workload.seeds} seeds" if side == "one" else ""),
                    "1 seed" if side == "one" else side,
                    number(rate),
                    number(median(found.get(side, []), "steps_per_s")),
                    errors(found, "polyak", side) or middle(pairs),
                    f"{goal:g}",
                    "-" if share is None else f"{share:.0%}",
                    " / ".join("-" if s is None else f"{s:.1f}" for s in compiled),
                    " / ".join("-" if m is None else f"{m:,.0f}" for m in memory),
                ]
            )
    return lines


def rows_against(workloads: dict[str, Found]) -> list[list[str]]:
    """The cells of the table of now and before: one line for each workload."""
    lines = []
    for name, found in workloads.items():
        workload = {**WORKLOADS, **SEEDS}[name]
        both = [found["polyak"], found["before"]]
        compiled = [median(measured, "compile_s") for measured in both]
        memory = [median(measured, "peak_mb") for measured in both]
        lines.append(
            [
                workload.title + (f", {workload.seeds} seeds" if name in SEEDS else ""),
                *(number(median(measured, "steps_per_s")) for measured in both),
                errors(found, "polyak", "before") or middle(ratios(found, "before")),
                " / ".join("-" if s is None else f"{s:.1f}" for s in compiled),
                " / ".join("-" if m is None else f"{m:,.0f}" for m in memory),
            ]
        )
    return lines


HEAD = [
    "workload",
    "beside",
    "polyak, steps/s",
    "beside, steps/s",
    "ratio",
    "goal",
    "of the products",
    "compile, s",
    "peak, MB",
]
HEAD_AGAINST = ["workload", "now, steps/s", "before, steps/s", "now / before", "compile, s", "peak, MB"]


def number(value: float | None) -> str:
    """A number with commas."""
    return "-" if value is None else f"{value:,.0f}"


def table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown, its columns aligned."""
    cells = [head, *lines]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def report(results: dict[str, Any]) -> str:
    """The table, and what it was measured on."""
    about = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    lines = [
        f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, {packages}; {about['time']} UTC."
    ]
    start = results.get(START, {})
    if "error" in start:
        lines.append(f"Start: not measured ({start['error']}).")
    elif start:
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
    return "\n\n".join([table(HEAD, rows(results)), *lines]) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw ratios as bars and goals as marks; nothing where there is no ratio."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    bars = []
    for name, found in results["workloads"].items():
        workload = {**WORKLOADS, **SEEDS}[name]
        for side, goal in workload.goals.items():
            if pairs := ratios(found, side) if side in found else []:
                pair = f"{workload.seeds} seeds / 1 seed" if side == "one" else f"polyak / {side}"
                bars.append(
                    (f"{workload.title}\n{pair}", statistics.median(pairs), min(pairs), max(pairs), goal)
                )
    if not bars:
        return
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
    """The machine, its software and the commit that was measured."""
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


def measure_all(names: list[str], repeats: int) -> dict[str, Any]:
    """Everything that `make bench` keeps."""
    results: dict[str, Any] = {"machine": machine(), "workloads": {}, "roofline": {}}
    on_products = [name for name in names if name in WORKLOADS and WORKLOADS[name].products]
    if on_products:
        say("roofline")
        results["roofline"] = call(sys.executable, "benchmarks/speed/roofline.py", *on_products)
    for name in names:
        if name == START:
            say(START)
            results[START] = call(sys.executable, "benchmarks/speed/start.py")
        else:
            results["workloads"][name] = compare(name, repeats)
    return results


def show(results: dict[str, Any]) -> None:
    """Print the tables, whether something compiled while it was timed, and every error in full."""
    if results["workloads"]:
        print(table(HEAD, rows(results)))
    if START in results:
        print("\nstart, seconds:", json.dumps(results[START]))
    if "error" in results["roofline"]:
        print("roofline:", results["roofline"]["error"])
    recompiled = {
        m.get("compilations", 0) for found in results["workloads"].values() for m in found["polyak"]
    }
    print(f"programs compiled by polyak while it was timed: {max(recompiled, default=0)}")
    show_errors(results["workloads"])


def show_errors(workloads: dict[str, Found]) -> None:
    """Print each error once."""
    for name, found in workloads.items():
        for side, measured in found.items():
            for error in sorted({m["error"] for m in measured if "error" in m}):
                print(f"{name}, {side}: {error}")


def main() -> None:
    """Measure, write, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [*WORKLOADS, *SEEDS, START]
    options.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=" ".join(names))
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--label", default="cpu")
    options.add_argument("--against", type=Path, metavar="DIR", help="another checkout of polyak")
    said = options.parse_args()
    if unknown := [name for name in said.workloads if name not in names]:
        options.error(f"no workload {unknown[0]!r}: choose from {', '.join(names)}")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))  # ends those that stand still
    if said.against:
        other = said.against.resolve()
        for checkout in (ROOT, other):
            check_import(checkout)
        chosen = [name for name in said.workloads or USUAL if name != START]
        found = {name: against(name, said.repeats, other) for name in chosen}
        print(table(HEAD_AGAINST, rows_against(found)))
        show_errors(found)
        return
    results = measure_all(said.workloads or [*USUAL, START], said.repeats)
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{said.label}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, folder / f"{said.label}.png")
    show(results)


if __name__ == "__main__":
    main()

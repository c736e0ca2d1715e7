"""Run the checks of the lecture notes' rows: `python -m reproductions.rows [--row ID [--long]]`, or `make rows`.

Each check is a process of its own with a time limit. A check that exits with anything but 0, or takes too long, falls
short. The last line counts all rows of the notes. `--jobs 8 --minutes 10` runs eight at once, each on cores of its
own, and also those that take up to ten minutes.
"""

import argparse
import contextlib
import datetime
import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from polyak.errors import UserError, nearest
from polyak.temporary import TemporaryFolder

HERE = Path(__file__).resolve().parent
ROWS, NOTES = HERE / "rows.toml", HERE / "rows_of_the_notes.toml"
QUICK = 2.0  # minutes: what takes longer runs only where it is asked for
PATIENCE = 5.0  # times what a check usually takes, and a minute; then it counts as hanging
LONG_HOURS = 24.0  # the same for a published protocol
SHOWN = 15  # lines of a check that fell short


@dataclass(frozen=True)
class Row:
    """An entry of rows.toml; its first lines say what the fields mean."""

    id: str
    title: str
    claim: str
    check: str
    minutes: float
    long: str = ""
    part: str = ""
    measured: str = ""
    measured_long: str = ""


class Method(NamedTuple):
    """A row of the notes."""

    lectures: list[int]
    title: str


class Outcome(NamedTuple):
    """What became of a check."""

    held: bool
    figure: str  # the last line that it printed
    lines: list[str]
    seconds: float


def read_rows(path: Path = ROWS) -> dict[str, Row]:
    """The rows that stand, in the order of the file; UserError names a field that is none or is missing."""
    known = {f.name: f for f in fields(Row)}
    rows = {}
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if wrong := entry.keys() - known.keys():
            raise UserError(f"{path.name}: {name} has no field {min(wrong)!r}: {nearest(min(wrong), known)}")
        if missing := {"title", "claim", "check", "minutes"} - entry.keys():
            raise UserError(f"{path.name}: {name} has no {min(missing)!r}")
        rows[name] = Row(name, **entry)
    return rows


def read_notes(path: Path = NOTES) -> dict[str, Method]:
    """Every row of the notes."""
    return {name: Method(**entry) for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()}


# ---- one check


def run_check(
    command: str, limit: float, echo: bool = False, tick: Any = None, cores: set[int] | None = None
) -> Outcome:
    """Run a command for at most `limit` seconds. Nothing that it started outlives it, also after Ctrl-C.

    echo   print its lines as they come
    tick   called with the seconds so far, about once a second
    cores  of the processor, which it may use; None: all
    """
    began, lines = time.monotonic(), []
    with TemporaryFolder() as scratch:
        with on_cores(cores):
            process = subprocess.Popen(
                words(command),
                cwd=HERE.parent,
                env=os.environ | {"TMPDIR": scratch, "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )

        def read() -> None:
            assert process.stdout is not None
            with process.stdout as stream:
                for line in stream:
                    lines.append(line.rstrip())
                    if echo:
                        print(line, end="", flush=True)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            code = wait(process, began + limit, tick)
        finally:
            end_group(process)
            reader.join(10)
    seconds = time.monotonic() - began
    if code is None:
        return Outcome(False, f"stopped after {seconds:.0f} s", lines, seconds)
    figure = next((line for line in reversed(lines) if line.strip()), "")
    return Outcome(code == 0, figure or f"printed nothing, exit code {code}", lines, seconds)


def wait(process: subprocess.Popen, until: float, tick: Any) -> int | None:
    """The exit code, None where time is up."""
    began = time.monotonic()
    while (left := until - time.monotonic()) > 0:
        try:
            return process.wait(min(1.0, left))
        except subprocess.TimeoutExpired:
            if tick is not None:
                tick(time.monotonic() - began)
    return None


def end_group(process: subprocess.Popen) -> None:
    """Kill a process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def words(command: str) -> list[str]:
    """A command as words, with this Python for `python` and this polyak for `polyak`."""
    first, *rest = shlex.split(command)
    own = {"python": [sys.executable], "polyak": [sys.executable, "-m", "polyak"]}
    return [*own.get(first, [first]), *rest]


# ---- all of them


def closing_line(outcomes: Mapping[str, bool], rows: Mapping[str, Row], total: int) -> str:
    """Count the rows of the notes: `rows: 61 hold, 4 in part, 2 fall short, 26 not yet`."""
    held = [rows[name] for name, good in outcomes.items() if good]
    part = sum(bool(row.part) for row in held)
    short, skipped = len(outcomes) - len(held), len(rows) - len(outcomes)
    counts = [f"{len(held) - part} hold"]
    counts += [f"{part} in part"] if part else []
    counts += [f"{short} fall short"]
    counts += [f"{skipped} not run"] if skipped else []
    return f"rows: {', '.join(counts)}, {total - len(rows)} not yet"


def run_all(
    rows: Mapping[str, Row],
    total: int,
    patience: float = PATIENCE,
    keep: Any = None,
    jobs: int = 1,
    minutes: float = QUICK,
) -> int:
    """Run every check of at most `minutes`, `jobs` at once, and print the closing line. Returns the exit code."""
    wanted = [row for row in rows.values() if row.minutes <= minutes]
    if longer := [name for name, row in rows.items() if row.minutes > minutes]:
        most = max(rows[name].minutes for name in longer)
        print(
            f"left out, since they take longer: {', '.join(longer)}; MINUTES={most:g} runs them too",
            flush=True,
        )
    if jobs > 1:
        wanted.sort(key=lambda row: -row.minutes)  # the longest first
    left = sum(row.minutes for row in wanted)
    outcomes: dict[str, bool] = {}
    stopped, one_by_one, free = threading.Event(), threading.Lock(), queue.SimpleQueue()
    for cores in shares_of_cores(jobs):
        free.put(cores)

    def check(number: int, row: Row) -> None:
        cores, on_terminal = free.get(), ticker() if jobs == 1 else None

        def tick(seconds: float) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt
            if on_terminal is not None:
                on_terminal(seconds)

        after = (left - sum(row.minutes for row in wanted[: number - 1])) / jobs
        print(
            f"[{number}/{len(wanted)}] {row.id}  {row.title} (about {after:.0f} min left in all)", flush=True
        )
        limit = patience * 60 * row.minutes + min(60, 60 * patience)
        outcome = run_check(row.check, limit, tick=tick, cores=cores)
        free.put(cores)
        with one_by_one:
            outcomes[row.id] = outcome.held
            show(row, outcome, row.id if jobs > 1 else "")
            if keep is not None and outcome.held:
                keep(row, "measured", outcome.figure)

    code = 0
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(check, number, row) for number, row in enumerate(wanted, 1)]
        try:
            for done in as_completed(running):
                done.result()
        except KeyboardInterrupt:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            print("\nstopped", flush=True)
            code = 130
    print(closing_line(outcomes, rows, total), flush=True)
    return code or int(not all(outcomes.values()))


@contextlib.contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """What this thread starts meanwhile has these cores from its first instruction on; None: those of the thread."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def shares_of_cores(jobs: int) -> list[set[int] | None]:
    """The cores of each of `jobs` checks that run at once: all of one alone; UserError where there are too few."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= jobs <= len(cores):
        raise UserError(f"--jobs is {jobs}: give 1 to {len(cores)}, the number of cores")
    return [set(cores[job::jobs]) for job in range(jobs)]


def show(row: Row, outcome: Outcome, name: str = "") -> None:
    """How a check went, with its name where others run beside it; the last lines of one that fell short."""
    if not outcome.held:
        for line in outcome.lines[-SHOWN:]:
            print(f"    | {line}")
    state = ("holds in part" if row.part else "holds") if outcome.held else "falls short"
    print(f"    {name and name + ' '}{state}: {outcome.figure}  ({outcome.seconds:.0f} s)", flush=True)
    if row.part and outcome.held:
        print(f"    missing: {row.part}", flush=True)


def ticker() -> Any:
    """Shows on a terminal that a check still runs."""
    if not sys.stdout.isatty():
        return None
    return lambda seconds: print(f"    {seconds:.0f} s", end="\r", flush=True)


def run_one(
    name: str,
    rows: Mapping[str, Row],
    notes: Mapping[str, Method],
    long: bool = False,
    patience: float = PATIENCE,
    keep: Any = None,
) -> int:
    """Run one row's check, or its longer form, and print what it prints. Returns the exit code."""
    if name not in notes:
        raise UserError(f"unknown row {name!r}: {nearest(name, notes)}")
    if name not in rows:
        raise UserError(f"row {name} ({notes[name].title}) has no check yet")
    row = rows[name]
    if long and not row.long:
        raise UserError(f"row {name} has no longer form: its check is {row.check}")
    print(f"{name}  {row.title}\n    {row.claim}\n$ {row.long if long else row.check}", flush=True)
    limit = 3600 * LONG_HOURS if long else patience * 60 * row.minutes + 60
    try:
        outcome = run_check(row.long if long else row.check, limit, echo=True)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 130
    if keep is not None and outcome.held:
        keep(row, "measured_long" if long else "measured", outcome.figure)
    state = ("holds in part" if row.part else "holds") if outcome.held else f"falls short ({outcome.figure})"
    print(f"{name} {state}, {outcome.seconds:.0f} s" + (f"; missing: {row.part}" if row.part else ""))
    return int(not outcome.held)


# ---- what was measured


class Keeper:
    """Writes figures into a rows file, each with the day and the commit."""

    def __init__(self, path: Path = ROWS):
        self.path, self.commit = path, commit()

    def __call__(self, row: Row, name: str, figure: str) -> None:
        """Put `figure` into the field `name` of a row."""
        value = f"{figure}; {datetime.date.today().isoformat()}, {self.commit}"
        text = self.path.read_text(encoding="utf-8")
        self.path.write_text(with_field(text, row.id, name, value), encoding="utf-8")


def with_field(text: str, row: str, name: str, value: str) -> str:
    """The text of a rows file with another value in one field of one row."""
    line = f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
    before, begin, rest = text.partition(f"[{row}]\n")
    own, end, after = re.split(r"(^(?=\[)|\Z)", rest, maxsplit=1, flags=re.MULTILINE)
    body, gap = own.rstrip() + "\n", own[len(own.rstrip()) + 1 :]
    changed, count = re.subn(rf"^{name} = .*\n", lambda _: line, body, flags=re.MULTILINE)
    return before + begin + (changed if count else body + line) + gap + end + after


def commit() -> str:
    """The commit that is checked out, with a + where code differs from it."""

    def git(*said: str) -> str:
        done = subprocess.run(["git", *said], cwd=HERE.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src", "reproductions/*.py")
        return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"


def main(argv: Sequence[str] | None = None, rows_path: Path = ROWS, notes_path: Path = NOTES) -> int:
    """Run what the command line asks for. Returns 0, 1 where a check falls short, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m reproductions.rows", description=__doc__.splitlines()[0])
    parser.add_argument("--row", metavar="ID", help="only this row")
    parser.add_argument("--long", action="store_true", help="its published protocol")
    parser.add_argument("--write", action="store_true", help="keep the figures of what holds in rows.toml")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="times what a check usually takes")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="checks that run at once (1)")
    parser.add_argument("--minutes", type=float, default=QUICK, help="leave out what takes longer (2)")
    said = parser.parse_args(argv)
    try:
        rows, notes = read_rows(rows_path), read_notes(notes_path)
        keep = Keeper(rows_path) if said.write else None
        if said.row is None:
            if said.long:
                raise UserError("--long needs --row: name the row whose published protocol is to run")
            return run_all(rows, len(notes), said.patience, keep, said.jobs, said.minutes)
        return run_one(said.row, rows, notes, said.long, said.patience, keep)
    except UserError as error:
        print(f"rows: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as by Ctrl-C, with what it started
    sys.exit(main())

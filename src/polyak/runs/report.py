"""Runs on one page: read their folders, compare them, write HTML, a picture and a table.

Only config.json, metrics.jsonl and videos of a folder are read; nothing of it is run or followed, and no environment is
made. A folder that cannot be read is left out in one line, and the others are shown.
"""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from polyak import files
from polyak.errors import CheckpointError, UserError, brief, printable
from polyak.runs.folder import RunFolder
from polyak.runs.plan import Plan, flattened
from polyak.runs.values import plain
from polyak.show.charts import draw_png
from polyak.show.comparison import Comparison, compare
from polyak.show.groups import Trace
from polyak.show.page import GENERATOR, Video, overall_verdict, write_page
from polyak.show.verdicts import verdicts

MOST_RUNS = 200
MOST_FILM = 1 << 20  # bytes of a video on the page
MOST_FILMS = 2 << 20  # and of all of them, so that pages stay below 5 MB
FILMS = {".mp4": "video/mp4", ".gif": "image/gif"}


class Seen(NamedTuple):
    """Runs as they were read and compared, and a line for everything that could not be read."""

    folders: list[RunFolder]
    comparison: Comparison
    left_out: list[str]


class Written(NamedTuple):
    """What came of a report.

    files     the page, then the picture and the table where they were asked for
    verdict   what the page says first
    left_out  a line for everything that could not be read
    notes     what was not compared, or with a reservation
    """

    files: list[Path]
    verdict: list[str]
    left_out: list[str]
    notes: list[str]


def report(
    paths: Sequence[str | Path], out: str | Path | None = None, png: bool = False, table: bool = False
) -> Written:
    """Write a page about runs: report.html in the folder of the only one, else in the present one.

    out    another file for the page, .html
    png    a picture beside it, of the same name
    table  a CSV file beside it, with every line of metrics
    UserError where no folder is a run.
    """
    page = check_page(out, paths)
    folders, comparison, left_out = look(paths)
    videos = find_videos(folders, comparison.traces, left_out)
    files.write_bytes(page, write_page(comparison, videos, left_out))
    written = [page]
    if png:
        written.append(draw_png(page.with_suffix(".png"), comparison))
    if table:
        written.append(write_table(page.with_suffix(".csv"), comparison.traces))
    return Written(written, verdict(comparison), left_out, list(dict.fromkeys(comparison.notes)))


def look(paths: Sequence[str | Path]) -> Seen:
    """Read runs and compare them; CheckpointError where no folder is a run."""
    if len(paths) > MOST_RUNS:
        raise UserError(f"{len(paths)} runs are given, but a page shows {MOST_RUNS} at most")
    left_out: list[str] = []
    read = [(folder, trace) for folder in once(paths, left_out) if (trace := read_trace(folder, left_out))]
    if not read:
        raise CheckpointError("; ".join(left_out[:3]) or "no run is given")
    return Seen([folder for folder, _ in read], compare(told_apart(renamed(read))), left_out)


def check_page(out: str | Path | None, paths: Sequence[str | Path]) -> Path:
    """Where the page goes; UserError for a name that is none of a page."""
    if out is None and len(paths) == 1:
        return Path(paths[0]) / "report.html"
    if out is None:
        page = Path("report.html")
        if os.path.lexists(page) and not is_report(page):
            raise UserError("report.html is there already and is no page of polyak's: say --out FILE.html")
        return page
    page = Path(out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out is {brief(str(out))}, but must end in .html")
    if not page.parent.is_dir():
        raise UserError(f"--out is {brief(str(out))}, but there is no folder {brief(str(page.parent))}")
    return page


def is_report(page: Path) -> bool:
    """Whether a file is a page that this command made."""
    try:
        with files.open_file(page) as file:
            return GENERATOR.encode() in file.read(2_000)
    except (CheckpointError, OSError):
        return False


def verdict(comparison: Comparison) -> list[str]:
    """The verdicts, a line for each environment."""
    several = len(comparison.worlds) > 1
    lines = []
    if comparison.overall is not None:
        lines.append(
            f"over {len(comparison.overall.worlds)} environments: {overall_verdict(comparison.overall)}"
        )
    for world in comparison.worlds:
        text = " ".join(verdicts(world)) or "nothing to compare"
        lines.append(f"{world.name}: {text}" if several else text)
    return lines


# ---- reading


def once(paths: Iterable[str | Path], left_out: list[str]) -> list[RunFolder]:
    """The folders, each of them once."""
    found: dict[str, RunFolder] = {}
    for path in paths:
        where = os.path.realpath(path)
        if where in found:
            left_out.append(printable(f"{path} is given twice, and shown once"))
        else:
            found[where] = RunFolder(Path(path))
    return list(found.values())


def read_trace(folder: RunFolder, left_out: list[str]) -> Trace | None:
    """One run; None, and a line, where it cannot be read."""
    damaged: list[int] = []
    try:
        config, plan = folder.config(), folder.plan()
        lines = folder.metrics(damaged)
    except (CheckpointError, OSError) as error:
        left_out.append(printable(error))
        return None
    name = printable(folder.path.resolve().name, 120)
    if damaged:
        many = f"{len(damaged)} lines are" if len(damaged) > 1 else f"line {damaged[0]} is"
        left_out.append(printable(f"{folder.metrics_path}: {many} damaged or cut off, and left out"))
    return Trace(
        name=name,
        algorithm=printable(plan.algorithm, 60),
        env=printable(plan.env, 80),
        steps=plan.steps,
        seeds=plan.all_seeds,
        lines=lines,
        settings=settings_of(plan),
        facts=facts_of(config),
        stop_at=plan.stop_at,
    )


def settings_of(plan: Plan) -> dict[str, Any]:
    """The settings of a plan by their names."""
    return {printable(name, 100): value for name, value in flattened(plain(plan)).items()}


def facts_of(config: dict[str, Any]) -> dict[str, str]:
    """What else config.json says, in words; anybody may have written it."""
    facts = {}
    for name in ("device", "xla_flags", "preset"):
        if isinstance(config.get(name), str) and config[name]:
            facts[name] = printable(config[name], 200)
    if isinstance(config.get("sources"), dict):
        parts = [f"{what} {str(digest)[:7]}" for what, digest in list(config["sources"].items())[:20]]
        facts |= {"sources": printable(", ".join(parts), 400)} if parts else {}
    if isinstance(config.get("versions"), dict):
        parts = [f"{what} {version}" for what, version in list(config["versions"].items())[:20]]
        facts["versions"] = printable(", ".join(parts), 400)
    if isinstance(config.get("command"), list):
        facts["command"] = printable(" ".join(map(str, config["command"][:100])), 400)
    return facts


def told_apart(traces: Sequence[Trace]) -> list[Trace]:
    """The same runs; where the file of an environment changed between two, each says which it had.

    What was trained before files were kept is taken for what it is called.
    """
    sources: dict[str, set[str]] = defaultdict(set)
    for trace in traces:
        sources[trace.env] |= {world_source(trace)} - {""}
    changed = {env for env, found in sources.items() if len(found) > 1}
    return [replace(trace, source=world_source(trace)) if trace.env in changed else trace for trace in traces]


def world_source(trace: Trace) -> str:
    """The file of a run's environment and its digest, "" where that is not known; that of an algorithm is none."""
    file = trace.env.partition(":")[0].rpartition(".")[2] + ".py "
    said = trace.facts.get("sources", "").split(", ")
    return next((each for each in said if each.startswith(file)), "")


def renamed(read: Sequence[tuple[RunFolder, Trace]]) -> list[Trace]:
    """The runs, by their paths where two folders have the same name."""
    names = [trace.name for _, trace in read]
    return [
        trace if names.count(trace.name) == 1 else replace(trace, name=printable(folder.path, 120))
        for folder, trace in read
    ]


def find_videos(folders: Sequence[RunFolder], traces: Sequence[Trace], left_out: list[str]) -> list[Video]:
    """The newest video of each run that is small enough."""
    videos: list[Video] = []
    for folder, trace in zip(folders, traces, strict=True):
        path = newest_video(folder.path / "videos")
        if path is None:
            continue
        try:
            room = min(MOST_FILM, MOST_FILMS - sum(len(video.data) for video in videos))
            data = files.read_bytes(path, room)
        except (CheckpointError, OSError) as error:
            left_out.append(printable(f"{error}: the video is not on the page"))
            continue
        if data[4:8] == b"ftyp" if path.suffix == ".mp4" else data[:4] == b"GIF8":
            steps = f", {int(path.stem):,} steps" if path.stem.isdecimal() and len(path.stem) < 19 else ""
            videos.append(Video(f"{trace.name}{steps}", FILMS[path.suffix], data))
        else:
            left_out.append(printable(f"{path} is not a {path.suffix} video: not on the page"))
    return videos


def newest_video(folder: Path) -> Path | None:
    """The video of most steps, None where there is none; no link is followed."""
    try:
        files.check_folder(folder)
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except (CheckpointError, OSError):
        return None
    paths = [Path(name) for name in names if Path(name).suffix in FILMS]
    steps = {path: int(path.stem) if path.stem.isdecimal() and len(path.stem) < 19 else -1 for path in paths}
    return folder / max(paths, key=lambda path: (steps[path], path.name)) if paths else None


# ---- the table


def write_table(path: Path, traces: Sequence[Trace]) -> Path:
    """Every line of metrics of every run as CSV, a column for each metric."""
    fixed = ["run", "algorithm", "env", "seed", "env_steps", "updates"]
    names = sorted({name for trace in traces for line in trace.lines for name in line} - set(fixed))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(harmless, [*fixed, *names]))
    for trace in traces:
        whose = [harmless(word) for word in (trace.name, trace.algorithm, trace.env)]
        for line in trace.lines:
            writer.writerow([*whose, *(line.get(name) for name in [*fixed[3:], *names])])
    files.write_bytes(path, text.getvalue().encode())
    return path


def harmless(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    text = printable(text, 200)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text

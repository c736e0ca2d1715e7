"""A run's folder: config.json at once, metrics as they come, everything that a person may open."""

import io
import json
import math
import os
import platform
import re
import secrets
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from polyak import __version__, files
from polyak.errors import CheckpointError, UserError, brief, printable
from polyak.runs import sources
from polyak.runs.plan import Plan
from polyak.runs.values import plain

FORMAT = 3
STOPPED = "stopped.txt"  # why an environment or an update ended the run, where one did
LOCK = "lock"  # the file that a writer holds; it has the number of its process
LONGEST_NAME = 200  # bytes: file systems take 255, and temporary names are a little longer
MAX_LINE = 1 << 20  # bytes of one line of metrics.jsonl
MOST_KEPT = 128 << 20  # bytes of metrics.jsonl that are read into memory
MOST_READ = 4 << 30  # bytes of it that are read line by line
VERSIONS = ("jax", "jaxlib", "numpy", "gymnasium", "mujoco", "envpool", "gymnax", "ale-py")


def name_run(algorithm: str, env: str, out: str = "runs") -> str:
    """A folder name that says what and when, not yet taken: td3-HalfCheetah-v5-20261120-101500."""
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{algorithm}-{env}").strip("-")[:150]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name, count = f"{words}-{stamp}", 1
    while (Path(out) / name).exists():
        count += 1
        name = f"{words}-{stamp}-{count}"
    return name


def claimed(path: Path) -> bool:
    """Make an empty folder; False where somebody was first. UserError where none can be made there."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"cannot make the run folder {path}: {error.strerror}") from error
    return True


def check_name(name: str) -> str:
    """UserError for a run name that is not one plain folder name."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or name.startswith("-"):
        raise UserError(f"--name is {name!r}, but must be a folder name without slashes; --out says where")
    if len(name.encode()) > LONGEST_NAME:
        raise UserError(
            f"--name has {len(name.encode())} bytes, but a folder's may have {LONGEST_NAME} at most"
        )
    return name


class RunFolder:
    """One run on disk, written by one process at a time."""

    def __init__(self, path: Path):
        self.path = path
        self.lock: Lock | None = None

    @property
    def begun(self) -> bool:
        """Whether a run is there, or anything but an empty folder that a name was claimed with."""
        return self.path.is_dir() and any(name != LOCK for name in os.listdir(self.path))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other writers away meanwhile, and make the folder for it; UserError names the one that is there."""
        if self.lock is not None:  # held already, further out
            yield
            return
        claimed(self.path)
        self.lock = Lock(self.path)
        try:
            files.sweep(self.path)
            yield
        finally:
            self.lock.release()
            self.lock = None

    def give_up(self) -> None:
        """Remove the folder of a run that could not begin, with all that `create` makes."""
        if not self.path.is_dir() or set(os.listdir(self.path)) - {LOCK, "config.json", "metrics.jsonl"}:
            return
        if self.metrics_path.exists() and self.metrics_path.stat().st_size:
            return
        with suppress(OSError):
            for name in os.listdir(self.path):
                (self.path / name).unlink()
            self.path.rmdir()

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """One JSON object per line."""
        return self.path / "metrics.jsonl"

    def create(self, plan: Plan, note: str, device: str) -> None:
        """Make the folder with its config.json; UserError where that cannot be."""
        config = {
            "format": FORMAT,
            "name": self.path.name,
            "plan": plain(plan),
            "preset": note,
            "command": sys.argv,
            "versions": versions(),
            "sources": sources.digests(plan),
            "device": device,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "prng": "threefry2x32",
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("config.json", json.dumps(config, indent=2) + "\n")
            files.open_end(self.metrics_path).close()
        except OSError as error:
            raise UserError(f"cannot make the run folder {self.path}: {error.strerror}") from error

    def replan(self, plan: Plan, env_steps: int) -> None:
        """Keep another plan from here on; what the run was before stays in `changed`."""
        config = self.config()
        config["changed"] = [
            *config.get("changed", []),
            {"env_steps": env_steps, "differences": self.plan().differences(plan), "command": sys.argv},
        ]
        self._write("config.json", json.dumps({**config, "plan": plain(plan)}, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        """Put a file in place of the old one at once."""
        files.write_bytes(self.path / name, text.encode())

    def config(self) -> dict[str, Any]:
        """config.json as it is; CheckpointError where it is missing or damaged."""
        if not (self.path / "config.json").is_file():
            usual = Path("runs") / self.path  # where runs are made: what follows `--name`, typed alone
            hint = f"; did you mean {printable(str(usual))}?" if (usual / "config.json").is_file() else ""
            raise CheckpointError(f"{self.path} is not a run folder: it has no config.json{hint}")
        config = files.read_json(self.path / "config.json")
        if config.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.path / 'config.json'}: format is {brief(config.get('format'))}, but this version reads "
                f"{FORMAT}"
            )
        return config

    def plan(self) -> Plan:
        """The plan that config.json keeps."""
        config = self.config()
        if not isinstance(config.get("plan"), dict):
            raise CheckpointError(f"{self.path / 'config.json'}: plan is missing")
        return Plan.read(config["plan"], str(self.path / "config.json"))

    def metrics(self, damaged: list[int] | None = None) -> list[dict[str, Any]]:
        """Every line logged so far; one that is cut off or damaged is left out. CheckpointError for too many.

        damaged  takes the numbers of those that are left out
        """
        return list(self._lines(MOST_KEPT, damaged))

    def _lines(self, most: int, damaged: list[int] | None = None) -> Iterator[dict[str, Any]]:
        """The sound lines of a file of so many bytes at most, one in memory at a time."""
        if not os.path.lexists(self.metrics_path):
            return
        with files.guarded(self.metrics_path), files.open_file(self.metrics_path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                raise files.damaged(self.metrics_path, f"has {size:,} bytes, at most {most:,} are read")
            buffered, number = io.BufferedReader(file), 0
            while text := buffered.readline(MAX_LINE):
                number += 1
                if line := read_line(text):
                    yield line
                elif damaged is not None:
                    damaged.append(number)

    def rewind(self, position: int, seeds: int) -> None:
        """Forget what was logged after the checkpoint that a resume begins from, and half an evaluation there."""
        whole = self.evaluated(position, seeds)
        self.keep(
            line
            for line in self._lines(MOST_READ)
            if files.place(line) < position
            or (files.place(line) == position and (whole or "eval/episodes" not in line))
        )

    def keep(self, lines: Iterable[dict[str, Any]]) -> None:
        """Put these metric lines in place of all that were there."""
        with files.replacing(self.metrics_path) as temporary, files.open_end(temporary) as file:
            for line in lines:
                file.write(json.dumps(finite(line)) + "\n")

    def evaluated(self, position: int, seeds: int) -> bool:
        """Whether there is the evaluation of every seed at this place of the run."""
        found = (line for line in self._lines(MOST_READ) if files.place(line) == position)
        return sum("eval/episodes" in line for line in found) >= seeds

    def evaluations(self, seeds: int) -> dict[int, list[float]]:
        """Mean return of each seed by place in the run, of the evaluations that every seed has."""
        found: dict[int, dict[int, float]] = {}
        for line in self._lines(MOST_READ):
            if line.get("eval/return") is not None:
                found.setdefault(int(files.place(line)), {})[line["seed"]] = line["eval/return"]
        return {step: list(each.values()) for step, each in found.items() if len(each) >= seeds}


def read_line(text: bytes) -> dict[str, Any] | None:
    """A metric line with its numbers; None where it is damaged or does not say whose it is and when."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not all(
        files.is_count(line.get(name)) for name in ("env_steps", "seed")
    ):
        return None
    return {name: value for name, value in line.items() if value is None or is_number(value)}


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1 << 1023 and value == value  # not NaN


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """A line whose numbers are finite or null, as JSON wants them."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}


class Lock:
    """The right to write in a folder. The operating system takes it back when the process ends, however it does."""

    def __init__(self, folder: Path):
        try:
            self.file = files.open_lock(folder / LOCK)
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror}") from error
        try:
            lock_file(self.file)
        except BlockingIOError:
            said = (
                os.pread(self.file, 20, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
            )
            os.close(self.file)
            who = f"process {said}" if said.isdigit() else "another process"
            raise UserError(f"{folder} is being written by {who}: wait for it or stop it first") from None
        with suppress(OSError):  # a full disk: the lock holds without the number
            os.ftruncate(self.file, 0)
            os.write(self.file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others write."""
        with suppress(OSError):
            os.ftruncate(self.file, 0)
        os.close(self.file)


def lock_file(file: int) -> None:
    """Lock an open file for this process, or raise BlockingIOError; where a disk has no locks, go without."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            os.lseek(file, 1 << 20, os.SEEK_SET)  # beyond the number, which others may read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError as error:
            raise BlockingIOError from error
        os.lseek(file, 0, os.SEEK_SET)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


class Metrics:
    """Writes metric lines to metrics.jsonl and to TensorBoard, the moment they come."""

    def __init__(self, folder: RunFolder, env_steps: int):
        self.path = folder.metrics_path
        self.file = files.open_end(self.path)
        self.board = Board(folder.path, env_steps)

    def write(self, line: dict[str, Any]) -> None:
        """One line; a number that is not finite becomes null."""
        clean = finite(line)
        with files.guarded(self.path):
            self.file.write(json.dumps(clean) + "\n")
            for name, value in clean.items():
                if "/" in name and isinstance(value, int | float):
                    self.board.add(f"{name}/seed_{line['seed']}", value, int(files.place(line)))

    def flush(self) -> None:
        """Let others see what was written; before a checkpoint, so that it never knows more than the log."""
        with files.guarded(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.board.file.flush()

    def close(self) -> None:
        """No more lines."""
        with files.guarded(self.path):
            try:
                self.file.close()
            finally:
                self.board.file.close()


class Board:
    """A file of TensorBoard's in a run folder.

    TensorBoard's own writers open a name that can be guessed, and write from a thread where a full disk is nobody's.
    """

    def __init__(self, folder: Path, env_steps: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        name = f"events.out.tfevents.{int(time.time())}.{secrets.token_hex(8)}"
        self.file = files.open_new(folder / name)
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if env_steps:  # lines of these steps and later, in older files, are of an abandoned future
            start = SessionLog(status=SessionLog.SessionStatus.Value("START"))
            self._put(Event(wall_time=time.time(), step=env_steps, session_log=start))

    def add(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        self._put(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def _put(self, event: Any) -> None:
        """Write one record: its length and its bytes, each with a checksum."""
        from tensorboardX.record_writer import masked_crc32c

        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        for part in (length, data):
            self.file.write(part + struct.pack("<I", masked_crc32c(part)))


def versions() -> dict[str, str]:
    """Versions that a result's identity depends on."""
    found = {"polyak": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

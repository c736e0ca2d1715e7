"""A run's folder: config.json at once, metrics as they come, everything that a person may open."""

import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from polyak import __version__
from polyak.errors import CheckpointError, UserError
from polyak.runs.plan import Plan
from polyak.runs.values import plain

FORMAT = 3
LOCK = "lock"  # the file that a writer holds; it has the number of its process
LONGEST_NAME = 200  # bytes: file systems take 255, and temporary names are a little longer
VERSIONS = ("jax", "jaxlib", "numpy", "gymnasium", "mujoco", "envpool", "gymnax")


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
            "device": device,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "prng": "threefry2x32",
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("config.json", json.dumps(config, indent=2) + "\n")
            self.metrics_path.touch()
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
        temporary = self.path / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)

    def config(self) -> dict[str, Any]:
        """config.json as it is; CheckpointError where it is missing or damaged."""
        from polyak.store.storage import read_json

        if not (self.path / "config.json").is_file():
            raise CheckpointError(f"{self.path} is not a run folder: it has no config.json")
        config = read_json(self.path / "config.json")
        if config.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.path / 'config.json'}: format is {config.get('format')!r}, but this version reads {FORMAT}"
            )
        return config

    def plan(self) -> Plan:
        """The plan that config.json keeps."""
        config = self.config()
        if not isinstance(config.get("plan"), dict):
            raise CheckpointError(f"{self.path / 'config.json'}: plan is missing")
        return Plan.read(config["plan"], str(self.path / "config.json"))

    def metrics(self) -> list[dict[str, Any]]:
        """Every line logged so far; a last line that was cut off by a kill is left out."""
        return list(self._lines())

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.metrics_path.is_file():
            return
        for text in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get("env_steps"), int):
                yield line

    def rewind(self, env_steps: int, seeds: int) -> None:
        """Forget what was logged after the checkpoint that a resume begins from, and half an evaluation there."""
        whole = self.evaluated(env_steps, seeds)
        self.keep(
            line
            for line in self._lines()
            if line["env_steps"] < env_steps
            or (line["env_steps"] == env_steps and (whole or "eval/episodes" not in line))
        )

    def keep(self, lines: Iterable[dict[str, Any]]) -> None:
        """Put these metric lines in place of all that were there."""
        self._write("metrics.jsonl", "".join(json.dumps(finite(line)) + "\n" for line in lines))

    def evaluated(self, env_steps: int, seeds: int) -> bool:
        """Whether there is the evaluation of every seed after so many steps."""
        lines = [line for line in self._lines() if line["env_steps"] == env_steps and "eval/episodes" in line]
        return len(lines) >= seeds


def finite(line: dict[str, Any]) -> dict[str, Any]:
    """A line whose numbers are finite or null, as JSON wants them."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}


class Lock:
    """The right to write in a folder. The operating system takes it back when the process ends, however it does."""

    def __init__(self, folder: Path):
        try:
            self.file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
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
        os.ftruncate(self.file, 0)
        os.write(self.file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others write."""
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
        from tensorboardX import SummaryWriter

        self.file = folder.metrics_path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder.path), purge_step=env_steps or None, flush_secs=10)

    def write(self, line: dict[str, Any]) -> None:
        """One line; a number that is not finite becomes null."""
        clean = finite(line)
        self.file.write(json.dumps(clean) + "\n")
        for name, value in clean.items():
            if "/" in name and isinstance(value, int | float):
                self.board.add_scalar(f"{name}/seed_{line['seed']}", value, line["env_steps"])

    def flush(self) -> None:
        """Let others see what was written; before a checkpoint, so that it never knows more than the log."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """No more lines."""
        self.file.close()
        self.board.close()


def versions() -> dict[str, str]:
    """Versions that a result's identity depends on."""
    found = {"polyak": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

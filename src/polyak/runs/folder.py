"""A run's folder: config.json at once, metrics as they come, everything that a person may open."""

import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from polyak import __version__
from polyak.errors import CheckpointError, UserError
from polyak.runs.plan import Plan
from polyak.runs.values import plain

FORMAT = 2
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
    """One run on disk."""

    def __init__(self, path: Path):
        self.path = path

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
            self.path.mkdir(parents=True)
            temporary = self.path / ".config.json"
            temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            temporary.replace(self.path / "config.json")
            self.metrics_path.touch()
        except OSError as error:
            raise UserError(f"cannot make the run folder {self.path}: {error.strerror}") from error

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

    def rewind(self, env_steps: int) -> None:
        """Forget what was logged after the checkpoint that a resume begins from."""
        kept = [line for line in self._lines() if line["env_steps"] <= env_steps]
        temporary = self.path / ".metrics.jsonl"
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self.metrics_path)


class Metrics:
    """Writes metric lines to metrics.jsonl and to TensorBoard, the moment they come."""

    def __init__(self, folder: RunFolder, env_steps: int):
        from tensorboardX import SummaryWriter

        self.file = folder.metrics_path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder.path), purge_step=env_steps or None, flush_secs=10)

    def write(self, line: dict[str, Any]) -> None:
        """One line; a number that is not finite becomes null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
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

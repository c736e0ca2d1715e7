"""Words, peak memory and versions that every side of a measurement gives of itself."""

import contextlib
import importlib.metadata
import resource
import sys
from pathlib import Path

BEGIN, END = "begin", "end"


def peak_memory() -> float:
    """Peak memory of this process since it began, in megabytes."""
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> None:
    """Let `peak_memory` begin anew, where the system can do it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def announce(word: str) -> None:
    """Say BEGIN or END of what is timed: interleave.py takes the time, since a process may stand still meanwhile."""
    print(word, flush=True)


def versions(*packages: str) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

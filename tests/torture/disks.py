"""Disks that are full, too small or read-only: one line, exit 2, and what was saved stays."""

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from polyak.temporary import TemporaryFolder
from torture.kills import WORDS

KEPT = 3  # checkpoints that stay with their replay; the one that evaluated best stays without it
MOUNT = 'mount -t tmpfs -o size={size}k tmpfs "{folder}" && cd "{folder}" && '


def torture(table, seconds):
    """Smaller and smaller disks, where the system lets us mount them; else files of limited size."""
    until = time.monotonic() + seconds
    mounts = (
        shutil.which("unshare")
        and not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode
    )
    for size in (120, 160, 200, 260, 340, 440, 600):
        if time.monotonic() > until:
            return
        if mounts:
            tiny(table, size)
    for size in (200, 2_000, 20_000, 60_000, 120_000):
        if time.monotonic() > until:
            return
        limited(table, size)


def tiny(table, size):
    """A disk of so many kilobytes: train, resume, film and evaluate on it, then the same where it is read-only."""
    with TemporaryFolder() as folder:
        polyak = f'"{sys.executable}" -m polyak'
        lines = [
            f"{polyak} {' '.join(WORDS)} --steps 20000 --name run",
            f"{polyak} resume runs/run",
            f"{polyak} watch runs/run",
            "mount -o remount,ro .; " + f"{polyak} resume runs/run",
            f"{polyak} watch runs/run",
            f"{polyak} evaluate runs/run --episodes 1",
        ]
        script = MOUNT.format(size=size, folder=folder) + "\n".join(
            f'{{ {line} ; }} > /dev/null 2> /dev/shm/polyak-err.$$; echo "$? $(wc -l < /dev/shm/polyak-err.$$) '
            '$(tail -1 /dev/shm/polyak-err.$$)"; rm -f /dev/shm/polyak-err.$$'
            for line in lines
        )
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, timeout=900
        )
        for line, said in zip(lines, done.stdout.splitlines(), strict=False):
            code, count, last = said.split(" ", 2)
            judge(table, int(code), int(count), last, f"{size} kB: {line[-40:]}")


def limited(table, size):
    """No file larger than so many bytes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    with TemporaryFolder() as folder:
        for words in (
            [*WORDS, "--steps", "2000", "--name", "run"],
            ["evaluate", "runs/run", "--episodes", "1"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "polyak", *words],
                cwd=folder, preexec_fn=limit, capture_output=True, text=True, timeout=600,
            )  # fmt: skip
            errors = done.stderr.splitlines() or [""]
            judge(table, done.returncode, len(errors), errors[-1], f"files of {size} bytes: {words[0]}")
        if not whole(Path(folder) / "runs" / "run" / "checkpoints"):
            table.add("disks", "lost", f"files of {size} bytes: a checkpoint is not whole")


def whole(kept):
    """Whether the newest checkpoints are whole, and an older one, which evaluated best, has its arrays."""
    from polyak.errors import CheckpointError
    from polyak.store import checkpoint

    found = checkpoint.complete(kept)
    try:
        for best in found[:-KEPT]:
            checkpoint.read(best)
    except CheckpointError:
        return False
    return all(checkpoint.is_sound(path) for path in found[-KEPT:])


def judge(table, code, count, last, case):
    """One command on a bad disk."""
    fine = code == 0 or (code == 2 and count <= 4 and last.startswith("polyak: "))
    table.add(
        "disks",
        ("done" if code == 0 else "refused") if fine else "crashed",
        f"{case}: exit {code}, {count} lines, {last}",
    )

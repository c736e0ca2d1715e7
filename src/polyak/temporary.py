"""Temporary folders of this process, which go with it, however it ends.

An owner holds a lock on its folder itself for as long as it lives; the operating system takes it back from a process
that was killed. Whoever makes the next folder removes those whose lock is free: of this user and this machine, with
the name, the mode and the mark that they are made with, and never through a link. The lock decides, not the age: an
owner whose new folder was removed, or looked at, before it had the lock makes another. Where a disk has no locks, or
the system none on folders, a folder is not marked, so that nobody takes it for one that was left behind.

systemd-tmpfiles leaves folders with such a lock alone, too.
"""

import contextlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from time import monotonic
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: folders go when they are closed
    fcntl = None

NAME = re.compile(r"polyak-[0-9a-f]{8}")  # short: paths of sockets have a limit
MARK = "owner"  # in a folder that is one of these: a link, made at once, to no file: "PROCESS MACHINE"
MODE = 0o700
TRIES = 100  # to make a folder
SWEEP_SECONDS = 2.0  # after which what else was left behind waits for the next time
FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class TemporaryFolder:
    """A new folder that only this user may look into: `path`. It is gone when it is closed, or a `with` is left."""

    def __init__(self) -> None:
        self.path, self.file = "", -1
        if fcntl is None:
            self.path = tempfile.mkdtemp(prefix="polyak-")
            return
        sweep()
        with opened(tempfile.gettempdir()) as parent:
            for _ in range(TRIES):
                name = f"polyak-{secrets.token_hex(4)}"
                try:
                    os.mkdir(name, MODE, dir_fd=parent)
                except FileExistsError:
                    continue
                self.file = claimed(name, parent)
                if self.file >= 0:
                    self.path = os.path.join(tempfile.gettempdir(), name)
                    return
        raise FileExistsError(f"no temporary folder could be made in {tempfile.gettempdir()}")

    def close(self) -> None:
        """Remove the folder, and all that is in it that can be removed."""
        path, self.path = self.path, ""
        if not path:
            return
        if self.file < 0:
            shutil.rmtree(path, ignore_errors=True)
            return
        with contextlib.suppress(OSError), opened(os.path.dirname(path)) as parent:
            remove(os.path.basename(path), parent, self.file)
        os.close(self.file)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: Any) -> None:
        self.close()


def sweep() -> None:
    """Remove the folders that owners who are gone left behind."""
    until = monotonic() + SWEEP_SECONDS
    with contextlib.suppress(OSError), opened(tempfile.gettempdir()) as parent, os.scandir(parent) as entries:
        for entry in entries:
            if monotonic() > until:
                return
            if NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError, RecursionError):
                    sweep_one(entry.name, parent)


def sweep_one(name: str, parent: int) -> None:
    """Remove a folder if it is one of these and nobody holds it. OSError where it cannot be looked at."""
    if not is_ours(os.stat(name, dir_fd=parent, follow_symlinks=False)):
        return
    with opened(name, parent) as folder:
        lock(folder)
        if is_there(name, parent, folder) and was_left(folder):
            remove(name, parent, folder)


def claimed(name: str, parent: int) -> int:
    """Descriptor of a folder that was just made, locked and marked; -1 where it has gone or somebody looks at it."""
    try:
        folder = os.open(name, FLAGS, dir_fd=parent)
    except FileNotFoundError:
        return -1
    try:
        lock(folder)
    except BlockingIOError:
        os.close(folder)
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=parent)
        return -1
    except OSError:  # a disk without locks: it stays unmarked
        return folder
    if mark(folder):
        return folder
    os.close(folder)
    return -1


def remove(name: str, parent: int, folder: int) -> None:
    """Remove a folder that is held, its mark last, so that one that is left in part is known for what it is."""
    for entry in os.listdir(folder):
        if entry != MARK:
            remove_entry(entry, folder)
    if set(os.listdir(folder)) - {MARK}:
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(MARK, dir_fd=folder)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:  # somebody put something in
        mark(folder)


def remove_entry(name: str, folder: int) -> None:
    """Remove a file, or a folder with what can be removed of it."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)


@contextlib.contextmanager
def opened(path: str, parent: int | None = None) -> Iterator[int]:
    """A folder's descriptor. No link is followed inside of a parent."""
    folder = os.open(path, FLAGS if parent is not None else FLAGS & ~os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)


def lock(folder: int) -> None:
    """Hold a folder until it is closed. BlockingIOError where somebody else does; OSError where there are no locks."""
    assert fcntl is not None
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_there(name: str, parent: int, folder: int) -> bool:
    """Whether an open folder is the one that has this name, and is one of these."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(folder)) and is_ours(found)


def is_ours(found: os.stat_result) -> bool:
    """Whether it is a folder of this user, which nobody else may look into."""
    return (
        stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == MODE and found.st_uid == os.geteuid()
    )


def was_left(folder: int) -> bool:
    """Whether a folder that nobody holds is marked, on this machine, or is empty as on the day that it was made."""
    if MARK not in (names := os.listdir(folder)):
        return not names
    return os.readlink(MARK, dir_fd=folder).split()[1:] == platform.node().split()


def mark(folder: int) -> bool:
    """Say in a folder whose it is; false where it is gone."""
    with contextlib.suppress(FileExistsError, PermissionError):  # a disk without links: it is not swept
        try:
            os.symlink(f"{os.getpid()} {platform.node()}", MARK, dir_fd=folder)
        except FileNotFoundError:
            return False
    return True

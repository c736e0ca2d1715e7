"""Files of a run folder: the one place that opens them, whoever made the folder.

A folder may come from a stranger, so nothing in it is trusted. No link is followed, and a pipe, a device or a folder
where a file is expected is refused. A new file is written under a name that nobody can guess and renamed when it is
whole and on disk. What goes wrong is a CheckpointError of one line that names the file, a full disk too.

Nothing here imports JAX or NumPy, so that a command can read a run's settings before it does.
"""

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

from polyak.errors import CheckpointError, printable

MAX_JSON = 4 << 20  # bytes; parsed JSON takes up to 24 times its text, and a load may take 256 MB
TEMPORARY = ".tmp-"  # what a kill may leave behind starts with this

_SAFE = 0  # flags of every open: no link is followed, and nobody waits for the other end of a pipe
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    _SAFE |= getattr(os, _flag, 0)


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes a CheckpointError of one line that names `path`."""
    try:
        yield
    except CheckpointError:
        raise
    except MemoryError as error:
        raise damaged(path, "does not fit into memory") from error
    except RecursionError as error:
        raise damaged(path, "is nested too deeply") from error
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise damaged(path, "is a symbolic link" if link else error.strerror or str(error)) from error
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path | str, reason: str) -> CheckpointError:
    """The error to raise: one line, of bounded length whatever the file contained."""
    return CheckpointError(f"{printable(path, 300)}: {printable(reason, 400)}")


# ---- reading


@contextmanager
def open_file(path: Path) -> Iterator[FileIO]:
    """A regular file for reading: no link is followed, and a pipe or a device is refused."""
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise damaged(path, "is a symbolic link")
    descriptor = os.open(path, os.O_RDONLY | _SAFE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise damaged(path, "is not a regular file")
        with FileIO(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """A small file as it is."""
    with guarded(path), open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise damaged(path, f"has {size} bytes, at most {max_bytes} are accepted")
        return read_exactly(path, file, size)


def read_exactly(path: Path, file: FileIO, size: int) -> bytes:
    """So many bytes; CheckpointError where the file ends before."""
    data = bytearray(size)
    read_into(path, file, memoryview(data))
    return bytes(data)


def read_into(path: Path, file: FileIO, rest: memoryview) -> None:
    """Fill all of `rest`; CheckpointError where the file ends before."""
    while rest:
        got = file.readinto(rest)
        if not got:
            raise damaged(path, "ends too early")
        rest = rest[got:]


# ---- writing: every file that is written in a run folder is opened by one of these


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file for the body to write, which takes the place of `path` at once when it is whole and on disk.

    Its name is new and cannot be guessed; it ends as `path` does, and is gone where the body fails. A link in the
    place of `path` is replaced, not followed; a folder there is refused.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}")
    with guarded(path):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o644))
        try:
            yield temporary
            with open_file(temporary) as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, durably and at once."""
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | _SAFE)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)


def open_new(path: Path) -> IO[bytes]:
    """A file that is not there yet, for writing."""
    with guarded(path):
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o644), "wb")


def open_end(path: Path) -> IO[str]:
    """A file of text for writing at its end, made where it is missing."""
    with guarded(path):
        return os.fdopen(_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8")


def open_lock(path: Path) -> int:
    """Descriptor of a file that processes lock, made where it is missing; OSError or CheckpointError."""
    return _own(path, os.O_RDWR | os.O_CREAT)


def _own(path: Path, flags: int) -> int:
    """Descriptor of a regular file that has no other name, of which one could lie outside the folder."""
    descriptor = os.open(path, flags | _SAFE, 0o644)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise damaged(
        path, "has a second name (a hard link)" if stat.S_ISREG(found.st_mode) else "is not a regular file"
    )


def silence(stream: Any) -> None:
    """Let what is still to be flushed to a stream go nowhere, since nobody reads it or no disk holds it."""
    with suppress(Exception), open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())


# ---- folders


def check_folder(path: Path) -> None:
    """CheckpointError unless `path` is a folder and no symbolic link to one."""
    with guarded(path):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise damaged(path, "is not a folder, or a symbolic link to one")


def make_folder(path: Path) -> None:
    """Make a folder durably unless it is there already; no link is followed."""
    with guarded(path):
        if not os.path.lexists(path):
            os.mkdir(path)
            sync_folder(path.parent)
        check_folder(path)


def sync_folder(path: Path) -> None:
    """Make durable what was created, renamed or removed in a folder."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the unfinished files that a kill left behind."""
    with guarded(folder):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(TEMPORARY) and not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)


# ---- JSON


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, durably and at once; CheckpointError unless reading gives an equal one."""
    write_bytes(path, encode_json(path, value))


def encode_json(path: Path, value: dict[str, Any]) -> bytes:
    """The text of a JSON object that `read_json` would accept from `path` and find equal."""
    with guarded(path):
        data = (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
        if len(data) > MAX_JSON:
            raise damaged(path, f"has {len(data)} bytes, at most {MAX_JSON} are accepted")
        if parse(path, data) != value:
            raise damaged(path, "is not plain JSON: keys are strings, sequences are lists")
    return data


def read_json(path: Path, max_bytes: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object in UTF-8, without NaN, infinities or repeated keys."""
    return decode_json(path, read_bytes(path, max_bytes))


def decode_json(path: Path, data: bytes) -> dict[str, Any]:
    """The object that `data`, read from `path`, is the text of."""
    with guarded(path):
        return parse(path, data)


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """The object that a text is; an exception of Python's own, or CheckpointError, where it is none."""
    value = json.loads(
        data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
    )
    if not isinstance(value, dict):
        raise damaged(path, "is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return float(text)


def is_count(value: Any) -> bool:
    """An integer from 0 on that fits in 63 bits; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def place(line: Mapping[str, Any]) -> float:
    """The place of a metric line in its run: environment steps, or updates where no step is taken."""
    return line["env_steps"] or line.get("updates") or 0


def counts(value: Any) -> bool:
    """A list of such integers."""
    return isinstance(value, list) and all(is_count(v) for v in value)

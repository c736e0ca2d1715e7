"""Trees of arrays and JSON on disk: written whole or not at all, and never trusted when read.

An array file is a safetensors file. The library writes it; it is read here, from one descriptor, because
three things are promised that a memory map cannot keep: every declared size is checked before a byte of data
is read, the bytes that are hashed are the bytes that are used, and nothing is in memory twice.

Reading raises CheckpointError and nothing else. Names inside files are data and never become paths.
"""

import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from polyak.errors import CheckpointError
from polyak.interface import Tree

MAX_JSON = 4 << 20  # bytes; parsed JSON takes up to 24 times its text, and a load may take 256 MB
MAX_ARRAYS = 1 << 36  # bytes of one file where the caller knows no better limit
TEMPORARY = ".tmp-"  # what a kill may leave behind starts with this

_NUMPY = {
    "BOOL": "bool",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
_READ = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    _READ |= getattr(os, _flag, 0)


class Field(NamedTuple):
    """Dtype and shape of one array, as a file or a template says."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


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
        raise damaged(path, error.strerror or str(error)) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, SafetensorError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path | str, reason: str) -> CheckpointError:
    """The error to raise: one line, of bounded length whatever the file contained."""
    return CheckpointError(" ".join(f"{path}: {reason[:400]}".split()))


# ---- trees and names


def fields(tree: Tree) -> dict[str, Field]:
    """The name, dtype and shape of every leaf, an array or a ShapeDtypeStruct.

    >>> fields({"layers": [np.zeros((2, 3), "float32")]})
    {'layers/0': Field(dtype='float32', shape=(2, 3))}
    """
    return {name: Field(str(leaf.dtype), tuple(leaf.shape)) for name, leaf in named(tree).items()}


def flatten(tree: Tree) -> dict[str, np.ndarray]:
    """Every leaf by name, as views where the memory is the host's: use them before it is donated.

    Raises TypeError for a leaf that is no plain array, ValueError for two leaves of one name.
    """
    return {name: np.asarray(leaf) for name, leaf in named(tree).items()}


def unflatten(template: Tree, arrays: Mapping[str, np.ndarray], where: Path | str = "arrays") -> Tree:
    """The tree of `template`'s structure with these arrays; CheckpointError unless all names, dtypes and
    shapes agree.
    """
    found = {name: Field(str(x.dtype), x.shape) for name, x in arrays.items()}
    check_fields(found, fields(template), where)
    leaves = [arrays[name] for name in named(template)]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def check_fields(found: Mapping[str, Field], wanted: Mapping[str, Field], where: Path | str) -> None:
    """CheckpointError for the first field that is missing, unexpected, or of another dtype or shape."""
    for name, field in wanted.items():
        if name not in found:
            raise damaged(where, f"field {_short(name)} is missing")
        if found[name] != field:
            have, want = (f"{f.dtype}{list(f.shape)}" for f in (found[name], field))
            raise damaged(where, f"field {_short(name)} is {have}, expected {want}")
    for name in found:
        if name not in wanted:
            raise damaged(where, f"field {_short(name)} is unexpected")


def named(tree: Tree) -> dict[str, Any]:
    """Leaves by the path of their keys, like "params/layers/0/weight"."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves or name == "__metadata__":
            raise ValueError(f"the name {name!r} is taken: rename a key of the tree")
        dtype = str(getattr(leaf, "dtype", type(leaf).__name__))
        if dtype not in _NUMPY.values():
            raise TypeError(f"leaf {name!r} is {dtype}: expected an array of {', '.join(_NUMPY.values())}")
        leaves[name] = leaf
    return leaves


# ---- arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write a safetensors file, durably and at once; its SHA-256."""
    with guarded(path):
        temporary = _vacated(path)
        save_file({name: np.asarray(x, order="C") for name, x in arrays.items()}, temporary)
        with open(temporary, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    return sha256


def read_arrays(
    path: Path,
    max_bytes: int = MAX_ARRAYS,
    wanted: Mapping[str, Field] | None = None,
    sha256: str | None = None,
) -> dict[str, np.ndarray]:
    """Every array of a safetensors file, in memory once.

    max_bytes   the most that the header may declare
    wanted      the only names, dtypes and shapes accepted, checked before data is read
    sha256      of the whole file
    """
    with guarded(path), open_file(path) as file:
        hashed = hashlib.sha256()
        table = _header(path, file, hashed)
        found = {name: field for name, field, _ in table}
        declared = sum(field.nbytes for field in found.values())
        if declared > max_bytes:
            raise damaged(path, f"declares {declared} bytes of arrays, at most {max_bytes} are accepted")
        if wanted is not None:
            check_fields(found, wanted, path)
        arrays = {name: _read_array(path, file, hashed, name, field) for name, field, _ in table}
        if sha256 is not None and hashed.hexdigest() != sha256:
            raise damaged(path, "its SHA-256 is not the recorded one")
        return arrays


def _header(path: Path, file: io.FileIO, hashed: Any) -> list[tuple[str, Field, int]]:
    """(name, field, first byte) in the order of the data, which they cover without gap or overlap."""
    size = os.fstat(file.fileno()).st_size
    prefix = _read_exactly(path, file, 8)
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_JSON, size - 8):
        raise damaged(
            path, f"its header declares {length} bytes, at most {min(MAX_JSON, size - 8)} are there"
        )
    text = _read_exactly(path, file, length)
    hashed.update(prefix + text)
    entries = _parse(path, text)
    entries.pop("__metadata__", None)
    table = sorted((_entry(path, *item) for item in entries.items()), key=lambda e: (e[2], e[1].nbytes))
    end = 0
    for name, field, begin in table:
        if begin != end:
            raise damaged(path, f"field {_short(name)} begins at byte {begin}, expected {end}")
        end += field.nbytes
    if 8 + length + end != size:
        raise damaged(path, f"has {size} bytes, its header declares {8 + length + end}")
    return table


def _entry(path: Path, name: str, entry: Any) -> tuple[str, Field, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"field {_short(name)} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _NUMPY:
        raise damaged(path, f"field {_short(name)} has an unknown dtype")
    if not counts(shape) or len(shape) > 32:
        raise damaged(path, f"field {_short(name)} has no valid shape")
    field = Field(_NUMPY[dtype], tuple(shape))
    if not counts(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != field.nbytes:
        raise damaged(path, f"field {_short(name)} has offsets that are not those of its shape")
    return name, field, offsets[0]


def _read_array(path: Path, file: io.FileIO, hashed: Any, name: str, field: Field) -> np.ndarray:
    array = np.empty(field.shape, field.dtype)
    data = array.reshape(-1).view(np.uint8)
    _read_into(path, file, data.data)
    hashed.update(data)
    if field.dtype == "bool" and data.max(initial=0) > 1:
        raise damaged(path, f"field {_short(name)} holds booleans that are neither 0 nor 1")
    return array


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
        if _parse(path, data) != value:
            raise damaged(path, "is not plain JSON: keys are strings, sequences are lists")
    return data


def read_json(path: Path, max_bytes: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object in UTF-8, without NaN, infinities or repeated keys."""
    return decode_json(path, read_bytes(path, max_bytes))


def decode_json(path: Path, data: bytes) -> dict[str, Any]:
    """The object that `data`, read from `path`, is the text of."""
    with guarded(path):
        return _parse(path, data)


def _parse(path: Path, data: bytes) -> dict[str, Any]:
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


def counts(value: Any) -> bool:
    """A list of such integers."""
    return isinstance(value, list) and all(is_count(v) for v in value)


# ---- files and folders


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, durably and at once."""
    with guarded(path):
        temporary = _vacated(path)
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644
        )
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """A small file as it is."""
    with guarded(path), open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise damaged(path, f"has {size} bytes, at most {max_bytes} are accepted")
        return _read_exactly(path, file, size)


@contextmanager
def open_file(path: Path) -> Iterator[io.FileIO]:
    """A regular file for reading: no link is followed, and a pipe or a device is refused."""
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise damaged(path, "is a symbolic link")
    descriptor = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise damaged(path, "is not a regular file")
        with io.FileIO(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def check_folder(path: Path) -> None:
    """CheckpointError unless `path` is a folder and no symbolic link to one."""
    with guarded(path):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise damaged(path, "is not a folder, or a symbolic link to one")


def make_folder(path: Path) -> None:
    """Make a folder durably unless it is there already; no link is followed."""
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


def _vacated(path: Path) -> Path:
    temporary = path.with_name(TEMPORARY + path.name)
    if os.path.lexists(temporary):
        os.unlink(temporary)
    return temporary


def _read_exactly(path: Path, file: io.FileIO, size: int) -> bytes:
    data = bytearray(size)
    _read_into(path, file, memoryview(data))
    return bytes(data)


def _read_into(path: Path, file: io.FileIO, rest: memoryview) -> None:
    while rest:
        got = file.readinto(rest)
        if not got:
            raise damaged(path, "ends too early")
        rest = rest[got:]


def _short(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")

"""Trees of arrays and JSON on disk: written whole or not at all, and never trusted when read.

An array file is a safetensors file. The library writes it; it is read here, from one descriptor, because
three things are promised that a memory map cannot keep: every declared size is checked before a byte of data
is read, the bytes that are hashed are the bytes that are used, and nothing is in memory twice.

Reading raises CheckpointError and nothing else. Names inside files are data and never become paths: `files` opens
every one of them.
"""

import hashlib
import io
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from polyak.files import (
    MAX_JSON,
    counts,
    damaged,
    guarded,
    open_file,
    parse,
    read_exactly,
    read_into,
    replacing,
)
from polyak.interface import Tree

CHUNK = 1 << 24  # bytes that are packed or unpacked at once
MAX_ARRAYS = 1 << 36  # bytes of one file where the caller knows no better limit

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


class Field(NamedTuple):
    """Dtype and shape of one array, as a file or a template says."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


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
    try:
        with replacing(path) as temporary:
            save_file({name: np.asarray(x, order="C") for name, x in arrays.items()}, temporary)
            with open(temporary, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except SafetensorError as error:  # which is also what it makes of a full disk
        raise damaged(path, str(error)) from error
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
    prefix = read_exactly(path, file, 8)
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_JSON, size - 8):
        raise damaged(
            path, f"its header declares {length} bytes, at most {min(MAX_JSON, size - 8)} are there"
        )
    text = read_exactly(path, file, length)
    hashed.update(prefix + text)
    entries = parse(path, text)
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
    read_into(path, file, data.data)
    hashed.update(data)
    if field.dtype == "bool" and data.max(initial=0) > 1:
        raise damaged(path, f"field {_short(name)} holds booleans that are neither 0 nor 1")
    return array


# ---- arrays that are mostly the same bytes


def deflate(array: np.ndarray) -> np.ndarray:
    """The bytes of an array as one zlib stream, [length] uint8."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    stream = zlib.compressobj(level=1)
    parts = [stream.compress(data[at : at + CHUNK].data) for at in range(0, data.size, CHUNK)]
    return np.frombuffer(b"".join([*parts, stream.flush()]), np.uint8)


def inflate(stream: np.ndarray, field: Field, where: Path | str) -> np.ndarray:
    """The array of a zlib stream; CheckpointError unless it has just as many bytes as `field` declares."""
    array = np.empty(field.shape, field.dtype)
    data, at, unpacker = array.reshape(-1).view(np.uint8), 0, zlib.decompressobj()
    try:
        for begin in range(0, stream.size, CHUNK):
            rest = stream[begin : begin + CHUNK].tobytes()
            while rest and not unpacker.eof:
                part = unpacker.decompress(rest, min(CHUNK, data.size - at + 1))
                if at + len(part) > data.size:
                    raise damaged(
                        where, f"its frames are more than the {data.size} bytes that they should be"
                    )
                data[at : at + len(part)] = np.frombuffer(part, np.uint8)
                at, rest = at + len(part), unpacker.unconsumed_tail
            if unpacker.eof and (unpacker.unused_data or begin + CHUNK < stream.size):
                raise damaged(where, "something stands behind its frames")
    except zlib.error as error:
        raise damaged(where, f"its frames cannot be unpacked: {error}") from error
    if not unpacker.eof or at != data.size:
        raise damaged(where, f"its frames are {at} bytes, expected {data.size}")
    return array


def _short(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")

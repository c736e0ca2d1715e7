"""Checkpoints of a run: kill it at any moment, and what is on disk is whole.

```
RUN/checkpoints/00050000/{manifest.json, arrays.safetensors, COMPLETE}
RUN/checkpoints/segments/0000040959-0000050000.safetensors        replay rows of these absolute times
```
A checkpoint is made in a folder named .tmp-*, which is renamed once; COMPLETE, the last file in it, holds
the SHA-256 of the manifest, and the manifest those of all else. Segments never change: a checkpoint adds the
rows written since the one before (and its newest row again, which may have been cut since) and lists all
that cover the ring. A name that is taken gets one more leading zero, so nothing is ever overwritten.

Loading raises CheckpointError and nothing else, and no name in a file becomes a path outside the folder.
"""

import hashlib
import inspect
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from polyak import files
from polyak.errors import CheckpointError
from polyak.files import damaged
from polyak.interface import Tree
from polyak.pytree import Concatenated
from polyak.store import storage
from polyak.store.manifest import SEGMENT, Manifest, Segment, read_manifest, to_json
from polyak.store.storage import Field

MAX_SEGMENTS = 256  # a checkpoint that would list more writes the whole ring into one
MAX_COMPARED = 1 << 16  # rows that show whether a ring continues what is on disk
MAX_LINE = 1 << 20  # bytes of one line of metrics.jsonl

T = TypeVar("T")
_FOLDER = re.compile(r"[0-9]{8,20}")


class Loaded(NamedTuple):
    """A checkpoint as it was saved; all arrays are NumPy's."""

    tree: Tree
    rows: Tree
    clock: int
    extra: dict[str, Any]
    env_steps: int
    path: Path


# ---- saving


def save(
    folder: Path,
    env_steps: int,
    tree: Tree,
    extra: dict[str, Any],
    rows: Tree = None,
    clock: int = 0,
    keep: int = 3,
    also: Collection[int] = (),
) -> Path:
    """Write RUN/checkpoints/<env_steps> so that a kill at any instruction leaves a complete checkpoint.

    folder      RUN/checkpoints, made if it is missing
    tree        the whole run but its replay rows: a pytree of arrays
    extra       plain JSON: counters, seeds
    rows        [S, C, N, ...] the rings, whose row of absolute time t is in slot t % C
    clock       how many rows of time were ever written
    keep        how many checkpoints stay; those of more `env_steps` go: they are of an abandoned future
    also        `env_steps` of older checkpoints that stay beside these, for their arrays: their rows go

    Raises CheckpointError where the disk fails or `extra` is not plain JSON, TypeError or ValueError for
    leaves that cannot be stored.
    """
    if keep < 1 or env_steps < 0 or clock < 0 or (rows is None and clock):
        raise ValueError(f"keep = {keep}, env_steps = {env_steps}, clock = {clock}: not a checkpoint")
    folder, env_steps, clock = Path(folder), int(env_steps), int(clock)
    arrays = storage.flatten(tree)
    capacity = _capacity(storage.fields(rows))
    with files.guarded(folder):
        files.make_folder(folder)
        files.make_folder(folder / "segments")
        _sweep(folder)
        _sweep(folder / "segments")
        temporary = folder / f"{files.TEMPORARY}{env_steps:08d}"
        os.mkdir(temporary)
        segments = _write_rows(folder, env_steps, storage.named(rows), clock, capacity)
        sha256 = storage.write_arrays(temporary / "arrays.safetensors", arrays)
        manifest = Manifest(env_steps, clock, capacity, extra, sha256, storage.fields(tree), segments)
        text = files.encode_json(temporary / "manifest.json", to_json(manifest))
        files.write_bytes(temporary / "manifest.json", text)
        files.write_bytes(temporary / "COMPLETE", f"{hashlib.sha256(text).hexdigest()}\n".encode())
        final = _publish(temporary, folder / f"{env_steps:08d}")
        _prune(folder, final, keep, also)
    return final


def rewind(folder: Path, env_steps: int) -> None:
    """Forget the checkpoints of more `env_steps`: a resume that passed them over begins another future."""
    paths = [path for path in complete(folder) if int(path.name) > env_steps]
    with files.guarded(folder):
        if paths:
            _sweep(folder)
        for path in paths:
            _discard(path)


def _write_rows(
    folder: Path, env_steps: int, rows: Mapping[str, Any], clock: int, capacity: int
) -> list[Segment]:
    """The segments that hold the live rows, after writing the one that was missing."""
    if clock == 0 or not rows:
        return []
    oldest = max(0, clock - capacity)
    standing = _continued(folder, env_steps, rows, clock, capacity)
    start = max(oldest, standing[-1].stop - 1) if standing else oldest
    standing = [s for s in standing if s.start < start]
    # a segment whose every live row is in the next one is not needed
    nexts = [*(s.start for s in standing), start][1:]
    standing = [s for s, successor in zip(standing, nexts, strict=True) if successor > oldest]
    name = _free_segment(folder / "segments", start, clock)
    sha256 = storage.write_arrays(folder / "segments" / name, _times(rows, start, clock, capacity))
    return [*standing, Segment(name, start, clock, sha256)]


def _continued(
    folder: Path, env_steps: int, rows: Mapping[str, Any], clock: int, capacity: int
) -> list[Segment]:
    """The newest checkpoint's segments; none where these rows do not continue them.

    They do where the newest rows that both hold are equal, but for its very newest, which may have been cut.
    """
    older = [path for path in complete(folder) if int(path.name) <= env_steps]
    try:
        manifest = read_manifest(older[-1])
        if manifest.capacity != capacity or manifest.clock > clock or len(manifest.segments) >= MAX_SEGMENTS:
            return []
        for segment in manifest.segments:
            with files.guarded(folder), files.open_file(folder / "segments" / segment.name):
                pass
        for segment, start, stop in reversed(list(_live(manifest))):
            stored = _read_segment(folder, segment, storage.fields(dict(rows)))
            stop = min(stop, manifest.clock - 1)
            start = max(start, clock - capacity, stop - MAX_COMPARED)
            if start < stop:
                kept = {name: _span(array, segment, start, stop) for name, array in stored.items()}
                return manifest.segments if _same(kept, _times(rows, start, stop, capacity)) else []
    except (CheckpointError, IndexError):
        pass
    return []


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Bit for bit, so that NaN is NaN."""
    return all(a[name].tobytes() == b[name].tobytes() for name in b)


def _times(rows: Mapping[str, Any], start: int, stop: int, capacity: int) -> dict[str, np.ndarray]:
    """Copies [S, stop - start, N, ...] of the rows of these absolute times."""
    slots = np.arange(start, stop) % capacity
    return {name: _take(ring, slots) for name, ring in rows.items()}


def _take(ring: Any, slots: np.ndarray) -> np.ndarray:
    if isinstance(ring, Concatenated):
        return np.concatenate([_take(part, slots) for part in ring.parts])
    if isinstance(ring, jax.Array) and any(d.platform != "cpu" for d in ring.devices()):
        return np.asarray(jnp.take(ring, slots, axis=1))  # only what is needed leaves the device
    return np.take(np.asarray(ring), slots, axis=1)


def _capacity(rows: Mapping[str, Field]) -> int:
    """C, which all rings share; 0 where there are none."""
    capacities = {field.shape[1] if len(field.shape) > 1 else 0 for field in rows.values()}
    if len(capacities) > 1 or 0 in capacities:
        raise ValueError(f"rows are [S, C, N, ...] with one C > 0, not {sorted(capacities)}")
    return capacities.pop() if capacities else 0


def _free_segment(folder: Path, start: int, stop: int) -> str:
    for width in range(10, 21):
        name = f"{start:0{width}d}-{stop:0{width}d}.safetensors"
        if not os.path.lexists(folder / name):
            return name
    raise damaged(folder, f"has too many segments of the rows {start}-{stop}")


def _publish(temporary: Path, final: Path) -> Path:
    """Rename a finished folder; where another has its name, stand beside it before that one goes."""
    folder, free = final.parent, final
    while os.path.lexists(free):
        free = free.with_name("0" + free.name)
    os.rename(temporary, free)
    files.sync_folder(folder)
    if free != final:
        _discard(final)
        os.rename(free, final)
        files.sync_folder(folder)
    return final


def _prune(folder: Path, final: Path, keep: int, also: Collection[int]) -> None:
    """Remove the checkpoints and then the segments that are no longer needed."""
    older = [p for p in complete(folder) if int(p.name) < int(final.name)]
    kept = [*older[len(older) - min(len(older), keep - 1) :], final]
    stay = [*kept, *(p for p in older if int(p.name) in also)]
    for name in sorted(os.listdir(folder)):
        if _FOLDER.fullmatch(name) and folder / name not in stay:
            _discard(folder / name)
    files.sync_folder(folder)
    listed = set()
    for path in kept:
        try:
            listed |= {segment.name for segment in read_manifest(path).segments}
        except CheckpointError:
            return  # it may list any of them
    for name in os.listdir(folder / "segments"):
        if SEGMENT.fullmatch(name) and name not in listed:
            _discard(folder / "segments" / name)


def _discard(path: Path) -> None:
    """Remove a file, a link or a folder; a folder loses its name first, so half of one is never seen."""
    if path.is_symlink() or not path.is_dir():
        os.unlink(path)
        return
    grave = path.with_name(f"{files.TEMPORARY}old-{path.name}")
    os.rename(path, grave)
    shutil.rmtree(grave)


def _sweep(folder: Path) -> None:
    """Remove what a killed save left behind."""
    for name in os.listdir(folder):
        path = folder / name
        if not name.startswith(files.TEMPORARY):
            continue
        if path.is_symlink() or not path.is_dir():
            os.unlink(path)
        else:
            shutil.rmtree(path)


# ---- loading


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first; whether they are sound is not looked at."""
    folder = Path(folder)
    if not os.path.lexists(folder):
        return []
    with files.guarded(folder):
        files.check_folder(folder)
        paths = [folder / name for name in os.listdir(folder) if _FOLDER.fullmatch(name)]
        paths = [p for p in paths if not p.is_symlink() and (p / "COMPLETE").is_file()]
        return sorted(paths, key=lambda p: (int(p.name), len(p.name)))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of RUN/checkpoints, sound or not; None where there is none."""
    return next(reversed(complete(folder)), None)


def load(
    path: Path,
    template: Tree,
    rows_template: Tree = None,
    warn: Callable[[str], Any] = warnings.warn,
) -> Loaded:
    """The newest checkpoint that is whole and fits, or CheckpointError.

    path            RUN/checkpoints, or one checkpoint in it, for which there is no substitute
    template        arrays or ShapeDtypeStructs, or a function (extra) -> them; None gives the arrays by name
    rows_template   [S, C, N, ...]; None leaves the rows on disk
    warn            told of each damaged checkpoint that was passed over
    """
    path = Path(path)
    if _FOLDER.fullmatch(path.name):
        return _load_one(path, template, rows_template)
    return _newest_whole(path, lambda candidate: _load_one(candidate, template, rows_template), warn)


def _newest_whole(folder: Path, read_one: Callable[[Path], T], warn: Callable[[str], Any]) -> T:
    """Result of `read_one` for the newest checkpoint that it can read."""
    first = None
    for candidate in reversed(complete(folder)):
        try:
            found = read_one(candidate)
        except CheckpointError as error:
            first = first or CheckpointError(str(error))  # without the arrays that its traceback holds
            continue
        if first is not None:
            warn(f"{first}; using the older checkpoint {candidate.name}")
        return found
    raise first or damaged(folder, "has no complete checkpoint")


def read_whole(
    folder: Path, warn: Callable[[str], Any] = warnings.warn
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """As `read`, of the newest checkpoint in RUN/checkpoints that is whole; `warn` is told of a damaged one."""
    return _newest_whole(folder, read, warn)


def describe(folder: Path, warn: Callable[[str], Any] = warnings.warn) -> tuple[Path, Manifest]:
    """The newest checkpoint in RUN/checkpoints whose manifest is sound, and that; no array is read."""
    return _newest_whole(folder, lambda path: (path, read_manifest(path)), warn)


def is_sound(path: Path) -> bool:
    """Whether one checkpoint is whole: all of its files are there, with the bytes that were written."""
    try:
        manifest = read_manifest(path)
        _read_tree(path, manifest)
        for segment in manifest.segments:
            _read_segment(path.parent, segment, None)
    except CheckpointError:
        return False
    return True


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name and the manifest's JSON of one checkpoint, or of the newest in RUN/checkpoints."""
    path = Path(path) if _FOLDER.fullmatch(Path(path).name) else _newest(Path(path))
    manifest = read_manifest(path)
    return _read_tree(path, manifest), to_json(manifest)


def _newest(folder: Path) -> Path:
    path = latest(folder)
    if path is None:
        raise damaged(folder, "has no complete checkpoint")
    return path


def _read_tree(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    return storage.read_arrays(path / "arrays.safetensors", wanted=manifest.arrays, sha256=manifest.sha256)


def _load_one(path: Path, template: Tree, rows_template: Tree) -> Loaded:
    manifest = read_manifest(path)
    if inspect.isroutine(template):
        with files.guarded(path / "manifest.json"):
            template = template(manifest.extra)
    if template is not None:
        storage.check_fields(manifest.arrays, storage.fields(template), path)
    arrays = _read_tree(path, manifest)
    tree = arrays if template is None else storage.unflatten(template, arrays, path)
    rows = None if rows_template is None else _load_rows(path, manifest, rows_template)
    return Loaded(tree, rows, manifest.clock, manifest.extra, manifest.env_steps, path)


def _load_rows(path: Path, manifest: Manifest, template: Tree) -> Tree:
    """The rings [S, C, N, ...], zero where no row was written yet."""
    wanted = storage.fields(template)
    capacity = _capacity(wanted)
    if capacity != manifest.capacity:
        raise damaged(path / "manifest.json", f"capacity is {manifest.capacity}, expected {capacity}")
    with files.guarded(path):
        rings = {name: np.zeros(field.shape, field.dtype) for name, field in wanted.items()}
        for segment, start, stop in _live(manifest):
            arrays = _read_segment(path.parent, segment, wanted)
            slots = np.arange(start, stop) % capacity
            for name, ring in rings.items():
                ring[:, slots] = _span(arrays[name], segment, start, stop)
    return storage.unflatten(template, rings, path)


def newest_rows(path: Path, most: int) -> dict[str, np.ndarray]:
    """The newest rows that a checkpoint's ring holds, at most so many: [S, T, N, ...] by name, in the order of time."""
    manifest = read_manifest(path)
    first, parts = manifest.clock - most, []
    for segment, start, stop in _live(manifest):
        if stop > first:
            arrays = _read_segment(path.parent, segment, None)
            parts.append({n: _span(x, segment, max(start, first), stop) for n, x in arrays.items()})
    if any(
        {n: x.dtype for n, x in part.items()} != {n: x.dtype for n, x in parts[0].items()} for part in parts
    ):
        raise damaged(path, "its segments hold other fields than one another")
    with files.guarded(path):
        return {n: np.concatenate([part[n] for part in parts], axis=1) for n in parts[0]} if parts else {}


def _read_segment(folder: Path, segment: Segment, rings: Mapping[str, Field] | None) -> dict[str, np.ndarray]:
    """Arrays [S, stop - start, N, ...]; `rings` are the fields [S, C, N, ...] that they are cut from."""
    files.check_folder(folder / "segments")
    path, length = folder / "segments" / segment.name, segment.stop - segment.start
    wanted = rings
    if rings is not None:
        wanted = {n: Field(f.dtype, (f.shape[0], length, *f.shape[2:])) for n, f in rings.items()}
    arrays = storage.read_arrays(path, wanted=wanted, sha256=segment.sha256)
    for name, array in arrays.items():
        if array.ndim < 2 or array.shape[1] != length:
            raise damaged(path, f"field {name[:100]!r} has not {length} rows")
    return arrays


def _span(array: np.ndarray, segment: Segment, start: int, stop: int) -> np.ndarray:
    """The rows of these absolute times of a segment's array."""
    return array[:, start - segment.start : stop - segment.start]


def _live(manifest: Manifest) -> Iterator[tuple[Segment, int, int]]:
    """Each segment with the live rows that no later one holds again, in the order of time."""
    ends = [*(s.start for s in manifest.segments), manifest.clock][1:]
    for segment, end in zip(manifest.segments, ends, strict=True):
        start = max(segment.start, manifest.oldest)
        if start < end:
            yield segment, start, end


# ---- the digest


def digest(folder: Path) -> str:
    """One SHA-256 of a run: equal runs, equal lines. `folder` is RUN or RUN/checkpoints.

    It covers every array of the newest checkpoint, the live replay rows in the order of time, however they
    are cut into segments, and metrics.jsonl without what starts with time/.
    """
    folder = Path(folder)
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    path = _newest(folder)
    with files.guarded(path):
        manifest = read_manifest(path)
        total = hashlib.sha256()
        for name, array in sorted(_read_tree(path, manifest).items()):
            _add(total, "array", name, str(array.dtype), array.shape, hashlib.sha256(array.data).hexdigest())
        for name, entry in sorted(_row_digests(folder, manifest).items()):
            _add(total, "rows", name, *entry)
        _add(total, "metrics", _metrics_digest(folder.parent / "metrics.jsonl"))
    return total.hexdigest()


def _row_digests(folder: Path, manifest: Manifest) -> dict[str, tuple]:
    """(dtype, shape without time, rows, SHA-256 of the live rows with time first) of every ring."""
    hashes, shapes = {}, {}
    for segment, start, stop in _live(manifest):
        arrays = _read_segment(folder, segment, None)
        found = {name: (str(a.dtype), (a.shape[0], *a.shape[2:])) for name, a in arrays.items()}
        shapes = shapes or found
        if found != shapes:
            raise damaged(folder / "segments" / segment.name, "has other fields than the segment before")
        for name, array in arrays.items():
            rows = np.moveaxis(_span(array, segment, start, stop), 1, 0)
            hashes.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(rows).data)
    rows = manifest.clock - manifest.oldest
    return {name: (*shapes[name], rows, hashed.hexdigest()) for name, hashed in hashes.items()}


def _metrics_digest(path: Path) -> str:
    """SHA-256 of the lines as canonical JSON; a last line that a kill cut off does not count."""
    total = hashlib.sha256()
    if os.path.lexists(path):
        with files.guarded(path), files.open_file(path) as file:
            buffered = io.BufferedReader(file)
            for number, line in enumerate(iter(lambda: buffered.readline(MAX_LINE), b""), start=1):
                if not line.endswith(b"\n"):
                    if len(line) == MAX_LINE:
                        raise damaged(path, f"line {number} has more than {MAX_LINE} bytes")
                    break
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise damaged(path, f"line {number} is not a JSON object")
                _add(total, {k: v for k, v in values.items() if not k.startswith("time/")})
    return total.hexdigest()


def _add(total: Any, *values: Any) -> None:
    total.update((json.dumps(values, sort_keys=True, separators=(",", ":")) + "\n").encode())

"""Manifests: what a checkpoint says of itself, of which every field is looked at before it is believed."""

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from polyak import files
from polyak.files import damaged
from polyak.store.storage import Field

FORMAT = 1

SEGMENT = re.compile(r"([0-9]{1,20})-([0-9]{1,20})\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Segment(NamedTuple):
    """A file with the rows of absolute time [start, stop): arrays [S, stop - start, N, ...]."""

    name: str
    start: int
    stop: int
    sha256: str


class Manifest(NamedTuple):
    """Contents of manifest.json, checked."""

    env_steps: int
    clock: int
    capacity: int
    extra: dict[str, Any]
    sha256: str
    arrays: dict[str, Field]
    segments: list[Segment]

    @property
    def oldest(self) -> int:
        """The absolute time of the oldest row that is still in the ring."""
        return max(0, self.clock - self.capacity)


def read_manifest(path: Path) -> Manifest:
    """Manifest of a checkpoint; CheckpointError names the field that is wrong."""
    with files.guarded(path):
        files.check_folder(path.parent)
        files.check_folder(path)
        seal = files.read_bytes(path / "COMPLETE", 65)
        text = files.read_bytes(path / "manifest.json", files.MAX_JSON)
        if seal != f"{hashlib.sha256(text).hexdigest()}\n".encode():
            raise damaged(path / "manifest.json", "its SHA-256 is not the one in COMPLETE")
        manifest = _from_json(path / "manifest.json", files.decode_json(path / "manifest.json", text))
        if manifest.env_steps != int(path.name):
            raise damaged(path / "manifest.json", f"env_steps is {manifest.env_steps}, not the folder's name")
        return manifest


def to_json(manifest: Manifest) -> dict[str, Any]:
    """What manifest.json holds."""
    arrays = {n: {"dtype": f.dtype, "shape": list(f.shape)} for n, f in manifest.arrays.items()}
    segments = [{"name": s.name, "sha256": s.sha256} for s in manifest.segments]
    return {"format": FORMAT, **manifest._asdict(), "arrays": arrays, "segments": segments}


def _from_json(path: Path, value: dict[str, Any]) -> Manifest:
    def expect(fits: bool, field: str) -> None:
        if not fits:
            raise damaged(path, f"field {field!r} is missing or wrong")

    if value.get("format") != FORMAT or isinstance(value["format"], bool):
        raise damaged(
            path, f"field 'format' is {str(value.get('format'))[:20]!r}, this version reads {FORMAT}"
        )
    for field in ("env_steps", "clock", "capacity"):
        expect(files.is_count(value.get(field)), field)
    expect(value["capacity"] > 0 or value["clock"] == 0, "capacity")
    expect(isinstance(value.get("extra"), dict), "extra")
    expect(_is_sha256(value.get("sha256")), "sha256")
    expect(isinstance(value.get("arrays"), dict), "arrays")
    for entry in value["arrays"].values():
        expect(isinstance(entry, dict) and set(entry) == {"dtype", "shape"}, "arrays")
        expect(isinstance(entry["dtype"], str) and files.counts(entry["shape"]), "arrays")
    expect(isinstance(value.get("segments"), list), "segments")
    expect(len(value) == 8, "format")
    return _with_segments(path, value)


def _with_segments(path: Path, value: dict[str, Any]) -> Manifest:
    arrays = {name: Field(entry["dtype"], tuple(entry["shape"])) for name, entry in value["arrays"].items()}
    segments = [_segment(path, entry) for entry in value["segments"]]
    manifest = Manifest(
        value["env_steps"],
        value["clock"],
        value["capacity"],
        value["extra"],
        value["sha256"],
        arrays,
        segments,
    )
    covered = manifest.oldest
    for i, segment in enumerate(segments):
        again = i > 0 and not segments[i - 1].start < segment.start >= covered - 1  # more than one row
        if again or segment.start > covered or segment.stop < covered:
            raise damaged(path, f"field 'segments' does not continue at row {covered}")
        if segment.stop - segment.start > manifest.capacity:
            raise damaged(path, "field 'segments' has more rows than the capacity")
        covered = segment.stop
    if covered != manifest.clock:
        raise damaged(path, f"field 'segments' covers {covered} rows, but the clock is {manifest.clock}")
    return manifest


def _segment(path: Path, entry: Any) -> Segment:
    if isinstance(entry, dict) and set(entry) == {"name", "sha256"} and _is_sha256(entry["sha256"]):
        found = SEGMENT.fullmatch(entry["name"]) if isinstance(entry["name"], str) else None
        if found and int(found[1]) < int(found[2]):
            return Segment(entry["name"], int(found[1]), int(found[2]), entry["sha256"])
    raise damaged(path, "field 'segments' needs a name like 0-10.safetensors and its sha256 in each entry")


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None

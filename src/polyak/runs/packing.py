"""Parts of a ring as a checkpoint keeps them: rows are in segments, the index is whole, frames are streams."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from polyak import files
from polyak.parts.replay import Ring
from polyak.store import storage


def beside_rows(ring: Any) -> dict[str, Any]:
    """Parts of a ring that a checkpoint keeps whole, its rows being in segments."""
    return {"index": ring.index} if isinstance(ring, Ring) and ring.index != () else {}


def packed_frames(ring: Any) -> dict[str, Any]:
    """The frames of a ring as a checkpoint keeps them, each part of the store as one zlib stream; {} without."""
    if not isinstance(ring, Ring) or ring.frames == ():
        return {}
    store = [storage.deflate(np.asarray(leaf)) for leaf in jax.tree.leaves(ring.frames.store)]
    return {"frames": {"head": ring.frames.head, "held": ring.frames.held, "store": store}}


def declared_frames(ring: Any, extra: dict[str, Any], path: Path) -> dict[str, Any]:
    """The shapes of `packed_frames` in a checkpoint, which says how long the streams are."""
    if not isinstance(ring, Ring) or ring.frames == ():
        return {}
    lengths = extra.get("frames")
    if (
        lengths is None
        or not files.counts(lengths)
        or len(lengths) != len(jax.tree.leaves(ring.frames.store))
    ):
        raise files.damaged(path, "field 'frames' is missing or wrong")
    store = [jax.ShapeDtypeStruct((length,), np.uint8) for length in lengths]
    return {"frames": {"head": ring.frames.head, "held": ring.frames.held, "store": store}}


def unpacked_frames(ring: Ring, packed: Any, path: Path) -> Any:
    """The frames of a ring of these shapes that were packed; CheckpointError where they do not fit."""
    if ring.frames == ():
        return ()
    head, held = np.asarray(packed["head"]), np.asarray(packed["held"])
    if (head < 0).any() or (head >= jax.tree.leaves(ring.frames.store)[0].shape[1]).any() or (held < 0).any():
        raise files.damaged(path, "field 'frames' is wrong")
    leaves, structure = jax.tree.flatten(ring.frames.store)
    fields = [storage.Field(str(leaf.dtype), tuple(leaf.shape)) for leaf in leaves]
    store = [
        storage.inflate(stream, field, path) for stream, field in zip(packed["store"], fields, strict=True)
    ]
    return ring.frames.replace(store=structure.unflatten(store), head=head, held=held)

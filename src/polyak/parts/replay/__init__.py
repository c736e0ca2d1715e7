"""Replay as a pipeline: draw windows of the ring, make transitions of them; one file for each stage."""

from polyak.interface import Array, Batch, Replay
from polyak.parts.replay import frames, index
from polyak.parts.replay.draw import Windows, uniform
from polyak.parts.replay.ring import Ring, add, clock_at, cut, empty, planned_bytes
from polyak.parts.replay.window import Seen, as_it_is, clip_reward, n_step_batch

__all__ = [
    "Ring",
    "Windows",
    "add",
    "clip_reward",
    "clock_at",
    "cut",
    "empty",
    "frames",
    "index",
    "n_step_batch",
    "planned_bytes",
    "sample",
    "uniform",
]


def sample(ring: Ring, key: Array, data: Replay, gamma: Array, seen: Seen = as_it_is) -> Batch:
    """Draw a batch as `data` says: [B, ...], or [B, L, ...] where its length is more than one row.

    seen  what learning sees of single rewards, once they are clipped and before they are summed
    """
    windows = uniform(ring, key, data.batch_size, data.length)
    return n_step_batch(ring, windows, gamma, data.n_step, data.clip, seen)

"""A ring of past transitions with one clock: everything is said in absolute time, and `% C` happens at the gather.

Lin 1992; Mnih et al. 2015. Rows are `[C, N, ...]`: C slots of time for each of N environments. The clock counts
the rows of time ever written; head, size and oldest row follow from it. Before it is too long for an int32 whole
turns of the ring are taken off, which nothing that is drawn can tell.
"""

from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import Array, Transition
from polyak.pytree import Counter, Record, pytree

MOST_SLOTS = 2**29  # rows of time that a ring holds at most: with twice as many its clock still fits an int32


@pytree
class Ring(Record):
    """The rows in absolute time [clock - C, clock), of which those before 0 were never written."""

    rows: Transition  # [C, N, ...]
    clock: Counter  # rows of time ever written, whole turns of the ring taken off where they get too many
    index: Any = ()  # of rows that are not drawn uniformly: an `index.Index`
    frames: Any = ()  # where observations are kept as numbers of frames: `frames.Frames`

    @property
    def slots(self) -> int:
        """C, the rows of time it can hold."""
        return self.rows.reward.shape[0]


def empty(row: Transition, count: int) -> Ring:
    """A ring of `count` slots for rows like `row`, a Transition of arrays or shapes [N, ...]."""
    rows = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), row)
    return Ring(rows, Counter(jnp.zeros((), jnp.int32)))


def clock_at(rows: int, slots: int) -> int:
    """What the clock of a ring shows after so many rows of time, of which there may be more than an int32 counts."""
    return rows if rows < 2 * MOST_SLOTS else slots + rows % slots


def planned_bytes(row: Transition, count: int) -> int:
    """Bytes that `empty(row, count)` will allocate."""
    return count * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(row))


def add(ring: Ring, rollout: Transition) -> Ring:
    """Write a rollout [T, N, ...] over the oldest rows; every rollout of a ring has the same T, which divides C."""
    slot = ring.clock.value % ring.slots
    rows = jax.tree.map(lambda rows, new: write(rows, new.astype(rows.dtype), slot), ring.rows, rollout)
    return ring.replace(rows=rows, clock=folded(ring.clock.plus(rollout.reward.shape[0]), ring.slots))


def folded(clock: Counter, slots: int) -> Counter:
    """The clock without whole turns of the ring, from 2 x MOST_SLOTS rows on; a ring that was full stays full."""
    turns = 2 * MOST_SLOTS // slots - 1
    return Counter(clock.value - (clock.value >= 2 * MOST_SLOTS) * turns * slots)


@jax.custom_batching.custom_vmap
def write(rows: Array, new: Array, slot: Array) -> Array:
    """`rows` with `new` from `slot` on."""
    return jax.lax.dynamic_update_slice_in_dim(rows, new, slot, axis=0)


@write.def_vmap
def write_together(count: int, batched: list[bool], *args: Array) -> tuple[Array, bool]:
    """Rings of one clock are written as one slice, where vmap would make a scatter of it."""
    rows, new, slot = (
        x if has or place == 2 else jnp.broadcast_to(x, (count, *x.shape))
        for place, (x, has) in enumerate(zip(args, batched, strict=True))
    )
    if not batched[2]:
        return jax.lax.dynamic_update_slice_in_dim(rows, new, slot, axis=1), True
    return jax.vmap(write.fun)(rows, new, slot), True


def cut(ring: Ring, mask: Array) -> Ring:
    """End the running episode of the environments in `mask` [N], which were restarted without an end.

    Without it, every window over that row would join two episodes.
    """
    newest = (ring.clock.value - 1) % ring.slots
    rows = ring.rows
    ended = rows.truncated[newest] | (mask & ~rows.terminated[newest] & (ring.clock.value > 0))
    return ring.replace(rows=rows._replace(truncated=rows.truncated.at[newest].set(ended)))

"""A ring of past transitions with one clock: everything is said in absolute time, and `% C` happens at the gather.

Lin 1992; Mnih et al. 2015. Rows are `[C, N, ...]`: C slots of time for each of N environments. The clock counts
the rows of time ever written; head, size and oldest row follow from it. Before it is too long for an int32 whole
turns of the ring are taken off, which nothing that is drawn can tell.

Where W workers write rollouts of their own environments, N / W next to one another, each has a clock: a rollout is one
rectangle of the ring, and `turn` says whose.
"""

from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import MOST_SLOTS, Array, Transition
from polyak.pytree import Counter, Record, pytree


@pytree
class Ring(Record):
    """The rows in absolute time [clock - C, clock), of which those before 0 were never written."""

    rows: Transition  # [C, N, ...]
    clock: Counter  # rows of time ever written, whole turns of the ring taken off where they get too many; or [W]
    index: Any = ()  # of rows that are not drawn uniformly: an `index.Index`
    turn: Any = ()  # a Counter with the worker whose rollout is next; () where all are written together

    @property
    def slots(self) -> int:
        """C, the rows of time it can hold."""
        return self.rows.reward.shape[0]

    def clock_of(self, env: Array) -> Array:
        """What the clock of these environments shows: one number where all have the same."""
        clock = self.clock.value
        return clock if clock.ndim == 0 else clock[env * clock.size // self.rows.reward.shape[1]]

    @property
    def clock_in_turn(self) -> Array:
        """What the clock shows that the next rollout is written by."""
        return self.clock.value if self.turn == () else self.clock.value[self.turn.value]

    def env_in_turn(self, lanes: int) -> Array | int:
        """The first environment of the next rollout, which has so many."""
        return 0 if self.turn == () else self.turn.value * lanes


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
    steps, lanes = rollout.reward.shape
    slot = ring.clock_in_turn % ring.slots
    if ring.turn == ():
        rows = jax.tree.map(lambda rows, new: write(rows, new.astype(rows.dtype), slot), ring.rows, rollout)
        return ring.replace(rows=rows, clock=folded(ring.clock.plus(steps), ring.slots))
    env = ring.env_in_turn(lanes)
    place = lambda rows, new: write_part(rows, new.astype(rows.dtype), slot, env)  # noqa: E731
    later = folded(Counter(ring.clock_in_turn + steps), ring.slots)
    clock = Counter(ring.clock.value.at[ring.turn.value].set(later.value))
    return ring.replace(rows=jax.tree.map(place, ring.rows, rollout), clock=clock)


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


@jax.custom_batching.custom_vmap
def write_part(rows: Array, new: Array, slot: Array, env: Array) -> Array:
    """`rows` with `new` from `slot` and environment `env` on."""
    zeros = (jnp.zeros_like(slot),) * (rows.ndim - 2)
    return jax.lax.dynamic_update_slice(rows, new, (slot, env.astype(slot.dtype), *zeros))


@write_part.def_vmap
def write_parts_together(count: int, batched: list[bool], *args: Array) -> tuple[Array, bool]:
    """Rings of the same clocks are written as one slice."""
    rows, new, slot, env = args
    rows, new = (
        x if has else jnp.broadcast_to(x, (count, *x.shape))
        for x, has in zip((rows, new), batched, strict=False)
    )
    assert not any(batched[2:]), "seeds that run side by side have the same clocks"
    zero = jnp.zeros_like(slot)
    return jax.lax.dynamic_update_slice(
        rows, new, (zero, slot, env.astype(slot.dtype), *(zero,) * (rows.ndim - 3))
    ), True


def cut(ring: Ring, mask: Array) -> Ring:
    """End the running episode of the environments in `mask` [N], which were restarted without an end.

    Without it, every window over that row would join two episodes.
    """
    env = jnp.arange(mask.shape[0])
    clock, rows = ring.clock_of(env), ring.rows
    newest = (clock - 1) % ring.slots
    ended = rows.truncated[newest, env] | (mask & ~rows.terminated[newest, env] & (clock > 0))
    return ring.replace(rows=rows._replace(truncated=rows.truncated.at[newest, env].set(ended)))

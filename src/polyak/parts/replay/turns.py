"""A ring that W workers write in turns: each has N / W environments next to one another, and a clock of its own.

A rollout is one rectangle of the ring. The stages of replay are those of a ring with one clock: what is drawn here is
given to them with the clock of the worker that wrote it, so that no window goes beyond its newest row.
"""

import jax
import jax.numpy as jnp

from polyak.interface import Array, Batch, Replay, Transition
from polyak.parts.replay import index as indexed
from polyak.parts.replay import priority
from polyak.parts.replay.draw import Windows
from polyak.parts.replay.ring import Ring, folded
from polyak.parts.replay.window import Seen, as_it_is, n_step_batch
from polyak.pytree import Counter, Record, pytree


@pytree
class Turns(Record):
    """A ring whose clock has W values, and the worker whose rollout is next."""

    ring: Ring
    worker: Counter

    @property
    def lanes(self) -> int:
        """Environments of each worker."""
        return self.ring.rows.reward.shape[1] // self.ring.clock.value.size

    def clock_of(self, env: Array) -> Array:
        """What the clocks of these environments show."""
        return self.ring.clock.value[env // self.lanes]

    def seen_from(self, env: Array) -> Ring:
        """The ring with the clock [B, 1] of the windows that begin in environments [B] or, for sequences, [B, L]."""
        return self.ring.replace(clock=Counter(self.clock_of(env)[..., None]))


def empty(row: Transition, count: int, data: Replay, workers: int) -> Turns:
    """`index.empty` for so many workers."""
    clock = Counter(jnp.zeros(workers, jnp.int32))
    return Turns(indexed.empty(row, count, data).replace(clock=clock), Counter(jnp.zeros((), jnp.int32)))


def add(turns: Turns, rollout: Transition, data: Replay) -> Turns:
    """Write a rollout [T, N / W, ...] of the worker whose turn it is over its oldest rows, and index it."""
    ring, worker, steps = turns.ring, turns.worker.value, rollout.reward.shape[0]
    before, env = ring.clock.value[worker], worker * turns.lanes
    slot = before % ring.slots
    rows = jax.tree.map(lambda rows, new: write(rows, new.astype(rows.dtype), slot, env), ring.rows, rollout)
    after = folded(Counter(before + steps), ring.slots)
    clock, index = Counter(ring.clock.value.at[worker].set(after.value)), ring.index
    if data.priority > 0:
        envs = env + jnp.arange(turns.lanes)
        index = index.replace(priorities=enter(index.priorities, data, before + steps, steps, ring, envs))
    return turns.replace(ring=ring.replace(rows=rows, clock=clock, index=index))


def enter(
    priorities: priority.Priorities, data: Replay, clock: Array, steps: int, ring: Ring, envs: Array
) -> priority.Priorities:
    """`priority.enter` for new rows of some environments only, whose clock is this one after them."""
    time = clock - steps - (data.length - 1) + jnp.arange(steps + data.length - 1)
    mass = jnp.where(time + data.length <= clock, priorities.largest**data.priority, 0.0)
    leaf = time[:, None] % ring.slots * ring.rows.reward.shape[1] + envs
    held = (time >= 0) & (time >= clock - ring.slots)
    leaf = jnp.where(held[:, None], leaf, priorities.levels[0].size)
    mass = jnp.broadcast_to(mass[:, None], leaf.shape)
    return priorities.replace(levels=priority.put(priorities.levels, leaf.ravel(), mass.ravel()))


@jax.custom_batching.custom_vmap
def write(rows: Array, new: Array, slot: Array, env: Array) -> Array:
    """`rows` with `new` from `slot` and environment `env` on."""
    zeros = (jnp.zeros_like(slot),) * (rows.ndim - 2)
    return jax.lax.dynamic_update_slice(rows, new, (slot, env.astype(slot.dtype), *zeros))


@write.def_vmap
def write_together(count: int, batched: list[bool], *args: Array) -> tuple[Array, bool]:
    """Rings of the same clocks are written as one slice."""
    rows, new, slot, env = args
    rows, new = (
        x if has else jnp.broadcast_to(x, (count, *x.shape))
        for x, has in zip((rows, new), batched, strict=False)
    )
    assert not any(batched[2:]), "seeds that run side by side have the same clocks"
    zero = jnp.zeros_like(slot)
    start = (zero, slot, env.astype(slot.dtype), *(zero,) * (rows.ndim - 3))
    return jax.lax.dynamic_update_slice(rows, new, start), True


def held(turns: Turns, length: int) -> Array:
    """Rows [W] of each environment at which a window of this length may begin."""
    return jnp.maximum(jnp.minimum(turns.ring.clock.value, turns.ring.slots) - length + 1, 0)


def uniform(turns: Turns, key: Array, count: int, length: int = 1) -> Windows:
    """`draw.uniform`: of each worker's environments as many windows as they have rows."""
    key_time, key_env = jax.random.split(key)
    shape = (count,) if length == 1 else (count, 1)
    until, newest = jnp.cumsum(held(turns, length)), turns.ring.clock.value
    place = jax.random.randint(key_time, shape, 0, until[-1])
    worker = jnp.searchsorted(until, place, side="right")
    start = newest[worker] - length + 1 - (until[worker] - place)
    env = worker * turns.lanes + jax.random.randint(key_env, shape, 0, turns.lanes)
    time = start if length == 1 else start + jnp.arange(length)
    return Windows(time, jnp.broadcast_to(env, time.shape))


def by_priority(turns: Turns, priorities: priority.Priorities, key: Array, data: Replay) -> indexed.Drawn:
    """`index.by_priority`, with the clock of each row's worker and the rows of all of them."""
    ring = turns.ring
    leaf, probability = priority.draw(priorities, key, data.batch_size)
    env = leaf % ring.rows.reward.shape[1]
    newest = turns.clock_of(env) - 1
    time = newest - (newest - leaf // ring.rows.reward.shape[1]) % ring.slots
    count = held(turns, data.length).sum() * turns.lanes
    weight = priority.importance(probability, count, priority.beta_of(data.correction, priorities.updates))
    weight = weight / weight.max()
    if data.length > 1:
        time = time[:, None] + jnp.arange(data.length)
        env, weight = jnp.broadcast_to(env[:, None], time.shape), weight[:, None]
    return indexed.Drawn(Windows(time, env), leaf, weight)


def sample(
    turns: Turns, index: indexed.Index | tuple, key: Array, data: Replay, gamma: Array, seen: Seen = as_it_is
) -> tuple[Batch, Array | None]:
    """A batch as `data` says, and the leaves [B] that priorities are written back to; see `index.sample`."""
    if data.priority == 0:
        windows = uniform(turns, key, data.batch_size, data.length)
        ring = turns.seen_from(windows.env)
        return n_step_batch(ring, windows, gamma, data.n_step, data.clip, seen), None
    assert isinstance(index, indexed.Index)
    windows, leaf, weight = by_priority(turns, index.priorities, key, data)
    batch = n_step_batch(turns.seen_from(windows.env), windows, gamma, data.n_step, data.clip, seen)
    return batch._replace(weight=jnp.broadcast_to(weight, batch.weight.shape)), leaf


def cut(turns: Turns, mask: Array) -> Turns:
    """End the running episode of the environments in `mask` [N], which were restarted without an end."""
    env = jnp.arange(mask.shape[0])
    clock, rows = turns.clock_of(env), turns.ring.rows
    newest = (clock - 1) % turns.ring.slots
    ended = rows.truncated[newest, env] | (mask & ~rows.terminated[newest, env] & (clock > 0))
    rows = rows._replace(truncated=rows.truncated.at[newest, env].set(ended))
    return turns.replace(ring=turns.ring.replace(rows=rows))

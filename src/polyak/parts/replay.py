"""A ring of past transitions with one clock: everything is said in absolute time, and `% C` happens at the gather.

Lin 1992; Mnih et al. 2015. Rows are `[C, N, ...]`: C slots of time for each of N environments. The clock counts
the rows of time ever written; head, size and oldest row follow from it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import Array, Batch, Transition, Tree
from polyak.pytree import Record, pytree


@pytree
class Ring(Record):
    """The rows in absolute time [clock - C, clock), of which those before 0 were never written."""

    rows: Transition  # [C, N, ...]
    clock: Array  # int32, rows of time ever written

    @property
    def slots(self) -> int:
        """C, the rows of time it can hold."""
        return self.rows.reward.shape[0]


def slots(capacity: int, num_envs: int, steps: int) -> int:
    """C: `capacity` transitions over N environments in whole rollouts of `steps` rows.

    A write that does not fit before the end would be moved, not wrapped: so C is a multiple of `steps`.
    Raises ValueError where not even one rollout fits.
    """
    whole = capacity // num_envs // steps * steps
    if whole < steps or whole < 1:
        raise ValueError(
            f"data.capacity is {capacity}, which does not hold one rollout of {steps} steps x {num_envs} "
            f"environments: give at least {steps * num_envs}"
        )
    return whole


def empty(row: Transition, count: int) -> Ring:
    """A ring of `count` slots for rows like `row`, a Transition of arrays or shapes [N, ...]."""
    rows = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), row)
    return Ring(rows, jnp.zeros((), jnp.int32))


def planned_bytes(row: Transition, count: int) -> int:
    """What `empty(row, count)` will allocate."""
    return count * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(row))


def add(ring: Ring, rollout: Transition) -> Ring:
    """Write a rollout [T, N, ...] over the oldest rows; every rollout of a ring has the same T, which divides C."""
    slot = ring.clock % ring.slots
    rows = jax.tree.map(lambda rows, new: write(rows, new.astype(rows.dtype), slot), ring.rows, rollout)
    return Ring(rows, ring.clock + rollout.reward.shape[0])


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
    newest = (ring.clock - 1) % ring.slots
    rows = ring.rows
    ended = rows.truncated[newest] | (mask & ~rows.terminated[newest] & (ring.clock > 0))
    return ring.replace(rows=rows._replace(truncated=rows.truncated.at[newest].set(ended)))


def sample(
    ring: Ring,
    key: Array,
    batch_size: int,
    gamma: Array,
    n_step: int = 1,
    length: int = 1,
    clip: Array | None = None,
) -> Batch:
    """Draw windows uniformly: [B, ...], or [B, L, ...] for `length` > 1.

    A window starts anywhere in the ring and never runs over its head; it may contain episode ends.
    """
    key_time, key_env = jax.random.split(key)
    oldest = jnp.maximum(ring.clock - ring.slots, 0)
    shape = (batch_size,) if length == 1 else (batch_size, 1)
    start = jax.random.randint(key_time, shape, oldest, ring.clock - length + 1)
    env = jax.random.randint(key_env, shape, 0, ring.rows.reward.shape[1])
    time = start if length == 1 else start + jnp.arange(length)
    return transitions(ring, time, jnp.broadcast_to(env, time.shape), gamma, n_step, clip)


def transitions(
    ring: Ring, time: Array, env: Array, gamma: Array, n_step: int = 1, clip: Array | None = None
) -> Batch:
    """The n-step transitions that begin at absolute `time` [...] in environment `env` [...].

    One ends after the first row that ended its episode, after n rows, or at the newest row, and bootstraps
    there: with k rows, `reward` is sum_i gamma^i r_i and `discount` gamma^k, or 0 where it terminated.
    """

    def at(rows: Tree, when: Array, where: Array) -> Tree:
        return jax.tree.map(lambda x: x[when % ring.slots, where], rows)

    rows = ring.rows
    step = jnp.arange(n_step)
    window, lane = time[..., None] + step, env[..., None]
    reward = clipped(at(rows.reward, window, lane), clip)
    if n_step == 1:
        end, reward, decay = time, reward[..., 0], jnp.asarray(gamma, jnp.float32)
    else:
        last = at(rows.terminated, window, lane) | at(rows.truncated, window, lane)
        before = jnp.cumsum(last, axis=-1) - last  # ends before this row
        within = (before == 0) & (window < ring.clock)
        count = within.sum(axis=-1)
        power = jnp.cumprod(jnp.full(n_step, gamma, jnp.float32))  # gamma^1 .. gamma^n
        scale = jnp.concatenate([jnp.ones(1), power[:-1]])
        reward = jnp.where(within, scale * reward, 0.0).sum(axis=-1)
        end, decay = time + count - 1, power[count - 1]
    terminated, truncated = at((rows.terminated, rows.truncated), end, env)
    return Batch(
        obs=at(rows.obs, time, env),
        action=at(rows.action, time, env),
        reward=reward,
        next_obs=at(rows.next_obs, end, env),
        terminated=terminated,
        truncated=truncated,
        extras=at(rows.extras, time, env),
        discount=jnp.where(terminated, 0.0, decay),
        weight=jnp.ones(time.shape, jnp.float32),
    )


def clipped(reward: Array, clip: Any) -> Array:
    """The reward that learning sees."""
    return reward if clip is None else jnp.clip(reward, -clip, clip)

"""From where windows begin to transitions that span n steps: the second stage of replay."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import Array, Batch, Tree
from polyak.parts.replay.draw import Windows
from polyak.parts.replay.ring import Ring

Seen = Callable[[Array], Array]  # from single rewards to what learning sees of them


def as_it_is(reward: Array) -> Array:
    """Learning sees the environment's own rewards."""
    return reward


def n_step_batch(
    ring: Ring, windows: Windows, gamma: Array, n_step: int = 1, clip: Any = None, seen: Seen = as_it_is
) -> Batch:
    """The n-step transitions [...] that begin at `windows` [...].

    One ends after the first row that ended its episode, after n rows, or at the newest row, and bootstraps
    there: with k rows, `reward` is sum_i gamma^i r_i and `discount` gamma^k, or 0 where it terminated. Each r_i is
    clipped to [-clip, clip], and then what `seen` makes of it.
    """

    def at(rows: Tree, when: Array, where: Array) -> Tree:
        return jax.tree.map(lambda x: x[when % ring.slots, where], rows)

    rows, (time, env) = ring.rows, windows
    step = jnp.arange(n_step)
    window, column = time[..., None] + step, env[..., None]
    reward = seen(clip_reward(at(rows.reward, window, column), clip))
    if n_step == 1:
        end, reward, decay = time, reward[..., 0], jnp.asarray(gamma, jnp.float32)
    else:
        last = at(rows.terminated, window, column) | at(rows.truncated, window, column)
        before = jnp.cumsum(last, axis=-1) - last  # ends before this row
        within = (before == 0) & (window < ring.clock.value)
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


def clip_reward(reward: Array, clip: Any) -> Array:
    """The reward that learning sees: within [-clip, clip], or as it is."""
    return reward if clip is None else jnp.clip(reward, -clip, clip)

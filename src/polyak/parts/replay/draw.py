"""Drawing windows of a ring: the first stage of replay."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from polyak.interface import Array
from polyak.parts.replay.ring import Ring


class Windows(NamedTuple):
    """Where windows begin: row `time` of environment `env`, [B] each, or [B, L] for the rows of sequences."""

    time: Array  # absolute, as the ring's clock counts
    env: Array


def uniform(ring: Ring, key: Array, count: int, length: int = 1, held: Array | None = None) -> Windows:
    """Draw `count` windows, every row of the ring alike (Lin 1992; Mnih et al. 2015).

    A sequence of `length` rows starts anywhere and never runs over the newest row; it may contain episode ends.
    With `held` they are among so many of the newest rows.
    """
    (key_time, key_env), newest = jax.random.split(key), ring.clock.value
    oldest = jnp.maximum(newest - ring.slots, 0) if held is None else newest - held
    shape = (count,) if length == 1 else (count, 1)
    start = jax.random.randint(key_time, shape, oldest, newest - length + 1)
    env = jax.random.randint(key_env, shape, 0, ring.rows.reward.shape[1])
    time = start if length == 1 else start + jnp.arange(length)
    return Windows(time, jnp.broadcast_to(env, time.shape))

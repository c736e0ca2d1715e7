"""Schedules: a setting that changes with a counter."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from polyak.interface import Clock


def start_clock() -> Clock:
    """The clock of a run that has not stepped."""
    return Clock(jnp.zeros((), jnp.uint32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def linear_schedule(step: ArrayLike, start: ArrayLike, end: ArrayLike, duration: ArrayLike) -> jax.Array:
    """A line from `start` at step 0 to `end` at step `duration`, constant outside; float32.

    step, start, end, duration  scalars, or arrays that broadcast; with duration 0 it is `end` at once
    """
    if isinstance(start, int | float) and isinstance(end, int | float) and start == end:
        return jnp.full(jnp.broadcast_shapes(jnp.shape(step), jnp.shape(duration)), start, jnp.float32)
    never = jnp.asarray(duration, jnp.float32) <= 0
    progress = jnp.where(never, 1.0, jnp.asarray(step, jnp.float32) / jnp.where(never, 1.0, duration))
    start, end = jnp.asarray(start, jnp.float32), jnp.asarray(end, jnp.float32)
    return start + jnp.clip(progress, 0.0, 1.0) * (end - start)

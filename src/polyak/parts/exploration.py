"""Noise on actions: what an algorithm adds to its policy so that it sees something new."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Int32

from polyak.interface import Array


def epsilon_greedy(key: jax.Array, q: Float[Array, "*batch A"], epsilon: ArrayLike) -> Int32[Array, "*batch"]:
    """The best action, or with probability `epsilon` a uniform one (Sutton & Barto 2018, section 2.2).

    q        [..., A]  action values; -inf marks an action that is not allowed, and it is never drawn
    epsilon  a scalar, or [...] for one probability per element
    Returns  [...] int32; the elements' choices are independent, ties go to the first action
    """
    key_whether, key_which = jax.random.split(key)
    explore = jax.random.uniform(key_whether, q.shape[:-1]) < epsilon
    anything = jax.random.categorical(key_which, jnp.where(jnp.isneginf(q), -jnp.inf, 0.0))
    return jnp.where(explore, anything, q.argmax(-1)).astype(jnp.int32)


def gaussian(
    key: jax.Array,
    action: Float[Array, "*batch A"],
    sigma: ArrayLike,
    low: ArrayLike = -1.0,
    high: ArrayLike = 1.0,
) -> Float[Array, "*batch A"]:
    """The action plus N(0, sigma^2) noise, clipped to [low, high], Fujimoto et al. 2018 (arXiv:1802.09477).

    action  [..., A]; sigma, low and high are scalars or broadcast to it
    """
    noise = sigma * jax.random.normal(key, action.shape, action.dtype)
    return jnp.clip(action + noise, low, high).astype(action.dtype)

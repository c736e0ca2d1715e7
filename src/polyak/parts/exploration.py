"""Exploration: noise on actions, so that an algorithm sees something new."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Int32

from polyak.interface import Array, Tree

Noise = Literal["gaussian", "ou"]  # independent from step to step, or Ornstein-Uhlenbeck's, which wanders


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


def ornstein_uhlenbeck(
    key: jax.Array, x: Float[Array, "*batch"], sigma: ArrayLike, theta: ArrayLike, dt: ArrayLike = 1.0
) -> Float[Array, "*batch"]:
    """One step of dx = -theta x dt + sigma dW, exact for any dt (Uhlenbeck & Ornstein 1930).

    theta is the rate of return to 0, sigma the scale of the noise: from x = 0 the variance grows towards
    sigma^2 / (2 theta), and the correlation of two steps that are a lag apart is exp(-theta lag).
    """
    theta = jnp.asarray(theta, x.dtype)
    kept = jnp.exp(-theta * dt)
    spread = jnp.where(theta > 0, -jnp.expm1(-2 * theta * dt) / jnp.where(theta > 0, 2 * theta, 1.0), dt)
    return kept * x + sigma * jnp.sqrt(spread) * jax.random.normal(key, x.shape, x.dtype)


def initial_noise(noise: Noise, shape: tuple[int, ...]) -> Tree:
    """Memory of the noise at the start of an episode: zeros where it wanders, nothing where it does not."""
    return jnp.zeros(shape) if noise == "ou" else ()


def add_noise(
    noise: Noise,
    key: jax.Array,
    action: Float[Array, "*batch A"],
    memory: Tree,
    sigma: ArrayLike,
    theta: ArrayLike = 0.15,
) -> tuple[Float[Array, "*batch A"], Tree]:
    """The action with noise of one kind, clipped to [-1, 1], and the noise's memory."""
    if noise == "gaussian":
        return gaussian(key, action, sigma), memory
    memory = ornstein_uhlenbeck(key, memory, sigma, theta)
    return jnp.clip(action + memory, -1.0, 1.0), memory

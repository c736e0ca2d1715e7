"""Exploration: noise on actions, so that an algorithm sees something new."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Int32

from polyak.interface import Array, Tree

ActionNoise = Literal[
    "gaussian", "ou"
]  # independent from step to step, or Ornstein-Uhlenbeck's, which wanders
Noise = Literal["gaussian", "ou", "parameter"]  # or on the policy's parameters, the same for a whole episode


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


def gaussian(key: jax.Array, action: Float[Array, "*batch A"], sigma: ArrayLike) -> Float[Array, "*batch A"]:
    """The action plus N(0, sigma^2) noise, clipped to [-1, 1], Fujimoto et al. 2018 (arXiv:1802.09477).

    action  [..., A]; sigma is a scalar or broadcasts to it
    """
    noise = sigma * jax.random.normal(key, action.shape, action.dtype)
    return jnp.clip(action + noise, -1.0, 1.0).astype(action.dtype)


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


def initial_noise(noise: Noise, shape: tuple[int, ...], key: jax.Array | None = None) -> Tree:
    """Memory of the noise at the start of an episode: zeros where it wanders, [N, 2] seeds if it is on parameters."""
    if noise == "parameter":
        assert key is not None
        return jax.random.key_data(jax.random.split(key, shape[0]))
    return jnp.zeros(shape) if noise == "ou" else ()


def add_noise(
    noise: ActionNoise,
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


# ---- noise on the parameters: Plappert et al. 2018, "Parameter Space Noise for Exploration" (arXiv:1706.01905)


def initial_scale(noise: Noise, delta: float) -> Tree:
    """What a state keeps of the noise: sigma of noise on parameters, which adapts itself, else nothing."""
    return jnp.full((), delta, jnp.float32) if noise == "parameter" else ()


def perturbed(params: Tree, key: jax.Array, sigma: ArrayLike) -> Tree:
    """Parameters theta + N(0, sigma^2 I), section 3."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [x + sigma * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    return structure.unflatten(moved)


def explore_by(
    noise: Noise,
    key: jax.Array,
    policy: Callable[[Tree, Tree], Array],
    actor: Tree,
    scale: Tree,
    obs: Tree,
    memory: Tree,
    sigma: ArrayLike,
    theta: ArrayLike = 0.15,
) -> tuple[Float[Array, "N A"], Tree]:
    """The actions of a deterministic policy with noise of any kind, for observations [N, ...], and the noise's memory.

    policy  (actor, obs) -> action in [-1, 1]
    scale   sigma of noise on parameters, from the state; `sigma` and `theta` are of noise on actions
    """
    if noise != "parameter":
        return add_noise(noise, key, policy(actor, obs), memory, sigma, theta)

    def of_one(seed: Array, obs: Tree) -> Array:
        return policy(perturbed(actor, jax.random.wrap_key_data(seed), scale), obs)

    return jax.vmap(of_one)(memory, obs), memory


def adapted_scale(
    noise: Noise,
    key: jax.Array,
    policy: Callable[[Tree, Tree], Array],
    actor: Tree,
    scale: Tree,
    obs: Tree,
    delta: ArrayLike,
    alpha: float = 1.01,
) -> Tree:
    """sigma_{k+1} = alpha sigma_k where the actions for a batch of observations differ by at most delta, else / alpha.

    The distance is the root mean square over observations and actions (section 3 and appendix C), between the policy
    and one that is perturbed for this measurement only. Nothing where the noise is on actions.
    """
    if noise != "parameter":
        return scale
    away = policy(perturbed(actor, key, scale), obs) - policy(actor, obs)
    distance = jnp.sqrt((away**2).mean())
    return (scale * jnp.where(distance <= delta, alpha, 1 / alpha)).astype(scale.dtype)

"""Maximisers of a function of an action, for many states at once: no actor is needed."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array

Value = Callable[[Array], Array]  # from actions [N, B, A] to values [N, B]


def cross_entropy_method(
    value: Value,
    key: jax.Array,
    shape: tuple[int, int],
    samples: int,
    elites: int,
    iterations: int,
    least: float = 1e-3,
    start: Array | None = None,
    answer: Literal["best", "mean"] = "best",
) -> Float[Array, "B A"]:
    """Best of the actions that the cross-entropy method draws in [-1, 1] (Rubinstein & Kroese 2004).

    Each of B states has a Gaussian of its own, first N(0, 1) and then fitted to the `elites` best of `samples`.

    shape   B, A
    least   of each standard deviation, so that the search does not stand still
    start   [B, A] first means, instead of 0
    answer  "mean": the last mean instead, where values are uncertain and the best may only have been lucky
    """

    def iteration(carry: tuple, number: Array) -> tuple[tuple, None]:
        mean, std, best, best_value = carry
        noise = jax.random.normal(jax.random.fold_in(key, number), (samples, *shape))
        action = jnp.clip(mean + std * noise, -1.0, 1.0)
        worth = value(action)
        _, index = jax.lax.top_k(worth.T, elites)  # [B, M]
        elite = jnp.take_along_axis(action.swapaxes(0, 1), index[..., None], axis=1)  # [B, M, A]
        first, first_worth = elite[:, 0], worth.max(axis=0)
        better = first_worth > best_value
        best = jnp.where(better[:, None], first, best)
        best_value = jnp.maximum(first_worth, best_value)
        return (elite.mean(axis=1), jnp.maximum(elite.std(axis=1), least), best, best_value), None

    mean = jnp.zeros(shape) if start is None else start
    first = mean, jnp.ones(shape), jnp.zeros(shape), jnp.full(shape[0], -jnp.inf)
    (mean, _, best, _), _ = jax.lax.scan(iteration, first, jnp.arange(iterations))
    return best if answer == "best" else mean


def gradient_ascent(
    value: Value, key: jax.Array, shape: tuple[int, int], starts: int, iterations: int, step: ArrayLike
) -> Float[Array, "B A"]:
    """Best of the actions that climb along the sign of the gradient from uniform starts in [-1, 1].

    shape   B, A
    step    length of the first step; the last is a tenth of it
    """
    action = jax.random.uniform(key, (starts, *shape), minval=-1.0)
    lengths = step * jnp.linspace(1.0, 0.1, iterations)

    def climb(action: Array, length: Array) -> tuple[Array, None]:
        slope = jax.grad(lambda action: value(action).sum())(action)
        return jnp.clip(action + length * jnp.sign(slope), -1.0, 1.0), None

    action, _ = jax.lax.scan(climb, action, lengths)
    index = value(action).argmax(axis=0)
    return jnp.take_along_axis(action, index[None, :, None], axis=0)[0]

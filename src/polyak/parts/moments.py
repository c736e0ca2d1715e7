"""Running moments: mean and variance of all points seen so far."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from polyak.interface import Array, Tree
from polyak.pytree import Record, pytree


@pytree
class Moments(Record):
    """Mean and variance of all points seen so far, per entry.

    In float32 the count stops growing after some 2^24 batches; from there the update is a moving average of
    that length.
    """

    mean: Tree  # arrays of a point's own shape, 0 before any data
    var: Tree  # population variance, 1 before any data
    count: Array  # [] float32, points seen

    @classmethod
    def empty(cls, shapes: Tree) -> "Moments":
        """No data yet: mean 0, variance 1. `shapes` is a tree of anything that has a `shape`."""
        return cls(
            jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes),
            jax.tree.map(lambda s: jnp.ones(s.shape, jnp.float32), shapes),
            jnp.zeros((), jnp.float32),
        )

    def add(self, points: Tree, where: Array | None = None) -> "Moments":
        """With a batch of points, [..., *shape] each: the pairwise update of Chan, Golub & LeVeque 1983.

        where   [...] which points count, at least one; None: all
        """
        if not jax.tree.leaves(points):
            return self

        def lead(mean: Array, x: Array) -> tuple[int, ...]:
            return tuple(range(x.ndim - mean.ndim))

        def mean_of(mean: Array, x: Array) -> Array:
            return jnp.mean(x, lead(mean, x), jnp.float32, where=counts(mean, x))

        def var_of(mean: Array, x: Array) -> Array:
            return jnp.var(x, lead(mean, x), jnp.float32, where=counts(mean, x))

        def counts(mean: Array, x: Array) -> Array | None:
            return None if where is None else where.reshape(where.shape + (1,) * mean.ndim)

        mean, x = jax.tree.leaves(self.mean)[0], jax.tree.leaves(points)[0]
        size = math.prod(x.shape[axis] for axis in lead(mean, x))
        if where is not None:
            size = jnp.sum(where, dtype=jnp.float32)
        share = size / (self.count + size)
        # mean <- mean + share delta; var <- (1 - share) (var + share delta^2) + share var of the batch
        delta = jax.tree.map(lambda mean, x: mean_of(mean, x) - mean, self.mean, points)
        var = jax.tree.map(var_of, self.mean, points)
        return Moments(
            jax.tree.map(lambda mean, d: mean + share * d, self.mean, delta),
            jax.tree.map(
                lambda old, v, d: old + share * (v - old + (1 - share) * d**2), self.var, var, delta
            ),
            self.count + size,
        )


def running_return(
    running: Float[Array, "N"], reward: Float[Array, "T N"], last: Bool[Array, "T N"], gamma: Any
) -> tuple[Float[Array, "N"], Float[Array, "T N"]]:
    """R_t = gamma R_{t-1} + r_t, from 0 in every episode; what to carry on with, and all R_t."""

    def accumulate(running: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, last = row
        total = gamma * running + reward
        return jnp.where(last, 0.0, total), total

    return jax.lax.scan(accumulate, running, (reward, last))

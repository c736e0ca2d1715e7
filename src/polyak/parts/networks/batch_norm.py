"""Batch normalisation, whose running statistics are part of the network and so of an algorithm's state."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Space, Tree
from polyak.parts.networks.layers import ACTIVATIONS, Layer, Layout, features_of
from polyak.parts.networks.mlp import mlp
from polyak.parts.optimize import Running
from polyak.pytree import Record, pytree, static

RATE, EPS = 0.01, 1e-5  # share of a batch in the running statistics; what is added to a variance


@pytree
class BatchNorm(Record):
    """Each unit of unit scale, then scaled and shifted as is learned (Ioffe & Szegedy 2015, arXiv:1502.03167, Alg. 1).

    Where a gradient is taken through it, the mean and variance are those of the batch, which are all leading axes
    together; anywhere else, as in acting and in target networks, they are the running ones (Alg. 2, line 10). The
    gradient of a running statistic is what `gradient_step` takes from it: its distance from the batch's, times RATE,
    which makes it a moving average. There is no second gradient.
    """

    gain: Array  # gamma, [D]
    offset: Array  # beta, [D]
    mean: Running  # [D]
    var: Running  # [D]

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """From [..., D] to [..., D]."""
        return self.gain * normalized(x, self.mean, self.var) + self.offset


@jax.custom_vjp
def normalized(x: Array, mean: Running, var: Running) -> Array:
    """(x - mean) / sqrt(var + eps) by the running statistics, or by those of the batch under a gradient."""
    return (x - mean.value) / jnp.sqrt(var.value + EPS)


def by_batch(x: Array, mean: Running, var: Running) -> tuple[Array, tuple]:
    """The batch [..., D] by its own statistics, and what its gradient needs."""
    rows = tuple(range(x.ndim - 1))
    batch_mean, batch_var = x.mean(rows), x.var(rows)
    inverse = 1 / jnp.sqrt(batch_var + EPS)
    unit = (x - batch_mean) * inverse
    moves = RATE * (mean.value - batch_mean), RATE * (var.value - batch_var)
    return unit, (unit, inverse, *moves)


def gradient_of_batch(kept: tuple, slope: Array) -> tuple[Array, Running, Running]:
    """Slope in x through the batch's mean and variance, section 3 of the paper, and what the statistics move by."""
    unit, inverse, mean, var = kept
    rows = tuple(range(unit.ndim - 1))
    by_x = inverse * (slope - slope.mean(rows) - unit * (slope * unit).mean(rows))
    return by_x, Running(mean), Running(var)


normalized.defvjp(by_batch, gradient_of_batch)


@pytree
class BatchNormMLP(Record):
    """Linear layers, between each two a batch normalisation and then an activation, on features of an observation."""

    layers: tuple[Layer, ...]
    norms: tuple[Layer, ...]
    layout: Layout = static()
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        x = features_of(self.layout, point)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = ACTIVATIONS[self.activation](norm(layer(x)))
        return self.layers[-1](x)


def batch_norm(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> BatchNormMLP:
    """A multi-layer perceptron with batch normalisation before each activation; arguments and errors as of `mlp`."""
    plain = mlp(key, space, out, hidden, activation, init, scale)
    norms = []
    for size in hidden:
        zero, one = jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32)
        norms.append(BatchNorm(one, zero, Running(jnp.zeros_like(zero)), Running(jnp.ones_like(one))))
    return BatchNormMLP(plain.layers, tuple(norms), plain.layout, activation)

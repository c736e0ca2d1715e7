"""Progressive networks: a column that was trained before and stays, and a new one that can use what it knows.

Rusu, Rabinowitz, Desjardins, Soyer, Kirkpatrick, Kavukcuoglu, Pascanu & Hadsell 2016, "Progressive Neural Networks"
(arXiv:1606.04671), equation 2, with two columns of one shape. The first comes from another run: `--init
RUN:policy/net=policy/net/first`.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Space, Tree
from polyak.parts.networks.layers import ACTIVATIONS, INITS, Layer, Layout, features_of
from polyak.parts.networks.mlp import mlp
from polyak.parts.optimize import Frozen
from polyak.pytree import Record, pytree, static

SMALL = 0.1  # alpha starts between 0 and this: "a random small value"


@pytree
class Adapter(Record):
    """What a layer of the new column is given by the units of the old one below it: U sigma(V alpha h)."""

    alpha: Array  # [], adjusts the scale of what it is given
    down: Array  # V, [units of the old column, of the new one]
    up: Array  # U, [units of the new column, out]
    activation: str = static("relu")

    def __call__(self, units: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """From the old column's units [..., in] to what is added to a layer's [..., out]."""
        return ACTIVATIONS[self.activation]((self.alpha * units) @ self.down) @ self.up


@pytree
class Progressive(Record):
    """A new column of layers beside a frozen one, whose units reach all but its lowest layer through adapters."""

    first: Layer  # an MLP, frozen
    layers: tuple[Layer, ...]
    adapters: tuple[Layer, ...]  # of all layers but the lowest
    layout: Layout = static()
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to the new column's [..., out]."""
        sigma = ACTIVATIONS[self.activation]
        old = features_of(self.layout, point)
        x = self.layers[0](old)
        for below, layer, adapter in zip(self.first.layers, self.layers[1:], self.adapters, strict=False):
            # h_i = sigma(W_i h_{i-1} + U_i sigma(V_i alpha_{i-1} h'_{i-1})), h' of the old column      eq. 2
            old = sigma(below(old))
            x = layer(sigma(x)) + adapter(old)
        return x


def progressive(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> Progressive:
    """Two columns, each a multi-layer perceptron of this shape, the first frozen; arguments and errors as of `mlp`."""
    key_first, key_second, *keys = jax.random.split(key, 2 + len(hidden))
    first, second = (mlp(k, space, out, hidden, activation, init, scale) for k in (key_first, key_second))
    layer, adapters = INITS[init], []
    sizes, gains = (*hidden, out)[1:], [*[None] * len(hidden), scale][1:]
    for key_adapter, units, after, gain in zip(keys, hidden, sizes, gains, strict=True):
        key_alpha, key_down, key_up = jax.random.split(key_adapter, 3)
        alpha = jax.random.uniform(key_alpha, (), jnp.float32, 0.0, SMALL)
        down, up = layer(key_down, units, units, None).weight, layer(key_up, units, after, gain).weight
        adapters.append(Adapter(alpha, down, up, activation))
    return Progressive(Frozen(first), second.layers, tuple(adapters), second.layout, activation)

"""The network of hard threshold units: a policy without a gradient."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Space, Tree
from polyak.parts.networks.layers import INITS, Layer, Layout, features_of, layout, num_features
from polyak.pytree import Record, pytree, static


@pytree
class Threshold(Record):
    """Linear layers, between which a unit says 1 where its input is positive and 0 elsewhere.

    The derivative is 0 wherever there is one (McCulloch & Pitts 1943; Rosenblatt 1958).
    """

    layers: tuple[Layer, ...]
    layout: Layout = static()

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        x = features_of(self.layout, point)
        for layer in self.layers[:-1]:
            x = (layer(x) > 0).astype(jnp.float32)
        return self.layers[-1](x)


def threshold(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (16,),
    activation: str = "",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> Threshold:
    """A network of threshold units from points of `space` to [..., out].

    activation   is of networks that have one, and is not read
    init, scale  as of `mlp`
    """
    layer = INITS[init]
    sizes = (num_features(space), *hidden, out)
    scales = [None] * len(hidden) + [scale]
    keys = jax.random.split(key, len(scales))
    layers = [layer(*each) for each in zip(keys, sizes[:-1], sizes[1:], scales, strict=True)]
    return Threshold(tuple(layers), layout(space))

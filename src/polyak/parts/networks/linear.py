"""The linear network: one weight for each feature and each output, and no hidden layer."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Space, Tree
from polyak.parts.networks.layers import INITS, Layout, features_of, layout, num_features
from polyak.pytree import Record, pytree, static


@pytree
class LinearNetwork(Record):
    """theta_a^T phi(s) for each output a: the same as theta^T phi(s, a), with phi(s) in the place of action a.

    phi(s) are the features of a raw observation, and a 1 where no Discrete part of it has a feature of its own for
    each of its values. With a Discrete observation it is a table.
    """

    weight: Array  # theta, [D, out]
    layout: Layout = static()

    def features(self, point: Tree) -> Float[Array, "*batch D"]:
        """phi(s) of a point of the space, with any leading axes."""
        x = features_of(self.layout, point)
        return x if one_hot(self.layout) else jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        return self.features(point) @ self.weight


def one_hot(layout: Layout) -> bool:
    """Whether some features are one-hot: their sum is a 1 already."""
    kind, detail = layout
    return kind == "discrete" or (kind == "tree" and any(one_hot(part) for _, part in detail))


def linear(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (),
    activation: str = "",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> LinearNetwork:
    """A linear network from points of `space` to [..., out] (Sutton & Barto 2018, section 9.4 and eq. 13.3).

    hidden, activation  are of networks that have hidden layers, and are not read
    init, scale         as of `mlp`; with scale 0 all weights start at 0
    """
    structure = layout(space)
    size = num_features(space) + (not one_hot(structure))
    return LinearNetwork(INITS[init](key, size, out, scale).weight, structure)

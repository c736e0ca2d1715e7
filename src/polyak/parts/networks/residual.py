"""The residual network of board games: a tower of convolutions on the board, then a reading of what it says."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.errors import UserError
from polyak.interface import Array, Box, Space, Tree
from polyak.parts.networks.cnn import at, images
from polyak.parts.networks.layers import (
    ACTIVATIONS,
    INITS,
    Layer,
    Layout,
    Linear,
    features_of,
    layout,
    num_features,
)
from polyak.parts.networks.squares import squares
from polyak.pytree import Record, pytree, static

PLANES, UNITS = 8, 64  # channels that the tower is read through, and units of the reading's hidden layer


@pytree
class Block(Record):
    """x + F(x), with two convolutions of 3 x 3 in F; the second begins at 0, and the block as the identity."""

    first: Layer  # [9 C, C]
    second: Layer  # [9 C, C]

    def __call__(self, x: Float[Array, "*batch H W C"], activation: str) -> Float[Array, "*batch H W C"]:
        """The activation of what is added and what was there."""
        act = ACTIVATIONS[activation]
        return act(x + self.second(squares(act(self.first(squares(x, 3, edge=1))), 3, edge=1)))


@pytree
class ResNet(Record):
    """Convolutions over the board, then a layer over all that it and the rest of the observation say."""

    stem: Layer  # [9 C_in, C]
    blocks: tuple[Block, ...]
    planes: Layer  # [C, 8], a convolution of 1 x 1
    direct: Layer  # from the planes to the outputs
    hidden: Layer  # from the planes to a hidden layer,
    indirect: Layer  # and from there to the outputs, to which it is added
    place: tuple[Any, ...] = static()  # keys that lead to the board; () where it is all there is
    layout: Layout = static()  # of the observation with the planes in the board's place
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        act = ACTIVATIONS[self.activation]
        x = features_of(self.layout, at(point, self.place, self.tower))
        return self.direct(x) + self.indirect(act(self.hidden(x)))

    def tower(self, board: Array) -> Float[Array, "*batch D"]:
        """What the tower says of a board [..., H, W, C], in one row."""
        act = ACTIVATIONS[self.activation]
        x = act(self.stem(squares(jnp.asarray(board, jnp.float32), 3, edge=1)))
        for block in self.blocks:
            x = block(x, self.activation)
        x = act(self.planes(x))
        return x.reshape(*x.shape[:-3], -1)


def residual(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (64, 64, 64),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> ResNet:
    """A residual network from points of `space` to [..., out] (He et al. 2016; Silver et al. 2017, "Methods").

    space   has one board: a Box [H, W, C], by itself or in a dict or tuple
    hidden  channels of the first convolution, and of the block after it, and so on: all alike
    init    and the rest as of `mlp`
    In the place of batch normalisation each block begins as the identity (De & Smith 2020, arXiv:2002.10444), and the
    two heads of the paper are one reading, whose linear part and hidden layer are added.
    Raises UserError where the space has not one board, where channels differ.
    """
    layer, found = INITS[init], images(space)
    if len(found) != 1:
        raise UserError(
            f"network 'residual' is for one board [height, width, channel], and {space!r} has {len(found)}: use 'mlp'"
        )
    if not hidden or len(set(hidden)) > 1:
        raise UserError(f"network 'residual' adds its layers, so that all are of one width, not {hidden}")
    (place, board), width = found[0], hidden[0]
    planes = math.prod(board.shape[:2]) * PLANES
    read = at(space, place, lambda _: Box((planes,)))
    key_stem, key_planes, key_direct, key_hidden, key_indirect, *keys = jax.random.split(key, 4 + len(hidden))
    blocks = []
    for each in keys:
        second = Linear(jnp.zeros((9 * width, width)), jnp.zeros(width))
        blocks.append(Block(layer(each, 9 * width, width, None), second))
    return ResNet(
        stem=layer(key_stem, 9 * board.shape[2], width, None),
        blocks=tuple(blocks),
        planes=layer(key_planes, width, PLANES, None),
        direct=layer(key_direct, num_features(read), out, scale),
        hidden=layer(key_hidden, num_features(read), UNITS, None),
        indirect=layer(key_indirect, UNITS, out, scale),
        place=place,
        layout=layout(read),
        activation=activation,
    )

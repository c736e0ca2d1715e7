"""The convolutional network of the Atari papers: three layers of filters over pictures, then fully connected ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.errors import UserError
from polyak.interface import Array, Box, Space, Tree
from polyak.parts.networks.cnn import at
from polyak.parts.networks.layers import ACTIVATIONS, INITS, Linear
from polyak.parts.networks.mlp import MLP, mlp
from polyak.parts.networks.noisy import noisy
from polyak.pytree import Record, pytree, static

# of each layer its filters' width, the places between two of them, and how many there are
LAYERS = (8, 4, 32), (4, 2, 64), (3, 1, 64)
SMALLEST = 36  # pixels in height and width that leave one place for the last filters
WHITE = 255.0  # what a byte is divided by: this is the only place where pixels are scaled


@pytree
class Nature(Record):
    """Filters over every picture of an observation, and a network on what they say and on the rest."""

    filters: tuple[tuple[Linear, ...], ...]  # for each picture, in the order of `places`; [width^2 C, F] each
    head: MLP
    places: tuple[tuple[Any, ...], ...] = static()  # keys that lead to each picture; () where it is all
    first: tuple[bool, ...] = static()  # whether the channels, or stacked frames, are the first axis of each
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        for number, place in enumerate(self.places):
            point = at(point, place, lambda picture, number=number: self.convolved(number, picture))
        return self.head(point)

    def convolved(self, number: int, picture: Array) -> Float[Array, "*batch D"]:
        """What the filters say of a picture [..., H, W, C], or [..., C, H, W], in one row."""
        bytes_ = picture.dtype == jnp.uint8
        x = jnp.asarray(picture, jnp.float32) / (WHITE if bytes_ else 1.0)
        x = jnp.moveaxis(x, -3, -1) if self.first[number] else x
        lead, x = x.shape[:-3], x.reshape(-1, *x.shape[-3:])
        for (width, stride, _), layer in zip(LAYERS, self.filters[number], strict=True):
            x = ACTIVATIONS[self.activation](convolution(layer, x, width, stride))
        return x.reshape(*lead, -1)


def convolution(layer: Linear, x: Float[Array, "B H W C"], width: int, stride: int) -> Array:
    """Every square of `width` places, `stride` apart and inside the picture, through a linear layer.

    One product of squares and weights: XLA's own convolution takes eighteen times as long on a CPU in a loop, where
    PPO's epochs are. A square is made of blocks of stride x stride places, of which there are few.
    """
    blocks = width // stride
    high, wide = ((side - width) // stride + 1 for side in x.shape[1:3])
    rows, columns, channels = high + blocks - 1, wide + blocks - 1, x.shape[-1]
    x = x[:, : rows * stride, : columns * stride].reshape(-1, rows, stride, columns, stride, channels)
    x = x.swapaxes(2, 3).reshape(-1, rows, columns, stride**2 * channels)
    parts = [x[:, i : i + high, j : j + wide] for i in range(blocks) for j in range(blocks)]
    weight = layer.weight.reshape(blocks, stride, blocks, stride, channels, -1).swapaxes(1, 2)
    weight = weight.reshape(
        layer.weight.shape
    )  # from row and column of a place to those of its block, and in it
    return jnp.concatenate(parts, axis=-1) @ weight + layer.bias


def pictures(space: Space, place: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Box]]:
    """The Boxes of three axes that are large enough, each with the keys that lead to it."""
    if isinstance(space, Box):
        return [(place, space)] if len(space.shape) == 3 and min(size_of(space)[:2]) >= SMALLEST else []
    parts = {dict: lambda: sorted(space.items()), tuple: lambda: enumerate(space)}.get(type(space), tuple)()
    return [found for key, part in parts for found in pictures(part, (*place, key))]


def channels_first(space: Box) -> bool:
    """Whether the first axis is that of channels or stacked frames: it is shorter than the last."""
    return space.shape[0] < space.shape[-1]


def size_of(space: Box) -> tuple[int, int, int]:
    """Height, width and channels."""
    high, wide, channels = (*space.shape[1:], space.shape[0]) if channels_first(space) else space.shape
    return high, wide, channels


def nature(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (512,),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
    head: Callable[..., MLP] = mlp,
) -> Nature:
    """The network of Mnih et al. 2015 ("Human-level control through deep reinforcement learning", Nature 518, methods).

    32 filters of 8 x 8 four places apart, 64 of 4 x 4 two apart, 64 of 3 x 3, and `hidden` units, (512,) in the paper.

    space   has at least one picture: a Box of [H, W, C] or [C, H, W] (the shorter of first and last axis is C) with
            sides of at least 36, by itself or in a dict or tuple; bytes are divided by 255, other numbers are not
    init    and the rest as of `mlp`
    head    builder of what follows the filters
    Raises UserError where the space has no such picture.
    """
    layer, found = INITS[init], pictures(space)
    if not found:
        raise UserError(
            f"network 'nature' is for pictures of at least {SMALLEST} x {SMALLEST}, and {space!r} has none: use 'cnn' "
            "for smaller ones, else 'mlp'"
        )
    key_head, *keys = jax.random.split(key, 1 + len(found))
    filters, rest = [], space
    for key_picture, (place, picture) in zip(keys, found, strict=True):
        high, wide, channels = size_of(picture)
        layers = []
        for key_layer, (width, stride, count) in zip(
            jax.random.split(key_picture, len(LAYERS)), LAYERS, strict=True
        ):
            layers.append(layer(key_layer, width**2 * channels, count, None))
            high, wide, channels = (high - width) // stride + 1, (wide - width) // stride + 1, count
        filters.append(tuple(layers))
        rest = at(rest, place, lambda _, size=high * wide * channels: Box((size,)))
    made = head(key_head, rest, out, hidden, activation, init, scale)
    places, boxes = zip(*found, strict=True)
    return Nature(tuple(filters), made, places, tuple(map(channels_first, boxes)), activation)


def noisy_nature(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (512,),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> Nature:
    """`nature` with noisy layers behind its filters (Fortunato et al. 2018, section 5; so in Rainbow)."""
    return nature(key, space, out, hidden, activation, init, scale, noisy)

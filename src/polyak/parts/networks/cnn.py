"""The convolutional network of MinAtar: one layer of small filters, then a multi-layer perceptron."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.errors import UserError
from polyak.interface import Array, Box, Space, Tree
from polyak.parts.networks.layers import ACTIVATIONS, INITS, Layer
from polyak.parts.networks.mlp import mlp
from polyak.parts.networks.squares import squares
from polyak.pytree import Record, pytree, static

FILTERS, WIDTH = 16, 3  # of the paper: 16 filters of 3 x 3, one place apart


@pytree
class CNN(Record):
    """Filters over every image of an observation, an activation, and a network on what they say and on the rest."""

    filters: tuple[Layer, ...]  # for each image, in the order of `places`: [9 C, F]
    head: Layer
    places: tuple[tuple[Any, ...], ...] = (
        static()
    )  # keys that lead to each image; () where it is all there is
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        for place, filters in zip(self.places, self.filters, strict=True):
            point = at(point, place, lambda image, filters=filters: self.convolved(filters, image))
        return self.head(point)

    def convolved(self, filters: Layer, image: Array) -> Float[Array, "*batch D"]:
        """What the filters say of an image [..., H, W, C], in one row."""
        x = ACTIVATIONS[self.activation](filters(squares(jnp.asarray(image, jnp.float32), WIDTH)))
        return x.reshape(*x.shape[:-3], -1)


def at(tree: Tree, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Tree:
    """A tree of dicts and tuples with one of its parts changed."""
    if not place:
        return change(tree)
    key, *rest = place
    changed = at(tree[key], tuple(rest), change)
    if isinstance(tree, dict):
        return {**tree, key: changed}
    return tuple(changed if number == key else part for number, part in enumerate(tree))


def images(space: Space, place: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Box]]:
    """The Boxes [H, W, C] of a space, each with the keys that lead to it."""
    if isinstance(space, Box):
        return [(place, space)] if len(space.shape) == 3 and min(space.shape[:2]) >= WIDTH else []
    parts = {dict: lambda: sorted(space.items()), tuple: lambda: enumerate(space)}.get(type(space), tuple)()
    return [image for key, part in parts for image in images(part, (*place, key))]


def cnn(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (128,),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> CNN:
    """A convolutional network from points of `space` to [..., out] (Young & Tian 2019, arXiv:1903.03176, section 4).

    space   has at least one image: a Box [H, W, C], by itself or in a dict or tuple; bytes are not scaled
    hidden  units of the layers after the filters; (128,) in the paper
    init    and the rest as of `mlp`
    Raises UserError where the space has no image.
    """
    layer, found = INITS[init], images(space)
    if not found:
        raise UserError(
            f"network 'cnn' is for images [height, width, channel], and {space!r} has none: use 'mlp'"
        )
    key_head, *keys = jax.random.split(key, 1 + len(found))
    filters, rest = [], space
    for key_image, (place, image) in zip(keys, found, strict=True):
        height, width, channels = image.shape
        filters.append(layer(key_image, WIDTH**2 * channels, FILTERS, None))
        size = (height - WIDTH + 1) * (width - WIDTH + 1) * FILTERS
        rest = at(rest, place, lambda _, size=size: Box((size,)))
    head = mlp(key_head, rest, out, hidden, activation, init, scale)
    return CNN(tuple(filters), head, tuple(place for place, _ in found), activation)

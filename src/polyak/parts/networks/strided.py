"""The convolutional network of "Learning to Drive in a Day": pictures become a few numbers, before all else joins."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.errors import UserError
from polyak.interface import Array, Box, Space, Tree
from polyak.parts.networks.cnn import at, images
from polyak.parts.networks.layers import ACTIVATIONS, INITS, Layer, Linear
from polyak.parts.networks.mlp import mlp
from polyak.parts.networks.squares import four_of_each, squares
from polyak.pytree import Record, pytree, static

DEPTH, FILTERS, WIDTH = 4, 16, 3  # of the paper: four layers of 16 filters of 3 x 3, two places apart
GAIN = math.sqrt(6)  # of uniform weights before a ReLU, so that signals keep their size (He et al. 2015)
LATENT = 10  # of the paper's variational auto-encoder: numbers that a picture becomes


@pytree
class Encoder(Record):
    """Filters on filters, each layer half as high and half as wide as what it reads, and a linear layer on the last."""

    filters: tuple[Layer, ...]  # [9 C, F]
    out: Layer  # [D, LATENT]
    scale: float = static(1.0)  # of a picture's numbers: 1/255 of bytes
    activation: str = static("relu")

    def __call__(self, image: Array) -> Float[Array, "*batch L"]:
        """From a picture [..., H, W, C] to [..., LATENT]."""
        return self.out(self.seen(image))

    def seen(self, image: Array) -> Float[Array, "*batch D"]:
        """What the last filters say of a picture, in one row."""
        x = jnp.asarray(image, jnp.float32) * self.scale
        for layer in self.filters:
            x = ACTIVATIONS[self.activation](layer(every_other(x)))
        return x.reshape(*x.shape[:-3], -1)


@pytree
class Strided(Record):
    """An encoder of the picture in an observation, and a network on what it says and on the rest."""

    encoder: Layer
    head: Layer
    place: tuple[Any, ...] = static(())  # keys that lead to the picture; () where it is all there is

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        return self.head(at(point, self.place, self.encoder))


def every_other(image: Float[Array, "*batch H W C"]) -> Float[Array, "*batch H2 W2 D"]:
    """The square of 3 x 3 places about every other place, zeros beyond the edge: [..., ceil(H/2), ceil(W/2), 9 C]."""
    high, wide = halved(image.shape[-3]), halved(image.shape[-2])
    edge = [(0, 0)] * (image.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    x = jnp.pad(image, edge)
    rows, columns = 2 * high - 1, 2 * wide - 1
    parts = [x[..., i : i + rows : 2, j : j + columns : 2, :] for i in range(WIDTH) for j in range(WIDTH)]
    return jnp.concatenate(parts, axis=-1)


def halved(size: int, times: int = 1) -> int:
    """How many places are left of so many by layers that leave out every other."""
    return -(-size // 2**times)


def make_encoder(
    key: jax.Array, image: Box, latent: int = LATENT, activation: str = "relu", init: str = "uniform"
) -> Encoder:
    """An encoder of pictures [H, W, C]; those of bytes are read as numbers from 0 to 1."""
    layer = INITS[init]
    height, width, channels = image.shape
    *keys, key_out = jax.random.split(key, DEPTH + 1)
    inputs = [channels, *[FILTERS] * (DEPTH - 1)]
    gain = GAIN if init == "uniform" else None
    filters = tuple(layer(k, WIDTH**2 * size, FILTERS, gain) for k, size in zip(keys, inputs, strict=True))
    seen = halved(height, DEPTH) * halved(width, DEPTH) * FILTERS
    scale = 1 / 255 if image.dtype == "uint8" else 1.0
    return Encoder(filters, layer(key_out, seen, latent, 1.0), scale, activation)


def strided(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (8,),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> Strided:
    """A network from points of `space` to [..., out] (Kendall et al. 2018, arXiv:1807.00412, section 4).

    space   has one picture: a Box [H, W, C], by itself or in a dict or tuple; what else there is joins after the
            encoder: a car's speed and steering, and the action of a critic
    hidden  units of the layers after the encoder; (8,) in the paper
    init    and the rest as of `mlp`
    Raises UserError where the space has no picture or several.
    """
    if len(found := images(space)) != 1:
        raise UserError(
            f"network 'strided' is for one picture [height, width, channel], and {space!r} has {len(found)}"
        )
    (place, image), (key_encoder, key_head) = found[0], jax.random.split(key)
    encoder = make_encoder(key_encoder, image, LATENT, activation, init)
    rest = at(space, place, lambda _: Box((LATENT,)))
    return Strided(encoder, mlp(key_head, rest, out, hidden, activation, init, scale), place)


# ---- the way back, from a few numbers to a picture


@pytree
class Decoder(Record):
    """A linear layer, and filters, each layer twice as high and wide as what it reads; a picture is in [0, 1].

    Of each place four are made, side by side.
    """

    first: Linear  # [LATENT, D]
    filters: tuple[Linear, ...]  # [9 F, 4 F], the last [9 F, 4 C]
    shape: tuple[int, int] = static()  # height and width of a picture

    def __call__(self, latent: Float[Array, "*batch L"]) -> Float[Array, "*batch H W C"]:
        """From [..., L] to a picture of numbers in [0, 1]."""
        height, width = self.shape
        x = jax.nn.relu(self.first(latent))
        x = x.reshape(*x.shape[:-1], halved(height, DEPTH), halved(width, DEPTH), FILTERS)
        for left, layer in zip(reversed(range(DEPTH)), self.filters, strict=True):
            x = four_of_each(layer(squares(x, WIDTH, edge=1)))[
                ..., : halved(height, left), : halved(width, left), :
            ]
            x = jax.nn.relu(x) if left else jax.nn.sigmoid(x)
        return x


def make_decoder(key: jax.Array, image: Box, latent: int = LATENT, init: str = "uniform") -> Decoder:
    """A decoder to pictures [H, W, C]."""
    layer = INITS[init]
    height, width, channels = image.shape
    key_first, *keys = jax.random.split(key, DEPTH + 1)
    size = math.prod((halved(height, DEPTH), halved(width, DEPTH), FILTERS))
    outputs = [*[FILTERS] * (DEPTH - 1), channels]
    filters = tuple(layer(k, WIDTH**2 * FILTERS, 4 * n, None) for k, n in zip(keys, outputs, strict=True))
    return Decoder(layer(key_first, latent, size, None), filters, (height, width))

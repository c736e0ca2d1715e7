"""From images to numbers and back, by convolutions that halve the sides of an image or double them."""

import math

import jax
from jaxtyping import Float

from polyak.interface import Array, Box, Space
from polyak.parts.networks.layers import ACTIVATIONS, INITS, Linear
from polyak.pytree import Record, pytree, static

LEAST = 4  # side at which halving ends


@pytree
class Filters(Record):
    """Filters over every square of K x K places; places beyond an edge are 0."""

    weight: Array  # [K, K, in, out]
    bias: Array  # [out]
    stride: int = static(1)  # places between two squares

    def __call__(self, image: Float[Array, "*batch S S C"]) -> Float[Array, "*batch T T F"]:
        """From [..., S, S, in] to [..., S / stride, S / stride, out]."""
        lead, rest = image.shape[:-3], image.shape[-3:]
        edge = (self.weight.shape[0] - 1) // 2
        out = jax.lax.conv_general_dilated(
            image.reshape(math.prod(lead), *rest),
            self.weight,
            (self.stride, self.stride),
            [(edge, edge), (edge, edge)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out.reshape(*lead, *out.shape[1:]) + self.bias


@pytree
class Encoder(Record):
    """Filters of 4 x 4 that halve an image until its side is 4, with an activation after each."""

    layers: tuple[Filters, ...]
    activation: str = static("relu")

    def __call__(self, image: Float[Array, "*batch S S C"]) -> Float[Array, "*batch E"]:
        """What the last filters say, in one row."""
        for layer in self.layers:
            image = ACTIVATIONS[self.activation](layer(image))
        return image.reshape(*image.shape[:-3], -1)

    @property
    def size(self) -> int:
        """E, how many numbers that are."""
        return LEAST**2 * self.layers[-1].bias.size


@pytree
class Decoder(Record):
    """A layer that makes an image of side 4, and filters that double it, with an activation between each two.

    Filters of 3 x 3 say of every place what the four become that stand for it (Shi et al. 2016, arXiv:1609.05158).
    """

    first: Linear
    layers: tuple[Filters, ...]
    activation: str = static("relu")

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch S S C"]:
        """An image of any numbers."""
        image = self.first(x)
        image = image.reshape(*image.shape[:-1], LEAST, LEAST, image.shape[-1] // LEAST**2)
        for layer in self.layers:
            image = spread(layer(ACTIVATIONS[self.activation](image)))
        return image


def spread(image: Float[Array, "*batch S S D"]) -> Float[Array, "*batch T T C"]:
    """An image [..., 2 S, 2 S, C], each of whose squares of 2 x 2 was one place of [..., S, S, 4 C]."""
    *lead, high, wide, depth = image.shape
    squares = image.reshape(*lead, high, wide, 2, 2, depth // 4).swapaxes(-4, -3)
    return squares.reshape(*lead, 2 * high, 2 * wide, depth // 4)


def is_image(space: Space) -> bool:
    """Whether points of this space are images that can be halved: square, with a side of 8, 16, .. 256."""
    if not isinstance(space, Box) or len(space.shape) != 3:
        return False
    high, wide, _ = space.shape
    return high == wide and high in (8, 16, 32, 64, 128, 256)


def encoder(key: Array, side: int, channels: int, filters: int, activation: str = "relu") -> Encoder:
    """An encoder of images [side, side, channels]; `filters` of the first layer, twice as many in each that follows."""
    count = (side // LEAST).bit_length() - 1
    sizes = [channels, *(filters * 2**i for i in range(count))]
    keys = jax.random.split(key, count)
    layers = [_filters(k, 4, a, b, stride=2) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
    return Encoder(tuple(layers), activation)


def decoder(
    key: Array, size: int, side: int, channels: int, filters: int, activation: str = "relu"
) -> Decoder:
    """From `size` numbers to an image [side, side, channels]: the encoder's sizes in reverse."""
    count = (side // LEAST).bit_length() - 1
    sizes = [*(filters * 2**i for i in reversed(range(count))), channels]
    key_first, *keys = jax.random.split(key, 1 + count)
    first = INITS["uniform"](key_first, size, LEAST**2 * sizes[0], None)
    layers = [_filters(k, 3, a, 4 * b) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
    return Decoder(first, tuple(layers), activation)


def _filters(key: Array, width: int, fan_in: int, filters: int, stride: int = 1) -> Filters:
    flat = INITS["uniform"](key, width**2 * fan_in, filters, None)
    return Filters(flat.weight.reshape(width, width, fan_in, filters), flat.bias, stride)

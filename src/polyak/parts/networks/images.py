"""From images to numbers and back, by filters that halve the sides of an image or double them."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from polyak.interface import Array, Box, Space
from polyak.parts.networks.layers import ACTIVATIONS, INITS, Layer
from polyak.parts.networks.squares import four_of_each, squares
from polyak.pytree import Record, pytree, static

LEAST = 4  # side at which halving ends


@pytree
class Encoder(Record):
    """Filters of 4 x 4 that halve an image until its side is 4, with an activation after each."""

    layers: tuple[Layer, ...]
    activation: str = static("relu")

    def __call__(self, image: Float[Array, "*batch S S C"]) -> Float[Array, "*batch E"]:
        """What the last filters say, in one row."""
        for layer in self.layers:
            image = ACTIVATIONS[self.activation](layer(coarse(image)))
        return image.reshape(*image.shape[:-3], -1)

    @property
    def size(self) -> int:
        """E, how many numbers that are."""
        return LEAST**2 * self.layers[-1].bias.size


@pytree
class Decoder(Record):
    """A layer that makes an image of side 4, and filters that double it, with an activation between each two.

    A layer is the transpose of one that halves: every place adds a square of 4 x 4, two places from its neighbours'.
    """

    first: Layer
    layers: tuple[Layer, ...]
    activation: str = static("relu")

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch S S C"]:
        """An image of any numbers."""
        image = self.first(x)
        image = image.reshape(*image.shape[:-1], LEAST, LEAST, image.shape[-1] // LEAST**2)
        for layer in self.layers:
            image = four_of_each(layer(squares(ACTIVATIONS[self.activation](image), 2, edge=1)))[
                ..., 1:-1, 1:-1, :
            ]
        return image


def coarse(image: Float[Array, "*batch S S C"]) -> Float[Array, "*batch H H D"]:
    """Every second square of 4 x 4 places, [..., S/2, S/2, 16 C]; the first begins one place beyond the edge."""
    *lead, high, wide, depth = image.shape
    edge = [(0, 0)] * len(lead) + [(1, 1), (1, 1), (0, 0)]
    image = jnp.pad(image, edge).reshape(*lead, high // 2 + 1, 2, wide // 2 + 1, 2, depth)
    return squares(image.swapaxes(-4, -3).reshape(*lead, high // 2 + 1, wide // 2 + 1, 4 * depth), 2)


def dequantised(image: Array, key: Array, bits: int) -> Float[Array, "*batch S S C"]:
    """An image of bytes in [-0.5, 0.5], so many bits of it, and noise below the last (Kingma & Dhariwal 2018)."""
    levels = 2**bits
    level = jnp.floor(jnp.asarray(image, jnp.float32) * levels / 256)
    return (level + jax.random.uniform(key, level.shape)) / levels - 0.5


def is_image(space: Space) -> bool:
    """Whether points of this space are images that can be halved: square, with a side of 8, 16, .. 256."""
    if not isinstance(space, Box) or len(space.shape) != 3:
        return False
    high, wide, _ = space.shape
    return high == wide and high in (8, 16, 32, 64, 128, 256)


def encoder(key: Array, side: int, channels: int, filters: int, activation: str = "relu") -> Encoder:
    """An encoder of images [side, side, channels]; `filters` of the first layer, twice as many in each that follows."""
    layer, count = INITS["uniform"], (side // LEAST).bit_length() - 1
    sizes = [channels, *(filters * 2**i for i in range(count))]
    keys = jax.random.split(key, count)
    layers = [layer(k, 16 * a, b, None) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
    return Encoder(tuple(layers), activation)


def decoder(
    key: Array, size: int, side: int, channels: int, filters: int, activation: str = "relu"
) -> Decoder:
    """From `size` numbers to an image [side, side, channels]: the encoder's sizes in reverse."""
    layer, count = INITS["uniform"], (side // LEAST).bit_length() - 1
    sizes = [*(filters * 2**i for i in reversed(range(count))), channels]
    key_first, *keys = jax.random.split(key, 1 + count)
    first = layer(key_first, size, LEAST**2 * sizes[0], None)
    layers = [layer(k, 4 * a, 4 * b, None) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
    return Decoder(first, tuple(layers), activation)

"""Squares of an image: their product with a matrix of weights is a convolution.

XLA's own convolutions take fifteen times as long inside a loop on a CPU.
"""

import jax.numpy as jnp
from jaxtyping import Float

from polyak.interface import Array


def squares(image: Float[Array, "*batch H W C"], width: int, edge: int = 0) -> Float[Array, "*batch H2 W2 D"]:
    """Every square of `width` x `width` places, [..., H - width + 1, W - width + 1, width^2 C].

    edge  places of zeros that are put around the image first
    """
    if edge:
        image = jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [(edge, edge), (edge, edge), (0, 0)])
    high, wide = image.shape[-3] - width + 1, image.shape[-2] - width + 1
    parts = [image[..., i : i + high, j : j + wide, :] for i in range(width) for j in range(width)]
    return jnp.concatenate(parts, axis=-1)


def four_of_each(image: Float[Array, "*batch H W D"]) -> Float[Array, "*batch H2 W2 C"]:
    """An image [..., 2 H, 2 W, C], each of whose squares of 2 x 2 was one place of [..., H, W, 4 C].

    After a convolution it is the sub-pixel convolution of Shi et al. 2016 (arXiv:1609.05158).
    """
    *lead, high, wide, depth = image.shape
    image = image.reshape(*lead, high, wide, 2, 2, depth // 4).swapaxes(-4, -3)
    return image.reshape(*lead, 2 * high, 2 * wide, depth // 4)

"""The multi-layer perceptron with layer normalisation, as noise on parameters needs it (Plappert et al. 2018)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Space, Tree
from polyak.parts.networks.layers import ACTIVATIONS, features_of
from polyak.parts.networks.mlp import MLP, mlp
from polyak.pytree import pytree


@pytree
class LayerNormMLP(MLP):
    """An MLP whose hidden layers have mean 0 and variance 1 over their units before the activation.

    Ba, Kiros & Hinton 2016 (arXiv:1607.06450), eq. 3, without gain and bias: so no noise reaches the normalisation.
    """

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        x = features_of(self.layout, point)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](normalized(layer(x)))
        return self.layers[-1](x)


def normalized(x: Float[Array, "*batch D"], eps: float = 1e-5) -> Float[Array, "*batch D"]:
    """(x - mean) / sqrt(variance + eps), both over the last axis."""
    away = x - x.mean(axis=-1, keepdims=True)
    return away / jnp.sqrt((away**2).mean(axis=-1, keepdims=True) + eps)


def layer_norm(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> LayerNormMLP:
    """`mlp` with layer normalisation; the weights begin as its own."""
    net = mlp(key, space, out, hidden, activation, init, scale)
    return LayerNormMLP(net.layers, net.layout, net.activation)

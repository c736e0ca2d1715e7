"""Noisy layers: weights with learned noise, so that a network explores by itself (Fortunato et al. 2018).

"Noisy Networks for Exploration", arXiv:1706.10295, section 3, factorised Gaussian noise. A layer keeps the noise that
was drawn last; `redraw` and `quiet` are for whoever decides when, which is `wrappers/noise.py` for every algorithm.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Space, Tree
from polyak.parts.networks.layers import INITS, Linear, layout, num_features
from polyak.parts.networks.mlp import MLP
from polyak.pytree import pytree

SIGMA = 0.5  # sigma_0 of section 3.2; sigma starts at sigma_0 / sqrt(in)


@pytree
class NoisyLinear(Linear):
    """y = x (W + sigma_W * f(e_in) f(e_out)') + b + sigma_b * f(e_out), f(e) = sgn(e) sqrt|e|: eq. 9 to 11.

    The noise is a constant: nothing is learned through it, and it has no moments that matter.
    """

    # weight and bias are the means mu^w and mu^b
    weight_sigma: Array  # sigma^w, [in, out]
    bias_sigma: Array  # sigma^b, [out]
    noise_in: Array  # e_in, [in]
    noise_out: Array  # e_out, [out]

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """From [..., in] to [..., out]."""
        before, after = jax.lax.stop_gradient((_f(self.noise_in), _f(self.noise_out)))
        mean = x @ self.weight + self.bias
        # x (sigma_W * f f') = ((x * f) sigma_W) * f': the matrix of noise is never made
        return mean + ((x * before) @ self.weight_sigma + self.bias_sigma) * after

    def drawn(self, key: jax.Array) -> "NoisyLinear":
        """The same layer with other noise."""
        key_in, key_out = jax.random.split(key)
        return self.replace(
            noise_in=jax.random.normal(key_in, self.noise_in.shape),
            noise_out=jax.random.normal(key_out, self.noise_out.shape),
        )

    def silent(self) -> "NoisyLinear":
        """The same layer without noise: its means."""
        return self.replace(noise_in=jnp.zeros_like(self.noise_in), noise_out=jnp.zeros_like(self.noise_out))


def _f(noise: Array) -> Array:
    return jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))


def noisy(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> MLP:
    """`mlp`, with noise on all of its layers; the means begin as the weights of `mlp` do."""
    layer = INITS[init]
    sizes = (num_features(space), *hidden, out)
    scales = [None] * len(hidden) + [scale]
    layers = []
    for each, fan_in, fan_out, gain in zip(
        jax.random.split(key, len(scales)), sizes[:-1], sizes[1:], scales, strict=True
    ):
        key_mean, key_noise = jax.random.split(each)
        layers.append(with_noise(layer(key_mean, fan_in, fan_out, gain)).drawn(key_noise))
    return MLP(tuple(layers), layout(space), activation)


def with_noise(layer: Linear) -> NoisyLinear:
    """A layer with these means, sigma_0 / sqrt(in), and no noise drawn yet."""
    fan_in, fan_out = layer.weight.shape
    sigma = SIGMA / math.sqrt(max(fan_in, 1))
    return NoisyLinear(
        weight=layer.weight,
        bias=layer.bias,
        weight_sigma=jnp.full((fan_in, fan_out), sigma, jnp.float32),
        bias_sigma=jnp.full(fan_out, sigma, jnp.float32),
        noise_in=jnp.zeros(fan_in, jnp.float32),
        noise_out=jnp.zeros(fan_out, jnp.float32),
    )


# ---- all noisy layers of a tree


def _whole(node: Any) -> bool:
    """Nodes that are not looked into: a noisy layer, and a NamedTuple, which holds moments or a clock."""
    return isinstance(node, NoisyLinear) or (isinstance(node, tuple) and hasattr(node, "_fields"))


def is_noisy(tree: Tree) -> bool:
    """Whether there is a noisy layer in a tree of networks; an optimiser's moments are none."""
    return any(isinstance(node, NoisyLinear) for node in jax.tree.leaves(tree, is_leaf=_whole))


def redraw(tree: Tree, key: jax.Array) -> Tree:
    """The tree with other noise in each of its noisy layers, independent of one another."""
    nodes, structure = jax.tree.flatten(tree, is_leaf=_whole)
    keys = jax.random.split(key, max(1, sum(isinstance(node, NoisyLinear) for node in nodes)))
    fresh = iter(keys)
    return structure.unflatten(
        node.drawn(next(fresh)) if isinstance(node, NoisyLinear) else node for node in nodes
    )


def quiet(tree: Tree) -> Tree:
    """The tree without noise: its networks' means."""
    return jax.tree.map(
        lambda node: node.silent() if isinstance(node, NoisyLinear) else node, tree, is_leaf=_whole
    )

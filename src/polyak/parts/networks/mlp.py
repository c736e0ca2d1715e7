"""The multi-layer perceptron."""

import jax
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Space, Tree
from polyak.parts.networks.layers import ACTIVATIONS, INITS, Layer, Layout, features_of, layout, num_features
from polyak.pytree import Record, pytree, static


@pytree
class MLP(Record):
    """Linear layers with an activation between each two, on the features of a raw observation."""

    layers: tuple[Layer, ...]
    layout: Layout = static()
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        x = features_of(self.layout, point)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)


def mlp(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> MLP:
    """A multi-layer perceptron from points of `space` to [..., out].

    space       what it is called with: `spec.obs`, or (spec.obs, spec.action) for a critic(obs, action) pair
    activation  one of ACTIVATIONS
    init        "uniform": U(-1/sqrt(in), 1/sqrt(in)) for weights and biases, PyTorch's default, which the
                published TD3 and SAC use; "orthogonal": gain sqrt(2) for hidden layers, `scale` for the last,
                biases 0 (Saxe et al. 2014, arXiv:1312.6120; so PPO's authors)
    scale       multiplies the last layer's initial values

    "orthogonal" runs one QR decomposition per layer: call it outside any vmap, since batched LAPACK kernels
    can block XLA's CPU threads for ever.
    """
    layer = INITS[init]
    sizes = (num_features(space), *hidden, out)
    scales = [None] * len(hidden) + [scale]
    keys = jax.random.split(key, len(scales))
    layers = [layer(*each) for each in zip(keys, sizes[:-1], sizes[1:], scales, strict=True)]
    return MLP(tuple(layers), layout(space), activation)

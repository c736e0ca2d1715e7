"""Networks: pytrees of arrays that can be called, acting on the last axis and broadcasting over the rest."""

from collections.abc import Callable

from polyak.interface import Tree
from polyak.parts.networks.batch_norm import BatchNorm, BatchNormMLP, batch_norm
from polyak.parts.networks.cnn import CNN, cnn
from polyak.parts.networks.ensemble import Ensemble, ensemble
from polyak.parts.networks.layer_norm import layer_norm
from polyak.parts.networks.layers import Linear, features, num_features
from polyak.parts.networks.linear import LinearNetwork, linear
from polyak.parts.networks.mlp import MLP, mlp
from polyak.parts.networks.nature import Nature, nature, noisy_nature
from polyak.parts.networks.noisy import noisy
from polyak.parts.networks.progressive import Progressive, progressive
from polyak.parts.networks.residual import ResNet, residual
from polyak.parts.networks.strided import Strided, strided
from polyak.parts.networks.threshold import Threshold, threshold
from polyak.parts.networks.two_depths import TwoDepths, two_depths

__all__ = [
    "CNN",
    "MLP",
    "BatchNorm",
    "BatchNormMLP",
    "Ensemble",
    "Linear",
    "LinearNetwork",
    "Nature",
    "Progressive",
    "ResNet",
    "Strided",
    "Threshold",
    "TwoDepths",
    "batch_norm",
    "build",
    "cnn",
    "ensemble",
    "features",
    "layer_norm",
    "linear",
    "mlp",
    "nature",
    "noisy",
    "noisy_nature",
    "num_features",
    "progressive",
    "residual",
    "strided",
    "threshold",
    "two_depths",
]

BUILDERS: dict[str, Callable[..., Tree]] = {
    "mlp": mlp,
    "linear": linear,
    "noisy": noisy,
    "layer_norm": layer_norm,
    "batch_norm": batch_norm,
    "cnn": cnn,
    "progressive": progressive,
    "residual": residual,
    "nature": nature,
    "noisy_nature": noisy_nature,
    "threshold": threshold,
    "two_depths": two_depths,
    "strided": strided,
}


def build(name: str) -> Callable[..., Tree]:
    """The builder that `cfg.network` names."""
    return BUILDERS[name]

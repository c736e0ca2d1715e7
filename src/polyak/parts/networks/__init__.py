"""Networks: pytrees of arrays that can be called, acting on the last axis and broadcasting over the rest."""

from collections.abc import Callable

from polyak.errors import chosen
from polyak.interface import Tree
from polyak.parts.networks.ensemble import Ensemble, ensemble
from polyak.parts.networks.layers import Linear, features, num_features
from polyak.parts.networks.linear import LinearNetwork, linear
from polyak.parts.networks.mlp import MLP, mlp
from polyak.parts.networks.threshold import Threshold, threshold

__all__ = [
    "MLP",
    "Ensemble",
    "Linear",
    "LinearNetwork",
    "Threshold",
    "build",
    "ensemble",
    "features",
    "linear",
    "mlp",
    "num_features",
    "threshold",
]

BUILDERS: dict[str, Callable[..., Tree]] = {"mlp": mlp, "linear": linear, "threshold": threshold}


def build(name: str) -> Callable[..., Tree]:
    """The builder that `cfg.network` names; UserError for an unknown one."""
    return chosen(BUILDERS, name, "network")

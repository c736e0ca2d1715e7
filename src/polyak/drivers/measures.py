"""How what a person wants to know beside the return is gathered over an episode."""

from collections.abc import Mapping
from typing import Any

from polyak.interface import Array, Spec


def gather(spec: Spec, before: Mapping[str, Array], now: Mapping[str, Array], length: Array, xp: Any) -> dict:
    """Each measure of the running episodes [N], one step on, by its rule in `spec.measures`.

    length  steps so far, this one included;  xp  jax.numpy in a compiled program, numpy on the host.
    """
    rules = {
        "last": lambda old, new: new,
        "sum": lambda old, new: old + new,
        "mean": lambda old, new: old + (new - old) / length,
        "max": lambda old, new: xp.where(length == 1, new, xp.maximum(old, new)),
    }
    return {
        name: rules[rule](before[name], now[name].astype(before[name].dtype))
        for name, rule in spec.measures.items()
    }


def metric_name(name: str) -> str:
    """The name under which a metric of an update is logged; one that is a path already stays as it is."""
    return name if "/" in name else f"update/{name}"

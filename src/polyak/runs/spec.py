"""A spec as plain values, so that a policy can be loaded without making an environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyak.errors import CheckpointError, UserError
from polyak.interface import Box, Discrete, Spec
from polyak.runs.values import amend, plain


def describe_spec(spec: Spec) -> dict[str, Any]:
    """The spaces as plain values, for a checkpoint."""
    return {
        "obs": describe_space(spec.obs),
        "action": describe_space(spec.action),
        "time_limit": spec.time_limit,
        "num_envs": spec.num_envs,
        "measures": dict(spec.measures),
    }


def describe_space(space: Any) -> Any:
    """A space as plain values; infinite bounds are None."""
    if isinstance(space, Mapping):
        return {"dict": {key: describe_space(part) for key, part in space.items()}}
    if isinstance(space, tuple):
        return {"tuple": [describe_space(part) for part in space]}
    if isinstance(space, Discrete):
        return {"discrete": plain(space)}
    values = plain(space)
    for name in ("low", "high"):
        bound = values[name]
        finite = [x if np.isfinite(x) else None for x in np.ravel(bound).tolist()]
        values[name] = finite if isinstance(bound, list) else finite[0]
    return {"box": values}


def read_spec(extra: Mapping[str, Any], path: Path) -> Spec:
    """The spec that a checkpoint describes; CheckpointError where it is damaged."""
    try:
        said = extra["spec"]
        measures = {str(key): str(rule) for key, rule in said["measures"].items()}
        limit = None if said["time_limit"] is None else int(said["time_limit"])
        return Spec(
            read_space(said["obs"]),
            read_space(said["action"]),
            limit,
            int(said["num_envs"]),
            measures=measures,
        )
    except (KeyError, TypeError, ValueError, AttributeError, UserError, RecursionError) as error:
        raise CheckpointError(f"{path}: the checkpoint's spec is damaged ({error})") from error


def read_space(said: Mapping[str, Any]) -> Any:
    """A space from plain values."""
    (kind, value), *more = said.items()
    if more:
        raise ValueError("one kind of space expected")
    if kind == "dict":
        return {str(key): read_space(part) for key, part in value.items()}
    if kind == "tuple":
        return tuple(read_space(part) for part in value)
    if kind == "discrete":
        return amend(Discrete(2), value)
    if kind != "box":
        raise ValueError(f"unknown space {kind!r}")
    bounds = {}
    for name, infinite in (("low", -np.inf), ("high", np.inf)):
        bound = value[name]
        each = [infinite if x is None else float(x) for x in (bound if isinstance(bound, list) else [bound])]
        bounds[name] = tuple(each) if isinstance(bound, list) else each[0]
    return amend(Box(()), dict(value) | bounds)


def show_space(space: Any) -> str:
    """A space in a few characters."""
    if isinstance(space, Mapping):
        return "{" + ", ".join(f"{key}: {show_space(part)}" for key, part in space.items()) + "}"
    if isinstance(space, tuple):
        return "(" + ", ".join(map(show_space, space)) + ")"
    return f"Discrete({space.n})" if isinstance(space, Discrete) else f"Box{list(space.shape)}"

"""A spec as plain values, so that a policy can be loaded without making an environment."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyak.envs.border import Border
from polyak.envs.spaces import WAYS, action_from_gymnasium, from_gymnasium, kind_of
from polyak.errors import CheckpointError, UserError, brief, printable
from polyak.interface import Box, Discrete, Spec
from polyak.runs.values import amend, plain

DTYPES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)
WRONG = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    MemoryError,
)
MOST_BYTES = 64 << 20  # that spaces read from a file may take


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
        measures = {_text(key): _one_of(rule, WAYS) for key, rule in said["measures"].items()}
        limit = None if said["time_limit"] is None else _count(said["time_limit"])
        if (size := _bytes_of_ours(said["obs"]) + _bytes_of_ours(said["action"])) > MOST_BYTES:
            raise ValueError(f"spaces of {size} bytes")
        return Spec(
            read_space(said["obs"]),
            read_space(said["action"]),
            limit,
            _count(said["num_envs"]),
            measures=measures,
        )
    except (UserError, *WRONG) as error:
        raise CheckpointError(f"{path}: the checkpoint's spec is damaged ({_line(error)})") from error


def _bytes_of_ours(said: Any) -> int:
    """Bytes of a point of one of our spaces as it is described."""
    ((kind, value),) = said.items()
    if kind in ("dict", "tuple"):
        return sum(_bytes_of_ours(part) for part in (value.values() if kind == "dict" else value))
    return 8 * math.prod(_shape(value["shape"])) if kind == "box" else 8


def read_space(said: Mapping[str, Any]) -> Any:
    """A space from plain values; an exception of Python's own, or UserError, for any that is wrong."""
    ((kind, value),) = said.items()
    if kind == "dict":
        return {_text(key): read_space(part) for key, part in value.items()}
    if kind == "tuple":
        return tuple(read_space(part) for part in value)
    _one_of(value["dtype"], DTYPES)
    if kind == "discrete":
        return amend(Discrete(_count(value["n"])), value)
    if kind != "box":
        raise ValueError(f"unknown space {brief(kind)}")
    shape, bounds = _shape(value["shape"]), {}
    for name, infinite in (("low", -np.inf), ("high", np.inf)):
        bound = _numbers(value[name], int, float, type(None))
        each = [infinite if x is None else float(x) for x in (bound if isinstance(bound, list) else [bound])]
        if len(each) not in (1, math.prod(shape)):
            raise ValueError(f"{len(each)} bounds for a shape of {list(shape)}")
        bounds[name] = tuple(each) if isinstance(bound, list) else each[0]
    if not np.all(np.ravel(bounds["low"]) <= np.ravel(bounds["high"])):
        raise ValueError("a lower bound is above the upper one")
    return amend(Box(()), dict(value) | bounds)


def _count(said: Any) -> int:
    """A whole number from 1 on that a counter holds."""
    if type(said) is not int or not 1 <= said < 2**31:
        raise ValueError(f"{brief(said)} is no count")
    return said


def describe_border(border: Border) -> dict[str, Any]:
    """The environment's own spaces as plain values, for a checkpoint."""
    return {name: describe_theirs(getattr(border, name)) for name in ("observation", "action")}


def describe_theirs(space: Any) -> dict[str, Any]:
    """A Gymnasium space as plain values; infinite bounds are None."""
    match kind_of(space):
        case "Dict":
            return {"dict": [[name, describe_theirs(part)] for name, part in space.spaces.items()]}
        case "Tuple":
            return {"tuple": [describe_theirs(part) for part in space.spaces]}
        case "MultiBinary":
            return {"multi_binary": {"shape": list(space.shape)}}
        case "Discrete":
            return {"discrete": {"n": int(space.n), "start": int(space.start), "dtype": space.dtype.name}}
        case "MultiDiscrete":
            sizes = {"nvec": np.ravel(space.nvec).tolist(), "start": np.ravel(space.start).tolist()}
            return {"multi_discrete": {"shape": list(space.shape), "dtype": space.dtype.name, **sizes}}
    bounds = {name: _short(getattr(space, name)) for name in ("low", "high")}
    return {"box": {"shape": list(space.shape), "dtype": space.dtype.name, **bounds}}


def _short(bound: np.ndarray) -> Any:
    """One plain number where all are equal, else each in C order."""
    flat = np.ravel(bound)
    flat = flat[:1] if flat.size and (flat == flat[0]).all() else flat
    values = [x if np.isfinite(x) else None for x in flat.tolist()]
    return values[0] if len(values) == 1 else values


def read_border(extra: Mapping[str, Any], spec: Spec, path: Path) -> Border:
    """The border that a checkpoint describes; CheckpointError where it is damaged or not that of its spec."""
    try:
        said = extra["border"]
        if (size := sum(_bytes(said[name]) for name in ("observation", "action"))) > MOST_BYTES:
            raise ValueError(f"spaces of {size} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            border = Border(read_theirs(said["observation"]), read_theirs(said["action"]))
        ours = from_gymnasium(border.observation), action_from_gymnasium(border.action)
        if shapes(ours) != shapes((spec.obs, spec.action)):
            raise ValueError("not those of the spec")
    except (UserError, *WRONG) as error:
        raise CheckpointError(f"{path}: the checkpoint's border is damaged ({_line(error)})") from error
    return border


def read_theirs(said: Any) -> Any:
    """A Gymnasium space from plain values; an exception of Python's own for any that is wrong."""
    from gymnasium import spaces

    ((kind, value),) = said.items()
    if kind == "dict":
        names = [_text(name) for name, _ in value]
        if len(set(names)) != len(names):
            raise ValueError("a name twice")
        return spaces.Dict([(name, read_theirs(part)) for name, part in value])
    if kind == "tuple":
        return spaces.Tuple([read_theirs(part) for part in value])
    if kind == "multi_binary":
        shape = _shape(value["shape"])
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    dtype = np.dtype(_one_of(value["dtype"], DTYPES))
    if kind == "discrete":
        whole = _one_of(dtype.kind, "iu") and dtype.type
        n, start = (_numbers(value[name], int) for name in ("n", "start"))
        return spaces.Discrete(n, start=start, dtype=whole)
    shape = _shape(value["shape"])
    if kind == "multi_discrete":
        nvec, start = (np.array(_numbers(value[name], int), np.int64) for name in ("nvec", "start"))
        whole = _one_of(dtype.kind, "iu") and dtype.type
        return spaces.MultiDiscrete(nvec.reshape(shape), dtype=whole, start=start.reshape(shape))
    if kind != "box":
        raise ValueError(f"unknown space {brief(kind, 40)}")
    bounds = []
    for name, infinite in (("low", -np.inf), ("high", np.inf)):
        kinds = {"b": (bool,), "f": (float, int, type(None))}.get(dtype.kind, (int,))
        bound = _numbers(value[name], *kinds)
        each = [infinite if x is None else x for x in (bound if isinstance(bound, list) else [bound])]
        bounds.append(np.array(each, dtype) if isinstance(bound, list) else np.full(shape, each[0], dtype))
    low, high = (bound.reshape(shape) for bound in bounds)
    return spaces.Box(low, high, shape, dtype.type)


def _bytes(said: Any) -> int:
    """Bytes that reading a space would allocate."""
    ((kind, value),) = said.items()
    if kind in ("dict", "tuple"):
        return sum(_bytes(part[1] if kind == "dict" else part) for part in value)
    itemsize = np.dtype(_one_of(value.get("dtype", "int8"), DTYPES)).itemsize
    return math.prod(_shape(value.get("shape", []))) * (2 * itemsize + 2)


def _shape(said: Any) -> tuple[int, ...]:
    if not isinstance(said, list) or len(said) > 16 or any(type(n) is not int or n < 0 for n in said):
        raise ValueError("a shape is wrong")
    return tuple(said)


def _numbers(said: Any, *kinds: type) -> Any:
    """A number or a list of numbers, each finite and of one of these types."""
    for x in said if isinstance(said, list) else [said]:
        if type(x) not in kinds or (isinstance(x, float) and not math.isfinite(x)):
            raise ValueError(f"{brief(x, 40)} is no number that fits")
    return said


def _text(said: Any) -> str:
    if not isinstance(said, str):
        raise ValueError(f"a name is {brief(said, 40)}")
    return said


def _one_of(said: Any, valid: Any) -> Any:
    if not isinstance(said, str) or said not in valid:
        raise ValueError(f"unknown word {brief(said, 40)}")
    return said


def shapes(space: Any) -> Any:
    """A space without bounds and without the dtype of its integers."""
    if isinstance(space, Mapping):
        return {key: shapes(part) for key, part in space.items()}
    if isinstance(space, tuple):
        return tuple(map(shapes, space))
    return dataclasses.replace(space, low=0.0, high=0.0) if isinstance(space, Box) else space.n


def _line(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}", 200)


def show_space(space: Any) -> str:
    """A space in a few characters."""
    if isinstance(space, Mapping):
        return "{" + ", ".join(f"{key}: {show_space(part)}" for key, part in space.items()) + "}"
    if isinstance(space, tuple):
        return "(" + ", ".join(map(show_space, space)) + ")"
    return f"Discrete({space.n})" if isinstance(space, Discrete) else f"Box{list(space.shape)}"

"""The border between a policy and the world that it was trained in: one conversion for training and for use."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyak.envs import spaces
from polyak.envs.environment import to_bounds
from polyak.errors import UserError
from polyak.interface import Discrete, Space, Spec, Tree


@dataclass(frozen=True)
class Border:
    """Observations come in and actions go out in the environment's own terms.

    observation, action  Gymnasium spaces, those of the environment itself or rebuilt from a checkpoint
    """

    observation: Any
    action: Any

    @classmethod
    def of(cls, spec: Spec) -> "Border":
        """Border of an environment whose own spaces are ours already."""
        return cls(to_gymnasium(spec.obs), to_gymnasium(spec.action))

    def observe(self, obs: Any) -> tuple[Tree, bool]:
        """One observation, or a batch of them, as rows [N, ...] of our space; and whether it was one.

        UserError, one line, for what is no point of the space.
        """
        if isinstance(obs, tuple) and len(obs) == 2 and isinstance(obs[1], Mapping) and self._is_no_pair:
            raise UserError("obs is a pair (obs, info), as reset returns it: give its first part")
        found = list(_leaves(self.observation, obs, "obs"))
        rows = {name: len(array) if array.ndim > len(space.shape) else None for name, space, array in found}
        first, *_ = rows or {"": None}
        for name, count in rows.items():
            if count != rows[first]:
                said = ["one" if n is None else f"a batch of {n}" for n in (rows[first], count)]
                raise UserError(f"{first} is {said[0]} and {name} is {said[1]}, but all must be alike")
        single = not found or rows[first] is None
        converted = spaces.convert(self.observation, _arrays(self.observation, obs))
        return (spaces.over(lambda x: x[None], converted) if single else converted), single

    def act(self, action: np.ndarray, single: bool = False) -> Any:
        """From actions [N, ...] of an algorithm to actions inside the environment's space, in its own dtype.

        single  give the first alone
        """
        given = self._outward(to_bounds(self._ours, action))
        return given[0] if single else given

    @functools.cached_property
    def _is_no_pair(self) -> bool:
        return len(getattr(self.observation, "spaces", ())) != 2 or not isinstance(
            self.observation.spaces, tuple
        )

    @functools.cached_property
    def _ours(self) -> Space:
        return spaces.action_from_gymnasium(self.action)

    @functools.cached_property
    def _outward(self) -> spaces.Actions:
        return spaces.Actions(self.action)


def to_gymnasium(space: Space) -> Any:
    """The Gymnasium space that is read as this space of ours."""
    from gymnasium import spaces as theirs

    if isinstance(space, Mapping):
        return theirs.Dict([(name, to_gymnasium(part)) for name, part in space.items()])
    if isinstance(space, tuple):
        return theirs.Tuple([to_gymnasium(part) for part in space])
    if isinstance(space, Discrete):
        return theirs.Discrete(space.n, dtype=np.dtype(space.dtype).type)
    return make_box(space.low, space.high, space.shape, space.dtype)


def make_box(low: Any, high: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """A Gymnasium Box; bounds are one number or one for each entry in C order, and infinite ones stay."""
    from gymnasium.spaces import Box as Theirs

    kind = np.dtype(dtype)
    limits = []
    for bound in (low, high):
        if kind.kind in "iu" and np.isinf(bound).any():
            info = np.iinfo(kind)
            bound = np.clip(np.asarray(bound, np.float64), float(info.min), float(info.max))
        values = np.asarray(bound, kind)
        limits.append(values.reshape(shape) if values.ndim else np.full(shape, values))
    return Theirs(limits[0], limits[1], shape, kind.type)


def _leaves(space: Any, value: Any, name: str) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Each part of an observation with its name and space; UserError for a part that does not fit."""
    parts = getattr(space, "spaces", None)
    if isinstance(parts, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(parts):
            given = f"a dict of {sorted(map(str, value))}" if isinstance(value, Mapping) else _kind(value)
            raise UserError(f"{name} is {given}, but must be a dict of {sorted(parts)}")
        for key, part in parts.items():
            yield from _leaves(part, value[key], f"{name}.{key}")
    elif isinstance(parts, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(parts):
            given = f"{_kind(value)} of {len(value)}" if isinstance(value, tuple | list) else _kind(value)
            raise UserError(f"{name} is {given}, but must be a tuple of {len(parts)}")
        for i, part in enumerate(parts):
            yield from _leaves(part, value[i], f"{name}.{i}")
    else:
        yield name, space, _checked(space, value, name)


def _checked(space: Any, value: Any, name: str) -> np.ndarray:
    """One part of an observation [...] or [N, ...] as an array; UserError unless it lies in the space."""
    shape = tuple(space.shape)
    if value is None or isinstance(value, Mapping | list | tuple | str):
        advice = f"; np.asarray({name}) makes one" if isinstance(value, list | tuple) else ""
        raise UserError(f"{name} is {_kind(value)}, but must be an array of shape {_shapes(shape)}{advice}")
    array = np.asarray(value)
    if array.shape[array.ndim - len(shape) :] != shape or array.ndim not in (len(shape), len(shape) + 1):
        raise UserError(f"{name} has shape {array.shape}, but must have {_shapes(shape)}")
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise UserError(f"{name} has dtype {array.dtype}, but must have {space.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise UserError(f"{name} is {array[tuple(where)]} at {where}, but must be finite")
    least, most = _whole_numbers(space)
    if least is not None and not ((array >= least).all() and (array <= most).all()):
        raise UserError(f"{name} is {_line(array)}, but must lie in {_line(least)} .. {_line(most)}")
    return array


def _whole_numbers(space: Any) -> tuple[Any, Any]:
    """The least and the largest point of a space that counts; None where a space is not of that kind."""
    if hasattr(space, "nvec"):
        return space.start, space.start + space.nvec - 1
    return (space.start, space.start + space.n - 1) if hasattr(space, "start") else (None, None)


def _arrays(space: Any, value: Any) -> Any:
    """The observation with arrays for its parts."""
    parts = getattr(space, "spaces", None)
    if isinstance(parts, Mapping):
        return {key: _arrays(part, value[key]) for key, part in parts.items()}
    if isinstance(parts, tuple):
        return tuple(_arrays(part, v) for part, v in zip(parts, value, strict=True))
    return np.asarray(value)


def _shapes(shape: tuple[int, ...]) -> str:
    batch = ", ".join(["N", *map(str, shape)]) + ("" if shape else ",")
    return f"{shape}, or ({batch}) for a batch"


def _line(value: Any) -> str:
    return " ".join(np.array2string(np.asarray(value), threshold=8).split())


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"

"""From Gymnasium's spaces to our own, and from what its environments give to rows of arrays.

Imported in worker processes too, so it knows neither JAX nor, before it is needed, Gymnasium.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from polyak.envs.calling import called, serve_parent
from polyak.errors import EnvironmentFault, UserError, boolean, brief, nearest
from polyak.interface import Box, Discrete, Space, Tree

SUPPORTED = "Box, Discrete, MultiBinary, MultiDiscrete, and Dict and Tuple of these"
WAYS = ("last", "sum", "mean", "max")  # to sum a measure up over an episode
FARTHEST = 1e10  # a bound from here on is none: MuJoCo writes "none" like this, others as the largest float
SMALLEST = tuple(float(np.finfo(kind).tiny) for kind in (np.float32, np.float64))
LARGEST = float(np.finfo(np.float32).max)


def from_gymnasium(space: Any) -> Space:
    """Our space of the observations of one environment; UserError names a space that has none.

    float64 becomes float32, cast once at the border. MultiBinary is a Box, MultiDiscrete a tuple of Discrete
    or, where it has more than one axis, a Box. Discrete and MultiDiscrete start at 0.
    """
    match kind_of(space):
        case "Box":
            return _box(space)
        case "Discrete":
            return Discrete(int(space.n))
        case "MultiBinary":
            return Box(tuple(space.shape), 0.0, 1.0)
        case "MultiDiscrete" if len(space.shape) == 1:
            return tuple(Discrete(int(n)) for n in space.nvec)
        case "MultiDiscrete":
            high = _bound(space.start + space.nvec - 1)
            return Box(tuple(space.shape), _bound(space.start), high)
        case "Dict":
            return {name: from_gymnasium(part) for name, part in space.spaces.items()}
        case "Tuple":
            return tuple(from_gymnasium(part) for part in space.spaces)
    raise UserError(f"observation space {_line(space)} is not supported; supported: {SUPPORTED}")


def action_from_gymnasium(space: Any) -> Space:
    """Our space of the actions of one environment: a Box of real numbers, float32, or Discrete from 0."""
    if kind_of(space) == "Discrete":
        return Discrete(int(space.n))
    if kind_of(space) == "Box" and space.dtype.kind == "f":
        return _box(space)
    raise UserError(
        f"action space {_line(space)} is not supported; supported: Discrete, and Box of float32 or float64"
    )


def convert(space: Any, value: Any) -> Tree:
    """Convert a point of a Gymnasium space, [...] or with leading axes, to what our space wants."""
    match kind_of(space):
        case "Discrete":
            return (np.asarray(value) - space.start).astype(np.int32)
        case "MultiDiscrete" if len(space.shape) == 1:
            columns = (np.asarray(value) - space.start).astype(np.int32)
            return tuple(columns[..., i] for i in range(space.shape[0]))
        case "Dict":
            return {name: convert(part, value[name]) for name, part in space.spaces.items()}
        case "Tuple":
            return tuple(convert(part, v) for part, v in zip(space.spaces, value, strict=True))
        case "Box":
            return np.asarray(value, _dtype(space))
    return np.asarray(value, np.float32)


def bounds(low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of each entry as float64 arrays of one shape, infinite where they cannot mean anything.

    That is where they are NaN or at least FARTHEST, and for a low bound where the pair is the smallest and the
    largest positive float, as EnvPool writes "none".
    """
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    absent = ~(np.abs(low) < FARTHEST) | (np.isin(low, SMALLEST) & (high >= LARGEST))
    return np.where(absent, -np.inf, low), np.where(np.abs(high) < FARTHEST, high, np.inf)


def check(space: Any, value: Any, lane: int, field: str = "observation") -> None:
    """EnvironmentFault, with the environment's index and the field, unless shapes and kinds are the space's.

    A float64 where float32 was declared is no fault; a real number where an integer was declared is.
    """
    plain = type(value) is np.ndarray and value.dtype is space.dtype and value.shape == space.shape
    if plain and value.dtype.kind == "f":  # as most give them
        return

    def fault(given: str, right: str) -> EnvironmentFault:
        return EnvironmentFault(f"{field} is {given}, its space says {right}", lane=lane)

    if kind_of(space) == "Dict":
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            given = f"a dict of {sorted(value)}" if isinstance(value, Mapping) else type(value).__name__
            raise fault(given, f"a dict of {sorted(space.spaces)}")
        for name, part in space.spaces.items():
            check(part, value[name], lane, f"{field}.{name}")
        return
    if kind_of(space) == "Tuple":
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise fault(f"a {type(value).__name__}", f"a tuple of {len(space.spaces)}")
        for i, part in enumerate(space.spaces):
            check(part, value[i], lane, f"{field}.{i}")
        return
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        raise fault(f"a ragged {type(value).__name__}", f"shape {space.shape}") from None
    if array.shape != space.shape:
        raise fault(f"of shape {array.shape}", f"{space.shape}")
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise fault(f"of dtype {array.dtype}", f"{space.dtype}")
    least, most = _whole_range(space)
    if least is not None and not ((array >= least).all() and (array <= most).all()):
        raise fault(brief(array.tolist(), 40), f"{_span(least)} .. {_span(most)}")


def _whole_range(space: Any) -> tuple[Any, Any]:
    """The least and the largest whole number that a point may hold and our arrays can; None for real numbers."""
    match kind_of(space):
        case "Discrete":
            return space.start, space.start + space.n - 1
        case "MultiDiscrete":
            return space.start, space.start + space.nvec - 1
        case "MultiBinary":
            return 0, 1
    if space.dtype.kind not in "iu":
        return None, None
    kinds = [np.iinfo(kind) for kind in (space.dtype, _dtype(space)) if np.dtype(kind).kind in "iu"]
    return max(int(kind.min) for kind in kinds), min(int(kind.max) for kind in kinds)


def _span(bound: Any) -> str:
    return brief(bound.tolist() if hasattr(bound, "tolist") else bound, 40)


def narrows(space: Any) -> bool:
    """Whether our arrays hold fewer whole numbers than a Box's own, so that each point must be looked at."""
    return space.dtype.kind in "iu" and space.dtype.itemsize > _dtype(space).itemsize


def check_begun(obs: Tree, lanes: Any, seeds: Any) -> None:
    """EnvironmentFault, with the seed of the episode, where observations [L, ...] of a reset are not finite."""

    def look(rows: np.ndarray) -> None:
        if rows.dtype.kind != "f" or np.count_nonzero(np.isfinite(rows)) == rows.size:
            return
        for lane, seed in zip(lanes, seeds, strict=True):
            if not np.isfinite(rows[lane]).all():
                raise EnvironmentFault(
                    f"reset with seed {seed} gave an observation that is not finite", lane=lane
                )

    over(look, obs)


def check_ends(terminated: Any, truncated: Any, lane: int) -> None:
    """EnvironmentFault, with the environment's index, unless both ends are true or false."""
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if isinstance(value, bool | np.bool_):
            continue
        if getattr(value, "shape", None) == () and str(getattr(value, "dtype", "")) == "bool":
            continue
        if type(value) is not int or value not in (0, 1):
            raise EnvironmentFault(f"{name} is {brief(value)}, it must be true or false", lane=lane)


def check_reward(reward: Any, lane: int) -> None:
    """EnvironmentFault with the environment's index, unless the reward is a number that a float64 can be."""
    if not isinstance(reward, float | int | np.number | np.bool_) or isinstance(reward, np.complexfloating):
        array = isinstance(reward, np.ndarray)
        if not (array and reward.shape == () and reward.dtype.kind in "fiub"):
            given = f"an array of shape {reward.shape}" if array else brief(reward)
            raise EnvironmentFault(f"reward is {given}, it must be one number", lane=lane)
    if isinstance(reward, int) and abs(reward) > sys.float_info.max:
        raise EnvironmentFault(f"reward is {brief(reward)}, which no float64 can be", lane=lane)


class Checked:
    """A Gymnasium environment in a worker process that refuses what its spaces do not allow.

    What it raises is turned into one line here, since not everything can be sent. Signals are for the process that
    trains: it saves, and still needs its environments.
    """

    def __init__(self, make: Callable[[], Any], lane: int, by_main_thread: bool = False):
        serve_parent(by_main_thread)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env = make()
        self._lane = lane
        self.metadata = dict(self._env.metadata or {})  # vectors write into it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_env"], name)

    def reset(self, **how: Any) -> tuple[Any, dict]:
        """Like the environment's."""
        with called(self._lane, "reset", f"with seed {how.get('seed')}"):
            obs, info = self._env.reset(**how)
            check(self._env.observation_space, obs, self._lane)
            return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Like the environment's."""
        with called(self._lane, "step", f"with action {action}"):
            obs, reward, terminated, truncated, info = self._env.step(action)
            check(self._env.observation_space, obs, self._lane)
            check_reward(reward, self._lane)
            check_ends(terminated, truncated, self._lane)
            return obs, reward, bool(terminated), bool(truncated), info


def over(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """A function of arrays over dicts and tuples of arrays."""
    if isinstance(tree, dict):
        return {name: over(function, tree[name], *(o[name] for o in others)) for name in tree}
    if isinstance(tree, tuple):
        return tuple(over(function, *parts) for parts in zip(tree, *others, strict=True))
    return function(tree, *others)


def stack(trees: list[Tree]) -> Tree:
    """Observations of L environments as one tree of fresh arrays [L, ...]."""
    return over(lambda *rows: np.stack(rows), *trees)


def scatter(tree: Tree, lanes: Any, rows: Tree) -> Tree:
    """A fresh tree [L, ...] in which these lanes hold these rows."""

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        fresh = old.copy()
        fresh[lanes] = new
        return fresh

    return over(put, tree, rows)


def zeros(space: Space, lanes: int) -> Tree:
    """Observations [L, ...] before there are any."""
    return over(lambda part: np.zeros((lanes, *part.shape), part.dtype), space)


class Actions:
    """From actions [L, ...] in an environment's bounds, in our dtypes, to fresh arrays in its own.

    Where rescaling to a bound in float32 rounds to beyond it, real numbers are kept inside.
    """

    def __init__(self, space: Any):
        self._dtype = space.dtype
        self._start = int(space.start) if kind_of(space) == "Discrete" else 0
        self._bounds = None
        if kind_of(space) == "Box":
            low, high = bounds(space.low, space.high)
            least, most = low.astype(np.float32), high.astype(np.float32)
            with np.errstate(invalid="ignore"):
                top = np.where(np.isfinite(low) & np.isfinite(high), least + 2 * ((most - least) / 2), most)
            if (least < low).any() or (top > high).any():
                self._bounds = low.astype(space.dtype), high.astype(space.dtype)

    def __call__(self, action: Any) -> np.ndarray:
        """[L, ...], a copy that the environments may write to."""
        action = np.array(action, self._dtype)
        if self._bounds is not None:
            np.minimum(action, self._bounds[1], out=action)
            np.maximum(action, self._bounds[0], out=action)
        elif self._start:
            action += self._start
        return action


def check_limit(limit: Any) -> int | None:
    """A time limit, None for none; UserError for one that no episode can reach or keep."""
    if limit is None or (type(limit) is int and limit == -1):  # Gymnasium's word for none
        return None
    if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or not 1 <= limit < 2**31:
        raise UserError(f"its time limit is {brief(limit)}, but must be a whole number of steps from 1 on")
    return int(limit)


def as_measures(measures: Any) -> dict[str, str]:
    """Names of measures, alone (the episode's last value) or each with how an episode is summed up."""
    asked = dict(measures) if isinstance(measures, Mapping) else dict.fromkeys(measures, "last")
    for name, how in asked.items():
        if how not in WAYS:
            raise UserError(f"measure {name!r}: no way {how!r} to sum it up; {nearest(how, WAYS)}")
    return asked


def number(value: Any) -> float:
    """A measure as a float; NaN where it is missing or is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def like_bool(what: str, default: Any, value: Any) -> Any:
    """A setting of an environment, where its default is a bool in words for one; UserError for another value."""
    if not isinstance(default, bool | np.bool_) or value is None:
        return value
    try:
        return boolean(bool(value) if isinstance(value, np.bool_) else value)
    except ValueError:
        raise UserError(f"environment {what} must be true or false, not {value!r}") from None


def kind_of(space: Any) -> str:
    """Kind of a Gymnasium space, subclasses too: the name of the first class that is Gymnasium's."""
    for cls in type(space).__mro__:
        if cls.__module__.startswith("gymnasium.spaces"):
            return cls.__name__
    return type(space).__name__


def _line(space: Any) -> str:
    return " ".join(repr(space).split())[:120]


def _dtype(space: Any) -> np.dtype:
    """Dtype of a Box's points in our arrays: JAX has no 64 bits by default."""
    dtype = space.dtype
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype in (np.int64, np.uint32, np.uint64):
        int32 = np.iinfo(np.int32)
        inside = np.all(space.low >= int32.min) and np.all(space.high <= int32.max)
        return np.dtype(np.int32 if inside else np.float32)
    return dtype


def _box(space: Any) -> Box:
    dtype, (low, high) = _dtype(space), (space.low, space.high)
    if not (low <= high).all():  # nor where one of them is NaN
        raise UserError(f"the bounds of {_line(space)} are upside down, or not numbers")
    if dtype.kind == "f":
        low, high = (bound.astype(dtype) for bound in bounds(low, high))
    return Box(tuple(space.shape), _bound(low), _bound(high), dtype.name)


def _bound(values: np.ndarray) -> float | tuple[float, ...]:
    """One float where all are equal, else each in C order."""
    flat = np.ravel(values)
    if flat.size and (flat == flat[0]).all():
        return float(flat[0])
    return tuple(map(float, flat))

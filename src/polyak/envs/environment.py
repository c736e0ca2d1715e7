"""Environments: the JAX protocol, the host protocol, and the border where actions are rescaled and reshaped."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from polyak.envs.spaces import bounds
from polyak.interface import Array, Box, Spec, Tree
from polyak.pytree import Record


class Step(NamedTuple):
    """Result of one step of one environment. A time limit is the collector's business, not the step's."""

    state: Tree
    obs: Tree
    reward: Array
    terminated: Array
    truncated: Array
    measures: dict[str, Array] = {}  # noqa: RUF012 (a NamedTuple's default is never mutated)


class Table(NamedTuple):
    """A world of finitely many states, which are what is observed: where each action leads, and what it earns."""

    transition: np.ndarray  # P(s' | s, a), [S, A, S]; what it lacks to 1 is the probability of an end
    reward: np.ndarray  # r(s, a), expected, [S, A]


class Environment(Record):
    """One environment in JAX: a `@pytree` whose physical constants are leaves, so they can be traced.

    The collector vmaps `reset` and `step`, counts time, truncates at `spec.time_limit` and resets
    to fresh random states; a subclass only tells what happens.
    """

    @property
    def spec(self) -> Spec:
        """Its spaces, time limit and measures (`num_envs` is filled in by the driver)."""
        raise NotImplementedError

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """A random start: state, obs."""
        raise NotImplementedError

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One step; `action` is in the environment's own bounds."""
        raise NotImplementedError

    @property
    def tabular(self) -> bool:
        """Whether its observations number its states, all of whose moves `table` has."""
        return False

    def table(self) -> Table:
        """Every move of every state, where it is `tabular`."""
        raise NotImplementedError

    def draw(self, state: Tree) -> np.ndarray:
        """A picture [H, W, 3] uint8 of a state, for people; NotImplementedError where there is none."""
        raise NotImplementedError


class HostStep(NamedTuple):
    """Result of one step of L lanes, NumPy arrays that the environment never writes again."""

    obs: Tree  # [L, ...] the true successor, also where the episode ended
    reward: np.ndarray  # [L] float64
    terminated: np.ndarray  # [L] bool
    truncated: np.ndarray  # [L] bool, never together with terminated
    measures: dict[str, np.ndarray]  # each [L] float64; NaN where the environment did not say


class HostEnvs(Protocol):
    """L environments on the host, stepped together; they never reset themselves."""

    spec: Spec  # num_envs = L
    masked: bool  # whether it says which actions are legal, in a way that nobody reads
    exact_reset: bool  # an episode is a function of its seed and actions, not of those played before it

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes, each from its own seed; observations [L, ...] of all lanes."""
        ...

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        ...

    def close(self) -> None:
        """Release processes and windows."""
        ...


class Rules(NamedTuple):
    """The rules of an environment in JAX, as a planner reads them in `spec.model`; of one environment, not of N."""

    reset: Callable  # (key) -> state, obs
    step: Callable  # (state, action, key) -> Step; the action is the algorithm's own, flat and in [-1, 1]
    table: Callable[[], Table] | None = (
        None  # all of them at once, of a world whose observations number its states
    )


def rules(env: Environment) -> Rules:
    """The rules of this environment."""

    def step(state: Tree, action: Array, key: jax.Array) -> Step:
        return env.step(state, to_bounds(env.spec.action, action), key)

    return Rules(env.reset, step, env.table if env.tabular else None)


def flat_actions(spec: Spec) -> Spec:
    """The spec as an algorithm sees it: real actions in one row of numbers, which `to_bounds` puts in shape again."""
    space = spec.action
    if not isinstance(space, Box) or len(space.shape) == 1:
        return spec
    return dataclasses.replace(spec, action=dataclasses.replace(space, shape=(space.size,)))


def to_bounds(space: Any, action: Array) -> Array:
    """From flat actions [..., A] of an algorithm to what an environment takes; for NumPy and JAX arrays alike.

    Each entry of a Box by itself: clipped to [-1, 1] and rescaled between its two bounds; clipped to the one that it
    has; as it is without any. Integers [...]: as they are.
    """
    if not isinstance(space, Box):
        return action
    if (rescaling := _rescaling(space)) is not None:
        least, most, shift, half, low = rescaling
        action = low + (action.clip(least, most) + shift) * half
    return action if len(space.shape) == 1 else action.reshape(*action.shape[:-1], *space.shape)


def unscaled(space: Any) -> list[int]:
    """Entries of flat actions that lack a bound, and are therefore not rescaled."""
    if not isinstance(space, Box):
        return []
    low, high = (np.broadcast_to(bound, space.size) for bound in bounds(space.low, space.high))
    return np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))).tolist()


@functools.cache
def _rescaling(space: Box) -> tuple[Any, Any, Any, np.ndarray, np.ndarray] | None:
    """The least and the largest flat action, what is added, half the width, the lower bound; None: all as it is."""
    low, high = bounds(space.low, space.high)
    least, most = (np.asarray(bound, space.dtype) for bound in (low, high))
    both = np.isfinite(low) & np.isfinite(high)
    if both.all():
        low, high = (np.asarray(bound, space.dtype) for bound in (space.low, space.high))
        return -1, 1, 1, (high - low) / 2, low
    if not (np.isfinite(low) | np.isfinite(high)).any():
        return None
    with np.errstate(invalid="ignore"):
        half = np.where(both, (most - least) / 2, 1)
    parts = np.where(both, -1, least), np.where(both, 1, most), both, half, np.where(both, least, 0)
    return tuple(part.astype(space.dtype) for part in parts)  # pyright: ignore[reportReturnType]

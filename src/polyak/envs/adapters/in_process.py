"""Gymnasium environments in this process: our own thin loop over them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from polyak.envs import spaces
from polyak.envs.calling import called, fault, passes
from polyak.envs.environment import HostStep
from polyak.errors import EnvironmentFault, UserError
from polyak.interface import Box, Spec, Tree

Measures = Mapping[str, str] | Iterable[str]

GOAL = {"observation", "achieved_goal", "desired_goal"}  # parts of what an environment with goals shows
FLOAT64 = np.float64  # as most environments on NumPy give their rewards
MASK = "action_mask"  # in `info`: which actions are legal


def spec_of(env: gymnasium.Env, lanes: int, measures: Mapping[str, str]) -> Spec:
    """Spec of L copies of an environment; UserError where it has no spaces."""
    for name in ("observation_space", "action_space"):
        if not hasattr(env, name):
            raise UserError(f"{type(env.unwrapped).__name__} has no {name}: set it in __init__")
    goal = None
    if isinstance(env.observation_space, gymnasium.spaces.Dict) and set(env.observation_space) == GOAL:
        from polyak.envs.adapters.goals import goal_of  # JAX is imported where it is needed

        goal = goal_of(env)
    return Spec(
        obs=spaces.from_gymnasium(env.observation_space),
        action=spaces.action_from_gymnasium(env.action_space),
        time_limit=spaces.check_limit(env.spec.max_episode_steps if env.spec else None),
        num_envs=lanes,
        goal=goal,
        measures=measures,
    )


class GymnasiumSync:
    """L environments stepped one after the other in this process; 2 to 3 us a step beside their own.

    measures: names in `info`, each with how an episode is summed up (without: its last value)
    """

    exact_reset = True  # an episode is a function of its seed and actions
    masked = False

    def __init__(self, make: Callable[[], gymnasium.Env], lanes: int, measures: Measures = ()):
        measures = spaces.as_measures(measures)
        self._envs = [make() for _ in range(lanes)]
        self.asked = 0.0  # when the call began that has not returned; 0 between calls
        self._space: Any = self._envs[0].observation_space
        self.spec = spec_of(self._envs[0], lanes, measures)
        self._names = tuple(measures)
        self._actions = spaces.Actions(self._envs[0].action_space)
        self._obs = spaces.zeros(self.spec.obs, lanes)
        flat = isinstance(self.spec.obs, Box) and isinstance(self._space, gymnasium.spaces.Box)
        self._rows = self._box_rows if flat else self._tree_rows
        narrows = flat and spaces.narrows(self._space)
        self._declared = (
            self._space.shape,
            None if narrows else self._space.dtype,  # None: each observation is checked
            np.dtype(self.spec.obs.dtype) if flat else None,
        )

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes, each from its own seed; observations [L, ...] of all lanes."""
        given, self.asked = [], time.monotonic()
        try:
            for lane, seed in zip(lanes, seeds, strict=True):
                with called(lane, "reset", f"with seed {seed}"):
                    obs, info = self._envs[lane].reset(seed=int(seed))
                    given.append(obs)
                    self.masked = self.masked or MASK in info
        finally:
            self.asked = 0.0
        if given:
            self._obs = spaces.scatter(self._obs, list(lanes), self._rows(given, lanes))
            spaces.check_begun(self._obs, lanes, seeds)
        return self._obs

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        actions = self._actions(action)
        lanes = len(self._envs)
        reward, given = np.empty(lanes), []
        terminated, truncated = np.empty(lanes, bool), np.empty(lanes, bool)
        measures = {name: np.empty(lanes) for name in self._names}
        lane, self.asked = 0, time.monotonic()
        try:
            for lane, env in enumerate(self._envs):
                obs, r, ended, cut, info = env.step(actions[lane])
                if (kind := type(r)) is not float and kind is not FLOAT64:
                    spaces.check_reward(r, lane)
                if type(ended) is not bool or type(cut) is not bool:
                    spaces.check_ends(ended, cut, lane)
                given.append(obs)
                reward[lane] = r
                terminated[lane] = ended
                truncated[lane] = cut and not ended
                for name in self._names:
                    measures[name][lane] = spaces.number(info.get(name))
        except BaseException as error:
            if passes(error):
                raise
            raise fault(lane, "step", f"with action {actions[lane]}", error) from error
        finally:
            self.asked = 0.0
        self._obs = self._rows(given)
        return HostStep(self._obs, reward, terminated, truncated, measures)

    def close(self) -> None:
        """Close every environment, whatever the others do."""
        faults = []
        for lane, env in enumerate(self._envs):
            try:
                with called(lane, "close"):
                    env.close()
            except EnvironmentFault as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def _box_rows(self, given: list[np.ndarray], lanes: Sequence[int] | None = None) -> np.ndarray:
        """Observations of a Box as rows of a fresh array, checked where they are not just as declared."""
        shape, dtype, ours = self._declared
        rows = np.empty((len(given), *shape), ours)
        for i, obs in enumerate(given):
            if type(obs) is not np.ndarray or obs.dtype is not dtype or obs.shape != shape:
                spaces.check(self._space, obs, lanes[i] if lanes is not None else i)
            rows[i] = obs
        return rows

    def _tree_rows(self, given: list[Any], lanes: Sequence[int] | None = None) -> Tree:
        """Observations of any space as trees of rows."""
        for i, obs in enumerate(given):
            spaces.check(self._space, obs, lanes[i] if lanes is not None else i)
        return spaces.stack([spaces.convert(self._space, obs) for obs in given])


class Borrowed(GymnasiumSync):
    """One environment that belongs to somebody else, who closes it."""

    def close(self) -> None:
        """Nothing: its owner does."""

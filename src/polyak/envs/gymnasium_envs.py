"""Gymnasium environments on the host: our own thin loop over them, their processes, and what makes them."""

import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv

from polyak.envs import spaces
from polyak.envs.environment import HostStep
from polyak.errors import EnvironmentFault, UserError
from polyak.interface import Box, Spec, Tree

Measures = Mapping[str, str] | Iterable[str]

PACKAGES = {  # module that is missing -> what to install
    "mujoco": "polyak[mujoco]",
    "pygame": "polyak[classic-control]",
    "Box2D": "gymnasium[box2d]",
    "ale_py": "ale-py",
    "gymnasium_robotics": "gymnasium-robotics",
    "shimmy": "shimmy",
}
NAMESPACES = {"ALE": "ale_py"}  # of ids that a package registers


def spec_of(env: gymnasium.Env, lanes: int, measures: Mapping[str, str]) -> Spec:
    """What an algorithm may know of L copies of this environment."""
    return Spec(
        obs=spaces.from_gymnasium(env.observation_space),
        action=spaces.action_from_gymnasium(env.action_space),
        time_limit=env.spec.max_episode_steps if env.spec else None,
        num_envs=lanes,
        measures=measures,
    )


# ---- in this process


class GymnasiumSync:
    """L environments stepped one after the other in this process; 3 to 5 us a step beside their own.

    measures: names in `info`, each with how an episode is summed up (without: its last value)
    """

    exact_reset = True  # an episode is a function of its seed and actions

    def __init__(self, make: Callable[[], gymnasium.Env], lanes: int, measures: Measures = ()):
        measures = spaces.as_measures(measures)
        self._envs = [make() for _ in range(lanes)]
        self._space = self._envs[0].observation_space
        self.spec = spec_of(self._envs[0], lanes, measures)
        self._names = tuple(measures)
        self._actions = spaces.Actions(self._envs[0].action_space)
        self._obs = spaces.zeros(self.spec.obs, lanes)
        flat = isinstance(self.spec.obs, Box) and isinstance(self._space, gymnasium.spaces.Box)
        self._rows = self._box_rows if flat else self._tree_rows

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes, each from its own seed; observations [L, ...] of all lanes."""
        given = []
        for lane, seed in zip(lanes, seeds, strict=True):
            with _named(lane, "reset", f"seed {seed}"):
                given.append(self._envs[lane].reset(seed=int(seed))[0])
        if given:
            self._obs = spaces.scatter(self._obs, list(lanes), self._rows(given, lanes))
        return self._obs

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        actions = self._actions(action)
        lanes = len(self._envs)
        reward, given = np.empty(lanes), []
        terminated, truncated = np.empty(lanes, bool), np.empty(lanes, bool)
        measures = {name: np.empty(lanes) for name in self._names}
        lane = 0
        try:
            for lane, env in enumerate(self._envs):
                obs, r, ended, cut, info = env.step(actions[lane])
                if type(r) is not float:
                    spaces.check_reward(r, lane)
                given.append(obs)
                reward[lane] = r
                terminated[lane] = ended
                truncated[lane] = cut and not ended
                for name in self._names:
                    measures[name][lane] = spaces.number(info.get(name))
        except EnvironmentFault:
            raise
        except Exception as error:
            raise _fault(lane, "step", f"action {actions[lane]}", error) from error
        self._obs = self._rows(given)
        return HostStep(self._obs, reward, terminated, truncated, measures)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _box_rows(self, given: list[np.ndarray], lanes: Sequence[int] | None = None) -> np.ndarray:
        """Observations of a Box as rows of a fresh array, checked where they are not just as declared."""
        box, space = self.spec.obs, self._space
        rows = np.empty((len(given), *box.shape), box.dtype)
        for i, obs in enumerate(given):
            if type(obs) is not np.ndarray or obs.shape != space.shape or obs.dtype != space.dtype:
                spaces.check(space, obs, lanes[i] if lanes is not None else i)
            rows[i] = obs
        return rows

    def _tree_rows(self, given: list[Any], lanes: Sequence[int] | None = None) -> Tree:
        """Observations of any space as trees of rows."""
        for i, obs in enumerate(given):
            spaces.check(self._space, obs, lanes[i] if lanes is not None else i)
        return spaces.stack([spaces.convert(self._space, obs) for obs in given])


def _fault(lane: int, call: str, what: str, error: BaseException) -> EnvironmentFault:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return EnvironmentFault(f"environment {lane}: {call} with {' '.join(what.split())} raised {text}")


@contextlib.contextmanager
def _named(lane: int, call: str, what: str) -> Iterator[None]:
    """An exception of an environment becomes a fault that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _fault(lane, call, what, error) from error


# ---- in processes of their own


class _Vector(AsyncVectorEnv):
    """Gymnasium's vector, which raises a worker's own exception with its index and says nothing else."""

    deadline = 60.0

    def _check_spaces(self) -> None:
        late = not self._poll_pipe_envs(self.deadline)  # nothing was asked yet: only an ended pipe answers
        if not late:
            raise EOFError
        super()._check_spaces()

    def _raise_if_errors(self, successes: Sequence[bool]) -> None:
        if all(successes):
            return
        try:
            lane, kind, value, trace = self.error_queue.get(timeout=5)
        except queue.Empty:
            lane, kind, value, trace = list(successes).index(False), Exception, "without a word", ""
        if issubclass(kind, UserError):
            raise kind(str(value))
        raise WorkerError(lane, kind.__name__, str(value), trace)


class WorkerError(Exception):
    """What an environment raised in its process: lane, type, message, stack."""

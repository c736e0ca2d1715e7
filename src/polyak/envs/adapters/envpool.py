"""EnvPool's environments on the host: C++ threads that step many at once."""

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import envpool
import numpy as np
from envpool.registration import registry

from polyak.envs import spaces
from polyak.envs.border import Border
from polyak.envs.decisions import Frames, split_frames
from polyak.envs.environment import HostStep
from polyak.errors import EnvironmentFault, UserError, nearest, said_by
from polyak.interface import Spec, Tree

NO_LIMIT = 2**31 - 1
OWN_CLOCKS = (  # whose observations, rewards or ends depend on their limit
    "envpool.gfootball",
    "envpool.highway",
    "envpool.jumanji",
    "envpool.minigrid",
    "envpool.mujoco.playground",
)
RESERVED = (
    "num_envs",
    "batch_size",
    "max_num_players",
    "seed",
    "env_seed",
    "gym_reset_return_info",
    "base_path",
)


class EnvPoolEnvs:
    """L environments of one pool, which is made by the first reset, and again by the first after `close`.

    EnvPool resets an environment by itself at the step after its end, and that row is none of ours: whoever
    steps an ended lane without a reset gets EnvironmentFault. It also calls an end at the time limit
    truncated even if the world ended there, so the pool's own limit is one step later than ours and we count.

    Seeds cannot be set for an episode. The pool is seeded by the first reset's seeds, one for each
    lane (a lane that it leaves out begins too, by a seed derived from the first); from
    then on an episode depends on all that its lane did before, and later seeds are not used.
    """

    exact_reset = False
    masked = False

    def __init__(
        self,
        name: str,
        lanes: int,
        fields: Mapping[str, Any],
        spec: Spec,
        frames: Frames,
        limit: int | None,  # of an episode's frames
    ):
        self.spec, self.frames = spec, frames
        self._name, self._fields, self._limit = name, fields, limit
        self._idle = np.zeros(lanes, np.int64)  # decisions in a row that have earned nothing
        self._pool: Any = None
        self._elapsed = np.zeros(lanes, np.int64)
        self._ended = np.zeros(lanes, bool)
        self._obs = spaces.zeros(spec.obs, lanes)

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes; observations [L, ...] of all lanes. Only the first seeds count."""
        which = np.asarray(lanes, np.int32)
        if not which.size:
            return self._obs
        if self._pool is None:
            self._pool = self._seeded(which, seeds)
            which = np.arange(self.spec.num_envs, dtype=np.int32)
        obs, info = self._pool.reset(which)
        self._elapsed[which] = 0
        self._idle[which] = 0
        self._ended[which] = False
        self._see(spaces.convert(self._pool.observation_space, obs), info["env_id"], begun=True)
        return self._obs

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        if self._pool is None or self._ended.any():
            lane = int(self._ended.argmax())
            raise EnvironmentFault(f"{self._name} was stepped without a reset", lane=lane)
        given = self._frame(self._actions(action), np.arange(self.spec.num_envs))
        for _ in range(1, self.frames.action_repeat):
            lanes = np.flatnonzero(~(given.terminated | given.truncated))
            if not lanes.size:
                break
            given = joined(given, self._frame(self._actions(action[lanes]), lanes), lanes)
        self._idle, cut = self.frames.cut(self._idle, given.reward)
        truncated = given.truncated | (cut & ~given.terminated)
        self._ended = given.terminated | truncated
        self._see(given.obs, np.arange(self.spec.num_envs))
        return given._replace(obs=self._obs, truncated=truncated)

    def _frame(self, action: np.ndarray, lanes: np.ndarray) -> HostStep:
        """One frame of these lanes."""
        some = {} if lanes.size == self.spec.num_envs else {"env_id": lanes.astype(np.int32)}
        obs, reward, terminated, truncated, info = self._pool.step(action, **some)
        if not np.array_equal(info["env_id"], lanes):
            raise EnvironmentFault(f"{self._name}: rows came in the order {info['env_id']}")
        self._elapsed[lanes] += 1
        if self._limit is not None:
            truncated = truncated | (self._elapsed[lanes] >= self._limit)
        measures = {name: self._measure(info, name, lanes.size) for name in self.spec.measures}
        obs = spaces.convert(self._pool.observation_space, obs)
        return HostStep(obs, reward.astype(np.float64), terminated, truncated & ~terminated, measures)

    def _see(self, obs: Tree, lanes: np.ndarray, begun: bool = False) -> None:
        """Take these observations of these lanes as what is seen, made into pictures where that is asked for."""
        if self.frames.of_pictures:
            before = None if begun else self._obs[lanes]
            obs = self.frames.stacked(self.frames.picture(obs), before)
        self._obs = obs if lanes.size == self.spec.num_envs else spaces.scatter(self._obs, lanes, obs)

    def close(self) -> None:
        """End the pool's threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _seeded(self, lanes: np.ndarray, seeds: Sequence[int]) -> Any:
        """A pool in which these lanes have these seeds."""
        count = self.spec.num_envs
        own = np.random.default_rng(int(seeds[0])).integers(NO_LIMIT, size=count)
        own[lanes] = [int(seed) % NO_LIMIT for seed in seeds]
        fields = {**self._fields, **_later(self._name, self._limit)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pool = envpool.make_gymnasium(self._name, num_envs=count, env_seed=own.tolist(), **fields)
            self._actions = spaces.Actions(pool.action_space)
            _ = pool.observation_space
        return pool

    def _measure(self, info: dict[str, Any], name: str, lanes: int) -> np.ndarray:
        """[L] float64 of what so many environments said in this step."""
        value = np.asarray(info.get(name, np.nan))
        one_each = value.shape == (lanes,) and value.dtype.kind in "fiub"
        return value.astype(np.float64) if one_each else np.full(lanes, np.nan)


@dataclass(frozen=True)
class EnvPoolFactory:
    """Makes pools of one of EnvPool's tasks.

    fields    settings of the task, as EnvPool names them, and of its `Frames`
    measures  names in `info`, each with how an episode is summed up
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    measures: Any = ()

    kind = "host"

    @functools.cached_property
    def spec(self) -> Spec:
        """Of one environment; no pool is made for it."""
        config = self._envpool_spec.config
        if config.max_num_players > 1:
            raise UserError(f"environment envpool:{self.name} has {config.max_num_players} players, not one")
        try:
            border = self.border
            return Spec(
                spaces.from_gymnasium(border.observation),
                spaces.action_from_gymnasium(border.action),
                self._split[1].decisions(self._frame_limit),
                measures=spaces.as_measures(self.measures),
            )
        except UserError as error:
            raise UserError(f"environment envpool:{self.name}: {error}") from None

    @functools.cached_property
    def border(self) -> Border:
        """The task's own spaces, but for pictures that are changed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = self._envpool_spec
            observation = self._split[1].space(task.gymnasium_observation_space)
            return Border(observation, task.gymnasium_action_space)

    def make(self, lanes: int, asynchronous: bool = False, deadline: float = 60.0) -> EnvPoolEnvs:
        """A pool of L; its threads are its own, so `asynchronous` and `deadline` change nothing."""
        spec = self.spec
        return EnvPoolEnvs(
            self.name,
            lanes,
            self._checked_fields,
            Spec(spec.obs, spec.action, spec.time_limit, lanes, measures=spec.measures),
            self._split[1],
            self._frame_limit,
        )

    def make_one(self, render_mode: str | None = None) -> NoReturn:
        """UserError: EnvPool shows nothing to people."""
        raise UserError(
            f"environment envpool:{self.name} cannot be watched; watch the Gymnasium task of its name: "
            f"polyak watch RUN --on {self.name}"
        )

    @functools.cached_property
    def _split(self) -> tuple[dict[str, Any], Frames]:
        """The task's own fields, and what is said of frames."""
        own = envpool.make_spec(self.name).config._fields
        return split_frames(f"envpool:{self.name}", self.fields, own)

    @property
    def _frame_limit(self) -> int | None:
        """Frames of an episode."""
        limit = self._envpool_spec.config.max_episode_steps
        return limit if 0 < limit < NO_LIMIT else None

    @functools.cached_property
    def _checked_fields(self) -> dict[str, Any]:
        """The task's own fields, a bool by its words; UserError for what the task does not have."""
        defaults = envpool.make_spec(self.name).config
        valid = [name for name in defaults._fields if name not in RESERVED]
        fields, _ = self._split
        for name in fields:
            if name not in valid:
                hint = nearest(name, valid)
                raise UserError(f"environment envpool:{self.name} has no field {name!r}; {hint}")
        given = fields.items()
        try:
            spaces.check_limit(fields.get("max_episode_steps"))
        except UserError as error:
            raise UserError(f"environment envpool:{self.name}: {error}") from None
        return {n: spaces.like_bool(f"envpool:{self.name}: {n}", getattr(defaults, n), v) for n, v in given}

    @functools.cached_property
    def _envpool_spec(self) -> Any:
        """EnvPool's description of the task with these fields."""
        names = envpool.list_all_envs()
        if self.name not in names:
            raise UserError(f"there is no environment 'envpool:{self.name}'; {nearest(self.name, names)}")
        try:
            return envpool.make_spec(self.name, **self._checked_fields)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"environment envpool:{self.name} cannot be made: {said_by(error)}") from error


def joined(before: HostStep, after: HostStep, lanes: np.ndarray) -> HostStep:
    """Two frames of one decision, of which only these lanes had the second."""
    over = {"obs": spaces.scatter(before.obs, lanes, after.obs), "reward": before.reward.copy()}
    over["reward"][lanes] += after.reward
    for name in ("terminated", "truncated"):
        over[name] = spaces.scatter(getattr(before, name), lanes, getattr(after, name))
    measures = {
        name: spaces.scatter(value, lanes, after.measures[name]) for name, value in before.measures.items()
    }
    return HostStep(**over, measures=measures)


def _later(name: str, time_limit: int | None) -> dict[str, int]:
    """The pool's own limit, one step later than ours where nothing else depends on it."""
    module = registry.specs[name][0]
    if time_limit is None or module in OWN_CLOCKS:
        return {}
    return {"max_episode_steps": time_limit + 1}

"""The running episodes of environments on the host: counted, checked, and brought back after a stop.

An environment cannot be saved. What can be saved is the seed and the actions of its running episode, and a CRC of
all that it gave: playing the actions again brings it back, and the CRC tells whether it really did.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from polyak.drivers.measures import gather
from polyak.envs.environment import HostEnvs, HostStep, to_bounds
from polyak.interface import Discrete, Spec, Tree

TOGETHER = 32  # steps that are added up at once


class Lanes:
    """L = S x N environments; lane s N + n is environment n of seed s."""

    def __init__(self, envs: HostEnvs, spec: Spec, seeds: Sequence[int]):
        self.envs, self.spec, self.seeds = envs, spec, tuple(seeds)
        count = len(self.seeds) * spec.num_envs
        self.obs: Tree = None  # [L, ...]
        self.episode = np.zeros(count, np.int64)  # its number
        self.clock = 0  # steps that were played
        self.begun = np.zeros(count, np.int64)  # the clock when the running episode began
        self.total = np.zeros(count)  # reward so far, but for the steps in `recent`
        self.measures = {name: np.zeros(count) for name in spec.measures}
        self.check = np.zeros((count, len(jax.tree.leaves(spec.obs)) + 2), np.uint32)  # CRCs, likewise
        self.recent: list[HostStep] = []  # steps that are not yet in `total` and `check`
        self.actions: list[np.ndarray] = []  # the last steps' [L, ...]; an episode is its last `length`
        self.sums = {name: np.zeros(len(self.seeds)) for name in self.reported}  # of ended episodes, by seed

    @property
    def count(self) -> int:
        """L."""
        return len(self.episode)

    @property
    def length(self) -> np.ndarray:
        """[L] steps of the running episodes so far."""
        return self.clock - self.begun

    @property
    def reported(self) -> list[str]:
        """What is summed over the episodes that ended."""
        return ["episodes", "episode/return", "episode/length", *(f"episode/{m}" for m in self.measures)]

    # ---- playing

    def begin(self) -> None:
        """The first episode of every lane."""
        self._reset(np.arange(self.count))

    def step(self, action: np.ndarray) -> HostStep:
        """One step of every lane with actions [L, ...] as an algorithm gives them."""
        stepped = self.envs.step(to_bounds(self.spec.action, action))
        self.obs = stepped.obs
        self.clock += 1
        self.actions.append(action)
        self.recent.append(stepped)
        if len(self.recent) == TOGETHER:
            self._add_up()
        if self.measures:
            self.measures = gather(self.spec, self.measures, stepped.measures, self.length, np)
        return stepped

    def renew(self, ended: np.ndarray) -> None:
        """Report the episodes that ended in these lanes and begin the next."""
        self._add_up()
        seed = ended // self.spec.num_envs
        values = {"episodes": 1.0, "episode/return": self.total[ended], "episode/length": self.length[ended]}
        values |= {f"episode/{name}": value[ended] for name, value in self.measures.items()}
        for name, value in values.items():
            np.add.at(self.sums[name], seed, value)
        self.restart(ended)
        keep = int(self.length.max())
        if len(self.actions) > 2 * keep + 64:
            self.actions = self.actions[len(self.actions) - keep :]

    def _add_up(self) -> None:
        """Bring `total` and `check` up to date; how many steps are added up at once changes no bit."""
        if not self.recent:
            return
        reward = np.array([step.reward for step in self.recent])
        self.total = np.cumsum(np.concatenate([self.total[None], reward]), axis=0)[-1]
        given = GivenSteps.of(self.recent)
        for lane in range(self.count):
            self.check[lane] = given.checksums(lane, self.check[lane])
        self.recent = []

    def restart(self, which: np.ndarray) -> None:
        """Begin the next episode in these lanes."""
        self.episode[which] += 1
        self._reset(which)

    def report(self) -> dict[str, np.ndarray]:
        """The sums [S] since the last report."""
        sums, self.sums = self.sums, {name: np.zeros_like(value) for name, value in self.sums.items()}
        return sums

    def _reset(self, which: np.ndarray) -> None:
        self._add_up()
        self.begun[which] = self.clock
        self.total[which] = 0.0
        for value in self.measures.values():
            value[which] = 0.0
        self.obs = self.envs.reset(which.tolist(), self._episode_seeds(which))
        for lane in which:
            self.check[lane] = first_checksums(self.obs, lane)

    def _episode_seeds(self, lanes: Iterable[int]) -> list[int]:
        """The seed of each lane's episode, a function of (run, environment, episode)."""
        num_envs = self.spec.num_envs
        return [
            episode_seed(self.seeds[lane // num_envs], lane % num_envs, int(self.episode[lane]))
            for lane in lanes
        ]

    # ---- kept and brought back

    def pack(self) -> dict[str, Any]:
        """What a checkpoint holds of the lanes."""
        self._add_up()
        return {
            "obs": self.obs,
            "episode": self.episode,
            "length": self.length,
            "total": self.total,
            "measures": self.measures,
            "check": self.check,
            "actions": np.concatenate([self._running(lane) for lane in range(self.count)]),
            "sums": self.sums,
        }

    def template(self, steps: int) -> dict[str, Any]:
        """Arrays in the shapes of `pack`'s, for running episodes of so many steps together."""
        packed = Lanes(self.envs, self.spec, self.seeds).pack()
        packed["obs"] = jax.tree.map(lambda s: np.empty((self.count, *s.shape), s.dtype), self.spec.obs)
        packed["actions"] = self._no_actions(steps)
        return packed

    def unpack(self, saved: dict[str, Any]) -> list[int]:
        """Become what was packed; the lanes whose environment did not give the same again."""
        self.obs = saved["obs"]
        self.begun = self.clock - np.asarray(saved["length"])
        for name in ("episode", "total", "check"):
            setattr(self, name, np.array(saved[name]))
        for name in ("measures", "sums"):
            setattr(self, name, {key: np.array(value) for key, value in saved[name].items()})
        return self._replay(np.asarray(saved["actions"]))

    def _replay(self, actions: np.ndarray) -> list[int]:
        """Play the running episodes again, and compare what they give with what they gave.

        Every lane steps all the time, since processes cannot be stepped one by one: a lane's own episode begins
        when as many steps are left as it has, and what it does before does not matter.
        """
        length = self.length
        starts = np.concatenate([[0], np.cumsum(length)])
        seeds = self._episode_seeds(range(self.count))
        check = np.zeros_like(self.check)
        obs = self.envs.reset(range(self.count), seeds)
        for left in range(int(length.max()), -1, -1):
            beginning = np.flatnonzero(length == left)
            if len(beginning):
                obs = self.envs.reset(beginning.tolist(), [seeds[lane] for lane in beginning])
                check[beginning] = [first_checksums(obs, lane) for lane in beginning]
            if left == 0:
                break
            running = length >= left
            index = np.where(running, starts[1:] - left, 0)
            stepped = self.envs.step(to_bounds(self.spec.action, actions[index]))
            self.actions.append(actions[index])
            obs = stepped.obs
            given = GivenSteps.of([stepped])
            for lane in np.flatnonzero(running):
                check[lane] = given.checksums(lane, check[lane])
            idle = np.flatnonzero((stepped.terminated | stepped.truncated) & ~running)
            if len(idle):
                obs = self.envs.reset(idle.tolist(), [seeds[lane] for lane in idle])
        self.obs = obs
        return np.flatnonzero((check != self.check).any(axis=1)).tolist()

    def _running(self, lane: int) -> np.ndarray:
        """The actions of a lane's running episode [length, ...]."""
        steps = self.actions[len(self.actions) - int(self.length[lane]) :]
        return np.stack([step[lane] for step in steps]) if steps else self._no_actions(0)

    def _no_actions(self, count: int) -> np.ndarray:
        dtype = np.int32 if isinstance(self.spec.action, Discrete) else np.float32  # as algorithms give them
        return np.zeros((count, *self.spec.action.shape), dtype)


def episode_seed(run: int, env: int, episode: int) -> int:
    """An environment's seed: a function of (run, environment, episode) below 2^31."""
    return int(np.random.SeedSequence([run, env, episode]).generate_state(1)[0]) >> 1


def first_checksums(obs: Tree, lane: Any) -> list[int]:
    """Where the CRCs of a lane begin: its first observation, no reward, no end."""
    return [zlib.crc32(np.ascontiguousarray(leaf[lane]).data) for leaf in jax.tree.leaves(obs)] + [0, 0]


class GivenSteps(NamedTuple):
    """What all lanes gave in K steps, in streams that are checked one by one: [K, L, ...] each."""

    streams: list[np.ndarray]

    @classmethod
    def of(cls, steps: list[HostStep]) -> "GivenSteps":
        """Each leaf of the observations; the rewards; the ends of both kinds."""
        leaves = zip(*(jax.tree.leaves(step.obs) for step in steps), strict=True)
        ends = np.array([(step.terminated, step.truncated) for step in steps])  # [K, 2, L]
        return cls(
            [*map(np.stack, leaves), np.array([step.reward for step in steps]), np.moveaxis(ends, 1, 2)]
        )

    def checksums(self, lane: Any, before: np.ndarray) -> list[int]:
        """One lane's CRC-32 of each stream, which does not depend on how the steps are cut into K."""
        return [
            zlib.crc32(np.ascontiguousarray(stream[:, lane]).data, int(crc))
            for stream, crc in zip(self.streams, before, strict=True)
        ]

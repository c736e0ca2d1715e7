"""The running episodes of environments on the host: counted, checked, and brought back after a stop.

An environment cannot be saved. What can be saved is the seed and the actions of its running episode, and a CRC of
all that it gave: playing the actions again brings it back, and the CRC tells whether it really did.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from polyak.drivers.measures import gather
from polyak.envs.environment import HostEnvs, HostStep, to_bounds
from polyak.interface import Discrete, Spec, Tree


class Lanes:
    """L = S x N environments; lane s N + n is environment n of seed s."""

    def __init__(self, envs: HostEnvs, spec: Spec, seeds: Sequence[int]):
        self.envs, self.spec, self.seeds = envs, spec, tuple(seeds)
        count = len(self.seeds) * spec.num_envs
        self.obs: Tree = None  # [L, ...]
        self.episode = np.zeros(count, np.int64)  # its number
        self.length = np.zeros(count, np.int64)  # steps so far
        self.total = np.zeros(count)  # reward so far
        self.measures = {name: np.zeros(count) for name in spec.measures}
        self.check = np.zeros(count, np.uint32)  # CRC of all that the running episode gave
        self.actions: list[np.ndarray] = []  # the last steps' [L, ...]; an episode is its last `length`
        self.sums = {name: np.zeros(len(self.seeds)) for name in self.reported}  # of ended episodes, by seed

    @property
    def count(self) -> int:
        """L."""
        return len(self.length)

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
        self.length += 1
        self.total += stepped.reward
        self.actions.append(action)
        if self.measures:
            self.measures = gather(self.spec, self.measures, stepped.measures, self.length, np)
        for lane in range(self.count):
            self.check[lane] = checksum(stepped, lane, self.check[lane])
        return stepped

    def renew(self, ended: np.ndarray) -> None:
        """Report the episodes that ended in these lanes and begin the next."""
        seed = ended // self.spec.num_envs
        values = {"episodes": 1.0, "episode/return": self.total[ended], "episode/length": self.length[ended]}
        values |= {f"episode/{name}": value[ended] for name, value in self.measures.items()}
        for name, value in values.items():
            np.add.at(self.sums[name], seed, value)
        self.restart(ended)
        keep = int(self.length.max())
        if len(self.actions) > 2 * keep + 64:
            self.actions = self.actions[len(self.actions) - keep :]

    def restart(self, which: np.ndarray) -> None:
        """Begin the next episode in these lanes."""
        self.episode[which] += 1
        self._reset(which)

    def report(self) -> dict[str, np.ndarray]:
        """The sums [S] since the last report."""
        sums, self.sums = self.sums, {name: np.zeros_like(value) for name, value in self.sums.items()}
        return sums

    def _reset(self, which: np.ndarray) -> None:
        self.length[which] = 0
        self.total[which] = 0.0
        for value in self.measures.values():
            value[which] = 0.0
        self.obs = self.envs.reset(which.tolist(), self._episode_seeds(which))
        for lane in which:
            self.check[lane] = checksum(self.obs, lane)

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
        for name in ("episode", "length", "total", "check"):
            setattr(self, name, np.array(saved[name]))
        for name in ("measures", "sums"):
            setattr(self, name, {key: np.array(value) for key, value in saved[name].items()})
        return self._replay(np.asarray(saved["actions"]))

    def _replay(self, actions: np.ndarray) -> list[int]:
        """Play the running episodes again, and compare what they give with what they gave.

        Every lane steps all the time, since processes cannot be stepped one by one: a lane's own episode begins
        when as many steps are left as it has, and what it does before does not matter.
        """
        starts = np.concatenate([[0], np.cumsum(self.length)])
        seeds = self._episode_seeds(range(self.count))
        check = np.zeros(self.count, np.uint32)
        obs = self.envs.reset(range(self.count), seeds)
        for left in range(int(self.length.max()), -1, -1):
            beginning = np.flatnonzero(self.length == left)
            if len(beginning):
                obs = self.envs.reset(beginning.tolist(), [seeds[lane] for lane in beginning])
                check[beginning] = [checksum(obs, lane) for lane in beginning]
            if left == 0:
                break
            running = self.length >= left
            index = np.where(running, starts[1:] - left, 0)
            stepped = self.envs.step(to_bounds(self.spec.action, actions[index]))
            self.actions.append(actions[index])
            obs = stepped.obs
            for lane in np.flatnonzero(running):
                check[lane] = checksum(stepped, lane, check[lane])
            idle = np.flatnonzero((stepped.terminated | stepped.truncated) & ~running)
            if len(idle):
                obs = self.envs.reset(idle.tolist(), [seeds[lane] for lane in idle])
        self.obs = obs
        return np.flatnonzero(check != self.check).tolist()

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


def checksum(given: Tree, lane: Any, before: Any = 0) -> int:
    """CRC-32 of what one lane gave (observations; and rewards and flags of a HostStep), after `before`."""
    if isinstance(given, HostStep):
        for part in (given.reward, given.terminated, given.truncated):
            before = zlib.crc32(part[lane : lane + 1].data, int(before))
        given = given.obs
    for leaf in (given,) if isinstance(given, np.ndarray) else jax.tree.leaves(given):
        before = zlib.crc32(np.ascontiguousarray(leaf[lane]).data, int(before))
    return before

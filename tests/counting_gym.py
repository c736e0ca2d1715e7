"""The counting environment for Gymnasium, and one whose seed does not determine it."""

import random

import gymnasium
import numpy as np

from polyak.envs.worlds.counting import IDENTITIES


class CountingGym(gymnasium.Env):
    """Count to a random length: `polyak.envs.worlds.counting.Counting`, drawn from `reset(seed)`.

    obs [3]: two random integers that name the episode, t; reward: t + 1; info["length"]: steps so far
    """

    def __init__(self, max_length: int = 20, continuous: bool = False):
        self.max_length = max_length
        high = np.array([IDENTITIES - 1, IDENTITIES - 1, max_length], np.float32)
        self.observation_space = gymnasium.spaces.Box(np.zeros(3, np.float32), high, dtype=np.float32)
        if continuous:
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        else:
            self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.identity = (self._below(IDENTITIES), self._below(IDENTITIES))
        self.length = 1 + self._below(self.max_length)
        self.terminates = self._below(2) == 1
        self.t = 0
        return self._observe(), {}

    def step(self, action: object) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        ended = self.t >= self.length
        terminated, truncated = ended and self.terminates, ended and not self.terminates
        return self._observe(), float(self.t), terminated, truncated, {"length": self.t}

    def _below(self, n: int) -> int:
        """A random integer in 0 .. n-1."""
        return int(self.np_random.integers(n))

    def _observe(self) -> np.ndarray:
        return np.array([*self.identity, self.t], np.float32)


class ForgetfulGym(CountingGym):
    """The same, drawn from Python's global `random`: no seed brings an episode back."""

    def _below(self, n: int) -> int:
        return random.randrange(n)

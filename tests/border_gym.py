"""Gymnasium environments whose spaces begin, end and nest where others' do not."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Shifted(gymnasium.Env):
    """Say the number that you see: observations from 5 on, actions from -1 on, and noise beside them."""

    def __init__(self, flag: bool = False):
        self.flag = flag
        self.observation_space = spaces.Dict(
            [
                ("seen", spaces.Discrete(4, start=5)),
                ("columns", spaces.MultiDiscrete([2, 3], start=[3, -2])),
                ("bits", spaces.MultiBinary(3)),
                ("inner", spaces.Tuple([spaces.Box(-2.0, 2.0, (2, 1), np.float64), spaces.Discrete(2)])),
            ]
        )
        self.action_space = spaces.Discrete(3, start=-1)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.t += 1
        return self._observe(), float(10.0**action), self.t == 8, False, {}

    def _observe(self) -> Any:
        return {
            "inner": (self.np_random.uniform(-2, 2, (2, 1)), np.int64(self.np_random.integers(2))),
            "bits": self.np_random.integers(0, 2, 3, np.int8),
            "columns": np.array([3, -2]) + self.np_random.integers(0, [2, 3]),
            "seen": np.int64(5 + self.np_random.integers(4)),
        }


class OddBounds(gymnasium.Env):
    """Four forces in a column: two bounds of its own, one bound, none, and one that is not in float32."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        low, high = [[-1.0], [0.0], [-1.7e308], [0.1]], [[3.0], [np.inf], [1.7e308], [0.7]]
        self.action_space = spaces.Box(np.array(low), np.array(high), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.t += 1
        return self.np_random.normal(size=3).astype(np.float32), float(action.sum()), self.t == 8, False, {}


class Many(gymnasium.Env):
    """Environments that say a number of another type each."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, said: Any = 0):
        self.said = said

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {"said": self.said}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return np.zeros(1, np.float32), 0.0, False, False, {"said": self.said}

"""Environments with the mistakes that people make; each class is one of them. `Right` has none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Right(gymnasium.Env):
    """A walk in two dimensions."""

    def __init__(self, size: float = 1.0, reward: str = "dense", render_mode: str | None = None):
        self.observation_space: Any = spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space: Any = spaces.Discrete(2)
        self.size, self.render_mode, self.t = size, render_mode, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observe(), 1.0, self.t == 5, False, {}

    def observe(self) -> Any:
        return np.full(2, self.t / 5, np.float32)


class OldReset(Right):
    def reset(self, **given: Any) -> Any:
        return super().reset(**given)[0]


class OldStep(Right):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class SeedlessReset(Right):
    def reset(self) -> Any:
        return super().reset()


class NoSpaces(gymnasium.Env):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return np.zeros(2, np.float32), {}


class NoActions(Right):
    def __init__(self):
        super().__init__()
        del self.action_space


class OtherShape(Right):
    def observe(self) -> Any:
        return np.zeros(3, np.float32)


class ListObs(Right):
    def observe(self) -> Any:
        return [0.0, {"goal": 1.0}]


class NoObs(Right):
    def observe(self) -> Any:
        return None


class NanObs(Right):
    def observe(self) -> Any:
        return np.full(2, np.nan if self.t == 3 else 0.0, np.float32)


class NoReward(Right):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, None, *rest


class RewardArray(Right):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, np.ones(2), *rest


class NanReward(Right):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, float("nan") if self.t == 3 else 0.0, *rest


class NoEnd(Right):
    def step(self, action: Any) -> Any:
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, None, truncated, info


class NothingBack(Right):
    def step(self, action: Any) -> Any:
        super().step(action)


class Raises(Right):
    def step(self, action: Any) -> Any:
        return self.table[self.t]  # pyright: ignore[reportAttributeAccessIssue]


class RaisesAtOnce(Right):
    def __init__(self, path: str = "robot.xml"):
        super().__init__()
        self.model = Path(path).read_text()


class TextSpace(Right):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Text(8)


class GraphSpace(Right):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Graph(spaces.Box(-1, 1, (2,)), None)


class UpsideDown(Right):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32))
        self.action_space.low, self.action_space.high = self.action_space.high, self.action_space.low


class ClassSpace(Right):
    """The space's class where one of it is wanted."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete


class OtherGymSpace(Right):
    """A space of another library, as of the old gym."""

    def __init__(self):
        super().__init__()
        self.observation_space = SimpleNamespace(low=-1, high=1, shape=(2,), dtype=np.float32)


class NotAnEnv:
    """It has no reset and no step."""


def several() -> Any:
    """A vector of environments, which polyak makes itself."""
    return gymnasium.vector.SyncVectorEnv([Right, Right])


def nothing() -> None:
    """A function that forgot to return what it made."""
    Right()

"""Environments and algorithms of somebody's own, whose settings a command line gives; used by test_own_settings.py."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from polyak.algorithms import ppo

if TYPE_CHECKING:
    from nowhere import Thing  # pyright: ignore[reportMissingImports]

MADE: list[dict] = []  # what constructors were given


class Typed(gymnasium.Env):
    """A constructor with an annotation of each kind, and without."""

    def __init__(
        self,
        size: int = 3,
        gain: float = 1.0,
        wind: bool = False,
        word: str = "a",
        kind: Literal["a", "b"] = "a",
        gains: tuple[float, ...] = (1.0,),
        limit: int | None = None,
        loose=4,
        broken: int = 0.5,  # pyright: ignore[reportArgumentType]
    ):
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        MADE.append(given)
        self.observation_space: Any = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 1.0, True, False, {}


class Inherits(Typed):
    """It hands the rest on."""

    def __init__(self, extra: int = 1, **more: Any):
        super().__init__(**more)


class HalfKnown(Typed):
    """One annotation is for a type checker only."""

    def __init__(self, thing: "Thing" = None, size: "int" = 3):
        super().__init__(size=size)


@dataclass
class Fields(Typed):
    """A dataclass."""

    size: int = 3
    gain: float = 1.0
    wind: bool = False

    def __post_init__(self):
        super().__init__(self.size, self.gain, self.wind)


def made(size: int = 3, **more: Any) -> Typed:
    """A function."""
    return Typed(size, **more)


Base: Any = ppo.algorithm.Config


@dataclass(frozen=True)
class Settings(Base):
    """Settings of one's own beside those of PPO."""

    width: int = 3
    speed: float = 1.0
    on: bool = False
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Lists(Base):
    """Annotations that no file can serve."""

    knots: list[float] = field(default_factory=list)
    extra: Any = None


@dataclass(frozen=True)
class Unresolved(Base):
    """An annotation that cannot be resolved."""

    thing: "Thing" = None


@dataclass(frozen=True)
class NoData:
    """No data."""

    lr: float = 1.0


@dataclass
class Thawed:
    """Not frozen."""

    lr: float = 1.0


@dataclass(frozen=True)
class Raises(Base):
    """It cannot be made."""

    def __post_init__(self):
        raise RuntimeError("no robot")


own, lists, unresolved, no_data, thawed, raises = (
    ppo.algorithm._replace(Config=config) for config in (Settings, Lists, Unresolved, NoData, Thawed, Raises)
)

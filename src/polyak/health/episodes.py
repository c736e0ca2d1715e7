"""Episodes that were played to see what an environment does: scripts of actions, and what came of them."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from polyak.envs.spaces import bounds, kind_of
from polyak.health.finding import Finding
from polyak.health.points import Points

SHORT = 100  # steps of a short script at most
LONGEST = 1000  # of one episode of random play
PATIENCE = 0.15  # seconds that a short script should take
MOST_HELD = 2_000_000  # numbers of observations that are held before they are looked at


class Script(NamedTuple):
    """The seed of an episode, and its actions [T, ...] in the environment's own terms."""

    seed: int
    actions: Any


@dataclass
class Episode:
    """What came of a script.

    obs     [T + 1, P] of the observations, as `Points.see` gives them; fewer rows where one could not be read
    reward  [T]
    end     "terminated", "truncated", "both", or "" where the script was over first
    raised  whether `reset` or `step` raised
    """

    seed: int
    obs: np.ndarray
    reward: np.ndarray
    end: str = ""
    raised: bool = False

    @property
    def length(self) -> int:
        """Steps."""
        return len(self.reward)


class World(Protocol):
    """An environment that can be played by scripts.

    length   steps of a short script
    players  1, or 2 of a game
    """

    points: Points
    actions: Any  # its action space, one of Gymnasium's
    time_limit: int | None
    length: int
    players: int
    seconds: float  # that its own code took
    steps: int  # in that time

    @property
    def findings(self) -> list[Finding]:
        """Everything that is wrong with what it returned so far."""
        ...

    def explore(self, steps: int, seconds: float, seed: int) -> list[Episode]:
        """Random play, for so many steps or seconds."""
        ...

    def run(self, scripts: list[Script]) -> list[Episode]:
        """Play scripts."""
        ...


def random_actions(space: Any, count: int, rng: np.random.Generator) -> Any:
    """Actions [T, ...], uniform between bounds; normal where there are none."""
    if kind_of(space) == "Discrete":
        return rng.integers(space.start, space.start + space.n, count)
    if kind_of(space) != "Box" or space.dtype.kind != "f":
        space = copy.deepcopy(space)
        space.seed(int(rng.integers(2**31)))
        drawn = [space.sample() for _ in range(count)]
        return np.array(drawn, space.dtype) if kind_of(space) == "Box" else drawn
    low, high = bounds(space.low, space.high)
    both = np.isfinite(low) & np.isfinite(high)
    share, normal = rng.random((count, *space.shape)), rng.standard_normal((count, *space.shape))
    with np.errstate(invalid="ignore"):
        drawn = np.where(both, low + share * (high - low), np.clip(normal, low, high))
    return np.clip(drawn.astype(space.dtype), space.low, space.high)


def stream(space: Any, rng: np.random.Generator) -> Iterator[Any]:
    """Random actions without end."""
    while True:
        yield from random_actions(space, 32, rng)


def random_play(
    world: World,
    steps: int,
    until: float,
    seed: int,
    play: Callable[[int, Iterator[Any]], Episode],
) -> list[Episode]:
    """Episodes of random actions, one after the other, until there were so many steps, or until the time is over.

    play  from an episode's number and actions to what came of it; one that raised is the last
    """
    rng, episodes, left = np.random.default_rng(seed), [], steps
    while left > 0 and time.monotonic() < until and not (episodes and episodes[-1].raised):
        most = min(left, world.time_limit or LONGEST, LONGEST if episodes else left)
        actions = itertools.islice(stream(world.actions, rng), most)
        episodes.append(play(len(episodes), actions))
        left -= max(1, episodes[-1].length)
    return episodes


def short_length(steps: int, seconds: float) -> int:
    """Steps of a short script, where so many took so many seconds."""
    return int(np.clip(PATIENCE * steps / seconds, 3, SHORT))


def difference(one: Episode, other: Episode, points: Points) -> str:
    """The first thing in which two episodes differ, in words; "" where they are the same to the last bit."""
    for step in range(max(len(one.obs), len(other.obs))):
        rows = [each.obs[step] if step < len(each.obs) else None for each in (one, other)]
        if rows[0] is None or rows[1] is None:
            return f"one ended after {one.length} steps and the other after {other.length}"
        unequal = ~((rows[0] == rows[1]) | (np.isnan(rows[0]) & np.isnan(rows[1])))
        if unequal.any():
            number = int(np.flatnonzero(unequal)[0])
            name = points.name(int(points.picked[number]) if number < len(points.picked) else points.size)
            return f"{name} after {step} steps: {rows[0][number]:.7g} and {rows[1][number]:.7g}"
        rewards = [each.reward[step] if step < each.length else None for each in (one, other)]
        if rewards[0] != rewards[1] and not _are_nan(rewards):
            return f"the reward of step {step + 1}: {rewards[0]} and {rewards[1]}"
    return (
        ""
        if one.end == other.end
        else f"one was {one.end or 'going on'} and the other {other.end or 'going on'}"
    )


def _are_nan(rewards: list[Any]) -> bool:
    return all(r is not None and np.isnan(r) for r in rewards)


@dataclass
class Log:
    """An episode while it is played."""

    seed: int
    rows: list[np.ndarray] = field(default_factory=list)  # of observations, until they are seen
    seen: list[np.ndarray] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    end: str = ""
    raised: bool = False

    def keep(self, points: Points, row: np.ndarray) -> None:
        """Note one more observation."""
        self.rows.append(row)
        if len(self.rows) * row.size > MOST_HELD:
            self.put(points)

    def put(self, points: Points) -> None:
        """Let what is noted be seen."""
        if self.rows:
            self.seen.append(points.see(np.stack(self.rows), self.seed, sum(map(len, self.seen))))
            self.rows = []

    def closed(self, points: Points) -> Episode:
        """The episode."""
        self.put(points)
        rows = np.concatenate(self.seen) if self.seen else np.zeros((0, len(points.picked)))
        return Episode(self.seed, rows, np.array(self.reward, np.float64), self.end, self.raised)

"""The points of a Gymnasium space as rows of numbers, and what was seen of them."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from polyak.envs.spaces import bounds, kind_of

MOST = 512  # numbers of a point that statistics are made of; of larger points some are picked at random
SLACK = 1e-4  # by which rounding may leave a bound, relative to 1 + its size


def parts(space: Any, path: str = "observation") -> Iterator[tuple[str, Any]]:
    """The simple spaces in a space, each with its path."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        for name, part in inner.items():
            yield from parts(part, f"{path}[{name!r}]")
    elif isinstance(inner, tuple):
        for number, part in enumerate(inner):
            yield from parts(part, f"{path}[{number}]")
    else:
        yield path, space


def values(space: Any, value: Any) -> Iterator[Any]:
    """The simple values in a point of a space, in the order of `parts`."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        for name, part in inner.items():
            yield from values(part, value[name])
    elif isinstance(inner, tuple):
        for part, each in zip(inner, value, strict=True):
            yield from values(part, each)
    else:
        yield value


class Points:
    """How the points of a space are laid out in a row of D numbers, and all that was seen of them.

    low, high  [D] bounds, infinite where there is none
    real       [D] whether a number is of a Box, and not a code for one of several things
    picked     indices of the numbers that statistics are made of
    """

    def __init__(self, space: Any):
        self.space = space
        self.leaves = list(parts(space))
        self.sizes = [int(np.prod(leaf.shape, dtype=int)) for _, leaf in self.leaves]
        self.size = sum(self.sizes)
        low, high = zip(*map(_bounds, (leaf for _, leaf in self.leaves)), strict=True)
        self.low, self.high = np.concatenate(low), np.concatenate(high)
        real = [
            np.full(n, kind_of(leaf) == "Box") for n, (_, leaf) in zip(self.sizes, self.leaves, strict=True)
        ]
        self.real = np.concatenate(real)
        with np.errstate(invalid="ignore"):
            self.floor = self.low - SLACK * (1 + np.abs(self.low))
            self.ceiling = self.high + SLACK * (1 + np.abs(self.high))
        pick = np.random.default_rng(0).choice(self.size, min(MOST, self.size), replace=False)
        self.picked = np.sort(pick)
        self.count = self.outside = 0
        self.least, self.most = np.full(self.size, np.inf), np.full(self.size, -np.inf)
        self.infinite: tuple[int, int, int, float] | None = (
            None  # seed, step and number of the first; what it is
        )

    def row(self, value: Any) -> np.ndarray | None:
        """A point as a row [D] of float64; None for what cannot be read as one."""
        try:
            found = [np.ravel(np.asarray(each)) for each in values(self.space, value)]
            if [each.size for each in found] != self.sizes:
                return None
            return np.concatenate(found).astype(np.float64)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError):
            return None

    def see(self, rows: np.ndarray, seed: int, first: int) -> np.ndarray:
        """Take note of rows [K, D] of one episode, from its step `first` on; of each the picked numbers [K, P].

        Where not all are picked, a checksum of all follows, so that rows that differ anywhere differ here.
        """
        sound = np.isfinite(rows)
        if self.infinite is None and not sound.all():
            step, number = np.argwhere(~sound)[0]
            self.infinite = seed, first + int(step), int(number), float(rows[step, number])
        with np.errstate(invalid="ignore"):
            beyond = (rows < self.floor) | (rows > self.ceiling)
        self.count += len(rows)
        self.outside += int(beyond.any(axis=1).sum())
        calm = rows if sound.all() else np.where(sound, rows, np.nan)
        self.least = np.fmin(self.least, np.fmin.reduce(calm, axis=0))
        self.most = np.fmax(self.most, np.fmax.reduce(calm, axis=0))
        picked = rows[:, self.picked].astype(np.float64)
        if len(self.picked) == self.size:
            return picked
        sums = [[zlib.crc32(np.ascontiguousarray(row).tobytes())] for row in rows]
        return np.concatenate([picked, np.array(sums, np.float64)], axis=1)

    def rows(self, episodes: Iterable[Any]) -> np.ndarray:
        """The picked numbers [K, P] of all observations of some episodes."""
        return np.concatenate([episode.obs[:, : len(self.picked)] for episode in episodes])

    def name(self, number: int) -> str:
        """What the number at this place of a row is called: observation['camera'][3, 4]."""
        if number == self.size:
            return "a checksum of the observation"
        for (path, leaf), size in zip(self.leaves, self.sizes, strict=True):
            if number < size:
                index = np.unravel_index(number, leaf.shape) if leaf.shape else ()
                return path + (f"[{', '.join(map(str, map(int, index)))}]" if index else "")
            number -= size
        raise IndexError(number)

    def names(self, numbers: Any, most: int = 6) -> str:
        """Names of several numbers, the first few of them."""
        numbers = list(map(int, numbers))
        said = ", ".join(map(self.name, numbers[:most]))
        return said + (f" and {len(numbers) - most} more" if len(numbers) > most else "")

    @property
    def picture(self) -> bool:
        """Whether a point is one picture."""
        return len(self.leaves) == 1 and len(self.leaves[0][1].shape) in (2, 3) and self.size >= 500


def _bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [D] of one simple space."""
    size = int(np.prod(space.shape, dtype=int))
    match kind_of(space):
        case "Box":
            return tuple(np.broadcast_to(each.ravel(), size) for each in bounds(space.low, space.high))  # pyright: ignore
        case "Discrete":
            low, high = space.start, space.start + space.n - 1
        case "MultiDiscrete":
            low, high = np.ravel(space.start), np.ravel(space.start + space.nvec - 1)
        case "MultiBinary":
            low, high = 0, 1
        case _:
            low, high = -np.inf, np.inf
    return np.broadcast_to(np.asarray(low, np.float64), size), np.broadcast_to(
        np.asarray(high, np.float64), size
    )

"""Parameters in shared memory, to which processes add without a lock."""

import contextlib
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import jax
import numpy as np

from polyak.drivers.program import is_shared
from polyak.interface import WORD, Clock, Tree


class Shared:
    """States [S, ...] in shared memory: all that is learned leaf by leaf, and counters.

    shapes   of the states
    workers  K
    rows     environment steps of one update
    name     of the memory, to attach to it; None makes it
    """

    def __init__(self, shapes: Tree, workers: int, rows: int, name: str | None = None):
        leaves, self.structure = jax.tree.flatten(shapes, is_leaf=is_shared)
        self.is_clock = [is_shared(x) for x in leaves]
        self.parts = [x for x in leaves if not is_shared(x)]
        sizes = [int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in self.parts]
        starts = np.cumsum([0, *(-(-size // 8) * 8 for size in sizes)]).tolist()
        self.rows, counters = rows, 8 * (3 + workers)
        total = starts[-1] + counters
        self.block = SharedMemory(name, create=name is None, size=total)
        self.views = [
            np.ndarray(x.shape, x.dtype, self.block.buf, start)
            for x, start in zip(self.parts, starts, strict=False)
        ]
        numbers = np.ndarray(3 + workers, np.int64, self.block.buf, starts[-1])
        self.count = numbers[
            :3
        ]  # updates that have a number; of these before the clock was set back; its updates
        self.played = numbers[3:]  # [K] rollouts of each worker

    def clock(self, number: int) -> Clock:
        """The clock before the update of this number."""
        updates = number + int(self.count[2])
        steps = (number - int(self.count[1])) * self.rows
        return Clock(np.uint32(updates % 2**32), np.int32(steps % WORD), np.int32(steps // WORD))

    def read(self) -> list[np.ndarray]:
        """A copy of all that is learned, which others may be writing to meanwhile."""
        return [view.copy() for view in self.views]

    def tree(self, values: Sequence[Any], number: int) -> Tree:
        """The states of these leaves before the update of this number."""
        rest, clock = iter(values), self.clock(number)
        return self.structure.unflatten([clock if each else next(rest) for each in self.is_clock])

    def own(self, states: Tree) -> list[Any]:
        """The leaves of states that are learned."""
        return [x for x in jax.tree.leaves(states, is_leaf=is_shared) if not is_shared(x)]

    def write(self, states: Tree) -> None:
        """Put states in, while nobody works."""
        for view, x in zip(self.views, self.own(states), strict=True):
            view[...] = np.asarray(x)

    def add(self, before: Sequence[np.ndarray], after: Sequence[Any]) -> None:
        """Add what an update changed; where nobody else wrote since, the result is the update's own bits."""
        for view, old, new in zip(self.views, before, after, strict=True):
            new = np.asarray(new)
            view[...] = np.where(view == old, new, view + (new - old))

    def close(self, forget: bool = False) -> None:
        """Let go of the memory, and give it back if `forget`."""
        if forget:
            self.block.unlink()
        self.views, self.count, self.played = [], np.zeros(3, np.int64), np.zeros(0, np.int64)
        with contextlib.suppress(BufferError):  # somebody still looks at it; it goes with the process
            self.block.close()

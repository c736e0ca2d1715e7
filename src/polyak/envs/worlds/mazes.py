"""Mazes of Sutton & Barto 2018, chapter 8: one that stays as it is, and two that change while one learns.

A maze is drawn as text: `S` start, `G` goal, `#` wall. An observation is the number of a cell, row by row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step, Table
from polyak.interface import Array, Discrete, Spec
from polyak.pytree import pytree, static

Drawing = tuple[str, ...]  # rows of equal length
MOVES = ((-1, 0), (1, 0), (0, 1), (0, -1))  # up, down, right, left

DYNA = (
    "       #G",
    "  #    # ",
    "S #    # ",
    "  #      ",
    "     #   ",
    "         ",
)
RIGHT_OPEN = (
    "        G",
    "         ",
    "         ",
    "######## ",
    "         ",
    "   S     ",
)
LEFT_OPEN = (*RIGHT_OPEN[:3], " ########", *RIGHT_OPEN[4:])
BOTH_OPEN = (*RIGHT_OPEN[:3], " ####### ", *RIGHT_OPEN[4:])


@pytree
class Maze(Environment):
    """Find the way from S to G; a move into a wall or over the edge leaves you where you are.

    state: cell, steps so far; obs: the cell's number
    action: 0 up, 1 down, 2 right, 3 left; reward: 1 for reaching G, else 0
    end: at G; where the maze is `endless`, G leads back to S instead, with the reward all the same
    """

    change: int = 0  # steps after which the maze is `then`; a never-ending episode is the whole experiment
    first: Drawing = static(default=DYNA)
    then: Drawing = static(default=DYNA)
    endless: bool = static(default=False)
    time_limit: int | None = static(default=None)

    @property
    def spec(self) -> Spec:
        """Cells to see, four moves."""
        return Spec(Discrete(len(self.first) * len(self.first[0])), Discrete(4), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[tuple[Array, Array], Array]:
        """At S."""
        start = jnp.int32(place(self.first, "S"))
        return (start, jnp.int32(0)), start

    def step(self, state: tuple[Array, Array], action: Array, key: jax.Array) -> Step:
        """One move."""
        cell, steps = state
        cell = jnp.where(
            (steps >= self.change) & (self.then != self.first),
            jnp.asarray(successors(self.then))[cell, action],
            jnp.asarray(successors(self.first))[cell, action],
        )
        found = cell == place(self.first, "G")
        if self.endless:
            cell = jnp.where(found, place(self.first, "S"), cell)
        over = found & (not self.endless)
        return Step((cell, steps + 1), cell, found.astype(jnp.float32), over, jnp.array(False))

    @property
    def tabular(self) -> bool:
        """Whether it stays as it is: else what a move does depends on the number of steps too."""
        return self.then == self.first

    def table(self) -> Table:
        """Every move from every cell; those that reach G end, or lead back to S."""
        after = successors(self.first)
        found = after == place(self.first, "G")
        transition = np.eye(len(after), dtype=np.float32)[after] * ~found[..., None]
        transition[..., place(self.first, "S")] += found & self.endless
        return Table(transition, found.astype(np.float32))


@pytree
class DynaMaze(Maze):
    """The maze of example 8.1: the shortest way has 14 steps."""


@pytree
class BlockingMaze(Maze):
    """The maze of example 8.2: after 1,000 steps the way of 10 closes on the right, and one of 16 opens on the left.

    One episode is the whole experiment, since only the environment's state can know how long it lasts.
    """

    change: int = 1000
    first: Drawing = static(default=RIGHT_OPEN)
    then: Drawing = static(default=LEFT_OPEN)
    endless: bool = static(default=True)
    time_limit: int | None = static(default=3000)


@pytree
class ShortcutMaze(Maze):
    """The maze of example 8.3: there is a way of 16 steps, and after 3,000 steps one of 10 opens as well.

    One episode is the whole experiment, as in `BlockingMaze`.
    """

    change: int = 3000
    first: Drawing = static(default=LEFT_OPEN)
    then: Drawing = static(default=BOTH_OPEN)
    endless: bool = static(default=True)
    time_limit: int | None = static(default=6000)


def place(drawing: Drawing, mark: str) -> int:
    """Number of the cell with this mark."""
    return "".join(drawing).index(mark)


@functools.cache
def successors(drawing: Drawing) -> np.ndarray:
    """The cell that each move leads to, [cells, 4]."""
    height, width = len(drawing), len(drawing[0])
    found = np.empty((height * width, len(MOVES)), np.int32)
    for cell, move in np.ndindex(found.shape):
        row, column = cell // width + MOVES[move][0], cell % width + MOVES[move][1]
        inside = 0 <= row < height and 0 <= column < width and drawing[row][column] != "#"
        found[cell, move] = row * width + column if inside else cell
    return found


ENVIRONMENTS = {
    "DynaMaze-v0": DynaMaze,
    "BlockingMaze-v0": BlockingMaze,
    "ShortcutMaze-v0": ShortcutMaze,
}

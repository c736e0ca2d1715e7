"""The mazes of Sutton & Barto's chapter 8: their shortest ways by breadth-first search, and when they change."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.envs.find import find
from polyak.envs.worlds import mazes


def shortest(drawing):
    """Steps from S to G, by breadth-first search over the text."""
    width = len(drawing[0])
    cells = {(i // width, i % width): mark for i, mark in enumerate("".join(drawing))}
    start = next(cell for cell, mark in cells.items() if mark == "S")
    steps, queue = {start: 0}, deque([start])
    while queue:
        row, column = queue.popleft()
        if cells[row, column] == "G":
            return steps[row, column]
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if cells.get(near, "#") != "#" and near not in steps:
                steps[near] = steps[row, column] + 1
                queue.append(near)
    return None


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("DynaMaze-v0", (14, 14)), ("BlockingMaze-v0", (10, 16)), ("ShortcutMaze-v0", (16, 10))],
)
def test_shortest_ways_are_those_that_the_docstrings_say(name, lengths):
    env = find(f"jax:{name}")
    assert (shortest(env.first), shortest(env.then)) == lengths


@pytest.mark.parametrize("name", sorted(mazes.ENVIRONMENTS))
def test_a_step_is_the_move_that_the_drawing_allows(name):
    env = find(f"jax:{name}", {"change": 5})
    width = len(env.first[0])
    step = jax.jit(env.step)
    for steps, drawing in ((4, env.first), (5, env.then)):
        text = "".join(drawing)
        for cell in range(len(text)):
            if text[cell] == "#":
                continue
            for action, (up, along) in enumerate([(-1, 0), (1, 0), (0, 1), (0, -1)]):
                row, column = cell // width + up, cell % width + along
                free = 0 <= row < len(drawing) and 0 <= column < width and drawing[row][column] != "#"
                want = row * width + column if free else cell
                found = text[want] == "G"
                seen = step((jnp.int32(cell), jnp.int32(steps)), action, jax.random.key(0))
                assert float(seen.reward) == found
                assert bool(seen.terminated) == (found and not env.endless)
                if found and env.endless:
                    want = text.index("S")
                assert int(seen.obs) == want
                assert (int(seen.state[0]), int(seen.state[1])) == (want, steps + 1)


def test_an_episode_begins_at_s():
    for name in mazes.ENVIRONMENTS:
        env = find(f"jax:{name}")
        state, obs = env.reset(jax.random.key(0))
        assert "".join(env.first)[int(obs)] == "S"
        assert obs.dtype == np.int32
        assert int(state[1]) == 0

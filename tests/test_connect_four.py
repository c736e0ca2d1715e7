"""Connect four in JAX beside the bitboards, and its solver beside plain search and what is known of the game."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.envs.worlds.games import ConnectFour
from polyak.lab import connect_four as lab

STEP = jax.jit(ConnectFour().step)


def drawn(ply, rng):
    """A position after so many uniform moves in which nobody has won."""
    while True:
        position, played = lab.START, []
        while position.ply < ply and not lab.over(position):
            played.append(rng.choice(lab.moves(position)))
            position = lab.after(position, played[-1])
        if position.ply == ply and not lab.over(position):
            return position, played


def cells(position):
    """Marks [6, 7] as the environment keeps them, by reading every bit."""
    mover = 1 if position.ply % 2 == 0 else -1
    board = np.zeros((6, 7), int)
    for row in range(6):
        for column in range(7):
            bit = 1 << 7 * column + row
            if position.mask & bit:
                board[row, column] = mover if position.mine & bit else -mover
    return board


def lines(board, player):
    """Whether a player has four in a row, by going along every line."""
    for row in range(6):
        for column in range(7):
            for up, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                places = [(row + i * up, column + i * right) for i in range(4)]
                if all(0 <= r < 6 and 0 <= c < 7 and board[r, c] == player for r, c in places):
                    return True
    return False


def test_whole_games_are_those_of_the_bitboards_and_of_a_look_along_every_line():
    rng, ends = random.Random(0), {"won": 0, "drawn": 0}
    env = ConnectFour()
    for _ in range(30):
        state, _ = env.reset(jax.random.key(0))
        position, over = lab.START, False
        while not over:
            column = rng.choice(lab.moves(position))
            mover = 1 if position.ply % 2 == 0 else -1
            step = STEP(state, jnp.int32(column), jax.random.key(0))
            position, state, over = lab.after(position, column), step.state, bool(step.terminated)
            board = cells(position)
            np.testing.assert_array_equal(state, board)
            assert lab.won(position) == lines(board, mover) == (float(step.reward) == 1.0)
            assert over == lab.over(position)
            np.testing.assert_array_equal(step.obs["board"][..., 0], board == -mover)
            np.testing.assert_array_equal(step.obs["board"][..., 1], board == mover)
            np.testing.assert_array_equal(
                np.flatnonzero(step.obs["legal"]), [c for c in range(7) if board[5, c] == 0]
            )
        ends["won" if lab.won(position) else "drawn"] += 1
    assert ends["won"] > 10


@pytest.mark.parametrize(
    ("cells", "won"),
    [
        ([(0, 0), (0, 1), (0, 2), (0, 3)], True),
        ([(2, 3), (2, 4), (2, 5), (2, 6)], True),
        ([(2, 6), (3, 6), (4, 6), (5, 6)], True),
        ([(2, 0), (3, 1), (4, 2), (5, 3)], True),
        ([(2, 6), (3, 5), (4, 4), (5, 3)], True),
        ([(0, 3), (1, 2), (2, 1), (3, 0)], True),
        ([(0, 0), (0, 1), (0, 2), (0, 4)], False),
        ([(4, 0), (5, 0), (0, 1), (1, 1)], False),  # over the top of a column into the next
    ],
)
def test_four_in_a_row_is_found_in_every_direction_and_nowhere_else(cells, won):
    from polyak.envs.worlds.games import _four_in_a_row

    marks, bits = np.zeros((6, 7), bool), 0
    for row, column in cells:
        marks[row, column] = True
        bits |= 1 << 7 * column + row
    assert bool(_four_in_a_row(jnp.asarray(marks))) == won
    assert lab.won(lab.Position(0, bits)) == won


def test_a_full_column_takes_no_more_and_who_tries_loses():
    state = jnp.zeros((6, 7), jnp.int8)
    for _ in range(6):
        step = STEP(state, jnp.int32(2), jax.random.key(0))
        state = step.state
    assert not step.terminated
    assert step.obs["legal"][2] == 0
    over = STEP(state, jnp.int32(2), jax.random.key(0))
    assert (float(over.reward), bool(over.terminated)) == (-1.0, True)
    np.testing.assert_array_equal(over.state, state)


@functools.cache
def plain(position):
    """The value by search of everything."""
    if lab.won(position):
        return -1
    if position.mask == lab.BOARD:
        return 0
    return max(-plain(lab.after(position, column)) for column in lab.moves(position))


def test_values_are_those_of_a_search_of_everything():
    rng, solver, seen = random.Random(1), lab.Solver(), set()
    for ply in (28, 30, 32, 34, 36, 38, 40):
        for _ in range(12):
            position, _ = drawn(ply, rng)
            values = solver.values(position)
            assert values == {column: -plain(lab.after(position, column)) for column in lab.moves(position)}
            assert solver.value(position) == max(values.values())
            assert solver.best(position) == {c for c, v in values.items() if v == max(values.values())}
            seen |= set(values.values())
    assert seen == {-1, 0, 1}


def test_values_of_a_position_and_its_mirror_image_are_alike():
    rng, solver = random.Random(2), lab.Solver()
    for _ in range(10):
        position, played = drawn(20, rng)
        mirrored = lab.START
        for column in played:
            mirrored = lab.after(mirrored, 6 - column)
        values = solver.values(position)
        assert solver.values(mirrored) == {6 - column: value for column, value in values.items()}


def test_it_forgets_when_it_knows_too_many_and_stays_right():
    position, _ = drawn(24, random.Random(3))
    assert lab.Solver(most=10).values(position) == lab.Solver().values(position)

"""Tic-tac-toe in JAX beside the one that is solved, and games against an opponent."""

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.worlds import games as worlds
from polyak.lab import games
from polyak.lab.matches import Score, match


def test_tic_tac_toe_has_5478_positions_and_is_a_draw():
    assert len(games.positions()) == len(set(games.positions())) == 5478
    assert sum(map(games.over, games.positions())) == 958
    assert games.value(games.START) == 0


def test_every_move_from_every_position_is_the_solved_games():
    env, rows = worlds.TicTacToe(), []
    for board in games.positions():
        if not games.over(board):
            rows += [(board, field) for field in range(9)]
    boards, fields = (jnp.asarray(x, jnp.int32) for x in zip(*rows, strict=True))
    step = jax.jit(jax.vmap(env.step, (0, 0, None)))(boards, fields, jax.random.key(0))
    for (board, field), after, obs, legal, reward, over in zip(
        rows,
        np.asarray(step.state).tolist(),
        np.asarray(step.obs["board"]).tolist(),
        np.asarray(step.obs["legal"]).tolist(),
        np.asarray(step.reward).tolist(),
        np.asarray(step.terminated).tolist(),
        strict=True,
    ):
        if board[field]:
            assert (tuple(after), reward, over) == (board, -1.0, True)
            continue
        want = games.after(board, field)
        assert tuple(after) == want
        assert reward == abs(games.winner(want))
        assert over == games.over(want)
        assert obs == [mark * games.mover(want) for mark in want]
        assert legal == [float(mark == 0) for mark in want]


def test_a_policy_that_gives_the_game_away_is_found_out():
    best = {
        board: max(games.moves(board), key=lambda move: -games.value(games.after(board, move)))
        for board in games.positions()
        if not games.over(board)
    }
    assert games.mistakes(best) == []
    assert games.losses(best, 1) == games.losses(best, -1) == 0
    worst = {board: min(games.moves(board)) for board in best}
    assert len(games.mistakes(worst)) > 100
    assert games.losses(worst, 1) > 0
    assert games.losses(worst, -1) > 0


def test_an_opponent_moves_after_each_move_and_first_in_half_of_the_games():
    env = worlds.versus(worlds.TicTacToe())
    assert env.spec.players == 1
    states, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 400))
    marks = np.abs(np.asarray(states)).sum(axis=1)
    assert set(marks) == {0, 1}
    assert 160 < (marks == 0).sum() < 240
    board = jnp.zeros(9, jnp.int32)
    after = jax.jit(env.step)(board, 4, jax.random.key(1))
    assert np.abs(np.asarray(after.state)).sum() == 2
    assert after.obs["board"][4] == 1


def test_what_the_opponent_wins_the_learner_loses():
    def first_free(state, obs, key):
        return obs["legal"].argmax().astype(jnp.int32)

    env = worlds.versus(worlds.TicTacToe(), first_free)
    step = jax.jit(env.step)
    lost = step(jnp.asarray([-1, -1, 0, 1, 0, 0, 1, 0, 0], jnp.int32), 4, jax.random.key(0))
    assert (float(lost.reward), bool(lost.terminated)) == (-1.0, True)
    won = step(jnp.asarray([1, 1, 0, -1, -1, 0, 0, 0, 0], jnp.int32), 2, jax.random.key(0))
    assert (float(won.reward), bool(won.terminated), float(won.measures["won"])) == (1.0, True, 1.0)


def test_a_match_is_played_with_both_colours_and_counted_for_the_first_player():
    """Who takes the first free field, against who takes the last: both games by hand, from the empty board."""
    env = worlds.TicTacToe()

    def first_free(state, obs, key):
        return obs["legal"].argmax(axis=-1).astype(jnp.int32)

    def last_free(state, obs, key):
        return (8 - obs["legal"][:, ::-1].argmax(axis=-1)).astype(jnp.int32)

    # 0 8 1 7 2: the first player has the upper row; with the colours turned 8 0 7 1 6 has the lower one
    assert match(env, first_free, last_free, pairs=3, opening=0) == Score(3, 0, 3)

    def wins(state, obs, key):  # by the middle column, where nobody stops it
        order = jnp.asarray([1, 4, 7, 3, 5, 0, 2, 6, 8])
        return order[obs["legal"][:, order].argmax(axis=-1)].astype(jnp.int32)

    # against who takes the last: 1 8 4 7 3 6 loses to the lower row as the first, 8 1 7 4 6 as the second player
    assert match(env, wins, last_free, pairs=2, opening=0) == Score(0, 0, 4)
    assert match(env, last_free, wins, pairs=2, opening=0) == Score(4, 0, 0)


def test_scores_have_intervals_and_ratings():
    score = Score(60, 20, 20)
    assert score.mean == 0.7
    assert abs(score.half - 1.96 * np.std([1] * 60 + [0.5] * 20 + [0] * 20) / 10) < 0.01
    assert abs(score.elo - 400 * np.log10(0.7 / 0.3)) < 5
    assert Score(10, 0, 0).half > 0
    assert Score(5, 3, 5).elo == 0

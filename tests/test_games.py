"""Tic-tac-toe in JAX beside the one that is solved, and games against an opponent."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from polyak.envs.worlds import games as worlds
from polyak.lab import games
from polyak.lab.matches import Score, match, random_player, ratings, round_robin


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


def random_scores(elo, games, seed):
    """Results of so many games of each two of these players; a quarter of what neither wins clearly is drawn."""
    rng, scores = np.random.default_rng(seed), {}
    for one, other in combinations(range(len(elo)), 2):
        share = 1 / (1 + 10 ** ((elo[other] - elo[one]) / 400))
        drawn = min(share, 1 - share) / 2
        won, even, lost = rng.multinomial(games, [share - drawn / 2, drawn, 1 - share - drawn / 2])
        scores[str(one), str(other)] = Score(int(won), int(even), int(lost))
    return scores


@pytest.mark.parametrize("seed", range(3))
def test_ratings_are_the_most_likely_ones_that_scipy_finds(seed):
    scores = random_scores([0, 120, -300, 700, 650], 40, seed)

    def unlikely(free):
        rating = np.append(0.0, free)
        total = 0.0
        for (one, other), score in scores.items():
            share = 1 / (1 + 10 ** ((rating[int(other)] - rating[int(one)]) / 400))
            won = score.won + score.drawn / 2 + 0.5
            total -= won * np.log(share) + (score.games + 1 - won) * np.log(1 - share)
        return total

    best = scipy.optimize.minimize(
        unlikely, np.zeros(4), method="Nelder-Mead", tol=1e-9, options={"maxfev": 10**5}
    )
    found = ratings(scores)
    assert found.names == ("0", "1", "2", "3", "4")
    np.testing.assert_allclose(found.elo[1:], best.x, atol=0.01)
    assert found.elo[0] == found.half[0] == 0


def test_the_rating_of_two_is_that_of_their_match():
    score = Score(30, 10, 20)
    found = ratings({("a", "b"): score})
    assert found.elo[1] == pytest.approx(-score.elo, abs=1e-6)
    slope = 400 / np.log(10) / (score.mean * (1 - score.mean))  # of Elo over the share of points
    assert found.half[1] == pytest.approx(slope * score.half, rel=0.01)


def test_who_wins_every_game_has_a_rating_all_the_same():
    found = ratings(
        {("a", "b"): Score(0, 0, 100), ("a", "c"): Score(0, 0, 100), ("b", "c"): Score(50, 0, 50)}
    )
    assert np.isfinite(found.elo).all()
    assert 700 < found.elo[1] == pytest.approx(found.elo[2])
    assert (found.half[1:] > 100).all()


def test_the_intervals_hold_the_truth_in_nineteen_of_twenty_leagues():
    elo = [0, 150, 300, 100]
    held = []
    for seed in range(300):
        found = ratings(random_scores(elo, 100, seed))
        held.append(np.abs(found.elo - elo)[1:] <= found.half[1:])
    assert 0.92 < np.mean(held) < 0.98  # 900 intervals


def test_a_round_robin_plays_the_matches_of_all_with_all():
    env = worlds.TicTacToe()

    def first_free(state, obs, key):
        return obs["legal"].argmax(axis=-1).astype(jnp.int32)

    def last_free(state, obs, key):
        return (8 - obs["legal"][:, ::-1].argmax(axis=-1)).astype(jnp.int32)

    players = {"first": first_free, "last": last_free, "uniform": random_player}
    found = round_robin(env, players, pairs=8, opening=0)
    assert list(found) == [("first", "last"), ("first", "uniform"), ("last", "uniform")]
    assert found["first", "last"] == match(env, first_free, last_free, 8, opening=0) == Score(8, 0, 8)
    assert found["last", "uniform"] == match(env, last_free, random_player, 8, opening=0, seed=2)
    table = str(ratings(found)).splitlines()
    assert [line.split()[0] for line in table] == list(players)

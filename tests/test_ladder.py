"""Policies of a game that meet and are rated: who takes part, what is played, and what is said."""

import json
import operator
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polyak
from polyak import algorithms
from polyak.cli import main
from polyak.envs.worlds.games import TicTacToe
from polyak.lab.matches import Score, match, random_player
from polyak.runs import ladder as rungs
from polyak.runs.play import Mind, Position
from reproductions.ladder import GAMES

PLANNER = next(
    name
    for name in algorithms.names()
    if algorithms.find(name).thought and not algorithms.find(name).learns  # plays without a run
)


@pytest.fixture(autouse=True, scope="module")
def _hardly_optimised():
    """For what is compiled meanwhile."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on tic-tac-toe against uniform moves, with two checkpoints."""
    config = {"hidden": (8,), "data": {"warmup": 16, "batch_size": 8}}
    said = {"config": config, "steps": 256, "num_envs": 8, "checkpoint_every": 128, "eval_every": 0}
    folder = tmp_path_factory.mktemp("runs")
    return polyak.train("dqn", "jax:TicTacToe-vs-random", out=folder, name="small", verbose=False, **said)


def opened(path):
    return polyak.load(path)


def positions(count: int) -> tuple:
    """Boards with a mark of each, whose moves are legal."""
    rng = np.random.default_rng(0)
    board = np.zeros((count, 9), np.int32)
    for row in board:
        one, other = rng.choice(9, 2, replace=False)
        row[one], row[other] = 1, -1
    board = jnp.asarray(board)
    return board, jax.vmap(TicTacToe()._observe)(board)


@pytest.mark.parametrize("planner", [False, True])
def test_a_contender_plays_as_the_policy_does_when_asked_for_each_position(run, planner):
    policy = polyak.Agent(PLANNER, "jax:TicTacToe").policy() if planner else run.policy()
    mind = Mind(policy, TicTacToe(), 30 if planner else None)
    state, obs = positions(6)
    moves = np.asarray(rungs.contender(mind)(state, obs, jax.random.key(0)))
    assert (np.asarray(state)[np.arange(6), moves] == 0).all() or not planner
    if not planner:  # a search draws other rollouts
        each = (jax.tree.map(operator.itemgetter(i), (state, obs)) for i in range(6))
        asked = [mind(Position(*shown, mind.memory(), 2)).move for shown in each]
        assert moves.tolist() == asked


def test_all_meet_with_both_colours_and_the_best_are_first(run):
    game, players = rungs.entrants([rungs.entry(f"{PLANNER}:64", opened), rungs.entry(str(run.path), opened)])
    met = []
    found = rungs.ladder(game, players, games=20, opening=2, met=met.append)
    assert found.rated.names == ("uniform moves", f"{PLANNER}:64", "small")
    assert found.rated.elo[0] == 0
    assert set(found.scores) == {
        ("uniform moves", f"{PLANNER}:64"),
        ("uniform moves", "small"),
        (f"{PLANNER}:64", "small"),
    }
    assert all(score.games == 20 for score in found.scores.values())
    assert met == [1, 2, 3]
    # each match is that of `match`, with openings of its own
    again = match(game, random_player, players[f"{PLANNER}:64"], 10, opening=2)
    assert again == found.scores["uniform moves", f"{PLANNER}:64"]
    lines = found.best_first()
    assert lines[0][0] == f"{PLANNER}:64"
    assert [elo for _, elo, *_ in lines] == sorted(found.rated.elo, reverse=True)
    assert np.mean([points for *_, points in lines]) == pytest.approx(0.5)


def test_shares_of_the_points_are_those_of_all_matches_of_a_player():
    scores = {("a", "b"): Score(8, 0, 2), ("a", "c"): Score(0, 10, 0), ("b", "c"): Score(1, 0, 9)}
    found = rungs.Ladder(rungs.ratings(scores), scores).best_first()
    assert {name: points for name, *_, points in found} == pytest.approx({"a": 0.65, "b": 0.15, "c": 0.7})
    assert [name for name, *_ in found] == ["c", "a", "b"]


def test_a_checkpoint_takes_part_by_its_steps(run):
    early = rungs.entry(f"{run.path}@128", opened)
    assert early.name == "small@128"
    assert early.run is not None
    assert early.run.step == 128
    _, players = rungs.entrants([early, rungs.entry(str(run.path), opened)])
    assert list(players) == ["small@128", "small"]
    one, other = early.run.policy().actor, run.policy().actor
    assert not all(map(np.array_equal, *map(jax.tree.leaves, (one, other))))


def test_the_command_prints_ratings_and_draws_them(run, tmp_path, capsys):
    picture = tmp_path / "elo.png"
    words = ["ladder", str(run.path), f"{run.path}@128", "--games", "8", "--out", str(picture)]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["Elo", "points"]
    rated = [re.fullmatch(r"(\S.*?) +([+-]\d+) ± (\d+) +([\d.]+)%", line) for line in said[1:4]]
    assert all(rated)
    assert {line[1] for line in rated if line} == {"uniform moves", "small", "small@128"}
    elo = [int(line[2]) for line in rated if line]
    assert elo == sorted(elo, reverse=True)
    assert said[4:] == [str(picture)]
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_rated_is_one_line(run, tmp_path, capsys):
    cart = polyak.train(
        "ppo",
        "jax:CartPole-v1",
        out=tmp_path,
        name="cart",
        steps=512,
        num_envs=4,
        eval_every=0,
        verbose=False,
    )
    capsys.readouterr()
    for words, says in (
        ([cart.path], "jax:CartPole-v1 is no game of two players, which ladder needs"),
        ([run.path, run.path], "two are named small"),
        ([f"{PLANNER}:10"], "needs a run"),
        ([run.path, f"{PLANNER}:many"], "stand the simulations before a move"),
        ([run.path, f"{PLANNER}:0"], "stand the simulations before a move"),
        ([run.path, "ppo:10"], "ppo has to be trained"),
        ([f"{run.path}@soon"], "after how many steps"),
        ([f"{run.path}@5"], "no checkpoint"),
        ([tmp_path / "none"], "not a run folder"),
        ([run.path, "--out", "elo.pdf"], "--out is a picture, .png"),
        ([run.path, "--games", "1"], "games"),
    ):
        assert main(["ladder", *map(str, words)]) == 2, words
        said = capsys.readouterr()
        assert says in said.err, (words, said.err)
        assert said.err.count("\n") == 1, said.err
        assert "Traceback" not in said.err
    assert json.loads((run.path / "config.json").read_text())  # and nothing happened to it


def test_the_games_of_the_long_ladder_have_room_for_whole_ones():
    """A replay of 128 environments that holds fewer rows of each than the longest game is refused once it begins."""
    for env, settings in GAMES.items():
        rows = settings["data.capacity"] // 128 // settings["data.steps"] * settings["data.steps"]
        assert rows > settings["data.n_step"], env
        assert settings["data.n_step"] >= {"jax:ConnectFour": 42}.get(env, 256), env

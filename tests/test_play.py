"""A person against a policy: boards in characters, names of moves, and a game from its first line to its last."""

import dataclasses
import importlib.util
import io
import os
import pty
import random
import select
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASE

from polyak import Agent
from polyak.algorithms import find as find_algorithm
from polyak.algorithms import names
from polyak.cli import main
from polyak.envs.find import find
from polyak.envs.worlds.games import ConnectFour, TicTacToe
from polyak.errors import UserError
from polyak.interface import Algorithm, OnPolicy
from polyak.runs import play as playing
from polyak.runs.play import Game, Mind
from polyak.show.boards import TABLE, drawing

needs_pgx = pytest.mark.skipif(importlib.util.find_spec("pgx") is None, reason="pgx is an extra")


@pytest.fixture(autouse=True, scope="module")
def _hardly_optimised():
    """For what is compiled meanwhile."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def key():
    """A key that nobody has used."""
    return jax.random.key(0)


# ---- boards


def walk(name, plies, seed=0):
    """Positions of a game of random moves by their names: drawing, state, obs, whether who began is to move, name."""
    env, rng = find(name), random.Random(seed)
    drawn, step = drawing(env, name), jax.jit(env.step)
    state, obs = env.reset(key())
    for ply in range(plies):
        names = drawn.names(state, obs, ply % 2 == 0)
        assert sorted(names.values()) == np.flatnonzero(np.asarray(obs["legal"])).tolist()  # none is lost
        name = rng.choice(sorted(names))
        yield drawn, state, obs, ply % 2 == 0, name
        made = step(state, jnp.int32(names[name]), key())
        if made.terminated:
            return
        state, obs = made.state, made.obs


def cells(text):
    """The fields of a board by their names, as they are drawn."""
    *rows, below = [line.split() for line in text.splitlines() if "hand" not in line]
    return {column + row[0]: mark for row in rows for column, mark in zip(below, row[1:], strict=True)}


@pytest.mark.parametrize(
    "name",
    ["jax:TicTacToe", *(pytest.param(f"pgx:{name}", marks=needs_pgx) for name in ("othello", "go_9x9"))],
)
def test_a_mark_appears_on_the_field_that_a_move_names(name):
    before = None
    for drawn, _, obs, first, move in walk(name, 12):
        now = cells(drawn.text(obs, first))
        if before is not None:
            fields, said, mark = before
            assert fields[said] == "."
            assert now[said] == mark
        before = (now, move, "X" if first else "O") if move != "pass" else None


@pytest.mark.parametrize(
    "name", ["jax:ConnectFour", pytest.param("pgx:connect_four", marks=needs_pgx)], ids=["ours", "pgx"]
)
def test_connect_four_is_drawn_with_the_lowest_row_below(name):
    env = find(name)
    drawn, (state, obs) = drawing(env, name), env.reset(key())
    for move in ("4", "4", "1"):
        names = drawn.names(state, obs, True)
        made = jax.jit(env.step)(state, jnp.int32(names[move]), key())
        state, obs = made.state, made.obs
    lines = [line.split() for line in drawn.text(obs, False).splitlines()]
    assert lines[-3:] == [list("...O..."), list("X..X..."), list("1234567")]


@needs_pgx
def test_x_joins_the_upper_and_the_lower_side_of_hex_as_the_line_above_the_board_says():
    env = find("pgx:hex")
    drawn, (state, obs) = drawing(env, "pgx:hex"), env.reset(key())
    step = jax.jit(env.step)
    assert "X joins top and bottom" in drawn.how
    for row in range(1, 12):
        for first, field in ((True, f"f{row}"), (False, f"a{row}")):
            made = step(state, jnp.int32(drawn.names(state, obs, first)[field]), key())
            state, obs = made.state, made.obs
            if made.terminated:
                assert (first, row, float(made.reward)) == (True, 11, 1.0)
                return
    pytest.fail("nobody won")


def board_of(state, kinds):
    """The fields of pgx's own board of who is to move: by file, each from its side upwards."""
    board = np.asarray(state._board).reshape(5, 5)
    return {
        "abcde"[file] + str(rank + 1): kinds[int(board[file, rank])] for file in range(5) for rank in range(5)
    }


@needs_pgx
@pytest.mark.slow
def test_gardners_chess_is_drawn_as_pgx_keeps_it_and_a_name_says_from_where_to_where():
    mine = dict(enumerate(".PNBRQK")) | {-number: kind for number, kind in enumerate(".pnbrqk") if number}
    theirs = {number: kind.swapcase() for number, kind in mine.items()}
    before = None
    for drawn, state, obs, first, move in walk("pgx:gardner_chess", 40):
        now = cells(drawn.text(obs, first))
        own = board_of(state, mine if first else theirs)
        turned = own if first else {at[0] + str(6 - int(at[1])): kind for at, kind in own.items()}
        assert now == turned
        if before is not None:
            fields, said, white = before
            became = said[4:] or fields[said[:2]].upper()
            assert now == {**fields, said[:2]: ".", said[2:4]: became if white else became.lower()}
        before = now, move, first


@needs_pgx
@pytest.mark.long
def test_animal_shogi_is_drawn_from_one_side_with_what_is_in_the_hands():
    before, drops = None, 0
    for drawn, state, obs, first, move in walk("pgx:animal_shogi", 30, seed=1):
        text = drawn.text(obs, first)
        now, lines = cells(text), text.splitlines()
        held = np.asarray(state._hand) if first else np.asarray(state._hand)[::-1]
        for line, hand, letters in ((lines[-1], held[0], "CEG"), (lines[0], held[1], "ceg")):
            want = "".join(letter * int(n) for letter, n in zip(letters, hand, strict=True))
            assert line.partition(": ")[2].replace(" ", "") == (want or "-")
        if before is not None:
            fields, said, below = before
            dropped, drops = said[1] == "*", drops + (said[1] == "*")
            became = said[0] if dropped else said[4:] or fields[said[:2]].upper()
            change = {said[2:4]: became if below else became.lower()}
            assert now == {**fields, **({} if dropped else {said[:2]: "."}), **change}
        before = now, move, first
    assert drops


@needs_pgx
@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_no_two_moves_of_chess_share_a_name(seed):
    castled = [move for *_, move in walk("pgx:chess", 80, seed)]
    assert len(castled) > 20


def test_castling_and_promotion_are_named_after_the_king_and_the_new_piece():
    drawn = TABLE["chess"](ConnectFour())
    before = np.zeros((8, 8), int)
    before[7, 4], before[7, 7] = 6, 4
    after = np.zeros((8, 8), int)
    after[7, 6], after[7, 5] = 6, 4
    assert drawn._name(before, after) == "e1g1"
    before = np.zeros((8, 8), int)
    before[1, 1] = 1
    after = np.zeros((8, 8), int)
    after[0, 1] = 5
    assert drawn._name(before, after) == "b7b8Q"


def test_a_game_that_is_not_drawn_is_refused_in_one_line():
    class Mine(TicTacToe):
        pass

    with pytest.raises(UserError, match="no drawing of mine:Mine in characters; drawn are: ConnectFour"):
        drawing(Mine(), "mine:Mine")


# ---- a game


def first_legal(cfg, spec, actor, memory, obs, key, explore):
    assert not explore
    legal = (obs["legal"] > 0).astype(jnp.float32)
    return legal.argmax(axis=-1).astype(jnp.int32), memory + 1, {"policy": legal, "value": legal[:, 4] / 2}


@dataclasses.dataclass(frozen=True)
class Config:
    data: OnPolicy = dataclasses.field(default_factory=lambda: OnPolicy(steps=1))


SIMPLE: Any = SimpleNamespace(
    algorithm=Algorithm(
        Config=Config,
        actions=("discrete",),
        init=lambda *_: (),
        actor=lambda state: (),
        act=first_legal,
        update=lambda *_: None,
        memory=lambda cfg, spec, ids, episode, key: jnp.zeros(len(ids), jnp.int32),
        thought=lambda memory, extras: (extras["policy"], extras["value"]),
    ),
    actor=(),
    cfg=Config(),
    flat=TicTacToe().spec,
)


def game(*lines, first: Any = "you", env=None):
    """What is said in a game of a person who types these lines against one who takes the first free field."""
    env = env or TicTacToe()
    said, typed = [], iter(lines)

    def read(prompt):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    played = Game(env, Mind(SIMPLE, env), drawing(env, "it"), first, read=read, say=said.append)
    result = played.play()
    assert result == said[-1]
    assert next(typed, None) is None, "the game ended before"
    return said


def test_three_in_a_row_wins_for_who_made_it():
    assert game("a1", "b1", "c1")[-1] == "you win"  # against a3, b3
    assert game("a1", "b1", "a2")[-1] == "the agent wins"  # a3, b3, c3
    assert game("b2", "a1", first="agent")[-1] == "the agent wins"


def test_a_full_board_is_a_draw():
    """The agent takes a3, c3, a2, c2 and b1."""
    assert game("b3", "b2", "a1", "c1", first="agent")[-1] == "a draw"


def test_a_time_limit_is_a_draw():
    assert game("b2", "a1", env=TicTacToe(time_limit=4))[-1] == "a draw"


def test_wrong_input_is_one_line_and_asks_again():
    said = game("a9", "", "b2", "b2", "\x1b[31m", "a3", "resign")
    wrong = [line for line in said if "no legal move" in line]
    assert wrong[0] == "'a9' is no legal move: a3 b3 c3 a2 b2 c2 a1 b1 c1"
    assert wrong[1] == "'b2' is no legal move: b3 c3 a2 c2 a1 b1 c1"
    assert len(wrong) == 4
    assert all(line.isprintable() for line in wrong)
    assert said[-1] == "you resign: the agent wins"


def test_undo_takes_back_a_move_and_its_answer():
    said = game("undo", "b2", "a1", "undo", "undo", "c1", "board")
    assert "there is no move of yours to take back" in said
    boards = [line.strip() for line in said if line.startswith("\n")]
    assert boards[-1] == boards[-2] == "3 O . .\n2 . . .\n1 . . X\n  a b c"
    assert boards[0] == "3 . . .\n2 . . .\n1 . . .\n  a b c"
    assert boards.count(boards[0]) == 2  # at the start, and once both moves were taken back
    assert said[-1] == "you left the game"  # where no more was typed


def test_what_was_taken_back_is_not_remembered():
    env, met = TicTacToe(), []

    def read(prompt):
        met.append(int(played.position.memory[0]))
        return ("b2", "undo", "c3", "quit")[len(met) - 1]

    played = Game(env, Mind(SIMPLE, env), drawing(env, "it"), read=read, say=lambda line: None)
    played.play()
    assert met == [0, 1, 0, 1]


def test_the_agent_says_its_move_its_value_and_what_it_thought_of():
    said = game("b2", "hint", "moves", "help", "quit")
    assert "agent: a3   value +0.00   a3 100%  b3 100%  c3 100%" in said
    assert "hint: b3   value +0.00   b3 100%  c3 100%  a2 100%" in said
    assert "b3 c3 a2 c2 a1 b1 c1" in said
    assert any("take your last move back" in line for line in said)
    assert "agent: a3   value +0.50   a3 100%  b3 100%  c3 100%" in game("quit", first="agent")


def test_the_line_above_the_board_says_who_is_who():
    assert game("quit")[0] == "you are X, the agent is O; X moves first"
    assert game("quit", first="agent")[0] == "you are O, the agent is X; X moves first"


# ---- policies


THINKING = [name for name in names() if find_algorithm(name).thought]
PLANNER = next(name for name in THINKING if not find_algorithm(name).learns)  # plays without a run


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in THINKING])
def test_who_searches_says_shares_of_legal_moves_and_a_value(name):
    agent = Agent(name, "jax:TicTacToe", config=CASE[name].small)
    mind = Mind(agent.policy(), TicTacToe(), 50)
    board = jnp.asarray([1, 1, 0, -1, -1, 0, 0, 0, 0], jnp.int32)
    found = mind(playing.Position(board, TicTacToe()._observe(board), mind.memory(), 4))
    assert found.shares is not None
    assert found.value is not None
    assert found.shares.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.shares[[0, 1, 3, 4]], 0, atol=1e-6)
    assert abs(found.value) <= 1
    if agent.policy().cfg.data.simulator:  # who is given the rules sees that c3 wins
        assert found.move == found.shares.argmax() == 2
        assert found.value > 0


def test_more_simulations_than_it_was_trained_with():
    policy = Agent(PLANNER, "jax:TicTacToe").policy()
    assert Mind(policy, TicTacToe(), 7).cfg.simulations == 7
    with pytest.raises(UserError, match="searches no tree"):
        Mind(SIMPLE, TicTacToe(), 7)


def test_a_policy_that_knows_the_game_against_an_opponent_plays_it_too():
    said = []
    policy, world = Agent("dqn", "jax:TicTacToe-vs-random").policy(), find("jax:TicTacToe-vs-random")
    lines = iter(["b2", "quit"])
    playing.play(policy, world, "it", read=lambda prompt: next(lines, "quit"), say=said.append)
    assert any(line.startswith("agent: ") for line in said)


def test_only_games_of_two_are_played():
    with pytest.raises(UserError, match="jax:CartPole-v1 is no game of two players"):
        playing.game_of(find("jax:CartPole-v1"), "jax:CartPole-v1")


# ---- the command


def test_without_a_terminal_play_is_refused_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["play", PLANNER, "jax:TicTacToe"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "play needs a terminal" in said


def until(master, words, seconds=120.0):
    """What a terminal shows until it has shown these words."""
    shown, end = b"", time.monotonic() + seconds
    while words not in shown and time.monotonic() < end:
        if select.select([master], [], [], 1.0)[0]:
            shown += os.read(master, 4096)
    assert words in shown, shown
    return shown.decode()


@pytest.mark.slow
def test_a_game_in_a_terminal_and_ctrl_c_leaves_it_without_a_traceback():
    master, slave = pty.openpty()
    words = ["play", PLANNER, "jax:TicTacToe", "--simulations", "50", "--first", "agent"]
    program = (  # with the terminal as its own, so that Ctrl-C is its
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        f"from polyak.cli import program; sys.argv[1:] = {words}; program()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        **{"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True},
    )
    os.close(slave)
    try:
        assert "agent: " in until(master, b"your move: ")
        os.write(master, b"z9\n")
        assert "'z9' is no legal move" in until(master, b"your move: ")
        time.sleep(
            0.5
        )  # it shows its question just before it reads, and between the two Python hears nothing
        os.write(master, b"\x03")
        said = until(master, b"stopped")
        assert process.wait(30) == 130
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()
        os.close(master)

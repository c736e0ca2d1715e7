"""pgx's board games as our own: connect four beside ours, and what every one of them must say."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pgx")

from polyak.drivers.episodes_graph import check_environment
from polyak.envs.adapters import pgx
from polyak.envs.find import find, names
from polyak.envs.worlds.games import ConnectFour
from polyak.errors import UserError
from polyak.interface import Discrete

SHAPES = {  # planes and moves, from pgx's own pages
    "animal_shogi": ((4, 3, 194), 132),
    "chess": ((8, 8, 119), 4672),
    "connect_four": ((6, 7, 2), 7),
    "gardner_chess": ((5, 5, 115), 1225),
    "go_19x19": ((19, 19, 17), 362),
    "go_9x9": ((9, 9, 17), 82),
    "hex": ((11, 11, 4), 122),
    "othello": ((8, 8, 2), 65),
    "shogi": ((9, 9, 119), 2187),
    "tic_tac_toe": ((3, 3, 2), 9),
}


def test_its_connect_four_is_ours():
    theirs, ours, rng = find("pgx:connect_four"), ConnectFour(), random.Random(0)
    assert theirs.spec.players == 2
    step, own = jax.jit(theirs.step), jax.jit(ours.step)
    ends = set()
    for game in range(12):
        key = jax.random.key(game)  # who of pgx's players begins differs
        (state, seen), (board, shown) = theirs.reset(key), ours.reset(key)
        over = False
        while not over:
            np.testing.assert_array_equal(seen["legal"], shown["legal"])
            np.testing.assert_array_equal(seen["board"][::-1], shown["board"])  # its upper row is the first
            move = jnp.int32(rng.choice(np.flatnonzero(shown["legal"]).tolist()))
            a, b = step(state, move, key), own(board, move, key)
            assert float(a.reward) == float(b.reward)
            over = bool(b.terminated)
            assert bool(a.terminated) == over
            assert not a.truncated
            state, seen, board, shown = a.state, a.obs, b.state, b.obs
        ends.add(int(b.reward))
    assert 1 in ends


def test_an_illegal_move_loses():
    env = find("pgx:tic_tac_toe")
    state, _ = env.reset(jax.random.key(0))
    step = jax.jit(env.step)
    once = step(state, jnp.int32(4), jax.random.key(0))
    twice = step(once.state, jnp.int32(4), jax.random.key(0))
    assert (float(twice.reward), bool(twice.terminated)) == (-1.0, True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "othello" else pytest.mark.long) for name in SHAPES]
)
def test_every_game_is_what_its_spec_says(name):
    env = find(f"pgx:{name}")
    check_environment(env, env.spec)
    assert (env.spec.obs["board"].shape, env.spec.action) == (SHAPES[name][0], Discrete(SHAPES[name][1]))


def test_they_are_listed_and_others_are_refused():
    assert names()["pgx"] == sorted(SHAPES) == pgx.names()
    with pytest.raises(UserError, match="is no board game of two who move in turn"):
        find("pgx:kuhn_poker")

"""AlphaZero: its update against a slow float64 loop, its search against hand-made positions, both searches on games."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, finite_differences, float64, mlp

from polyak.algorithms import alphazero
from polyak.drivers.learn import learn
from polyak.envs.environment import rules
from polyak.envs.worlds.games import ConnectFour, TicTacToe
from polyak.interface import Batch, Box, Discrete, Shown, Spec, Transition
from polyak.lab import games
from polyak.parts import replay

pytest.importorskip("mctx")
GAME = TicTacToe()
SPEC = dataclasses.replace(GAME.spec, model=rules(GAME))
PLAIN = Spec({"board": Box((3,)), "legal": Box((4,), 0.0, 1.0)}, Discrete(4), players=2)
B = 6


def generated(seed):
    """Moves of two players with their legal ones, and what a search made of them."""
    rng = np.random.default_rng(seed)
    legal = (rng.random((B, 4)) < 0.6).astype(np.float32)
    legal[:, 0] = 1
    policy = rng.random((B, 4)) * legal
    obs = {"board": rng.normal(size=(B, 3)).astype(np.float32), "legal": legal}
    flag = np.zeros(B, bool)
    return Batch(
        obs=obs,
        action=np.zeros(B, np.int32),
        reward=rng.choice([-1.0, 0.0, 1.0], B).astype(np.float32),
        next_obs=obs,
        terminated=~flag,
        truncated=flag,
        extras={"policy": (policy / policy.sum(axis=1, keepdims=True)).astype(np.float32)},
        discount=np.zeros(B, np.float32),
        weight=rng.uniform(0.2, 1.5, B).astype(np.float32),
    )


class Slow:
    """Equation 1 of Silver et al. 2017, one move after the other."""

    def __init__(self, cfg, state):
        self.cfg, self.net, self.clock = cfg, float64(state.net), float64(state.clock)
        self.adam = Adam(cfg.lr * oracles.linear_schedule(60, 1.0, cfg.lr_end, cfg.horizon))

    def update(self, batch, key):
        def loss(net):
            total = 0.0
            for i in range(B):
                legal = batch.obs["legal"][i] > 0
                out = mlp(net, np.concatenate([batch.obs["board"][i], batch.obs["legal"][i]]))
                p = np.exp(out[:-1]) * legal
                p = p / p.sum()
                policy = sum(batch.extras["policy"][i][a] * np.log(p[a]) for a in np.flatnonzero(legal))
                total += batch.weight[i] * ((batch.reward[i] - np.tanh(out[-1])) ** 2 - policy)
            squares = sum((x**2).sum() for x in jax.tree.leaves(net))
            return total / B + self.cfg.weight_decay * squares

        self.net = self.adam.step(self.net, finite_differences(loss, self.net))
        self.clock = self.clock._replace(updates=self.clock.updates + 1)


def test_three_updates_are_those_of_equation_1():
    cfg = alphazero.Config(hidden=(4,), lr=1e-2, lr_end=0.1, horizon=100, weight_decay=0.05)
    state = alphazero.init(cfg, PLAIN, jax.random.key(0))
    state = state.replace(clock=state.clock.at(60))
    update = jax.jit(lambda *args: alphazero.update(cfg, PLAIN, *args), compiler_options=QUICK)
    oracles.assert_follows(update, state, Slow(cfg, state), [generated(seed) for seed in range(3)])


# ---- what z is


def test_z_is_how_the_game_ended_for_who_moved():
    """Two games of other lengths, of which a third that is not over is never drawn; signs by hand."""
    cfg = alphazero.Config(gamma=1.0)
    data = dataclasses.replace(cfg.data, capacity=12, batch_size=200, warmup=0, steps=12, updates=1, n_step=9)
    cfg = dataclasses.replace(cfg, data=data)
    spec = dataclasses.replace(PLAIN, num_envs=1)
    # a game of 5 moves that the first player wins, one of 4 that the second wins, and 3 moves of another
    reward = np.array([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], np.float32)[:, None]
    ends = reward > 0
    place = np.arange(12, dtype=np.float32)[:, None, None]
    obs = {"board": np.broadcast_to(place, (12, 1, 3)), "legal": np.ones((12, 1, 4), np.float32)}
    extras = {"policy": np.full((12, 1, 4), 0.25, np.float32)}
    zero = np.zeros((12, 1), bool)
    rollout = Transition(obs, np.zeros((12, 1), np.int32), reward, obs, ends, zero, extras)
    want = [1, -1, 1, -1, 1, -1, 1, -1, 1]
    seen = {}

    def update(cfg, spec, state, batch, key):
        seen.update(place=batch.obs["board"][:, 0], z=batch.reward, discount=batch.discount)
        return alphazero.Update(state, {})

    row = jax.tree.map(lambda x: x[0], rollout)
    algorithm = alphazero.algorithm._replace(update=update)
    state = alphazero.init(cfg, spec, jax.random.key(0))
    buffer = replay.index.empty(row, 12, data)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def drawn(state, buffer, rollout, key):
        learn(algorithm, cfg, spec, state, buffer, rollout, key)
        return seen

    seen = drawn(state, buffer, rollout, jax.random.key(1))
    assert set(np.asarray(seen["place"]).astype(int)) == set(range(9))
    np.testing.assert_array_equal(seen["z"], [want[int(i)] for i in seen["place"]])
    assert not np.asarray(seen["discount"]).any()


# ---- the search


@functools.cache
def acting(cfg, explore=False, env=GAME):
    """From a network, move numbers and states to moves and policies."""
    spec = dataclasses.replace(env.spec, model=rules(env))

    def go(net, count, state, key):
        seen = Shown(jax.vmap(env._observe)(state), state)
        return alphazero.act(cfg, spec, net, count, seen, key, explore)

    return jax.jit(go, compiler_options=QUICK)


def network(cfg, spec=SPEC, seed=0):
    return alphazero.init(cfg, spec, jax.random.key(seed)).net


SMALL = alphazero.Config(hidden=(8,), simulations=50)
BOTH = [
    dataclasses.replace(SMALL, simulations=200),
    dataclasses.replace(SMALL, search="puct", simulations=800),
]
HARD = [
    (1, 1, 0, -1, -1, 0, 0, 0, 0),  # wins with 2
    (-1, -1, 0, 0, 1, 0, 0, 0, 1),  # has to stop a line, and wins by that
    (1, -1, 0, 0, 1, 0, 0, 0, -1),  # two moves make two threats at once
    (-1, 0, 0, 0, 1, 0, 0, 1, 0),  # all moves but one lose
    (-1, 0, 1, 0, 0, 0, 0, 1, 0),  # likewise, with no line to stop
]
BOARDS = jnp.asarray([*HARD, (1, 0, 0, 0, -1, 0, 0, 0, 0)], jnp.int32)  # and one where six moves are equal


@pytest.mark.parametrize("cfg", BOTH, ids=lambda cfg: cfg.search)
def test_an_untrained_search_finds_the_moves_that_the_solved_game_has(cfg):
    count = jnp.zeros(len(BOARDS), jnp.int32)
    action, memory, extras = acting(cfg)(network(cfg), count, BOARDS, jax.random.key(0))
    for board, move in zip(HARD, np.asarray(action).tolist(), strict=False):
        values = {each: -games.value(games.after(board, each)) for each in games.moves(board)}
        assert values[move] == max(values.values()), board
        assert len(set(values.values())) > 1
    policy = np.asarray(extras["policy"])
    np.testing.assert_allclose(policy.sum(axis=1), 1, rtol=1e-5)
    assert policy[np.asarray(BOARDS) != 0].max() == 0
    np.testing.assert_array_equal(memory, np.ones(len(BOARDS)))


def test_exploring_gumbel_draws_moves_and_never_an_illegal_one():
    boards = jnp.tile(BOARDS[-1], (64, 1))
    action, _, _ = acting(BOTH[0], True)(network(SMALL), jnp.zeros(64, jnp.int32), boards, jax.random.key(1))
    assert len(set(np.asarray(action).tolist())) > 1
    assert set(np.asarray(action).tolist()) <= {1, 2, 3, 5, 6, 7, 8}


def test_puct_draws_its_opening_by_the_temperature_and_then_plays_the_most_visited_move():
    cfg = dataclasses.replace(BOTH[1], opening=3, temperature=0.5, simulations=30)
    boards, count = jnp.tile(BOARDS[-1], (1024, 1)), jnp.repeat(jnp.asarray([2, 3], jnp.int32), 512)
    action, _, extras = acting(cfg, True)(network(cfg), count, boards, jax.random.key(1))
    action, visits = np.asarray(action), np.asarray(extras["policy"], float)
    np.testing.assert_array_equal(action[512:], visits[512:].argmax(axis=1))
    want = visits[:512] ** 2
    want = (want / want.sum(axis=1, keepdims=True)).mean(axis=0)
    got = np.bincount(action[:512], minlength=9) / 512
    assert np.abs(got - want).max() < 4 * np.sqrt(0.25 / 512)
    assert np.abs(visits[:512].mean(axis=0) - want).max() > 0.02  # the temperature makes a difference
    assert visits[:512].std(axis=0).max() > 0.02  # and so does the noise at the root
    assert got[[0, 4]].max() == 0


def test_the_same_file_plays_connect_four():
    env = ConnectFour()
    cfg = alphazero.Config(network="residual", hidden=(8, 8), simulations=60)
    net = network(cfg, env.spec)
    state = jnp.zeros((1, 6, 7), jnp.int8).at[0, 0, :3].set(1).at[0, 1, :3].set(-1)
    action, _, extras = acting(cfg, False, env)(net, jnp.zeros(1, jnp.int32), state, jax.random.key(0))
    assert action[0] == 3  # four in a row, at once
    assert extras["policy"].shape == (1, 7)


def test_windows_that_do_not_reach_the_end_are_refused():
    spec = dataclasses.replace(SPEC, time_limit=20)
    cfg = alphazero.Config()
    short = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, n_step=9, ended=False))
    assert alphazero.wrong(cfg, spec) == []
    assert len(alphazero.wrong(short, spec)) == 2
    assert "give 20" in alphazero.wrong(short, spec)[1]


def test_without_mctx_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mctx", None)
    with pytest.raises(alphazero.UserError, match=r"polyak\[games\]"):
        alphazero.searcher()

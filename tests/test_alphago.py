"""Stages of AlphaGo's pipeline: which rows each learns from, how games end for whom, and what its search sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK

from polyak.envs.environment import rules
from polyak.envs.worlds.games import ConnectFour
from polyak.interface import Batch, Box, Discrete, Spec

pytest.importorskip("mctx")
from reproductions import alphago

GAME = ConnectFour()
SPEC = dataclasses.replace(GAME.spec, model=rules(GAME))
PLAIN = Spec({"board": Box((3,)), "legal": Box((4,), 0.0, 1.0)}, Discrete(4), players=2)
T, N = 6, 2


def batch(**extras):
    """A game of five moves that the first player wins, one of four that the second wins, and padding after them."""
    rng = np.random.default_rng(0)
    reward, discount, weight = (np.zeros((T, N), np.float32) for _ in range(3))
    reward[4, 0], reward[3, 1] = 1, 1
    discount[:4, 0], discount[:3, 1] = -1, -1
    weight[:5, 0], weight[:4, 1] = 1, 1
    obs = {
        "board": rng.normal(size=(T, N, 3)).astype(np.float32),
        "legal": np.ones((T, N, 4), np.float32),
    }
    action = rng.integers(4, size=(T, N)).astype(np.int32)
    flag = np.zeros((T, N), bool)
    rows = (obs, action, reward, obs, flag, flag, {name: np.array(value) for name, value in extras.items()})
    return jax.tree.map(jnp.asarray, Batch(*rows, discount, weight))


def moved(before, after):
    """Whether any number changed."""
    return any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


def test_every_move_of_the_winner_is_worth_1_and_every_move_of_the_loser_minus_1():
    z = np.asarray(alphago.outcomes(batch()))
    np.testing.assert_array_equal(z[:, 0], [1, -1, 1, -1, 1, 0])
    np.testing.assert_array_equal(z[:, 1], [-1, 1, -1, 1, 0, 0])


def test_the_policy_gradient_learns_from_its_own_moves_alone_and_its_older_selves_follow():
    cfg = alphago.SelfPlayConfig(hidden=(4,), pool=2, period=2)
    state = jax.jit(lambda key: alphago.selfplay_init(cfg, PLAIN, key))(jax.random.key(0))
    state = state.replace(policy=jax.tree.map(lambda x: x + 1, state.policy))  # as another run's weights come
    update = jax.jit(
        lambda state, batch: alphago.selfplay_update(cfg, PLAIN, state, batch, jax.random.key(0)),
        compiler_options=QUICK,
    )
    none = update(state, batch(own=np.zeros((T, N), bool))).state
    assert not moved(none.policy, state.policy)
    assert not moved(jax.tree.map(lambda x: x[1], none.pool), state.policy)
    won = np.zeros((T, N), bool)
    won[::2, 0] = True  # the moves of who won
    after = update(state, batch(own=won)).state

    def probability(net):
        rows = batch()
        log_p = jax.nn.log_softmax(alphago.logits_of(net, rows.obs))
        return np.take_along_axis(np.asarray(log_p), np.asarray(rows.action)[..., None], -1)[won].sum()

    assert probability(after.policy) > probability(state.policy)
    again = update(after, batch(own=won)).state  # the second update, after which one is kept
    assert not moved(jax.tree.map(lambda x: x[1], again.pool), again.policy)
    assert not moved(jax.tree.map(lambda x: x[0], again.pool), state.policy)


def test_values_are_learned_from_the_chosen_positions_alone():
    cfg = alphago.ValueConfig(hidden=(4,), lr=0.05)
    state = jax.jit(lambda key: alphago.value_init(cfg, PLAIN, key))(jax.random.key(0))
    update = jax.jit(
        lambda state, batch: alphago.value_update(cfg, PLAIN, state, batch, jax.random.key(0)),
        compiler_options=QUICK,
    )
    assert not moved(update(state, batch(chosen=np.zeros((T, N), bool))).state.value, state.value)
    chosen = np.zeros((T, N), bool)
    chosen[1, 0] = chosen[1, 1] = chosen[5, 0] = True  # z of -1 and 1; the last is padding
    rows, after = batch(chosen=chosen), state
    for _ in range(100):
        after = update(after, rows).state
    v = np.asarray(alphago.valued(after.value, rows.obs))
    assert v[1, 0] < -0.9
    assert v[1, 1] > 0.9
    assert not moved(after.policy, state.policy)


def test_a_position_is_chosen_once_in_a_game_right_after_its_uniform_move():
    cfg = alphago.ValueConfig(hidden=(4,), latest=6)
    state = jax.jit(lambda key: alphago.value_init(cfg, PLAIN, key))(jax.random.key(0))
    memory = alphago.value_memory(cfg, PLAIN, jnp.arange(8), jnp.zeros(8, jnp.int32), jax.random.key(1))
    obs = {"board": jnp.ones((8, 3)), "legal": jnp.ones((8, 4))}
    chosen, turn = [], np.asarray(memory["turn"])
    for t in range(10):
        actor = alphago.position_value.actor(state)
        _, memory, extras = alphago.value_act(cfg, PLAIN, actor, memory, obs, jax.random.key(t), True)
        chosen.append(np.asarray(extras["chosen"]))
    np.testing.assert_array_equal(np.array(chosen).sum(axis=0), 1)
    np.testing.assert_array_equal(np.array(chosen).argmax(axis=0), turn + 1)
    assert len(set(turn.tolist())) > 2


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_with_untrained_networks_the_search_wins_at_once_and_stops_a_line(lam):
    def nets(key):
        key_one, key_three = jax.random.split(key)
        one = alphago.cloning_init(alphago.CloningConfig(hidden=(4,)), SPEC, key_one)
        three = alphago.value_init(alphago.ValueConfig(hidden=(4,)), SPEC, key_three)
        return one.policy, one.rollout, three.player, three.value

    learned = alphago.Networks(*jax.jit(nets)(jax.random.key(0)))
    board = jnp.zeros((2, 6, 7), jnp.int8)
    board = board.at[0, 0, :3].set(1).at[0, 1, :3].set(-1)  # four at 3
    board = board.at[1, 0, 2:5].set(-1).at[1, 0, 1].set(1).at[1, 1, 2:4].set(1)  # the other has four at 5
    play = jax.jit(alphago.searching(SPEC, learned, lam, 200), compiler_options=QUICK)
    assert play(board, jax.vmap(GAME._observe)(board), jax.random.key(0)).tolist() == [3, 5]

"""MCTS against a slow tree of Python objects written from the survey's Algorithm 2, and against tic-tac-toe solved."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK

from polyak.algorithms import mcts
from polyak.envs.environment import rules
from polyak.envs.worlds.classic_control import CartPole
from polyak.envs.worlds.games import TicTacToe
from polyak.interface import Shown
from polyak.lab import games

GAME = TicTacToe()
SPEC = dataclasses.replace(GAME.spec, model=rules(GAME))


def observed(boards):
    """What the game shows on these boards [N, 9]."""
    return jax.vmap(GAME._observe)(jnp.asarray(boards, jnp.int32))


@functools.cache
def acting(cfg):
    """From memory and boards to moves and memory, without exploring."""

    def go(memory, boards):
        return mcts.act(cfg, SPEC, (), memory, Shown(observed(boards), boards), jax.random.key(0), False)[:2]

    return jax.jit(go, compiler_options=QUICK)


def fresh(cfg, count):
    return mcts.memory(cfg, SPEC, jnp.arange(count), jnp.zeros(count, jnp.int32), jax.random.key(0))


class Node:
    def __init__(self, board):
        self.board, self.child = board, {}
        self.visits, self.total = [0] * 9, [0.0] * 9


def playout(board, key):
    """The value of a uniform game to who is to move, with the draws of the algorithm's own keys."""
    sign, count = 1.0, 0
    total = 0.0
    while not games.over(board):
        key_move, _ = jax.random.split(jax.random.fold_in(key, count))
        logits = jnp.where(jnp.asarray(board) == 0, 0.0, -jnp.inf)
        board = games.after(board, int(jax.random.categorical(key_move, logits)))
        total += sign * (games.winner(board) != 0)
        sign, count = -sign, count + 1
    return total


def slow_search(board, simulations, constant, key):
    """Visits of the moves at the root, and the mean value of each."""
    root = Node(board)
    for number in range(simulations):
        _, key_rollout = jax.random.split(jax.random.fold_in(key, number))
        node, path = root, []
        while True:
            scores = {}
            for move in games.moves(node.board):
                n = node.visits[move]
                bound = math.sqrt(math.log(max(sum(node.visits), 1)) / max(n, 1))
                scores[move] = node.total[move] / n + constant * bound if n else math.inf
            move = max(scores, key=lambda each: scores[each])
            path.append((node, move))
            if move not in node.child:
                node.child[move] = Node(games.after(node.board, move))
                node = node.child[move]
                break
            node = node.child[move]
            if games.over(node.board):
                break
        value = 0.0 if games.over(node.board) else playout(node.board, key_rollout)
        for parent, move in reversed(path):
            won = games.winner(games.after(parent.board, move)) != 0
            value = won - value
            parent.visits[move] += 1
            parent.total[move] += value
    return np.array(root.visits), np.array(root.total)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_is_that_of_a_slow_tree(seed):
    """Every visit and every sum at the root, over 60 simulations from a board in the middle of a game."""
    board = [b for b in games.positions() if b.count(0) == 5 and not games.over(b)][7 + 100 * seed]
    cfg = mcts.Config(simulations=60, keep=False)
    _, memory = acting(cfg)(fresh(cfg, 1), jnp.asarray([board], jnp.int32))
    key = jax.random.split(jax.random.key(0), 1)[0]
    visits, total = slow_search(board, 60, cfg.exploration, key)
    np.testing.assert_array_equal(memory.visits[0, 0], visits)
    np.testing.assert_allclose(memory.total[0, 0], total, atol=1e-5)


def test_an_update_changes_nothing_but_a_counter():
    state = mcts.init(mcts.Config(), SPEC, jax.random.key(0))
    for number in range(3):
        batch = oracles.make_batch(2, SPEC.action, 4, 1.0, number)
        state = mcts.update(mcts.Config(), SPEC, state, batch, jax.random.key(number)).state
    assert int(state.clock.updates) == 3
    assert jax.tree.leaves(mcts.algorithm.actor(state)) == []


def test_values_are_kept_where_the_game_goes_on():
    """After a move and a reply the new root has what the old tree knew of that board, and nothing of it is lost."""
    cfg = mcts.Config(simulations=200)
    board = games.START
    move, before = acting(cfg)(fresh(cfg, 1), jnp.asarray([board], jnp.int32))
    tree = jax.tree.map(lambda x: np.asarray(x)[0], before)
    board = games.after(board, int(move[0]))
    middle = tree.child[0, int(move[0])]
    reply = int(tree.visits[middle].argmax())
    board = games.after(board, reply)
    node = tree.child[middle, reply]
    assert node > 0
    empty = mcts.empty(jnp.asarray(board, jnp.int32), 2 * cfg.simulations + 1, 9)
    kept = mcts.rerooted(jax.tree.map(jnp.asarray, tree), jnp.asarray(board, jnp.int32), empty)
    assert_same_tree(tree, int(node), jax.tree.map(np.asarray, kept), 0)
    _, after = acting(cfg)(before, jnp.asarray([board], jnp.int32))
    assert after.visits[0, 0].sum() == 200 + tree.visits[node].sum()


def assert_same_tree(tree, node, other, place):
    """The parts below two nodes are the same, numbers of nodes aside."""
    for name in ("legal", "over", "reward", "visits", "total", "world"):
        np.testing.assert_array_equal(getattr(tree, name)[node], getattr(other, name)[place])
    children = 0
    for action in range(9):
        a, b = int(tree.child[node, action]), int(other.child[place, action])
        assert (a < 0) == (b < 0)
        if a >= 0:
            assert (int(other.parent[b]), int(other.move[b])) == (place, action)
            children += 1
            assert_same_tree(tree, a, other, b)
    return children


def test_a_board_that_the_tree_does_not_know_begins_a_new_one():
    cfg = mcts.Config(simulations=20)
    _, memory = acting(cfg)(fresh(cfg, 1), jnp.asarray([games.START], jnp.int32))
    far = (1, -1, 1, -1, 1, -1, 0, 0, 0)
    _, memory = acting(cfg)(memory, jnp.asarray([far], jnp.int32))
    assert memory.visits[0, 0].sum() == 20
    np.testing.assert_array_equal(memory.world[0, 0], far)


def test_one_move_wins_and_one_move_saves():
    cfg = mcts.Config(simulations=200)
    boards = jnp.asarray([(1, 1, 0, -1, -1, 0, 0, 0, 0), (1, 1, 0, -1, 0, 0, 0, 0, 0)], jnp.int32)
    moves, _ = acting(cfg)(fresh(cfg, 2), boards)
    assert moves.tolist() == [2, 2]


def test_a_tree_that_is_full_goes_on_counting():
    cfg = mcts.Config(simulations=30)
    memory, board = fresh(cfg, 1), jnp.asarray([games.START], jnp.int32)
    for turn in range(1, 6):
        _, memory = acting(cfg)(memory, board)
        assert memory.visits[0, 0].sum() == 30 * turn
        assert int(memory.size[0]) <= 61
    assert int(memory.size[0]) == 61


def test_a_world_for_one_player_is_planned_in_too():
    """The pole falls to the right: pushing right is right."""
    env = CartPole()
    spec = dataclasses.replace(env.spec, model=rules(env))
    cfg = mcts.Config(simulations=60, rollout=30, exploration=5.0)
    state = jnp.asarray([[0.0, 0.0, 0.12, 1.0], [0.0, 0.0, -0.12, -1.0]])
    memory = mcts.memory(cfg, spec, jnp.arange(2), jnp.zeros(2, jnp.int32), jax.random.key(0))
    move = mcts.act(cfg, spec, (), memory, Shown(state, state), jax.random.key(0), False)[0]
    assert move.tolist() == [1, 0]


def test_its_thought_is_its_visits_and_the_mean_of_its_returns():
    """By hand: at the root 6 visits whose returns sum to 3, and 2 to -1; what lies below does not count."""
    tree = SimpleNamespace(
        visits=jnp.asarray([[[6.0, 0.0, 2.0], [9.0, 9.0, 9.0]]]),
        total=jnp.asarray([[[3.0, 0.0, -1.0], [-9.0, -9.0, -9.0]]]),
    )
    shares, value = mcts.thought(tree, ())  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(shares, [[0.75, 0.0, 0.25]])
    np.testing.assert_allclose(value, [0.25])

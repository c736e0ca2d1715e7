"""SDQN against slow float64 loops over the chain of dimensions of Metz et al. 2017."""

import dataclasses

import jax
import numpy as np
import oracles
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp

from polyak.algorithms import sdqn
from polyak.interface import Box, Spec
from polyak.pytree import copy

A, B = 3, 8
SPEC = Spec(obs=Box((2,)), action=Box((A,), -3.0, 3.0))
CFG = sdqn.Config(hidden=(4,), gamma=0.9, tau=0.2, lr=1e-2, bins=5, horizon=1000)


def start():
    """Targets that are not the online networks."""
    init = jax.jit(lambda key: sdqn.init(CFG, SPEC, key), compiler_options=QUICK)
    return init(jax.random.key(0)).replace(q_target=copy(init(jax.random.key(1)).q))


def bin_of(value):
    """The nearest of five, which divide [-1, 1] into four equal parts."""
    return min(range(5), key=lambda index: abs(value - value_of(index)))


def value_of(index):
    return -1.0 + 0.5 * index


class Slow:
    """Each dimension learns the best that the next can make of it, and the last one r + gamma max Q^1."""

    def __init__(self, state):
        self.q, self.q_target, self.adam = float64(state.q), float64(state.q_target), Adam(CFG.lr)

    def update(self, batch, key):
        index = [[bin_of(a) for a in row] for row in batch.action]
        seen = [[value_of(k) for k in row] for row in index]

        def values(nets, d, obs, before):
            return mlp(nets[d], np.concatenate([obs, before]))

        y = np.zeros((A, B))
        for i in range(B):
            for d in range(A - 1):
                y[d, i] = values(self.q_target, d + 1, batch.obs[i], seen[i][: d + 1]).max()
            future = CFG.gamma * values(self.q_target, 0, batch.next_obs[i], []).max()
            y[A - 1, i] = batch.reward[i] + (0.0 if batch.terminated[i] else future)

        def loss(nets):
            total = 0.0
            for d in range(A):
                for i in range(B):
                    chosen = values(nets, d, batch.obs[i], seen[i][:d])[index[i][d]]
                    total += batch.weight[i] * (chosen - y[d, i]) ** 2 / B
            return total

        self.q = self.adam.step(self.q, finite_differences(loss, self.q))
        self.q_target = averaged(CFG.tau, self.q, self.q_target)


def test_three_updates_pass_values_down_the_chain():
    update = jax.jit(lambda *args: sdqn.update(CFG, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, CFG.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, start(), Slow(start()), batches)


def test_the_values_of_the_bins_reach_from_bound_to_bound():
    index = np.arange(5)
    np.testing.assert_allclose(sdqn.level(CFG, index), [-1.0, -0.5, 0.0, 0.5, 1.0], atol=1e-6)
    np.testing.assert_array_equal(sdqn.nearest_bin(CFG, sdqn.level(CFG, index)), index)
    np.testing.assert_array_equal(
        sdqn.nearest_bin(CFG, np.array([-1.0, -0.74, 0.24, 0.76, 1.0])), [0, 1, 2, 4, 4]
    )


def test_without_exploring_each_dimension_is_the_best_given_those_before():
    state, obs = start(), np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    action = np.asarray(sdqn.act(CFG, SPEC, sdqn.actor(state), (), obs, jax.random.key(0), False)[0])
    for i in range(6):
        for d in range(A):
            best = mlp(state.q[d], np.concatenate([obs[i], action[i, :d]])).argmax()
            np.testing.assert_allclose(action[i, d], value_of(best), atol=1e-6)


def test_epsilon_is_the_share_of_uniform_bins_in_each_dimension():
    cfg = dataclasses.replace(CFG, epsilon=0.5, epsilon_end=0.5)
    state, obs = start(), np.zeros((4000, 2), np.float32)
    greedy = np.asarray(sdqn.act(cfg, SPEC, sdqn.actor(state), (), obs[:1], jax.random.key(0), False)[0])
    action = np.asarray(sdqn.act(cfg, SPEC, sdqn.actor(state), (), obs, jax.random.key(0), True)[0])
    share = (np.abs(action[:, 0] - greedy[0, 0]) < 1e-6).mean()
    assert 0.57 < share < 0.63  # 1/2 greedy, and a fifth of the rest

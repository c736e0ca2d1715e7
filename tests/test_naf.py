"""NAF against slow float64 loops written from Algorithm 1 and section 4 of Gu et al. 2016."""

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp

from polyak.algorithms import naf
from polyak.interface import Box, Spec
from polyak.pytree import copy

A, B = 3, 8
SPEC = Spec(obs=Box((2,)), action=Box((A,), -3.0, 3.0))
CFG = naf.Config(hidden=(4,), gamma=0.9, tau=0.2, lr=1e-2)


def start():
    """A target that is not the online network."""
    init = jax.jit(lambda key: naf.init(CFG, SPEC, key), compiler_options=QUICK)
    return init(jax.random.key(0)).replace(q_target=copy(init(jax.random.key(1)).q))


def parts(net, obs):
    """V, mu and P = L L^T of one state."""
    out = mlp(net, obs)
    lower, k = np.zeros((A, A)), 1 + A
    for row in range(A):
        for column in range(row + 1):
            lower[row, column] = np.exp(out[k]) if row == column else out[k]
            k += 1
    assert k == len(out)
    return out[0], np.tanh(out[1 : 1 + A]), lower @ lower.T


def q_of(net, obs, action):
    value, mu, P = parts(net, obs)
    return value - 0.5 * (action - mu) @ P @ (action - mu)


class Slow:
    """Algorithm 1, one row after the other."""

    def __init__(self, state):
        self.q, self.q_target = float64(state.q), float64(state.q_target)
        self.adam = Adam(CFG.lr, max_norm=CFG.max_norm)

    def update(self, batch, key):
        future = [CFG.gamma * parts(self.q_target, batch.next_obs[i])[0] for i in range(B)]
        y = [batch.reward[i] + (0.0 if batch.terminated[i] else future[i]) for i in range(B)]

        def loss(net):
            errors = [q_of(net, batch.obs[i], batch.action[i].astype(float)) - y[i] for i in range(B)]
            return (batch.weight * np.square(errors)).mean()

        self.q = self.adam.step(self.q, finite_differences(loss, self.q))
        self.q_target = averaged(CFG.tau, self.q, self.q_target)


def test_three_updates_are_those_of_algorithm_1():
    update = jax.jit(lambda *args: naf.update(CFG, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, CFG.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, start(), Slow(start()), batches)


@pytest.mark.parametrize("seed", range(3))
def test_mu_is_the_action_of_the_largest_value_and_v_is_that_value(seed):
    q, rng = start().q, np.random.default_rng(seed)
    obs = rng.normal(size=2).astype(np.float32)
    value, mu, lower = naf.heads(q, A, obs)
    np.testing.assert_allclose(naf.action_value(q, obs, mu), value, rtol=1e-6)
    around = np.clip(mu + rng.normal(scale=0.3, size=(500, A)), -1, 1).astype(np.float32)
    assert (naf.action_value(q, np.broadcast_to(obs, (500, 2)), around) <= value + 1e-6).all()
    assert (np.diagonal(lower) > 0).all()
    np.testing.assert_array_equal(np.triu(lower, 1), 0)
    quiet = naf.act(CFG, SPEC, q, (), obs[None], jax.random.key(0), False)[0]
    np.testing.assert_allclose(quiet[0], mu, rtol=1e-6)

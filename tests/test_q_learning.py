"""Q-learning against a slow float64 loop written from Sutton & Barto 2018, page 131."""

import dataclasses
import functools

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, float64, mlp, mlp_gradient

from polyak.algorithms import q_learning
from polyak.interface import Box, Discrete, OnPolicy, Spec

N = 3
CFG = q_learning.Config(hidden=(4,), gamma=0.8, lr=0.02, horizon=100, data=OnPolicy(steps=1))
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)
TABLE = q_learning.Config(gamma=0.8, lr=0.5, rule="sgd", network="linear", init_scale=0.0)
CELLS = Spec(Discrete(4), Discrete(2), num_envs=1)


@functools.cache
def start():
    state, rng = q_learning.init(CFG, SPEC, jax.random.key(0)), np.random.default_rng(0)
    move = lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype)  # noqa: E731
    return state.replace(q=jax.tree.map(move, state.q))


class Slow:
    """The book's update with a network in the place of the table; the gradient stops at the target."""

    def __init__(self, cfg, state):
        self.cfg, self.q, self.updates = cfg, float64(state.q), 0
        self.adam = Adam(cfg.lr)

    def update(self, batch, key):
        x = batch.obs.reshape(-1, 2)
        slope = np.zeros((len(x), 3))
        for i, (obs, action) in enumerate(zip(x, batch.action.ravel(), strict=True)):
            reward, after = batch.reward.ravel()[i], 0.0
            if not batch.terminated.ravel()[i]:
                after = mlp(self.q, batch.next_obs.reshape(-1, 2)[i]).max()
            slope[i, action] = (mlp(self.q, obs)[action] - (reward + self.cfg.gamma * after)) / len(x)
        grads = mlp_gradient(self.q, x, slope)[0]
        if self.cfg.rule == "adam":
            self.q = self.adam.step(self.q, unflat(self.q, grads))
        else:
            self.q = jax.tree.map(lambda p, g: p - self.cfg.lr * g, self.q, unflat(self.q, grads))
        self.updates += 1


def unflat(net, layers):
    """A network of these weights and biases."""
    return jax.tree.unflatten(jax.tree.structure(net), [x for pair in layers for x in pair])


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_three_updates_are_those_of_the_book_with_a_network(rule):
    cfg, state = dataclasses.replace(CFG, rule=rule), start()
    state = state.replace(opt_state=q_learning.rule(rule).init(state.q))
    update = jax.jit(lambda *args: q_learning.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.as_batch(oracles.rows(2, SPEC.action, (2, N), seed), CFG.gamma) for seed in range(3)]

    class Followed(Slow):
        """`assert_follows` wants two fields; the second is the optimiser's first moment, where there is one."""

        def update(self, batch, key):
            super().update(batch, key)
            self.clock = state.clock._replace(updates=self.updates)

    oracles.assert_follows(update, state, Followed(cfg, state), batches)


def test_a_discrete_observation_and_a_linear_network_are_the_books_table():
    """Page 131 itself, over 60 random transitions of one environment, one after the other."""
    state, rng = q_learning.init(TABLE, CELLS, jax.random.key(0)), np.random.default_rng(0)
    table = np.zeros((4, 2))
    np.testing.assert_array_equal(state.q.weight, table)
    update = jax.jit(lambda *args: q_learning.update(TABLE, CELLS, *args).state, compiler_options=QUICK)
    for seed in range(60):
        rows = jax.tree.map(
            lambda x, at=seed % 3: x[at : at + 1], oracles.rows(1, CELLS.action, (3, 1), seed)
        )
        cell, after = rng.integers(4, size=(2, 1, 1)).astype(np.int32)
        batch = oracles.as_batch(rows._replace(obs=cell, next_obs=after), TABLE.gamma)
        s, a, end = cell[0, 0], batch.action[0, 0], batch.terminated[0, 0]
        best = 0.0 if end else table[after[0, 0]].max()
        table[s, a] += 0.5 * (float(batch.reward[0, 0]) + 0.8 * best - table[s, a])
        state = update(state, batch, jax.random.key(0))
        np.testing.assert_allclose(state.q.weight, table, rtol=1e-5, atol=1e-6)
    assert np.abs(table).min() > 0


def test_it_acts_at_random_first_and_then_nearly_greedily():
    spec = dataclasses.replace(SPEC, num_envs=4000)
    state, obs = start(), np.ones((4000, 2), np.float32)
    best = int(np.argmax(mlp(state.q, obs[0])))
    act = jax.jit(lambda actor, key: q_learning.act(CFG, spec, actor, (), obs, key, True)[0])
    for steps, epsilon in ((0, 1.0), (10, 0.525), (20, 0.05), (90, 0.05)):
        actor = q_learning.Actor(state.q, state.clock.at(steps))
        share = float((act(actor, jax.random.key(steps)) == best).mean())
        assert abs(share - (1 - epsilon * 2 / 3)) < 0.03
    greedy = q_learning.act(CFG, spec, q_learning.Actor(state.q, state.clock), (), obs, None, False)[0]
    assert (np.asarray(greedy) == best).all()

"""Finite differences against exact slopes, and against a slow loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK

from polyak.algorithms import finite_difference
from polyak.interface import Box, Discrete, OnPolicy, Spec

N = 2
CFG = finite_difference.Config(hidden=(), gamma=0.9, population=6, data=OnPolicy(episodes=3))
SPEC = Spec(Box((2,)), Discrete(2), num_envs=N)
D = 6


def start(cfg=CFG):
    return finite_difference.init(cfg, SPEC, jax.random.key(0))


class Slow:
    """Three of six parameters in each generation, in turn."""

    def __init__(self, cfg, state):
        self.cfg, self.params, self.turn = cfg, np.asarray(state.params, float), 0
        self.clock = jax.tree.map(np.asarray, state.clock)

    def update(self, batch, key):
        value = oracles.member_returns(self.cfg, batch)
        slopes = [[] for _ in range(D)]
        for pair in range(self.cfg.population // 2):
            slopes[self.turn].append((value[2 * pair] - value[2 * pair + 1]) / (2 * self.cfg.epsilon))
            self.turn = (self.turn + 1) % D
        gradient = np.array([np.mean(each) if each else 0.0 for each in slopes])
        scale = np.linalg.norm(gradient) if self.cfg.normalize else 1.0
        self.params = self.params + self.cfg.lr * gradient / scale
        self.clock = self.clock._replace(updates=self.clock.updates + 1)


@pytest.mark.parametrize(("size", "normalize"), [(6, True), (6, False), (12, False), (16, True)])
def test_its_updates_are_those_of_a_slow_loop(size, normalize):
    """With half of the parameters in each generation, all of them, and some of them twice."""
    cfg = dataclasses.replace(CFG, population=size, normalize=normalize, data=OnPolicy(episodes=size // 2))
    update = jax.jit(lambda *args: finite_difference.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.generation(cfg, N, rollout) for rollout in range(4)]
    oracles.assert_follows(update, start(), Slow(cfg, start()), batches, atol=1e-5)


def test_candidates_differ_in_one_parameter():
    cfg, state = dataclasses.replace(CFG, population=2 * D), start()
    points = jax.vmap(lambda i: finite_difference.candidate(cfg, finite_difference.actor(state), i))
    moved = points(jnp.arange(2 * D)) - state.params
    want = np.stack([sign * cfg.epsilon * np.eye(D)[k] for k in range(D) for sign in (1, -1)])
    np.testing.assert_allclose(moved, want, atol=1e-6)


def test_the_slope_of_a_quadratic_is_exact():
    """Central differences have no error in a polynomial of the second degree, however large epsilon is."""
    cfg, state = dataclasses.replace(CFG, population=2 * D), start()
    rng = np.random.default_rng(0)
    matrix, slope = rng.normal(size=(D, D)), rng.normal(size=D)

    def value(x):
        return slope @ x - x @ (matrix @ matrix.T) @ x

    points = [
        finite_difference.candidate(cfg, finite_difference.actor(state), i) for i in range(cfg.population)
    ]
    values = jnp.array([value(np.asarray(x, float)) for x in points], jnp.float32)
    found = finite_difference.gradient(cfg, state, values)
    want = slope - 2 * matrix @ matrix.T @ np.asarray(state.params, float)
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)


def test_an_odd_population_is_refused():
    cfg = dataclasses.replace(CFG, population=5, data=OnPolicy(episodes=5))
    assert finite_difference.wrong(cfg, SPEC) == ["population is 5, but must be even"]

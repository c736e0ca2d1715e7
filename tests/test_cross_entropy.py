"""The cross-entropy method against a slow loop of Szita & Lorincz 2006."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from auditing import QUICK

from polyak.algorithms import cross_entropy
from polyak.interface import Box, Discrete, OnPolicy, Spec

N = 2
CFG = cross_entropy.Config(
    **{"hidden": (3,), "gamma": 0.9, "population": 6, "elites": 3, "sigma": 0.4},
    **{"extra": 0.2, "extra_generations": 4, "data": OnPolicy(episodes=3)},
)
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)


class Slow:
    """Section 2: sort, take the best, fit, add noise to the variance."""

    def __init__(self, state):
        self.mean, self.std = np.asarray(state.mean, float), np.asarray(state.std, float)
        self.noise, self.generation = state.noise, 0

    def update(self, batch, key):
        value = oracles.member_returns(CFG, batch)
        samples = [self.mean + self.std * oracles.gaussian(self.noise, i, len(self.mean)) for i in range(6)]
        elite = [samples[i] for i in sorted(range(6), key=lambda i: -value[i])[:3]]
        self.mean = sum(elite) / 3
        variance = sum((x - self.mean) ** 2 for x in elite) / 3
        self.std = np.sqrt(variance + max(0.0, 0.2 - 0.05 * self.generation))
        self.noise, self.generation = jax.random.key_data(key), self.generation + 1


def test_its_updates_are_those_of_a_slow_loop():
    state = jax.jit(lambda key: cross_entropy.init(CFG, SPEC, key))(jax.random.key(0))
    update = jax.jit(lambda *args: cross_entropy.update(CFG, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.generation(CFG, N, rollout) for rollout in range(6)]
    oracles.assert_follows(update, state, Slow(state), batches, atol=1e-5)


def test_what_is_logged_is_the_elites():
    state = cross_entropy.init(CFG, SPEC, jax.random.key(0))
    value = jnp.array([0.0, 5.0, 1.0, 4.0, 3.0, 2.0])
    elite = np.stack([cross_entropy.candidate(CFG, cross_entropy.actor(state), i) for i in (1, 3, 4)])
    after, metrics = cross_entropy.tell(CFG, state, value, jax.random.key(1))
    assert (metrics["best_return"], metrics["elite_return"], metrics["level"]) == (5, 4, 3)
    np.testing.assert_allclose(metrics["elite_norm"], np.linalg.norm(elite.mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(metrics["elite_variance"], elite.var(axis=0).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["spread"], after.std.mean(), rtol=1e-6)


def test_more_elites_than_samples_are_refused():
    (line,) = cross_entropy.wrong(dataclasses.replace(CFG, elites=7), SPEC)
    assert line == "elites is 7, but must be at most population, 6"

"""OpenAI-ES against a slow loop of Salimans et al. 2017, Algorithm 1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK, drive, state_of
from oracles import Adam
from scipy.stats import rankdata

from polyak.algorithms import find, openai_es
from polyak.drivers import program
from polyak.envs.find import find as find_env
from polyak.interface import Box, Discrete, OnPolicy, Spec

N = 2
CFG = openai_es.Config(
    **{"hidden": (3,), "gamma": 0.9, "population": 6, "sigma": 0.3, "lr": 0.05, "decay": 0.1},
    data=OnPolicy(episodes=3),
)
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)


class Slow:
    """Algorithm 1 with mirrored sampling, ranks, weight decay and Adam."""

    def __init__(self, state):
        self.params, self.noise = np.asarray(state.params, float), state.noise
        self.adam = Adam(CFG.lr)

    def update(self, batch, key):
        n = CFG.population
        shaped = (rankdata(oracles.member_returns(CFG, batch)) - 1) / (n - 1) - 0.5
        gradient = np.zeros_like(self.params)
        for i in range(n):
            mirror = 1 if i % 2 == 0 else -1
            epsilon = mirror * oracles.gaussian(self.noise, i // 2, len(self.params))
            gradient += shaped[i] * epsilon / (n * CFG.sigma)
        self.params = self.adam.step(self.params, -gradient + CFG.decay * self.params)
        self.noise = jax.random.key_data(key)


def start():
    return jax.jit(lambda key: openai_es.init(CFG, SPEC, key))(jax.random.key(0))


def test_its_updates_are_those_of_algorithm_1():
    update = jax.jit(lambda *args: openai_es.update(CFG, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.generation(CFG, N, rollout) for rollout in range(5)]
    oracles.assert_follows(update, start(), Slow(start()), batches, atol=1e-5)


@pytest.mark.usefixtures("compiled_as_used")
def test_a_drivers_program_moves_theta_by_the_perturbations_that_were_played(monkeypatch):
    """XLA once replaced the key before the loop that makes the perturbations again, and left out a copy of it."""
    cfg = dataclasses.replace(CFG, hidden=(), population=4, data=OnPolicy(episodes=2))

    def moved():
        driver = drive(find("openai_es"), cfg, find_env("Pendulum-v1"), num_envs=N)
        return np.asarray(state_of(driver.advance(driver.start(), 1)).params)

    told = moved()
    for option in program.WITH_RING:
        monkeypatch.setitem(program.COMPILER_OPTIONS, option, False)
    np.testing.assert_array_equal(told, moved())


def test_candidates_come_in_mirrored_pairs():
    state = start()
    actor = openai_es.actor(state)
    for pair in range(3):
        plus, minus = (openai_es.candidate(CFG, actor, 2 * pair + i) for i in (0, 1))
        np.testing.assert_allclose((plus + minus) / 2, state.params, atol=1e-6)
        epsilon = oracles.gaussian(state.noise, pair, len(state.params))
        np.testing.assert_allclose((plus - minus) / (2 * CFG.sigma), epsilon, atol=1e-5)


def test_the_gradient_of_a_linear_function_is_found():
    """With many candidates and without ranks in the way: the direction of theta's own slope."""
    cfg, state = dataclasses.replace(CFG, population=4000, decay=0.0), start()
    slope = np.random.default_rng(0).normal(size=state.params.shape).astype(np.float32)
    actor = openai_es.actor(state)
    points = jax.vmap(lambda i: openai_es.candidate(cfg, actor, i))(jnp.arange(4000))
    value = points @ slope
    _, metrics = openai_es.tell(cfg, state, value, jax.random.key(1))
    # E[rank(s^T eps) eps] / sigma has the length E[|Phi(z) - 1/2| |z|] = 1 / (2 sqrt(pi)), over sigma
    np.testing.assert_allclose(metrics["gradient_norm"], 0.5 / np.sqrt(np.pi) / cfg.sigma, rtol=0.05)


def test_no_array_has_a_row_of_parameters_for_each_candidate():
    """The search's memory does not grow with the population."""
    cfg, state = dataclasses.replace(CFG, population=1000), start()
    step = jax.jit(lambda state, value, key: openai_es.tell(cfg, state, value, key))
    text = step.lower(state, jnp.zeros(1000), jax.random.key(0)).compile().as_text()
    size = len(state.params)
    assert f"{size}]" in text
    for rows in (1000, 500):
        assert f"[{rows},{size}]" not in text
        assert f"[{size},{rows}]" not in text


def test_an_odd_population_is_refused():
    cfg = dataclasses.replace(CFG, population=5, data=OnPolicy(episodes=5))
    assert openai_es.wrong(cfg, SPEC) == ["population is 5, but must be even"]

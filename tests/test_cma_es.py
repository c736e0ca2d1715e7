"""CMA-ES against a slow loop of the tutorial's figure 6, and on functions whose optimum is known."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK

from polyak.algorithms import cma_es
from polyak.interface import Box, Discrete, OnPolicy, Spec

N = 2
CFG = cma_es.Config(hidden=(), gamma=0.9, population=8, sigma=0.4, data=OnPolicy(episodes=4))
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)


class Slow:
    """Equations 38 to 58, sum by sum, with an eigendecomposition of its own."""

    def __init__(self, state):
        self.mean, self.sigma = np.asarray(state.mean, float), float(state.sigma)
        n = len(self.mean)
        self.covariance, self.path_sigma, self.path_c = np.eye(n), np.zeros(n), np.zeros(n)
        self.noise, self.g, self.axes, self.scales = state.noise, 0, np.eye(n), np.ones(n)

    def update(self, batch, key):
        value, lam, n = oracles.member_returns(CFG, batch), CFG.population, len(self.mean)
        w = [np.log((lam + 1) / 2) - np.log(i) for i in range(1, lam + 1)]
        mu = lam // 2
        mu_eff = sum(w[:mu]) ** 2 / sum(x**2 for x in w[:mu])
        mu_minus = sum(w[mu:]) ** 2 / sum(x**2 for x in w[mu:])
        c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
        d_sigma = 1 + 2 * max(0, np.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma
        c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
        c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
        c_mu = min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))
        alpha = min(1 + c_1 / c_mu, 1 + 2 * mu_minus / (mu_eff + 2), (1 - c_1 - c_mu) / n / c_mu)
        up, down = sum(x for x in w if x > 0), -sum(x for x in w if x < 0)
        w = [x / up if x >= 0 else alpha * x / down for x in w]
        chi = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))

        y = [self.axes @ (self.scales * oracles.gaussian(self.noise, i, n)) for i in range(lam)]
        y = [y[i] for i in sorted(range(lam), key=lambda i: -value[i])]
        root = np.linalg.inv(self.axes @ np.diag(self.scales) @ self.axes.T)  # C^-1/2
        step = sum(w[i] * y[i] for i in range(mu))
        self.mean = self.mean + self.sigma * step
        self.path_sigma = (1 - c_sigma) * self.path_sigma
        self.path_sigma = self.path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mu_eff) * root @ step
        length = np.linalg.norm(self.path_sigma)
        self.sigma *= np.exp(c_sigma / d_sigma * (length / chi - 1))
        self.g += 1
        h = length / np.sqrt(1 - (1 - c_sigma) ** (2 * self.g)) < (1.4 + 2 / (n + 1)) * chi
        self.path_c = (1 - c_c) * self.path_c + h * np.sqrt(c_c * (2 - c_c) * mu_eff) * step
        rank_mu = np.zeros((n, n))
        for i in range(lam):
            weight = w[i] if w[i] >= 0 else w[i] * n / np.linalg.norm(root @ y[i]) ** 2
            rank_mu += weight * np.outer(y[i], y[i])
        forgets = 1 + c_1 * (not h) * c_c * (2 - c_c) - c_1 - c_mu * sum(w)
        self.covariance = (
            forgets * self.covariance + c_1 * np.outer(self.path_c, self.path_c) + c_mu * rank_mu
        )
        values, self.axes = np.linalg.eigh(self.covariance)
        self.scales = np.sqrt(values)
        self.noise = jax.random.key_data(key)


class Followed(Slow):
    """The slow loop with the algorithm's own eigenvectors: their signs, and those of equal values, are free."""

    def __init__(self, state):
        super().__init__(state)
        self.own = state

    def update(self, batch, key):
        self.axes = np.asarray(self.own.axes, float)
        super().update(batch, key)
        self.own = compiled()(self.own, batch, jax.random.clone(key)).state
        values, axes = np.square(np.asarray(self.own.scales, float)), np.asarray(self.own.axes, float)
        np.testing.assert_allclose(axes @ np.diag(values) @ axes.T, self.covariance, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-5)
        self.axes = axes


@functools.cache
def compiled():
    return jax.jit(lambda *args: cma_es.update(CFG, SPEC, *args), compiler_options=QUICK)


def test_its_updates_are_those_of_the_tutorial():
    state = jax.jit(lambda key: cma_es.init(CFG, SPEC, key))(jax.random.key(0))
    batches = [oracles.generation(CFG, N, rollout) for rollout in range(6)]
    oracles.assert_follows(compiled(), state, Followed(state), batches, atol=1e-4)


def test_a_long_step_stalls_the_path_of_c():
    """h_sigma is 0 where p_sigma is long: C then forgets less, and p_c does not grow."""
    state = cma_es.init(CFG, SPEC, jax.random.key(0))
    n = len(state.mean)
    state = state.replace(path_sigma=jnp.full(n, 10.0), path_c=jnp.full(n, 0.5))
    s = cma_es.strategy(n, CFG.population)
    after, _ = cma_es.tell(CFG, state, jnp.arange(8.0), jax.random.key(1))
    np.testing.assert_allclose(after.path_c, (1 - s.c_c) * 0.5, rtol=1e-5)


@pytest.mark.parametrize("n", [2, 10, 50])
@pytest.mark.parametrize("samples", [4, 7, 20])
def test_the_default_weights_keep_c_positive(n, samples):
    """Positive weights sum to 1; with all negative ones C's eigenvalues stay above 0, equation 52."""
    s = cma_es.strategy(n, samples)
    positive = s.weights[s.weights > 0]
    assert len(positive) == s.mu
    np.testing.assert_allclose(positive.sum(), 1.0)
    np.testing.assert_allclose(s.mu_eff, 1 / (positive**2).sum())
    assert (np.diff(s.weights) < 0).all()
    assert 1 - s.c_1 - s.c_mu + n * s.c_mu * s.weights[s.weights < 0].sum() >= -1e-12


def ellipsoid(x):
    return (10.0 ** (6 * jnp.arange(len(x)) / (len(x) - 1)) * x**2).sum()


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize(("function", "limit"), [(ellipsoid, 2_000), (rosenbrock, 3_000)])
def test_badly_scaled_and_curved_functions_are_minimised(function, limit):
    """pycma 4.5.0 needs about 1,350 and 1,750 evaluations in five dimensions."""
    cfg = dataclasses.replace(CFG, population=8, sigma=0.5)

    def generation(carry, key):
        state, best = carry
        x = jax.vmap(lambda i: cma_es.candidate(cfg, cma_es.actor(state), i))(jnp.arange(8))
        value = jax.vmap(function)(x)
        state, _ = cma_es.tell(cfg, state, -value, key)
        return (state, jnp.minimum(best, value.min())), None

    state = cma_es.start(cfg, jnp.full(5, 0.1), jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), limit // 8)
    (_, best), _ = jax.jit(lambda *args: jax.lax.scan(generation, *args))((state, jnp.inf), keys)
    assert best < 1e-8

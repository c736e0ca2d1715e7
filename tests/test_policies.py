"""Kinds of policies, in every algorithm that lets one choose `sigma`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from cases import CASE
from scipy import stats

from polyak.algorithms import find, names
from polyak.drivers.learn import on_policy_batch
from polyak.interface import Box, Discrete, Spec, Transition
from polyak.parts.policies import BetaPolicy, FullGaussian, Softmax, build_policy

SPEC = Spec(Box((3,)), Box((3,), -1.0, 1.0), time_limit=20, num_envs=2)
T, N = 8, 2
CHOOSING = [name for name in names() if getattr(find(name).Config(), "sigma", None) == "parameter"]


def rollout(algorithm, cfg, state):
    rng = np.random.default_rng(0)
    obs, next_obs = (rng.normal(size=(T, N, 3)).astype(np.float32) for _ in range(2))
    action, _, extras = algorithm.act(
        cfg, SPEC, algorithm.actor(state), (), obs.reshape(-1, 3), jax.random.key(3), True
    )
    extras = jax.tree.map(lambda x: x.reshape(T, N), extras)
    reward, never = rng.normal(size=(T, N)).astype(np.float32), np.zeros((T, N), bool)
    return Transition(obs, action.reshape(T, N, 3), reward, next_obs, never, never, extras)


def one_update(name, **options):
    """The state before and after an update with these settings."""
    algorithm = find(name)
    cfg = dataclasses.replace(CASE[name].config(CASE[name].data({"steps": T}, {}), minibatch=8), **options)
    state = algorithm.init(cfg, SPEC, jax.random.key(0))
    batch = on_policy_batch(rollout(algorithm, cfg, state), cfg.gamma, None)
    update = jax.jit(lambda *args: algorithm.update(cfg, SPEC, *args), compiler_options=QUICK)
    made = update(state, batch, jax.random.key(1))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(made))
    return state, made


@pytest.mark.parametrize("name", CHOOSING)
def test_a_beta_is_learned_wherever_sigma_is_chosen(name):
    state, made = one_update(name, policy="beta")
    assert isinstance(state.policy, BetaPolicy)
    before, after = (np.asarray(s.policy.net.layers[-1].bias) for s in (state, made.state))
    assert before.size == 6
    assert (before != after).all()


@pytest.mark.parametrize("name", CHOOSING)
def test_a_full_covariance_is_learned_wherever_sigma_is_chosen(name):
    state, made = one_update(name, sigma="full", log_sigma=-0.5)
    assert isinstance(state.policy, FullGaussian)
    before, after = (np.asarray(s.policy.net.layers[-1].bias) for s in (state, made.state))
    below = before[6:] != after[6:]  # mu and log sigma have three outputs each
    assert below.all()
    np.testing.assert_array_equal(made.state.policy.log_sigma, state.policy.log_sigma)


def test_there_are_algorithms_that_let_one_choose():
    assert "ppo" in CHOOSING
    assert len(CHOOSING) >= 5


def test_a_full_gaussian_has_the_factor_that_its_network_says():
    outputs = jnp.array([0.1, 0.2, 0.3, 0.0, 0.5, -0.5, 2.0, -1.0, 3.0])  # mu, log sigma, N row by row
    policy = build_policy(
        lambda n: lambda obs: jnp.broadcast_to(outputs[:n], (len(obs), n)), SPEC.action, "full"
    )
    pi = policy(np.zeros((2, 3)))
    sigma, n = np.exp([0.0, 0.5, -0.5]), np.array([[1, 0, 0], [2.0, 1, 0], [-1.0, 3.0, 1]])
    factor = sigma[:, None] * n
    np.testing.assert_allclose(pi.factor[0], factor, rtol=1e-6)
    want = stats.multivariate_normal([0.1, 0.2, 0.3], factor @ factor.T).logpdf([0.5, 0.0, 1.0])
    np.testing.assert_allclose(pi.log_prob(jnp.array([0.5, 0.0, 1.0])), want, rtol=1e-5)


def test_a_discrete_action_has_no_covariance():
    assert isinstance(build_policy(lambda n: n, Discrete(4), "full"), Softmax)


def test_a_beta_has_one_peak_whatever_its_network_says():
    outputs = jnp.array([-50.0, 0.0, 3.0, -50.0, 1.0, -2.0])  # what alpha is made of, and beta
    policy = build_policy(
        lambda n: lambda obs: jnp.broadcast_to(outputs[:n], (len(obs), n)), SPEC.action, family="beta"
    )
    pi = policy(np.zeros((2, 3)))
    np.testing.assert_allclose(pi.alpha[0], 1 + np.log1p(np.exp([-50.0, 0.0, 3.0])), rtol=1e-6)
    np.testing.assert_allclose(pi.beta[0], 1 + np.log1p(np.exp([-50.0, 1.0, -2.0])), rtol=1e-6)
    assert np.isfinite(pi.mode()).all()
    assert isinstance(build_policy(lambda n: n, Discrete(4), family="beta"), Softmax)

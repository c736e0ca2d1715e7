"""DPG against slow float64 loops written from section 4.3 of Silver et al. 2014, and in its own worlds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import finite_differences, float64, mlp

from polyak.algorithms import dpg
from polyak.envs.find import find
from polyak.interface import Box, Spec

A, B = 2, 6
SPEC = Spec(obs=Box((2,)), action=Box((A,), -3.0, 3.0))
CFG = dpg.Config(
    hidden=(3,), gamma=0.9, actor_lr=0.1, advantage_lr=0.2, value_lr=0.05, correction_lr=0.3, sigma=0.5
)


def start(spec=SPEC):
    """Weights w and u that are not 0."""
    init = jax.jit(lambda key: dpg.init(CFG, spec, key), compiler_options=QUICK)
    state, w, u = (init(jax.random.key(seed)) for seed in range(3))
    return state.replace(advantage=w.actor, correction=u.actor)


class Slow:
    """COPDAC-Q and COPDAC-GQ, one row after the other; gradients by finite differences."""

    def __init__(self, cfg, spec, state):
        self.cfg, self.squash = cfg, np.tanh if np.isfinite(spec.action.high) else lambda x: x
        for name in ("actor", "advantage", "value", "correction"):
            setattr(self, name, float64(getattr(state, name)))

    def mu(self, actor, obs):
        return self.squash(mlp(actor, obs))

    def features(self, obs, away):
        """phi(s, a) = grad mu(s) (a - mu(s))."""
        return finite_differences(lambda actor: self.mu(actor, obs) @ away, self.actor)

    def update(self, batch, key):
        cfg, total = self.cfg, {name: [] for name in ("actor", "advantage", "value", "correction")}
        for i in range(B):
            obs, after, weight = batch.obs[i], batch.next_obs[i], float(batch.weight[i])
            phi = self.features(obs, batch.action[i] - self.mu(self.actor, obs))
            future = 0.0 if batch.terminated[i] else cfg.gamma * mlp(self.value, after)[0]
            delta = batch.reward[i] + future - dot(phi, self.advantage) - mlp(self.value, obs)[0]
            # grad mu (grad mu^T w): the features of an action that is mu + grad mu^T w
            slope = np.array([dot(self.features(obs, each), self.advantage) for each in np.eye(A)])
            total["actor"].append(scaled(self.features(obs, slope), weight))
            total["advantage"].append(scaled(phi, weight * delta))
            grad = finite_differences(lambda value, obs=obs: mlp(value, obs)[0], self.value)
            total["value"].append(scaled(grad, weight * delta))
            if cfg.critic == "gq":
                seen = dot(phi, self.correction)
                gamma = 0.0 if batch.terminated[i] else cfg.gamma
                grad = finite_differences(lambda value, after=after: mlp(value, after)[0], self.value)
                total["value"].append(scaled(grad, -weight * gamma * seen))
                total["correction"].append(scaled(phi, weight * (delta - seen)))
        rates = (cfg.actor_lr, cfg.advantage_lr, cfg.value_lr, cfg.correction_lr)
        for (name, steps), rate in zip(total.items(), rates, strict=True):
            if name == "actor" and cfg.natural:
                steps = [scaled(self.advantage, B)]  # which moves after theta
            for step in steps:
                moved = jax.tree.map(lambda x, s, rate=rate: x + rate * s / B, getattr(self, name), step)
                setattr(self, name, moved)


def dot(a, b):
    return sum((x * y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def scaled(tree, number):
    return jax.tree.map(lambda x: number * x, tree)


@pytest.mark.parametrize(
    ("critic", "natural", "action"),
    [("q", False, SPEC.action), ("gq", False, Box((A,))), ("q", True, Box((A,)))],
    ids=["COPDAC-Q", "COPDAC-GQ, no bounds", "natural"],
)
def test_three_updates_are_those_of_section_4_3(critic, natural, action):
    cfg = dataclasses.replace(CFG, critic=critic, natural=natural)
    spec = dataclasses.replace(SPEC, action=action)
    update = jax.jit(lambda *args: dpg.update(cfg, spec, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, cfg.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, start(spec), Slow(cfg, spec, start(spec)), batches)


def test_the_behaviour_is_gaussian_around_mu_and_knows_the_bounds_that_there_are():
    obs = np.ones((4000, 2), np.float32)
    for action in (SPEC.action, Box((A,))):
        spec = dataclasses.replace(SPEC, action=action)
        actor = jax.tree.map(lambda x: 3 * x, start(spec).actor)
        cfg = dataclasses.replace(CFG, sigma=2.0)
        quiet = dpg.act(cfg, spec, actor, (), obs, jax.random.key(0), False)[0]
        loud = dpg.act(cfg, spec, actor, (), obs, jax.random.key(0), True)[0]
        np.testing.assert_allclose(quiet, dpg.policy(spec, actor, obs))
        if action is SPEC.action:
            assert float(abs(loud).max()) == 1.0
        else:
            np.testing.assert_allclose((loud - quiet).mean(axis=0), 0.0, atol=4 * 2 / np.sqrt(4000))
            np.testing.assert_allclose((loud - quiet).std(axis=0), 2.0, rtol=0.05)


def test_the_linear_world_is_the_one_of_its_equations():
    env = find("jax:LQR", {"noise": 0.0})
    A_, B_, Q, R = (np.array(matrix) for matrix in (env.A, env.B, env.Q, env.R))
    x, u = np.array([1.0, -2.0], np.float32), np.array([3.0, 0.5], np.float32)
    step = env.step(x, u, jax.random.key(0))
    np.testing.assert_allclose(step.obs, A_ @ x + B_ @ u, rtol=1e-6)
    np.testing.assert_allclose(step.reward, -(x @ Q @ x + u @ R @ u), rtol=1e-6)
    assert not step.terminated
    noisy = jax.vmap(lambda key: find("jax:LQR").step(x, u, key).obs)(
        jax.random.split(jax.random.key(0), 4000)
    )
    np.testing.assert_allclose((noisy - step.obs).std(axis=0), 0.1, rtol=0.05)


def test_the_bandit_has_the_papers_best_action_and_eigenvalues():
    env = find("jax:ContinuousBandit", {"size": 6})
    state, _ = env.reset(jax.random.key(0))
    reward = lambda a: env.step(state, a, jax.random.key(0)).reward  # noqa: E731
    assert float(reward(jnp.full(6, 4.0))) == 0.0
    hessian = -np.asarray(jax.hessian(reward)(jnp.zeros(6))) / 2
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [0.1] * 3 + [1.0] * 3, rtol=1e-4)
    assert env.step(state, jnp.zeros(6), jax.random.key(0)).terminated

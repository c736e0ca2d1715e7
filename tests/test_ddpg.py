"""DDPG against slow float64 loops written from Algorithm 1 of Lillicrap et al. 2016."""

import dataclasses

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp
from scipy.stats import kstest

from polyak.algorithms import ddpg
from polyak.interface import Box, Spec
from polyak.pytree import copy

SPEC = Spec(obs=Box((2,)), action=Box((2,), -3.0, 3.0))
B = 8
CFG = ddpg.Config(hidden=(4,), gamma=0.9, tau=0.2, actor_lr=2e-2, critic_lr=1e-2)


def start(cfg=CFG):
    """Targets that are not the online networks."""
    init = jax.jit(lambda key: ddpg.init(cfg, SPEC, key), compiler_options=QUICK)
    state, other = init(jax.random.key(0)), init(jax.random.key(1))
    return state.replace(actor_target=copy(other.actor), critic_target=copy(other.critic))


class Slow:
    """Algorithm 1, one row after the other."""

    def __init__(self, cfg, state):
        self.cfg = cfg
        for name in ("actor", "critic", "actor_target", "critic_target"):
            setattr(self, name, float64(getattr(state, name)))
        self.adams = Adam(cfg.actor_lr), Adam(cfg.critic_lr)

    def update(self, batch, key):
        y = np.zeros(B)
        for i in range(B):
            mu = np.tanh(mlp(self.actor_target, batch.next_obs[i]))
            q = mlp(self.critic_target, np.concatenate([batch.next_obs[i], mu]))[0]
            y[i] = batch.reward[i] + (0.0 if batch.terminated[i] else self.cfg.gamma * q)
            if self.cfg.target_range:
                low, high = self.cfg.target_range
                y[i] = min(max(y[i], low), high)

        def critic_loss(critic):
            error = [mlp(critic, np.concatenate([batch.obs[i], batch.action[i]]))[0] - y[i] for i in range(B)]
            decay = sum((x**2).sum() for x in jax.tree.leaves(critic))
            return (batch.weight * np.square(error)).mean() + self.cfg.weight_decay * decay

        self.critic = self.adams[1].step(self.critic, finite_differences(critic_loss, self.critic))

        def actor_loss(actor):
            mu = [np.tanh(mlp(actor, batch.obs[i])) for i in range(B)]
            q = [mlp(self.critic, np.concatenate([batch.obs[i], mu[i]]))[0] for i in range(B)]
            return -(batch.weight * q).mean() + self.cfg.action_penalty * np.square(mu).mean()

        self.actor = self.adams[0].step(self.actor, finite_differences(actor_loss, self.actor))
        self.actor_target = averaged(self.cfg.tau, self.actor, self.actor_target)
        self.critic_target = averaged(self.cfg.tau, self.critic, self.critic_target)


HINDSIGHT = {"action_penalty": 0.5, "target_range": (-0.3, 0.1)}  # as its authors train DDPG


@pytest.mark.parametrize("changed", [{}, {"weight_decay": 0.1}, HINDSIGHT])
def test_three_updates_are_those_of_algorithm_1(changed):
    cfg = dataclasses.replace(CFG, **changed)
    update = jax.jit(lambda *args: ddpg.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, cfg.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, start(cfg), Slow(cfg, start(cfg)), batches)


def test_the_noise_wanders_in_memory_and_begins_at_zero():
    cfg = dataclasses.replace(CFG, noise="ou", sigma=0.2, theta=0.15)
    actor, obs = start(cfg).actor, np.zeros((3, 2), np.float32)
    memory = ddpg.memory(cfg, SPEC, np.arange(3), np.zeros(3, int), jax.random.key(0))
    np.testing.assert_array_equal(memory, np.zeros((3, 2)))
    mean = np.tanh(mlp(actor, obs))
    seen = []
    for step in range(200):
        action, memory, _ = ddpg.act(cfg, SPEC, (actor, ()), memory, obs, jax.random.key(step), True)
        np.testing.assert_allclose(action, np.clip(mean + memory, -1, 1), rtol=1e-5, atol=1e-6)
        seen.append(memory)
    before, after = np.array(seen)[:-1].ravel(), np.array(seen)[1:].ravel()
    assert 0.7 < np.corrcoef(before, after)[0, 1] < 0.95  # exp(-0.15) = 0.86
    quiet, kept, _ = ddpg.act(cfg, SPEC, (actor, ()), memory, obs, jax.random.key(0), False)
    np.testing.assert_allclose(quiet, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(kept, memory)


def test_noise_on_parameters_adapts_its_scale_with_every_update():
    cfg = dataclasses.replace(CFG, noise="parameter", network="layer_norm", sigma=0.3)
    init = jax.jit(lambda key: ddpg.init(cfg, SPEC, key), compiler_options=QUICK)
    update = jax.jit(lambda *args: ddpg.update(cfg, SPEC, *args), compiler_options=QUICK)
    state = init(jax.random.key(0))
    assert float(state.scale) == np.float32(0.3)
    batch = oracles.make_batch(2, SPEC.action, B, cfg.gamma)
    after = update(state, batch, jax.random.key(1)).state
    assert np.isclose(abs(np.log(after.scale / state.scale)), np.log(1.01), rtol=1e-3)
    memory = ddpg.memory(cfg, SPEC, np.arange(3), np.zeros(3, int), jax.random.key(0))
    obs = np.ones((3, 2), np.float32)
    loud = ddpg.act(cfg, SPEC, ddpg.algorithm.actor(after), memory, obs, jax.random.key(0), True)[0]
    calm = ddpg.act(cfg, SPEC, ddpg.algorithm.actor(after), memory, obs, jax.random.key(0), False)[0]
    np.testing.assert_allclose(calm, np.tanh(after.actor(obs)), rtol=1e-6)
    assert len(np.unique(np.asarray(loud)[:, 0])) == 3


def test_noise_on_actions_halves_with_its_half_life():
    cfg = dataclasses.replace(CFG, noise="gaussian", sigma=0.4, half_life=100)
    init = jax.jit(lambda key: ddpg.init(cfg, SPEC, key), compiler_options=QUICK)
    update = jax.jit(lambda *args: ddpg.update(cfg, SPEC, *args), compiler_options=QUICK)
    state, obs = init(jax.random.key(0)), np.zeros((1000, 2), np.float32)
    batch = oracles.make_batch(2, SPEC.action, B, cfg.gamma)
    spreads = []
    for env_steps in (0, 100, 300):
        state = update(state.replace(clock=state.clock.at(env_steps)), batch, jax.random.key(1)).state
        acting = ddpg.algorithm.actor(state)
        loud, calm = (
            ddpg.act(cfg, SPEC, acting, (), obs, jax.random.key(2), explore)[0] for explore in (1, 0)
        )
        spreads.append(float((loud - calm).std()))
    np.testing.assert_allclose(spreads, [0.4, 0.2, 0.05], rtol=0.1)
    assert ddpg.wrong(dataclasses.replace(cfg, noise="parameter"), SPEC)
    assert not ddpg.wrong(cfg, SPEC)


def test_a_share_of_the_exploring_actions_is_uniform_and_the_others_are_as_without_it():
    cfg = dataclasses.replace(CFG, noise="gaussian", sigma=0.0, uniform=0.3)
    state, obs = start(cfg), np.zeros((4000, 2), np.float32)
    act = jax.jit(lambda key: ddpg.act(cfg, SPEC, (state.actor, ()), (), obs, key, True)[0])
    action = np.asarray(act(jax.random.key(0)))
    greedy = np.isclose(action, np.tanh(mlp(state.actor, obs)), atol=1e-6).all(axis=1)
    other = action[~greedy]
    assert abs(len(other) / 4000 - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)  # whole actions, not single numbers
    assert kstest(other.ravel(), "uniform", (-1, 2)).pvalue > 1e-3
    assert abs(np.corrcoef(other.T)[0, 1]) < 0.12
    quiet, _, _ = ddpg.act(cfg, SPEC, (state.actor, ()), (), obs[:3], jax.random.key(0), False)
    np.testing.assert_allclose(quiet, np.tanh(mlp(state.actor, obs[:3])), rtol=1e-5, atol=1e-6)


def test_a_range_without_room_is_said():
    assert "target_range" in ddpg.wrong(dataclasses.replace(CFG, target_range=(0.0, -50.0)), SPEC)[0]
    assert not ddpg.wrong(dataclasses.replace(CFG, target_range=(-50.0, 0.0)), SPEC)

"""A2C against slow float64 loops written from Algorithm S3 of Mnih et al. 2016."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, finite_differences, float64, mlp

from polyak.algorithms import a2c
from polyak.interface import Box, Discrete, Spec

T, N = 5, 2
CFG = a2c.Config(hidden=(3,), gamma=0.9, lr=1e-2, lr_end=0.2, horizon=100, entropy=0.1)
ACTION = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}


def spec_of(kind):
    return Spec(Box((2,)), ACTION[kind], num_envs=N)


@functools.cache
def start(kind):
    """Networks whose last layers are not small."""
    init = jax.jit(lambda key: a2c.init(CFG, spec_of(kind), key), compiler_options=QUICK)
    state, rng = init(jax.random.key(0)), np.random.default_rng(0)
    policy, critic = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=critic)


def make_batch(kind, seed=0):
    """A rollout that goes on where it was: a row's successor is the next row, but at the end of an episode."""
    rows = oracles.rows(2, ACTION[kind], (T, N), seed)
    goes_on = ~(rows.terminated | rows.truncated)[:-1]
    assert goes_on.any()
    rows.next_obs[:-1][goes_on] = rows.obs[1:][goes_on]
    return oracles.as_batch(rows, CFG.gamma)


def n_step_returns(critic, batch, gamma):
    """R of Algorithm S3, backwards along each environment."""
    R = np.zeros((T, N))
    for i in range(N):
        after = None  # nothing was accumulated yet
        for t in reversed(range(T)):
            if batch.terminated[t, i]:
                after = 0.0
            elif batch.truncated[t, i] or t == T - 1:
                after = mlp(critic, batch.next_obs[t, i], "tanh")[0]
            after = R[t, i] = batch.reward[t, i] + gamma * after
    return R


def entropy_of(policy, obs):
    out = mlp(policy.net, obs, "tanh")
    if hasattr(policy, "log_sigma"):
        return float((policy.log_sigma + 0.5 * math.log(2 * math.pi * math.e)).sum())
    p = np.exp(out) / np.exp(out).sum()
    return -float((p * np.log(p)).sum())


class Slow:
    """Algorithm S3 with all actors in step."""

    def __init__(self, cfg, state):
        self.cfg, self.env_steps = cfg, int(state.clock.env_steps)
        self.policy, self.critic = float64(state.policy), float64(state.critic)
        self.adam = Adam(cfg.lr, eps=1e-5, max_norm=cfg.max_norm)

    def gradient(self, batch):
        R, rows = n_step_returns(self.critic, batch, self.cfg.gamma), list(np.ndindex(T, N))
        advantage = {i: R[i] - mlp(self.critic, batch.obs[i], "tanh")[0] for i in rows}

        def loss(params):
            policy, critic = params
            total = 0.0
            for i in rows:
                total -= oracles.log_prob(policy, batch.obs[i], batch.action[i]) * advantage[i]
                total -= self.cfg.entropy * entropy_of(policy, batch.obs[i])
                total += self.cfg.value_loss * (R[i] - mlp(critic, batch.obs[i], "tanh")[0]) ** 2
            return total / len(rows)

        return finite_differences(loss, (self.policy, self.critic))

    def update(self, batch, key):
        lr = self.cfg.lr * oracles.linear_schedule(self.env_steps, 1.0, self.cfg.lr_end, self.cfg.horizon)
        self.policy, self.critic = self.adam.step((self.policy, self.critic), self.gradient(batch), lr)


@pytest.mark.parametrize("env_steps", [0, 50])
@pytest.mark.parametrize("kind", ACTION)
def test_three_updates_are_those_of_algorithm_s3(kind, env_steps):
    state = start(kind)
    state = state.replace(clock=state.clock.at(env_steps))
    update = jax.jit(lambda *args: a2c.update(CFG, spec_of(kind), *args), compiler_options=QUICK)
    batches = [make_batch(kind, seed) for seed in range(3)]
    oracles.assert_follows(update, state, Slow(CFG, state), batches)


@pytest.mark.parametrize("kind", ACTION)
def test_the_gradient_is_that_of_algorithm_s3(kind):
    """Before Adam and clipping, which forgive a factor."""
    state, batch, spec = start(kind), make_batch(kind), spec_of(kind)
    grads, metrics = jax.jit(lambda *args: a2c.gradient(CFG, spec, *args), compiler_options=QUICK)(
        a2c.actor(state), batch, jax.random.key(0)
    )
    want = Slow(CFG, state).gradient(batch)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    R = n_step_returns(state.critic, batch, CFG.gamma)
    error = R - mlp(state.critic, batch.obs, "tanh")[..., 0]
    np.testing.assert_allclose(metrics["value_loss"], (error**2).mean(), rtol=1e-4)


def test_rewards_travel_back_to_the_start_of_their_episode_and_no_further():
    """By hand: with V = 0 the advantages are sums of rewards, cut by both kinds of ends."""
    state = start("discrete")
    silent = jax.tree.map(jnp.zeros_like, state.critic)
    batch = make_batch("discrete")
    reward = np.zeros((T, N), np.float32)
    reward[4], reward[2, 0] = 1.0, 10.0
    terminated, truncated = np.zeros((2, T, N), bool)
    terminated[1, 0] = truncated[2, 1] = True
    discount = np.where(terminated, 0.0, 0.5).astype(np.float32)
    batch = batch._replace(reward=reward, terminated=terminated, truncated=truncated, discount=discount)
    actor = state.policy, silent, state.clock
    gradient = jax.jit(lambda *args: a2c.gradient(CFG, spec_of("discrete"), *args), compiler_options=QUICK)
    grads, metrics = gradient(actor, batch, jax.random.key(0))
    R = np.array([[0, 0], [0, 0], [10.25, 0], [0.5, 0.5], [1, 1]])
    log_prob = [oracles.log_prob(state.policy, batch.obs[i], batch.action[i]) for i in np.ndindex(T, N)]
    np.testing.assert_allclose(metrics["value_loss"], (R**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["policy_loss"], -np.mean(log_prob * R.ravel()), rtol=1e-4)
    np.testing.assert_allclose(grads[1].layers[-1].bias, [-2 * CFG.value_loss * R.mean()], rtol=1e-5)


@pytest.mark.parametrize("kind", ACTION)
def test_an_update_is_its_gradient_applied_bit_for_bit(kind):
    state, batch, key, spec = start(kind), make_batch(kind), jax.random.key(0), spec_of(kind)

    def in_two(state, batch, key):
        grads, metrics = a2c.gradient(CFG, spec, a2c.actor(state), batch, key)
        return a2c.apply(CFG, spec, state, grads), metrics

    two = jax.jit(in_two, compiler_options=QUICK)(state, batch, key)
    done = jax.jit(lambda *args: a2c.update(CFG, spec, *args), compiler_options=QUICK)(state, batch, key)
    jax.tree.map(np.testing.assert_array_equal, two, (done.state, done.metrics))
    assert done.state.clock.updates == 1


def test_any_gradient_can_be_applied():
    """Another gradient, of a worker elsewhere, is another step: that of Adam."""
    state, rng = start("discrete"), np.random.default_rng(0)
    params = state.policy, state.critic
    grads = jax.tree.map(lambda x: rng.normal(scale=0.01, size=x.shape).astype(x.dtype), params)
    after = jax.jit(lambda *args: a2c.apply(CFG, spec_of("discrete"), *args), compiler_options=QUICK)(
        state, grads
    )
    want = Adam(CFG.lr, eps=1e-5, max_norm=CFG.max_norm).step(params, grads)
    for a, b in zip(jax.tree.leaves((after.policy, after.critic)), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_heavier_entropy_makes_the_policy_more_random():
    state, batch = start("discrete"), make_batch("discrete")
    cfg = dataclasses.replace(CFG, entropy=10.0)
    update = jax.jit(lambda *args: a2c.update(cfg, spec_of("discrete"), *args), compiler_options=QUICK)
    done = update(state, batch, jax.random.key(0))
    after = np.mean([entropy_of(float64(done.state.policy), obs) for obs in batch.obs.reshape(-1, 2)])
    assert after > done.metrics["entropy"]

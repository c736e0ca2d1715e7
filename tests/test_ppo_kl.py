"""PPO with a KL penalty against slow float64 loops written from section 4 of Schulman et al. 2017."""

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

from polyak.algorithms import ppo_kl
from polyak.interface import Box, Discrete, OnPolicy, Spec

T, N = 6, 2
CFG = ppo_kl.Config(
    **{"hidden": (3,), "gamma": 0.9, "lam": 0.8, "minibatch": 4, "epochs": 2, "lr": 1e-2, "entropy": 0.1},
    data=OnPolicy(steps=T),
)
ACTION = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}


def spec_of(kind):
    return Spec(Box((2,)), ACTION[kind], num_envs=N)


@functools.cache
def first(kind):
    init = jax.jit(lambda key: ppo_kl.init(CFG, spec_of(kind), key), compiler_options=QUICK)
    state, rng = init(jax.random.key(0)), np.random.default_rng(0)
    policy, critic = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=critic)


def start(kind, beta=1.0):
    """Networks whose last layers are not small."""
    return first(kind).replace(beta=jnp.float32(beta))


def make_batch(kind, seed=0):
    """A rollout, with log-probabilities that are not quite the first policy's."""
    batch = oracles.as_batch(oracles.rows(2, ACTION[kind], (T, N), seed), CFG.gamma)
    log_prob = [oracles.log_prob(first(kind).policy, batch.obs[i], batch.action[i]) for i in np.ndindex(T, N)]
    log_prob = np.reshape(log_prob, (T, N)) + np.random.default_rng(seed).normal(scale=0.1, size=(T, N))
    return batch._replace(extras={"log_prob": log_prob.astype(np.float32)})


def entropy_of(policy, obs):
    out = mlp(policy.net, obs, "tanh")
    if hasattr(policy, "log_sigma"):
        return float((policy.log_sigma + 0.5 * math.log(2 * math.pi * math.e)).sum())
    p = np.exp(out) / np.exp(out).sum()
    return -float((p * np.log(p)).sum())


class Slow:
    """K epochs on eq. 8, then the rule for beta."""

    def __init__(self, cfg, state):
        self.cfg, self.beta = cfg, float(state.beta)
        self.policy, self.critic = float64(state.policy), float64(state.critic)
        self.adam = Adam(cfg.lr, eps=1e-5, max_norm=cfg.max_norm)
        self.penalties = []

    def loss(self, params, old, rows, batch, advantage, target):
        """Minus eq. 8, c1 times the value's squared error, minus c2 times the entropy; and the divergence."""
        policy, critic = params
        A = np.array([advantage[i] for i in rows])
        A = (A - A.mean()) / (A.std() + 1e-8)
        total = penalty = 0.0
        for i, a in zip(rows, A, strict=True):
            log_prob = oracles.log_prob(policy, batch.obs[i], batch.action[i])
            total -= math.exp(log_prob - float(batch.extras["log_prob"][i])) * a
            total += self.cfg.value_loss * (mlp(critic, batch.obs[i], "tanh")[0] - target[i]) ** 2
            total -= self.cfg.entropy * entropy_of(policy, batch.obs[i])
            penalty += oracles.kl(old, policy, batch.obs[i][None])
        return (total + self.beta * penalty) / len(rows)

    def update(self, batch, key):
        cfg, old = self.cfg, self.policy
        value, after = (mlp(self.critic, obs, "tanh")[..., 0] for obs in (batch.obs, batch.next_obs))
        ends = batch.terminated, batch.truncated
        advantage = oracles.gae(batch.reward, *ends, value, after, cfg.gamma, cfg.lam)
        target = advantage + value
        size = cfg.minibatch // N  # times of each mini-batch
        for epoch in range(cfg.epochs):
            order = np.argsort(np.asarray(jax.random.uniform(jax.random.fold_in(key, epoch), T)))
            for part in range(0, T, size):
                rows = [(t, n) for t in order[part : part + size] for n in range(N)]
                grads = finite_differences(
                    lambda params, rows=rows: self.loss(params, old, rows, batch, advantage, target),
                    (self.policy, self.critic),
                )
                self.policy, self.critic = self.adam.step((self.policy, self.critic), grads)
        d = oracles.kl(old, self.policy, batch.obs.reshape(-1, 2))
        if d < cfg.kl_target / 1.5:
            self.beta /= 2
        elif d > 1.5 * cfg.kl_target:
            self.beta *= 2
        self.penalties.append(self.beta)


@pytest.mark.parametrize(
    ("kind", "beta", "kl_target", "betas"),
    [
        ("discrete", 3.0, 1e-6, [6.0, 12.0]),  # far too far
        ("continuous", 3.0, 10.0, [1.5, 0.75]),  # hardly anywhere
    ],
)
def test_two_updates_are_those_of_section_4(kind, beta, kl_target, betas):
    cfg = dataclasses.replace(CFG, kl_target=kl_target)
    update = jax.jit(lambda *args: ppo_kl.update(cfg, spec_of(kind), *args), compiler_options=QUICK)
    slow = Slow(cfg, start(kind, beta))
    oracles.assert_follows(update, start(kind, beta), slow, [make_batch(kind, seed) for seed in range(2)])
    assert slow.penalties == betas


@pytest.mark.parametrize("beta", [0.0, 0.7, 40.0])
@pytest.mark.parametrize("kind", ACTION)
def test_the_loss_is_minus_equation_8(kind, beta):
    """With a policy that has moved, so that there is something to penalise."""
    state, batch, rng = start(kind, beta), make_batch(kind), np.random.default_rng(1)
    policy = jax.tree.map(lambda x: x + rng.normal(scale=0.2, size=x.shape).astype(x.dtype), state.policy)
    advantage, target = rng.normal(size=(2, T, N)).astype(np.float32)
    old = state.policy(batch.obs)
    rows = ppo_kl.Minibatch(batch.obs, batch.action, batch.extras["log_prob"], old, advantage, target)
    total, _ = ppo_kl.loss(CFG, (policy, state.critic), state.beta, rows)
    where = list(np.ndindex(T, N))
    params = float64((policy, state.critic))
    want = Slow(CFG, state).loss(params, state.policy, where, batch, advantage, target)
    np.testing.assert_allclose(total, want, rtol=1e-4, atol=1e-5)


def test_a_heavier_penalty_keeps_the_policy_nearer():
    update = jax.jit(lambda *args: ppo_kl.update(CFG, spec_of("discrete"), *args), compiler_options=QUICK)
    moved = []
    for beta in (0.0, 1e4):
        state, batch = start("discrete", beta), make_batch("discrete")
        done = update(state, batch, jax.random.key(0))
        moved.append(oracles.kl(state.policy, done.state.policy, batch.obs.reshape(-1, 2)))
        np.testing.assert_allclose(done.metrics["kl"], moved[-1], rtol=1e-2, atol=1e-6)
    assert moved[1] < moved[0] / 2


@pytest.mark.parametrize("beta", [1.0, 0.3, 7e5])
def test_beta_halves_below_and_doubles_above_exactly_at_the_edges(beta):
    """The target is 3/256: 2/256 and 4.5/256 are exact in float32, and so are their neighbours."""
    cfg = dataclasses.replace(CFG, kl_target=3 / 256)
    low, high = np.float32(2 / 256), np.float32(4.5 / 256)
    none, ever = np.float32(0), np.float32(np.inf)
    factors = {
        0.5: [none, np.nextafter(low, none)],
        1.0: [low, np.nextafter(low, ever), np.float32(3 / 256), np.nextafter(high, none), high],
        2.0: [np.nextafter(high, ever), np.float32(5)],
    }
    for factor, divergences in factors.items():
        for d in divergences:
            after = ppo_kl.adapted(cfg, jnp.float32(beta), jnp.asarray(d))
            assert after == np.float32(beta) * np.float32(factor), (factor, d)
            assert after.dtype == jnp.float32


def test_beta_of_the_state_begins_at_that_of_the_config():
    cfg = dataclasses.replace(CFG, beta=0.25)
    state = jax.jit(lambda key: ppo_kl.init(cfg, spec_of("discrete"), key), compiler_options=QUICK)(
        jax.random.key(0)
    )
    assert state.beta == 0.25

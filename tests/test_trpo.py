"""TRPO against float64 loops written from section 6 and appendix C of Schulman et al. 2015."""

import dataclasses
import functools
import math

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, flat, float64, mlp, unflat

from polyak.algorithms import trpo
from polyak.interface import Box, Discrete, Spec

T, N = 6, 2
CFG = trpo.Config(
    hidden=(3,), gamma=0.9, lam=0.8, delta=0.05, iterations=40, value_epochs=2, value_parts=3, value_lr=1e-2
)
FAR = dataclasses.replace(CFG, delta=1.0, damping=0.01, iterations=60)  # beyond what the quadratic model fits
ACTION = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}
KINDS = list(ACTION)


def spec_of(kind):
    return Spec(Box((2,)), ACTION[kind], num_envs=N)


@functools.cache
def updater(cfg, kind):
    return jax.jit(lambda *args: trpo.update(cfg, spec_of(kind), *args), compiler_options=QUICK)


@functools.cache
def first(kind):
    return jax.jit(lambda key: trpo.init(CFG, spec_of(kind), key), compiler_options=QUICK)(jax.random.key(0))


def start(kind, seed=0):
    """Networks whose last layers are not small."""
    rng = np.random.default_rng(seed)
    state = first(kind)
    policy, critic = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=critic)


def make_batch(kind, seed, policy):
    """A rollout, and q(a|s): the policy's own log-probabilities, but for a little."""
    batch = oracles.as_batch(oracles.rows(2, ACTION[kind], (T, N), seed), CFG.gamma)
    log_prob = np.zeros((T, N), np.float32)
    for i in np.ndindex(T, N):
        log_prob[i] = oracles.log_prob(policy, batch.obs[i], batch.action[i])
    log_prob += np.random.default_rng(seed).normal(scale=0.1, size=(T, N)).astype(np.float32)
    return batch._replace(extras={"log_prob": log_prob})


def advantages(cfg, critic, batch):
    """Generalised estimates, and the values that they are measured from; [T, N]."""
    value, after = (mlp(critic, obs, "tanh")[..., 0] for obs in (batch.obs, batch.next_obs))
    ends = batch.terminated, batch.truncated
    return oracles.gae(batch.reward, *ends, value, after, cfg.gamma, cfg.lam), value


def scaled(cfg, critic, batch):
    advantage = advantages(cfg, critic, batch)[0]
    return (advantage - advantage.mean()) / advantage.std()


def surrogate(policy, batch, advantage):
    """Eq. 14."""
    total = 0.0
    for i in np.ndindex(T, N):
        log_prob = oracles.log_prob(policy, batch.obs[i], batch.action[i])
        total += math.exp(log_prob - float(batch.extras["log_prob"][i])) * advantage[i]
    return total / (T * N)


def divergence(old, new, batch):
    return oracles.kl(old, new, batch.obs.reshape(-1, 2))


class Slow:
    """Appendix C with the Fisher matrix itself, and its line search."""

    def __init__(self, cfg, state):
        self.cfg, self.shortened = cfg, []
        self.policy, self.critic = float64(state.policy), float64(state.critic)
        self.adam = Adam(cfg.value_lr)

    def update(self, batch, key):
        cfg, old = self.cfg, self.policy
        advantage, value = advantages(cfg, self.critic, batch)
        A = (advantage - advantage.mean()) / advantage.std()
        # the gradient of eq. 14 is that of log pi, weighted by the ratio
        ratio = np.array([
            math.exp(oracles.log_prob(old, batch.obs[i], batch.action[i]) - float(batch.extras["log_prob"][i]))
            for i in np.ndindex(T, N)
        ]).reshape(T, N)  # fmt: skip
        s, _ = oracles.natural_gradient(old, batch, ratio * A, cfg.damping)
        matrix = oracles.fisher(old, batch.obs.reshape(-1, 2)) + cfg.damping * np.eye(len(s))
        longest = math.sqrt(2 * cfg.delta / (s @ matrix @ s))
        before = surrogate(old, batch, A)
        for tried in range(cfg.backtracks + 1):
            candidate = unflat(old, flat(old) + cfg.shorten**tried * longest * s)
            if surrogate(candidate, batch, A) > before and divergence(old, candidate, batch) <= cfg.delta:
                self.policy = candidate
                self.shortened.append(tried)
                break
        fit = batch.obs, advantage + value, key, cfg.value_epochs, cfg.value_parts
        self.critic = oracles.fitted_value(self.critic, self.adam, *fit)


@pytest.mark.parametrize("cfg", [CFG, FAR], ids=["near", "far"])
@pytest.mark.parametrize("kind", KINDS)
def test_three_updates_are_those_of_appendix_c(kind, cfg):
    state = start(kind, 1)
    slow = Slow(cfg, state)
    batches = [make_batch(kind, seed, state.policy) for seed in range(1, 4)]
    oracles.assert_follows(updater(cfg, kind), state, slow, batches)
    assert len(slow.shortened) == 3
    assert cfg is CFG or max(slow.shortened) > 0


@pytest.mark.parametrize("cfg", [CFG, FAR], ids=["near", "far"])
@pytest.mark.parametrize("kind", KINDS)
def test_accepted_steps_stay_within_the_trust_region_and_improve_the_surrogate(kind, cfg):
    lengths = []
    for seed in range(25):
        state = start(kind, seed)
        batch = make_batch(kind, seed, state.policy)
        done = updater(cfg, kind)(state, batch, jax.random.key(seed))
        A = scaled(cfg, state.critic, batch)
        if done.metrics["accepted"]:
            gain = surrogate(done.state.policy, batch, A) - surrogate(state.policy, batch, A)
            kl = divergence(state.policy, done.state.policy, batch)
            assert kl <= cfg.delta * (1 + 1e-4)
            assert gain > 0
            np.testing.assert_allclose(done.metrics["kl"], kl, rtol=1e-2)
            np.testing.assert_allclose(done.metrics["surrogate"], gain, rtol=1e-2, atol=1e-5)
        lengths.append(round(float(done.metrics["step"]), 4))
    assert len(set(lengths)) > 1 or cfg is CFG  # whole steps and shortened ones
    assert np.mean(np.array(lengths) > 0) > 0.8


def test_a_step_that_no_length_makes_acceptable_leaves_the_policy_bit_for_bit():
    cfg = dataclasses.replace(FAR, backtracks=1, shorten=0.99)
    seen = []
    for seed in range(25):
        state = start("continuous", seed)
        batch = make_batch("continuous", seed, state.policy)
        done = updater(cfg, "continuous")(state, batch, jax.random.key(seed))
        seen.append(bool(done.metrics["accepted"]))
        new, old = done.state.policy, state.policy
        same = [np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs(new, old)]
        assert all(same) != seen[-1]
        if not seen[-1]:
            assert done.metrics["step"] == 0
            np.testing.assert_allclose([done.metrics["kl"], done.metrics["surrogate"]], 0, atol=1e-6)
    assert True in seen
    assert False in seen


def pairs(a, b):
    return zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)


def test_a_reward_that_is_not_finite_leaves_the_policy_bit_for_bit():
    state = start("discrete")
    batch = make_batch("discrete", 0, state.policy)
    reward = batch.reward.copy()
    reward[2, 0] = np.inf
    done = updater(CFG, "discrete")(state, batch._replace(reward=reward), jax.random.key(0))
    assert not done.metrics["accepted"]
    jax.tree.map(np.testing.assert_array_equal, done.state.policy, state.policy)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_that_act_remembers_is_that_of_its_action(kind):
    policy = start(kind).policy
    obs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    action, _, extras = trpo.act(CFG, spec_of(kind), policy, (), obs, jax.random.key(0), True)
    want = [oracles.log_prob(policy, o, a) for o, a in zip(obs, np.asarray(action), strict=True)]
    np.testing.assert_allclose(extras["log_prob"], want, rtol=1e-4, atol=1e-5)

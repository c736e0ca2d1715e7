"""SAC against slow float64 loops written from Algorithm 1 and eq. 5 to 18 of Haarnoja et al. 2018."""

import dataclasses
import math

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp

from polyak.algorithms import sac
from polyak.interface import Box, Spec
from polyak.pytree import copy

SPEC = Spec(obs=Box((2,)), action=Box((2,), -3.0, 3.0))
B = 8
CFG = sac.Config(hidden=(4,), gamma=0.9, tau=0.2, lr=1e-2)


def start(cfg=CFG):
    """Targets that are not the online networks."""
    init = jax.jit(lambda key: sac.init(cfg, SPEC, key), compiler_options=QUICK)
    return init(jax.random.key(0)).replace(critics_target=copy(init(jax.random.key(1)).critics))


def drawn(policy, obs, eps):
    """a = tanh(mu + sigma eps), and log pi(a|s) = sum log N(u; mu, sigma) - log(1 - tanh(u)^2)."""
    out = mlp(policy.net, obs)
    mu, sigma = out[:2], np.exp(np.clip(out[2:], -20, 2))
    u = mu + sigma * eps
    log_prob = sum(
        -0.5 * eps[j] ** 2
        - math.log(sigma[j])
        - 0.5 * math.log(2 * math.pi)
        - math.log(1 - math.tanh(u[j]) ** 2)
        for j in range(2)
    )
    return np.tanh(u), log_prob


def q_of(critics, member, obs, action):
    return mlp(critics.member, np.concatenate([obs, action]), member=member)[0]


class Slow:
    """Algorithm 1, one row after the other."""

    def __init__(self, cfg, state):
        self.cfg = cfg
        for name in ("policy", "critics", "critics_target", "log_alpha"):
            setattr(self, name, float64(getattr(state, name)))
        self.adams = [Adam(cfg.lr) for _ in range(3)]

    def update(self, batch, key):
        key_next, key_policy = jax.random.split(key)
        eps_next, eps = (np.asarray(jax.random.normal(k, (B, 2)), float) for k in (key_next, key_policy))
        alpha = self.cfg.alpha or math.exp(self.log_alpha)
        y = np.zeros(B)
        for i in range(B):
            action, log_prob = drawn(self.policy, batch.next_obs[i], eps_next[i])
            q = min(q_of(self.critics_target, m, batch.next_obs[i], action) for m in range(2))
            future = self.cfg.gamma * (q - alpha * log_prob)
            y[i] = batch.reward[i] + (0.0 if batch.terminated[i] else future)

        def critic_loss(critics):
            return sum(
                0.5
                * np.mean(
                    [
                        batch.weight[i] * (q_of(critics, m, batch.obs[i], batch.action[i]) - y[i]) ** 2
                        for i in range(B)
                    ]
                )
                for m in range(2)
            )

        self.critics = self.adams[0].step(self.critics, finite_differences(critic_loss, self.critics))

        def policy_loss(policy):
            total = 0.0
            for i in range(B):
                action, log_prob = drawn(policy, batch.obs[i], eps[i])
                q = min(q_of(self.critics, m, batch.obs[i], action) for m in range(2))
                total += batch.weight[i] * (alpha * log_prob - q) / B
            return total

        log_probs = [drawn(self.policy, batch.obs[i], eps[i])[1] for i in range(B)]
        self.policy = self.adams[1].step(self.policy, finite_differences(policy_loss, self.policy))
        wanted = -2.0 if self.cfg.target_entropy is None else self.cfg.target_entropy

        def alpha_loss(log_alpha):
            return float(
                np.mean(
                    [
                        -math.exp(log_alpha) * w * (p + wanted)
                        for w, p in zip(batch.weight, log_probs, strict=False)
                    ]
                )
            )

        self.log_alpha = self.adams[2].step(self.log_alpha, finite_differences(alpha_loss, self.log_alpha))
        self.critics_target = averaged(self.cfg.tau, self.critics, self.critics_target)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3}, {"target_entropy": 0.5}])
def test_three_updates_are_those_of_algorithm_1(options):
    cfg = dataclasses.replace(CFG, **options)
    update = jax.jit(lambda *args: sac.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, cfg.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, start(cfg), Slow(cfg, start(cfg)), batches)


def test_a_given_temperature_is_the_one_that_is_used():
    batch = oracles.make_batch(2, SPEC.action, B, CFG.gamma)
    for alpha in (0.1, 0.7):
        done = sac.update(dataclasses.replace(CFG, alpha=alpha), SPEC, start(), batch, jax.random.key(0))
        np.testing.assert_allclose(done.metrics["alpha"], alpha, rtol=1e-6)


def test_the_temperature_falls_where_the_policy_is_too_random_and_rises_where_it_is_not():
    batch = oracles.make_batch(2, SPEC.action, B, CFG.gamma)
    for wanted, sign in ((-50.0, -1), (50.0, 1)):
        cfg = dataclasses.replace(CFG, target_entropy=wanted)
        after = sac.update(cfg, SPEC, start(cfg), batch, jax.random.key(0)).state.log_alpha
        assert np.sign(after) == sign

"""SVG(0) against slow float64 loops: the gradient goes through the action; one-step and lambda targets."""

import dataclasses

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp

from polyak.algorithms import svg
from polyak.interface import Box, Replay, Spec
from polyak.pytree import copy

SPEC = Spec(obs=Box((2,)), action=Box((2,), -3.0, 3.0))
B, L = 4, 5
CFG = svg.Config(hidden=(4,), gamma=0.9, lam=0.7, tau=0.2, actor_lr=1e-2, critic_lr=2e-2)


def start(cfg=CFG):
    """A target that is not the online network."""
    init = jax.jit(lambda key: svg.init(cfg, SPEC, key), compiler_options=QUICK)
    return init(jax.random.key(0)).replace(critic_target=copy(init(jax.random.key(1)).critic))


def drawn(policy, obs, eps):
    out = mlp(policy.net, obs)
    return np.tanh(out[..., :2] + np.exp(np.clip(out[..., 2:], -20, 2)) * eps)


def q_of(critic, obs, action):
    return mlp(critic, np.concatenate([obs, action], axis=-1))[..., 0]


class Slow:
    """A step of the critic and one of the policy."""

    def __init__(self, cfg, state):
        self.cfg, self.adams = cfg, (Adam(cfg.actor_lr), Adam(cfg.critic_lr))
        for name in ("policy", "critic", "critic_target"):
            setattr(self, name, float64(getattr(state, name)))

    def update(self, batch, key):
        key_next, key_policy = jax.random.split(key)
        shape = batch.action.shape
        eps_next, eps = (np.asarray(jax.random.normal(k, shape), float) for k in (key_next, key_policy))
        next_q = q_of(self.critic_target, batch.next_obs, drawn(self.policy, batch.next_obs, eps_next))
        if self.cfg.critic == "lambda":
            rows = (x.T for x in (batch.reward, batch.terminated, batch.truncated, next_q))
            y = oracles.lambda_return(*rows, self.cfg.gamma, self.cfg.lam).T
        else:
            y = batch.reward + np.where(batch.terminated, 0.0, self.cfg.gamma * next_q)

        def critic_loss(critic):
            return (batch.weight * (q_of(critic, batch.obs, batch.action) - y) ** 2).mean()

        self.critic = self.adams[1].step(self.critic, finite_differences(critic_loss, self.critic))

        def policy_loss(policy):
            return -(batch.weight * q_of(self.critic, batch.obs, drawn(policy, batch.obs, eps))).mean()

        self.policy = self.adams[0].step(self.policy, finite_differences(policy_loss, self.policy))
        self.critic_target = averaged(self.cfg.tau, self.critic, self.critic_target)


@pytest.mark.parametrize("critic", ["td", "lambda"])
def test_three_updates_follow_the_value_gradient(critic):
    cfg = dataclasses.replace(CFG, critic=critic, data=Replay(length=L))
    update = jax.jit(lambda *args: svg.update(cfg, SPEC, *args), compiler_options=QUICK)
    lead = (B, L) if critic == "lambda" else (B * L,)
    batches = [
        oracles.as_batch(oracles.rows(2, SPEC.action, lead, seed), cfg.gamma, seed) for seed in range(3)
    ]
    oracles.assert_follows(update, start(cfg), Slow(cfg, start(cfg)), batches)


def test_lambda_without_sequences_is_refused():
    assert svg.wrong(dataclasses.replace(CFG, critic="lambda"), SPEC)
    assert not svg.wrong(dataclasses.replace(CFG, critic="lambda", data=Replay(length=8)), SPEC)
    assert not svg.wrong(CFG, SPEC)

"""Actor-critic against a slow float64 loop written from lecture 0, steps 1 to 5."""

import dataclasses
import functools

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, finite_differences, float64, mlp

from polyak.algorithms import actor_critic
from polyak.drivers.learn import on_policy_batch
from polyak.drivers.padding import padded
from polyak.interface import Box, Discrete, OnPolicy, Spec, played

T, N = 6, 2
CFG = actor_critic.Config(
    hidden=(3,), gamma=0.8, lr=0.02, value_lr=0.05, value_steps=2, data=OnPolicy(episodes=1)
)
ACTION = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}


def spec_of(kind):
    return Spec(Box((2,)), ACTION[kind], T, num_envs=N)


@functools.cache
def start(kind):
    """Networks whose last layers are not small."""
    init = jax.jit(lambda key: actor_critic.init(CFG, spec_of(kind), key), compiler_options=QUICK)
    state, rng = init(jax.random.key(0)), np.random.default_rng(0)
    policy, critic = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=critic)


def make_batch(kind, seed=0):
    """An episode that terminates after four steps and one that a time limit cuts after six, or the other way round."""
    rows = oracles.rows(2, ACTION[kind], (T, N), seed)
    terminated, truncated = np.zeros((2, T, N), bool)
    terminated[3, seed % 2] = truncated[5, 1 - seed % 2] = True
    rows.next_obs[:-1] = rows.obs[1:]
    rows = padded(CFG.data, rows._replace(terminated=terminated, truncated=truncated), np)
    made = on_policy_batch(rows, CFG.gamma, None, played(CFG.data, rows.last))
    return jax.tree.map(np.asarray, made)


class Slow:
    """Steps 2 to 5 of the lecture, an episode at a time."""

    def __init__(self, cfg, state):
        self.cfg = cfg
        self.policy, self.critic = float64(state.policy), float64(state.critic)
        self.actor_rule, self.critic_rule = Adam(cfg.lr), Adam(cfg.value_lr)

    def target(self, critic, batch, t, i):
        reward, gamma = float(batch.reward[t, i]), self.cfg.gamma
        if batch.terminated[t, i]:
            return reward
        if self.cfg.critic == "td" or batch.truncated[t, i]:
            return reward + gamma * mlp(critic, batch.next_obs[t, i], "tanh")[0]
        return reward + gamma * self.target(critic, batch, t + 1, i)

    def update(self, batch, key):
        rows = [(t, i) for i in range(N) for t in range(T) if t <= np.argmax(batch.last[:, i])]
        assert len(rows) == 4 + 6
        for _ in range(self.cfg.value_steps):
            y = [self.target(self.critic, batch, *row) for row in rows]

            def loss(critic, y=y):
                v = [mlp(critic, batch.obs[row], "tanh")[0] for row in rows]
                return 0.5 * np.mean((np.array(v) - y) ** 2)

            self.critic = self.critic_rule.step(self.critic, finite_differences(loss, self.critic))
        advantage = []
        for row in rows:
            after = 0.0 if batch.terminated[row] else mlp(self.critic, batch.next_obs[row], "tanh")[0]
            advantage.append(
                float(batch.reward[row])
                + self.cfg.gamma * after
                - mlp(self.critic, batch.obs[row], "tanh")[0]
            )

        def minus_gain(policy):
            logs = [oracles.log_prob(policy, batch.obs[row], batch.action[row]) for row in rows]
            return -np.mean(np.array(logs) * advantage)

        self.policy = self.actor_rule.step(self.policy, finite_differences(minus_gain, self.policy))


@pytest.mark.parametrize(("kind", "critic"), [("discrete", "mc"), ("discrete", "td"), ("continuous", "td")])
def test_three_updates_are_those_of_the_lecture(kind, critic):
    cfg, state = dataclasses.replace(CFG, critic=critic), start(kind)
    update = jax.jit(lambda *args: actor_critic.update(cfg, spec_of(kind), *args), compiler_options=QUICK)
    oracles.assert_follows(update, state, Slow(cfg, state), [make_batch(kind, seed) for seed in range(3)])


def test_a_monte_carlo_critic_does_not_learn_from_steps_and_a_td_critic_does():
    cfg = actor_critic.Config(critic="mc", data=OnPolicy(steps=8))
    assert actor_critic.wrong(cfg, spec_of("discrete"))
    assert actor_critic.wrong(dataclasses.replace(cfg, critic="td"), spec_of("discrete")) == []

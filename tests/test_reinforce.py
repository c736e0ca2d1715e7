"""REINFORCE against slow float64 loops written from Sutton & Barto 2018, pages 328 and 330."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, finite_differences, float64, mlp

from polyak.algorithms import reinforce
from polyak.drivers.learn import on_policy_batch
from polyak.drivers.padding import padded
from polyak.interface import Box, Discrete, OnPolicy, Spec, played
from polyak.parts.returns import time_of

K, N, LIMIT = 2, 2, 4
CFG = reinforce.Config(
    hidden=(3,), gamma=0.8, lr=0.02, value_lr=0.05, value_steps=2, data=OnPolicy(episodes=K)
)
ACTION = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}


def spec_of(kind):
    return Spec(Box((2,)), ACTION[kind], LIMIT, num_envs=N)


@functools.cache
def start(kind, cfg=CFG):
    """Networks whose last layers are not small."""
    init = jax.jit(lambda key: reinforce.init(cfg, spec_of(kind), key), compiler_options=QUICK)
    state, rng = init(jax.random.key(0)), np.random.default_rng(0)
    policy, critic = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=critic)


def make_batch(kind, seed=0):
    """Two whole episodes of each environment, of one to four steps, ended in both ways; then padding."""
    rows, rng = oracles.rows(2, ACTION[kind], (K * LIMIT, N), seed), np.random.default_rng(seed)
    terminated, truncated = np.zeros((2, K * LIMIT, N), bool)
    for i in range(N):
        stop = 0
        for _ in range(K):
            stop += int(rng.integers(1, LIMIT + 1))
            (terminated if rng.random() < 0.6 else truncated)[stop - 1, i] = True
        rows.next_obs[: stop - 1, i] = rows.obs[1:stop, i]
        terminated[stop:, i] = rng.random(K * LIMIT - stop) < 0.5  # of what was played and is forgotten
    rows = padded(CFG.data, rows._replace(terminated=terminated, truncated=truncated), np)
    made = on_policy_batch(rows, CFG.gamma, None, played(CFG.data, rows.last))
    return jax.tree.map(np.asarray, made)


def episodes_of(batch):
    """The rows of each episode, as lists of (t, i)."""
    found = []
    for i in range(N):
        rows = []
        for t in range(K * LIMIT):
            rows.append((t, i))
            if batch.terminated[t, i] or batch.truncated[t, i]:
                found.append(rows)
                rows = []
    assert len(found) == K * N
    return found


class Slow:
    """Page 328 without a baseline, page 330 with one, an episode at a time."""

    def __init__(self, cfg, state):
        self.cfg = cfg
        self.policy, self.critic = float64(state.policy), float64(state.critic)
        self.policy_rule, self.critic_rule = Rule(cfg.rule, cfg.lr), Rule(cfg.rule, cfg.value_lr)

    def value(self, obs):
        return mlp(self.critic, obs, "tanh")[0] if self.cfg.baseline else 0.0

    def returns(self, batch, rows):
        """G of each step of an episode."""
        end, gamma = rows[-1], self.cfg.gamma
        rewards = [float(batch.reward[row]) for row in rows]
        after = self.value(batch.next_obs[end]) if batch.truncated[end] else 0.0
        length = len(rows)
        return [
            sum(gamma ** (k - t) * rewards[k] for k in range(t, length)) + gamma ** (length - t) * after
            for t in range(length)
        ]

    def policy_gradient(self, batch):
        weighed = []  # gamma^t delta of every step
        for rows in episodes_of(batch):
            for t, (row, goal) in enumerate(zip(rows, self.returns(batch, rows), strict=True)):
                power = self.cfg.gamma**t if self.cfg.discounted else 1.0
                weighed.append((row, power * (goal - self.value(batch.obs[row]))))

        def loss(policy):
            logs = [w * oracles.log_prob(policy, batch.obs[row], batch.action[row]) for row, w in weighed]
            return -sum(logs) / (K * N)

        return finite_differences(loss, self.policy)

    def update(self, batch, key):
        episodes = episodes_of(batch)
        rows = [row for each in episodes for row in each]
        goals = [goal for each in episodes for goal in self.returns(batch, each)]
        grads = self.policy_gradient(batch)
        if self.cfg.baseline:

            def loss(critic):
                errors = [
                    goal - mlp(critic, batch.obs[row], "tanh")[0]
                    for row, goal in zip(rows, goals, strict=True)
                ]
                return 0.5 * np.mean(np.square(errors))

            for _ in range(self.cfg.value_steps):
                self.critic = self.critic_rule.step(self.critic, finite_differences(loss, self.critic))
        self.policy = self.policy_rule.step(self.policy, grads)


class Rule:
    """Adam, or a step along the gradient itself."""

    def __init__(self, name, lr):
        self.lr, self.adam = lr, Adam(lr) if name == "adam" else None

    def step(self, params, grads):
        if self.adam:
            return self.adam.step(params, grads)
        return jax.tree.map(lambda p, g: p - self.lr * g, params, grads)


CHOICES = {
    "the book's": {"rule": "sgd"},
    "without a baseline": {"rule": "sgd", "baseline": False},
    "without gamma^t": {"discounted": False},
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", ACTION)
def test_three_updates_are_those_of_the_book(kind, choice):
    if kind == "continuous" and choice != "the book's":
        return
    cfg = dataclasses.replace(CFG, **CHOICES[choice])
    state = start(kind, cfg)
    update = jax.jit(lambda *args: reinforce.update(cfg, spec_of(kind), *args), compiler_options=QUICK)
    oracles.assert_follows(update, state, Slow(cfg, state), [make_batch(kind, seed) for seed in range(3)])


def test_padding_changes_no_bit():
    batch, spec = make_batch("discrete"), spec_of("discrete")
    padding = batch.weight == 0
    assert padding.any()
    where = padding[..., None]
    other = batch._replace(
        obs=np.where(where, batch.obs + 1, batch.obs),
        next_obs=np.where(where, batch.next_obs - 1, batch.next_obs),
        action=np.where(padding, (batch.action + 1) % 3, batch.action).astype(np.int32),
    )
    update = jax.jit(lambda *args: reinforce.update(CFG, spec, *args), compiler_options=QUICK)
    state, key = start("discrete"), jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, update(state, batch, key), update(state, other, key))


def test_the_mean_update_is_the_gradient_of_the_expected_return():
    """By enumeration: a softmax of two actions, two steps, and the reward of each action."""
    # J(theta) = sum over a_0, a_1 of pi(a_0) pi(a_1) (r_0(a_0) + gamma r_1(a_1)), both steps in one state
    cfg = reinforce.Config(
        gamma=0.5, baseline=False, rule="sgd", lr=1.0, network="linear", data=OnPolicy(episodes=1)
    )
    spec = Spec(Discrete(1), Discrete(2), 2, num_envs=4)
    theta, reward = np.array([0.3, -0.4]), np.array([[1.0, -2.0], [3.0, 0.5]])  # [t, a]

    def expected(theta):
        p = np.exp(theta) / np.exp(theta).sum()
        return p @ reward[0] + 0.5 * p @ reward[1]

    want = finite_differences(expected, theta)
    p = np.exp(theta) / np.exp(theta).sum()
    got, state = np.zeros(2), reinforce.init(cfg, spec, jax.random.key(0))
    state = state.replace(policy=state.policy.replace(net=set_weight(state.policy.net, theta)))
    for first in range(2):
        for second in range(2):
            action = np.tile(np.array([[first], [second]], np.int32), (1, 4))
            obs, last = np.zeros((2, 4), np.int32), np.array([[False], [True]]).repeat(4, axis=1)
            rewards = np.array([[reward[0, first]], [reward[1, second]]], np.float32).repeat(4, axis=1)
            rows = oracles.rows(1, Discrete(2), (2, 4))._replace(
                obs=obs, next_obs=obs, action=action, reward=rewards, terminated=last, truncated=~last & False
            )
            batch = on_policy_batch(rows, cfg.gamma, None, played(cfg.data, rows.last))
            after = reinforce.update(cfg, spec, state, batch, jax.random.key(0)).state
            got += p[first] * p[second] * (np.asarray(after.policy.net.weight[0], np.float64) - theta)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def set_weight(net, theta):
    return net.replace(weight=jnp.asarray(theta, jnp.float32)[None])


def test_time_begins_anew_with_each_episode():
    last = np.array([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool).T
    np.testing.assert_array_equal(time_of(last), np.array([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]).T)


def test_it_does_not_learn_from_steps():
    assert reinforce.wrong(reinforce.Config(data=OnPolicy(steps=8)), spec_of("discrete"))
    assert reinforce.wrong(CFG, spec_of("discrete")) == []

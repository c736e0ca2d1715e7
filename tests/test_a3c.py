"""A3C against slow float64 loops written from Algorithm S3 of Mnih et al. 2016, and beside A2C."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK, arrays_of, drive
from oracles import finite_differences, float64, mlp

from polyak.algorithms import a2c, a3c
from polyak.drivers.asynchronous import in_step, out_of_step
from polyak.envs.find import find
from polyak.interface import Box, Discrete, OnPolicy, Spec

T, N = 5, 2
CFG = a3c.Config(hidden=(3,), gamma=0.9, lr=1e-2, lr_end=0.2, horizon=100, entropy=0.1, decay=0.8, eps=1e-3)
ACTION = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}


def spec_of(kind):
    return Spec(Box((2,)), ACTION[kind], num_envs=N)


@functools.cache
def start(kind):
    """Networks whose last layers are not small."""
    init = jax.jit(lambda key: a3c.init(CFG, spec_of(kind), key), compiler_options=QUICK)
    state, rng = init(jax.random.key(0)), np.random.default_rng(0)
    policy, critic = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), (state.policy, state.critic)
    )
    return state.replace(policy=policy, critic=critic)


def make_batch(kind, seed=0):
    """A segment that goes on where it was: a row's successor is the next row, but at the end of an episode."""
    rows = oracles.rows(2, ACTION[kind], (T, N), seed)
    goes_on = ~(rows.terminated | rows.truncated)[:-1]
    assert goes_on.any()
    rows.next_obs[:-1][goes_on] = rows.obs[1:][goes_on]
    return oracles.as_batch(rows, CFG.gamma)


def returns(reward, terminated, truncated, after, gamma):
    """R of Algorithm S3, backwards along one environment; `after` is V at each row's successor."""
    R, found = None, []
    for t in reversed(range(len(reward))):
        if terminated[t]:
            R = 0.0
        elif R is None or truncated[t]:
            R = after[t]
        R = reward[t] + gamma * R
        found.append(R)
    return found[::-1]


def entropy_of(policy, obs):
    out = mlp(policy.net, obs, "tanh")
    if hasattr(policy, "log_sigma"):
        return float((policy.log_sigma + 0.5 * math.log(2 * math.pi * math.e)).sum())
    p = np.exp(out) / np.exp(out).sum()
    return -float((p * np.log(p)).sum())


class Slow:
    """One thread of Algorithm S3, with the shared RMSProp of equations (8) and (9)."""

    def __init__(self, cfg, state):
        self.cfg, self.env_steps = cfg, int(state.clock.env_steps)
        self.policy, self.critic = float64(state.policy), float64(state.critic)
        self.g = jax.tree.map(np.zeros_like, (self.policy, self.critic))

    def gradient(self, batch):
        after, gamma = mlp(self.critic, batch.next_obs, "tanh")[..., 0], self.cfg.gamma
        R = np.transpose(
            [
                returns(batch.reward[:, i], batch.terminated[:, i], batch.truncated[:, i], after[:, i], gamma)
                for i in range(N)
            ]
        )
        V, rows = mlp(self.critic, batch.obs, "tanh")[..., 0], list(np.ndindex(T, N))

        def loss(params):
            policy, critic = params
            total = 0.0
            for i in rows:
                total -= oracles.log_prob(policy, batch.obs[i], batch.action[i]) * (R[i] - V[i])
                total -= self.cfg.entropy * entropy_of(policy, batch.obs[i])
                total += self.cfg.value_loss * (R[i] - mlp(critic, batch.obs[i], "tanh")[0]) ** 2
            return total / len(rows)

        return finite_differences(loss, (self.policy, self.critic))

    def update(self, batch, key):
        lr = self.cfg.lr * oracles.linear_schedule(self.env_steps, 1.0, self.cfg.lr_end, self.cfg.horizon)
        d, alpha, eps = self.gradient(batch), self.cfg.decay, self.cfg.eps
        self.g = jax.tree.map(lambda g, d: alpha * g + (1 - alpha) * d**2, self.g, d)
        step = jax.tree.map(lambda g, d: lr * d / np.sqrt(g + eps), self.g, d)
        self.policy, self.critic = jax.tree.map(np.subtract, (self.policy, self.critic), step)


@pytest.mark.parametrize("env_steps", [0, 50])
@pytest.mark.parametrize("kind", ACTION)
def test_three_updates_are_those_of_algorithm_s3(kind, env_steps):
    state = start(kind)
    state = state.replace(clock=state.clock.at(env_steps))
    update = jax.jit(lambda *args: a3c.update(CFG, spec_of(kind), *args), compiler_options=QUICK)
    batches = [make_batch(kind, seed) for seed in range(3)]
    oracles.assert_follows(update, state, Slow(CFG, state), batches)


def test_the_k_step_return_of_every_row_is_the_recursive_formula():
    """With a table as critic, and a cell of its own for each row, the gradient in cell i tells R of row i."""
    cfg, rows = dataclasses.replace(CFG, network="linear", data=OnPolicy(steps=T)), T * N
    spec, rng = Spec(Discrete(2 * rows), Discrete(3), num_envs=N), np.random.default_rng(1)
    state = a3c.init(cfg, spec, jax.random.key(0))
    V = rng.normal(size=2 * rows).astype(np.float32)
    actor = state.policy, jax.tree.map(lambda x: jnp.asarray(V.reshape(x.shape)), state.critic), state.clock
    gradient = jax.jit(
        lambda batch: a3c.gradient(cfg, spec, actor, batch, None)[0][1], compiler_options=QUICK
    )
    for seed in range(20):
        batch = make_batch("discrete", seed)
        cells = rng.permutation(2 * rows).astype(np.int32).reshape(2, T, N)
        goes_on = ~(batch.terminated | batch.truncated)[:-1]
        cells[1, :-1][goes_on] = cells[0, 1:][goes_on]
        batch = batch._replace(obs=cells[0], next_obs=cells[1])
        slope = np.ravel(jax.tree.leaves(gradient(batch))[0])[cells[0]]  # 2 (V - R) / rows
        got = V[cells[0]] - slope * rows / (2 * cfg.value_loss)
        for i in range(N):
            ends = batch.terminated[:, i], batch.truncated[:, i]
            want = returns(
                batch.reward[:, i].astype(float), *ends, V[cells[1][:, i]].astype(float), cfg.gamma
            )
            np.testing.assert_allclose(got[:, i], want, rtol=1e-4, atol=1e-5)


def test_an_update_is_its_gradient_applied_bit_for_bit():
    state, batch, key, spec = (
        start("discrete"),
        make_batch("discrete"),
        jax.random.key(0),
        spec_of("discrete"),
    )

    def in_two(state, batch, key):
        grads, metrics = a3c.gradient(CFG, spec, a3c.actor(state), batch, key)
        return a3c.apply(CFG, spec, state, grads), metrics

    two = jax.jit(in_two, compiler_options=QUICK)(state, batch, key)
    done = jax.jit(lambda *args: a3c.update(CFG, spec, *args), compiler_options=QUICK)(state, batch, key)
    jax.tree.map(np.testing.assert_array_equal, two, (done.state, done.metrics))
    assert done.state.clock.updates == 1


# ---- beside A2C (F3)

SAME = {"hidden": (8,), "horizon": 2000, "lr": 1e-2, "max_norm": 0.5, "value_loss": 0.5}
A2C = a2c.Config(**SAME)
A3C = a3c.Config(**SAME, rule="adam", eps=1e-5)


def updated(algorithm, cfg, num_envs):
    """All that is learned from three rollouts [T, N, ...]."""
    spec = dataclasses.replace(spec_of("discrete"), num_envs=num_envs)
    state = algorithm.init(cfg, spec, jax.random.key(0))
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args).state)
    for seed in range(3):
        rows = oracles.rows(2, spec.action, (T, num_envs), seed)
        state = update(state, oracles.as_batch(rows, cfg.gamma), jax.random.key(seed))
    return jax.tree.map(np.asarray, getattr(state, "newest", state))


@pytest.mark.parametrize("num_envs", [1, 3])
def test_one_worker_that_waits_or_does_not_is_a2c_bit_for_bit(num_envs):
    want = jax.tree.leaves(updated(a2c.algorithm, A2C, num_envs))
    for made in (in_step, out_of_step):
        got = jax.tree.leaves(updated(made(a3c.algorithm, 1), A3C, num_envs))
        assert [x.tobytes() for x in got] == [x.tobytes() for x in want]


def test_k_workers_in_step_are_a2c_but_for_the_order_of_a_sum():
    want, got = updated(a2c.algorithm, A2C, 4), updated(in_step(a3c.algorithm, 4), A3C, 4)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    out = updated(out_of_step(a3c.algorithm, 4), A3C, 4)
    assert (
        max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(want), strict=True))
        > 1e-3
    )


def learned(algorithm, cfg, world, num_envs, iterations=12):
    """All that was learned in a driver, by place."""
    driver = drive(algorithm, cfg, find(world), (0,), num_envs)
    run = driver.advance(driver.start(), iterations)
    arrays = {
        name.replace(".newest", ""): x for name, x in arrays_of(driver, run).items() if "'state'" in name
    }
    driver.close()
    return arrays


@pytest.mark.long
@pytest.mark.parametrize("world", ["jax:CartPole-v1", "CartPole-v1"])
def test_whole_runs_are_those_of_a2c_too(world):
    want = learned(a2c.algorithm, A2C, world, 4)
    for made, workers in ((in_step, 1), (out_of_step, 1), (in_step, 4)):
        got = learned(made(a3c.algorithm, workers), A3C, world, 4)
        for name, value in want.items():
            assert workers > 1 or got[name].tobytes() == value.tobytes(), name
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6, err_msg=name)

"""Double DQN against slow float64 loops written from eq. 4 of van Hasselt, Guez & Silver 2016."""

import dataclasses

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, float64, mlp, mlp_gradient, unflat

from polyak.algorithms import double_dqn
from polyak.interface import Box, Discrete, Spec
from polyak.pytree import copy

SPEC = Spec(obs=Box((3,)), action=Discrete(4), num_envs=2)
B = 12
CFG = double_dqn.Config(hidden=(6,), gamma=0.9, lr=1e-2, period=2, tau=0.5, huber=1.0, max_norm=0.5)


def start(cfg=CFG):
    """A target that is not the online network."""
    init = jax.jit(lambda key: double_dqn.init(cfg, SPEC, key), compiler_options=QUICK)
    return init(jax.random.key(0)).replace(q_target=copy(init(jax.random.key(1)).q))


def updater(cfg=CFG):
    return jax.jit(lambda *args: double_dqn.update(cfg, SPEC, *args), compiler_options=QUICK)


def targets(cfg, q, q_target, batch):
    """Eq. 4, row by row; and DQN's target, max_a Q(s', a; theta^-)."""
    double, single = np.zeros(B), np.zeros(B)
    for b in range(B):
        future = 0.0 if batch.terminated[b] else cfg.gamma
        chosen = int(np.argmax(mlp(q, batch.next_obs[b])))
        values = mlp(q_target, batch.next_obs[b])
        double[b] = batch.reward[b] + future * values[chosen]
        single[b] = batch.reward[b] + future * values.max()
    return double, single


class Slow:
    """Algorithm 1 of DQN with the target of eq. 4."""

    def __init__(self, cfg, state):
        self.cfg, self.updates = cfg, 0
        self.q, self.q_target = float64(state.q), float64(state.q_target)
        self.adam = Adam(cfg.lr, max_norm=cfg.max_norm)

    def update(self, batch, key):
        y, _ = targets(self.cfg, self.q, self.q_target, batch)
        slope = np.zeros((B, 4))
        for b in range(B):
            error = mlp(self.q, batch.obs[b])[batch.action[b]] - y[b]
            if self.cfg.huber:
                error = np.clip(error, -self.cfg.huber, self.cfg.huber)
            slope[b, batch.action[b]] = batch.weight[b] * error / B
        grads = oracles.flat(mlp_gradient(self.q, batch.obs, slope)[0])
        self.q = self.adam.step(self.q, unflat(self.q, grads))
        self.updates += 1
        if self.updates % self.cfg.period == 0:
            self.q_target = averaged(self.cfg.tau, self.q, self.q_target)


@pytest.mark.parametrize("options", [{}, {"huber": 0.0, "tau": 1.0, "max_norm": 100.0}])
def test_five_updates_are_those_of_equation_4(options):
    cfg = dataclasses.replace(CFG, **options)
    batches = [oracles.make_batch(3, SPEC.action, B, cfg.gamma, seed, 2.0) for seed in range(5)]
    oracles.assert_follows(updater(cfg), start(cfg), Slow(cfg, start(cfg)), batches)


def test_the_target_is_not_the_maximum_of_the_target_network():
    state, batch = start(), oracles.make_batch(3, SPEC.action, B, CFG.gamma, 0, 2.0)
    double, single = targets(CFG, state.q, state.q_target, batch)
    assert (double <= single + 1e-12).all()
    assert (double < single - 1e-3).any()
    done = updater()(state, batch, jax.random.key(0))
    np.testing.assert_allclose(done.metrics["target"], double.mean(), rtol=1e-5)
    error = [abs(mlp(state.q, batch.obs[b])[batch.action[b]] - double[b]) for b in range(B)]
    np.testing.assert_allclose(done.priority, error, rtol=1e-4, atol=1e-6)


def test_the_online_network_chooses_and_the_target_network_values():
    """Last biases alone decide: the online network likes action 2 best, the target network 0 and finds 2 worth -7."""

    def says(net, values):
        layers = [net.layers[0], net.layers[1].replace(
            weight=0 * net.layers[1].weight, bias=np.float32(values)
        )]  # fmt: skip
        return net.replace(layers=type(net.layers)(layers))

    state = start()
    state = state.replace(q=says(state.q, [1, 2, 9, 3]), q_target=says(state.q_target, [50, 4, -7, 5]))
    batch = oracles.make_batch(3, SPEC.action, B, CFG.gamma)
    batch = batch._replace(reward=0 * batch.reward, discount=np.full(B, 0.5, np.float32))
    done = updater()(state, batch, jax.random.key(0))
    np.testing.assert_allclose(done.metrics["target"], -3.5, rtol=1e-6)


@pytest.mark.parametrize(("env_steps", "share"), [(0, 1.0), (50, 0.5), (100, 0.0), (900, 0.0)])
def test_epsilon_falls_over_its_share_of_the_horizon(env_steps, share):
    cfg = dataclasses.replace(CFG, epsilon=1.0, epsilon_end=0.0, epsilon_fraction=0.1, horizon=1000)
    state = start(cfg)
    clock = state.clock.at(env_steps)
    actor = double_dqn.actor(state.replace(clock=clock))
    obs = np.zeros((4000, 3), np.float32)
    best = int(np.argmax(mlp(state.q, obs[0])))
    action = double_dqn.act(cfg, SPEC, actor, (), obs, jax.random.key(0), True)[0]
    np.testing.assert_allclose(np.mean(np.asarray(action) != best), 0.75 * share, atol=0.03)

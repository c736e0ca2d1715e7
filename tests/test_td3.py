"""TD3 against slow float64 loops written from Algorithm 1 of Fujimoto et al. 2018."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, mlp

from polyak.algorithms import td3
from polyak.interface import Box, Spec
from polyak.pytree import copy

SPEC = Spec(obs=Box((3,)), action=Box((2,), -1.0, 1.0))
B = 12
CFG = td3.Config(hidden=(8,), gamma=0.9, tau=0.1, actor_lr=1e-2, critic_lr=1e-2)


def make_batch(seed=0):
    return oracles.make_batch(3, SPEC.action, B, CFG.gamma, seed)


@functools.cache
def init(twin):
    cfg = dataclasses.replace(CFG, twin=twin)
    return jax.jit(lambda key: td3.init(cfg, SPEC, key), compiler_options=QUICK)


def fresh(cfg, seed=0):
    return init(cfg.twin)(jax.random.key(seed))


def start(cfg, seed=0):
    """A state whose targets are not the online networks, as they are not after the first updates."""
    state, other = fresh(cfg, seed), fresh(cfg, seed + 100)
    return state.replace(actor_target=copy(other.actor), critics_target=copy(other.critics))


@functools.cache
def updater(cfg):
    return jax.jit(lambda *args: td3.update(cfg, SPEC, *args), compiler_options=QUICK)


def q_of(critics, member, obs, action):
    return mlp(critics.member, np.concatenate([obs, action]), member=member)[0]


def mu_of(actor, obs):
    return np.tanh(mlp(actor, obs))


def targets(cfg, state, batch, noise):
    """y = r + gamma min_i Q'_i(s', clip(mu'(s') + clip(eps, -c, c), -1, 1)); r where s' is terminal."""
    y = np.zeros(B)
    for b in range(B):
        action = mu_of(state.actor_target, batch.next_obs[b])
        for j in range(2):
            eps = max(-cfg.smoothing_clip, min(cfg.smoothing_clip, cfg.smoothing * float(noise[b, j])))
            action[j] = max(-1.0, min(1.0, action[j] + eps))
        q = min(q_of(state.critics_target, i, batch.next_obs[b], action) for i in range(2 if cfg.twin else 1))
        y[b] = batch.reward[b] + (0.0 if batch.terminated[b] else cfg.gamma * q)
    return y


TRICKS = [
    {},
    {"twin": False},
    {"smoothing": 0.0},
    {"smoothing": 3.0},
    {"smoothing": 3.0, "smoothing_clip": 2.0},
    {"twin": False, "smoothing": 0.0, "delay": 1},
]


@pytest.mark.parametrize("tricks", TRICKS)
def test_targets_and_critic_loss_are_those_of_algorithm_1(tricks):
    cfg = dataclasses.replace(CFG, **tricks)
    state, batch, key = start(cfg), make_batch(), jax.random.key(7)
    noise = np.asarray(jax.random.normal(jax.random.clone(key), (B, 2)))
    y = targets(cfg, state, batch, noise)
    members = 2 if cfg.twin else 1
    q = np.array(
        [[q_of(state.critics, i, batch.obs[b], batch.action[b]) for b in range(B)] for i in range(members)]
    )
    loss = sum((batch.weight * (q[i] - y) ** 2).mean() for i in range(members))
    done = updater(cfg)(state, batch, key)
    np.testing.assert_allclose(done.metrics["target"], y.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(done.metrics["critic_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(done.metrics["q"], q[0].mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(done.priority, np.abs(q - y).mean(0), rtol=1e-4, atol=1e-6)


def test_each_trick_changes_the_target():
    state, batch = start(CFG), make_batch()
    noise = np.random.default_rng(0).normal(size=(B, 2))
    y = targets(CFG, state, batch, noise)
    for tricks in ({"twin": False}, {"smoothing": 0.0}, {"smoothing_clip": 0.01}):
        other = targets(dataclasses.replace(CFG, **tricks), state, batch, noise)
        assert np.abs(other - y).max() > 1e-3
        np.testing.assert_array_equal(other[batch.terminated], batch.reward[batch.terminated])


def test_the_critics_descend_the_gradient_of_their_loss():
    """Its last layer by hand: dL/db = 2/B sum_b w_b (Q_i - y), and dL/dW = the same times the hidden features."""
    cfg = dataclasses.replace(CFG, smoothing=0.0)
    state, batch = start(cfg), make_batch()
    y = targets(cfg, state, batch, np.zeros((B, 2)))
    new = updater(cfg)(state, batch, jax.random.key(1)).state
    for i in range(2):
        w1, b1 = (
            np.asarray(x, float)[i]
            for x in (state.critics.member.layers[0].weight, state.critics.member.layers[0].bias)
        )
        hidden = np.maximum(np.concatenate([batch.obs, batch.action], 1) @ w1 + b1, 0)
        q = np.array([q_of(state.critics, i, batch.obs[b], batch.action[b]) for b in range(B)])
        slope = 2 / B * batch.weight * (q - y)
        last, moved = state.critics.member.layers[-1], new.critics.member.layers[-1]
        for old, now, grad in [
            (last.bias[i], moved.bias[i], slope.sum(keepdims=True)),
            (last.weight[i], moved.weight[i], (hidden.T @ slope)[:, None]),
        ]:
            want = Adam(cfg.critic_lr).step(old, grad)
            np.testing.assert_allclose(old - now, old - want, rtol=1e-3, atol=1e-6)


def test_the_actor_ascends_the_first_critic_after_its_step():
    """Finite differences in float64 of J = mean w Q_1(s, mu(s)) with the critics that were just moved."""
    cfg = dataclasses.replace(CFG, delay=1)
    state, batch = start(cfg), make_batch()
    new = updater(cfg)(state, batch, jax.random.key(1)).state

    def objective(bias, column):
        last = state.actor.layers[-1]
        b = np.asarray(last.bias, float).copy()
        b[column] += bias
        net = state.actor.replace(layers=(*state.actor.layers[:-1], last.replace(bias=b)))
        q = [q_of(new.critics, 0, batch.obs[i], mu_of(net, batch.obs[i])) for i in range(B)]
        return (batch.weight * q).mean()

    for column in range(2):
        grad = (objective(1e-5, column) - objective(-1e-5, column)) / 2e-5
        assert abs(grad) > 1e-4
        step = new.actor.layers[-1].bias[column] - state.actor.layers[-1].bias[column]
        np.testing.assert_allclose(step, cfg.actor_lr * np.sign(grad), rtol=1e-3)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_actor_and_targets_move_at_every_d_th_update_only_also_across_a_save(delay):
    cfg = dataclasses.replace(CFG, delay=delay)
    update, state = updater(cfg), start(cfg)
    for t in range(1, 8):
        state = jax.tree.map(lambda x: jnp.asarray(np.array(x)), state)  # saved and loaded
        new = update(state, make_batch(t), jax.random.key(t)).state
        assert int(new.clock.updates) == t

        def same(field, state=state, new=new):
            pairs = zip(
                jax.tree.leaves(getattr(state, field)), jax.tree.leaves(getattr(new, field)), strict=True
            )
            return all((np.asarray(a) == b).all() for a, b in pairs)

        assert not same("critics")
        still = [same(f) for f in ("actor", "actor_opt_state", "actor_target", "critics_target")]
        assert still == [t % delay != 0] * 4
        if t % delay == 0:  # theta' <- tau theta + (1 - tau) theta', with the networks that were just moved
            for online, target in (("actor", "actor_target"), ("critics", "critics_target")):
                want = averaged(cfg.tau, getattr(new, online), getattr(state, target))
                close = jax.tree.map(
                    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
                    getattr(new, target),
                    want,
                )
                assert close is not None
        state = new


def test_the_first_targets_are_copies_and_the_critics_differ():
    state = fresh(CFG)
    for online, target in ((state.actor, state.actor_target), (state.critics, state.critics_target)):
        jax.tree.map(np.testing.assert_array_equal, online, target)
    weight = state.critics.member.layers[0].weight
    assert weight.shape == (2, 5, 8)
    assert (weight[0] != weight[1]).all()
    single = fresh(dataclasses.replace(CFG, twin=False))
    assert single.critics.member.layers[0].weight.shape == (1, 5, 8)


def test_exploration_noise_is_gaussian_with_sigma_and_clipped_to_the_action_range():
    cfg = dataclasses.replace(CFG, exploration=0.3)
    actor = fresh(cfg).actor
    obs = np.zeros((4000, 3), np.float32)
    mean = mu_of(actor, obs[0])
    action, memory, extras = td3.act(cfg, SPEC, actor, (), obs, jax.random.key(1), True)
    assert (memory, extras) == ((), ())
    assert np.abs(action).max() <= 1
    np.testing.assert_allclose(np.median(action, 0), mean, atol=0.03)
    np.testing.assert_allclose((np.asarray(action) < mean - 0.3).mean(0), 0.1587, atol=0.03)
    silent, _, _ = td3.act(cfg, SPEC, actor, (), obs[:1], jax.random.key(1), False)
    np.testing.assert_allclose(silent[0], mean, rtol=1e-5, atol=1e-6)
    assert math.isclose(float(np.corrcoef(np.asarray(action).T)[0, 1]), 0, abs_tol=0.06)


# ---- the whole update, which test_updates.py runs


class Whole(oracles.Whole):
    """Algorithm 1 of Fujimoto et al. 2018."""

    def __init__(self, cfg, spec, state):
        super().__init__(cfg, spec, state)
        self.actor_adam, self.critic_adam = oracles.Adam(cfg.actor_lr), oracles.Adam(cfg.critic_lr)

    @staticmethod
    def read(state):
        def members(critics):
            return [oracles.layers_of(critics.member, i) for i in range(2)]

        return {
            "actor": oracles.layers_of(state.actor),
            "critics": members(state.critics),
            "actor_target": oracles.layers_of(state.actor_target),
            "critics_target": members(state.critics_target),
        }

    def update(self, batch, key):
        cfg, nets = self.cfg, dict(self.networks)
        size, weight = len(batch.reward), batch.weight.astype(float)[:, None]
        noise = cfg.smoothing * np.asarray(jax.random.normal(key, batch.action.shape), float)
        noise = np.clip(noise, -cfg.smoothing_clip, cfg.smoothing_clip)
        after = np.clip(np.tanh(oracles.mlp(nets["actor_target"], batch.next_obs)) + noise, -1, 1)
        after = np.concatenate([batch.next_obs, after], axis=1)
        smaller = np.minimum(*(oracles.mlp(critic, after) for critic in nets["critics_target"]))
        alive = ~np.asarray(batch.terminated)[:, None]
        y = batch.reward.astype(float)[:, None] + np.where(alive, cfg.gamma * smaller, 0.0)
        taken = np.concatenate([batch.obs, batch.action], axis=1)
        grads = [
            oracles.mlp_gradient(critic, taken, 2 * weight * (oracles.mlp(critic, taken) - y) / size)[0]
            for critic in nets["critics"]
        ]
        nets["critics"] = self.critic_adam.step(nets["critics"], grads)
        self.updates += 1
        if self.updates % cfg.delay == 0:
            mu = np.tanh(oracles.mlp(nets["actor"], batch.obs))
            first = nets["critics"][0]  # after its step
            _, slope = oracles.mlp_gradient(first, np.concatenate([batch.obs, mu], axis=1), weight / size)
            slope = -slope[:, batch.obs.shape[1] :] * (1 - mu**2)
            grads = oracles.mlp_gradient(nets["actor"], batch.obs, slope)[0]
            nets["actor"] = self.actor_adam.step(nets["actor"], grads)
            for name in ("actor", "critics"):
                nets[f"{name}_target"] = oracles.averaged(cfg.tau, nets[name], nets[f"{name}_target"])
        self.networks = nets

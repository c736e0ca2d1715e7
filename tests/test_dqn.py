"""DQN against slow float64 loops written from Algorithm 1 of Mnih et al. 2015, and its cadences as tables."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, mlp

from polyak.algorithms import dqn
from polyak.interface import Box, Discrete, Spec, Transition
from polyak.pytree import copy

SPEC = Spec(obs=Box((3,)), action=Discrete(4), num_envs=2)
B = 12
CFG = dqn.Config(hidden=(8,), gamma=0.9, lr=1e-2, period=5)

init = jax.jit(lambda key: dqn.init(CFG, SPEC, key), compiler_options=QUICK)


@functools.cache
def updater(cfg):
    return jax.jit(lambda *args: dqn.update(cfg, SPEC, *args), compiler_options=QUICK)


def start(seed=0):
    """A state whose target is not the online network."""
    return init(jax.random.key(seed)).replace(q_target=copy(init(jax.random.key(seed + 100)).q))


def make_batch(seed=0, scale=2.0):
    return oracles.make_batch(3, SPEC.action, B, CFG.gamma, seed, scale)


def errors(cfg, state, batch):
    """Q(s, a) - y with y = r, or r + gamma max_a' Q^(s', a') where s' is not terminal; and y."""
    error, y = np.zeros(B), np.zeros(B)
    for b in range(B):
        future = max(mlp(state.q_target if cfg.target else state.q, batch.next_obs[b]))
        y[b] = batch.reward[b] + (0.0 if batch.terminated[b] else cfg.gamma * future)
        error[b] = mlp(state.q, batch.obs[b])[batch.action[b]] - y[b]
    return error, y


def huber(error, width):
    """The integral of the clipped error."""
    if width == 0 or abs(error) <= width:
        return error**2 / 2
    return width * abs(error) - width**2 / 2


@pytest.mark.parametrize("options", [{}, {"huber": 0.0}, {"huber": 0.3}, {"target": False}])
def test_target_and_loss_are_those_of_algorithm_1(options):
    cfg, state, batch = dataclasses.replace(CFG, **options), start(), make_batch()
    done = updater(cfg)(state, batch, jax.random.key(0))
    error, y = errors(cfg, state, batch)
    assert (np.abs(error) > 1).any()
    assert (np.abs(error) < 1).any()
    loss = np.mean([w * huber(e, cfg.huber) for w, e in zip(batch.weight, error, strict=True)])
    np.testing.assert_allclose(done.metrics["target"], y.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(done.metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(done.metrics["q"], (error + y).mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(done.priority, np.abs(error), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("width", [0.25, 1.0, 3.0])
def test_the_derivative_of_huber_is_the_clipped_error(width):
    error = np.array([-5.0, -width, -0.1, 0.0, 0.1, 0.9 * width, width, 1.1 * width, 40.0], np.float32)
    slope = jax.vmap(jax.grad(lambda e: dqn.huber(e, width)))(error)
    np.testing.assert_allclose(slope, np.clip(error, -width, width), rtol=1e-6)
    np.testing.assert_allclose(dqn.huber(error, width), [huber(float(e), width) for e in error], rtol=1e-6)


def test_the_step_descends_the_clipped_error_and_holds_y_constant():
    """The last layer's bias by hand: dL/db_a = 1/B sum over rows of action a of w clip(Q - y)."""
    cfg = dataclasses.replace(CFG, max_norm=1e9, target=False)  # y reads the network that is being moved
    state, batch = start(), make_batch()
    new = updater(cfg)(state, batch, jax.random.key(0)).state
    error, _ = errors(cfg, state, batch)
    slope = batch.weight * np.clip(error, -1, 1) / B
    grad = np.array([slope[batch.action == a].sum() for a in range(4)])
    old = np.asarray(state.q.layers[-1].bias, float)
    step, want = old - new.q.layers[-1].bias, old - Adam(cfg.lr).step(old, grad)
    np.testing.assert_allclose(step, want, rtol=1e-3, atol=1e-6)
    assert (np.abs(grad) > 1e-4).sum() >= 3


def test_gradients_are_clipped_to_max_norm():
    """Adam forgets scale in its first step, but its first moment is 0.1 of what it was given."""
    batch = make_batch(scale=100.0)
    cfg = dataclasses.replace(CFG, max_norm=0.5, huber=0.0)
    opt_state = updater(cfg)(start(), batch, jax.random.key(0)).state.opt_state
    first = [np.asarray(x) for x in jax.tree.leaves(opt_state)]
    mu = next(
        m for m in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(m, "mu")
    ).mu
    norm = np.sqrt(sum((np.asarray(x, float) ** 2).sum() for x in jax.tree.leaves(mu)))
    np.testing.assert_allclose(norm, 0.05, rtol=1e-4)
    assert all(np.isfinite(x).all() for x in first)


def saved_and_loaded(state):
    return jax.tree.map(lambda x: jnp.asarray(np.array(x)), state)


@pytest.mark.parametrize(
    ("tau", "period", "moves"),
    [
        (1.0, 1, list(range(1, 51))),
        (1.0, 7, [7, 14, 21, 28, 35, 42, 49]),
        (1.0, 20, [20, 40]),
        (1.0, 60, []),
        (0.1, 1, list(range(1, 51))),
        (0.25, 20, [20, 40]),
    ],
)
def test_the_target_moves_at_exactly_these_of_fifty_updates_also_across_saves(tau, period, moves):
    update = updater(dataclasses.replace(CFG, tau=tau, period=period))
    state, batch, key = start(), make_batch(), jax.random.key(0)
    shadow = jax.tree.map(lambda x: np.asarray(x, float), state.q_target)
    moved = []
    for t in range(1, 51):
        if t % 3 == 0:
            state = saved_and_loaded(state)
        new = update(state, batch, jax.random.clone(key)).state
        pairs = zip(jax.tree.leaves(state.q_target), jax.tree.leaves(new.q_target), strict=True)
        if any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs):
            moved.append(t)
        if t in moves:
            shadow = averaged(tau, new.q, shadow)
        assert int(new.clock.updates) == t
        assert int(new.clock.env_steps) == 0
        state = new
    assert moved == moves
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.q_target, shadow)
    if tau == 1 and period == 1:
        jax.tree.map(np.testing.assert_array_equal, state.q_target, state.q)


# epsilon falls from 1 to 0.1 over a fifth of 1,000 steps
ANNEALED = dataclasses.replace(CFG, epsilon=1.0, epsilon_end=0.1, epsilon_fraction=0.2, horizon=1000)
MANY = 4000


@functools.cache
def actor_of_many(env_steps):
    go = jax.jit(lambda a, o, key: dqn.act(ANNEALED, SPEC, a, (), o, key, True)[0], compiler_options=QUICK)
    state = start()
    state = state.replace(clock=state.clock.at(env_steps))
    obs = np.repeat(np.ones((1, 3), np.float32), MANY, axis=0)
    return np.asarray(go(dqn.actor(state), obs, jax.random.key(5))), int(mlp(state.q, np.ones(3)).argmax())


@pytest.mark.parametrize(
    ("env_steps", "epsilon"), [(0, 1.0), (100, 0.55), (150, 0.325), (200, 0.1), (900, 0.1)]
)
def test_epsilon_is_this_share_of_uniform_actions(env_steps, epsilon):
    actions, greedy = actor_of_many(env_steps)
    share = (actions == greedy).mean()
    assert abs(share - (1 - epsilon + epsilon / 4)) < 4 * np.sqrt(0.25 / MANY)
    assert set(actions.tolist()) == {0, 1, 2, 3}


def test_epsilon_follows_the_environment_steps_that_were_observed():
    flag = np.zeros((5, 2), bool)
    rows = Transition(np.zeros((5, 2, 3)), flag, np.zeros((5, 2)), np.zeros((5, 2, 3)), flag, flag)
    state = start()
    for i in range(1, 4):
        state = dqn.algorithm.observe(CFG, SPEC, saved_and_loaded(state), rows)
        assert int(state.clock.env_steps) == 10 * i
        assert int(state.clock.updates) == 0
        assert int(dqn.actor(state).clock.env_steps) == 10 * i
    assert ANNEALED.anneal == 200


def test_without_exploring_the_greedy_action_is_taken():
    state = start()
    obs = np.random.default_rng(0).normal(scale=20, size=(20, 3)).astype(np.float32)
    action = dqn.act(CFG, SPEC, dqn.actor(state), (), obs, jax.random.key(0), False)[0]
    np.testing.assert_array_equal(action, [mlp(state.q, o).argmax() for o in obs])
    assert len(set(np.asarray(action).tolist())) > 1


def test_every_departure_of_the_defaults_is_stated():
    """The paper clips the error term and not the gradient's norm (its Methods, "Training algorithm")."""
    if dqn.Config().max_norm < float("inf"):
        assert "norm" in dqn.__doc__.split("Departures:")[1]


# ---- the whole update, which test_updates.py runs


class Whole(oracles.Whole):
    """Algorithm 1 of Mnih et al. 2015, on Adam, with a learning rate that falls."""

    def __init__(self, cfg, spec, state):
        super().__init__(cfg, spec, state)
        self.adam = oracles.Adam(cfg.lr, max_norm=cfg.max_norm)

    @staticmethod
    def read(state):
        return {"q": oracles.layers_of(state.q), "q_target": oracles.layers_of(state.q_target)}

    def update(self, batch, key):
        cfg, q, target = self.cfg, self.networks["q"], self.networks["q_target"]
        size = len(batch.reward)
        slope = np.zeros((size, self.spec.action.n))
        for b in range(size):
            y = float(batch.reward[b])
            if not batch.terminated[b]:
                y += cfg.gamma * oracles.mlp(target, batch.next_obs[b]).max()
            error = oracles.mlp(q, batch.obs[b])[batch.action[b]] - y
            slope[b, batch.action[b]] = batch.weight[b] * np.clip(error, -cfg.huber, cfg.huber) / size
        q = self.adam.step(q, oracles.mlp_gradient(q, batch.obs, slope)[0], cfg.lr * self.share_of_lr())
        self.updates += 1
        if self.updates % cfg.period == 0:
            target = oracles.averaged(cfg.tau, q, target)
        self.networks = {"q": q, "q_target": target}

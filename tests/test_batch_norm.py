"""Batch normalisation beside Ioffe & Szegedy 2015, Algorithm 1 and 2, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from cases import CASE

from polyak.algorithms import find, names
from polyak.drivers.check import check_data
from polyak.errors import UserError
from polyak.interface import Batch, Box, Discrete, Spec
from polyak.parts.natural import once_differentiable
from polyak.parts.networks import BatchNorm, build
from polyak.parts.networks.batch_norm import EPS, RATE
from polyak.parts.optimize import Running, adam, gradient_step

RNG = np.random.default_rng(0)
X = RNG.normal(1.0, 3.0, size=(5, 4, 3)).astype(np.float32)  # [T, N, D]: both first axes are the batch


def norm():
    mean, var = (jnp.asarray(values, jnp.float32) for values in ([1.0, -1.0, 0.5], [4.0, 0.25, 1.0]))
    return BatchNorm(jnp.array([1.0, 2.0, -1.0]), jnp.array([0.0, 0.5, 1.0]), Running(mean), Running(var))


def by_hand(norm, x, mean, var):
    unit = (np.asarray(x, float) - np.asarray(mean, float)) / np.sqrt(np.asarray(var, float) + EPS)
    return np.asarray(norm.gain) * unit + np.asarray(norm.offset)


def test_acting_normalises_by_the_running_statistics():
    layer = norm()
    want = by_hand(layer, X, layer.mean.value, layer.var.value)
    np.testing.assert_allclose(layer(X), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        jax.jit(lambda layer, x: layer(x))(layer, X[0, 0]), want[0, 0], rtol=1e-5, atol=1e-5
    )


def test_under_a_gradient_the_batch_normalises_itself():
    layer = norm()
    (_, got), _ = jax.value_and_grad(lambda layer: (jnp.sum(layer(X)), layer(X)), has_aux=True)(layer)
    want = by_hand(layer, X, X.mean((0, 1), dtype=float), X.var((0, 1), dtype=float))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_its_gradient_is_that_of_the_formula():
    """Automatic differentiation of Algorithm 1 written out, in place of the hand-made rule."""
    layer, target = norm(), RNG.normal(size=X.shape).astype(np.float32)

    def plainly(layer, x):
        unit = (x - x.mean((0, 1))) / jnp.sqrt(x.var((0, 1)) + EPS)
        return (jnp.sin(layer.gain * unit + layer.offset) * target).sum()

    got = jax.grad(lambda layer, x: (jnp.sin(layer(x)) * target).sum(), argnums=(0, 1))(layer, X)
    want = jax.grad(plainly, argnums=(0, 1))(layer, jnp.asarray(X))
    np.testing.assert_allclose(got[1], want[1], rtol=1e-3, atol=1e-5)
    for name in ("gain", "offset"):
        np.testing.assert_allclose(getattr(got[0], name), getattr(want[0], name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_statistics_move_by_their_own_rate_and_nothing_else_sees_them(lr):
    """mean <- (1 - RATE) mean + RATE mean of the batch, whatever the learning rate and the largest norm are."""
    optimizer, layer = adam(max_norm=1e-3), norm()
    opt_state = optimizer.init(layer)
    mean, var = (np.asarray(x.value, float) for x in (layer.mean, layer.var))
    for _ in range(3):
        x = RNG.normal(2.0, 5.0, size=(7, 3)).astype(np.float32)
        grads = jax.grad(lambda layer, x: jnp.sin(layer(x)).sum())(layer, x)
        still = jax.tree.map(jnp.zeros_like, grads.mean), jax.tree.map(jnp.zeros_like, grads.var)
        alone = gradient_step(optimizer, grads.replace(mean=still[0], var=still[1]), opt_state, layer, lr)
        layer, opt_state = gradient_step(optimizer, grads, opt_state, layer, lr)
        jax.tree.map(np.testing.assert_array_equal, opt_state, alone[1])
        np.testing.assert_array_equal(layer.gain, alone[0].gain)
        mean += RATE * (x.mean(0, dtype=float) - mean)
        var += RATE * (x.var(0, dtype=float) - var)
        np.testing.assert_allclose(layer.mean.value, mean, rtol=1e-5)
        np.testing.assert_allclose(layer.var.value, var, rtol=1e-5)


def test_a_step_without_running_statistics_is_the_optimiser_s_alone():
    params, optimizer = {"w": jnp.array([1.0, 2.0])}, adam()
    got, _ = gradient_step(optimizer, {"w": jnp.array([3.0, -3.0])}, optimizer.init(params), params, 0.1)
    np.testing.assert_allclose(got["w"], [0.9, 2.1], rtol=1e-6)


# ---- in algorithms


SPEC = {
    "discrete": Spec(Box((3,)), Discrete(2), num_envs=2),
    "continuous": Spec(Box((3,)), Box((2,), -1.0, 1.0), num_envs=2),
}


def batch(spec, seed, lead):
    rng = np.random.default_rng(seed)
    obs, next_obs = (rng.normal(1.0, 2.0, size=(*lead, 3)).astype(np.float32) for _ in range(2))
    discrete = isinstance(spec.action, Discrete)
    action = (
        rng.integers(2, size=lead) if discrete else rng.uniform(-1, 1, size=(*lead, 2)).astype(np.float32)
    )
    reward, never = rng.normal(size=lead).astype(np.float32), np.zeros(lead, bool)
    one = np.ones(lead, np.float32)
    return Batch(obs, action, reward, next_obs, never, never, {"log_prob": -one}, 0.9 * one, one)


@functools.cache
def small(name):
    return dataclasses.replace(CASE[name].config(), network="batch_norm")


@pytest.mark.parametrize(("name", "kind"), [("dqn", "discrete"), ("ppo", "discrete"), ("td3", "continuous")])
def test_it_learns_in_algorithms_and_its_statistics_are_state(name, kind):
    algorithm, cfg, spec = find(name), small(name), SPEC[kind]
    state = algorithm.init(cfg, spec, jax.random.key(0))
    rows = batch(spec, 0, (8, 2) if name == "ppo" else (16,))
    made = jax.jit(lambda *a: algorithm.update(cfg, spec, *a), compiler_options=QUICK)(
        state, rows, jax.random.key(1)
    )
    was, now = (
        [x.value for x in jax.tree.leaves(s, is_leaf=running) if running(x)] for s in (state, made.state)
    )
    assert any((a != b).any() for a, b in zip(was, now, strict=True))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(made))
    action, _, _ = algorithm.act(
        cfg, spec, algorithm.actor(made.state), (), rows.obs[0, None], jax.random.key(2), False
    )
    assert np.isfinite(action).all()


def running(x):
    return isinstance(x, Running)


def test_statistics_of_dqn_are_moving_averages_of_its_batches():
    """Of every layer, from the weights that the update began with, in float64."""
    dqn, spec = find("dqn"), SPEC["discrete"]
    cfg = dataclasses.replace(small("dqn"), hidden=(8, 5), lr=0.01)
    state = dqn.init(cfg, spec, jax.random.key(0))
    update = jax.jit(lambda *args: dqn.update(cfg, spec, *args), compiler_options=QUICK)
    slow = [(np.zeros(size), np.ones(size)) for size in cfg.hidden]
    for number in range(4):
        rows, net = batch(spec, number, (16,)), oracles.float64(state.q)
        x = np.asarray(rows.obs, float)
        for place, (layer, layer_norm) in enumerate(zip(net.layers, net.norms, strict=False)):
            x = x @ layer.weight + layer.bias
            slow[place] = tuple(
                old + RATE * (new - old) for old, new in zip(slow[place], (x.mean(0), x.var(0)), strict=True)
            )
            x = np.maximum(by_hand(layer_norm, x, x.mean(0), x.var(0)), 0)
        state = update(state, rows, jax.random.key(number)).state
        for (mean, var), layer_norm in zip(slow, state.q.norms, strict=True):
            np.testing.assert_allclose(layer_norm.mean.value, mean, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(layer_norm.var.value, var, rtol=1e-4, atol=1e-6)
    assert not np.allclose(state.q.norms[0].mean.value, 0)


@pytest.mark.parametrize("name", [name for name in names() if find(name).wrong is once_differentiable])
def test_natural_gradients_refuse_it_in_one_line(name):
    with pytest.raises(UserError, match="batch_norm"):
        check_data(name, find(name), small(name), SPEC["discrete"])


def test_it_is_found_by_name():
    assert build("batch_norm")(jax.random.key(0), Box((3,)), 2, hidden=(4,)).norms[0].gain.shape == (4,)

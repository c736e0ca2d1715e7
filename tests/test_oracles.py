"""The oracles against others' work and against one another: an oracle that is wrong would hide what it should show."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from oracles import Adam, averaged, finite_differences, float64, layers_of, mlp, mlp_gradient

from polyak.interface import Box, Discrete
from polyak.parts.networks import build, ensemble


def network(activation="relu", hidden=(5, 4)):
    """Biases are not zero, so that a wrong one shows."""
    net = build("mlp")(jax.random.key(0), Box((3,)), 2, hidden, activation)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + rng.normal(scale=0.3, size=x.shape).astype(np.float32), net)


X = np.random.default_rng(1).normal(size=(6, 3))


@pytest.mark.parametrize("activation", oracles.SLOPE)
def test_a_network_in_float64_is_that_of_jax(activation):
    net = network(activation)
    np.testing.assert_allclose(
        mlp(net, X, activation), net(jnp.asarray(X, jnp.float32)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(mlp(net, X, activation), mlp(layers_of(net), X, activation))
    for row, want in zip(X, mlp(net, X, activation), strict=True):
        np.testing.assert_allclose(mlp(net, row, activation), want, rtol=1e-12)


def test_a_member_of_an_ensemble_is_its_own_network():
    both = ensemble(lambda key: build("mlp")(key, Box((3,)), 1, (4,)), jax.random.key(0), 2)
    want = both(jnp.asarray(X, jnp.float32))
    for member in range(2):
        np.testing.assert_allclose(mlp(both.member, X, member=member), want[member], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", oracles.SLOPE)
def test_back_propagation_is_the_limit_of_differences(activation):
    layers, slope = layers_of(network(activation)), np.random.default_rng(2).normal(size=(6, 2))
    grads, in_x = mlp_gradient(layers, X, slope, activation)
    numbers = finite_differences(lambda tree: (slope * mlp(tree, X, activation)).sum(), layers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), grads, numbers)
    numbers = finite_differences(lambda x: (slope * mlp(layers, x, activation)).sum(), X)
    np.testing.assert_allclose(in_x, numbers, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("max_norm", [None, 0.7])
def test_adam_is_that_of_optax_over_many_steps_and_learning_rates(max_norm):
    params, oracle = {"w": np.ones((2, 3)), "b": np.zeros(3)}, Adam(0.1, eps=1e-3, max_norm=max_norm)
    rule = optax.scale_by_adam(eps=1e-3)
    if max_norm is not None:
        rule = optax.chain(optax.clip_by_global_norm(max_norm), rule)
    got, want, state = params, params, rule.init(params)
    rng = np.random.default_rng(0)
    for step in range(20):
        scale = 3.0 if step % 2 else 0.1  # on either side of the largest norm
        grads = {"w": scale * rng.normal(size=(2, 3)), "b": scale * rng.normal(size=3)}
        lr = oracles.linear_schedule(step, 0.1, 0.0, 15)
        got = oracle.step(got, grads, lr)
        direction, state = rule.update(jax.tree.map(jnp.float32, grads), state)
        want = jax.tree.map(lambda p, d, lr=lr: p - lr * np.asarray(d, float), want, direction)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_averages_by_hand():
    got = averaged(0.25, {"w": jnp.array([4.0])}, {"w": jnp.array([8.0])})
    np.testing.assert_array_equal(got["w"], [7.0])
    assert float64(jnp.float32(1)).dtype == np.float64


@pytest.mark.parametrize("action", [Discrete(3), Box((2, 2), -1.0, 1.0)])
@pytest.mark.parametrize("lead", [(12,), (5, 3)])
def test_made_rows_have_both_ends_and_no_row_has_both(action, lead):
    for seed in range(20):
        rows = oracles.rows(3, action, lead, seed)
        assert rows.terminated.any()
        assert rows.truncated.any()
        assert not rows.last.all()
        assert not (rows.terminated & rows.truncated).any()
        assert rows.action.shape == (*lead, *action.shape)
        assert {x.dtype for x in (rows.obs, rows.next_obs, rows.reward)} == {np.dtype(np.float32)}
        batch = oracles.as_batch(rows, 0.9, seed)
        np.testing.assert_allclose(batch.discount, np.where(rows.terminated, 0, 0.9), rtol=1e-6)
        assert len(np.unique(batch.weight)) > 1
        assert (oracles.as_batch(rows, 0.9).weight == 1).all()

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import Adam

from polyak.parts.optimize import adam, global_norm, gradient_step
from polyak.parts.schedules import linear_schedule

PARAMS = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}


def gradients(n):
    rng = np.random.default_rng(0)
    return [{"w": rng.normal(size=3) * 5, "b": rng.normal() * 5} for _ in range(n)]


@pytest.mark.parametrize("kwargs", [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-2}, {"max_norm": 0.5}])
def test_adam_is_algorithm_1_of_its_paper(kwargs):
    optimizer = adam(**kwargs)
    params, opt_state = PARAMS, optimizer.init(PARAMS)
    one = jax.jit(lambda grads, opt_state, params: gradient_step(optimizer, grads, opt_state, params, 0.01))
    for grads in gradients(30):
        grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads)
        params, opt_state = one(grads, opt_state, params)
    want, oracle = PARAMS, Adam(0.01, **kwargs)
    for grads in gradients(30):
        want = oracle.step(want, grads)
    for k in params:
        np.testing.assert_allclose(params[k], want[k], rtol=1e-4, atol=1e-5)


def test_a_step_descends():
    optimizer = adam()
    loss = lambda x: jnp.sum((x - 3) ** 2)  # noqa: E731
    x, opt_state = jnp.zeros(2), optimizer.init(jnp.zeros(2))
    for _ in range(300):
        x, opt_state = gradient_step(optimizer, jax.grad(loss)(x), opt_state, x, 0.05)
    np.testing.assert_allclose(x, 3.0, atol=1e-2)


def test_the_first_step_of_adam_is_the_learning_rate_for_any_gradient():
    optimizer = adam()
    grads = {"w": jnp.array([1e3, -1e-3, 7.0]), "b": jnp.array(-0.1)}
    params, _ = gradient_step(optimizer, grads, optimizer.init(PARAMS), PARAMS, 0.01)
    np.testing.assert_allclose(params["w"] - PARAMS["w"], [-0.01, 0.01, -0.01], rtol=1e-3)
    np.testing.assert_allclose(params["b"] - PARAMS["b"], 0.01, rtol=1e-3)


def test_clipping_leaves_a_small_gradient_and_scales_a_large_one():
    grads = {"w": jnp.array([3.0, 0.0, 0.0]), "b": jnp.array(4.0)}
    assert global_norm(grads) == 5.0
    for max_norm, want in ((10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])):
        optimizer = adam(b1=0.0, b2=0.0, eps=1.0, max_norm=max_norm)
        direction, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
        got = np.array([direction["w"][0], direction["b"]])
        # with b1 = b2 = 0 and eps = 1 the direction is g / (|g| + 1)
        np.testing.assert_allclose(got, np.array(want) / (np.array(want) + 1), rtol=1e-5)


def test_the_learning_rate_may_be_traced_and_swept():
    optimizer = adam()
    grads, opt_state = jax.tree.map(jnp.ones_like, PARAMS), optimizer.init(PARAMS)
    swept, _ = jax.jit(jax.vmap(lambda rate: gradient_step(optimizer, grads, opt_state, PARAMS, rate)))(
        jnp.array([0.0, 0.1])
    )
    np.testing.assert_array_equal(swept["w"][0], PARAMS["w"])
    np.testing.assert_allclose(swept["w"][1], PARAMS["w"] - 0.1, rtol=1e-5)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_step_keeps_structure_and_strong_dtypes(max_norm):
    optimizer = adam(max_norm=max_norm)
    params = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32)}
    opt_state = optimizer.init(params)
    new = gradient_step(optimizer, params, opt_state, params, jnp.float32(0.1))
    assert jax.tree.structure(new) == jax.tree.structure((params, opt_state))
    for old, leaf in zip(jax.tree.leaves((params, opt_state)), jax.tree.leaves(new), strict=True):
        assert leaf.dtype == old.dtype
        assert not leaf.weak_type


@pytest.mark.parametrize(
    ("now", "value"), [(-5, 1.0), (0, 1.0), (25, 0.775), (50, 0.55), (100, 0.1), (101, 0.1), (10**9, 0.1)]
)
def test_a_linear_schedule_is_a_line_with_flat_ends(now, value):
    np.testing.assert_allclose(oracles.linear_schedule(now, 1.0, 0.1, 100), value, rtol=1e-12)
    for got in (linear_schedule(now, 1.0, 0.1, 100), jax.jit(linear_schedule)(jnp.int32(now), 1.0, 0.1, 100)):
        np.testing.assert_allclose(got, value, rtol=1e-6)
        assert got.dtype == jnp.float32
        assert not got.weak_type


def test_a_schedule_of_no_duration_is_over():
    np.testing.assert_array_equal(linear_schedule(jnp.array([0, 1]), 1, 0, 0), [0.0, 0.0])

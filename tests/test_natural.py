"""Products with the Fisher matrix and conjugate gradients, against matrices that are made and solved in float64."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import flat, unflat

from polyak.interface import Box, Discrete
from polyak.parts.natural import conjugate_gradient, fisher_product, inner
from polyak.parts.networks import build
from polyak.parts.policies import build_policy

ACTION = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}
DAMPING = 0.03


@contextlib.contextmanager
def problem(kind):
    """A small policy in float64, observations, and a product with its damped Fisher matrix."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        network = build("mlp")
        policy = build_policy(
            lambda n: network(jax.random.key(0), Box((2,)), n, (3,), "tanh"), ACTION[kind], "parameter", -0.3
        )
        policy = jax.tree.map(lambda x: jnp.asarray(x + rng.normal(scale=0.5, size=x.shape)), policy)
        obs = rng.normal(size=(7, 2)).astype(np.float32)  # networks read float32
        old = policy(obs)
        product = fisher_product(lambda new: old.kl(new(obs)).mean(), policy, DAMPING)
        yield policy, obs, jax.jit(product)


def dense(policy, obs):
    return oracles.fisher(policy, obs) + DAMPING * np.eye(len(flat(policy)))


@pytest.mark.parametrize("kind", ACTION)
def test_a_product_is_that_with_the_mean_of_the_scores_outer_products(kind):
    with problem(kind) as (policy, obs, product):
        matrix = dense(policy, obs)
        for seed in range(3):
            v = np.random.default_rng(seed).normal(size=len(matrix))
            np.testing.assert_allclose(flat(product(unflat(policy, v))), matrix @ v, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ACTION)
def test_conjugate_gradients_end_at_the_solution_of_the_dense_system(kind):
    with problem(kind) as (policy, obs, product):
        matrix = dense(policy, obs)
        g = np.random.default_rng(1).normal(size=len(matrix))
        x, residual = conjugate_gradient(product, unflat(policy, g), 3 * len(matrix))
        want = np.linalg.solve(matrix, g)
        assert np.linalg.norm(want - g) > np.linalg.norm(g)  # it is another direction than the gradient
        np.testing.assert_allclose(flat(x), want, rtol=1e-6, atol=1e-8)
        assert residual < 1e-8


def test_the_residual_is_what_is_left_of_the_equation():
    with problem("discrete") as (policy, obs, product):
        matrix = dense(policy, obs)
        g = np.random.default_rng(1).normal(size=len(matrix))
        seen = []
        for iterations in (1, 2, 4, 8):
            x, residual = conjugate_gradient(product, unflat(policy, g), iterations)
            left = np.linalg.norm(g - matrix @ flat(x)) / np.linalg.norm(g)
            np.testing.assert_allclose(residual, left, rtol=1e-6)
            seen.append(left)
        assert seen[0] > 1e-2 > 1e-4 > seen[-1]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_each_iteration_is_the_best_of_its_krylov_space(iterations):
    """It minimises x^T A x / 2 - b^T x over the span of b, A b, A^2 b, ... (Nocedal & Wright, theorem 5.2)."""
    rng = np.random.default_rng(2)
    root = rng.normal(size=(6, 6))
    matrix, b = root @ root.T + np.eye(6), rng.normal(size=6)
    span = np.stack([np.linalg.matrix_power(matrix, k) @ b for k in range(iterations)], axis=1)
    want = span @ np.linalg.solve(span.T @ matrix @ span, span.T @ b)
    with jax.enable_x64(True):
        x, _ = conjugate_gradient(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(b), iterations)
    np.testing.assert_allclose(x, want, rtol=1e-8)


def test_nothing_to_solve_is_solved_by_zero_and_further_iterations_stay_at_a_solution():
    for b in (np.zeros(3, np.float32), np.float32([0.0, 2.0, 0.0])):
        x, residual = conjugate_gradient(lambda v: 4 * v, b, 10)
        np.testing.assert_array_equal(x, b / 4)
        assert residual == 0


def test_the_inner_product_runs_over_all_leaves():
    tree = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array(2.0)}
    other = {"a": jnp.array([[1.0, 0.0], [0.0, -1.0]]), "b": jnp.array(5.0)}
    assert inner(tree, other) == 1 - 4 + 10

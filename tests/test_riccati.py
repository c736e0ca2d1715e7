"""Riccati's recursion against SciPy's solution, a float64 loop and the cost of playing."""

import jax
import numpy as np
import oracles
import pytest
import scipy.linalg
from auditing import QUICK

import polyak
from polyak.algorithms import riccati
from polyak.envs.environment import rules
from polyak.envs.worlds.linear import LQR, LinearSystem
from polyak.interface import Box, Spec


def spec_of(env):
    return Spec(env.spec.obs, env.spec.action, model=rules(env))


def matrices(env):
    return (np.array(matrix, np.float64) for matrix in (env.A, env.B, env.Q, env.R))


class Slow:
    """The recursion as the book writes it, in A, B, Q and R."""

    def __init__(self, env, gamma):
        self.env, self.gamma = env, gamma
        self.P, self.gain = np.zeros((2, 2)), np.zeros((2, 2))

    def update(self, batch, key):
        A, B, Q, R = matrices(self.env)
        P = self.gamma * self.P
        self.gain = -np.linalg.inv(R + B.T @ P @ B) @ B.T @ P @ A
        self.P = Q + A.T @ P @ A + A.T @ P @ B @ self.gain


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_five_steps_of_the_recursion_are_those_of_the_book(gamma):
    """Costs of x and u apart only: with x in both the book's formula is another."""
    cfg, env = riccati.Config(gamma=gamma), LQR(noise=0.3)
    spec = spec_of(env)
    update = jax.jit(lambda *args: riccati.update(cfg, spec, *args), compiler_options=QUICK)
    start = riccati.init(cfg, spec, jax.random.key(0))
    oracles.assert_follows(update, start, Slow(env, gamma), [None] * 5)


def test_the_derivatives_of_the_rules_are_the_matrices_of_the_system():
    env = LinearSystem()
    A, B, Q, R = (np.asarray(matrix) for matrix in env.matrices)
    F, H = riccati.linear_quadratic(spec_of(env), jax.random.key(3))
    np.testing.assert_allclose(F, np.hstack([A, B]), atol=1e-6)
    np.testing.assert_allclose(H, scipy.linalg.block_diag(Q, R), atol=1e-6)


def test_what_it_comes_to_is_scipys_and_costs_what_it_says(tmp_path):
    env = LQR(noise=0.0, time_limit=200)
    given = {"eval_every": 0, "out": str(tmp_path), "verbose": False}
    run = polyak.train("riccati", env, updates=100, **given)
    A, B, Q, R = matrices(env)
    P = scipy.linalg.solve_discrete_are(A, B, Q, R)
    K = -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    state = run._raw[0]
    np.testing.assert_allclose(state["state/P"][0], P, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["state/gain"][0], K, rtol=1e-4, atol=1e-5)
    played = run.evaluate(episodes=200)
    # starts are standard Gaussian: the mean cost is the trace of P
    assert -played.returns.mean() == pytest.approx(
        np.trace(P), abs=float(5 * played.returns.std() / 200**0.5)
    )


def test_a_world_that_hides_its_state_is_refused():
    with pytest.raises(
        polyak.UserError, match="linear in the state, of which this environment shows something"
    ):
        polyak.Agent("riccati", "jax:Pendulum-v1")
    assert riccati.wrong(riccati.Config(), Spec(Box((3,)), Box((2,)), model=rules(LQR())))

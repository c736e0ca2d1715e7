"""Linear systems of the laboratory beside SciPy and beside simulation."""

import numpy as np
import pytest
from scipy import linalg, optimize

from polyak.errors import UserError
from polyak.lab import linear


def drawn(seed: int, **values) -> linear.LQR:
    random = np.random.default_rng(seed)
    A, B = random.normal(size=(3, 3)) / 2, random.normal(size=(3, 2))
    Q, R = np.diag(random.uniform(0.1, 1, 3)), np.diag(random.uniform(0.1, 1, 2))
    return linear.LQR(A, B, Q, R, **values)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_the_stationary_gain_is_scipys(seed, gamma):
    lqr = drawn(seed, gamma=gamma)
    A, B = np.sqrt(gamma) * lqr.A, np.sqrt(gamma) * lqr.B
    P = linalg.solve_discrete_are(A, B, lqr.Q, lqr.R)
    found, K = linear.stationary_riccati(lqr)
    np.testing.assert_allclose(found, P, atol=1e-9)
    np.testing.assert_allclose(K, -np.linalg.solve(lqr.R + B.T @ P @ B, B.T @ P @ A), atol=1e-9)


def test_a_finite_horizon_is_a_least_squares_problem_over_all_its_actions():
    lqr, horizon, start = drawn(0), 4, np.array([1.0, -2.0, 0.5])

    def cost(actions):
        state, total = start, 0.0
        for action in actions.reshape(horizon, 2):
            total += state @ lqr.Q @ state + action @ lqr.R @ action
            state = lqr.A @ state + lqr.B @ action
        return total

    P, K = linear.riccati(lqr, horizon)
    best = optimize.minimize(cost, np.zeros(2 * horizon), tol=1e-12)
    assert start @ P[0] @ start == pytest.approx(best.fun, rel=1e-8)
    np.testing.assert_allclose(K[0] @ start, best.x[:2], atol=1e-5)
    long, gains = linear.riccati(lqr, 200)
    np.testing.assert_allclose(long[0], linear.stationary_riccati(lqr)[0], atol=1e-9)
    np.testing.assert_allclose(gains[0], linear.stationary_riccati(lqr)[1], atol=1e-9)


def test_infinite_costs_are_those_of_a_long_horizon_and_least_at_the_best_gain():
    noise = np.diag([0.1, 0.2, 0.0])
    for gamma in (0.9, 1.0):
        lqr = drawn(1, noise=noise, gamma=gamma)
        _, K = linear.stationary_riccati(lqr)
        here = K + 0.05
        none = np.zeros(2)
        if gamma == 1:
            long = linear.expected_cost(lqr, here, none, 400) - linear.expected_cost(lqr, here, none, 300)
            assert linear.infinite_cost(lqr, here) == pytest.approx(long / 100)
        else:
            assert linear.infinite_cost(lqr, here) == pytest.approx(
                linear.expected_cost(lqr, here, none, 400)
            )
        for seed in range(20):
            other = K + 0.1 * np.random.default_rng(seed).normal(size=K.shape)
            assert linear.infinite_cost(lqr, other) > linear.infinite_cost(lqr, K)
    assert linear.infinite_cost(drawn(1), np.full((2, 3), 100.0)) == np.inf


def test_expected_cost_is_that_of_simulated_episodes():
    lqr = linear.double_integrator(gamma=0.9)
    K, sigma, random = np.array([[-0.5, -0.9]]), np.array([0.4]), np.random.default_rng(0)
    state, total = random.normal(size=(200_000, 2)), 0.0
    for t in range(5):
        action = state @ K.T + sigma * random.normal(size=(len(state), 1))
        total += 0.9**t * ((state @ lqr.Q * state).sum(1) + (action @ lqr.R * action).sum(1))
        state = state @ lqr.A.T + action @ lqr.B.T + 0.1 * random.normal(size=state.shape)
    error = total.std() / np.sqrt(len(total))
    assert abs(total.mean() - linear.expected_cost(lqr, K, sigma, 5)) < 3 * error


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="stabilisable"):
        linear.stationary_riccati(linear.LQR(2 * np.eye(1), np.zeros((1, 1)), np.eye(1), np.eye(1)))
    with pytest.raises(UserError, match=r"B is \(2, 2\), not \(3, 2\); R is"):
        linear.LQR(np.eye(3), np.eye(2), np.eye(3), np.eye(3))

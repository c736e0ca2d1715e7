"""Learned LQR against NumPy's least squares and SciPy's Riccati equation."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import scipy.linalg
from auditing import QUICK

from polyak.algorithms import learned_lqr
from polyak.envs.worlds.linear import LinearSystem
from polyak.interface import Batch, Box, Spec
from polyak.parts import lqr

SPEC = Spec(obs=Box((2,)), action=Box((1,)))
CFG = learned_lqr.Config(ridge=1e-3, sweeps=300)


def batch(seed, T=30, N=3, noise=0.02):
    """Rows of the linear system from states that are spread out."""
    rng = np.random.default_rng(seed)
    A, B, Q, R = (np.asarray(x, float) for x in LinearSystem().matrices)
    x, u = rng.normal(size=(T, N, 2)), rng.normal(size=(T, N, 1))
    reward = -(np.einsum("tni,ij,tnj->tn", x, Q, x) + np.einsum("tni,ij,tnj->tn", u, R, u))
    after = x @ A.T + u @ B.T + noise * rng.normal(size=x.shape)
    no, one = np.zeros((T, N), bool), np.ones((T, N), np.float32)
    x, u, reward, after = (each.astype(np.float32) for each in (x, u, reward, after))
    return Batch(x, u, reward, after, no, no, (), one, one)


class Slow:
    """Least squares over all rows so far, and Riccati's recursion, in float64."""

    def __init__(self):
        self.rows, self.gain, self.zz = [], np.zeros((1, 2)), None

    def update(self, batch, key):
        flat = [np.asarray(x, float).reshape(len(batch.reward.ravel()), -1) for x in batch[:4]]
        self.rows.append(flat)
        x, u, r, after = (np.concatenate(part) for part in zip(*self.rows, strict=True))
        z = np.hstack([x, u])
        self.zz = z.T @ z
        F = np.linalg.solve(self.zz + CFG.ridge * np.eye(3), z.T @ after).T
        pairs = [(i, j) for i in range(3) for j in range(i, 3)]
        q = np.stack([z[:, i] * z[:, j] for i, j in pairs] + [np.ones(len(z))], axis=1)
        w = np.linalg.solve(q.T @ q + CFG.ridge * np.eye(7), q.T @ r)[:, 0]
        H = np.zeros((3, 3))
        for (i, j), weight in zip(pairs, w[:-1], strict=True):
            H[i, j] -= weight / 2
            H[j, i] -= weight / 2
        P = np.zeros((2, 2))
        for _ in range(CFG.sweeps):
            G = H + CFG.gamma * F.T @ P @ F
            self.gain = -np.linalg.solve(G[2:, 2:], G[2:, :2])
            P = G[:2, :2] + G[:2, 2:] @ self.gain


def test_three_updates_are_those_of_least_squares_and_riccati():
    update = jax.jit(lambda *args: learned_lqr.update(CFG, SPEC, *args), compiler_options=QUICK)
    start = learned_lqr.init(CFG, SPEC, jax.random.key(0))
    oracles.assert_follows(update, start, Slow(), [batch(seed) for seed in range(3)], atol=1e-3)


def test_the_gain_of_the_true_system_is_scipys():
    A, B, Q, R = (np.asarray(x, float) for x in LinearSystem().matrices)
    P = scipy.linalg.solve_discrete_are(A, B, Q, R)
    want = -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    dynamics, cost = np.hstack([A, B]), scipy.linalg.block_diag(Q, R)
    gain, value = learned_lqr.riccati(CFG, jnp.asarray(dynamics, jnp.float32), jnp.asarray(cost, jnp.float32))
    np.testing.assert_allclose(gain, want, rtol=1e-4)
    np.testing.assert_allclose(value, P, rtol=1e-4)


def test_elimination_is_numpys_solve():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    matrix, right = root @ root.T + np.eye(6), rng.normal(size=(6, 2))
    got = lqr.solve(jnp.asarray(matrix, jnp.float32), jnp.asarray(right, jnp.float32))
    np.testing.assert_allclose(got, np.linalg.solve(matrix, right), rtol=1e-4)


def test_a_gain_that_is_not_finite_is_not_taken():
    start = learned_lqr.init(CFG, SPEC, jax.random.key(0)).replace(gain=jnp.ones((1, 2)))
    rows = batch(0)
    rows = rows._replace(next_obs=rows.next_obs * np.float32(1e30))
    done = learned_lqr.update(CFG, SPEC, start, rows, jax.random.key(0))
    assert float(done.metrics["sound"]) == 0
    np.testing.assert_array_equal(done.state.gain, start.gain)


def test_exploring_adds_noise_to_the_action():
    obs = np.ones((5000, 2), np.float32)
    gain = jnp.asarray([[0.5, -1.0]])
    quiet = learned_lqr.act(CFG, SPEC, gain, (), obs, jax.random.key(0), False)[0]
    np.testing.assert_allclose(quiet, -0.5)
    noisy = learned_lqr.act(CFG, SPEC, gain, (), obs, jax.random.key(0), True)[0]
    np.testing.assert_allclose(np.std(noisy - quiet), CFG.sigma, rtol=0.05)

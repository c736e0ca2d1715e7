"""Trajectories that are locally best, of a system that is known: iterative LQR.

Li & Todorov 2004, "Iterative Linear Quadratic Regulator Design for Nonlinear Biological Movement Systems"; the
regularisation and the line search are those of Tassa, Erez & Todorov 2012, "Synthesis and Stabilization of Complex
Behaviors through Online Trajectory Optimization", sections II-F and II-G.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.interface import Array

STEPS = 1.1 ** -(np.arange(10.0) ** 2)  # of the line search


class Trajectory(NamedTuple):
    """A solution.

    states      [T + 1, D]
    actions     [T, A]
    cost        of all steps
    gains       [T, A, D] K: u = action + K (x - state)
    converged   the last iteration gained less than the tolerance
    """

    states: np.ndarray
    actions: np.ndarray
    cost: float
    gains: np.ndarray
    converged: bool


class ILQR:
    """The solver of one system: x' = move(x, u), each step costs cost(x, u), for x [D] and u [A]."""

    def __init__(self, move: Callable[[Array, Array], Array], cost: Callable[[Array, Array], Array]):
        def both(function: Callable) -> Callable:
            return lambda z, size: function(z[:size], z[size:])

        def derivatives(z: Array, size: int) -> tuple[Array, Array, Array]:
            by_time = lambda f: jax.vmap(lambda z: f(z, size))(z)  # noqa: E731
            return (
                by_time(jax.jacfwd(both(move))),
                by_time(jax.grad(both(cost))),
                by_time(jax.hessian(both(cost))),
            )

        def play(start: Array, actions: Array, states: Array, gains: Array) -> tuple[Array, Array, Array]:
            def step(x: Array, now: tuple) -> tuple[Array, tuple]:
                u, near, K = now
                u = u + (K * (x - near)).sum(axis=-1)
                return move(x, u), (x, u, cost(x, u))

            end, (x, u, costs) = jax.lax.scan(step, start, (actions, states, gains))
            return jnp.concatenate([x, end[None]]), u, costs.sum()

        self._derivatives = jax.jit(derivatives, static_argnums=1)
        self._play = jax.jit(jax.vmap(play, in_axes=(None, 0, None, None)))

    def solve(
        self, start: np.ndarray, actions: np.ndarray, tolerance: float = 1e-5, iterations: int = 200
    ) -> Trajectory:
        """From a start [D] and first actions [T, A]; `tolerance` is relative to the cost."""
        horizon, size = actions.shape[0], len(start)
        none = np.zeros((horizon, actions.shape[1], size), np.float32)
        still = np.zeros((horizon, size), np.float32)
        x, u, cost = (np.asarray(y[0]) for y in self._play(start, actions[None], still, none))
        gains, regular, converged = none, 1e-3, False
        for _ in range(iterations):
            z = np.concatenate([x[:-1], u], axis=1)
            F, h, H = (np.asarray(y, np.float64) for y in self._derivatives(z, size))
            found = backward(F, h, H, regular)
            if found is None:
                regular *= 10
                continue
            K, k = found
            tried = u + STEPS[:, None, None] * k
            xs, us, costs = (np.asarray(y) for y in self._play(start, tried, x[:-1], K))
            best = int(np.nanargmin(costs))
            if not costs[best] < cost:
                regular *= 10
                if regular > 1e8:
                    converged = True  # no direction is better
                    break
                continue
            gain, (x, u, cost, gains) = cost - costs[best], (xs[best], us[best], costs[best], K)
            regular = max(regular / 5, 1e-8)
            if gain < tolerance * abs(cost):
                converged = True
                break
        return Trajectory(x, u, float(cost), gains, converged)


def backward(
    F: np.ndarray, h: np.ndarray, H: np.ndarray, regular: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Gains [T, A, D] and steps [T, A] for deviations, x' = F z and costs 1/2 z^T H z + h^T z; None: not convex."""
    size = F.shape[1]
    V, v, gains, steps = np.zeros((size, size)), np.zeros(size), [], []
    for t in reversed(range(len(F))):
        G, g = H[t] + F[t].T @ V @ F[t], h[t] + F[t].T @ v
        curvature = G[size:, size:] + regular * np.eye(len(g) - size)
        if np.linalg.eigvalsh(curvature)[0] <= 0:
            return None
        solved = -np.linalg.solve(curvature, np.column_stack([G[size:, :size], g[size:]]))
        K, k = solved[:, :-1], solved[:, -1]
        # Tassa et al. 2012, eq. 11: right for regularised gains too
        Gux, Guu, gu = G[size:, :size], G[size:, size:], g[size:]
        V = G[:size, :size] + K.T @ Guu @ K + K.T @ Gux + Gux.T @ K
        v = g[:size] + K.T @ Guu @ k + K.T @ gu + Gux.T @ k
        V = (V + V.T) / 2
        gains.insert(0, K)
        steps.insert(0, k)
    return np.array(gains, np.float32), np.array(steps, np.float32)

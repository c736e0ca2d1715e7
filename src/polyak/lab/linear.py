"""Linear systems with quadratic costs: Riccati equations, the cost of a linear policy and its gradient, in float64.

Bertsekas 2017, *Dynamic Programming and Optimal Control*, volume 1, section 3.1; the gradient is that of Fazel, Ge,
Kakade & Mesbahi 2018, arXiv:1801.05039, lemma 1, over a finite horizon and with a Gaussian policy. Lecture 1.
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

import numpy as np

from polyak.errors import UserError


@dataclass(frozen=True, eq=False)
class LQR:
    """s' = A s + B a + w, cost s' Q s + a' R a. A policy is a = K s, so that a good K is negative feedback.

    A [D, D], B [D, M], Q [D, D] symmetric, R [M, M] symmetric and positive definite
    noise  [D, D]  covariance of w, 0 where it is not given
    start  [D, D]  E[s_0 s_0'], the identity where it is not given; s_0 has mean 0
    gamma  discount of one step
    """

    A: np.ndarray
    B: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    noise: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    start: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    gamma: float = 1.0

    def __post_init__(self) -> None:
        size = len(self.A)
        usual = {"noise": np.zeros((size, size)), "start": np.eye(size)}
        for name in ("A", "B", "Q", "R", "noise", "start"):
            given = getattr(self, name)
            object.__setattr__(self, name, np.asarray(usual[name] if given is None else given, np.float64))
        actions = self.B.shape[-1]
        wanted = {"A": (size, size), "B": (size, actions), "Q": (size, size), "R": (actions, actions),
                  "noise": (size, size), "start": (size, size)}  # fmt: skip
        wrong = [
            f"{name} is {getattr(self, name).shape}, not {shape}"
            for name, shape in wanted.items()
            if getattr(self, name).shape != shape
        ]
        if wrong:
            raise UserError("; ".join(wrong))

    def replace(self, **values: object) -> Self:
        """A copy with other values."""
        return dataclasses.replace(self, **values)  # pyright: ignore[reportArgumentType]


def riccati_step(lqr: LQR, P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P_t and the best K_t [M, D], from the cost to go P_{t+1} [D, D]."""
    curvature = lqr.R + lqr.gamma * lqr.B.T @ P @ lqr.B
    K = -lqr.gamma * np.linalg.solve(curvature, lqr.B.T @ P @ lqr.A)
    P = lqr.Q + lqr.gamma * lqr.A.T @ P @ (lqr.A + lqr.B @ K)
    return (P + P.T) / 2, K


def riccati(lqr: LQR, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """P [H + 1, D, D] with P_H = 0, and the best gains K [H, M, D], of a finite horizon."""
    P, gains = [np.zeros_like(lqr.Q)], []
    for _ in range(horizon):
        before, gain = riccati_step(lqr, P[0])
        P.insert(0, before)
        gains.insert(0, gain)
    return np.array(P), np.array(gains)


def stationary_riccati(
    lqr: LQR, tolerance: float = 1e-12, iterations: int = 100_000
) -> tuple[np.ndarray, np.ndarray]:
    """P [D, D] and K [M, D] of an infinite horizon: value iteration on P until it stands still.

    UserError where it does not, as for a system that no action can stabilise.
    """
    P = np.zeros_like(lqr.Q)
    for _ in range(iterations):
        after, _ = riccati_step(lqr, P)
        if not np.abs(after).max() < 1e100:
            break
        if np.abs(after - P).max() <= tolerance * max(1.0, np.abs(after).max()):
            return after, riccati_step(lqr, after)[1]
        P = after
    raise UserError(
        f"Riccati's equation has not settled after {iterations:,} iterations: is (A, B) stabilisable?"
    )


def infinite_cost(lqr: LQR, K: np.ndarray) -> float:
    """E[sum_t gamma^t cost_t] of a = K s, or with gamma 1 the average cost of a step; inf where K is not stable."""
    closed = np.sqrt(lqr.gamma) * (lqr.A + lqr.B @ K)
    if np.abs(np.linalg.eigvals(closed)).max() >= 1:
        return float("inf")
    P = lyapunov(closed, lqr.Q + K.T @ lqr.R @ K)
    if lqr.gamma == 1:
        return float(np.trace(P @ lqr.noise))
    return float(np.trace(P @ lqr.start) + lqr.gamma / (1 - lqr.gamma) * np.trace(P @ lqr.noise))


def lyapunov(closed: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """P [D, D] = cost + closed' P closed, by one linear solve."""
    size = len(closed)
    system = np.eye(size * size) - np.kron(closed.T, closed.T)
    return np.linalg.solve(system, cost.ravel()).reshape(size, size)


# ---- a Gaussian policy a ~ N(K s, diag(sigma^2)) over a finite horizon


def costs_to_go(lqr: LQR, K: np.ndarray, sigma: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """P [H + 1, D, D] and c [H + 1], such that E[sum_{k>=t} gamma^(k-t) cost_k | s_t] = s_t' P_t s_t + c_t."""
    closed, spread = lqr.A + lqr.B @ K, np.diag(np.square(sigma))
    P, c = [np.zeros_like(lqr.Q)], [0.0]
    for _ in range(horizon):
        moved = lqr.B @ spread @ lqr.B.T + lqr.noise
        c.insert(0, float(np.trace(lqr.R @ spread) + lqr.gamma * (np.trace(P[0] @ moved) + c[0])))
        P.insert(0, lqr.Q + K.T @ lqr.R @ K + lqr.gamma * closed.T @ P[0] @ closed)
    return np.array(P), np.array(c)


def expected_cost(lqr: LQR, K: np.ndarray, sigma: np.ndarray, horizon: int) -> float:
    """E[sum_{t<H} gamma^t cost_t]."""
    P, c = costs_to_go(lqr, K, sigma, horizon)
    return float(np.trace(P[0] @ lqr.start) + c[0])


def cost_gradient(lqr: LQR, K: np.ndarray, sigma: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of `expected_cost` in K [M, D] and in log sigma [M], in closed form.

    dJ/dK = 2 sum_t gamma^t ((R + gamma B' P_{t+1} B) K + gamma B' P_{t+1} A) E[s_t s_t']    Fazel et al. 2018, lemma 1
    """
    P, _ = costs_to_go(lqr, K, sigma, horizon)
    closed, spread = lqr.A + lqr.B @ K, np.diag(np.square(sigma))
    moment = lqr.start  # E[s_t s_t']
    by_gain, by_sigma = np.zeros_like(K), np.zeros(len(K))
    for t in range(horizon):
        curvature = lqr.R + lqr.gamma * lqr.B.T @ P[t + 1] @ lqr.B
        slope = curvature @ K + lqr.gamma * lqr.B.T @ P[t + 1] @ lqr.A
        by_gain += 2 * lqr.gamma**t * slope @ moment
        by_sigma += 2 * lqr.gamma**t * np.square(sigma) * np.diag(curvature)
        moment = closed @ moment @ closed.T + lqr.B @ spread @ lqr.B.T + lqr.noise
    return by_gain, by_sigma


def double_integrator(timestep: float = 0.5, noise: float = 0.1, gamma: float = 1.0) -> LQR:
    """A mass pushed along a line: state position and velocity, action force; noise is the deviation of w."""
    A = np.array([[1.0, timestep], [0.0, 1.0]])
    B = np.array([[timestep**2 / 2], [timestep]])
    return LQR(A, B, np.eye(2), 0.5 * np.eye(1), noise**2 * np.eye(2), gamma=gamma)

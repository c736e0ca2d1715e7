"""Worlds whose answers are known in closed form: a linear-Gaussian one with quadratic costs, and a quadratic bandit."""

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Spec
from polyak.pytree import pytree, static

Matrix = tuple[tuple[float, ...], ...]


@pytree
class LQR(Environment):
    """The linear-quadratic regulator: x' = A x + B u + noise, reward -(x'Qx + u'Ru); no end but a time limit.

    state [2] = obs [2]: x, without bounds; starts are N(0, start^2)
    action [2]: u, without bounds: neither rescaled nor clipped
    """

    A: Matrix = ((0.9, 0.2), (-0.1, 0.8))
    B: Matrix = ((0.5, 0.0), (0.1, 0.4))
    Q: Matrix = ((1.0, 0.0), (0.0, 0.5))  # cost of a state
    R: Matrix = ((0.2, 0.05), (0.05, 0.3))  # cost of an action
    noise: float = 0.1  # standard deviation of what is added to each number of the state
    start: float = 1.0  # standard deviation of each number of the first state
    time_limit: int | None = static(default=50)

    @property
    def spec(self) -> Spec:
        """Real vectors without bounds."""
        return Spec(Box((2,)), Box((2,)), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """A Gaussian start."""
        x = self.start * jax.random.normal(key, (2,))
        return x, x

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step of the linear system; the cost is of the state before it."""
        A, B, Q, R = (jnp.asarray(matrix, jnp.float32) for matrix in (self.A, self.B, self.Q, self.R))
        reward = -(state @ Q @ state + action @ R @ action)
        x = A @ state + B @ action + self.noise * jax.random.normal(key, (2,))
        return Step(x, x, reward, jnp.array(False), jnp.array(False))


@pytree
class ContinuousBandit(Environment):
    """Reward -(a - a*)' C (a - a*), with one state and m actions (Silver et al. 2014, section 5.1).

    state [1] = obs [1]: 1; every step terminates
    action [m]: a, without bounds; a* is 4 in each number; C is symmetric, its eigenvalues are 0.1 and 1 in turns
    """

    best: float = 4.0  # each number of a*
    low: float = 0.1  # eigenvalues of C
    high: float = 1.0
    size: int = static(default=10)  # m; the paper has 10, 25 and 50
    time_limit: int | None = static(default=1)

    @property
    def spec(self) -> Spec:
        """Actions of m numbers without bounds."""
        return Spec(Box((1,), 0.0, 1.0), Box((self.size,)), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """The one state."""
        obs = jnp.ones(1, jnp.float32)
        return obs, obs

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """The cost of an action; C is diagonal after a reflection at (1, 2, ..., m)."""
        normal = jnp.arange(1, self.size + 1, dtype=jnp.float32)
        away = action - self.best
        away = away - 2 * normal * (normal @ away) / (normal @ normal)
        eigenvalues = jnp.where(jnp.arange(self.size) % 2 == 0, self.low, self.high)
        reward = -(eigenvalues * away**2).sum()
        return Step(state, state, reward, jnp.array(True), jnp.array(False))


@pytree
class LinearSystem(Environment):
    """A mass on a line that is pushed to 0, with friction and noise.

    state [2] = obs [2]: position (m) and velocity (m/s)
    action [1]: force (N), without bounds; reward: -(position^2 + 0.1 velocity^2 + effort force^2), before the step
    """

    timestep: float = 0.1  # s
    friction: float = 0.1  # 1/s
    effort: float = 0.1  # weight of the force in the cost
    noise: float = 0.01  # standard deviation of what is added to both in one step
    time_limit: int | None = static(default=100)

    @property
    def spec(self) -> Spec:
        """Two numbers to see, one to choose."""
        return Spec(Box((2,)), Box((1,)), self.time_limit)

    @property
    def matrices(self) -> tuple[Array, Array, Array, Array]:
        """A [2, 2], B [2, 1], Q [2, 2], R [1, 1]: x' = A x + B u + noise, cost x^T Q x + u^T R u."""
        h = self.timestep
        A = jnp.array([[1.0, h], [0.0, 1.0 - h * self.friction]])
        B = jnp.array([[0.5 * h * h], [h]])
        return A, B, jnp.diag(jnp.array([1.0, 0.1])), jnp.array([[self.effort]])

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Position and velocity uniform in [-2, 2]."""
        state = jax.random.uniform(key, (2,), minval=-2.0, maxval=2.0)
        return state, state

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step."""
        A, B, Q, R = self.matrices
        reward = -(state @ Q @ state + action @ R @ action)
        after = A @ state + B @ action + self.noise * jax.random.normal(key, (2,))
        return Step(after, after, reward, jnp.array(False), jnp.array(False))


ENVIRONMENTS = {"LQR": LQR, "ContinuousBandit": ContinuousBandit, "LinearSystem-v0": LinearSystem}

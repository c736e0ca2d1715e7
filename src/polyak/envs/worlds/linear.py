"""A linear system with a quadratic cost, whose best controller is known."""

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Spec
from polyak.pytree import pytree, static


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


ENVIRONMENTS = {"LinearSystem-v0": LinearSystem}

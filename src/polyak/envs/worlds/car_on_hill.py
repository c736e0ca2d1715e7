"""The car on the hill, whose values have cliffs: the task on which fitted Q-iteration was first shown."""

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Spec
from polyak.pytree import pytree, static


@pytree
class CarOnHill(Environment):
    """Drive a car, too weak to climb straight on, over the top of a hill: Ernst, Geurts & Wehenkel 2005, section 6.1.

    state [2] = obs [2]: position p (m) and velocity s (m/s); an episode starts at rest at the bottom, p = -0.5
    action: 0 pushes left, 1 right
    It terminates where |p| > 1 or |s| > 3, with reward 1 where the car is over the top, p > 1 and |s| <= 3, and -1
    where it is too far left or too fast; every other reward is 0. The height of the hill is p^2 + p left of 0 and
    p / sqrt(1 + 5 p^2) right of it.
    """

    mass: float = 1.0  # kg
    gravity: float = 9.81  # m/s^2
    force: float = 4.0  # N, of either action
    timestep: float = 0.1  # s, of one action
    position: float = -0.5  # m, of the start
    velocity: float = 0.0  # m/s, of the start
    substeps: int = static(default=100)  # Euler steps in one step
    max_position: float = static(default=1.0)  # m
    max_speed: float = static(default=3.0)  # m/s
    time_limit: int | None = static(default=200)  # the paper has none

    @property
    def spec(self) -> Spec:
        """Observations to twice what terminates, so that the last one is inside."""
        high = (2 * self.max_position, 2 * self.max_speed)
        return Spec(Box((2,), (-high[0], -high[1]), high), Discrete(2), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """The bottom, at rest."""
        state = jnp.stack([jnp.float32(self.position), jnp.float32(self.velocity)])
        return state, state

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step, integrated by Euler's method in small ones."""
        force = jnp.where(action == 1, self.force, -self.force)
        h = self.timestep / self.substeps

        def euler(_: Array, state: Array) -> Array:
            return state + h * self.slope(state, force)

        state = jax.lax.fori_loop(0, self.substeps, euler, state)
        fast, left, right = (
            jnp.abs(state[1]) > self.max_speed,
            state[0] < -self.max_position,
            state[0] > self.max_position,
        )
        reward = jnp.where(left | fast, -1.0, jnp.where(right, 1.0, 0.0)).astype(jnp.float32)
        return Step(state, state, reward, left | right | fast, jnp.array(False))

    def slope(self, state: Array, force: Array) -> Array:
        """d/dt of the state [2]."""
        position, velocity = state
        root = 1 + 5 * position**2
        # Hill'(p) and Hill''(p)
        rise = jnp.where(position < 0, 2 * position + 1, root**-1.5)
        bend = jnp.where(position < 0, 2.0, -15 * position * root**-2.5)
        # s. = (u / m - g Hill'(p) - s^2 Hill'(p) Hill''(p)) / (1 + Hill'(p)^2)
        pull = force / self.mass - self.gravity * rise - velocity**2 * rise * bend
        return jnp.stack([velocity, pull / (1 + rise**2)])


ENVIRONMENTS = {"CarOnHill": CarOnHill}

"""A planar arm of two links that reaches for a point: smooth, not linear, and as cheap as a pendulum."""

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Spec
from polyak.pytree import pytree, static


@pytree
class Arm(Environment):
    """Bring the tip of a two-link arm to a point and hold it there (Spong, Hutchinson & Vidyasagar 2006, section 7.3).

    state [4] = obs [4]: angle of link 1 from the x axis, of link 2 from link 1 (rad), their velocities (rad/s)
    action [2]: torques (N m), without bounds
    reward: -(distance^2 + damping |velocity|^2 + effort |torque|^2), before the step; no end but a time limit
    """

    length: float = 0.5  # m, of either link, a thin rod
    mass: float = 1.0  # kg, of either link
    gravity: float = 0.0  # m/s^2, along -y; 0: the arm moves on a table
    friction: float = 0.1  # N m s, of either joint
    x: float = 0.3  # m, the point
    y: float = 0.6  # m
    damping: float = 0.01  # weight of the velocities
    effort: float = 0.01  # weight of the torques
    timestep: float = 0.05  # s
    substeps: int = static(default=5)  # steps of semi-implicit Euler in one
    time_limit: int | None = static(default=50)

    @property
    def spec(self) -> Spec:
        """Four numbers to see, two to choose."""
        return Spec(Box((4,)), Box((2,)), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """At rest; the first angle uniform in [-1, 1], the second in [0.5, 2.5]."""
        angle = jax.random.uniform(key, (2,), minval=jnp.array([-1.0, 0.5]), maxval=jnp.array([1.0, 2.5]))
        state = jnp.concatenate([angle, jnp.zeros(2)])
        return state, state

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step."""
        tip = self.tip(state)
        away = (tip[0] - self.x) ** 2 + (tip[1] - self.y) ** 2
        reward = -(away + self.damping * (state[2:] ** 2).sum() + self.effort * (action**2).sum())
        h = self.timestep / self.substeps

        def euler(_: Array, state: Array) -> Array:
            velocity = state[2:] + h * self.acceleration(state, action)
            return jnp.concatenate([state[:2] + h * velocity, velocity])

        state = jax.lax.fori_loop(0, self.substeps, euler, state)
        return Step(state, state, reward, jnp.array(False), jnp.array(False))

    def tip(self, state: Array) -> Array:
        """Where the tip is [2], in metres."""
        first, both = state[0], state[0] + state[1]
        return self.length * jnp.stack([jnp.cos(first) + jnp.cos(both), jnp.sin(first) + jnp.sin(both)])

    def acceleration(self, state: Array, torque: Array) -> Array:
        """M(q)^-1 (torque - friction q. - C(q, q.) q. - g(q)), [2]."""
        first, second, w1, w2 = state
        inertia = self.mass * self.length**2
        cos = jnp.cos(second)
        # the inertia matrix of two thin rods
        m11, m12, m22 = inertia * (5 / 3 + cos), inertia * (1 / 3 + cos / 2), inertia / 3
        bend = inertia * jnp.sin(second) / 2
        pull = self.gravity * self.mass * self.length / 2
        weight = pull * jnp.stack([3 * jnp.cos(first) + jnp.cos(first + second), jnp.cos(first + second)])
        coriolis = jnp.stack([-bend * (2 * w1 * w2 + w2**2), bend * w1**2])
        left = torque - self.friction * state[2:] - coriolis - weight
        return jnp.stack([m22 * left[0] - m12 * left[1], m11 * left[1] - m12 * left[0]]) / (
            m11 * m22 - m12**2
        )


ENVIRONMENTS = {"Arm": Arm}

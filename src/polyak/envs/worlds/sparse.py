"""A task that rewards nothing until it is nearly solved."""

import math

import jax
import jax.numpy as jnp

from polyak.envs.environment import Step
from polyak.envs.worlds.pixels import CartPoleSwingUp
from polyak.interface import Array, Box, Spec
from polyak.pytree import pytree, static


@pytree
class SparseCartPoleSwingUp(CartPoleSwingUp):
    """Swing a pole up on a cart that starts anywhere and in motion, and stay on the rail.

    The task of Houthooft et al. 2016 (VIME, arXiv:1605.09674), on which Plappert et al. 2018 (arXiv:1706.01905) compare
    noises: rllab's cart with their reward. rllab steps it in Box2D, whose joints take a little energy away; here the
    equations of motion are solved, with the same masses, length, force, time step and order (velocities first).
    state [4] = obs [4]: x (m), its velocity (m/s), angle from upright (rad, never wrapped), its velocity (rad/s)
    action [1]: force, 1 for all of it
    reward: 1 where the cosine of the angle is above `threshold`, else 0; it terminates, with 0, at the rail's ends
    """

    gravity: float = 10.0  # m/s^2, Box2D's
    timestep: float = 0.05  # s
    threshold: float = 0.8  # cosine of the angle from which on there is a reward
    max_position: float = static(default=3.0)  # m, where the rail ends
    time_limit: int | None = static(default=500)

    @property
    def spec(self) -> Spec:
        """One force."""
        high = (self.max_position, math.inf, math.inf, math.inf)
        return Spec(Box((4,), tuple(-x for x in high), high), Box((1,), -1.0, 1.0), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Within 1 m and 2 m/s of the middle at rest, within 1 rad and 3 rad/s of hanging."""
        around = jnp.array([1.0, 2.0, 1.0, 3.0])
        state = jax.random.uniform(key, (4,), minval=-around, maxval=around)
        state = state + jnp.array([0.0, 0.0, math.pi, 0.0])
        return state, state

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One semi-implicit Euler step."""
        state, _ = self.move(state, action)
        terminated = jnp.abs(state[0]) >= self.max_position
        reward = ((jnp.cos(state[2]) > self.threshold) & ~terminated).astype(jnp.float32)
        return Step(state, state, reward, terminated, jnp.array(False))


ENVIRONMENTS = {"SparseCartPoleSwingUp": SparseCartPoleSwingUp}

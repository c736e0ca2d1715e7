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
    noises: rllab's cart with their reward. rllab steps it in Box2D, where cart and pole move on with what they have and
    a joint then takes away what would tear them apart: a fast pole loses energy. So it is here, and the joint is exact;
    but an episode starts with the cart on its rail, where rllab's joint first has to pull it there.
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
        """One force; the last position is beyond the rail."""
        high = (math.inf, math.inf, math.inf, math.inf)
        return Spec(Box((4,), tuple(-x for x in high), high), Box((1,), -1.0, 1.0), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Within 1 m and 2 m/s of the middle at rest, within 1 rad and 3 rad/s of hanging."""
        around = jnp.array([1.0, 2.0, 1.0, 3.0])
        state = jax.random.uniform(key, (4,), minval=-around, maxval=around)
        state = state + jnp.array([0.0, 0.0, math.pi, 0.0])
        return state, state

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step of Box2D: forces, then the joint, then positions."""
        state = self._swing(state, self.force * jnp.clip(action[0], -1.0, 1.0))
        terminated = jnp.abs(state[0]) > self.max_position
        reward = ((jnp.cos(state[2]) > self.threshold) & ~terminated).astype(jnp.float32)
        return Step(state, state, reward, terminated, jnp.array(False))

    def _swing(self, state: Array, force: Array) -> Array:
        x, x_dot, angle, angle_dot = state
        h, m, half = self.timestep, self.mass_pole, self.length
        sin, cos = jnp.sin(angle), jnp.cos(angle)

        # the pole's middle has the velocity that the step before gave it, whose pole stood elsewhere, and falls
        before = angle - h * angle_dot
        along = x_dot + half * jnp.cos(before) * angle_dot
        up = -half * jnp.sin(before) * angle_dot - h * self.gravity
        # the joint: of all velocities that keep the pole on the cart, those that are nearest in kinetic energy
        push = self.mass_cart * x_dot + h * force + m * along
        turn = m * half * (cos * along - sin * up) + m * half**2 / 3 * angle_dot
        total, shared, inertia = self.mass_cart + m, m * half * cos, 4 / 3 * m * half**2
        scale = total * inertia - shared**2
        x_dot = (inertia * push - shared * turn) / scale
        angle_dot = (total * turn - shared * push) / scale
        return jnp.stack([x + h * x_dot, x_dot, angle + h * angle_dot, angle_dot])


ENVIRONMENTS = {"SparseCartPoleSwingUp": SparseCartPoleSwingUp}

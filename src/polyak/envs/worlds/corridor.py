"""The short corridor with switched actions, of which no policy that is sure of itself finds the way out."""

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Spec
from polyak.pytree import pytree, static


@pytree
class ShortCorridor(Environment):
    """Three cells that look alike; in the second one left is right (Sutton & Barto 2018, example 13.1).

    state: the cell, 0 to 2, from which the episode starts at 0 and which it leaves to the right of 2
    obs [1]: 0, in every cell; action: 0 left, 1 right; reward: -1 for every step
    With probability p of going right the return is J(p) = (2 p - 4) / (p (1 - p)), which is largest at
    p = 2 - sqrt(2) = 0.586: -(6 + 4 sqrt(2)) = -11.66.
    """

    time_limit: int | None = static(
        default=1000
    )  # the book has none; half as many are too few where p is near 0

    @property
    def spec(self) -> Spec:
        """Nothing to see, two actions."""
        return Spec(Box((1,), -1.0, 1.0), Discrete(2), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """The first cell."""
        return jnp.int32(0), jnp.zeros(1, jnp.float32)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One cell to the side; the left wall does not give."""
        right = (action == 1) != (state == 1)
        state = jnp.maximum(state + jnp.where(right, 1, -1), 0)
        obs = jnp.zeros(1, jnp.float32)
        return Step(state, obs, jnp.float32(-1), state == 3, jnp.array(False))


ENVIRONMENTS = {"ShortCorridor": ShortCorridor}

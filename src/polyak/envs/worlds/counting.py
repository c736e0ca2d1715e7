"""An environment that proves a data stream to have no gap: its observation says which episode and which step.

Every stored pair must have `next_obs = obs + (0, 0, 1)`, and a repeated identity is an episode played
twice. The sums that a driver reports can be checked exactly, because all numbers are small integers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Spec
from polyak.pytree import pytree, static

IDENTITIES = 2**22  # float32 holds each of them exactly


class Count(NamedTuple):
    """Number of the episode, how far it has come, and how it will end."""

    identity: Array  # [2] int32
    t: Array  # int32
    length: Array  # int32
    terminates: Array  # bool; if not, the environment itself truncates


@pytree
class Counting(Environment):
    """Count to a random length; actions do nothing.

    obs [3]: two random integers that name the episode, t
    reward: t + 1, so an episode of n steps returns n (n + 1) / 2
    end: after n steps, n uniform in 1 .. max_length, terminated or truncated with equal chances
    """

    max_length: int = static(default=20)
    continuous: bool = static(default=False)
    time_limit: int | None = static(default=20)

    @property
    def spec(self) -> Spec:
        """Two actions or one number in [-1, 1]; `length` is the number of steps so far."""
        high = (IDENTITIES - 1.0, IDENTITIES - 1.0, float(self.max_length))
        action = Box((1,), -1.0, 1.0) if self.continuous else Discrete(2)
        return Spec(Box((3,), 0.0, high), action, self.time_limit, measures={"length": "last"})

    def reset(self, key: jax.Array) -> tuple[Count, Array]:
        """A new episode: its identity, its length and its kind of end."""
        key_identity, key_length, key_end = jax.random.split(key, 3)
        state = Count(
            identity=jax.random.randint(key_identity, (2,), 0, IDENTITIES),
            t=jnp.int32(0),
            length=jax.random.randint(key_length, (), 1, self.max_length + 1),
            terminates=jax.random.bernoulli(key_end),
        )
        return state, self._observe(state)

    def step(self, state: Count, action: Array, key: jax.Array) -> Step:
        """One more."""
        state = state._replace(t=state.t + 1)
        ended = state.t >= state.length
        count = jnp.float32(state.t)
        return Step(
            state,
            self._observe(state),
            count,
            ended & state.terminates,
            ended & ~state.terminates,
            {"length": count},
        )

    def _observe(self, state: Count) -> Array:
        return jnp.append(state.identity, state.t).astype(jnp.float32)


ENVIRONMENTS = {"Counting-v0": Counting}

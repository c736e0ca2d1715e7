"""Tiny environments with known values: five steps of a ladder, and a world that only a time limit interrupts.

Each rung needs one more thing to be right than the one before: the value's regression, its dependence on the
observation, discounting, the policy, the policy's dependence on the observation. Climb it in order: the first
rung that fails names the part that is broken.

The successor of a last step is the observation that it left, so bootstrapping through an end shows at once.
"""

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Spec
from polyak.pytree import pytree, static


@pytree
class Probe(Environment):
    """Base of the probes: state = obs [1], and two actions or one number in [-1, 1]."""

    continuous: bool = static(default=False)
    time_limit: int | None = static(default=10)

    @property
    def spec(self) -> Spec:
        """One number to see, one to choose."""
        action = Box((1,), -1.0, 1.0) if self.continuous else Discrete(2)
        return Spec(Box((1,), -1.0, 1.0), action, self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """The observation 0."""
        obs = jnp.zeros(1, jnp.float32)
        return obs, obs

    def action_value(self, obs: Array, action: Array, gamma: float) -> Array:
        """Q(obs, action), if the best actions follow."""
        raise NotImplementedError

    def best_action(self, obs: Array) -> Array:
        """A best action; all are where the action does not matter."""
        return jnp.zeros(1, jnp.float32) if self.continuous else jnp.int32(0)


@pytree
class ConstantReward(Probe):
    """One step, reward 1.

    V(0) = Q(0, a) = 1
    """

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step, which terminates."""
        return _end(state, jnp.float32(1))

    def action_value(self, obs: Array, action: Array, gamma: float) -> Array:
        """One."""
        return jnp.float32(1)


@pytree
class ObsReward(Probe):
    """One step; the reward is the observation, -1 or 1 with equal chances.

    V(o) = Q(o, a) = o
    """

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """The observation -1 or 1."""
        return _coin(key)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step, which terminates."""
        return _end(state, state[0])

    def action_value(self, obs: Array, action: Array, gamma: float) -> Array:
        """The observation."""
        return obs[0]


@pytree
class TwoStep(Probe):
    """Observation 0, reward 0; then observation 1, reward 1, and the end.

    V(0) = Q(0, a) = gamma, V(1) = Q(1, a) = 1
    """

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """The second step terminates and pays."""
        obs = jnp.ones_like(state)
        return Step(obs, obs, state[0], state[0] == 1, jnp.array(False))

    def action_value(self, obs: Array, action: Array, gamma: float) -> Array:
        """Discounted once at the start."""
        return jnp.where(obs[0] == 1, jnp.float32(1), gamma)


@pytree
class ActionReward(Probe):
    """One step; the action decides.

    two actions   Q(0, 0) = -1, Q(0, 1) = 1; V(0) = 1, under the uniform policy 0
    continuous    Q(0, a) = -(a - target)^2; V(0) = 0 at a = target
    """

    target: float = 0.5  # the best continuous action

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step, which terminates."""
        return _end(state, self._reward(action))

    def action_value(self, obs: Array, action: Array, gamma: float) -> Array:
        """The reward."""
        return self._reward(action)

    def best_action(self, obs: Array) -> Array:
        """The target, or action 1."""
        return jnp.full(1, self.target, jnp.float32) if self.continuous else jnp.int32(1)

    def _reward(self, action: Array) -> Array:
        if self.continuous:
            return -((jnp.asarray(action[0], jnp.float32) - self.target) ** 2)
        return jnp.where(action == 1, jnp.float32(1), jnp.float32(-1))


@pytree
class ObsActionReward(Probe):
    """One step; the observation, -1 or 1, says which action is good.

    two actions   Q(o, a) = 1 if a = (o + 1) / 2 else -1; V(o) = 1, under the uniform policy 0
    continuous    Q(o, a) = -(a - target o)^2; V(o) = 0 at a = target o
    """

    target: float = 0.5  # the best continuous action where the observation is 1

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """The observation -1 or 1."""
        return _coin(key)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step, which terminates."""
        return _end(state, self._reward(state, action))

    def action_value(self, obs: Array, action: Array, gamma: float) -> Array:
        """The reward."""
        return self._reward(obs, action)

    def best_action(self, obs: Array) -> Array:
        """The one that the observation asks for."""
        return self.target * obs if self.continuous else jnp.int32(obs[0] > 0)

    def _reward(self, obs: Array, action: Array) -> Array:
        best = self.best_action(obs)
        if self.continuous:
            return -((jnp.asarray(action[0], jnp.float32) - best[0]) ** 2)
        return jnp.where(action == best, jnp.float32(1), jnp.float32(-1))


@pytree
class Constant(Probe):
    """Observation 0 and reward 1 for ever, interrupted by a time limit that nobody can see.

    V(0) = Q(0, a) = 1 / (1 - gamma), which is 100 for gamma 0.99: whoever takes the time limit for the end of
    the world finds less than 10.
    """

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step, which never ends by itself."""
        return Step(state, state, jnp.float32(1), jnp.array(False), jnp.array(False))

    def action_value(self, obs: Array, action: Array, gamma: float) -> Array:
        """The geometric series."""
        return jnp.float32(1 / (1 - gamma))


def _coin(key: jax.Array) -> tuple[Array, Array]:
    """State and observation [1], -1 or 1."""
    obs = jax.random.rademacher(key, (1,), jnp.float32)
    return obs, obs


def _end(state: Array, reward: Array) -> Step:
    """The only step of an episode."""
    return Step(state, state, reward, jnp.array(True), jnp.array(False))


ENVIRONMENTS = {
    "Probe1-v0": ConstantReward,
    "Probe2-v0": ObsReward,
    "Probe3-v0": TwoStep,
    "Probe4-v0": ActionReward,
    "Probe5-v0": ObsActionReward,
    "Constant-v0": Constant,
}

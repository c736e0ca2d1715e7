"""Environments with goals, for hindsight: bit flipping and a point that has to reach a place.

An observation is {"observation": where it is, "desired_goal": where it should be}: V(s, g) and pi(s, g) of universal
value functions (Schaul et al. 2015) read both. `goals` says which an episode asks for: "all", or one of two parts of
them, so that a policy can be trained on one (`--env.goals training`) and evaluated on the other
(`--eval-env.goals held_out`).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Goal, Spec, Tree
from polyak.pytree import pytree, static

Goals = Literal["all", "training", "held_out"]
TRIES = 64  # goals that are drawn until one is of the part that is asked for


def draw_goal(key: jax.Array, goals: Goals, draw: Callable, held_out: Callable) -> Array:
    """A random goal of this part: the first of many that belongs to it.

    draw      (keys) -> goals [TRIES, ...]
    held_out  (goals) -> [TRIES]
    """
    drawn = draw(key, TRIES)
    if goals == "all":
        return drawn[0]
    fits = held_out(drawn) == (goals == "held_out")
    return drawn[jnp.argmax(fits)]


def relabel(obs: dict[str, Array], goal: Array) -> dict[str, Array]:
    """The same observation with another goal."""
    return {**obs, "desired_goal": goal}


@pytree
class BitFlip(Environment):
    """n bits, of which an action flips one, until they are those of the goal (Andrychowicz et al. 2017, sec. 4.1).

    obs: observation [n] and desired_goal [n], each bit 0 or 1; both are uniform at the start of an episode
    action: which bit to flip; reward: -1, and 0 for the step that reaches the goal, which terminates
    """

    n: int = static(default=10)  # bits; an episode is truncated after n steps
    goals: Goals = static(default="all")  # all, training or held_out, which are a quarter of them

    @property
    def spec(self) -> Spec:
        """Bits to see, one action for each."""
        bits = Box((self.n,), 0.0, 1.0)
        goal = Goal(lambda obs: obs["observation"], relabel, self._asked_again)
        obs = {"observation": bits, "desired_goal": bits}
        return Spec(obs, Discrete(self.n), self.n, goal=goal, measures={"success": "last"})

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Random bits and a random goal."""
        key_bits, key_goal = jax.random.split(key)
        bits = self._bits(key_bits, 1)[0]
        goal = draw_goal(key_goal, self.goals, self._bits, self._held_out)
        return (bits, goal), self._seen(bits, goal)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """Flip one bit."""
        bits, goal = state
        bits = bits.at[action].set(1 - bits[action])
        reached = (bits == goal).all()
        reward = jnp.where(reached, 0.0, -1.0)
        measures = {"success": jnp.float32(reached)}
        return Step((bits, goal), self._seen(bits, goal), reward, reached, jnp.array(False), measures)

    def _asked_again(self, obs: Tree, next_obs: Tree, terminated: Array) -> tuple[Array, Array]:
        reached = (next_obs["observation"] == next_obs["desired_goal"]).all(axis=-1)
        return jnp.where(reached, 0.0, -1.0), reached

    def _bits(self, key: jax.Array, count: int) -> Array:
        return jax.random.bernoulli(key, 0.5, (count, self.n)).astype(jnp.float32)

    def _held_out(self, goals: Array) -> Array:
        return (goals * (1 + jnp.arange(self.n))).sum(axis=-1) % 4 == 0

    @staticmethod
    def _seen(bits: Array, goal: Array) -> Tree:
        return {"observation": bits, "desired_goal": goal}


@pytree
class Reach(Environment):
    """A point in a square that is pushed to a place; both are random.

    obs: observation [4], position and velocity; desired_goal [2], a position
    action [2]: acceleration; reward: 0 within `tolerance` of the goal, else -1. It never terminates: the point has to
    stay where it is asked to be.
    """

    timestep: float = 0.1
    push: float = 4.0  # acceleration of a full action
    friction: float = 2.0  # of the velocity, per unit of time
    tolerance: float = 0.1  # distance that counts as reached
    goals: Goals = static(
        default="all"
    )  # all, training or held_out: fields of a board, one of them or the other
    time_limit: int | None = static(default=50)

    @property
    def spec(self) -> Spec:
        """A position and a velocity to see."""
        obs = {"observation": Box((4,)), "desired_goal": Box((2,), -1.0, 1.0)}
        goal = Goal(lambda obs: obs["observation"][..., :2], relabel, self._asked_again)
        action = Box((2,), -1.0, 1.0)
        return Spec(obs, action, self.time_limit, goal=goal, measures={"success": "last"})

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """A random place, at rest, and a random goal."""
        key_place, key_goal = jax.random.split(key)
        place = jnp.concatenate([self._places(key_place, 1)[0], jnp.zeros(2)])
        goal = draw_goal(key_goal, self.goals, self._places, self._held_out)
        return (place, goal), self._seen(place, goal)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One semi-implicit Euler step; a wall stops it."""
        place, goal = state
        velocity = place[2:] + self.timestep * (self.push * action - self.friction * place[2:])
        free = place[:2] + self.timestep * velocity
        position = jnp.clip(free, -1.0, 1.0)
        velocity = jnp.where(position == free, velocity, 0.0)
        place = jnp.concatenate([position, velocity])
        near = self._near(position, goal)
        reward, measures = jnp.where(near, 0.0, -1.0), {"success": jnp.float32(near)}
        no = jnp.array(False)
        return Step((place, goal), self._seen(place, goal), reward, no, no, measures)

    def _near(self, position: Array, goal: Array) -> Array:
        return jnp.square(position - goal).sum(axis=-1) < self.tolerance**2

    def _asked_again(self, obs: Tree, next_obs: Tree, terminated: Array) -> tuple[Array, Array]:
        near = self._near(next_obs["observation"][..., :2], next_obs["desired_goal"])
        return jnp.where(near, 0.0, -1.0), jnp.zeros_like(near)

    @staticmethod
    def _places(key: jax.Array, count: int) -> Array:
        return jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0)

    @staticmethod
    def _held_out(goals: Array) -> Array:
        return jnp.floor(2 * (goals + 1)).sum(axis=-1) % 2 == 0

    @staticmethod
    def _seen(place: Array, goal: Array) -> Tree:
        return {"observation": place, "desired_goal": goal}


ENVIRONMENTS = {"BitFlip": BitFlip, "Reach": Reach}

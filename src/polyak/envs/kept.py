"""Environments in JAX in which an action is kept for several steps: `--env.action_repeat N`, as on the host."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.errors import UserError
from polyak.interface import Array, Spec, Tree
from polyak.pytree import pytree, static

FPS = 30.0  # frames that a film shows in a second of a world that does not say
JOINED = {"sum": jnp.add, "max": jnp.maximum, "last": lambda before, after: after}  # a measure of two frames


@pytree
class Kept(Environment):
    """An environment whose steps are decisions: rewards are summed, the last frame is seen, an end ends the decision.

    state: frames of this episode so far, and the state of `env`
    """

    env: Any
    action_repeat: int = static(default=1)

    @property
    def spec(self) -> Spec:
        """That of `env`, whose limit counts decisions: a last one may be shorter."""
        spec = self.env.spec
        limit = None if spec.time_limit is None else -(-spec.time_limit // self.action_repeat)
        return dataclasses.replace(spec, time_limit=limit)

    @property
    def fps(self) -> float:
        """Decisions that a film shows in a second."""
        return float(getattr(self.env, "fps", FPS)) / self.action_repeat

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """A start of `env`."""
        state, obs = self.env.reset(key)
        return (jnp.zeros((), jnp.int32), state), obs

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """Frames until the action has been kept long enough, or the episode ends."""
        frames, inner = state
        spec = self.env.spec
        keys = jax.random.split(key, self.action_repeat)

        def frame(carry: tuple[Array, Step], key: jax.Array) -> tuple[tuple[Array, Step], None]:
            count, before = carry
            after = self.env.step(before.state, action, key)
            measures = {
                name: JOINED[spec.measures[name]](before.measures[name], value)
                for name, value in after.measures.items()
            }
            after = after._replace(reward=before.reward + after.reward, measures=measures)
            over = jnp.logical_or(before.terminated, before.truncated)
            over = over if spec.time_limit is None else over | (count >= spec.time_limit)
            kept = jax.tree.map(lambda old, new: jnp.where(over, old, new), before, after)
            return (jnp.where(over, count, count + 1), kept), None

        first = self.env.step(inner, action, keys[0])
        (count, step), _ = jax.lax.scan(frame, (frames + 1, first), keys[1:])
        return step._replace(state=(count, step.state))

    def draw(self, state: Tree) -> np.ndarray:
        """The picture of `env`."""
        return self.env.draw(state[1])


def kept(name: str, env: Environment, times: Any) -> Environment:
    """The environment with its actions kept; UserError where that means nothing."""
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise UserError(
            f"environment {name}: action_repeat must be a whole number of at least 1, not {times!r}"
        )
    if times == 1:
        return env
    spec = env.spec
    if spec.goal is not None or spec.players > 1:
        what = "goals" if spec.goal is not None else f"{spec.players} players"
        raise UserError(f"environment {name}: action_repeat is not for environments with {what}")
    if means := [measure for measure, how in spec.measures.items() if how not in JOINED]:
        raise UserError(f"environment {name}: action_repeat has no way to average {', '.join(means)}")
    return Kept(env, times)

"""Environments in JAX that are less sure of themselves: constants drawn for each episode, and random pushes.

Peng, Andrychowicz, Zaremba & Abbeel 2018, "Sim-to-Real Transfer of Robotic Control with Dynamics Randomization"
(arXiv:1710.06537), section 4; Tobin et al. 2017 (arXiv:1703.06907). Lecture 1, "Narrowing the Reality Gap".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.envs.fields import PUSH, RANDOMIZE
from polyak.errors import UserError, nearest
from polyak.interface import Array, Box, Spec, Tree
from polyak.pytree import pytree


@pytree
class Randomized(Environment):
    """An environment whose constants are drawn anew for each episode, uniformly between two bounds.

    state: what was drawn, and the state of `env`
    """

    env: Any
    low: dict[str, Any]  # by the name of a constant
    high: dict[str, Any]

    @property
    def spec(self) -> Spec:
        """That of `env`: nothing shows which constants were drawn."""
        return self.env.spec

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Draw the constants, then a start."""
        key_constants, key_start = jax.random.split(key)
        keys = jax.random.split(key_constants, len(self.low))
        drawn = {
            name: jax.random.uniform(
                k, jnp.shape(self.low[name]), minval=self.low[name], maxval=self.high[name]
            )
            for name, k in zip(sorted(self.low), keys, strict=True)
        }
        state, obs = self.env.replace(**drawn).reset(key_start)
        return (drawn, state), obs

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One step of the environment that has the episode's constants."""
        drawn, inner = state
        step = self.env.replace(**drawn).step(inner, action, key)
        return step._replace(state=(drawn, step.state))

    def draw(self, state: Tree) -> np.ndarray:
        """The picture of the environment that has the episode's constants."""
        drawn, inner = state
        return self.env.replace(**drawn).draw(inner)


@pytree
class Pushed(Environment):
    """An environment that is pushed at random: now and then something else is done than was meant.

    With probability `chance` in a step, real actions are shifted by up to `size` halves of their range, and clipped to
    it; integers are replaced by any, whatever `size`.
    """

    env: Any
    size: Any = 1.0
    chance: Any = 0.1

    @property
    def spec(self) -> Spec:
        """That of `env`."""
        return self.env.spec

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """A start of `env`."""
        return self.env.reset(key)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One step, perhaps with a push."""
        key_chance, key_size, key_step = jax.random.split(key, 3)
        space = self.spec.action
        if isinstance(space, Box):
            low, high = (jnp.broadcast_to(jnp.asarray(b), space.shape) for b in (space.low, space.high))
            push = self.size * jax.random.uniform(key_size, space.shape, minval=-1, maxval=1)
            pushed = jnp.clip(action + push * (high - low) / 2, low, high)
        else:
            pushed = jax.random.randint(key_size, jnp.shape(action), 0, space.n)
        happens = jax.random.bernoulli(key_chance, self.chance)
        action = jnp.where(happens, pushed, action).astype(jnp.asarray(action).dtype)
        return self.env.step(state, action, key_step)

    def draw(self, state: Tree) -> np.ndarray:
        """The picture of `env`."""
        return self.env.draw(state)


def randomized(name: str, env: Any, constants: Any, ranges: Mapping[str, Any]) -> Any:
    """The environment with these constants drawn between two bounds each; UserError for what cannot be drawn."""
    valid = {f.name: f for f in dataclasses.fields(constants) if not f.metadata.get("static")}
    low, high = {}, {}
    for field, given in ranges.items():
        what = f"environment {name}: {RANDOMIZE}{field}"
        if field not in valid:
            fixed = field in {f.name for f in dataclasses.fields(constants)}
            why = (
                "shapes its spaces or its program, so that it cannot be drawn"
                if fixed
                else "is no constant of it"
            )
            raise UserError(f"{what}: {field} {why}; {nearest(field, valid) or 'it has none that can'}")
        value = getattr(constants, field)
        if np.asarray(value).dtype.kind != "f" or np.ndim(value):
            raise UserError(f"{what}: {field} is {value!r}, and only single real numbers can be drawn")
        numbers = np.asarray(given) if _is_pair(given) else None
        if numbers is None or not np.isfinite(numbers).all() or numbers[0] > numbers[1]:
            raise UserError(f"{what} must be two numbers, the lower first, as in 0.8,1.2, not {given!r}")
        low[field], high[field] = float(numbers[0]), float(numbers[1])
    return Randomized(env, low, high) if low else env


def pushed(name: str, env: Any, fields: Mapping[str, Any]) -> Any:
    """The environment with random pushes; UserError for a field that pushes do not have or a value out of range."""
    most = {"size": np.inf, "chance": 1.0}
    for field, given in fields.items():
        if field not in most:
            raise UserError(f"environment {name} has no field {PUSH + field!r}; {nearest(field, most)}")
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= most[field]:
            bound = "a number of at least 0" if field == "size" else "a probability"
            raise UserError(f"environment {name}: {PUSH}{field} must be {bound}, not {given!r}")
    if not fields:
        return env
    space = env.spec.action
    if isinstance(space, Box) and not np.isfinite([*np.ravel(space.low), *np.ravel(space.high)]).all():
        raise UserError(
            f"environment {name}: {PUSH}size is a share of the actions' range, which has no bounds here"
        )
    return Pushed(env, **fields)


def _is_pair(given: Any) -> bool:
    return (
        isinstance(given, tuple | list)
        and len(given) == 2
        and all(isinstance(x, int | float | np.number) and not isinstance(x, bool) for x in given)
    )

"""gymnax environments (Lange 2022, gymnax 1.x) as our own: one pytree whose leaves are gymnax's parameters."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any, Self

import gymnax
import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.errors import UserError, nearest, said_by
from polyak.interface import Array, Box, Discrete, Space, Spec, Tree
from polyak.pytree import pytree, static, strip_weak_types


@pytree
class Gymnax(Environment):
    """One gymnax environment, made by `make`; `replace` knows the names of its parameters.

    params      gymnax's EnvParams: physical constants, leaves that can be traced
    name        gymnax's id
    options     keyword arguments of its constructor, as pairs
    time_limit  params.max_steps_in_episode, known before anything is traced
    """

    params: Any
    name: str = static()
    options: tuple = static(())
    time_limit: int = static(0)

    @property
    def spec(self) -> Spec:
        """Its spaces with these parameters, which must not be traced."""
        env = _built(self.name, self.options)
        obs = from_gymnax(env.observation_space(self.params))
        return Spec(obs, from_gymnax(env.action_space(self.params)), self.time_limit)

    def replace(self, **values: Any) -> Self:
        """A copy with other parameters, by their own names; TypeError names one that does not exist."""
        own = {f.name for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        params = {name: value for name, value in values.items() if name not in own}
        values = {name: value for name, value in values.items() if name in own}
        if params:
            values["params"] = dataclasses.replace(values.get("params", self.params), **_leaves(params))
        if "max_steps_in_episode" in params:
            values["time_limit"] = int(params["max_steps_in_episode"])
        return super().replace(**values)

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """A random start."""
        env = _built(self.name, self.options)
        obs, state = env.reset_env(key, self.params)
        return strip_weak_types(state), self._observed(obs)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One step without gymnax's autoreset; its own time limit truncates and never terminates."""
        env = _built(self.name, self.options)
        obs, after, reward, terminated, _ = env.step_env(key, state, action, self.params)
        after = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.asarray(old).dtype), after, state)
        terminated = jnp.asarray(terminated, bool).reshape(())
        truncated = jnp.asarray(env.is_truncated(after, self.params), bool).reshape(()) & ~terminated
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return Step(after, self._observed(obs), reward, terminated, truncated)

    def _observed(self, obs: Tree) -> Tree:
        """Observations in the space's dtypes: some are bool, weakly typed or not what their space says."""
        return _cast(_built(self.name, self.options).observation_space(self.params), obs)


def make(name: str, options: Mapping[str, Any] | None = None) -> Gymnax:
    """A gymnax environment by its id, with keyword arguments of its constructor."""
    if name not in names():
        raise UserError(f"there is no environment 'gymnax:{name}'; {nearest(name, names())}")
    pairs = tuple(sorted((options or {}).items()))
    try:
        params = _built(name, pairs).default_params
    except Exception as error:  # of a constructor, which may also download
        raise UserError(f"environment gymnax:{name} cannot be made: {said_by(error)}") from error
    leaves = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    params = dataclasses.replace(params, **_leaves(leaves))
    return Gymnax(params, name, pairs, int(params.max_steps_in_episode))


def names() -> list[str]:
    """Gymnax's ids."""
    return sorted(gymnax.registered_envs)


def options(name: str) -> dict[str, Any]:
    """Keyword arguments of an environment's constructor, with their defaults."""
    factory = gymnax.registration._registry.get(name)
    parameters = inspect.signature(factory).parameters if factory else {}
    return {key: p.default for key, p in parameters.items()}


def from_gymnax(space: Any) -> Space:
    """Our space of a gymnax space; UserError names one that has none."""
    match type(space).__name__:
        case "Discrete":
            return Discrete(int(space.n))
        case "Box":
            shape = tuple(int(n) for n in space.shape)
            bounds = [np.broadcast_to(np.asarray(b, np.float32), shape) for b in (space.low, space.high)]
            low, high = (_bound(b) for b in bounds)
            return Box(shape, low, high, _dtype(space))
        case "Dict":
            return {name: from_gymnax(part) for name, part in space.spaces.items()}
        case "Tuple":
            return tuple(from_gymnax(part) for part in space.spaces)
    raise UserError(
        f"gymnax space {type(space).__name__} is not supported; supported: Box, Discrete, Dict, Tuple"
    )


def _dtype(space: Any) -> str:
    """Dtype of the points of a gymnax space in our arrays."""
    return "int32" if np.dtype(space.dtype).kind in "iu" else "float32"


def _cast(space: Any, obs: Tree) -> Tree:
    match type(space).__name__:
        case "Dict":
            return {name: _cast(part, obs[name]) for name, part in space.spaces.items()}
        case "Tuple":
            return tuple(_cast(part, o) for part, o in zip(space.spaces, obs, strict=True))
    return jnp.asarray(obs, _dtype(space))


@functools.cache
def _built(name: str, options: tuple) -> Any:
    """Gymnax's object: functions and what its constructor computed, never tracers."""
    with jax.ensure_compile_time_eval():
        return gymnax.make(name, **dict(options))[0]


def _leaves(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters as arrays with strong dtypes."""
    return strip_weak_types({name: jnp.asarray(value) for name, value in params.items()})


def _bound(values: np.ndarray) -> float | tuple[float, ...]:
    """One float where all are equal, else each in C order; float32's largest number is no bound."""
    largest = np.finfo(np.float32).max
    values = np.where(np.abs(values) >= largest, np.copysign(np.inf, values), values)
    flat = [float(v) for v in values.ravel()]
    return flat[0] if flat and all(v == flat[0] for v in flat) else tuple(flat)

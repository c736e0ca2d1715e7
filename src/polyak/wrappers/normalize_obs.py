"""Observations of unit scale.

The moments are part of the algorithm's state: they are saved with it, sent to workers with its actor, and
moved by `observe` only, so that evaluation leaves them alone.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Box,
    Shown,
    Space,
    Spec,
    Transition,
    Tree,
    Update,
    played,
)
from polyak.parts.moments import Moments
from polyak.pytree import Record, pytree
from polyak.wrappers.inner import around


@pytree
class Normalized(Record):
    """The state of an algorithm whose observations are normalised."""

    inner: Tree
    moments: Moments  # of the float Boxes in `spec.obs`


def normalize_obs(algorithm: Algorithm, clip: float = 10.0, eps: float = 1e-8) -> Algorithm:
    """The algorithm on observations (obs - mean) / sqrt(var + eps), clipped to [-clip, clip].

    Every float Box of `spec.obs` is normalised entry by entry; integers, images of bytes and Discrete
    observations pass as they are. `observe` learns the moments from each rollout's raw observations. A search in the
    environment's own rules, and a part that names legal actions, would not be seen rightly: both are refused.
    """

    def normalized(spec: Spec, moments: Moments, obs: Tree) -> Tree:
        def unit(x: Array, mean: Array, var: Array) -> Array:
            return jnp.clip((x - mean) / jnp.sqrt(var + eps), -clip, clip).astype(jnp.float32)

        return _put(spec.obs, obs, map(unit, _floats(spec.obs, obs), moments.mean, moments.var))

    def both(spec: Spec, moments: Moments, rows: Any) -> Any:
        obs, next_obs = (normalized(spec, moments, x) for x in (rows.obs, rows.next_obs))
        return rows._replace(obs=obs, next_obs=next_obs)

    def init(cfg: Any, spec: Spec, key: jax.Array) -> Normalized:
        return Normalized(algorithm.init(cfg, spec, key), Moments.empty(_floats(spec.obs, spec.obs)))

    def act(
        cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: jax.Array, explore: bool
    ) -> Tree:
        inner, moments = actor
        seen = obs.obs if isinstance(obs, Shown) else obs
        seen = normalized(spec, moments, seen)
        seen = obs._replace(obs=seen) if isinstance(obs, Shown) else seen
        return algorithm.act(cfg, spec, inner, memory, seen, key, explore)

    def update(cfg: Any, spec: Spec, state: Normalized, batch: Batch, key: jax.Array) -> Update:
        made = algorithm.update(cfg, spec, state.inner, both(spec, state.moments, batch), key)
        return made._replace(state=state.replace(inner=made.state))

    def observe(cfg: Any, spec: Spec, state: Normalized, rollout: Transition) -> Normalized:
        moments = state.moments.add(_floats(spec.obs, rollout.obs), played(cfg.data, rollout.last))
        inner = algorithm.observe(cfg, spec, state.inner, both(spec, moments, rollout))
        return Normalized(inner, moments)

    def gradient(cfg: Any, spec: Spec, actor: Tree, batch: Batch, key: jax.Array) -> Tree:
        assert algorithm.gradient is not None
        inner, moments = actor
        return algorithm.gradient(cfg, spec, inner, both(spec, moments, batch), key)

    def value(cfg: Any, spec: Spec, state: Normalized, obs: Tree, action: Array) -> Array:
        assert algorithm.value is not None
        return algorithm.value(cfg, spec, state.inner, normalized(spec, state.moments, obs), action)

    def wrong(cfg: Any, spec: Spec) -> list[str]:
        lines = list(algorithm.wrong(cfg, spec))
        if cfg.data.simulator:
            lines.append(
                "it plans with the environment's rules, whose observations are not normalised: leave --wrap "
                "normalize_obs out"
            )
        elif isinstance(spec.obs, Mapping) and _is_float(spec.obs.get("legal")):
            lines.append(
                "which actions are legal is a part of the observations, and would be normalised like the others: leave "
                "--wrap normalize_obs out"
            )
        return lines

    wrapped = around(algorithm, init, act, update, observe, gradient, value=value)
    return wrapped._replace(wrong=wrong)


def _is_float(space: Space) -> bool:
    return isinstance(space, Box) and jnp.issubdtype(space.dtype, jnp.floating)


def _floats(space: Space, tree: Tree) -> tuple:
    """The leaves of `tree`, which has the structure of `space`, at its float Boxes."""
    spaces, structure = jax.tree.flatten(space)
    leaves = structure.flatten_up_to(tree)
    return tuple(x for s, x in zip(spaces, leaves, strict=True) if _is_float(s))


def _put(space: Space, tree: Tree, floats: Any) -> Tree:
    """`tree` with other leaves at the float Boxes of `space`."""
    spaces, structure = jax.tree.flatten(space)
    leaves, floats = structure.flatten_up_to(tree), iter(floats)
    return structure.unflatten(
        next(floats) if _is_float(s) else x for s, x in zip(spaces, leaves, strict=True)
    )

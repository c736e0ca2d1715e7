"""Acting, as every driver does it: the policy's action, which a warm-up may replace by a uniform one."""

from typing import Any

import jax
import jax.numpy as jnp

from polyak.drivers.keys import RowKeys
from polyak.drivers.program import Program, over_seeds, seed_axes
from polyak.interface import Algorithm, Array, Discrete, Shown, Spec, Transition, Tree


def act_or_warm_up(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    actor: Tree,
    memory: Tree,
    seen: Tree,
    keys: RowKeys,
    warm: bool,
) -> tuple[Array, Tree, Tree]:
    """Action, memory and extras, [N, ...] each, for what is `seen` of N environments in one row.

    warm  the action is uniform where `cfg.data.uniform` asks for that; memory and extras stay `act`'s own
    """
    key = jax.random.wrap_key_data(keys.act)
    action, memory, extras = algorithm.act(cfg, spec, actor, memory, seen, key, True)
    if warm and cfg.data.uniform:
        action = uniform_action(spec, action, jax.random.wrap_key_data(keys.uniform))
    return action, memory, extras


def seen(cfg: Any, episodes: Any) -> Tree:
    """What `act` is given of the running episodes: observations, and for planners the environments' states."""
    return Shown(episodes.obs, episodes.env) if cfg.data.simulator else episodes.obs


def uniform_action(spec: Spec, like: Array, key: Array) -> Array:
    """Uniform legal actions in the shape of `like`: integers, or reals in [-1, 1]."""
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, like.shape, 0, spec.action.n, like.dtype)
    return jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)


def row_shape(algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree) -> Transition:
    """Shapes [N, ...] of one row of a rollout, extras included: found by tracing `act`."""

    def row(state: Tree, key: Array) -> Transition:
        ids = jnp.arange(spec.num_envs)
        obs = jax.tree.map(lambda s: jnp.zeros((spec.num_envs, *s.shape), s.dtype), spec.obs)
        key_memory, key_act = jax.random.split(key)
        memory = algorithm.memory(cfg, spec, ids, ids, key_memory)
        seen = obs
        if cfg.data.simulator:
            begun = jax.eval_shape(jax.vmap(spec.model.reset), jax.random.split(jax.random.key(0), len(ids)))[
                0
            ]
            seen = Shown(obs, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), begun))
        action, _, extras = algorithm.act(cfg, spec, algorithm.actor(state), memory, seen, key_act, True)
        flag = jnp.zeros(spec.num_envs, bool)
        return Transition(obs, action, jnp.zeros(spec.num_envs), obs, flag, flag, extras)

    return jax.eval_shape(row, state, jax.random.key(0))


def actors(algorithm: Algorithm) -> Program:
    """Program from the states [S, ...] of S seeds to what acting needs, in fresh arrays."""

    def read(state: Tree) -> Tree:
        own = jax.tree.leaves(seed_axes(state))  # of a planner all that there is may be shared
        return over_seeds(algorithm.actor, state) if own else algorithm.actor(state)

    return Program(read)

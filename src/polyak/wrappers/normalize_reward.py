"""Rewards of unit scale.

The moments are part of the algorithm's state: they are saved with it, sent to workers with its actor, and
moved by `observe` only, so that evaluation leaves them alone.
"""

from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Batch, Spec, Transition, Tree, Update, played
from polyak.parts.moments import Moments, running_return
from polyak.pytree import Record, pytree
from polyak.wrappers.inner import around


@pytree
class Scaled(Record):
    """The state of an algorithm whose rewards are scaled."""

    inner: Tree
    moments: Moments  # of `running`
    running: Array  # [N] discounted sum of the running episode's rewards so far


def normalize_reward(algorithm: Algorithm, clip: float = 10.0, eps: float = 1e-8) -> Algorithm:
    """The algorithm on rewards / sqrt(var + eps), clipped to [-clip, clip]; scaled, never shifted.

    Single rewards are scaled and clipped, before any n-step sum. var is the variance of the discounted sum of
    rewards that each environment has collected since its episode began (Engstrom et al. 2020, arXiv:2005.12729;
    with `cfg.gamma`). It needs one sum for each of the N environments, so rollouts must be of all of them, in
    their order.
    """

    def scaled(moments: Moments, reward: Array) -> Array:
        return jnp.clip(reward / jnp.sqrt(moments.var + eps), -clip, clip)

    def init(cfg: Any, spec: Spec, key: jax.Array) -> Scaled:
        running = jnp.zeros(spec.num_envs, jnp.float32)
        return Scaled(algorithm.init(cfg, spec, key), Moments.empty(running[0]), running)

    def act(
        cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: jax.Array, explore: bool
    ) -> Tree:
        return algorithm.act(cfg, spec, actor[0], memory, obs, key, explore)

    def update(cfg: Any, spec: Spec, state: Scaled, batch: Batch, key: jax.Array) -> Update:
        made = algorithm.update(cfg, spec, state.inner, batch, key)
        return made._replace(state=state.replace(inner=made.state))

    def observe(cfg: Any, spec: Spec, state: Scaled, rollout: Transition) -> Scaled:
        reward = rollout.reward.astype(jnp.float32)
        if cfg.data.clip is not None:
            reward = jnp.clip(reward, -cfg.data.clip, cfg.data.clip)
        running, sums = running_return(state.running, reward, rollout.last, cfg.gamma)
        moments = state.moments.add(sums, played(cfg.data, rollout.last))
        seen = rollout._replace(reward=scaled(moments, reward))
        inner = algorithm.observe(cfg, spec, state.inner, seen)
        return Scaled(inner, moments, running)

    def gradient(cfg: Any, spec: Spec, actor: Tree, batch: Batch, key: jax.Array) -> Tree:
        assert algorithm.gradient is not None
        return algorithm.gradient(cfg, spec, actor[0], batch, key)

    def seen(cfg: Any, spec: Spec, actor: Tree, reward: Array) -> Array:
        inner, moments = actor
        return algorithm.reward(cfg, spec, inner, scaled(moments, reward))

    def value(cfg: Any, spec: Spec, state: Scaled, obs: Tree, action: Array) -> Array:
        assert algorithm.value is not None
        scale = jnp.sqrt(state.moments.var + eps)  # back to the environment's own units
        return scale * algorithm.value(cfg, spec, state.inner, obs, action)

    return around(algorithm, init, act, update, observe, gradient, seen, value)

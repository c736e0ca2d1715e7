"""Running moments, and wrappers that give an algorithm observations and rewards of unit scale.

The moments are part of the algorithm's state: they are saved with it, sent to workers with its actor, and
moved by `observe` only, so that evaluation leaves them alone.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from polyak.interface import Algorithm, Array, Batch, Box, Space, Spec, Transition, Tree, Update
from polyak.pytree import Record, pytree


@pytree
class Moments(Record):
    """Mean and variance of all points seen so far, per entry.

    In float32 the count stops growing after some 2^24 batches; from there the update is a moving average of
    that length.
    """

    mean: Tree  # arrays of a point's own shape, 0 before any data
    var: Tree  # population variance, 1 before any data
    count: Array  # [] float32, points seen

    @classmethod
    def empty(cls, shapes: Tree) -> "Moments":
        """No data yet: mean 0, variance 1. `shapes` is a tree of anything that has a `shape`."""
        return cls(
            jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes),
            jax.tree.map(lambda s: jnp.ones(s.shape, jnp.float32), shapes),
            jnp.zeros((), jnp.float32),
        )

    def add(self, points: Tree) -> "Moments":
        """With a batch of points, [..., *shape] each: the pairwise update of Chan, Golub & LeVeque 1983."""
        if not jax.tree.leaves(points):
            return self

        def lead(mean: Array, x: Array) -> tuple[int, ...]:
            return tuple(range(x.ndim - mean.ndim))

        def mean_of(mean: Array, x: Array) -> Array:
            return jnp.mean(x, lead(mean, x), jnp.float32)

        def var_of(mean: Array, x: Array) -> Array:
            return jnp.var(x, lead(mean, x), jnp.float32)

        mean, x = jax.tree.leaves(self.mean)[0], jax.tree.leaves(points)[0]
        size = math.prod(x.shape[axis] for axis in lead(mean, x))
        share = size / (self.count + size)
        # mean <- mean + share delta; var <- (1 - share) (var + share delta^2) + share var of the batch
        delta = jax.tree.map(lambda mean, x: mean_of(mean, x) - mean, self.mean, points)
        var = jax.tree.map(var_of, self.mean, points)
        return Moments(
            jax.tree.map(lambda mean, d: mean + share * d, self.mean, delta),
            jax.tree.map(
                lambda old, v, d: old + share * (v - old + (1 - share) * d**2), self.var, var, delta
            ),
            self.count + size,
        )


@pytree
class Normalized(Record):
    """The state of an algorithm whose observations are normalised."""

    inner: Tree
    moments: Moments  # of the float Boxes in `spec.obs`


@pytree
class Scaled(Record):
    """The state of an algorithm whose rewards are scaled."""

    inner: Tree
    moments: Moments  # of `running`
    running: Array  # [N] discounted sum of the running episode's rewards so far


def normalize_obs(algorithm: Algorithm, clip: float = 10.0, eps: float = 1e-8) -> Algorithm:
    """The algorithm on observations (obs - mean) / sqrt(var + eps), clipped to [-clip, clip].

    Every float Box of `spec.obs` is normalised entry by entry; integers, images of bytes and Discrete
    observations pass as they are. `observe` learns the moments from each rollout's raw observations.
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
        return algorithm.act(cfg, spec, inner, memory, normalized(spec, moments, obs), key, explore)

    def update(cfg: Any, spec: Spec, state: Normalized, batch: Batch, key: jax.Array) -> Update:
        made = algorithm.update(cfg, spec, state.inner, both(spec, state.moments, batch), key)
        return made._replace(state=state.replace(inner=made.state))

    def observe(cfg: Any, spec: Spec, state: Normalized, rollout: Transition) -> Normalized:
        moments = state.moments.add(_floats(spec.obs, rollout.obs))
        inner = algorithm.observe(cfg, spec, state.inner, both(spec, moments, rollout))
        return Normalized(inner, moments)

    def gradient(cfg: Any, spec: Spec, actor: Tree, batch: Batch, key: jax.Array) -> Tree:
        assert algorithm.gradient is not None
        inner, moments = actor
        return algorithm.gradient(cfg, spec, inner, both(spec, moments, batch), key)

    return _wrapped(algorithm, init, act, update, observe, gradient)


def normalize_reward(algorithm: Algorithm, clip: float = 10.0, eps: float = 1e-8) -> Algorithm:
    """The algorithm on rewards / sqrt(var + eps), clipped to [-clip, clip]; scaled, never shifted.

    var is the variance of the discounted sum of rewards that each environment has collected since its
    episode began (Engstrom et al. 2020, arXiv:2005.12729; with `cfg.gamma`). It needs one sum
    for each of the N environments, so rollouts must be of all of them, in their order.
    """

    def scaled(moments: Moments, rows: Any) -> Any:
        return rows._replace(reward=jnp.clip(rows.reward / jnp.sqrt(moments.var + eps), -clip, clip))

    def init(cfg: Any, spec: Spec, key: jax.Array) -> Scaled:
        running = jnp.zeros(spec.num_envs, jnp.float32)
        return Scaled(algorithm.init(cfg, spec, key), Moments.empty(running[0]), running)

    def act(
        cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: jax.Array, explore: bool
    ) -> Tree:
        return algorithm.act(cfg, spec, actor[0], memory, obs, key, explore)

    def update(cfg: Any, spec: Spec, state: Scaled, batch: Batch, key: jax.Array) -> Update:
        made = algorithm.update(cfg, spec, state.inner, scaled(state.moments, batch), key)
        return made._replace(state=state.replace(inner=made.state))

    def observe(cfg: Any, spec: Spec, state: Scaled, rollout: Transition) -> Scaled:
        reward = rollout.reward.astype(jnp.float32)
        if cfg.data.clip is not None:
            reward = jnp.clip(reward, -cfg.data.clip, cfg.data.clip)
        running, sums = running_return(state.running, reward, rollout.last, cfg.gamma)
        moments = state.moments.add(sums)
        inner = algorithm.observe(cfg, spec, state.inner, scaled(moments, rollout._replace(reward=reward)))
        return Scaled(inner, moments, running)

    def gradient(cfg: Any, spec: Spec, actor: Tree, batch: Batch, key: jax.Array) -> Tree:
        assert algorithm.gradient is not None
        inner, moments = actor
        return algorithm.gradient(cfg, spec, inner, scaled(moments, batch), key)

    return _wrapped(algorithm, init, act, update, observe, gradient)


def running_return(
    running: Float[Array, "N"], reward: Float[Array, "T N"], last: Bool[Array, "T N"], gamma: Any
) -> tuple[Float[Array, "N"], Float[Array, "T N"]]:
    """R_t = gamma R_{t-1} + r_t, from 0 in every episode; what to carry on with, and all R_t."""

    def accumulate(running: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, last = row
        total = gamma * running + reward
        return jnp.where(last, 0.0, total), total

    return jax.lax.scan(accumulate, running, (reward, last))


def _wrapped(
    algorithm: Algorithm,
    init: Callable,
    act: Callable,
    update: Callable,
    observe: Callable,
    gradient: Callable,
) -> Algorithm:
    def actor(state: Any) -> Tree:
        return algorithm.actor(state.inner), state.moments

    def apply(cfg: Any, spec: Spec, state: Any, grads: Tree) -> Any:
        assert algorithm.apply is not None
        return state.replace(inner=algorithm.apply(cfg, spec, state.inner, grads))

    return algorithm._replace(
        init=init,
        actor=actor,
        act=act,
        update=update,
        observe=observe,
        gradient=gradient if algorithm.gradient else None,
        apply=apply if algorithm.apply else None,
    )


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


WRAPPERS: dict[str, Callable[..., Algorithm]] = {
    "normalize_obs": normalize_obs,
    "normalize_reward": normalize_reward,
}

"""Optimisers without a learning rate, the step that applies one, and the schedule that it follows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from polyak.interface import Array, Tree
from polyak.pytree import strong


class Optimizer(NamedTuple):
    """What optax calls a gradient transformation: two pure functions."""

    init: Callable[[Tree], Tree]
    update: Callable[..., tuple[Tree, Tree]]


def adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, max_norm: ArrayLike | None = None
) -> Optimizer:
    """Adam's direction m / (sqrt(v) + eps), bias-corrected, without a learning rate: `step` multiplies by it.

    max_norm    gradients are first scaled down to this global norm; None leaves them as they are
    Source      Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1
    """
    direction = optax.scale_by_adam(b1, b2, eps)
    if max_norm is not None:
        direction = optax.chain(optax.clip_by_global_norm(max_norm), direction)
    return Optimizer(*direction)


def step(
    optimizer: Optimizer,
    grads: Tree,
    opt_state: Tree,
    params: Tree,
    learning_rate: ArrayLike,
) -> tuple[Tree, Tree]:
    """One step of descent, params - learning_rate * direction; returns (params, opt_state).

    learning_rate   a number or a scalar array, traced or not; parameters keep their dtypes
    """
    direction, opt_state = optimizer.update(grads, opt_state, params)

    def descend(p: Array, d: Array) -> Array:
        return (p - learning_rate * d).astype(p.dtype)

    return jax.tree.map(descend, params, direction), strong(opt_state)


def global_norm(tree: Tree) -> jax.Array:
    """The Euclidean norm of all numbers of a tree together."""
    return optax.tree.norm(tree)


def linear(step: ArrayLike, start: ArrayLike, end: ArrayLike, duration: ArrayLike) -> jax.Array:
    """A line from `start` at step 0 to `end` at step `duration`, constant outside; float32.

    step, start, end, duration  scalars, or arrays that broadcast; with duration 0 it is `end` at once
    """
    never = jnp.asarray(duration, jnp.float32) <= 0
    progress = jnp.where(never, 1.0, jnp.asarray(step, jnp.float32) / jnp.where(never, 1.0, duration))
    start, end = jnp.asarray(start, jnp.float32), jnp.asarray(end, jnp.float32)
    return start + jnp.clip(progress, 0.0, 1.0) * (end - start)

"""Optimisers without a learning rate, and the step of gradient descent that applies one."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from polyak.interface import Array, Tree
from polyak.pytree import Record, pytree, strip_weak_types

Rule = Literal["adam", "sgd", "rmsprop"]


class Optimizer(NamedTuple):
    """A gradient transformation in the sense of optax: two pure functions."""

    init: Callable[[Tree], Tree]
    update: Callable[..., tuple[Tree, Tree]]


@pytree
class Running(Record):
    """A running statistic in a network: its gradient is what a step takes from it, past optimiser and learning rate."""

    value: Array


@pytree
class Frozen(Record):
    """A part of a network that stays as it is: no gradient reaches it and no step moves it; is called as it."""

    frozen: Tree

    def __call__(self, *args: Any) -> Any:
        """What the part gives; gradients pass through to `args`."""
        return jax.lax.stop_gradient(self.frozen)(*args)

    def __getattr__(self, name: str) -> Any:
        """An attribute of the part, as a layer of it."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(jax.lax.stop_gradient(self.frozen), name)


def adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, max_norm: ArrayLike | None = None
) -> Optimizer:
    """Adam's direction m / (sqrt(v) + eps), bias-corrected, without a learning rate: `gradient_step` multiplies by it.

    max_norm    gradients are first scaled down to this global norm; None leaves them as they are
    Source      Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1
    """
    direction = optax.scale_by_adam(b1, b2, eps)
    if max_norm is not None:
        direction = optax.chain(optax.clip_by_global_norm(max_norm), direction)
    return of_what_moves(*direction)


def sgd(max_norm: ArrayLike | None = None) -> Optimizer:
    """The gradient itself, scaled down to the global norm `max_norm` where that is given (Robbins & Monro 1951)."""
    return of_what_moves(*(optax.identity() if max_norm is None else optax.clip_by_global_norm(max_norm)))


def rmsprop(decay: float = 0.99, eps: float = 1e-5, max_norm: ArrayLike | None = None) -> Optimizer:
    """RMSProp's direction d / sqrt(g + eps), where g <- decay g + (1 - decay) d^2, for a gradient d.

    max_norm    gradients are first scaled down to this global norm; None leaves them as they are
    Source      Mnih et al. 2016 (arXiv:1602.01783), equations (8) and (9), not centred
    """
    direction = optax.scale_by_rms(decay, eps, eps_in_sqrt=True)
    if max_norm is not None:
        direction = optax.chain(optax.clip_by_global_norm(max_norm), direction)
    return of_what_moves(*direction)


def rule(name: Rule) -> Optimizer:
    """How a gradient becomes a direction: by the rule of Adam or RMSProp, or as it is."""
    return {"adam": adam, "sgd": sgd, "rmsprop": rmsprop}[name]()


def of_what_moves(init: Callable, update: Callable) -> Optimizer:
    """An optimiser that looks through `Frozen`: its state is that of the same network without."""
    return Optimizer(
        lambda params: init(thawed(params)), lambda grads, *rest: update(thawed(grads), *map(thawed, rest))
    )


def gradient_step(
    optimizer: Optimizer, grads: Tree, opt_state: Tree, params: Tree, learning_rate: ArrayLike
) -> tuple[Tree, Tree]:
    """One step of descent, params - learning_rate * direction; returns (params, opt_state).

    learning_rate   a number or a scalar array, traced or not; parameters keep their dtypes
    """
    learned = jax.tree.map(learnable, grads, is_leaf=is_special)
    direction, opt_state = optimizer.update(learned, opt_state, params)

    def descend(p: Tree, d: Tree, g: Tree) -> Tree:
        if is_special(p):
            return p if is_frozen(p) else Running(p.value - g.value)
        return (p - learning_rate * d).astype(p.dtype)

    return jax.tree.map(descend, params, direction, grads, is_leaf=is_special), strip_weak_types(opt_state)


def is_special(x: Tree) -> bool:
    """Whether this part of a network is none that an optimiser moves."""
    return isinstance(x, Running | Frozen)


def learnable(grads: Tree) -> Tree:
    """The gradient as an optimiser sees it: 0 for what it does not move."""
    return jax.tree.map(jnp.zeros_like, grads) if is_special(grads) else grads


def thawed(tree: Tree) -> Tree:
    """The same numbers without `Frozen` around any of them."""
    return jax.tree.map(lambda x: x.frozen if is_frozen(x) else x, tree, is_leaf=is_frozen)


def is_frozen(x: Tree) -> bool:
    """Whether this part of a tree stays as it is."""
    return isinstance(x, Frozen)


def global_norm(tree: Tree) -> jax.Array:
    """The Euclidean norm of all numbers of a tree together."""
    return optax.tree.norm(tree)


def squared_norm(tree: Tree) -> jax.Array:
    """The sum of the squares of all numbers of a tree, as weight decay penalises it."""
    return optax.tree.norm(tree, squared=True)

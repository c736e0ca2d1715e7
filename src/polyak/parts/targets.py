"""Target networks: slow copies of online ones, moved at steps that are a function of one counter.

`updates` is the number of updates done, *including the one that is being made*: 1 in the first update. Nothing
else decides when a target moves, so a run that was stopped and resumed moves it at the same steps.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from polyak.interface import Tree
from polyak.parts.optimize import is_frozen


def polyak_average(online: Tree, target: Tree, tau: ArrayLike) -> Tree:
    """The moving average tau * online + (1 - tau) * target (Lillicrap et al. 2016, arXiv:1509.02971, Alg. 1).

    online, target  trees of arrays of equal structure; the result has target's dtypes, strong; what is `Frozen` stays
    tau             in [0, 1]; 1 copies, and the copy never aliases `online`
    """

    def average(online: Tree, target: Tree) -> Tree:
        if is_frozen(target):
            return target
        if isinstance(tau, int | float) and tau == 1:
            return jnp.array(online, target.dtype, copy=True)
        rate = jnp.asarray(tau)
        return (rate * online + (1 - rate) * target).astype(target.dtype)

    return jax.tree.map(average, online, target, is_leaf=is_frozen)


def periodic(online: Tree, target: Tree, updates: ArrayLike, period: ArrayLike) -> Tree:
    """A copy of `online` after every `period`-th update, else `target` as it is (Mnih et al. 2015).

    updates  integer scalar, the updates done including this one: with period 3 it copies at 3, 6, 9, ...
    """
    return follow(online, target, updates, 1, period)


def follow(online: Tree, target: Tree, updates: ArrayLike, tau: ArrayLike, period: ArrayLike = 1) -> Tree:
    """Every `period` updates one step of `polyak_average`: period 1 is Polyak averaging, tau 1 a periodic copy.

    updates  integer scalar, the updates done including this one; not batched, so that `cond` stays one
    """
    if isinstance(period, int) and period == 1:
        return polyak_average(online, target, tau)

    def move(online: Tree, target: Tree) -> Tree:
        return polyak_average(online, target, tau)

    def keep(online: Tree, target: Tree) -> Tree:
        return target

    return jax.lax.cond(jnp.asarray(updates) % period == 0, move, keep, online, target)

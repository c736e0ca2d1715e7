"""Rollouts of whole episodes: what stands in the rows that an environment did not need."""

from typing import Any

import jax

from polyak.interface import Array, OnPolicy, Transition, Tree, played


def padded(data: OnPolicy, rollout: Transition, xp: Any) -> Transition:
    """A rollout [T, N, ...] with padding after each environment's k-th end; as it is where no episodes are counted.

    Padding has reward 0 and no end; all else repeats the environment's first row, so that whatever is computed of it
    is finite. xp is jax.numpy in a compiled program, numpy on the host.
    """
    kept = played(data, rollout.last)
    if kept is None:
        return rollout

    def first(tree: Tree) -> Tree:
        def pad(x: Array) -> Array:
            return xp.where(kept.reshape(kept.shape + (1,) * (x.ndim - 2)), x, x[:1])

        return jax.tree.map(pad, tree)

    return Transition(
        obs=first(rollout.obs),
        action=first(rollout.action),
        reward=xp.where(kept, rollout.reward, xp.zeros_like(rollout.reward)),
        next_obs=first(rollout.next_obs),
        terminated=rollout.terminated & kept,
        truncated=rollout.truncated & kept,
        extras=first(rollout.extras),
    )

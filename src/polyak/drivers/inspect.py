"""Look at every rollout before anything is learned from it."""

import operator
from typing import Any

import jax
import numpy as np

from polyak.errors import EnvironmentFault
from polyak.interface import Array, Box, Space, Spec, Transition

NOTHING = -1


def fields(spec: Spec) -> list[str]:
    """What is looked at, in the order of `first_fault`'s last number."""
    return ["the policy's action", "reward", *(f"observation{name}" for name, _ in leaves(spec.obs))]


def leaves(space: Space) -> list[tuple[str, Space]]:
    """Each simple space in a space, with its path: "['camera']"."""
    flat = jax.tree_util.tree_flatten_with_path(space)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in flat]


def first_fault(spec: Spec, rollout: Transition, xp: Any) -> Array:
    """Where a rollout first holds what it must not: (row, environment, field), or -1 three times.

    rollout  [T, N, ...];  xp  jax.numpy in a compiled program, numpy on the host.
    A value must be finite, and an observation must lie in its space (up to rounding).
    """
    shape = rollout.reward.shape
    wrong = [not_finite(rollout.action, len(shape), xp), ~xp.isfinite(rollout.reward)]
    seen = zip(jax.tree.leaves(rollout.obs), jax.tree.leaves(rollout.next_obs), strict=True)
    for (_, space), (obs, next_obs) in zip(
        leaves(spec.obs), seen, strict=True
    ):  # obs: a reset's is checked too
        wrong.append(outside(space, obs, len(shape), xp) | outside(space, next_obs, len(shape), xp))
    found = xp.stack(wrong, axis=-1).reshape(-1)  # in order of time, environment, field
    place = found.argmax()
    width = len(wrong)
    where = xp.stack([place // (shape[1] * width), place // width % shape[1], place % width])
    return xp.where(found.any(), where, NOTHING).astype(xp.int32)


def not_finite(x: Array, keep: int, xp: Any) -> Array:
    """[T, N]: some entry of a row is NaN or infinite."""
    if not xp.issubdtype(x.dtype, xp.floating):
        return xp.zeros(x.shape[:keep], bool)
    return ~xp.isfinite(x).all(axis=tuple(range(keep, x.ndim)))


def outside(space: Space, x: Array, keep: int, xp: Any) -> Array:
    """[T, N]: some entry of a row is not finite or lies outside its space."""
    wrong = not_finite(x, keep, xp)
    rest = tuple(range(keep, x.ndim))
    if not isinstance(space, Box):
        return wrong | (x < 0).any(axis=rest) | (x >= space.n).any(axis=rest)
    for bound, beyond, slack in ((space.low, operator.lt, -1e-4), (space.high, operator.gt, 1e-4)):
        limit = np.asarray(bound, np.float64)
        if np.isfinite(limit).any() and np.issubdtype(x.dtype, np.floating):
            limit = (limit + slack * (1 + np.abs(limit))).astype(np.float32)
            limit = limit.reshape(space.shape) if limit.ndim else limit
            wrong |= beyond(x, limit).any(axis=rest)
    return wrong


def check_metrics(metrics: dict[str, Array], iteration: int) -> None:
    """EnvironmentFault where the sum of a metric is not finite: a policy over integers never shows it."""
    for name, value in metrics.items():
        if not np.isfinite(np.asarray(value)).all():
            raise EnvironmentFault(
                f"iteration {iteration}: {name} is not finite: the update diverged; try a lower learning rate "
                "or --wrap normalize_obs; what was saved stays"
            )


def explain(spec: Spec, row: int, env: int, field: int, seed: int, value: Any = None) -> EnvironmentFault:
    """The error for a fault: `row` counts from the start of the run."""
    name = fields(spec)[field]
    given = "" if value is None else f" ({value})"
    if field == 0:
        return EnvironmentFault(
            f"step {row}, environment {env}, seed {seed}: {name} is not finite{given}: the update diverged; "
            "try a lower learning rate or --wrap normalize_obs"
        )
    allowed = "finite" if field == 1 else "finite and inside its space"
    return EnvironmentFault(
        f"step {row}, environment {env}, seed {seed}: {name} is not {allowed}{given}; "
        "stopped before the update, what was saved stays"
    )

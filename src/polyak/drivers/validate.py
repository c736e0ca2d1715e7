"""Look at every rollout before anything is learned from it."""

import functools
from typing import Any

import jax
import numpy as np

from polyak.envs.spaces import bounds
from polyak.errors import EnvironmentFault
from polyak.interface import Array, Box, Space, Spec, Transition

NOTHING = -1


def fields(spec: Spec) -> list[str]:
    """Names of what is looked at, in the order of `first_invalid`'s last number."""
    return ["the policy's action", "reward", *(f"observation{name}" for name, _ in leaves(spec.obs))]


def leaves(space: Space) -> list[tuple[str, Space]]:
    """Each simple space in a space, with its path: "['camera']"."""
    flat = jax.tree_util.tree_flatten_with_path(space)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in flat]


def first_invalid(spec: Spec, rollout: Transition, xp: Any) -> Array:
    """Place of the first invalid value of a rollout: (row, environment, field); -1 three times if there is none.

    rollout  [T, N, ...];  xp  jax.numpy in a compiled program, numpy on the host.
    A value must be finite, and an observation must lie in its space (up to rounding).
    """
    fine = [finite(rollout.action, xp), finite(rollout.reward, xp)]
    seen = zip(jax.tree.leaves(rollout.obs), jax.tree.leaves(rollout.next_obs), strict=True)
    for space, (obs, next_obs) in zip(jax.tree.leaves(spec.obs), seen, strict=True):
        fine.append(inside(space, next_obs) + ([] if obs is next_obs else inside(space, obs)))
    if xp is np and all(each.all() for field in fine for each in field):
        return np.full(3, NOTHING, np.int32)
    shape, width = rollout.reward.shape, len(fine)
    found = xp.stack([wrong(field, shape, xp) for field in fine], axis=-1)
    found = found.reshape(-1)  # in order of time, environment, field
    place = found.argmax()
    where = xp.stack([place // (shape[1] * width), place // width % shape[1], place % width])
    return xp.where(found.any(), where, NOTHING).astype(xp.int32)


def wrong(fine: list[Array], shape: tuple[int, ...], xp: Any) -> Array:
    """[T, N]: some entry of a row is not fine; `fine` has any number of [T, N, ...]."""
    found = xp.zeros(shape, bool)
    for each in fine:
        found = found | ~each.all(axis=tuple(range(len(shape), each.ndim)))
    return found


def finite(x: Array, xp: Any) -> list[Array]:
    """For each entry, whether it is a number; nothing for integers."""
    return [xp.isfinite(x)] if xp.issubdtype(x.dtype, xp.floating) else []


def inside(space: Space, x: Array) -> list[Array]:
    """For each entry, whether it lies above and below its limits, as NaN does not; nothing for whole pictures."""
    bounds = limits(space, x.dtype)
    return [x >= bounds[0], x <= bounds[1]] if bounds else []


@functools.cache
def limits(space: Space, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray] | None:
    """The least and the largest that each entry may be: its bounds, a little widened; never infinite.

    None where the dtype itself rules out anything else.
    """
    if not isinstance(space, Box):
        return np.asarray(0, dtype), np.asarray(space.n - 1, dtype)
    info = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    found = []
    for limit, slack in zip(bounds(space.low, space.high), (-1e-4, 1e-4), strict=True):
        if isinstance(info, np.finfo):
            limit = np.where(np.isfinite(limit), limit + slack * (1 + np.abs(limit)), limit)
        limit = np.clip(limit, info.min, info.max)
        found.append((limit.reshape(space.shape) if limit.ndim else limit).astype(dtype))
    if dtype == np.uint8 and (found[0] == info.min).all() and (found[1] == info.max).all():
        return None
    return found[0], found[1]


def check_metrics(metrics: dict[str, Array], iteration: int) -> None:
    """EnvironmentFault where the sum of a metric is not finite: a policy over integers never shows it."""
    for name, value in metrics.items():
        if not np.isfinite(np.asarray(value)).all():
            raise EnvironmentFault(
                f"iteration {iteration}: {name} is not finite: the update diverged; try a lower learning rate "
                "or --wrap normalize_obs; what was saved stays"
            )


def error_for(spec: Spec, row: int, env: int, field: int, seed: int, value: Any = None) -> EnvironmentFault:
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

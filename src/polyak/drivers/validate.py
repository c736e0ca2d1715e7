"""Look at every rollout before anything is learned from it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from polyak.envs.spaces import bounds
from polyak.errors import EnvironmentFault
from polyak.interface import Array, Box, Space, Spec, Transition

NOTHING = -1


def fields(spec: Spec) -> list[str]:
    """Names of what is looked at, in the order of the numbers in a `Look`."""
    return ["the policy's action", "reward", *(f"observation{name}" for name, _ in leaves(spec.obs))]


def leaves(space: Space) -> list[tuple[str, Space]]:
    """Each simple space in a space, with its path: "['camera']"."""
    flat = jax.tree_util.tree_flatten_with_path(space)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in flat]


class Look(NamedTuple):
    """Result of looking at a rollout: three small arrays of integers, and one number."""

    fault: Array  # [3] row, environment and field of the first value that must not be; else -1
    count: Array  # rows that ended (or, of none, began) outside the bounds of an observation
    place: Array  # [4] row, environment, field and component of the first of them; else -1
    value: Array  # float32, what stands there


def nothing(xp: Any) -> Look:
    """Result for a rollout in which all is as it must be."""
    unset = [xp.full(size, NOTHING, xp.int32) for size in (3, 4)]
    return Look(unset[0], xp.zeros((), xp.int32), unset[1], xp.zeros((), xp.float32))


SOUND = nothing(np)


def look(
    spec: Spec, rollout: Transition, xp: Any, strict: bool = False, when: Callable[..., Look] | None = None
) -> Look:
    """Look at a rollout [T, N, ...]; xp is jax.numpy in a compiled program, numpy on the host.

    Every value must be finite, and an integer observation (Discrete) must be one of its space. A real or picture
    observation (Box) should lie within its bounds, up to rounding; with `strict` it must.
    when    (any, detail, xp) -> Look: how `detail` is called only where a check failed; by default an `if`
    """
    fine = [*finite(rollout.action, xp), *finite(rollout.reward, xp)]
    for space, obs, next_obs in observed(spec, rollout):
        fine += inside(space, next_obs) + ([] if obs is next_obs else inside(space, obs))
    if when is None:
        return SOUND if all(each.all() for each in fine) else look_closely(spec, rollout, xp, strict)
    sound = xp.stack([each.all() for each in fine]).all()
    return when(~sound, lambda: look_closely(spec, rollout, xp, strict))


def look_closely(spec: Spec, rollout: Transition, xp: Any, strict: bool) -> Look:
    """The same for a rollout in which there is something to be found."""
    shape = rollout.reward.shape
    must = [finite(rollout.action, xp), finite(rollout.reward, xp)]
    fields, outside, values = [], [], []  # of each Box; the last two [T, N, entries]
    reached = []  # of each Box [T, N]: whether next_obs is outside
    for field, (space, obs, next_obs) in enumerate(observed(spec, rollout), len(must)):
        bounded = inside(space, next_obs)
        if strict or not isinstance(space, Box):
            must.append(bounded + inside(space, obs))
            continue
        must.append(finite(next_obs, xp) + finite(obs, xp))
        if bounded:
            above, below = bounded
            after, before = ~(above & below), ~(inside(space, obs)[0] & inside(space, obs)[1])
            fields.append(field)
            reached.append(after.reshape(*shape, -1).any(axis=-1))
            outside.append((after | before).reshape(*shape, -1))
            values.append(xp.where(after, next_obs, obs).reshape(*shape, -1))
    fault = first(xp.stack([wrong(each, shape, xp) for each in must], axis=-1), xp)
    found = nothing(xp)._replace(fault=fault)
    if not outside:
        return found
    rows = xp.stack([entries.any(axis=-1) for entries in outside], axis=-1)
    row, env, which = first(rows, xp)
    for index, (field, entries, given) in enumerate(zip(fields, outside, values, strict=True)):
        entry = entries[row, env].argmax()
        place = xp.stack([row, env, xp.int32(field), entry.astype(xp.int32)])
        here = which == index
        value = xp.where(here, given[row, env, entry].astype(xp.float32), found.value)
        found = found._replace(place=xp.where(here, place, found.place), value=value)
    # An observation is the next one of a row and the first of another: it counts once.
    ended, began = (x.any(axis=-1).sum(dtype=xp.int32) for x in (xp.stack(reached, axis=-1), rows))
    return found._replace(count=xp.where(ended > 0, ended, began))


def observed(spec: Spec, rollout: Transition) -> Iterator[tuple[Space, Array, Array]]:
    """Each simple space of the observations, with what was observed before and after each step."""
    parts = spec.obs, rollout.obs, rollout.next_obs
    return zip(*map(jax.tree.leaves, parts), strict=True)


def first(found: Array, xp: Any) -> Array:
    """Indices of the first true entry of [T, N, K], in order of time, environment, field; -1 without one."""
    _, envs, width = found.shape
    flat = found.reshape(-1)
    place = flat.argmax()
    where = xp.stack([place // (envs * width), place // width % envs, place % width])
    return xp.where(flat.any(), where, NOTHING).astype(xp.int32)


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


def error_for(
    spec: Spec, row: int, env: int, field: int, seed: int, value: Any = None, strict: bool = False
) -> EnvironmentFault:
    """The error for a fault: `row` counts from the start of the run."""
    name = fields(spec)[field]
    given = "" if value is None else f" ({value})"
    if field == 0:
        return EnvironmentFault(
            f"step {row}, environment {env}, seed {seed}: {name} is not finite{given}: the update diverged; "
            "try a lower learning rate or --wrap normalize_obs"
        )
    free = field == 1 or (isinstance(leaves(spec.obs)[field - 2][1], Box) and not strict)
    allowed = "finite" if free else "finite and inside its space"
    return EnvironmentFault(
        f"step {row}, environment {env}, seed {seed}: {name} is not {allowed}{given}; "
        "stopped before the update, what was saved stays"
    )


def outside_note(spec: Spec, found: Look, seed: int, rows: int) -> str:
    """One line about observations outside their bounds, of which there were some in so many rows."""
    row, env, field, component = (int(x) for x in found.place)
    space, value = jax.tree.leaves(spec.obs)[field - 2], float(found.value)
    low, high = (np.broadcast_to(np.ravel(bound), space.size)[component] for bound in (space.low, space.high))
    where = np.unravel_index(component, space.shape)
    name = fields(spec)[field] + (f"[{', '.join(map(str, where))}]" if space.shape else "")
    bound = f"below its lower bound {low:g}" if value < low else f"above its upper bound {high:g}"
    return (
        f"step {row}, environment {env}, seed {seed}: {name} is {value:.6g}, {bound} "
        f"({int(found.count):,} of {rows:,} rows so far); training goes on with it as it is, and this is said "
        "once; --strict-spaces stops instead"
    )

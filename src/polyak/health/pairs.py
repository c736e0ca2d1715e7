"""Pairs of episodes that should, or should not, come to the same: what actions and seeds change."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from polyak.envs import spaces
from polyak.errors import brief
from polyak.health.episodes import Episode, Script, World, difference, random_actions
from polyak.health.finding import Finding


def compared(world: World, seed: int) -> Iterator[Finding]:
    """Actions and seeds that change nothing."""
    rng, length, space = np.random.default_rng(seed), world.length, world.actions
    seeds = [seed, seed + 1, seed + 2]
    base = [Script(s, random_actions(space, length, rng)) for s in seeds]
    other = [Script(s, random_actions(space, length, rng)) for s in seeds]
    same_actions = [Script(s, base[0].actions) for s in seeds]
    first = world.run(base)
    if len(first) < len(base) or any(e.raised for e in first):
        return

    def alike(scripts: list[Script], to: list[Episode] = first) -> bool:
        played = world.run(scripts)
        return len(played) == len(to) and not any(
            difference(a, b, world.points) for a, b in zip(to, played, strict=True)
        )

    one_choice = spaces.kind_of(space) == "Discrete" and space.n == 1
    if not one_choice and alike(other):
        says = (
            "the same seed with other random actions gave the same observations and rewards, to the last bit"
        )
        yield Finding("warning", "action-ignored", says, "use the action that step is given")
        return
    if alike(same_actions, [first[0]] * 3):
        says = (
            "other seeds with the same actions gave the same episode, to the last bit: a seed changes nothing"
        )
        yield Finding(
            "note", "seed-ignored", says, "fine if nothing in it is random; else draw from self.np_random"
        )
    if spaces.kind_of(space) == "Box" and space.dtype.kind == "f":
        yield from continuous(world, base, first, alike)


def continuous(world: World, base: list[Script], first: list[Episode], alike: Any) -> Iterator[Finding]:
    """Entries of the action that do nothing, and ranges of which the outer half does nothing."""
    space = world.actions
    low, high = spaces.bounds(space.low, space.high)
    finite = np.isfinite(low) & np.isfinite(high)
    middle = np.where(finite, (np.where(finite, low, 0) + np.where(finite, high, 0)) / 2, 0)
    size = int(np.prod(space.shape))
    dead = []
    for entry in range(size if 1 < size <= 24 else 0):
        place = np.unravel_index(entry, space.shape)
        if low[place] == high[place]:
            continue
        mirrored = [np.array(script.actions) for script in base]
        for actions in mirrored:
            actions[(slice(None), *place)] = 2 * middle[place] - actions[(slice(None), *place)]
        if alike([Script(s.seed, a.astype(space.dtype)) for s, a in zip(base, mirrored, strict=True)]):
            dead.append(entry)
    if dead:
        which = ", ".join(map(str, dead))
        says = (
            f"entries {which} of the {size} of an action changed nothing, to the last bit, when they were "
            f"mirrored"
        )
        yield Finding("note", "action-dead", says, "leave them out, or connect them")
    if not finite.all() or not size:
        return
    half = (high - low) / 2
    full, outer, small = (_held(world, base, middle + share * half) for share in (1.0, 0.5, 0.02))
    full_low, outer_low = (_held(world, base, middle - share * half) for share in (1.0, 0.5))
    top, bottom = world.run(full), world.run(full_low)
    if min(e.length for e in [*top, *bottom]) < 3:
        return
    if alike(outer, top) and alike(outer_low, bottom) and not alike(small, top):
        yield Finding(
            "warning",
            "action-clipped",
            f"actions at their bounds ({brief(float(np.ravel(low)[0]))}, "
            f"{brief(float(np.ravel(high)[0]))}) and at half of that "
            "did the same: the environment clips them to less than it declares, and most random actions "
            "are the largest",
            "declare the bounds that it clips to",
        )


def _held(world: World, base: list[Script], action: np.ndarray) -> list[Script]:
    """Scripts that hold one action."""
    held = np.broadcast_to(action, (world.length, *action.shape)).astype(world.actions.dtype)
    return [Script(script.seed, held) for script in base]

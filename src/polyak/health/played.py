"""What episodes of random play say about an environment: what was observed, what was paid, how it ended."""

from collections.abc import Iterator

import numpy as np

from polyak.health.episodes import Episode, World
from polyak.health.finding import Finding
from polyak.health.points import Points

ENOUGH = 5  # episodes that a statement about all episodes needs
LARGE = 1e3  # of a number that a network sees, or of a reward; its reciprocal is small
TINY = 1e-4  # the whole range of a number that hardly moves
PATTERN = 0.98  # correlation of a reward with the time from which on it counts as growing with it


def numbers(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Observations that are not finite."""
    points = world.points
    if points.infinite is None:
        return
    seed, step, number, value = points.infinite
    says = f"{points.name(number)} is {value} after {step} steps of the episode with seed {seed}"
    yield Finding(
        "error", "nan", says, "find the division, root, logarithm or unstable integration that makes it"
    )


def bounds(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Observations outside their space."""
    points = world.points
    if not points.outside:
        return
    beyond = np.fmax(points.low - points.least, points.most - points.high)
    number = int(beyond.argmax())
    low, high = points.low[number], points.high[number]
    value = (
        points.least[number]
        if low - points.least[number] >= points.most[number] - high
        else points.most[number]
    )
    yield Finding(
        "warning",
        "bounds",
        f"{points.outside:,} of {points.count:,} observations left their space; the farthest: "
        f"{points.name(number)} is "
        f"{value:g}, and its bounds are {low:g} and {high:g}",
        "declare the bounds that it has, -np.inf and np.inf where there are none, or clip the observation",
    )


def constant(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Numbers that never change, and whole observations that do not."""
    points, rows = world.points, world.points.rows(episodes)
    if points.size == 0:
        yield Finding(
            "error", "constant", "an observation has no numbers", "declare what the policy shall see"
        )
        return
    if len(rows) < 200:
        return
    still = (rows == rows[0]).all(axis=0)
    steps = sum(e.length for e in episodes)
    if (points.least == points.most).all():
        says = f"the observation was the same in all of {steps:,} random steps"
        yield Finding(
            "warning",
            "constant",
            says,
            "fine where there is nothing to be seen; else observe the state after the step",
        )
        return
    if points.size > 500 or len(episodes) < 3:
        return
    which = points.picked[still & points.real[points.picked]]
    if len(which):
        yield Finding(
            "note",
            "constant",
            f"{len(which)} of {points.size} numbers never changed in {steps:,} random steps of "
            f"{len(episodes)} episodes: "
            f"{points.names(which)}",
            "harmless if they are meant to stand still; a sensor that is not read looks like this too",
        )


def scale(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Numbers that are far too large or too small for a network, and those that grow for as long as an episode."""
    points = world.points
    if points.picture:
        yield from picture(points)
        return
    real = points.real[points.picked]
    rows = points.rows(episodes)
    size = np.abs(np.where(np.isfinite(rows), rows, 0.0))
    grows = growing(episodes, len(real)) & real
    if grows.any():
        number = int(np.flatnonzero(grows)[size[:, grows].max(axis=0).argmax()])
        yield Finding(
            "warning",
            "exploding",
            f"{points.name(int(points.picked[number]))} grows for as long as an episode lasts, up to "
            f"{size[:, number].max():.3g}",
            "end the episode where the system has left what makes sense, or observe the number in a "
            "bounded form",
        )
    large = (np.percentile(size, 95, axis=0) > LARGE) & real & ~grows
    if large.any():
        number = int(np.flatnonzero(large)[np.percentile(size[:, large], 95, axis=0).argmax()])
        yield Finding(
            "warning",
            "scale",
            f"{points.names(points.picked[large])} {'are' if large.sum() > 1 else 'is'} large: 5 % of "
            f"{points.name(int(points.picked[number]))} are beyond "
            f"{np.percentile(size[:, number], 95):.3g}, and a network wants "
            "numbers near 1",
            "divide by the unit that fits, or train with --wrap normalize_obs",
        )
    span = rows.max(axis=0) - rows.min(axis=0)
    tiny = (span > 0) & (span < TINY) & real
    if tiny.any() and len(rows) >= 200:
        number = int(np.flatnonzero(tiny)[0])
        yield Finding(
            "warning",
            "small",
            f"{points.names(points.picked[tiny])} hardly moves: all values of "
            f"{points.name(int(points.picked[number]))} lie "
            f"within {span[number]:.2g} of each other",
            "multiply by the unit that fits, or train with --wrap normalize_obs",
        )


def growing(episodes: list[Episode], width: int) -> np.ndarray:
    """[P] numbers of which the end of an episode is a hundred times its beginning, and large, in most long ones."""
    long = [e.obs[:, :width] for e in episodes if e.length >= 20]
    if not long:
        return np.zeros(width, bool)
    votes = []
    for rows in long:
        tenth = max(2, len(rows) // 10)
        size = np.abs(np.nan_to_num(rows, posinf=1e30, neginf=-1e30))
        first, last = size[:tenth].mean(axis=0), size[-tenth:].mean(axis=0)
        votes.append((last > LARGE) & (last > 100 * first))
    return np.mean(votes, axis=0) > 0.5


def picture(points: Points) -> Iterator[Finding]:
    """Pictures of real numbers, which take four times the memory."""
    _, leaf = points.leaves[0]
    if (
        leaf.dtype.kind == "f"
        and len(leaf.shape) == 3
        and points.most.max() > 1.5
        and points.least.min() >= 0
    ):
        yield Finding(
            "warning",
            "picture",
            f"a picture of shape {leaf.shape} is {leaf.dtype} with values up to {points.most.max():.0f}: "
            f"a replay takes "
            f"{leaf.dtype.itemsize} times the memory that it needs, and networks scale only uint8",
            "declare spaces.Box(0, 255, shape, np.uint8) and return uint8",
        )


def rewards(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Rewards that are far too large or small, that are always the same, or that add up over an episode."""
    paid = np.concatenate([e.reward for e in episodes])
    paid = paid[np.isfinite(paid)]
    if not len(paid):
        return
    if not paid.any():
        yield Finding(
            "note",
            "reward-zero",
            f"the reward was 0 in all of {len(paid):,} random steps: learning begins only once chance "
            f"finds one that is not",
            "reward progress too, begin some episodes near the goal, or use --her where the environment "
            "has goals",
        )
        return
    size = float(np.abs(paid[paid != 0]).mean())
    if size > LARGE or size < 1 / LARGE:
        yield Finding(
            "warning",
            "reward-scale",
            f"rewards that are not 0 are {size:.2g} on average: values of that size take long to learn, "
            f"or drown in other losses",
            "scale the reward so that it is about 1, or train with --wrap normalize_reward",
        )
    totals = {(e.length, float(e.reward.sum())) for e in episodes if e.end}
    if (
        len(totals) == 1
        and sum(bool(e.end) for e in episodes) >= ENOUGH
        and max(e.length for e in episodes) > 1
    ):
        length, total = totals.pop()
        yield Finding(
            "note",
            "reward-constant",
            f"all {len(episodes)} random episodes had {length} steps and a return of {total:g}: nothing "
            f"in it tells good "
            "actions from bad ones yet",
            "if chance cannot reach what pays, reward progress too",
        )
    long = [
        e.reward for e in episodes if e.length >= 20 and np.isfinite(e.reward).all() and e.reward.std() > 0
    ]
    if len(long) >= 3:
        slopes = [np.corrcoef(np.arange(len(r)), r)[0, 1] for r in long]
        growth = [np.abs(r[-5:]).mean() > 3 * np.abs(r[:5]).mean() for r in long]
        if min(map(abs, slopes)) > PATTERN and all(growth):
            yield Finding(
                "warning",
                "reward-cumulative",
                f"in each of {len(long)} long episodes the reward grew steadily with the time "
                f"(correlation at least "
                f"{min(map(abs, slopes)):.2f}): it looks like a sum over the episode",
                "return what this step earned; learning adds it up",
            )


# ---- how episodes begin and end


def ends(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Ends that never come, that come at once, that are both, or that are a time limit in disguise."""
    over = [e for e in episodes if e.end]
    longest = max(e.length for e in episodes)
    if not over and world.time_limit is None and sum(e.length for e in episodes) >= 1000:
        yield Finding(
            "warning",
            "no-end",
            f"no episode ended in {sum(e.length for e in episodes):,} random steps, and there is no time "
            f"limit: nothing begins "
            "anew, and no return is ever reported",
            "set a limit: --env.max_episode_steps N, max_episode_steps in gymnasium.register, or "
            "Spec(time_limit=N) in JAX",
        )
    if len(over) >= ENOUGH and all(e.end == "both" for e in over):
        yield Finding(
            "error",
            "both-ends",
            f"all {len(over)} ends were terminated and truncated at once, which counts as terminated: "
            f"after a time limit the "
            "future would be taken for zero",
            "terminated where the world ended, truncated where only the time is up",
        )
    played = [e for e in episodes if e.length]  # when the time is over, the last may not have begun
    if len(over) >= ENOUGH and longest == 1 and len(over) == len(played):
        says = f"all {len(over)} episodes ended after one step"
        yield Finding("note", "one-step", says, "if that is not meant, look at the condition of the end")
    yield from disguised(world, over)
    yield from second_limit(world, over)


def disguised(world: World, over: list[Episode]) -> Iterator[Finding]:
    """A time limit that is called the world's end: a peak of terminations at the longest length."""
    lengths = np.array([e.length for e in over])
    terminated = np.array([e.end == "terminated" for e in over])
    if len(over) < ENOUGH or not terminated.any() or lengths.max() < 10 or world.players > 1:
        return
    top = lengths.max()
    at_top = terminated & (lengths == top)
    near = int((terminated & (lengths > 0.8 * top) & (lengths < top)).sum())
    if at_top.sum() >= max(3, 0.2 * len(over)) and at_top.sum() > 2 * near and (lengths[~at_top] < top).all():
        yield Finding(
            "warning",
            "limit-as-end",
            f"{at_top.sum()} of {len(over)} random episodes were terminated after exactly {top} steps, "
            f"and none lasted longer: "
            "that looks like a time limit, after which values must go on",
            "return it as truncated, or leave it to max_episode_steps",
        )


def second_limit(world: World, over: list[Episode]) -> Iterator[Finding]:
    """A limit of its own, shorter than the one that is declared."""
    cut = {e.length for e in over if e.end == "truncated"}
    if (
        world.time_limit is not None
        and len(cut) == 1
        and (own := cut.pop()) < world.time_limit
        and len(over) >= 3
    ):
        says = (
            f"the environment truncates after {own} steps itself, and the time limit that is declared is "
            f"{world.time_limit}"
        )
        yield Finding("note", "two-limits", says, "declare the limit that holds")


def starts(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Last observations that are first ones: of an episode that began inside `step`."""
    over = [e for e in episodes if e.end and e.length >= 5]
    if len(over) < ENOUGH or world.points.size == 0:
        return
    width = len(world.points.picked)
    begun = np.stack([e.obs[0, :width] for e in episodes])
    low, high = begun.min(axis=0), begun.max(axis=0)

    def is_start(row: np.ndarray) -> bool:
        return bool(((row[:width] >= low) & (row[:width] <= high)).all())

    last = np.mean([is_start(e.obs[-1]) for e in over])
    before = np.mean([is_start(e.obs[-2]) for e in over])
    if last == 1 and before < 0.5:
        yield Finding(
            "error",
            "final-observation",
            f"the last observation of all {len(over)} episodes looks like a first one: the next episode "
            f"began inside step, and "
            "what this one led to is lost",
            "return the true last observation from step, and leave reset to the caller",
        )


def stale(world: World, episodes: list[Episode]) -> Iterator[Finding]:
    """Observations that come one step late: the first step always returns what reset did."""
    long = [e for e in episodes if e.length >= 5]
    if len(long) < ENOUGH or world.points.size == 0:
        return
    late = [np.array_equal(e.obs[0], e.obs[1]) for e in long]
    moves = np.mean([(e.obs[1:-1] != e.obs[2:]).any(axis=1).mean() for e in long])
    if all(late) and moves > 0.9:
        yield Finding(
            "warning",
            "stale",
            f"the first step of all {len(long)} episodes returned the observation of reset again, and "
            f"later ones change: "
            "observations come a step late",
            "update the state first, then observe it",
        )


CHECKS = (numbers, bounds, constant, scale, rewards, ends, starts, stale)

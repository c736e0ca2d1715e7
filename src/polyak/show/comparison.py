"""Groups of runs side by side: where a comparison means something, what it says, and what is left out of it.

In one environment with the same constants groups are compared after as many steps as all of them made.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from polyak.errors import printable
from polyak.show import statistics
from polyak.show.curve import interquartile_mean
from polyak.show.groups import EVALUATION, TRAINING, Group, Trace, gather, label
from polyak.show.words import listed

BY_CHANCE = 0.05  # as often as this equal algorithms may differ as much, for a verdict
LAST = 0.1  # share of the steps whose training returns stand for an evaluation, where there is none


@dataclass(frozen=True)
class Pair:
    """Two groups, the better one first, where they can be compared: `environments` of them."""

    better: str
    worse: str
    probability: float
    low: float
    high: float
    rliable: tuple[float, float]  # the percentile bootstrap's interval
    seeds: tuple[int, int]  # the fewest of each
    chance: float  # of a sweep, if both were equal
    environments: int = 1

    @property
    def told_apart(self) -> bool:
        """Whether there are seeds enough, and the interval leaves out one half."""
        return self.chance <= BY_CHANCE and self.low > 0.5


@dataclass
class World:
    """One environment, and the groups that were trained in it."""

    name: str
    groups: list[Group]
    metric: str = EVALUATION
    step: int = 0  # after which groups are compared
    pairs: list[Pair] = field(default_factory=list)

    @property
    def compared(self) -> list[Group]:
        """The groups that have scores, the best first."""
        scored = [group for group in self.groups if len(group.scores)]
        return sorted(scored, key=lambda group: -float(interquartile_mean(group.scores)))


@dataclass
class Overall:
    """Groups over all environments in which each of them has scores, scaled to [0, 1] in each."""

    worlds: list[str]
    scores: dict[str, list[np.ndarray]]
    pairs: list[Pair]


@dataclass
class Comparison:
    """All that a page is about."""

    traces: list[Trace]
    labels: list[str]
    worlds: list[World]
    overall: Overall | None
    notes: list[str]


def compare(traces: Sequence[Trace]) -> Comparison:
    """Sort runs into environments and groups, and compare what can be compared."""
    notes: list[str] = []
    by_world: dict[tuple[str, ...], list[Trace]] = defaultdict(list)
    for trace in traces:
        by_world[trace.world].append(trace)
    labels = label(traces, list(by_world.values()))
    order = list(dict.fromkeys(labels[id(trace)] for trace in traces))
    worlds = []
    for key, inside in by_world.items():
        by_label: dict[str, list[Trace]] = defaultdict(list)
        for trace in inside:
            by_label[labels[id(trace)]].append(trace)
        groups = [Group(name, order.index(name), each) for name, each in by_label.items()]
        world = World(world_name(key), sorted(groups, key=lambda group: group.index))
        for group in world.groups:
            gather(group, notes)
        judge(world, notes)
        worlds.append(world)
    say_differences(traces, notes)
    return Comparison(list(traces), order, worlds, over_all(worlds, notes), notes)


def world_name(key: tuple[str, ...]) -> str:
    """An environment and its constants, for a person."""
    name, *constants = key
    said = ", ".join(constant.partition(".")[2] or constant for constant in constants)
    return printable(f"{name} ({said})" if said else name, 120)


# ---- what can be compared


def judge(world: World, notes: list[str]) -> None:
    """Choose the metric and the step at which the groups of an environment are compared, and compare them."""
    evaluated = [group for group in world.groups if group.curves.get(EVALUATION)]
    world.metric = EVALUATION if evaluated else TRAINING
    logged = [group for group in world.groups if group.curves.get(world.metric)]
    if not logged:
        return
    if world.metric == TRAINING:
        notes.append(
            f"{world.name}: nothing was evaluated, so that training returns, with exploration, are shown"
        )
    for group in world.groups:
        if group not in logged and any(trace.lines for trace in group.traces):
            notes.append(
                f"{world.name}: {group.label} was never evaluated, and is not compared with what was"
            )
    finished = [group for group in logged if any(curve.whole for curve in group.curves[world.metric])]
    groups = finished or logged
    ends = {g.label: int(min(curve.steps[-1] for curve in g.counted(world.metric))) for g in groups}
    world.step = min(ends.values())
    for group in groups:
        score(group, world, notes)
    longer = [f"{name} ({end:,})" for name, end in ends.items() if end > 1.05 * world.step]
    if longer:
        notes.append(
            f"{world.name}: compared after {world.step:,} steps, where the shortest ends; {listed(longer)} went "
            "further, and a schedule that runs over the budget was not at its end"
        )
    limits = {trace.settings.get("eval_limit") for group in groups for trace in group.traces}
    if len(limits) > 1:
        notes.append(
            f"{world.name}: evaluation cuts episodes at different steps ({listed(map(str, limits))})"
        )
    compared = world.compared
    if len(groups) > 1 and len({len(group.scores) for group in compared}) > 1:
        counts = listed(f"{group.label} {len(group.scores)}" for group in compared)
        notes.append(f"{world.name}: different numbers of seeds ({counts}); each is compared with each")
    world.pairs = [
        pair(a.label, b.label, [a.scores], [b.scores]) for a, b in combinations(compared, 2)
    ]  # fmt: skip


def score(group: Group, world: World, notes: list[str]) -> None:
    """Each seed's last evaluation up to the step at which groups are compared."""
    scores, steps = [], []
    for curve in group.counted(world.metric):
        upto = curve.steps <= world.step
        if world.metric == TRAINING:
            late = upto & (curve.steps > (1 - LAST) * world.step)
            upto = late if late.any() else upto
        if upto.any():
            scores.append(curve.values[upto].mean() if world.metric == TRAINING else curve.values[upto][-1])
            steps.append(curve.steps[upto][-1])
    if not scores:
        notes.append(f"{world.name}: {group.label} has no evaluation up to step {world.step:,}: not compared")
        return
    group.scores, group.at = np.array(scores), int(min(steps))
    if group.at < 0.9 * world.step:
        notes.append(f"{world.name}: the last evaluation of {group.label} is of step {group.at:,}")


def pair(a: str, b: str, x: statistics.Scores, y: statistics.Scores) -> Pair:
    """Compare two groups over environments."""
    if statistics.improvement(x, y) < 0.5:
        a, b, x, y = b, a, y, x
    sizes_x, sizes_y = ([len(each) for each in one] for one in (x, y))
    of_x, of_y = statistics.resampling(sizes_x, 1), statistics.resampling(sizes_y, 2)
    low, high = statistics.percentiles(statistics.resampled_improvement(x, y, of_x, of_y))
    return Pair(
        better=a,
        worse=b,
        probability=statistics.improvement(x, y),
        **dict(zip(("low", "high"), statistics.improvement_interval(x, y), strict=True)),
        rliable=(float(low), float(high)),
        seeds=(min(sizes_x), min(sizes_y)),
        chance=statistics.chance_of_a_sweep(sizes_x, sizes_y),
        environments=len(x),
    )


def over_all(worlds: Sequence[World], notes: list[str]) -> Overall | None:
    """The groups that have scores in every environment in which groups are compared; None for fewer than two."""
    shared = [world for world in worlds if len(world.compared) > 1]
    if len(shared) < 2:
        if len(worlds) > 1:
            notes.append("no two groups were compared in two environments: nothing is said over all of them")
        return None
    every = set.intersection(*({group.label for group in world.compared} for world in shared))
    partly = {group.label for world in worlds for group in world.compared} - every
    if partly:
        names = listed(sorted(partly))
        notes.append(f"left out over all environments, since they are not in each: {names}")
    if len(every) < 2:
        return None
    scores: dict[str, list[np.ndarray]] = {
        group.label: [] for group in shared[0].groups if group.label in every
    }
    for world in shared:
        inside = [group for group in world.compared if group.label in every]
        low, high = (end(end(group.scores) for group in inside) for end in (min, max))
        for group in inside:
            scores[group.label].append((group.scores - low) / ((high - low) or 1.0))
    for name, each in scores.items():
        fewest = min(map(len, each))
        if any(len(one) > fewest for one in each):
            notes.append(f"over all environments {name} counts with {fewest} seeds, as it has in each")
        scores[name] = [one[:fewest] for one in each]
    order = sorted(scores, key=lambda name: -float(statistics.iqm(scores[name])))
    scores = {name: scores[name] for name in order}
    pairs = [pair(a, b, scores[a], scores[b]) for a, b in combinations(order, 2)]
    return Overall([world.name for world in shared], scores, pairs)


def say_differences(traces: Sequence[Trace], notes: list[str]) -> None:
    """Note devices and versions that differ, of which a time on the clock depends."""
    for what, why in (
        ("device", "times on the clock are not compared"),
        ("versions", "results may differ by them"),
    ):
        found = {trace.facts[what] for trace in traces if trace.facts.get(what)}
        if len(found) > 1:
            said = f" ({listed(sorted(found))})" if what == "device" else ""
            notes.append(f"runs were made with different {what.rstrip('s')}s{said}: {why}")

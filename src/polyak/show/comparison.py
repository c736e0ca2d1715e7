"""Runs side by side: which belong together, where a comparison means something, and what is left out of it.

Runs of one algorithm with the same settings are one group, whatever their seeds; in one environment with the same
constants groups are compared after as many steps as all of them made.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from polyak.errors import brief, printable
from polyak.show import statistics
from polyak.show.curve import interquartile_mean, thinned, together

EVALUATION, TRAINING = "eval/return", "episode/return"
LARGEST = 1e30  # a number beyond is what became of one that went wrong
PAUSE = 60.0  # seconds without a line that may be a pause,
PAUSES = 20.0  # if they are also so many times what is usual
MOST_NOTED = 3  # settings that the name of a group may have
BY_CHANCE = 0.05  # as often as this equal algorithms may differ as much, for a verdict
LAST = 0.1  # share of the steps whose training returns stand for an evaluation, where there is none
DRAWN = 60  # points of a line in a chart

# What two runs of one group may differ in: where they run and how they are looked at, not what they learn from.
APART = {
    *("env", "seed", "seeds", "eval_every", "eval_episodes", "eval_limit", "checkpoint_every", "deadline"),
    *("vectorization", "strict_spaces", "measures", "eval_worker"),
}
WORLD = ("env_fields.", "eval_env_fields")  # prefixes of settings that make another environment


@dataclass(frozen=True)
class Trace:
    """One run, as its folder says.

    settings  of its plan, by names like config.data.steps
    facts     what else is known: device, versions, command
    stop_at   return whose evaluation ends it before its last step
    """

    name: str
    algorithm: str
    env: str
    steps: int
    seeds: range
    lines: list[dict[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    stop_at: float | None = None

    @property
    def reached(self) -> int:
        """The last step that it logged."""
        return max((line["env_steps"] for line in self.lines), default=0)

    @property
    def finished(self) -> bool:
        """Whether it logged its last step, or the return that it was to stop at."""
        if self.reached >= self.steps or self.stop_at is None:
            return self.reached >= self.steps
        last = [line.get("eval/return") for line in self.lines if line["env_steps"] == self.reached]
        returns = [value for value in last if value is not None]
        return bool(returns) and float(np.mean(returns)) >= self.stop_at

    @property
    def world(self) -> tuple[str, ...]:
        """What makes its environment another: name and constants."""
        constants = [(name, v) for name, v in self.settings.items() if name.startswith(WORLD)]
        return self.env, *(f"{name}={value!r}" for name, value in sorted(constants) if value is not None)


@dataclass(frozen=True)
class Curve:
    """One metric of one seed: steps [P], values [P], seconds [P] since the first line, NaN where nobody knows."""

    run: str
    seed: int
    steps: np.ndarray
    values: np.ndarray
    seconds: np.ndarray
    whole: bool  # of a run that is finished


@dataclass(frozen=True)
class Middle:
    """The interquartile mean over seeds of a group [P] with its interval, NaN where there is none."""

    steps: np.ndarray
    seconds: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass
class Group:
    """Runs of one algorithm with the same settings in one environment."""

    label: str
    index: int  # of its colour, the same in every environment
    traces: list[Trace]
    curves: dict[str, list[Curve]] = field(default_factory=dict)  # by metric
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [S] of the seeds that are compared
    middles: dict[str, Middle | None] = field(default_factory=dict)  # by metric, of those that were asked for
    at: int = 0  # the step of the last evaluation that these are of

    def counted(self, metric: str) -> list[Curve]:
        """The curves that the middle is of: those of finished runs, where there are any."""
        curves = self.curves.get(metric, [])
        return [curve for curve in curves if curve.whole] or curves

    def middle(self, metric: str) -> Middle | None:
        """The curve of its interquartile mean; None without a value."""
        if metric not in self.middles:
            self.middles[metric] = self._middle(metric)
        return self.middles[metric]

    def _middle(self, metric: str) -> Middle | None:
        curves = self.counted(metric)
        if not curves:
            return None
        steps, values = together({i: (each.steps, each.values) for i, each in enumerate(curves)}, DRAWN)
        seconds = np.mean([np.interp(steps, each.steps, each.seconds) for each in curves], axis=0)
        return Middle(steps, seconds, *statistics.iqm_interval([values]))


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
            gather(group, world.name, notes)
        judge(world, notes)
        worlds.append(world)
    say_differences(traces, notes)
    return Comparison(list(traces), order, worlds, over_all(worlds, notes), notes)


def world_name(key: tuple[str, ...]) -> str:
    """An environment and its constants, for a person."""
    name, *constants = key
    said = ", ".join(constant.partition(".")[2] or constant for constant in constants)
    return printable(f"{name} ({said})" if said else name, 120)


# ---- which runs belong together


def label(traces: Sequence[Trace], worlds: Iterable[Sequence[Trace]]) -> dict[int, str]:
    """The name of each run's group by `id`: its algorithm, and the settings that runs of that algorithm differ in."""
    varying: dict[str, dict[str, None]] = defaultdict(dict)  # by algorithm, in order
    for inside in worlds:
        for algorithm in {trace.algorithm for trace in inside}:
            own = [identity(trace) for trace in inside if trace.algorithm == algorithm]
            for name in dict.fromkeys(name for each in own for name in each):
                if any(each.get(name) != own[0].get(name) for each in own):
                    varying[algorithm][name] = None
    found: dict[tuple, str] = {}
    labels = {}
    for trace in traces:
        names = list(varying[trace.algorithm])
        own = identity(trace)
        key = trace.algorithm, *(brief(own.get(name), 1_000) for name in names)
        if key not in found:
            text = ", ".join(f"{name.rpartition('.')[2]}={shown(own.get(name), 40)}" for name in names)
            text = trace.name if len(names) > MOST_NOTED else text
            text = printable(f"{trace.algorithm}: {text}" if text else trace.algorithm, 80)
            while text in found.values():
                text += "'"
            found[key] = text
        labels[id(trace)] = found[key]
    return labels


def identity(trace: Trace) -> dict[str, Any]:
    """The settings that make a run one of its group."""
    return {
        name: value
        for name, value in trace.settings.items()
        if name not in APART and not name.startswith(WORLD) and name != "algorithm"
    }


def shown(value: Any, most: int = 160) -> str:
    """A setting for a person."""
    return printable(value, most) if isinstance(value, str) else brief(value, most)


# ---- what they logged


def gather(group: Group, world: str, notes: list[str]) -> None:
    """Read the curves of a group from the lines of its runs; a seed that is there twice is taken once."""
    taken: dict[int, str] = {}
    for trace in group.traces:
        again = sorted({line["seed"] for line in trace.lines} & taken.keys())
        if again:
            seeds = listed([str(seed) for seed in again])
            notes.append(
                f"{trace.name}: seed {seeds} with the same settings is there already, from {taken[again[0]]}; "
                "taken once"
            )
        clock, pauses = elapsed(trace.lines)
        if pauses:
            notes.append(f"{trace.name}: {pauses:,.0f} s in which it was stopped are not counted as its time")
        if not trace.finished:
            notes.append(
                f"{trace.name} is not finished ({trace.reached:,} of {trace.steps:,} steps): its curves are shown, "
                "and it is not compared with runs that are"
            )
        bad = 0
        for metric, by_seed in collect(trace.lines, set(trace.seeds) - taken.keys()).items():
            for seed, points in by_seed.items():
                steps = np.array(sorted(points), float)
                values = np.array([points[int(step)] for step in steps], float)
                sound = np.abs(values) < LARGEST  # False for NaN
                bad += int((~sound).sum()) if metric == EVALUATION else 0
                if sound.any():
                    steps, values = steps[sound], values[sound]
                    seconds = np.interp(steps, *clock) if clock else np.full(len(steps), np.nan)
                    curve = Curve(trace.name, seed, steps, values, seconds, trace.finished)
                    group.curves.setdefault(metric, []).append(curve)
        if bad:
            notes.append(f"{trace.name}: {bad} evaluations are no finite numbers, and left out")
        taken |= dict.fromkeys((seed for seed in trace.seeds if seed not in taken), trace.name)
        if not trace.lines:
            notes.append(f"{trace.name} has logged nothing yet")
        elif not clock:
            notes.append(f"{trace.name} does not say when it logged: it has no curve against the clock")


def collect(lines: Iterable[Mapping[str, Any]], seeds: set[int]) -> dict[str, dict[int, dict[int, float]]]:
    """Values of each metric of these seeds by step, the last line of equal steps; NaN for a null."""
    found: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line["seed"] in seeds:
            for name, value in line.items():
                if "/" in name and not name.startswith("time/"):
                    found[name][line["seed"]][line["env_steps"]] = math.nan if value is None else float(value)
    return found


def elapsed(lines: Iterable[Mapping[str, Any]]) -> tuple[tuple[np.ndarray, np.ndarray] | None, float]:
    """Steps [P] and seconds [P] since the first line, without pauses, None if nobody knows; seconds of pauses."""
    times = {
        line["env_steps"]: float(line["time/unix_s"])
        for line in lines
        if line.get("time/unix_s") is not None and 0 < line["time/unix_s"] < LARGEST
    }
    if len(times) < 2:
        return None, 0.0
    steps = np.array(sorted(times), float)
    at = np.maximum.accumulate([times[int(step)] for step in steps])
    gaps = np.diff(at)
    usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0.0
    pause = gaps > max(PAUSE, PAUSES * usual)
    lost = float((gaps[pause] - usual).sum())
    gaps[pause] = usual
    return (steps, np.append(0.0, np.cumsum(gaps))), lost


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


# ---- in words


def figure(x: float) -> str:
    """A return in few characters."""
    if abs(x) >= 1e7:
        return f"{x:.3g}"
    return f"{x:,.1f}" if abs(x) >= 100 else f"{x:.3g}"


def listed(words: Iterable[str], most: int = 6) -> str:
    """A list in a sentence, of bounded length."""
    words = list(words)
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return ", ".join([*words[:most], *more])


def drawable(curve: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, seconds and values of a curve, thinned for a chart."""
    steps, values = thinned(curve.steps, curve.values, DRAWN)
    return steps, np.interp(steps, curve.steps, curve.seconds), values

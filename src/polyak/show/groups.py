"""Runs that belong together, and what they logged.

Runs of one algorithm with the same settings are one group, whatever their seeds.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyak.errors import brief, printable
from polyak.show import statistics
from polyak.show.curve import thinned, together
from polyak.show.words import listed, shown

EVALUATION, TRAINING = "eval/return", "episode/return"
LARGEST = 1e30  # a number beyond is what became of one that went wrong
PAUSE = 60.0  # seconds without a line that may be a pause,
PAUSES = 20.0  # if they are also so many times what is usual
MOST_NOTED = 3  # settings that the name of a group may have
DRAWN = 60  # points of a line in a chart

# What two runs of one group may differ in: where they run and how they are looked at, not what they learn from.
APART = {
    *("env", "seed", "seeds", "eval_every", "eval_episodes", "eval_limit", "checkpoint_every", "deadline"),
    *("vectorization", "strict_spaces", "measures", "eval_worker", "devices"),
}
WORLD = ("env_fields.", "eval_env_fields")  # prefixes of settings that make another environment


@dataclass(frozen=True)
class Trace:
    """One run, as its folder says.

    settings  of its plan, by names like config.data.steps
    facts     what else is known: device, versions, command
    stop_at   return whose evaluation ends it before its last step
    source    file that its environment was written in then, where another run's was another
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
    source: str = ""

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
        """What makes its environment another: name, constants, and the file it was written in."""
        constants = [(name, v) for name, v in self.settings.items() if name.startswith(WORLD)]
        said = [f"{name}={value!r}" for name, value in sorted(constants) if value is not None]
        return self.env, *said, *([f"source.{self.source}"] if self.source else [])


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


# ---- what they logged


def gather(group: Group, notes: list[str]) -> None:
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


def drawable(curve: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, seconds and values of a curve, thinned for a chart."""
    steps, values = thinned(curve.steps, curve.values, DRAWN)
    return steps, np.interp(steps, curve.steps, curve.seconds), values

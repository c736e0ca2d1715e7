"""Results of a run and of an evaluation: in words, and as one line of JSON."""

import json
import math
import shlex

import numpy as np

from polyak.files import place
from polyak.runs.evaluation import Evaluation
from polyak.runs.run import Run
from polyak.show.curve import interquartile_mean
from polyak.show.terminal import Terminal, number


def say_results(run: Run, terminal: Terminal) -> None:
    """Each seed's last evaluation, what holds over seeds, and what can be done next."""
    last = {line["seed"]: line for line in run.metrics if "eval/return" in line}
    means = {seed: as_float(line["eval/return"]) for seed, line in sorted(last.items())}
    spreads = [number(as_float(last[seed]["eval/return_std"])) for seed in means]
    middle = number(interquartile_mean(np.array(list(means.values()))).item()) if len(means) > 1 else ""
    left, right = (
        max(map(len, [middle, *map(number, means.values())]), default=0),
        max(map(len, spreads), default=0),
    )
    rows = {}
    for (seed, mean), spread in zip(means.items(), spreads, strict=True):
        episodes = last[seed]["eval/episodes"]
        rows[f"seed {seed}"] = f"{number(mean):>{left}} ± {spread:>{right}}  ({episodes} episodes)"
    if middle:
        rows[f"IQM of {len(means)} seeds"] = f"{middle:>{left}}"
    if rows:
        terminal.say(f"last evaluation, at {run.plan.unit[:-1]} {max(map(place, last.values())):,}")
        terminal.facts(rows)
    name, evaluate = shown(run), f"polyak evaluate {shown(run)}"
    facts = {"folder": run.path, "watch": f"polyak watch {name}", "evaluate": evaluate}
    best = run.evaluated_best() if rows else None
    if best is not None and best[0] < max(map(place, last.values())):
        step, mean = best
        facts = {"best": f"{number(mean)} at {run.plan.unit[:-1]} {step:,}: {evaluate} --best", **facts}
    terminal.facts(facts)


def as_float(value: float | None) -> float:
    """A number of metrics.jsonl, where null is one that was not finite."""
    return float("nan") if value is None else value


def shown(run: Run) -> str:
    """How to name this run on a command line."""
    return shlex.join([str(run.path), *(word for name in run.plan.to_trust for word in ("--trust", name))])


def say_evaluation(what: object, evaluation: Evaluation) -> None:
    """A table about `what` was played: a line for each seed, and one for all."""
    summary, seeds = evaluation.summary(), evaluation.seeds
    rows = [["seed", "mean", "std", "min", "max", "length"]]
    for seed, total, length in zip(seeds, evaluation.returns, evaluation.lengths, strict=True):
        values = total.mean(), total.std(), total.min(), total.max(), length.mean()
        rows.append([str(seed), *map(number, values)])
    if len(seeds) > 1:
        names = ("mean_return", "std_return", "min_return", "max_return", "mean_length")
        rows.append(["all", *(number(summary[name]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{what}: {evaluation.returns.shape[1]} episodes of each seed")
    for row in rows:
        print("  " + "  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)))
    if len(seeds) > 1:
        print(f"  interquartile mean over seeds: {number(summary['iqm_return'])}")
    for name, value in evaluation.measures.items():
        print(f"  {name}: {number(float(value.mean()))}")
    for name in evaluation.ratios:
        value, above, below = evaluation.ratio(name)
        print(f"  {name}: {number(value) if below else 'undefined'} ({number(above)} / {number(below)})")


def as_json(evaluation: Evaluation) -> str:
    """One line; a number that is not finite is null."""

    def finite(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: finite(value) for name, value in evaluation.summary().items()})

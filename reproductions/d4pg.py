"""D4PG on Pendulum without its distribution, and in the longer form without each of its four parts (D12).

Of its four parts many actors are one: 32 that are not in step fill its replay from two processes.

As Barth-Maron et al. 2018 found it: with its distribution the critic does better than without, all else being equal.
Returns are means of 100 episodes without exploration; the area is the mean of all evaluations on the way, which says
who learns sooner.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import trim_mean

from reproductions.finding import Finding, main, train
from reproductions.workers import BAR as ACTORS_BAR
from reproductions.workers import ROLLOUT, settings

EPISODES, BAR = 100, -160.0
WITHOUT: dict[str, dict[str, Any]] = {
    "D4PG": {},
    "no distribution": {"critic": "scalar"},
    "one step": {"data.n_step": 1},
    "no priorities": {"data.priority": 0.0},
    "Ornstein-Uhlenbeck": {"noise": "ou"},
}


class Score(NamedTuple):
    """Interquartile means over the seeds."""

    last: float  # return at the end
    area: float  # mean return of the evaluations


def score(config: dict[str, Any], env: str, steps: int, seeds: int) -> Score:
    """Train with one part changed."""
    run = train(
        "d4pg", env, steps=steps, seeds=seeds, config=config, eval_every=steps // 10, eval_episodes=10
    )
    curve = [line["eval/return"] for line in run.metrics if "eval/return" in line]
    found = run.evaluate(EPISODES).returns.mean(axis=1)
    return Score(float(trim_mean(found, 0.25)), float(np.mean(curve)))


def parts(names: tuple[str, ...], steps: int, seeds: int, env: str = "jax:Pendulum-v1") -> Finding:
    """All parts on, and each of some off."""
    found = {name: score(WITHOUT[name], env, steps, seeds) for name in names}
    for name, each in found.items():
        print(f"  {name}: return {each.last:.1f}, mean of the evaluations {each.area:.1f}")
    whole, scalar = found["D4PG"], found["no distribution"]
    claims = {
        f"with all four on the interquartile mean of {seeds} seeds is at least {BAR:g} (found {whole.last:.1f})": (
            whole.last >= BAR
        ),
        f"a distribution learns sooner than its mean alone (area {whole.area:.0f} beside {scalar.area:.0f})": (
            whole.area > scalar.area
        ),
    }
    said = ", ".join(f"{name} {each.last:.0f} ({each.area:.0f})" for name, each in found.items())
    return Finding(
        claims, f"IQM (mean of the curve) over {seeds} seeds after {steps:,} steps of {env}: {said}"
    )


def with_actors(names: tuple[str, ...], steps: int, seeds: int, lanes: int = 32) -> Finding:
    """The parts, and actors that do not wait for each other."""
    found = parts(names, steps, seeds)
    run = train("d4pg", "Pendulum-v1", steps=2 * steps, **settings(lanes, ROLLOUT))
    value = float(run.evaluate(EPISODES).returns.mean())
    claim = f"{lanes} actors that are not in step: at least {ACTORS_BAR:g} (found {value:.1f})"
    return Finding(
        {**found.claims, claim: value >= ACTORS_BAR},
        f"{found.figure}; {lanes} actors out of step {value:.0f} after {2 * steps:,}, one seed",
    )


if __name__ == "__main__":
    two = ("D4PG", "no distribution")
    main(
        {"D12": lambda: with_actors(two, steps=10_000, seeds=5)},
        long={"D12": lambda: parts(tuple(WITHOUT), steps=20_000, seeds=10)},
    )

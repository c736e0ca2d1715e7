"""Naive deep Q-learning beside DQN (C1), and with many environments in step (C2)."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from polyak.algorithms import q_learning
from polyak.drivers.in_graph import InGraph
from polyak.envs.find import find
from reproductions.finding import Finding, main, train

SEEDS, STEPS, GAMMA, EPISODES = 5, 50_000, 0.99, 50
BOUND = 1 / (1 - GAMMA)  # on CartPole every reward is 1
ENVS, ITERATIONS = 16, 5_000
NAIVE = {"gamma": GAMMA, "lr": 1e-3, "hidden": (128, 128), "epsilon_end": 0.04, "epsilon_fraction": 0.16}
LONGER = 200_000  # steps of the comparison of one environment with many, which take fewer updates
# Of 2.5e-4, 5e-4, 1e-3 and, with many, 2e-3 the learning rate that was best at the end on seeds 0 to 4
TUNED = {1: 1e-3, ENVS: 5e-4}
OTHERS = range(5, 15)  # seeds that are compared


def naive(picture: str = "") -> Finding:
    """One environment, no replay, no target: the same seeds, network and step size as DQN's preset."""
    dqn, own = curve("dqn"), curve("q_learning", NAIVE)
    spread = {name: float(each["return"].std()) for name, each in (("dqn", dqn), ("naive", own))}
    largest = float(own["largest"].max())
    claims = {
        f"its largest |Q| passes r / (1 - gamma) = {BOUND:.0f}, or its spread is twice DQN's (|Q| {largest:.3g}, "
        f"spread {spread['naive']:.1f} and {spread['dqn']:.1f})": largest > BOUND
        or spread["naive"] >= 2 * spread["dqn"],
        f"it returns less than DQN (mean {own['return'].mean():.0f} and {dqn['return'].mean():.0f})": bool(
            own["return"].mean() < dqn["return"].mean()
        ),
    }
    if picture:
        draw(picture, {"DQN": dqn, "Q-learning": own})
    return Finding(
        claims,
        f"CartPole after {STEPS:,} steps, {SEEDS} seeds: naive {show(own)}, largest |Q| {largest:.3g}; DQN {show(dqn)}",
    )


def parallel(picture: str = "") -> Finding:
    """The same number of steps in one environment and in sixteen, each with its best learning rate; then the speed."""
    one, many = (curve("q_learning", {**NAIVE, "lr": lr}, envs, LONGER, OTHERS) for envs, lr in TUNED.items())
    rates = {envs: rate(envs) for envs in (1, 4, 16, 64)}
    for envs, steps in rates.items():
        print(f"  {envs} environments: {steps:,.0f} steps per second")
    claims = {
        f"with {ENVS} environments the seeds' spread is lower, mean of ten evaluations ({spread(many):.1f} against "
        f"{spread(one):.1f})": spread(many) < spread(one),
        f"and at their end ({show(many)} against {show(one)})": bool(
            many["return"].std() < one["return"].std()
        ),
        "steps per second grow with the number of environments": sorted(rates, key=rates.__getitem__)
        == [*rates],
    }
    if picture:
        draw(picture, {"1 environment": one, f"{ENVS} environments": many}, LONGER)
    return Finding(
        claims,
        f"CartPole, {len(OTHERS)} seeds, spread over {LONGER:,} steps {spread(one):.0f} with 1 environment, "
        f"{spread(many):.0f} with {ENVS}; at their end {show(one)} and {show(many)}; "
        f"{rates[64] / rates[1]:.0f} times the steps per second with 64",
    )


def curve(
    name: str,
    config: dict[str, Any] | None = None,
    num_envs: int = 1,
    total: int = STEPS,
    seeds: range = range(SEEDS),
) -> dict[str, np.ndarray]:
    """What each seed returns at the end [S] and on the way [evaluations, S], and its largest |Q| [S]."""
    said: dict[str, Any] = {} if config is None else {"config": config, "num_envs": num_envs, "preset": False}
    said |= {"seed": seeds[0], "seeds": len(seeds), "eval_every": total // 10, "eval_episodes": 10}
    run = train(name, "jax:CartPole-v1", steps=total, **said)
    lines = [[line for line in run.metrics if line["seed"] == seed] for seed in seeds]
    found = [
        [
            np.inf if value is None else abs(value)
            for line in each
            for key, value in line.items()
            if key in ("update/largest", "update/q")
        ]
        for each in lines
    ]
    way = np.array([[line["eval/return"] for line in each if "eval/return" in line] for each in lines]).T
    return {
        "return": run.evaluate(EPISODES).returns.mean(axis=1),
        "way": way,
        "largest": np.array([max(each) for each in found]),
    }


def rate(num_envs: int) -> float:
    """Environment steps per second with so many environments, without what compiling takes."""
    env = find("jax:CartPole-v1")
    spec = dataclasses.replace(env.spec, num_envs=num_envs)
    driver = InGraph(q_learning.algorithm, q_learning.Config(horizon=10**6), env, spec, (0,))
    run = driver.advance(driver.start(), 100)
    began = time.monotonic()
    run = driver.advance(run, ITERATIONS)
    np.asarray(run.iteration.value)
    return ITERATIONS * num_envs / (time.monotonic() - began)


def spread(each: dict[str, np.ndarray]) -> float:
    """The standard deviation over seeds, mean of the evaluations on the way."""
    return float(each["way"].std(axis=1).mean())


def show(each: dict[str, np.ndarray]) -> str:
    """Mean and spread of the returns."""
    return f"{each['return'].mean():.0f} +- {each['return'].std():.0f}"


def draw(path: str, curves: dict[str, dict[str, np.ndarray]], total: int = STEPS) -> None:
    """Every seed's returns over environment steps."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for color, (name, each) in enumerate(curves.items()):
        at = np.linspace(0, total, len(each["way"]) + 1)[1:]
        for seed, values in enumerate(each["way"].T):
            axes.plot(at, values, f"C{color}", label=name if seed == 0 else None, alpha=0.7)
    axes.set(xlabel="environment steps", ylabel="return", title="CartPole, every seed")
    axes.legend()
    figure.savefig(path, dpi=150)
    print(path)


if __name__ == "__main__":
    main(
        {"C1": naive, "C2": parallel},
        long={
            "C1": lambda: naive("runs/q_learning.png"),
            "C2": lambda: parallel("runs/parallel_q_learning.png"),
        },
    )

"""Many actors that fill one replay (D14): transitions a second, and learning curves against the clock.

D4PG on Gymnasium's Pendulum, with 1, 8, 32 and 64 lanes that two workers play (a single lane has one) and that fill
one prioritised replay as rollouts arrive. In each case there is one update for the same number of transitions. Speeds
are measured in turns, so that whatever else the machine does befalls all alike.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyak.runs.beginning import plan_run
from polyak.runs.plan import Settings
from polyak.runs.setup import set_up_jax
from reproductions.finding import Finding, main, train

LANES = (1, 8, 32, 64)
ROLLOUT = 64  # transitions of an iteration, however many lanes there are
BAR = -200.0
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "workers.png"


def settings(lanes: int, updates: int, **more: Any) -> dict[str, Any]:
    """Of a run with so many lanes, and so many updates for ROLLOUT transitions."""
    data = {"data.steps": ROLLOUT // lanes, "data.updates": updates}
    own = {"driver": "ray", "actors": lanes, "workers": min(2, lanes), "lockstep": False}
    return {**own, "config": data, **more}


def speeds(seconds: float, rounds: int) -> dict[int, list[float]]:
    """Transitions a second with each number of lanes, as each of some rounds found it; one update for 64."""
    drivers, runs = {}, {}
    for lanes in LANES:
        asked = settings(lanes, updates=1)
        config = asked.pop("config") | {"data.warmup": 64}
        session, _ = plan_run("d4pg", "Pendulum-v1", Settings(steps=10**7, eval_every=0, **asked), config)
        driver = drivers[lanes] = session.driver
        runs[lanes] = driver.start()
        for warm in (True, False):
            driver.compile(warm)
        runs[lanes] = driver.advance(runs[lanes], driver.warmup + 20)
    found: dict[int, list[float]] = {lanes: [] for lanes in LANES}
    for _ in range(rounds):
        for lanes, driver in drivers.items():
            runs[lanes] = driver.advance(runs[lanes], 10)  # what was ready before is not counted
            began, made = time.monotonic(), 0
            while time.monotonic() - began < seconds:
                runs[lanes] = driver.advance(runs[lanes], 10)
                made += 10 * driver.env_steps
            found[lanes].append(made / (time.monotonic() - began))
    for driver in drivers.values():
        driver.close()
    return found


def filling(seconds: float, rounds: int) -> Finding:
    """More lanes give more transitions a second."""
    from polyak.drivers.cluster import Cluster

    set_up_jax()
    cluster = Cluster(workers=sum(min(2, lanes) for lanes in LANES))
    try:
        found = speeds(seconds, rounds)
    finally:
        cluster.close()
    middle = {lanes: float(np.median(each)) for lanes, each in found.items()}
    for lanes, each in found.items():
        print(f"  {lanes} lanes: " + ", ".join(f"{speed:,.0f}" for speed in each) + " transitions/s")
    factor = middle[64] / middle[1]
    more = all(many > one for many, one in zip(found[64], found[1], strict=True))
    claims = {f"64 lanes give more than one in each of {rounds} rounds (found {factor:.1f} times)": more}
    said = ", ".join(f"{lanes}: {speed:,.0f}" for lanes, speed in middle.items())
    return Finding(
        claims, f"transitions/s of D4PG on Pendulum-v1 by lanes, two workers: {said}; {factor:.1f} times"
    )


def curves(steps: int, seeds: int) -> Finding:
    """All lanes learn it; the picture has their curves against the clock."""
    found = {lanes: curve(lanes, steps, seeds) for lanes in LANES}
    draw(found)
    last = {lanes: each[-1][1] for lanes, each in found.items()}
    claims = {
        f"{lanes} lanes: at least {BAR:g} at the end (found {value:.0f})": value >= BAR
        for lanes, value in last.items()
    }
    said = ", ".join(f"{lanes}: {last[lanes]:.0f} after {found[lanes][-1][0]:.0f} s" for lanes in LANES)
    return Finding(
        claims, f"return by lanes after {steps:,} steps of Pendulum-v1, mean of {seeds} seeds: {said}"
    )


def curve(lanes: int, steps: int, seeds: int) -> list[tuple[float, float]]:
    """Seconds since the first line, and the mean return of the seeds' evaluations then."""
    run = train(
        "d4pg",
        "Pendulum-v1",
        steps=steps,
        seeds=seeds,
        eval_every=steps // 10,
        eval_episodes=10,
        **settings(lanes, ROLLOUT),
    )
    now, began, points = 0.0, 0.0, {}
    for line in run.metrics:
        now = line.get("time/unix_s", now)  # of the log line before an evaluation
        began = began or now
        if "eval/return" in line:
            points.setdefault(line["env_steps"], (now - began, []))[1].append(line["eval/return"])
    return [(seconds, float(np.mean(returns))) for seconds, returns in points.values()]


def draw(found: dict[int, Sequence[tuple[float, float]]], path: Path = PICTURE) -> None:
    """Curves against the clock."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for lanes, each in found.items():
        axes.plot(*zip(*each, strict=True), marker=".", label=f"{lanes} lane{'s' if lanes > 1 else ''}")
    axes.set(xlabel="seconds since the first log line, evaluations included", ylabel="return of Pendulum-v1")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(
        {"D14": lambda: filling(seconds=1.5, rounds=3)},
        long={"D14": lambda: curves(steps=20_000, seeds=1)},
    )

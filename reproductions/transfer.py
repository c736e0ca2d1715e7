"""From one task to another: fine-tuning (G14), and progressive networks (G15).

Each stage is a run with a name that begins with what an earlier one learned (`--init`). With `--long` the stages lie in
runs/transfer: started again, the program goes on where it was, and finished stages return at once.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np

import polyak
from polyak.show.curve import interquartile_mean, iqm_interval
from reproductions.finding import Finding, folder, main

SHARE = 0.9  # of the way that training from scratch goes: the level that is to be reached


class Pair(NamedTuple):
    """Two tasks: a world with some constants, and the same world with others."""

    what: str  # is different
    algorithm: str
    env: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    steps: tuple[int, int]  # of training on the first, and on the second
    every: int  # steps between evaluations
    settings: Mapping[str, Any]
    tuned: Mapping[str, Any] = {}  # what else fine-tuning sets


def grown(times: float) -> dict[str, float]:
    """Constants of an acrobot whose links are so many times as long, of the same rods, with the same motor."""
    length = {"length_1": times, "center_1": times / 2, "center_2": times / 2}
    return {**length, "mass_1": times, "mass_2": times, "inertia": times**3}


SMALL = {"hidden": [64, 64], "actor_lr": 1e-3, "critic_lr": 1e-3, "gamma": 0.98}
RING = {"data.capacity": 20_000, "data.batch_size": 64, "data.warmup": 500}
TD3 = {"preset": False, "config": {**SMALL, **RING}}
TUNED = {"data.uniform": False}  # of a replay: the policy that is there acts in the warm-up
STEADY = {
    "wrap": ["normalize_obs", "normalize_reward"],
    "config": {"lr": 3e-4, "lr_end": 0.0, "entropy": 0.0},
}
PAIRS = {
    "pendulum": Pair(
        "mass and length",
        *("td3", "jax:Pendulum-v1", {}, {"mass": 1.3, "length": 1.2}, (8_000, 8_000), 500, TD3, TUNED),
    ),
    "reach": Pair(
        "goals",
        *("td3", "jax:Reach", {"goals": "training"}, {"goals": "held_out"}, (12_000, 12_000), 1_000),
        *({**TD3, "her": "future"}, TUNED),
    ),
    "acrobot": Pair(
        "size",
        *("ppo", "jax:Acrobot-v1", {}, grown(1.3), (61_440, 61_440), 4_096, STEADY),
    ),
}
# measured at length, without a claim: some seeds begin with a policy that does not let go of the old pole
CART = Pair(
    "pole", "ppo", "jax:CartPole-v1", {}, {"mass_pole": 0.3, "length": 1.0}, (50_000, 30_000), 1_024, {}
)
REVERSED = Pair(
    "direction of the motor", "ppo", "jax:CartPole-v1", {}, {"force": -10.0}, (50_000, 20_000), 2_048, {}
)
COLUMNS = {"policy/net": "policy/net/first", "critic": "critic/first"}  # of the first run, and where they go


# ---- stages


def stage(
    pair: Pair, name: str, out: str, seeds: int, fields: Mapping[str, Any], steps: int, **more: Any
) -> polyak.Run:
    """One run of a pair, or the finished one of that name."""
    settings = {**pair.settings, **more}
    settings["config"] = {**pair.settings.get("config", {}), **more.get("config", {})}
    said = {"steps": steps, "seeds": seeds, "env_fields": fields, "name": name, "out": out, "verbose": False}
    print(
        f"{name}: {pair.algorithm} on {pair.env} {dict(fields)}, {steps:,} steps, {seeds} seeds", flush=True
    )
    return polyak.train(pair.algorithm, pair.env, eval_every=pair.every, eval_episodes=10, **said, **settings)


def curves(run: polyak.Run) -> tuple[np.ndarray, np.ndarray]:
    """Steps [E] of the evaluations, and the returns [S, E]."""
    found: dict[int, list[float]] = {}
    for line in run.metrics:
        if "eval/return" in line:
            found.setdefault(line["env_steps"], []).append(line["eval/return"])
    steps = sorted(found)
    return np.array(steps), np.array([found[step] for step in steps]).T


# ---- G14


def fine_tuning(
    seeds: int,
    out: str | None = None,
    unclaimed: Mapping[str, Pair] = MappingProxyType({}),
    picture: str = "runs/fine_tuning.png",
) -> Finding:
    """Steps in the second task until a level is reached, from scratch and from what the first task taught."""
    claims, said, drawn = {}, [], {}
    for name, pair in {**PAIRS, **unclaimed}.items():
        place = out or folder()
        first = stage(pair, f"{name}-first", place, seeds, pair.before, pair.steps[0])
        of = functools.partial(stage, pair, out=place, seeds=seeds, fields=pair.after, steps=pair.steps[1])
        scratch = curves(of(name=f"{name}-scratch"))
        tuned = curves(of(name=f"{name}-tuned", init=(str(first.path),), config=pair.tuned))
        ends = interquartile_mean(scratch[1][:, 0]), interquartile_mean(scratch[1][:, -1])
        level = float(ends[0] + SHARE * (ends[1] - ends[0]))
        long, short = (steps_to(level, *curve) for curve in (scratch, tuned))
        if name in PAIRS:
            claims[f"{name}, other {pair.what}: fewer steps to a return of {level:.0f}, intervals apart"] = (
                bool(iqm_interval(short)[1] < iqm_interval(long)[0])
            )
        said.append(f"{name} {interval(short)} beside {interval(long)}")
        drawn[f"{pair.env.removeprefix('jax:')}, other {pair.what}"] = level, scratch, tuned
    draw(drawn, picture)
    return Finding(
        claims,
        f"steps in the new task to {SHARE:.0%} of what training from scratch gains there, fine-tuned beside from "
        f"scratch: {'; '.join(said)}; IQM and 95 % interval over {seeds} seeds",
    )


def steps_to(level: float, steps: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Steps [S] until a seed's evaluation first reaches a level; one evaluation more than all where none does."""
    reached = returns >= level
    after = steps[-1] + steps[0]
    return np.where(reached.any(axis=1), steps[reached.argmax(axis=1)], after).astype(float)


def interval(x: np.ndarray) -> str:
    """The interquartile mean of x [S] and its interval in words."""
    low, high = iqm_interval(x)
    return f"{interquartile_mean(x):,.0f} [{low:,.0f}, {high:,.0f}]"


def draw(drawn: Mapping[str, tuple], path: str) -> None:
    """Returns over steps in the second task, the interquartile mean and its interval."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(
        1, len(drawn), figsize=(4 * len(drawn), 3.5), layout="constrained", squeeze=False
    )
    for ax, (title, (level, *both)) in zip(axes[0], drawn.items(), strict=True):
        for label, (steps, returns) in zip(("from scratch", "fine-tuned"), both, strict=True):
            ax.plot(steps, interquartile_mean(returns), label=label)
            ax.fill_between(steps, *iqm_interval(returns), alpha=0.2)
        ax.axhline(level, color="k", lw=0.8, ls=":")
        ax.set(title=title, xlabel="steps in the new task")
    axes[0, 0].set(ylabel="return of an episode")
    axes[0, -1].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


# ---- G15


def columns(seeds: int, out: str | None = None) -> Finding:
    """A cart whose motor was reversed: the old policy misleads, and what it knows of the pole does not."""
    pair, place = REVERSED, out or folder()
    first = stage(pair, "reversed-first", place, seeds, pair.before, pair.steps[0])
    taken = tuple(f"{first.path}:{theirs}={ours}" for theirs, ours in COLUMNS.items())
    of = functools.partial(stage, pair, out=place, seeds=seeds, fields=pair.after, steps=pair.steps[1])
    runs = {
        "column 2": of(name="reversed-columns", init=taken, config={"network": "progressive"}),
        "fine-tuned": of(name="reversed-tuned", init=(str(first.path),)),
        "from scratch": of(name="reversed-scratch"),
    }
    means = {name: curves(run)[1].mean(axis=1) for name, run in runs.items()}  # [S], over all evaluations
    last = {name: curves(run)[1][:, -1] for name, run in runs.items()}
    gain = means["column 2"] - means["fine-tuned"]  # seed by seed, from the same first run
    low, high = iqm_interval(gain)
    theirs, ours = first.state(), runs["column 2"].state()
    kept = same_bits((theirs.policy.net, theirs.critic), (ours.policy.net.first, ours.critic.first))
    claims = {
        "column 1 is the first run's, bit for bit, after all of training": kept,
        "column 2 beats fine-tuning in the mean over training: the interval of the gain is above 0": low > 0,
    }
    figures = ", ".join(
        f"{name} {interval(each)} (last {interval(last[name])})" for name, each in means.items()
    )
    return Finding(
        {claim: bool(held) for claim, held in claims.items()},
        f"CartPole with a reversed motor, mean return over {pair.steps[1]:,} steps: {figures}; gain over fine-tuning "
        f"{interquartile_mean(gain):.0f} [{low:.0f}, {high:.0f}]; IQM and 95 % interval over {seeds} seeds",
    )


def same_bits(a: Any, b: Any) -> bool:
    """Whether two networks have the same numbers to the last bit."""
    ours, theirs = ([np.asarray(x).tobytes() for x in jax.tree.leaves(tree)] for tree in (a, b))
    return ours == theirs


if __name__ == "__main__":
    main(
        {"G14": functools.partial(fine_tuning, 10), "G15": functools.partial(columns, 10)},
        long={
            "G14": functools.partial(fine_tuning, 20, "runs/transfer", {"cartpole": CART}),
            "G15": functools.partial(columns, 30, "runs/transfer"),
        },
    )

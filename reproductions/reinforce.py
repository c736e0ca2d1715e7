"""REINFORCE: on CartPole, and with a step that is too large (F1); on the short corridor (A10, and in part A7)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.algorithms import reinforce
from polyak.drivers.in_graph import InGraph
from polyak.envs.worlds.corridor import ShortCorridor
from reproductions.finding import Finding, main, train

SEEDS, STEPS, EPISODES, NEEDED = 5, 200_000, 100, 483.0
RUNS, BEST = 100, 2 - np.sqrt(2)
FIRST = 1.47, -1.47  # theta of left and right: the corridor's first policy goes right once in twenty steps
CORRIDOR = {
    "without a baseline": ({"baseline": False, "lr": 2**-12}, 2_000),
    "with a baseline": ({"lr": 2**-9, "value_lr": 0.2, "value_steps": 1}, 1_000),
}


def cartpole(env: str) -> Finding:
    """Train five seeds; then five more with a step size that is far too large."""
    run = train("reinforce", env, steps=STEPS, seeds=SEEDS, eval_every=STEPS)
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    played = [
        sum(line["episode/count"] * line["episode/length"] for line in run.metrics if counted(line, seed))
        for seed in range(SEEDS)
    ]
    large = train("reinforce", env, steps=STEPS, seeds=SEEDS, eval_every=STEPS, config={"lr": 1.0})
    collapsed = large.evaluate(EPISODES).returns.mean(axis=1)
    for seed in range(SEEDS):
        print(
            f"  seed {seed}: {means[seed]:.1f} after {played[seed]:,.0f} steps; lr 1.0: {collapsed[seed]:.1f}"
        )
    reached = int((means >= NEEDED).sum())
    claims = {
        f"at least 4 of {SEEDS} seeds return {NEEDED:g} or more (found {reached})": reached >= 4,
        f"with a step size of 1 no seed returns 100 (largest {collapsed.max():.1f})": bool(
            (collapsed < 100).all()
        ),
    }
    listed = ", ".join(f"{mean:.0f}" for mean in np.sort(means))
    return Finding(
        claims,
        f"mean return {means.mean():.1f} ({listed}) over {SEEDS} seeds after at most {STEPS:,} steps of {env}; "
        f"{collapsed.mean():.1f} where the step is too large",
    )


def counted(line: dict[str, Any], seed: int) -> bool:
    """Whether a line tells of episodes of this seed."""
    return line["seed"] == seed and bool(line.get("episode/count"))


def corridor() -> Finding:
    """A hundred runs in one program, from a policy that mostly goes left; the last 250 episodes are looked at."""
    claims, shown = {}, []
    for name, (settings, episodes) in CORRIDOR.items():
        p, returns = learned(settings, episodes)
        error, away = abs(p.mean() - BEST), abs(returns.mean() + 6 + 4 * np.sqrt(2))
        claims[f"{name}: p(right) is within 0.03 of {BEST:.3f} (found {p.mean():.3f})"] = bool(error < 0.03)
        claims[f"{name}: the return is within 0.5 of -11.657 (found {returns.mean():.2f})"] = bool(away < 0.5)
        shown.append(
            f"{p.mean():.3f} and {returns.mean():.2f} {name} ({episodes:,} episodes, lr {settings['lr']:g})"
        )
    return Finding(
        claims, f"p(right) and return, means of {RUNS} runs, best 0.586 and -11.66: {'; '.join(shown)}"
    )


def learned(settings: dict[str, Any], episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """p(right) and the mean return of the last 250 episodes, of every run."""
    cfg = reinforce.Config(gamma=1.0, rule="sgd", network="linear", **settings)

    def init(cfg: reinforce.Config, spec: Any, key: jax.Array) -> reinforce.State:
        state = reinforce.init(cfg, spec, key)
        net: Any = state.policy.net
        weight = jnp.zeros_like(net.weight).at[-1].set(jnp.array(FIRST))  # the last feature is a 1
        return state.replace(policy=state.policy.replace(net=net.replace(weight=weight)))

    env = ShortCorridor()
    driver = InGraph(reinforce.algorithm._replace(init=init), cfg, env, env.spec, range(RUNS))
    run, sums = driver.start(), {}
    for done in range(250, episodes + 1, 250):
        run, sums = driver.report(driver.advance(run, 250))
        returns = (sums["episode/return"] / sums["episodes"]).mean()
        print(f"  {'with' if cfg.baseline else 'without'} a baseline, episode {done}: {returns:.2f}")
    net: Any = run.state.policy.net
    right = np.asarray(jax.nn.softmax(net.weight[:, -1], axis=-1))[:, 1]
    return right, sums["episode/return"] / sums["episodes"]


if __name__ == "__main__":
    main(
        {"F1": lambda: cartpole("jax:CartPole-v1"), "A10": corridor},
        long={"F1": lambda: cartpole("CartPole-v1")},
    )

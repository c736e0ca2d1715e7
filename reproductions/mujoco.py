"""MuJoCo's tasks: TD3 on a small one (H2, in part), and TD3, DDPG (D3) and SAC (F7) on HalfCheetah.

Fujimoto et al. 2018 (arXiv:1802.09477), Table 1, has the highest mean evaluation over a million steps, which is what
the longer forms are held to after a tenth of that on HalfCheetah-v5, whose reward is that of the paper's version.
"""

from functools import partial

import gymnasium
import numpy as np

from reproductions.finding import Finding, main, train

EPISODES = 20
PUBLISHED = {"ddpg": 3305.6, "sac": 2347.2}  # HalfCheetah-v1 after 1M steps, as the paper found them


def beats_random(env: str, steps: int, seeds: int, needed: float) -> Finding:
    """Train TD3 and play without exploration; `needed` is the mean return that is asked for."""
    random = random_returns(env)
    means = train("td3", env, steps=steps, seeds=seeds).evaluate(EPISODES).returns.mean(axis=1)
    listed = ", ".join(f"{mean:,.1f}" for mean in means)
    claims = {
        f"every seed is better than the best of {EPISODES} random episodes ({random.max():,.1f})": bool(
            (means > random.max()).all()
        ),
        f"the seeds return at least {needed:,.0f} in the mean": bool(means.mean() >= needed),
    }
    return Finding(
        claims,
        f"mean return {means.mean():,.1f} ({listed}) over {seeds} seeds after {steps:,} steps of {env}; "
        f"random actions {random.mean():,.1f}",
    )


def random_returns(env: str) -> np.ndarray:
    """The returns of episodes of uniformly random actions, played in Gymnasium itself."""
    world = gymnasium.make(env)
    world.action_space.seed(0)
    totals = []
    for episode in range(EPISODES):
        world.reset(seed=episode)
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = world.step(world.action_space.sample())
            total, ended = total + float(reward), terminated or truncated
        totals.append(total)
    world.close()
    return np.array(totals)


def cheetah(algorithm: str, steps: int = 100_000, seeds: int = 3) -> Finding:
    """The mean evaluation of the seeds after a tenth of the paper's steps, beside what it found after all of them."""
    run = train(
        algorithm, "HalfCheetah-v5", steps=steps, seeds=seeds, eval_every=steps // 10, eval_episodes=10
    )
    curve: dict[int, list[float]] = {}
    for line in run.metrics:
        if "eval/return" in line:
            curve.setdefault(line["env_steps"], []).append(line["eval/return"])
    last, needed = np.array(curve[max(curve)]), PUBLISHED[algorithm]
    return Finding(
        {f"after {steps:,} steps at least {needed:,.1f}, the paper's after 1M": bool(last.mean() >= needed)},
        f"HalfCheetah-v5 after {steps:,} steps {last.mean():,.0f} ({', '.join(f'{x:,.0f}' for x in last)}), "
        f"{seeds} seeds; every {steps // 10:,}: {', '.join(f'{np.mean(x):,.0f}' for x in curve.values())}",
    )


if __name__ == "__main__":
    quick = partial(beats_random, "Reacher-v5", steps=6_000, seeds=2, needed=-15)
    long = partial(beats_random, "HalfCheetah-v5", steps=100_000, seeds=3, needed=4_000)
    ddpg, sac = partial(cheetah, "ddpg"), partial(cheetah, "sac")
    main({"H2": quick}, long={"H2": long, "D3": ddpg, "F7": sac})

"""TD3 on MuJoCo's tasks (H2, in part): one small task learned quickly, HalfCheetah by the paper's protocol.

Fujimoto et al. 2018, Table 1, has the highest mean evaluation over a million steps. The longer form trains a tenth
of that on HalfCheetah-v5, which the paper's figure 5 shows too.
"""

from functools import partial

import gymnasium
import numpy as np

from reproductions.finding import Finding, main, train

EPISODES = 20


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


if __name__ == "__main__":
    quick = partial(beats_random, "Reacher-v5", steps=6_000, seeds=2, needed=-15)
    long = partial(beats_random, "HalfCheetah-v5", steps=100_000, seeds=3, needed=4_000)
    main({"H2": quick}, long={"H2": long})

"""A softmax policy on CartPole: PPO (A8); and the CartPole of other checks.

CartPole-v1 counts as solved at 475, the most is 500. The check trains on polyak's own CartPole, whose dynamics are
Gymnasium's; the longer form on Gymnasium's itself.
"""

from functools import partial

import numpy as np

from reproductions.finding import Finding, main, train

SOLVED, SEEDS, EPISODES = 475.0, 5, 100


def solves(algorithm: str, env: str, steps: int, needed: int) -> Finding:
    """Train five seeds with the tuned settings, and play 100 episodes without exploration with each."""
    run = train(algorithm, env, steps=steps, seeds=SEEDS)
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    for seed, mean in enumerate(means):
        print(f"  seed {seed}: {mean:.1f}")
    reached = int((means >= SOLVED).sum())
    claim = f"at least {needed} of {SEEDS} seeds return {SOLVED:g} or more (found {reached})"
    listed = ", ".join(f"{mean:.0f}" for mean in np.sort(means))
    return Finding(
        {claim: reached >= needed},
        f"mean return {means.mean():.1f} ({listed}) over {SEEDS} seeds after {steps:,} steps of {env}",
    )


if __name__ == "__main__":
    ppo = partial(solves, "ppo", steps=100_000, needed=5)
    main({"A8": partial(ppo, "jax:CartPole-v1")}, long={"A8": partial(ppo, "CartPole-v1")})

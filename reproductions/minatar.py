"""DQN on CartPole and on a small image: MinAtar's Breakout through gymnax (C7).

Breakout pays 1 for each brick. The check trains on 15,000 frames with settings that suit so few, and asks that every
seed earns more than three times what uniform actions do. The longer form is the paper's protocol (Young & Tian 2019,
arXiv:1903.03176) up to 1,000,000 of its 5,000,000 frames, after which DQN is to earn 5; at 5,000,000 its figure shows
about 10, with sticky actions, which gymnax's game has not.
"""

from functools import partial

import numpy as np

from reproductions.cartpole import solves
from reproductions.finding import Finding, main, train

GAME, SEEDS, EPISODES = "gymnax:Breakout-MinAtar", 3, 50
# a learning rate, a target and an exploration that suit so few frames; network and sizes are the preset's
BRIEF = {
    "lr": 1e-3,
    "tau": 0.01,
    "period": 1,
    "epsilon_fraction": 0.5,
    "data.warmup": 500,
    "data.capacity": 20_000,
}
BRIEF |= {"data.steps": 4, "data.updates": 4}


def cartpole_and_breakout(env: str, steps: int, seeds: int, wanted: float | None) -> Finding:
    """Both halves; `wanted` is what the mean seed is to earn in Breakout, None: three times what uniform actions do."""
    cartpole = solves("dqn", env, steps=50_000, needed=4)
    chance = uniform()
    run = train("dqn", GAME, steps=steps, seeds=seeds, config=BRIEF if wanted is None else {})
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    for seed, mean in enumerate(means):
        print(f"  seed {seed}: {mean:.2f}")
    if wanted is None:
        claim, held = (
            f"every seed earns more than 3 x {chance:.2f} in Breakout",
            bool((means > 3 * chance).all()),
        )
    else:
        claim, held = f"the mean over seeds is at least {wanted:g} in Breakout", bool(means.mean() >= wanted)
    listed = ", ".join(f"{mean:.1f}" for mean in np.sort(means))
    figure = f"{means.mean():.2f} ({listed}) in {GAME} after {steps:,} frames, uniform actions {chance:.2f}"
    return Finding({**cartpole.claims, claim: held}, f"{cartpole.figure}; {figure}")


def uniform() -> float:
    """The mean return of uniform actions, of a network that has not learned and explores always."""
    run = train(
        "dqn",
        GAME,
        steps=64,
        config={"epsilon": 1.0, "epsilon_end": 1.0, "data.warmup": 32, "data.capacity": 64},
    )
    return float(run.evaluate(200, sample=True).returns.mean())


if __name__ == "__main__":
    main(
        {"C7": partial(cartpole_and_breakout, "jax:CartPole-v1", 15_000, 2, None)},
        long={"C7": partial(cartpole_and_breakout, "CartPole-v1", 1_000_000, SEEDS, 5.0)},
    )

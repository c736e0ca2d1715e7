"""Kohl and Stone's gait (B8): twelve parameters of a quadruped's trot, tuned by how far it comes.

The robot is a simulated one, a body on four feet, in `jax:Gait`. Every seed begins with the gait tuned by hand, which
is the middle of the twelve ranges; mean speed is what the fifteen policies of an iteration, perturbations of the
present gait, came to.
"""

import numpy as np
from scipy.stats import spearmanr

from reproductions.finding import Finding, main, train

SEEDS, ITERATIONS, ENVS, EPISODES = 10, 40, 15, 3
SECONDS = 4.0  # of an episode: its return is metres


def gait() -> Finding:
    """Rank correlation of iteration and mean speed, and the speed at the end beside that of the first gait."""
    rollout = ENVS * EPISODES * 100
    run = train("kohl_stone", "jax:Gait", steps=ITERATIONS * rollout, seeds=SEEDS, eval_every=rollout)
    lines = [line for line in run.metrics if "update/mean_return" in line]
    speed = np.array(
        [[line["update/mean_return"] / SECONDS for line in lines if line["seed"] == s] for s in range(SEEDS)]
    )
    correlation = spearmanr(np.arange(speed.shape[1]), speed.mean(axis=0)).statistic
    each = [spearmanr(np.arange(speed.shape[1]), one).statistic for one in speed]
    first = train(
        "kohl_stone", "jax:Gait", steps=rollout, seeds=SEEDS, config={"eta": 0.0, "data.episodes": EPISODES}
    )
    begun, ended = (r.evaluate(20).returns.mean(axis=1) / SECONDS for r in (first, run))
    ratio = ended / begun
    for iteration in range(0, speed.shape[1], 5):
        print(f"  iteration {iteration:>3}  mean speed {100 * speed[:, iteration].mean():.1f} cm/s")
    claims = {
        f"mean speed over {SEEDS} seeds rises: Spearman's correlation with the iteration above 0.9 (found "
        f"{correlation:.3f}; single seeds from {min(each):.2f})": correlation > 0.9,
        f"the mean speed at the end is at least 1.15 of the first gait's (found {ratio.mean():.2f})": ratio.mean()
        >= 1.15,
    }
    return Finding(
        claims,
        f"Spearman {correlation:.3f} over {speed.shape[1]} iterations, {SEEDS} seeds; speed {100 * begun.mean():.1f} "
        f"to {100 * ended.mean():.1f} cm/s, {ratio.mean():.2f} times ({ratio.min():.2f} to {ratio.max():.2f})",
    )


if __name__ == "__main__":
    main({"B8": gait})

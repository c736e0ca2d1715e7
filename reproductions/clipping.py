"""PPO's clipped surrogate: the four cases of the advantage's sign, by hand, and the share that was clipped (F11).

With three actions and a fresh policy at the observation 0, all logits are 0, pi(a) = 1/3 and V = 0: the advantage of
a row that terminates is its reward. Where the surrogate is r A the gradient of the loss by the logits is
-r A (onehot(a) - pi), and where it is clipped it is 0. Lecture 3 prints min(r, clip(r)) A, which differs for A < 0.

The longer form compares three surrogates as Schulman et al. 2017 do in section 6.1: by the mean of the last returns in
training, scaled so that a random policy has 0 and the best run of a task has 1. Their Table 1 has 0.82 with clipping,
0.74 with an adaptive penalty and -0.39 with neither, over seven tasks and a million steps.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak import algorithms
from polyak.interface import Batch, Box, Discrete, OnPolicy, Spec
from reproductions.finding import Finding, interval, main, train
from reproductions.mujoco import random_returns

EPSILON = 0.2
BY_HAND = {  # (ratio, advantage): the gradient by the three logits, for action 0
    (1.5, 2.0): (0.0, 0.0, 0.0),  # has risen far enough
    (0.5, 2.0): (-2 / 3, 1 / 3, 1 / 3),  # -0.5 * 2 * (2/3, -1/3, -1/3)
    (1.5, -2.0): (2.0, -1.0, -1.0),  # must fall; the slide's form gives 0
    (0.5, -2.0): (0.0, 0.0, 0.0),  # has fallen far enough; the slide's form gives (2/3, -1/3, -1/3)
    (1.1, 2.0): (-22 / 15, 11 / 15, 11 / 15),  # inside the interval
    (0.9, -2.0): (6 / 5, -3 / 5, -3 / 5),
}
ppo = algorithms.find("ppo")

TASKS = ("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Hopper-v5")
SURROGATES = {"clipping": ("ppo", {}), "adaptive penalty": ("ppo_kl", {}), "neither": ("ppo", {"clip": 1e9})}
LAST = 0.1  # share of the steps whose episodes are the last


def cases() -> Finding:
    """Gradients by automatic differentiation of what `update` logs, and the clip fraction of those rows."""
    errors, claims = [], {}
    for (ratio, advantage), wanted in BY_HAND.items():
        gradient, _ = surrogate([ratio], [advantage])
        errors.append(np.abs(gradient - np.array(wanted)).max())
        claims[f"ratio {ratio}, advantage {advantage:+g}: the gradient is {np.round(wanted, 3)}"] = (
            errors[-1] < 1e-6
        )
    ratios, advantages = zip(*BY_HAND, strict=True)
    _, counted = surrogate(ratios, advantages)
    claims[f"4 of 6 rows are outside 1 +- {EPSILON}: the clip fraction is {counted:.4f}"] = (
        abs(counted - 4 / 6) < 1e-6
    )
    lines = [x["update/clip_fraction"] for x in logged() if "update/clip_fraction" in x]
    claims[f"a run logs it, above 0 while it learns ({len(lines)} lines)"] = lines[0] > 0 and max(lines) < 1
    return Finding(
        claims,
        f"largest error {max(errors):.1e} over {len(BY_HAND)} cases; CartPole's clip fraction goes from {lines[0]:.3f} "
        f"to {lines[-1]:.3f}",
    )


def surrogate(ratios: Sequence[float], advantages: Sequence[float]) -> tuple[np.ndarray, float]:
    """The gradient of the policy's loss by the logits' biases [3], and the clip fraction, of rows [T, 1]."""
    rows = len(ratios)
    spec = Spec(Box((2,)), Discrete(3))
    cfg = ppo.Config(
        clip=EPSILON,
        lr=0.0,
        epochs=1,
        minibatch=rows,
        normalize_advantage=False,
        hidden=(4,),
        data=OnPolicy(steps=rows),
    )
    state = ppo.init(cfg, spec, jax.random.key(0))
    obs, number = jnp.zeros((rows, 1, 2)), lambda x: jnp.asarray(x, jnp.float32).reshape(rows, 1)
    batch = Batch(
        obs=obs,
        action=jnp.zeros((rows, 1), jnp.int32),
        reward=number(advantages),
        next_obs=obs,
        terminated=jnp.ones((rows, 1), bool),
        truncated=jnp.zeros((rows, 1), bool),
        extras={"log_prob": math.log(1 / 3) - jnp.log(number(ratios))},
        discount=jnp.zeros((rows, 1)),
        weight=jnp.ones((rows, 1)),
    )

    def policy_loss(policy):
        metrics = ppo.update(cfg, spec, state.replace(policy=policy), batch, jax.random.key(0)).metrics
        return metrics["policy_loss"], metrics["clip_fraction"]

    gradient, share = jax.jit(jax.jacfwd(policy_loss, has_aux=True))(state.policy)
    (biases,) = [leaf for leaf in jax.tree.leaves(gradient) if leaf.shape == (3,)]
    return np.asarray(biases, np.float64), float(share)


def logged() -> list[dict]:
    """The metrics of a short run."""
    return train("ppo", "jax:CartPole-v1", steps=8_192, eval_every=2_048).metrics


def ordering(steps: int = 100_000, seeds: int = 5) -> Finding:
    """The paper's three surrogates with the same settings, and no limit to the gradient's norm."""
    scaled: dict[str, list[np.ndarray]] = {name: [] for name in SURROGATES}
    for task in TASKS:
        returns = {name: last_returns(*chosen, task, steps, seeds) for name, chosen in SURROGATES.items()}
        low = random_returns(task).mean()
        high = max(each.max() for each in returns.values())
        for name, each in returns.items():
            scaled[name].append((each - low) / (high - low))
            print(
                f"  {task}, {name}: {each.mean():,.0f} ({', '.join(f'{x:,.0f}' for x in each)}), random {low:,.0f}"
            )
    scores = {name: np.mean(each, axis=0) for name, each in scaled.items()}  # [seeds] each
    means = {name: float(each.mean()) for name, each in scores.items()}
    claims = {
        f"clipping scores at least what the adaptive penalty does ({means['clipping']:.2f}, "
        f"{means['adaptive penalty']:.2f})": means["clipping"] >= means["adaptive penalty"],
        f"the adaptive penalty scores at least what neither does ({means['adaptive penalty']:.2f}, "
        f"{means['neither']:.2f})": means["adaptive penalty"] >= means["neither"],
    }
    said = ", ".join(
        "{} {:.2f} [{:.2f}, {:.2f}]".format(name, means[name], *interval(each))
        for name, each in scores.items()
    )
    return Finding(
        claims, f"score after {steps:,} steps of {', '.join(TASKS)}, {seeds} seeds, 95 % intervals: {said}"
    )


def last_returns(algorithm: str, config: dict[str, Any], task: str, steps: int, seeds: int) -> np.ndarray:
    """The mean return of the last training episodes of each seed [S]."""
    rest = {"lr_end": 0.0, "max_norm": 1e9, "data.steps": 2048}
    run = train(
        algorithm,
        task,
        seeds=seeds,
        steps=steps,
        preset=False,
        wrap=("normalize_obs", "normalize_reward"),
        config=rest | config,
    )
    total = np.zeros((seeds, 2))
    for line in run.metrics:
        if line["env_steps"] > (1 - LAST) * steps and line.get("episode/count"):
            total[line["seed"]] += np.array([line["episode/return"], 1.0]) * line["episode/count"]
    return total[:, 0] / total[:, 1]


if __name__ == "__main__":
    main({"F11": cases}, long={"F11": ordering})

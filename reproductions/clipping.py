"""PPO's clipped surrogate: the four cases of the advantage's sign, by hand, and the share that was clipped (F11).

With three actions and a fresh policy at the observation 0, all logits are 0, pi(a) = 1/3 and V = 0: the advantage of
a row that terminates is its reward. Where the surrogate is r A the gradient of the loss by the logits is
-r A (onehot(a) - pi), and where it is clipped it is 0. Lecture 3 prints min(r, clip(r)) A, which differs for A < 0.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from polyak import algorithms
from polyak.interface import Batch, Box, Discrete, OnPolicy, Spec
from reproductions.finding import Finding, main, train

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


if __name__ == "__main__":
    main({"F11": cases})

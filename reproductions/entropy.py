"""Entropy regularisation on a task with two best actions (F6).

One state, one step, four actions: two pay 1 in the mean, two pay 0, all with noise. Without the bonus beta H the
noise decides between the two best ones and the policy's entropy falls towards 0; with it both are kept, and the
entropy stays near log 2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Spec
from polyak.pytree import pytree
from reproductions.finding import Finding, main, train

SEEDS, BETA = 5, 0.1


@pytree
class TwoBest(Environment):
    """Actions 0 and 1 pay 1, actions 2 and 3 nothing, plus noise; every episode is one step."""

    noise: float = 1.0  # standard deviation of the reward

    @property
    def spec(self) -> Spec:
        """Nothing to see, four actions."""
        return Spec(Box((1,), 0.0, 1.0), Discrete(4), time_limit=1)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """The only state."""
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """Pay, and end."""
        reward = jnp.where(action < 2, 1.0, 0.0) + self.noise * jax.random.normal(key)
        return Step(state, state, reward, jnp.array(True), jnp.array(False))


def keeps_both() -> Finding:
    """The same seeds of PPO with beta = 0 and with beta > 0."""
    without, with_bonus = probabilities(0.0), probabilities(BETA)
    entropy_without, entropy_with = entropy(without), entropy(with_bonus)
    claims = {
        "beta = 0: every seed's entropy is below log(2) / 2": bool((entropy_without < np.log(2) / 2).all()),
        "beta = 0: every seed gives one of the best actions less than 0.1": bool(
            (without[:, :2].min(1) < 0.1).all()
        ),
        f"beta = {BETA}: every seed's entropy is above log(2) / 2": bool(
            (entropy_with > np.log(2) / 2).all()
        ),
        f"beta = {BETA}: every seed gives both best actions more than 0.25": bool(
            (with_bonus[:, :2] > 0.25).all()
        ),
        "both find the best actions: together more than 0.8": bool(
            min(without[:, :2].sum(1).min(), with_bonus[:, :2].sum(1).min()) > 0.8
        ),
    }
    return Finding(
        claims,
        f"entropy at most {entropy_without.max():.3f} with beta = 0, at least {entropy_with.min():.3f} "
        f"with beta = {BETA}; log 2 is 0.693; {SEEDS} seeds",
    )


def probabilities(beta: float, samples: int = 10_000) -> np.ndarray:
    """How often each seed's policy takes each action, [S, 4]."""
    config = {"entropy": beta, "lr": 0.01, "minibatch": 128, "epochs": 4, "hidden": (16,), "data.steps": 16}
    run = train("ppo", "reproductions.entropy:TwoBest", steps=80_000, seeds=SEEDS, num_envs=8, config=config)
    obs = np.zeros((samples, 1), np.float32)
    taken = [run.policy(seed)(obs, explore=True)[0] for seed in range(SEEDS)]
    shares = np.array([np.bincount(np.asarray(actions), minlength=4) / samples for actions in taken])
    for seed, share in enumerate(shares):
        print(f"  beta {beta}, seed {seed}: {np.round(share, 3)}")
    return shares


def entropy(shares: np.ndarray) -> np.ndarray:
    """In nats, [S]."""
    return -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1)


if __name__ == "__main__":
    main({"F6": keeps_both})

"""Clipping rewards: learning sees the clipped ones, a report the raw ones (C6, without batch norm).

CartPole's reward of 1, multiplied by 1 or by 1000, is 1 after clipping: everything that is learned has the same bits.
"""

import hashlib

import jax
import numpy as np

import polyak
from polyak.envs.environment import Environment, Step
from polyak.envs.find import find
from polyak.interface import Array, Spec, Tree
from polyak.pytree import pytree
from reproductions.finding import Finding, main, train

CARTPOLE = find("jax:CartPole-v1")
FACTOR = 1000.0


@pytree
class Scaled(Environment):
    """CartPole whose rewards are multiplied."""

    factor: float = 1.0

    @property
    def spec(self) -> Spec:
        """CartPole's."""
        return CARTPOLE.spec

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """CartPole's."""
        return CARTPOLE.reset(key)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """CartPole's, its reward multiplied."""
        stepped = CARTPOLE.step(state, action, key)
        return stepped._replace(reward=self.factor * stepped.reward)


SETTINGS = {
    "dqn": {"data.warmup": 200, "data.capacity": 2_000, "data.n_step": 3, "period": 50, "hidden": (32,)},
    "ppo": {"data.steps": 128, "minibatch": 64, "epochs": 4, "hidden": (32,)},
}


def clipped_and_raw() -> Finding:
    """Each algorithm on rewards x1 and x1000, with clipping and without."""
    claims = {}
    for algorithm in SETTINGS:
        for clip in (1.0, None):
            small, large = (learn(algorithm, factor, clip) for factor in (1.0, FACTOR))
            same = digest(small) == digest(large)
            name = f"{algorithm}, {'clipped' if clip else 'not clipped'}"
            claims[f"{name}: what is learned is {'the same' if clip else 'not the same'} bits"] = (
                same == bool(clip)
            )
            if clip:
                raw = np.allclose(reported(large), FACTOR * np.array(reported(small)), rtol=1e-6, atol=0)
                claims[f"{name}: reported returns are {FACTOR:.0f} times as large"] = raw
                print(
                    f"  {digest(small)[:16]}, mean returns {reported(small)[-1]:.1f} and {reported(large)[-1]:.1f}"
                )
    held = sum(claims.values())
    return Finding(
        claims, f"{held} of {len(claims)} comparisons as claimed, rewards x1 and x{FACTOR:.0f}, dqn and ppo"
    )


def learn(algorithm: str, factor: float, clip: float | None) -> polyak.Run:
    """A short run."""
    return train(
        algorithm,
        "reproductions.rewards:Scaled",
        steps=2_048,
        env_fields={"factor": factor},
        config={**SETTINGS[algorithm], "data.clip": "None" if clip is None else clip},
    )


def digest(run: polyak.Run) -> str:
    """One SHA-256 over every array of the learned state."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(run.state()):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def reported(run: polyak.Run) -> list[float]:
    """The mean returns of training and of evaluation, as logged."""
    return [line[name] for line in run.metrics for name in ("episode/return", "eval/return") if name in line]


if __name__ == "__main__":
    main({"C6": clipped_and_raw})

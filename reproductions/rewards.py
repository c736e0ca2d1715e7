"""Rewards and inputs of one scale: clipped rewards, and batch normalisation (C6).

CartPole's reward of 1, multiplied by 1 or by 1000, is 1 after clipping: everything that is learned has the same bits.
A report has the raw ones. The running statistics of `network = "batch_norm"` are the moving averages of what each layer
says of each batch, made here in float64 from the weights that an update began with.
"""

import hashlib

import jax
import numpy as np

import polyak
from polyak import algorithms
from polyak.envs.environment import Environment, Step
from polyak.envs.find import find
from polyak.interface import Array, Batch, Box, Discrete, Spec, Tree
from polyak.pytree import pytree
from reproductions.finding import Finding, main, train

CARTPOLE = find("jax:CartPole-v1")
FACTOR, UPDATES = 1000.0, 20


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
    held, compared = sum(claims.values()), len(claims)
    errors = {name: statistics_error(name) for name in ("dqn", "a2c")}
    for name, error in errors.items():
        claims[f"{name}: running statistics are those of {UPDATES} batches by hand (found {error:.1e})"] = (
            error < 1e-5
        )
    return Finding(
        claims,
        f"{held} of {compared} comparisons as claimed, rewards x1 and x{FACTOR:.0f}, dqn and ppo; running statistics "
        f"within {max(errors.values()):.1e} of those by hand, DQN and A2C",
    )


def statistics_error(name: str) -> float:
    """The largest error of the running statistics of the acting network over some updates, relative to the largest."""
    algorithm, spec = algorithms.find(name), Spec(Box((4,)), Discrete(2), num_envs=8)
    activation = {"dqn": lambda x: np.maximum(x, 0), "a2c": np.tanh}[name]
    cfg = algorithm.Config(network="batch_norm", hidden=(32, 16), lr=0.01)
    state, largest = algorithm.init(cfg, spec, jax.random.key(0)), 0.0
    network = {"dqn": lambda state: state.q, "a2c": lambda state: state.policy.net}[name]
    running = [(np.zeros(size), np.ones(size)) for size in cfg.hidden]
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args).state)
    for number in range(UPDATES):
        rows, before = random_batch(number), jax.tree.map(np.float64, network(state))
        x = np.asarray(rows.obs, float).reshape(-1, 4)
        for place, (layer, norm) in enumerate(zip(before.layers, before.norms, strict=False)):
            x = x @ layer.weight + layer.bias
            mean, var = x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).mean(axis=0)
            running[place] = tuple(
                0.99 * old + 0.01 * new for old, new in zip(running[place], (mean, var), strict=True)
            )
            x = activation(norm.gain * (x - mean) / np.sqrt(var + 1e-5) + norm.offset)
        state = update(state, rows, jax.random.key(number))
        for wanted, norm in zip(running, network(state).norms, strict=True):
            for found, value in zip((norm.mean.value, norm.var.value), wanted, strict=True):
                largest = max(largest, float(np.abs(found - value).max() / np.abs(value).max()))
    return largest


def random_batch(seed: int) -> Batch:
    """A rollout [16, 8, ...] with observations of several scales."""
    random = np.random.default_rng(seed)
    obs, next_obs = (
        random.normal(1.0, (0.1, 1.0, 3.0, 10.0), size=(16, 8, 4)).astype(np.float32) for _ in range(2)
    )
    action, reward = random.integers(2, size=(16, 8)), random.normal(size=(16, 8)).astype(np.float32)
    never, one = np.zeros((16, 8), bool), np.ones((16, 8), np.float32)
    return Batch(obs, action, reward, next_obs, never, never, (), 0.99 * one, one)


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

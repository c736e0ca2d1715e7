"""The target network of DQN: when it moves, how far, and what happens without it (C5).

On CartPole every reward is 1, so no return is larger than 1 / (1 - gamma) = 100. Bootstrapping from the network that
is being changed chases its own tail: |Q| passes that bound and does not come back.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak import algorithms
from polyak.interface import Batch, Box, Discrete, Spec
from reproductions.finding import Finding, main, train

SEEDS, STEPS, GAMMA = 3, 20_000, 0.99
BOUND = 1 / (1 - GAMMA)
KINDS = {
    "polyak": {"tau": 0.01, "period": 1},
    "copies": {"tau": 1.0, "period": 100},
    "none": {"target": False},
}
dqn = algorithms.find("dqn")


def moves_and_matters() -> Finding:
    """Both switches update by update, then the largest |Q| of the same seeds with either target and without."""
    claims = switches()
    largest = {name: largest_q(settings) for name, settings in KINDS.items()}
    for name in ("polyak", "copies"):
        claims[f"{name}: no seed's mean |Q| passes {BOUND:.0f}"] = bool((largest[name] <= BOUND).all())
    claims[f"none: every seed's mean |Q| passes ten times {BOUND:.0f}"] = bool(
        (largest["none"] > 10 * BOUND).all()
    )
    shown = ", ".join(
        f"{value.max() if name != 'none' else value.min():.3g} ({name})" for name, value in largest.items()
    )
    return Finding(claims, f"mean |Q| on CartPole, where {BOUND:.0f} is the most: {shown}; {SEEDS} seeds")


def largest_q(settings: dict) -> np.ndarray:
    """The largest mean |Q| of a mini-batch that each seed logs, [S]."""
    config = {"gamma": GAMMA, "data.n_step": 1, **settings}
    run = train("dqn", "jax:CartPole-v1", steps=STEPS, seeds=SEEDS, config=config)
    largest = np.zeros(SEEDS)
    for line in run.metrics:
        if "update/q" in line:  # null where it was not finite
            q = np.inf if line["update/q"] is None else abs(line["update/q"])
            largest[line["seed"]] = max(largest[line["seed"]], q)
    print("  largest mean |Q|: " + ", ".join(f"{q:.3g}" for q in largest))
    return largest


def switches() -> dict[str, bool]:
    """Follow the target through twelve updates with each setting."""
    claims = {}
    for tau, period in ((1.0, 1), (1.0, 3), (0.1, 1), (0.5, 4)):
        moved, error = follow(tau, period)
        wanted = [count for count in range(1, 13) if count % period == 0]
        claims[f"tau = {tau}, period = {period}: the target moves at updates {wanted}"] = moved == wanted
        exact = error == 0 if tau == 1 else error < 1e-6
        claims[f"tau = {tau}, period = {period}: to tau Q + (1 - tau) target (error {error:.1e})"] = exact
    return claims


def follow(tau: float, period: int) -> tuple[list[int], float]:
    """The updates at which the target changed, and the largest difference from where it should be."""
    spec = Spec(Box((4,)), Discrete(2))
    cfg = dqn.Config(tau=tau, period=period, hidden=(8,), lr=0.1)
    state = dqn.init(cfg, spec, jax.random.key(0))
    update = jax.jit(lambda state, batch: dqn.update(cfg, spec, state, batch, jax.random.key(0)).state)
    moved, error = [], 0.0
    for count in range(1, 13):
        before = flat(state.q_target)
        state = update(state, random_batch(count))
        online, target = flat(state.q), flat(state.q_target)
        if (before != target).any():
            moved.append(count)
        wanted = tau * online + (1 - tau) * before if count % period == 0 else before
        error = float(np.maximum(error, np.abs(target - wanted).max()))
    return moved, error


def flat(network: Any) -> np.ndarray:
    """All of its weights, in float64."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(network)])


def random_batch(seed: int, size: int = 16) -> Batch:
    """A mini-batch of noise."""
    random = np.random.default_rng(seed)
    number = lambda *shape: jnp.asarray(random.normal(size=(size, *shape)), jnp.float32)  # noqa: E731
    never, ones = jnp.zeros(size, bool), jnp.ones(size)
    action = jnp.asarray(random.integers(0, 2, size), jnp.int32)
    return Batch(number(4), action, number(), number(4), never, never, (), discount=GAMMA * ones, weight=ones)


if __name__ == "__main__":
    main({"C5": moves_and_matters})

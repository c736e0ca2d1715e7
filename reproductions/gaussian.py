"""The Gaussian policies of PPO beside SciPy's normal distribution (A4, A5).

PPO's `sigma` chooses: one number for all actions (A4), or one for each: fixed, a parameter, or sigma(s) (A5). Weights
are drawn at random and widely, so that they differ. The probability comes from `act`, the entropy from what `update`
logs; the reference is made in float64 from the network's outputs.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from polyak import algorithms
from polyak.interface import Batch, Box, OnPolicy, Spec
from reproductions.finding import Finding, main

SIZES, DRAWS, ROWS, TOLERANCE = (1, 2, 6), 10, 64, 1e-5
MODES = {"A4": ("isotropic",), "A5": ("fixed", "parameter", "state")}  # of sigma, by row
ppo = algorithms.find("ppo")


class Errors(NamedTuple):
    """The largest found: two relative errors, and by how much log sigma varies over states."""

    log_prob: float
    entropy: float
    variation: float


def errors_of(row: str) -> tuple[dict[str, Errors], dict[str, bool], str]:
    """What the kinds of sigma of a row have against SciPy, over generated weights, observations and actions."""
    found = {
        mode: Errors(*np.max([compare(mode, size, draw) for size in SIZES for draw in range(DRAWS)], axis=0))
        for mode in MODES[row]
    }
    claims = {}
    for mode, errors in found.items():
        for name in ("log_prob", "entropy"):
            error = getattr(errors, name)
            claims[f"sigma = {mode}: {name} is SciPy's within {TOLERANCE:g} (found {error:.1e})"] = (
                error < TOLERANCE
            )
    largest = max(max(errors.log_prob, errors.entropy) for errors in found.values())
    cases = len(found) * len(SIZES) * DRAWS * ROWS
    return found, claims, f"largest relative error {largest:.1e} over {cases:,} generated cases"


def diagonal() -> Finding:
    """Log-probability and entropy where sigma is fixed, a parameter for each action, or a function of the state."""
    found, claims, figure = errors_of("A5")
    claims["sigma = fixed and parameter are the same in every state"] = (
        found["fixed"].variation == found["parameter"].variation == 0
    )
    claims["sigma = state differs between states"] = found["state"].variation > 0.1
    return Finding(claims, figure)


def isotropic() -> Finding:
    """Log-probability and entropy where one sigma serves all actions."""
    _, claims, figure = errors_of("A4")
    sizes = {
        size: policy("isotropic", size)[2].init(jax.random.key(0)).policy.log_sigma.size for size in SIZES
    }
    claims["it has one parameter, however many actions there are"] = set(sizes.values()) == {1}
    return Finding(claims, figure)


def compare(mode: str, num_actions: int, seed: int) -> Errors:
    """The errors of one draw of weights, over a batch of observations."""
    cfg, spec, programs = policy(mode, num_actions)
    random = np.random.default_rng(seed)
    state = programs.init(jax.random.key(seed))
    drawn = lambda x: jnp.asarray(random.normal(0.0, 0.7, x.shape), jnp.float32)  # noqa: E731
    state = state.replace(policy=jax.tree.map(drawn, state.policy))
    obs = jnp.asarray(random.normal(size=(ROWS, 3)), jnp.float32)

    actor = ppo.actor(state)
    action, _, extras = ppo.act(cfg, spec, actor, (), obs, jax.random.key(seed), True)
    mean, log_sigma = mean_and_log_sigma(mode, actor, obs)
    pi = stats.norm(mean, np.exp(log_sigma))
    log_prob = pi.logpdf(np.asarray(action, np.float64)).sum(-1)

    zero, never = jnp.zeros(ROWS), jnp.zeros(ROWS, bool)
    batch = Batch(obs, action, zero, obs, never, never, extras, discount=zero, weight=zero + 1)
    batch = jax.tree.map(lambda x: x[None], batch)  # T = 1
    metrics = programs.update(state, batch, jax.random.key(0)).metrics
    return Errors(
        relative(extras["log_prob"], log_prob),
        relative(metrics["entropy"], pi.entropy().sum(-1).mean()),
        float(np.ptp(log_sigma, axis=0).max()),
    )


class Programs(NamedTuple):
    """Compiled once for each kind of policy."""

    init: Callable
    update: Callable


@functools.cache
def policy(mode: str, num_actions: int) -> tuple[Any, Spec, Programs]:
    """PPO's settings for this kind of policy; nothing is learned, so that the entropy is that of the weights."""
    spec = Spec(Box((3,)), Box((num_actions,)), num_envs=ROWS)
    cfg = ppo.Config(sigma=mode, lr=0.0, epochs=1, minibatch=ROWS, hidden=(8,), data=OnPolicy(steps=1))
    return cfg, spec, Programs(jax.jit(partial(ppo.init, cfg, spec)), jax.jit(partial(ppo.update, cfg, spec)))


def mean_and_log_sigma(mode: str, actor: Any, obs: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Both [N, A] in float64, from the network's outputs."""
    mean, log_sigma = np.asarray(actor.net(obs), np.float64), np.asarray(actor.log_sigma, np.float64)
    if mode == "state":
        mean, offset = np.split(mean, 2, axis=-1)
        log_sigma = np.clip(log_sigma + offset, -5.0, 2.0)
    return mean, np.broadcast_to(log_sigma, mean.shape)


def relative(found: Any, wanted: np.ndarray) -> float:
    """The largest error, relative where the number itself is larger than one."""
    error = np.abs(np.asarray(found, np.float64) - wanted) / np.maximum(1.0, np.abs(wanted))
    return float(error.max())


if __name__ == "__main__":
    main({"A4": isotropic, "A5": diagonal})

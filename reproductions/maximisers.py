"""Maximisers of a critic over actions: the cross-entropy method (C14) and gradient ascent (C15).

Both search the critic that QT-Opt trained with them on Pendulum, beside a dense grid, and are timed. The 1 % is of
the critic's range over the grid, on average over states that spread over all that Pendulum can give.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import qt_opt
from polyak.interface import Box, Spec
from reproductions.finding import Finding, main
from reproductions.pendulum import observations, solved

GRADIENT = {"maximizer": "gradient", "samples": 8, "iterations": 5, "ascent": 0.3}
SPEC = Spec(Box((3,)), Box((1,), -2.0, 2.0))
GRID, REPEATS = 2001, 50


def gap_and_time(run: polyak.Run, **settings: Any) -> tuple[float, float]:
    """The mean share of the critic's range that a search leaves, and the microseconds of one decision."""
    cfg = dataclasses.replace(run.policy(0).cfg, **settings)
    critics, obs = jax.tree.map(lambda x: x[0], run.state().critics), observations()
    grid = jnp.broadcast_to(jnp.linspace(-1, 1, GRID)[:, None, None], (GRID, len(obs), 1))
    values = critics.first((jnp.broadcast_to(obs, (GRID, *obs.shape)), grid))[..., 0]

    @jax.jit
    def search(obs: jax.Array, key: jax.Array) -> jax.Array:
        return qt_opt.best_action(cfg, SPEC, critics, obs, key)

    found = critics.first((obs, search(obs, jax.random.key(0))))[..., 0]
    gap = (values.max(axis=0) - found) / jnp.maximum(jnp.ptp(values, axis=0), 1e-6)
    search(obs[:1], jax.random.key(0)).block_until_ready()
    best = np.inf
    for number in range(REPEATS):
        key = jax.random.key(number)
        began = time.perf_counter()
        search(obs[:1], key).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return float(gap.mean()), 1e6 * best


def cross_entropy() -> Finding:
    """QT-Opt's own search, with the paper's 64 samples, 6 elites and 2 iterations."""
    run, claims, figure = solved("qt_opt")
    gap, seconds = gap_and_time(run)
    claims[f"it leaves less than 1 % of the critic's range to a dense grid (found {gap:.2%})"] = gap < 0.01
    return Finding(claims, f"{figure}; gap to a grid {gap:.2%}, {seconds:.0f} us a decision")


def gradient() -> Finding:
    """The same by gradient ascent; to come as near to the grid it takes longer than the cross-entropy method."""
    run, claims, figure = solved("qt_opt", **GRADIENT)
    near = {"maximizer": "gradient", "samples": 16, "iterations": 20, "ascent": 0.3}
    gap, slow = gap_and_time(run, **near)
    other, fast = gap_and_time(run, maximizer="cross_entropy", samples=64, iterations=2)
    claims[f"it leaves less than 1 % of the critic's range to a dense grid (found {gap:.2%})"] = gap < 0.01
    claims[f"it is slower than the cross-entropy method ({slow:.0f} beside {fast:.0f} us a decision)"] = (
        slow > fast
    )
    return Finding(
        claims,
        f"{figure}; gap {gap:.2%} in {slow:.0f} us a decision, cross-entropy {other:.2%} in {fast:.0f} us",
    )


if __name__ == "__main__":
    main({"C14": cross_entropy, "C15": gradient})

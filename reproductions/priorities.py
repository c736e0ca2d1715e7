"""Prioritised replay (C12): rows are drawn as often as P says, and importance weights make estimates unbiased."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from polyak.interface import Batch, Replay, Transition
from polyak.parts.replay import index
from polyak.parts.replay.ring import Ring
from reproductions.finding import Finding, main

NUM_ENVS, STEPS, SLOTS = 4, 8, 256
ALPHA, BATCH, BATCHES = 0.6, 32, 20_000


class Filled(NamedTuple):
    """A ring that has wrapped, and what its priorities should be."""

    ring: Ring
    mass: np.ndarray  # [C * N] p^alpha by a plain list
    value: np.ndarray  # [C * N] the rewards, whose mean is estimated


def filled(data: Replay) -> Filled:
    """Write rollouts and write back errors in turn, as training does, beside a plain array of priorities."""
    rng = np.random.default_rng(0)

    def rollout(number: int) -> Transition:
        reward = rng.normal(size=(STEPS, NUM_ENVS)).astype(np.float32)
        where = (number * STEPS * NUM_ENVS + np.arange(STEPS * NUM_ENVS)).reshape(STEPS, NUM_ENVS)
        ends = rng.random((2, STEPS, NUM_ENVS)) < 0.1
        where = where.astype(np.int32)
        return Transition(where, where, reward, where, ends[0], ends[1] & ~ends[0])

    ring = index.empty(jax.tree.map(lambda x: x[0], rollout(0)), SLOTS, data)
    add = jax.jit(index.add, static_argnames="data")
    draw = jax.jit(index.by_priority, static_argnames="data")
    write_back = jax.jit(index.write_back, static_argnames="data")
    priority, largest = np.zeros((SLOTS, NUM_ENVS)), 1.0
    for number in range(2 * SLOTS // STEPS + 3):
        ring = add(ring, rollout(number), data)
        at = number * STEPS % SLOTS
        priority[at : at + STEPS] = largest
        drawn = draw(ring, ring.index.priorities, jax.random.key(number), data)
        # the error is larger where the reward is: draws are far from uniform, and the plain mean is biased
        error = np.abs(np.asarray(ring.rows.reward).ravel()[drawn.leaf] + 1) + 0.01 * rng.random(BATCH)
        ring = ring.replace(index=write_back(ring.index, drawn.leaf, jnp.asarray(error, jnp.float32), data))
        best: dict[int, float] = {}
        for leaf, each in zip(np.asarray(drawn.leaf).tolist(), error.astype(np.float32), strict=True):
            best[leaf] = max(best.get(leaf, 0.0), float(each) + 1e-6)
        for leaf, each in best.items():
            priority.flat[leaf] = each
        largest = max(largest, *best.values())
    return Filled(ring, priority.ravel() ** ALPHA, np.asarray(ring.rows.reward, float).ravel())


def frequencies_and_weights() -> Finding:
    """Chi-square of what is drawn; and the weighted mean of a batch, many times, beside the true mean."""
    data = Replay(
        capacity=SLOTS * NUM_ENVS, batch_size=BATCH, steps=STEPS, priority=ALPHA, correction=1.0, warmup=0
    )
    ring, mass, value = filled(data)
    leaves = np.asarray(ring.index.priorities.levels[0], float)[: mass.size]
    wrong = np.abs(leaves - mass).max() / mass.max()

    @jax.jit
    def batches(keys: jax.Array) -> tuple[Batch, jax.Array]:
        return jax.vmap(lambda key: index.sample(ring, ring.index, key, data, 0.9))(keys)

    batch, leaf = batches(jax.random.split(jax.random.key(1), BATCHES))
    leaf, weight, reward = np.asarray(leaf), np.asarray(batch.weight, float), np.asarray(batch.reward, float)
    # rows of one batch are stratified: one of each batch, a different one each time, is an independent draw
    one = leaf[np.arange(BATCHES), np.random.default_rng(2).integers(BATCH, size=BATCHES)]
    share = mass / mass.sum()
    drawn_alone = stats.chisquare(np.bincount(one, minlength=mass.size), share * BATCHES).pvalue
    counts = np.bincount(leaf.ravel(), minlength=mass.size)
    error = np.abs(counts / counts.sum() - share).max() / share.max()

    # with beta = 1, w is 1 / (N P) up to one factor for the whole batch, which the largest weight tells
    scale = 1 / (mass.size * share[leaf]).min(axis=1, keepdims=True)
    weighted, plain = (weight * scale * reward).mean(axis=1), reward.mean(axis=1)
    off = {
        name: (each.mean() - value.mean()) / (each.std() / BATCHES**0.5)
        for name, each in (("weighted", weighted), ("plain", plain))
    }
    ratio = np.abs(weight * scale * mass.size * share[leaf] - 1).max()
    claims = {
        f"the tree holds what a list of priorities says (worst {wrong:.1e} of the largest)": bool(
            wrong < 1e-6
        ),
        f"rows are drawn as often as P says (chi-square p = {drawn_alone:.3f})": bool(
            1e-4 < drawn_alone < 1 - 1e-4
        ),
        f"every weight is 1 / (N P) over the batch's largest (worst {ratio:.1e})": bool(ratio < 1e-4),
        f"the weighted mean is unbiased ({off['weighted']:+.1f} standard errors)": bool(
            abs(off["weighted"]) < 4
        ),
        f"the plain mean is biased ({off['plain']:+.0f} standard errors)": bool(abs(off["plain"]) > 20),
    }
    return Finding(
        claims,
        f"p = {drawn_alone:.3f} over {mass.size} rows and {BATCHES:,} draws, largest error of a frequency "
        f"{error:.1%} of the largest P; weighted mean {weighted.mean():+.4f}, plain {plain.mean():+.4f}, true "
        f"{value.mean():+.4f}",
    )


if __name__ == "__main__":
    main({"C12": frequencies_and_weights})

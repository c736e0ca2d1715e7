"""Priorities of the rows of a ring in an 8-ary sum tree, beside the ring (Schaul et al. 2016, arXiv:1511.05952).

Leaf `slot * N + env` holds p^alpha of the window that begins at that row, in the ring's own memory order, and 0
where none may begin; every other node holds the sum of its eight children, made again from them wherever one of
them changes, so that nothing drifts.
"""

import jax
import jax.numpy as jnp

from polyak.interface import Array
from polyak.pytree import Counter, Record, pytree

ARITY = 8  # children of a node
FRESH = 4  # levels that one random number is good for: float32 has 24 bits, eight children take 3 of them
SMALLEST = 1e-6  # epsilon, added to every priority so that no row is lost for ever      sec. 3.3


@pytree
class Priorities(Record):
    """The tree, from the leaves up to at most eight nodes; each level is filled up to eights with zeros."""

    levels: tuple[Array, ...]  # p^alpha, and sums of it
    largest: Array  # max_i p_i so far, which new rows enter at
    updates: Counter  # how often priorities were written back: what beta is annealed over


def sizes(count: int) -> list[int]:
    """The lengths of the levels of a tree with so many leaves."""
    lengths = [-(-count // ARITY) * ARITY]
    while lengths[-1] > ARITY:
        lengths.append(-(-lengths[-1] // ARITY**2) * ARITY)
    return lengths


def no_priorities(count: int) -> Priorities:
    """A tree with so many leaves, none of which is drawn."""
    levels = tuple(jnp.zeros(length, jnp.float32) for length in sizes(count))
    return Priorities(levels, jnp.ones((), jnp.float32), Counter(jnp.zeros((), jnp.int32)))


def total(priorities: Priorities) -> Array:
    """sum_k p_k^alpha."""
    return priorities.levels[-1].sum()


def put(levels: tuple[Array, ...], leaf: Array, mass: Array) -> tuple[Array, ...]:
    """The tree with these leaves [K] at `mass` [K]; a leaf beyond the last is left out.

    One that stands there twice gets the larger mass: two draws of one row have two errors.
    """
    leaves = levels[0].at[leaf].set(0.0, mode="drop").at[leaf].max(mass, mode="drop")
    return summed((leaves, *levels[1:]), leaf)


def summed(levels: tuple[Array, ...], leaf: Array) -> tuple[Array, ...]:
    """The tree with the sums above these leaves [K] made again."""
    made = [levels[0]]
    for above in levels[1:]:
        leaf = leaf // ARITY
        children = made[-1].reshape(-1, ARITY).at[leaf].get(mode="fill", fill_value=0.0)
        made.append(above.at[leaf].set(children.sum(axis=-1), mode="drop"))
    return tuple(made)


def enter(priorities: Priorities, alpha: float, clock: Array, rows: tuple[int, int, int, int]) -> Priorities:
    """New rows enter at the largest priority so far.

    clock  rows of time that the ring has now, the new ones included
    rows   T new rows of time, N environments, C slots, and L, the length of what is drawn: a sequence may begin at
           a row once its last one is written, and the rows that are overwritten begin none
    """
    steps, num_envs, slots, length = rows
    time = clock - steps - (length - 1) + jnp.arange(steps + length - 1)
    mass = jnp.where(time + length <= clock, priorities.largest**alpha, 0.0)
    leaf = time[:, None] % slots * num_envs + jnp.arange(num_envs)
    held = (time >= 0) & (time >= clock - slots)
    leaf = jnp.where(held[:, None], leaf, priorities.levels[0].size)
    mass = jnp.broadcast_to(mass[:, None], leaf.shape)
    return priorities.replace(levels=put(priorities.levels, leaf.ravel(), mass.ravel()))


def leave(priorities: Priorities, leaf: Array) -> Priorities:
    """Rows [K] that may not be drawn any more; a leaf beyond the last is left out."""
    return priorities.replace(levels=put(priorities.levels, leaf, jnp.zeros(leaf.shape)))


def padded(count: int) -> int:
    """The length of the lowest level of a tree with so many leaves, which is beyond all of them."""
    return sizes(count)[0]


def write_back(priorities: Priorities, leaf: Array, priority: Array, alpha: float) -> Priorities:
    """The drawn leaves [B] with their new priorities."""
    # p_j <- |delta_j|      Alg. 1, line 12; epsilon of sec. 3.3
    priority = jnp.abs(priority) + SMALLEST
    return Priorities(
        levels=put(priorities.levels, leaf, priority**alpha),
        largest=jnp.maximum(priorities.largest, priority.max()),
        updates=priorities.updates.plus(1),
    )


def draw(priorities: Priorities, key: Array, count: int) -> tuple[Array, Array]:
    """Leaves [B] with P(j) = p_j^alpha / sum_k p_k^alpha (eq. 1), and P(j) [B].

    [0, 1) is cut into B ranges, of each of which one number is drawn (appendix B.2.1).
    """
    node, left = jnp.zeros(count, jnp.int32), jnp.zeros(count)
    for depth, level in enumerate(reversed(priorities.levels)):
        children = level.reshape(-1, ARITY)[node]
        below = jnp.cumsum(children, axis=-1)
        if depth % FRESH == 0:
            share = jax.random.uniform(jax.random.fold_in(key, depth), (count,))
            share = (jnp.arange(count) + share) / count if depth == 0 else share
            left = share * below[:, -1]
        # the first child whose range ends beyond the number; never, by rounding, one that has none
        child = (left[:, None] >= below).sum(axis=-1)
        last = ARITY - 1 - jnp.argmax(children[:, ::-1] > 0, axis=-1)
        child = jnp.minimum(child, last).astype(jnp.int32)
        before = jnp.concatenate([jnp.zeros((count, 1)), below], axis=-1)
        left = left - jnp.take_along_axis(before, child[:, None], axis=-1)[:, 0]
        node = node * ARITY + child
    return node, priorities.levels[0][node] / total(priorities)


def importance(probability: Array, count: Array, beta: Array) -> Array:
    """w_j = (N P(j))^-beta for N rows that may be drawn (sec. 3.4)."""
    return (count * probability) ** -beta


def beta_of(correction: float | tuple[float, float, int], updates: Counter) -> Array:
    """beta: one number, or on the line from a first to a second over so many updates."""
    if not isinstance(correction, tuple):
        return jnp.float32(correction)
    start, end, duration = correction
    share = jnp.clip(updates.value.astype(jnp.float32) / max(duration, 1), 0.0, 1.0)
    return jnp.float32(start) + share * jnp.float32(end - start)

"""Replay that is not uniform: what is kept beside the rows of a ring, and how windows are drawn by it."""

from typing import NamedTuple

import jax.numpy as jnp

from polyak.interface import Array, Batch, Replay, Transition
from polyak.parts.replay import priority, ring
from polyak.parts.replay.draw import Windows
from polyak.parts.replay.priority import Priorities
from polyak.parts.replay.ring import Ring
from polyak.parts.replay.window import Seen, as_it_is, n_step_batch
from polyak.pytree import Record, pytree


@pytree
class Index(Record):
    """What `Replay` asks to be kept beside the rows."""

    priorities: Priorities | None  # of the windows that begin at each row


def empty(row: Transition, count: int, data: Replay) -> Ring:
    """A ring of `count` slots with its index, () where windows are drawn uniformly."""
    made = ring.empty(row, count)
    if not data.indexed:
        return made
    return made.replace(index=Index(priority.no_priorities(made.rows.reward.size)))


def planned_bytes(row: Transition, count: int, data: Replay) -> int:
    """Bytes that the index of `empty(row, count, data)` will take."""
    return 4 * sum(priority.sizes(count * row.reward.shape[0])) if data.indexed else 0


def add(before: Ring, rollout: Transition, data: Replay) -> Ring:
    """Write a rollout [T, N, ...] over the oldest rows, and index it."""
    after, (steps, num_envs) = ring.add(before, rollout), rollout.reward.shape
    shape = (steps, num_envs, before.slots, data.length)
    clock = before.clock.value + steps
    return after.replace(index=Index(priority.enter(before.index.priorities, data.priority, clock, shape)))


class Drawn(NamedTuple):
    """Windows, and what was known of them."""

    windows: Windows
    leaf: Array  # [B] where their priorities stand
    weight: Array  # [B], or [B, 1] for sequences: importance weights, of which the largest is 1


def by_priority(ring: Ring, priorities: Priorities, key: Array, data: Replay) -> Drawn:
    """Draw windows by their priorities, and weigh them against it (Schaul et al. 2016, Algorithm 1)."""
    leaf, probability = priority.draw(priorities, key, data.batch_size)
    num_envs = ring.rows.reward.shape[1]
    newest = ring.clock.value - 1
    time, env = newest - (newest - leaf // num_envs) % ring.slots, leaf % num_envs
    count = (jnp.minimum(ring.clock.value, ring.slots) - data.length + 1) * num_envs

    # w_j = (N P(j))^-beta / max_i w_i      Alg. 1, line 10
    beta = priority.beta_of(data.correction, priorities.updates)
    weight = priority.importance(probability, count, beta)
    weight = weight / weight.max()
    if data.length > 1:
        time = time[:, None] + jnp.arange(data.length)
        env, weight = jnp.broadcast_to(env[:, None], time.shape), weight[:, None]
    return Drawn(Windows(time, env), leaf, weight)


def sample(
    ring: Ring, index: Index, key: Array, data: Replay, gamma: Array, seen: Seen = as_it_is
) -> tuple[Batch, Array]:
    """A batch as `data` says, with importance weights; and the leaves [B] that priorities are written back to.

    index  the newest, whose priorities may have changed since the ring's own
    """
    windows, leaf, weight = by_priority(ring, index.priorities, key, data)
    batch = n_step_batch(ring, windows, gamma, data.n_step, data.clip, seen)
    return batch._replace(weight=jnp.broadcast_to(weight, batch.weight.shape)), leaf


def write_back(index: Index, leaf: Array, errors: Array, data: Replay) -> Index:
    """The index with the priorities of the windows that an update has seen."""
    return index.replace(priorities=priority.write_back(index.priorities, leaf, errors, data.priority))

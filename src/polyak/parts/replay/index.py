"""Replay that is not uniform: what is kept beside the rows of a ring, and how windows are drawn by it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polyak.interface import Array, Batch, Goal, Replay, Transition
from polyak.parts.replay import episodes, frames, priority, ring
from polyak.parts.replay.draw import Windows, uniform
from polyak.parts.replay.hindsight import relabelled_batch
from polyak.parts.replay.priority import Priorities
from polyak.parts.replay.ring import Ring
from polyak.parts.replay.window import Seen, as_it_is, n_step_batch
from polyak.pytree import Record, pytree


@pytree
class Index(Record):
    """What `Replay` asks to be kept beside the rows."""

    priorities: Any  # `Priorities` of the windows that begin at each row, or None
    episodes: Any  # `Episodes` that the rows belong to, or None


def empty(row: Transition, count: int, data: Replay) -> Ring:
    """A ring of `count` slots with its index, () where windows are drawn uniformly, and its frames, () likewise."""
    made = ring.empty(frames.numbered(row, data.frames), count)
    if data.frames:
        made = made.replace(frames=frames.no_frames(row.obs, count, data))
    if not data.indexed:
        return made
    num_envs = row.reward.shape[0]
    priorities = priority.no_priorities(count * num_envs) if data.priority > 0 else None
    return made.replace(
        index=Index(priorities, episodes.no_episodes(count, num_envs) if by_episode(data) else None)
    )


def by_episode(data: Replay) -> bool:
    """Whether it matters which episode a row belongs to."""
    return data.ended or data.hindsight is not None


def planned_bytes(row: Transition, count: int, data: Replay) -> int:
    """Bytes that the index of `empty(row, count, data)` will take."""
    rows = count * row.reward.shape[0]
    numbers = (sum(priority.sizes(rows)) if data.priority > 0 else 0) + 3 * rows * by_episode(data)
    return 4 * numbers


def add(before: Ring, rollout: Transition, data: Replay) -> Ring:
    """Write a rollout [T, N, ...] over the oldest rows, and index it."""
    (steps, num_envs), index, stored = rollout.reward.shape, before.index, before.frames
    if data.frames:
        stored, rollout = frames.enter(before, rollout)
    after = ring.add(before, rollout).replace(frames=stored)
    priorities, table = index.priorities, index.episodes
    if priorities is not None:
        shape = (steps, num_envs, before.slots, data.length)
        priorities = priority.enter(priorities, data.priority, before.clock.value + steps, shape)
        if data.frames:
            priorities = priority.leave(priorities, lost_leaves(before, after, shape, data.frames))
    if table is not None:
        table = episodes.follow(table, rollout, before.clock.value % before.slots)
    return after.replace(index=Index(priorities, table))


def lost_leaves(before: Ring, after: Ring, shape: tuple[int, int, int, int], stack: int) -> Array:
    """Leaves [M] of rows that have lost a frame to a rollout and are still in the ring; beyond all leaves for none.

    shape  as of `priority.enter`
    """
    steps, num_envs, slots, _ = shape
    clock = before.clock.value + steps  # before whole turns may have been taken off
    time = (
        before.clock.value
        - frames.held_rows(before)
        + jnp.arange(min(frames.most_written(steps, stack), slots))
    )
    lost = (time < clock - frames.held_rows(after)) & (time >= clock - slots)
    leaf = time[:, None] % slots * num_envs + jnp.arange(num_envs)
    return jnp.where(lost[:, None], leaf, priority.padded(slots * num_envs)).ravel()


def cut(before: Ring, mask: Array) -> Ring:
    """End the running episode of the environments in `mask` [N], in the rows and in the index."""
    after, index = ring.cut(before, mask), before.index
    if index == () or index.episodes is None:
        return after
    newest = (before.clock.value - 1) % before.slots
    return after.replace(index=index.replace(episodes=episodes.cut(index.episodes, mask, newest)))


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
    count = (frames.held_rows(ring) - data.length + 1) * num_envs

    # w_j = (N P(j))^-beta / max_i w_i      Alg. 1, line 10
    beta = priority.beta_of(data.correction, priorities.updates)
    weight = priority.importance(probability, count, beta)
    weight = weight / weight.max()
    if data.length > 1:
        time = time[:, None] + jnp.arange(data.length)
        env, weight = jnp.broadcast_to(env[:, None], time.shape), weight[:, None]
    return Drawn(Windows(time, env), leaf, weight)


def sample(
    ring: Ring,
    index: Index,
    key: Array,
    data: Replay,
    gamma: Array,
    seen: Seen = as_it_is,
    goal: Goal | None = None,
) -> tuple[Batch, Array | None]:
    """A batch as `data` says, with importance weights; and the leaves [B] that priorities are written back to.

    index  the newest, whose priorities may have changed since the ring's own
    goal   how hindsight asks again
    """
    key_draw = key_goal = key
    if index.episodes is not None:
        key_draw, key_goal = jax.random.split(key)
    leaf = weight = None
    if index.priorities is not None:
        windows, leaf, weight = by_priority(ring, index.priorities, key_draw, data)
    elif index.episodes is not None:
        windows = episodes.draw_ended(ring, index.episodes, key_draw, data.batch_size, data.length)
    else:
        windows = uniform(ring, key_draw, data.batch_size, data.length, frames.held_rows(ring))
    if index.episodes is not None and data.hindsight is not None and goal is not None:
        batch = relabelled_batch(
            ring, index.episodes, windows, goal, key_goal, data, data.hindsight, gamma, seen
        )
    else:
        batch = n_step_batch(ring, windows, gamma, data.n_step, data.clip, seen)
        batch = frames.observed(ring, batch, windows.env)
    if weight is not None:
        batch = batch._replace(weight=jnp.broadcast_to(weight, batch.weight.shape))
    return batch, leaf


def write_back(index: Index, leaf: Array | None, errors: Array | None, data: Replay) -> Index:
    """The index with the priorities of the windows that an update has seen, where windows have any."""
    if index.priorities is None:
        return index
    return index.replace(priorities=priority.write_back(index.priorities, leaf, errors, data.priority))

"""The episodes that the rows of a ring belong to: where each ends and how long it was.

Every row knows its episode's number, modulo the C slots of the ring, which never holds rows of more than C episodes
of one environment. Places in time are kept as slots and lengths, which mean the same after the ring's clock has
lost whole turns.
"""

import jax
import jax.numpy as jnp

from polyak.interface import Array, Transition
from polyak.parts.replay.draw import Windows
from polyak.parts.replay.frames import held_rows
from polyak.parts.replay.ring import Ring, write
from polyak.pytree import Record, pytree


@pytree
class Episodes(Record):
    """The table, by environment and by number of the episode modulo C."""

    number: Array  # [C, N] of the episode that each row belongs to
    end: Array  # [C, N] slot of the episode's last row, once it has ended
    length: Array  # [C, N] its rows, those that the ring has forgotten included
    current: Array  # [N] number of the running episode
    steps: Array  # [N] its rows so far


def no_episodes(slots: int, num_envs: int) -> Episodes:
    """The table of a ring without rows."""
    tables = (jnp.zeros((slots, num_envs), jnp.int32) for _ in range(3))
    return Episodes(*tables, *(jnp.zeros(num_envs, jnp.int32) for _ in range(2)))


def follow(episodes: Episodes, rollout: Transition, slot: Array) -> Episodes:
    """With a rollout [T, N, ...] that was written from this slot on."""
    slots, (steps, num_envs) = episodes.number.shape[0], rollout.reward.shape
    last, row = rollout.last, jnp.arange(steps)[:, None]
    ends_before = jnp.cumsum(last, axis=0) - last
    number = (episodes.current + ends_before) % slots
    newest_end = jax.lax.cummax(jnp.where(last, row, -1), axis=0)
    end_before = jnp.concatenate([jnp.full((1, num_envs), -1, newest_end.dtype), newest_end])
    so_far = (
        row - end_before[:-1] + jnp.where(end_before[:-1] < 0, episodes.steps, 0)
    )  # rows, this one included

    where = jnp.where(last, number, slots), jnp.broadcast_to(jnp.arange(num_envs), last.shape)
    end = jnp.broadcast_to((slot + row) % slots, last.shape).astype(jnp.int32)
    return Episodes(
        number=write(episodes.number, number.astype(jnp.int32), slot),
        end=episodes.end.at[where].set(end, mode="drop"),
        length=episodes.length.at[where].set(so_far.astype(jnp.int32), mode="drop"),
        current=((episodes.current + last.sum(axis=0)) % slots).astype(jnp.int32),
        steps=jnp.where(last[-1], 0, so_far[-1]).astype(jnp.int32),
    )


def cut(episodes: Episodes, mask: Array, slot: Array) -> Episodes:
    """The running episodes of the environments in `mask` [N] ended with their newest row, in this slot."""
    slots, env = episodes.number.shape[0], jnp.arange(mask.size)
    ended = mask & (episodes.steps > 0)
    where = jnp.where(ended, episodes.current, slots), env
    return episodes.replace(
        end=episodes.end.at[where].set(slot, mode="drop"),
        length=episodes.length.at[where].set(episodes.steps, mode="drop"),
        current=(episodes.current + ended) % slots,
        steps=jnp.where(ended, 0, episodes.steps),
    )


def draw_ended(ring: Ring, episodes: Episodes, key: Array, count: int, length: int = 1) -> Windows:
    """Draw windows of rows of ended episodes, each alike; of all rows while no episode has ended.

    A sequence never runs over the last row of the newest ended episode.
    """
    newest = ring.clock.value
    held = held_rows(ring)
    ended = jnp.maximum(held - episodes.steps - length + 1, 0)  # [N] windows of ended episodes
    several = jnp.where(ended.sum() > 0, ended, held - length + 1)
    upto = jnp.cumsum(several)
    which = jax.random.randint(key, (count,), 0, upto[-1])
    env = (which[:, None] >= upto).sum(axis=-1)
    time = newest - held + which - (upto - several)[env]
    if length == 1:
        return Windows(time, env)
    time = time[:, None] + jnp.arange(length)
    return Windows(time, jnp.broadcast_to(env[:, None], time.shape))


def span(ring: Ring, episodes: Episodes, windows: Windows) -> tuple[Array, Array]:
    """First and last row, in absolute time, that the ring holds of the episodes of these rows.

    A running episode's last row is its newest.
    """
    time, env = windows
    newest, slots = ring.clock.value - 1, ring.slots
    oldest = newest + 1 - held_rows(ring)
    running = time > newest - episodes.steps[env]
    number = episodes.number[time % slots, env]
    last = jnp.where(running, newest, time + (episodes.end[number, env] - time) % slots)
    length = jnp.where(running, episodes.steps[env], episodes.length[number, env])
    return jnp.maximum(last - length + 1, oldest), last

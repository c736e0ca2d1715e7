"""Frames that are stored once: a second store beside a ring whose observations are stacks of them.

Each environment has a ring of frames with a head of its own. A row holds the numbers of the newest frames of its two
observations, and stacks are made where a row is gathered. A stack that is the last one pushed on by one frame costs
that frame; any other, as at the start of an episode, is written whole, so that an episode of n steps takes K + n
frames and every true final frame is there. What is pushed on is found by comparing pixels: whatever an environment
does, what is gathered is what was observed, bit for bit.

Places are kept as slots of the store, which mean the same however long a run is.
"""

from typing import Any

import jax
import jax.numpy as jnp

from polyak.interface import Array, Batch, Replay, Transition, Tree
from polyak.pytree import Record, pytree, static

SPARE = 16  # a store has room for one frame of each row and for a sixteenth more, which stacks begin with


@pytree
class Frames(Record):
    """The store. Rows that are older than `held` have lost a frame and may not be drawn."""

    store: Tree  # [F, N, *frame] for each part of an observation
    head: Array  # [N] slot that the next frame goes to
    held: Array  # newest rows of time all of whose frames are there
    stack: int = static()  # K, frames of an observation

    @property
    def slots(self) -> int:
        """F, the frames of each environment that it can hold."""
        return jax.tree.leaves(self.store)[0].shape[0]


def room(count: int, data: Replay) -> int:
    """F for C = `count` rows: what a rollout and a sequence need at the worst is always there."""
    worst = 2 * data.frames * (data.steps + data.length)
    return max(count + count // SPARE, worst) + data.frames


def frame_of(leaf: Array, stack: int) -> tuple[int, ...]:
    """The shape of one frame of observations [N, K, *frame]; a stack of one has no axis of its own."""
    return leaf.shape[1:] if stack == 1 else leaf.shape[2:]


def no_frames(obs: Tree, count: int, data: Replay) -> Frames:
    """The store for C = `count` rows with observations like `obs`, arrays or shapes [N, ...]; it holds no row."""
    num_envs = jax.tree.leaves(obs)[0].shape[0]
    slots = room(count, data)

    def empty(leaf: Array) -> Array:
        return jnp.zeros((slots, num_envs, *frame_of(leaf, data.frames)), leaf.dtype)

    zero = jnp.zeros((), jnp.int32)
    return Frames(jax.tree.map(empty, obs), jnp.zeros(num_envs, jnp.int32), zero, data.frames)


def numbered(row: Transition, stack: int) -> Transition:
    """A row [N, ...] as a ring with frames holds it: the slots of two newest frames in place of observations."""
    if not stack:
        return row
    number = jax.ShapeDtypeStruct(row.reward.shape, jnp.dtype("int32"))
    return row._replace(obs=number, next_obs=number)


def planned_bytes(row: Transition, count: int, data: Replay) -> int:
    """Bytes of the store for C = `count` rows."""
    if not data.frames:
        return 0
    each = (leaf.size * leaf.dtype.itemsize // data.frames for leaf in jax.tree.leaves(row.obs))
    return room(count, data) * sum(each)


# ---- reading


def held_rows(ring: Any) -> Array:
    """How many of the newest rows of time of a ring can be drawn, with frames or without."""
    if ring.frames == ():
        return jnp.minimum(ring.clock.value, ring.slots)
    return jnp.minimum(ring.frames.held, ring.slots)


def observed(ring: Any, batch: Batch, env: Array) -> Batch:
    """A batch [...] of these environments [...], of a ring with frames or without, with whole observations."""
    if ring.frames == ():
        return batch
    obs, next_obs = (stacks(ring.frames, number, env) for number in (batch.obs, batch.next_obs))
    return batch._replace(obs=obs, next_obs=next_obs)


def stacks(frames: Frames, number: Array, env: Array) -> Tree:
    """The observations [..., K, *frame] whose newest frames are these numbers [...] of these environments [...]."""
    where = (number[..., None] + jnp.arange(1 - frames.stack, 1)) % frames.slots
    found = jax.tree.map(lambda store: store[where, env[..., None]], frames.store)
    return jax.tree.map(lambda x: x.squeeze(number.ndim), found) if frames.stack == 1 else found


def _cut(obs: Tree, stack: int) -> list[Array]:
    """The parts of observations [T, N, ...] as stacks [T, N, K, *frame]."""
    return [x[:, :, None] if stack == 1 else x for x in jax.tree.leaves(obs)]


# ---- writing


def enter(ring: Any, rollout: Transition) -> tuple[Frames, Transition]:
    """The store with the frames of a rollout [T, N, ...], and the rollout with their numbers for observations.

    ring  with frames, before the rollout's rows
    """
    count = min(most_written(rollout.reward.shape[0], ring.frames.stack), ring.slots)
    oldest = ring.clock.value - held_rows(ring)
    numbers = ring.rows.obs[(oldest + jnp.arange(count)) % ring.slots]  # of the rows that may be lost
    frames, numbered, written = store(ring.frames, rollout)
    held = (
        held_rows(ring) - lost_rows(ring.frames, numbers, held_rows(ring), written) + rollout.reward.shape[0]
    )
    return frames.replace(held=jnp.minimum(held, ring.slots).astype(jnp.int32)), numbered


def store(frames: Frames, rollout: Transition) -> tuple[Frames, Transition, Array]:
    """The store and the rollout, as `enter` gives them, and the frames [N] that each environment wrote."""
    stack, slots, num_envs = frames.stack, frames.slots, rollout.reward.shape[1]
    obs, after = _cut(rollout.obs, stack), _cut(rollout.next_obs, stack)
    env = jnp.arange(num_envs)
    newest = stacks(frames, frames.head - 1, env)
    newest = [x[:, None] if stack == 1 else x for x in jax.tree.leaves(newest)]  # [N, K, *frame]

    # a stack that is not the last one again begins anew; one that does not push it on is written whole too
    before = [jnp.concatenate([last[None], x[:-1]]) for last, x in zip(newest, after, strict=True)]
    begins = ~_equal(obs, before)
    pushes = _equal([x[:, :, 1:] for x in obs], [x[:, :, :-1] for x in after])
    written = stack * begins + jnp.where(pushes, 1, stack)  # [T, N]
    upto = jnp.cumsum(written, axis=0)
    start = frames.head + upto - written
    second = start + stack * begins  # where the frames of the second stack go

    # all 2 K frames of a row are candidates; those that are there already go nowhere
    k = jnp.arange(stack)[None, :, None]
    first_at = jnp.where(begins[:, None], start[:, None] + k, -1)
    last_at = jnp.where(pushes[:, None], second[:, None], second[:, None] + k)
    last_at = jnp.where(pushes[:, None] & (k < stack - 1), -1, last_at)
    at = jnp.concatenate([first_at, last_at], axis=1)  # [T, 2 K, N]
    at = jnp.where(at < 0, slots, at % slots).reshape(-1, num_envs)

    def put(store: Array, obs: Array, after: Array) -> Array:
        new = jnp.concatenate([obs, after], axis=2).swapaxes(1, 2)  # [T, 2 K, N, *frame]
        new = new.reshape(-1, num_envs, *store.shape[2:]).astype(store.dtype)
        return store.at[at, jnp.broadcast_to(env, at.shape)].set(new, mode="drop")

    leaves, structure = jax.tree.flatten(frames.store)
    made = structure.unflatten(map(put, leaves, obs, after))
    numbers = rollout._replace(
        obs=((second - 1) % slots).astype(jnp.int32),
        next_obs=((frames.head + upto - 1) % slots).astype(jnp.int32),
    )
    head = ((frames.head + upto[-1]) % slots).astype(jnp.int32)
    return frames.replace(store=made, head=head), numbers, upto[-1]


def most_written(steps: int, stack: int) -> int:
    """Frames of one environment that a rollout of so many rows writes at most."""
    return 2 * stack * steps


def lost_rows(frames: Frames, numbers: Array, count: Array, written: Array) -> Array:
    """How many of the `count` rows that are held lose a frame where `written` [N] are added.

    numbers  [M, N] slots of the newest frame of their first observation, oldest row first; M is as many as may be lost
    """
    slots, held = frames.slots, jnp.arange(numbers.shape[0])[:, None] < count
    oldest = (frames.head - 1 - numbers) % slots + frames.stack - 1  # frames that are newer than their oldest
    return (held & (oldest + written >= slots)).any(axis=1).sum()


def _equal(some: list[Array], others: list[Array]) -> Array:
    """Where [T, N, ...] have the same bits in every part; nothing has the same as nothing."""
    same = [
        (_bits(x) == _bits(y)).reshape(*x.shape[:2], -1).all(axis=-1)
        for x, y in zip(some, others, strict=True)
    ]
    return jnp.stack(same).all(axis=0)


def _bits(x: Array) -> Array:
    """Real numbers as integers, so that NaN is NaN and 0 is not -0."""
    kind = jnp.asarray(x).dtype
    words = jnp.dtype(f"uint{8 * kind.itemsize}")
    return jax.lax.bitcast_convert_type(x, words) if jnp.issubdtype(kind, jnp.floating) else x

"""Frames stored once beside whole observations stored twice: the same batches, bit for bit, whatever the ends."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK

from polyak.algorithms import find
from polyak.drivers.check import check_data
from polyak.errors import CheckpointError, UserError
from polyak.interface import Box, Discrete, Replay, Spec, Transition
from polyak.parts import replay
from polyak.parts.replay import frames, index
from polyak.store import storage

FRAME = (3, 2)
add_indexed = jax.jit(index.add, static_argnames="data", compiler_options=QUICK)
add_plain = jax.jit(replay.add, compiler_options=QUICK)
draw_plain = jax.jit(replay.sample, static_argnames=("data", "gamma"), compiler_options=QUICK)


@functools.partial(jax.jit, static_argnames=("gamma", "n_step"), compiler_options=QUICK)
def windows_at(ring, windows, gamma, n_step):
    batch = replay.n_step_batch(ring, windows, gamma, n_step)
    return frames.observed(ring, batch, windows.env)


draw_indexed = jax.jit(index.sample, static_argnames=("data", "gamma"), compiler_options=QUICK)
write_back = jax.jit(index.write_back, static_argnames="data", compiler_options=QUICK)


class World:
    """Environments whose episodes are short and begin in every way there is.

    A stack begins with one frame again and again, with black ones, with as many new ones, or just as the last one
    ended; now and then an environment's stack jumps in the middle of an episode. Ends are of both kinds, and some
    environments are begun anew without any.
    """

    def __init__(self, num_envs: int, stack: int, seed: int, dtype: str = "uint8"):
        self.rng, self.stack, self.dtype = np.random.default_rng(seed), stack, dtype
        self.now = [self.begin(None) for _ in range(num_envs)]
        self.written = [[] for _ in range(num_envs)]  # frames that each row and its start had to write
        self.last = [None] * num_envs  # the newest stack that was stored
        self.number = 0

    def frame(self) -> np.ndarray:
        if self.dtype == "uint8":
            return self.rng.integers(3, size=FRAME).astype(np.uint8)
        return self.rng.choice([0.0, -0.0, np.nan, 1.5], size=FRAME).astype(np.float32)

    def begin(self, last: np.ndarray | None) -> np.ndarray:
        kind = self.rng.integers(4)
        new = np.stack([self.frame() for _ in range(self.stack)])
        if kind == 0:
            new[:] = new[-1]
        elif kind == 1:
            new[:-1] = 0
        elif kind == 2 and last is not None:
            new = last.copy()
        return new

    def rollout(self, steps: int) -> Transition:
        rows = [[self.step(env) for env in range(len(self.now))] for _ in range(steps)]
        obs, after, reward, ended, cut = (
            np.array([[row[i] for row in line] for line in rows]) for i in range(5)
        )
        self.number += steps * len(self.now)
        if self.stack == 1:
            obs, after = obs[:, :, 0], after[:, :, 0]
        kinds = (
            {"picture": obs, "other": 2 * np.nan_to_num(obs)},
            {"picture": after, "other": 2 * np.nan_to_num(after)},
        )
        return Transition(
            kinds[0],
            np.round(100 * reward).astype(np.int32),
            reward.astype(np.float32),
            kinds[1],
            ended,
            cut,
            (),
        )

    def step(self, env: int) -> tuple:
        obs = self.now[env]
        if self.rng.random() < 0.05:
            obs = self.begin(obs)  # begun anew, and nobody said so
        jumps = self.rng.random() < 0.05
        after = self.begin(obs) if jumps else np.concatenate([obs[1:], self.frame()[None]])
        fate = self.rng.choice(3, p=[0.75, 0.15, 0.1])
        self.now[env] = self.begin(after) if fate else after
        # what has to be written, from the definition: a stack that is not there, and what does not push it on
        begins = self.last[env] is None and obs.tobytes() != bytes(obs.nbytes)
        begins = begins or (self.last[env] is not None and obs.tobytes() != self.last[env].tobytes())
        pushes = obs[1:].tobytes() == after[:-1].tobytes()
        self.written[env].append((self.stack * begins, 1 if pushes else self.stack))
        self.last[env] = after
        return obs, after, self.rng.normal(), fate == 1, fate == 2

    def drawable(self, slots: int, room: int) -> int:
        """Newest rows of which every frame is among the `room` newest of its environment."""
        held = len(self.written[0])
        for written in self.written:
            upto = np.cumsum([sum(pair) for pair in written])
            newest = upto - [pair[1] for pair in written]  # frames up to the first observation's newest one
            oldest = newest - self.stack  # of which these are older than its oldest
            held = min(held, int((oldest >= upto[-1] - room).sum()))
        return min(held, slots)


def both(world: World, steps: int, slots: int, data: Replay):
    """The two empty rings, and the first rollout."""
    first = world.rollout(steps)
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), first)
    rings = index.empty(row, slots, dataclasses.replace(data, frames=0)), index.empty(row, slots, data)
    return first, *rings


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()


# steps T, environments N, slots C, frames K, n
SHAPES = [(1, 1, 7, 3, 1), (2, 3, 8, 4, 3), (5, 2, 10, 1, 2), (4, 1, 40, 2, 1)]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("steps", "num_envs", "slots", "stack", "n_step"), SHAPES)
def test_every_window_that_may_be_drawn_is_the_one_stored_whole(steps, num_envs, slots, stack, n_step, dtype):
    """With little room, so that short episodes push rows out: which ones, is counted from the definition."""
    world = World(num_envs, stack, seed=slots, dtype=dtype)
    data = Replay(steps=steps, frames=stack)
    rollout, plain, framed = both(world, steps, slots, data)
    fewer = 0
    for _ in range(6 * slots // steps):
        plain, framed = add_plain(plain, rollout), add_indexed(framed, rollout, data)
        clock, held = int(framed.clock.value), int(framed.frames.held)
        assert held == world.drawable(slots, frames.room(slots, data))
        fewer += held < min(clock, slots)
        time = np.repeat(np.arange(clock - held, clock), num_envs)
        env = np.tile(np.arange(num_envs), held)
        padded = (np.resize(time, slots * num_envs), np.resize(env, slots * num_envs))
        windows = replay.Windows(*map(jnp.asarray, padded))
        same(windows_at(framed, windows, 0.9, n_step=n_step), windows_at(plain, windows, 0.9, n_step=n_step))
        rollout = world.rollout(steps)
    assert fewer or frames.room(slots, data) >= 2 * stack * slots


@pytest.fixture
def roomy(monkeypatch):
    """Room for the shortest episodes, so that both rings hold the same rows."""
    monkeypatch.setattr(
        frames, "room", lambda count, data: 2 * data.frames * (count + data.steps) + data.frames
    )


@pytest.mark.parametrize("more", [{}, {"length": 3}, {"n_step": 3}], ids=str)
def test_batches_are_the_same_bit_for_bit(more, roomy):
    world, data = World(2, 3, seed=1), Replay(steps=2, frames=3, batch_size=32, **more)
    rollout, plain, framed = both(world, 2, 8, data)
    for turn in range(20):
        plain, framed = add_plain(plain, rollout), add_indexed(framed, rollout, data)
        if turn:
            got, leaf = draw_indexed(framed, framed.index, jax.random.key(turn), data, 0.9)
            assert leaf is None
            same(got, draw_plain(plain, jax.random.key(turn), data, 0.9))
        rollout = world.rollout(2)


@pytest.mark.parametrize("more", [{"priority": 0.6, "n_step": 2}, {"ended": True}], ids=str)
def test_batches_by_priority_and_of_ended_episodes_are_the_same_too(more, roomy):
    world, data = World(2, 3, seed=2), Replay(steps=2, frames=3, batch_size=16, **more)
    whole = dataclasses.replace(data, frames=0)
    rollout, plain, framed = both(world, 2, 8, data)
    for turn in range(20):
        plain, framed = add_indexed(plain, rollout, whole), add_indexed(framed, rollout, data)
        wanted, leaf = draw_indexed(plain, plain.index, jax.random.key(turn), whole, 0.9)
        got, other = draw_indexed(framed, framed.index, jax.random.key(turn), data, 0.9)
        same(got, wanted)
        if leaf is not None:
            errors = world.rng.normal(size=16).astype(np.float32)
            plain = plain.replace(index=write_back(plain.index, leaf, errors, whole))
            framed = framed.replace(index=write_back(framed.index, other, errors, data))
            same(framed.index, plain.index)
        rollout = world.rollout(2)


def test_rows_that_have_lost_a_frame_are_never_drawn_whatever_their_priority():
    world, data = World(2, 4, seed=3), Replay(steps=2, frames=4, batch_size=256, priority=1.0)
    rollout, _, framed = both(world, 2, 64, data)
    seen = 0
    for turn in range(60):
        framed = add_indexed(framed, rollout, data)
        drawn = index.by_priority(framed, framed.index.priorities, jax.random.key(turn), data)
        time = np.asarray(drawn.windows.time)
        assert time.min() >= int(framed.clock.value) - int(framed.frames.held)
        assert time.max() < int(framed.clock.value)
        levels = [np.asarray(level) for level in framed.index.priorities.levels]
        assert (levels[0] > 0).sum() == 2 * int(framed.frames.held)
        np.testing.assert_allclose(levels[0].sum(), levels[-1].sum(), rtol=1e-5)
        seen += int(framed.frames.held) < min(64, int(framed.clock.value))
        rollout = world.rollout(2)
    assert seen > 10


def test_seeds_side_by_side_are_seeds_alone():
    data = Replay(steps=2, frames=3)
    worlds = [World(2, 3, seed) for seed in (4, 5)]
    row = jax.tree.map(lambda x: x[0], World(2, 3, 0).rollout(1))
    alone = [index.empty(row, 6, data) for _ in worlds]
    axes = jax.tree.map(lambda _: 0, alone[0])
    axes = axes.replace(clock=jax.tree.map(lambda _: None, axes.clock))
    together = jax.tree.map(lambda *x: jnp.stack(x), *alone).replace(clock=alone[0].clock)
    add = functools.partial(index.add, data=data)
    side_by_side = jax.jit(jax.vmap(add, (axes, 0), axes), compiler_options=QUICK)
    for _ in range(8):
        rollouts = [world.rollout(2) for world in worlds]
        alone = [add_indexed(ring, rollout, data) for ring, rollout in zip(alone, rollouts, strict=True)]
        together = side_by_side(together, jax.tree.map(lambda *x: np.stack(x), *rollouts))
    for number, ring in enumerate(alone):
        same(jax.tree.map(lambda x, i=number: x[i], together.frames), ring.frames)
        same(jax.tree.map(lambda x, i=number: x[i], together.rows), ring.rows)


def test_a_million_rows_of_atari_take_less_than_the_promise():
    flag, stack = jax.ShapeDtypeStruct((8,), bool), jax.ShapeDtypeStruct((8, 4, 84, 84), np.uint8)
    number = jax.ShapeDtypeStruct((8,), np.int32)
    row = Transition(stack, number, jax.ShapeDtypeStruct((8,), np.float32), stack, flag, flag, ())
    data = Replay(capacity=1_000_000, steps=4, frames=4)
    count = data.slots(8)
    made = jax.eval_shape(lambda: index.empty(row, count, data))
    allocated = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((made.rows, made.frames.store)))
    planned = frames.planned_bytes(row, count, data)
    planned += replay.planned_bytes(frames.numbered(row, data.frames), count)
    assert planned == allocated
    assert 7.0e9 < allocated < 7.6e9
    assert replay.planned_bytes(row, count) > 56e9  # each observation whole, and its successor too


# ---- in runs


@functools.cache
def spec_of(shape: tuple[int, ...]) -> Spec:
    return Spec(Box(shape, 0, 255, "uint8"), Discrete(3), num_envs=2)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"frames": 3}, "first axis must be these frames"),
        ({"frames": -1}, "data.frames is -1"),
    ],
)
def test_what_cannot_be_frames_is_refused_in_one_line(data, says):
    cfg = find("dqn").Config(data=Replay(**data))
    with pytest.raises(UserError, match=says):
        check_data("dqn", find("dqn"), cfg, spec_of((4, 84, 84)))
    check_data("dqn", find("dqn"), find("dqn").Config(data=Replay(frames=4)), spec_of((4, 84, 84)))


def test_a_stream_has_the_bytes_that_are_declared_or_is_damaged():
    array = np.random.default_rng(0).integers(2, size=(3, 5, 7)).astype(np.uint8)
    stream, field = storage.deflate(array), storage.Field("uint8", array.shape)
    np.testing.assert_array_equal(storage.inflate(stream, field, "here"), array)
    for wrong in (storage.Field("uint8", (3, 5, 6)), storage.Field("uint8", (3, 5, 8))):
        with pytest.raises(CheckpointError, match="its frames are"):
            storage.inflate(stream, wrong, "here")
    for broken in (stream[:-3], stream[1:], np.append(stream, np.uint8(0)), stream[:0]):
        with pytest.raises(CheckpointError, match="frames"):
            storage.inflate(broken, field, "here")
    huge = storage.deflate(np.zeros(1 << 26, np.uint8))  # 64 MB in less than 0.5
    assert huge.size < 1 << 19
    with pytest.raises(CheckpointError, match="more than the 105 bytes"):
        storage.inflate(huge, field, "here")

"""Prioritised replay: the tree against a plain list in float64, frequencies, weights, and both drivers' programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from scipy.stats import chisquare

from polyak.algorithms import find
from polyak.drivers.learn import check_priority
from polyak.errors import UserError
from polyak.interface import Batch, Box, Replay, Spec, Transition
from polyak.parts import replay
from polyak.parts.replay import index
from polyak.parts.replay import priority as tree
from polyak.pytree import Counter

ALPHA = 0.7
add = jax.jit(index.add, static_argnames="data", compiler_options=QUICK)
write_back = jax.jit(tree.write_back, static_argnames="alpha", compiler_options=QUICK)
by_priority = jax.jit(index.by_priority, static_argnames="data", compiler_options=QUICK)
sample = jax.jit(index.sample, static_argnames=("data", "gamma"), compiler_options=QUICK)


class Listed:
    """A priority for every row ever written, in float64, and which of them a window may begin at."""

    def __init__(self, num_envs: int, slots: int, length: int):
        self.num_envs, self.slots, self.length = num_envs, slots, length
        self.priority: dict[tuple[int, int], float] = {}
        self.largest, self.clock = 1.0, 0

    def add(self, steps: int) -> None:
        for _ in range(steps):
            self.clock += 1
        for time in range(max(self.clock - self.slots, 0), self.clock - self.length + 1):
            for env in range(self.num_envs):
                self.priority.setdefault((time, env), self.largest)
        self.priority = {
            (time, env): p for (time, env), p in self.priority.items() if time >= self.clock - self.slots
        }

    def write_back(self, rows: list[tuple[int, int]], errors: np.ndarray) -> None:
        best: dict[tuple[int, int], float] = {}
        for row, error in zip(rows, errors, strict=True):
            best[row] = max(best.get(row, 0.0), abs(float(error)) + 1e-6)
        self.priority |= best
        self.largest = max(self.largest, *best.values())

    def masses(self) -> np.ndarray:
        """p^alpha by slot and environment, in the ring's order."""
        found = np.zeros((self.slots, self.num_envs))
        for (time, env), p in self.priority.items():
            found[time % self.slots, env] = p**ALPHA
        return found.ravel()


def rollout(steps, num_envs, first=0, end=False):
    """Rows whose action is their number."""
    number = first * num_envs + np.arange(steps * num_envs, dtype=np.float32).reshape(steps, num_envs)
    flag = np.full((steps, num_envs), end)
    return Transition(number, number.astype(np.int32), number, number + num_envs, flag, flag & False, ())


def ring_of(slots, num_envs, data):
    return index.empty(jax.tree.map(lambda x: x[0], rollout(1, num_envs)), slots, data)


def with_priorities(ring, priorities):
    return ring.replace(index=ring.index.replace(priorities=priorities))


def check_tree(priorities, masses):
    np.testing.assert_allclose(priorities.levels[0][: masses.size], masses, rtol=1e-6, atol=1e-12)
    assert not np.asarray(priorities.levels[0][masses.size :]).any()
    for below, above in zip(priorities.levels[:-1], priorities.levels[1:], strict=True):
        want = np.asarray(below, np.float64).reshape(-1, 8).sum(axis=1)
        np.testing.assert_allclose(above[: len(want)], want, rtol=1e-6)
        assert not np.asarray(above[len(want) :]).any()
    assert len(priorities.levels[-1]) == 8


# steps T, environments N, rollouts that the ring holds, length L
SHAPES = [(1, 1, 7, 1), (1, 3, 5, 2), (2, 2, 4, 3), (3, 1, 4, 5), (5, 2, 1, 4), (4, 3, 30, 1), (2, 1, 3, 6)]


@pytest.mark.parametrize(("steps", "num_envs", "rollouts", "length"), SHAPES)
def test_the_tree_holds_what_a_list_of_all_rows_says(steps, num_envs, rollouts, length):
    slots = steps * rollouts
    data = Replay(batch_size=16, length=length, priority=ALPHA, correction=0.6)
    ring, listed = ring_of(slots, num_envs, data), Listed(num_envs, slots, length)
    rng = np.random.default_rng(slots)
    for turn in range(3 * rollouts + 2):
        ring = add(ring, rollout(steps, num_envs, turn * steps), data)
        listed.add(steps)
        check_tree(ring.index.priorities, listed.masses())
        if not listed.priority:
            continue
        drawn = by_priority(ring, ring.index.priorities, jax.random.key(turn), data)
        time, env = (np.asarray(x).reshape(16, -1)[:, 0] for x in drawn.windows)
        rows = list(zip(time.tolist(), env.tolist(), strict=True))
        assert set(rows) <= set(listed.priority)
        np.testing.assert_array_equal(drawn.leaf, time % slots * num_envs + env)
        # w = (N P)^-beta, and the largest is 1
        share = np.array([listed.priority[row] ** ALPHA for row in rows]) / listed.masses().sum()
        weight = (len(listed.priority) * share) ** -0.6
        np.testing.assert_allclose(np.ravel(drawn.weight), weight / weight.max(), rtol=2e-5)
        errors = rng.normal(size=16).astype(np.float32) * (1 + turn)
        priorities = write_back(ring.index.priorities, drawn.leaf, errors, alpha=ALPHA)
        listed.write_back(rows, errors)
        check_tree(priorities, listed.masses())
        np.testing.assert_allclose(priorities.largest, listed.largest, rtol=1e-6)
        assert int(priorities.updates.value) == int(ring.index.priorities.updates.value) + 1
        ring = with_priorities(ring, priorities)
    assert listed.largest > 1


def test_a_row_that_is_drawn_twice_keeps_the_larger_of_its_two_errors_and_forgets_the_old_one():
    data = Replay(priority=1.0)
    ring = add(ring_of(4, 1, data), rollout(4, 1), data)
    for errors, want in (([5.0, 9.0], 9.0), ([0.25, 0.125], 0.25)):
        after = write_back(ring.index.priorities, np.array([2, 2]), np.array(errors, np.float32), alpha=1.0)
        np.testing.assert_allclose(after.levels[0][2], want, rtol=1e-5)
        ring = with_priorities(ring, after)
    np.testing.assert_allclose(ring.index.priorities.largest, 9, rtol=1e-6)
    ring = add(ring, rollout(1, 1, 4), data)  # the next row enters at it, in slot 0
    np.testing.assert_allclose(ring.index.priorities.levels[0][:4], [9, 1, 0.25, 1], rtol=1e-5)


@pytest.mark.parametrize("count", [5, 64, 65, 1000, 200_000])
def test_draws_are_as_frequent_as_their_masses(count):
    """One draw of a batch of one is independent of the next."""
    rng = np.random.default_rng(count)
    mass = rng.gamma(0.5, size=count).astype(np.float32)
    mass[rng.random(count) < 0.2] = 0
    levels = tuple(jnp.zeros(n) for n in tree.sizes(count))
    levels = jax.jit(tree.put, compiler_options=QUICK)(levels, np.arange(count), mass)
    priorities = tree.Priorities(levels, jnp.ones(()), Counter(jnp.int32(0)))
    draws = 100_000

    @jax.jit
    def alone(keys):
        return jax.vmap(lambda key: tree.draw(priorities, key, 1))(keys)

    leaf, probability = (np.asarray(x)[:, 0] for x in alone(jax.random.split(jax.random.key(1), draws)))
    assert (mass[leaf] > 0).all()
    share = mass.astype(float) / mass.sum(dtype=float)
    np.testing.assert_allclose(probability, share[leaf], rtol=1e-5)
    bins = np.arange(count) if count <= 1000 else np.digitize(np.cumsum(share), np.linspace(0, 1, 200)[1:-1])
    wanted = np.bincount(bins, share) * draws
    counts = np.bincount(bins[leaf], minlength=len(wanted))
    likely = wanted > 5
    rest = [counts[~likely].sum()], [wanted[~likely].sum()]
    counts, wanted = np.append(counts[likely], rest[0]), np.append(wanted[likely], rest[1])
    if wanted[-1] < 1:
        counts, wanted = counts[:-1], wanted[:-1] * counts[:-1].sum() / wanted[:-1].sum()
    assert 1e-3 < chisquare(counts, wanted * counts.sum() / wanted.sum()).pvalue < 1 - 1e-3


def test_rows_among_many_are_told_apart_beyond_the_bits_of_one_number():
    """Of 200,000 equal rows each is drawn alike, though one float32 has only 42 values for each of them."""
    count, batch = 200_000, 4096
    levels = tuple(jnp.zeros(n) for n in tree.sizes(count))
    levels = tree.put(levels, jnp.arange(count), jnp.full(count, 1e-3))
    priorities = tree.Priorities(levels, jnp.ones(()), Counter(jnp.int32(0)))
    draw = jax.jit(lambda key: tree.draw(priorities, key, batch)[0])
    leaf = np.concatenate([draw(key) for key in jax.random.split(jax.random.key(0), 1000)])
    counts = np.bincount(leaf, minlength=count)  # 20 each
    assert counts.min() > 0
    assert (
        counts.var() / counts.mean() < 1.02
    )  # a stratified count varies less than a Poisson number, never more
    for part in (7, 8, 64):
        assert chisquare(np.bincount(leaf % part, minlength=part)).pvalue > 1e-3


def test_a_batch_is_spread_over_the_whole_range():
    """Each of B equal parts of [0, sum) gives one row."""
    data = Replay(batch_size=16, priority=1.0)
    ring = add(ring_of(64, 1, data), rollout(64, 1), data)
    leaf = np.asarray(by_priority(ring, ring.index.priorities, jax.random.key(0), data).leaf)
    np.testing.assert_array_equal(leaf // 4, np.arange(16))


@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_with_beta_one_the_weighted_mean_is_unbiased_and_without_it_is_not(beta):
    rng = np.random.default_rng(0)
    value = rng.normal(size=300)
    data = Replay(batch_size=32, priority=ALPHA, correction=beta)
    ring = add(ring_of(300, 1, data), rollout(300, 1), data)
    errors = np.where(value > 0, 3.0, 0.3).astype(np.float32)
    priorities = write_back(ring.index.priorities, np.arange(300), errors, alpha=ALPHA)

    @jax.jit
    def means(keys):
        def one(key):
            leaf, probability = tree.draw(priorities, key, 32)
            return (tree.importance(probability, 300, beta) * jnp.asarray(value, jnp.float32)[leaf]).mean()

        return jax.vmap(one)(keys)

    found = np.asarray(means(jax.random.split(jax.random.key(2), 20_000)), float)
    off = (found.mean() - value.mean()) / (found.std() / np.sqrt(len(found)))
    assert abs(off) < 4 if beta else off > 100


@pytest.mark.parametrize(("updates", "want"), [(0, 0.4), (5, 0.7), (10, 1.0), (99, 1.0)])
def test_beta_is_annealed_over_updates(updates, want):
    found = tree.beta_of((0.4, 1.0, 10), Counter(jnp.int32(updates)))
    np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.parametrize(("length", "n_step"), [(1, 1), (1, 3), (4, 1)])
def test_a_batch_by_priority_is_the_uniform_batch_of_the_same_windows(length, n_step):
    data = Replay(batch_size=8, length=length, n_step=n_step, priority=0.5)
    ring = add(ring_of(12, 2, data), rollout(12, 2), data)
    batch, leaf = sample(ring, ring.index, jax.random.key(0), data, 0.9)
    drawn = by_priority(ring, ring.index.priorities, jax.random.key(0), data)
    plain = replay.n_step_batch(ring, drawn.windows, 0.9, n_step)
    for name in Batch._fields:
        got, want = getattr(batch, name), getattr(plain, name)
        if name != "weight":
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
    assert batch.weight.shape == batch.reward.shape == ((8,) if length == 1 else (8, length))
    np.testing.assert_array_equal(leaf, drawn.leaf)


def test_bytes_of_the_tree_are_planned():
    row, data = jax.tree.map(lambda x: x[0], rollout(1, 3)), Replay(priority=0.5)
    levels = index.empty(row, 50, data).index.priorities.levels
    assert index.planned_bytes(row, 50, data) == sum(x.nbytes for x in levels)
    assert index.empty(row, 50, Replay()).index == ()
    assert index.planned_bytes(row, 50, Replay()) == 0


def test_an_algorithm_that_gives_no_priorities_is_refused_in_one_line():
    spec = Spec(Box((3,)), Box((1,), -1.0, 1.0), num_envs=2)
    td3 = find("td3")
    cfg = td3.Config(hidden=(4,), data=Replay(priority=0.5, batch_size=4))
    check_priority("td3", td3, cfg, spec)
    silent = td3._replace(update=lambda *args: td3.update(*args)._replace(priority=None))
    with pytest.raises(UserError, match="give no priorities") as error:
        check_priority("td3", silent, cfg, spec)
    assert "\n" not in str(error.value)

"""The ring against a Python list of episodes, written from the definition of a window and not from the code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from scipy.stats import chisquare

from polyak.interface import Replay, Transition
from polyak.parts import replay
from polyak.pytree import Counter

add = jax.jit(replay.add, compiler_options=QUICK)
cut = jax.jit(replay.cut, compiler_options=QUICK)
n_step_batch = jax.jit(
    replay.n_step_batch, static_argnames=("gamma", "n_step", "clip"), compiler_options=QUICK
)
sample = jax.jit(replay.sample, static_argnames=("data", "gamma"), compiler_options=QUICK)


class Episodes:
    """What really happened: for each environment the list of its episodes, each a list of rows.

    A window is a part of one episode's list, so it cannot leave it; no flag is consulted to find its end.
    """

    def __init__(self, num_envs: int, seed: int):
        self.rng = np.random.default_rng(seed)
        self.episodes = [[[]] for _ in range(num_envs)]
        self.place = [[] for _ in range(num_envs)]  # absolute time -> (episode, position)

    @property
    def clock(self) -> int:
        return len(self.place[0])

    def step(self, env: int) -> dict:
        running = self.episodes[env][-1]
        fate = self.rng.choice(["goes on", "terminated", "truncated"], p=[0.7, 0.15, 0.15])
        row = {
            "number": self.clock_of(env) * len(self.episodes) + env,
            "where": (env, len(self.episodes[env]) - 1, len(running)),
            "reward": np.float32(self.rng.normal()),
            "terminated": fate == "terminated",
            "truncated": fate == "truncated",
        }
        self.place[env].append((len(self.episodes[env]) - 1, len(running)))
        running.append(row)
        if fate != "goes on":
            self.episodes[env].append([])
        return row

    def clock_of(self, env: int) -> int:
        return len(self.place[env])

    def rollout(self, steps: int) -> Transition:
        rows = [[self.step(env) for env in range(len(self.episodes))] for _ in range(steps)]

        def column(name, dtype):
            return np.array([[row[name] for row in line] for line in rows], dtype)

        where = column("where", np.int32)
        return Transition(
            obs={"where": where, "twice": 2.0 * column("number", np.float32)},
            action=column("number", np.int32),
            reward=column("reward", np.float32),
            next_obs={"where": where + np.array([0, 0, 1], np.int32), "twice": -column("number", np.float32)},
            terminated=column("terminated", bool),
            truncated=column("truncated", bool),
            extras=(column("number", np.int32) + 7,),
        )

    def restart(self, mask: np.ndarray) -> None:
        """The running episode of these environments will never go on."""
        for env in np.flatnonzero(mask):
            if self.episodes[env][-1]:
                self.episodes[env][-1][-1]["truncated"] = True
                self.episodes[env].append([])

    def window(self, time: int, env: int, n_step: int, gamma: float, clip: float | None) -> dict:
        episode, position = self.place[env][time]
        rows = self.episodes[env][episode][position : position + n_step]
        total = 0.0
        for power, row in enumerate(rows):
            reward = float(row["reward"])
            if clip is not None:
                reward = max(-clip, min(clip, reward))
            total += gamma**power * reward
        first, end = rows[0], rows[-1]
        return {
            "where": first["where"],
            "number": first["number"],
            "reward": total,
            "next": (*end["where"][:2], end["where"][2] + 1),
            "end": end["number"],
            "terminated": end["terminated"],
            "truncated": end["truncated"],
            "discount": 0.0 if end["terminated"] else gamma ** len(rows),
        }


def check_windows(batch, times, envs, model, n_step, gamma, clip):
    """Every field of a batch of windows [...] that begin at `times`, `envs` [...]."""
    batch = jax.tree.map(lambda x: np.asarray(x).reshape(times.size, *x.shape[times.ndim :]), batch)
    want = [
        model.window(t, e, n_step, gamma, clip)
        for t, e in zip(times.flat, np.broadcast_to(envs, times.shape).flat, strict=True)
    ]

    def column(name):
        return np.array([w[name] for w in want])

    np.testing.assert_array_equal(batch.obs["where"], column("where"))
    np.testing.assert_array_equal(batch.obs["twice"], 2.0 * column("number"))
    np.testing.assert_array_equal(batch.action, column("number"))
    np.testing.assert_array_equal(batch.extras[0], column("number") + 7)
    np.testing.assert_array_equal(batch.next_obs["where"], column("next"))
    np.testing.assert_array_equal(batch.next_obs["twice"], -column("end"))
    np.testing.assert_array_equal(batch.terminated, column("terminated"))
    np.testing.assert_array_equal(batch.truncated, column("truncated"))
    np.testing.assert_allclose(batch.reward, column("reward"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.discount, column("discount"), rtol=1e-5)
    np.testing.assert_array_equal(batch.weight, np.ones(times.size, np.float32))
    assert batch.reward.dtype == batch.discount.dtype == batch.weight.dtype == np.float32


def starts(model, slots, length=1):
    """All times at which a window of `length` rows may begin: in the ring, and never over its head."""
    return np.arange(max(model.clock - slots, 0), model.clock - length + 1)


def check_every_window(ring, model, slots, n_step, gamma, clip):
    times = starts(model, slots)
    assert int(ring.clock.value) == model.clock
    grid = np.repeat(times, len(model.episodes)), np.tile(np.arange(len(model.episodes)), len(times))
    padded = [np.resize(x, slots * len(model.episodes)) for x in grid]  # one shape, one program
    batch = n_step_batch(ring, replay.Windows(*padded), gamma, n_step=n_step, clip=clip)
    check_windows(batch, *padded, model, n_step, gamma, clip)


def check_draws(ring, model, slots, key, n_step, length, gamma, clip):
    batch = sample(ring, key, Replay(batch_size=64, n_step=n_step, length=length, clip=clip), gamma)
    num_envs = len(model.episodes)
    number = np.asarray(batch.action)
    assert number.shape == ((64,) if length == 1 else (64, length))
    times, envs = number // num_envs, number % num_envs
    first = times if length == 1 else times[:, 0]
    assert np.isin(first, starts(model, slots, length)).all()
    if length > 1:
        np.testing.assert_array_equal(times, first[:, None] + np.arange(length))
        assert (envs == envs[:, :1]).all()
    check_windows(batch, times, envs, model, n_step, gamma, clip)


GAMMAS = (0.0, 1.0, 0.5)
# steps T, environments N, rollouts that the ring holds
RINGS = [(1, 1, 7), (1, 3, 5), (2, 2, 4), (3, 1, 4), (5, 2, 1), (4, 3, 3)]


@pytest.mark.parametrize(("steps", "num_envs", "rollouts"), RINGS)
def test_every_window_is_what_happened(steps, num_envs, rollouts):
    slots = steps * rollouts
    rng = np.random.default_rng([steps, num_envs, rollouts])
    model = Episodes(num_envs, seed=slots)
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), Episodes(num_envs, 0).rollout(1))
    ring = replay.empty(row, slots)
    assert ring.slots == slots
    number = RINGS.index((steps, num_envs, rollouts))
    settings = [(1 + number, 0.9, None), (6 - number, GAMMAS[number % 3], 0.7)]
    lengths = [1, int(rng.integers(2, 6))]
    keys = iter(jax.random.split(jax.random.key(slots), 1000))
    cuts = 0
    for turn in range(5 * rollouts + 3):  # around the ring five times
        ring = add(ring, model.rollout(steps))
        if rng.random() < 0.3:
            mask = rng.random(num_envs) < 0.6
            ring = cut(ring, mask)
            model.restart(mask)
            cuts += mask.sum()
        n_step, gamma, clip = settings[turn % 2]
        check_every_window(ring, model, slots, n_step, gamma, clip)
        length = lengths[turn % 2]
        if len(starts(model, slots, length)):
            check_draws(ring, model, slots, next(keys), n_step, length, gamma, clip)
    assert cuts > 0
    assert model.clock > 4 * slots


@pytest.fixture(scope="module")
def wrapped():
    """A ring of 8 slots x 2 environments after 20 rows, and what happened."""
    model = Episodes(2, seed=3)
    first = model.rollout(4)
    ring = replay.empty(jax.tree.map(lambda x: x[0], first), 8)
    ring = add(ring, first)
    for _ in range(4):
        ring = add(ring, model.rollout(4))
    return ring, model


@pytest.mark.parametrize("n_step", range(1, 7))
def test_every_n_step_window_of_a_wrapped_ring(wrapped, n_step):
    ring, model = wrapped
    check_every_window(ring, model, 8, n_step, 0.9, 0.5 if n_step % 2 else None)


@pytest.mark.parametrize("length", range(1, 6))
def test_every_sequence_drawn_from_a_wrapped_ring(wrapped, length):
    n_step = 3 if length % 2 else 1
    check_draws(*wrapped, 8, jax.random.key(length), n_step, length, 0.9, None)


@pytest.mark.parametrize("clocks", [[6, 6, 6], [0, 6, 9]], ids=["one clock", "three clocks"])
@pytest.mark.parametrize(
    "shared", [(), ("rows",), ("rollout",)], ids=lambda shared: "".join(shared) or "none"
)
def test_rings_written_together_are_those_written_alone(clocks, shared):
    rng = np.random.default_rng(0)

    def some(kind, *shape):
        many = rng.normal(size=(3, *shape)).astype(np.float32)
        many = many[:1].repeat(3, axis=0) if kind in shared else many
        return Transition(*(jnp.asarray(many + field) for field in range(6)))

    rows, rollouts = some("rows", 12, 2), some("rollout", 3, 2)
    alone = [
        add(
            replay.Ring(*jax.tree.map(lambda x, i=i: x[i], (rows, Counter(jnp.asarray(clocks))))),
            row_of(rollouts, i),
        )
        for i in range(3)
    ]
    one_clock = len(set(clocks)) == 1
    clock = jnp.asarray(clocks[0] if one_clock else clocks)
    single = [row_of(x, 0) if kind in shared else x for kind, x in (("rows", rows), ("rollout", rollouts))]
    axes = [None if kind in shared else 0 for kind in ("rows", "rollout")]
    together = jax.vmap(
        lambda rows, clock, rollout: replay.add(replay.Ring(rows, Counter(clock)), rollout).rows,
        (axes[0], None if one_clock else 0, axes[1]),
    )(single[0], clock, single[1])
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, row_of(together, i), alone[i].rows)


def row_of(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def test_one_step_is_the_row_itself_bit_for_bit(wrapped):
    ring = wrapped[0]
    times, envs = np.repeat(np.arange(12, 20), 2), np.tile([0, 1], 8)
    batch = n_step_batch(ring, replay.Windows(times, envs), 0.99)
    stored = jax.tree.map(lambda x: x[times % 8, envs], ring.rows)
    jax.tree.map(np.testing.assert_array_equal, tuple(batch[:7]), tuple(stored))
    np.testing.assert_array_equal(batch.discount, np.where(batch.terminated, 0, np.float32(0.99)))
    # a longer window that ends at once is the same row, bit for bit
    longer = n_step_batch(ring, replay.Windows(times, envs), 0.99, n_step=4)
    short = np.asarray(batch.last) | (times == 19)
    assert short.any()
    assert not short.all()
    for one, four in zip(jax.tree.leaves(batch), jax.tree.leaves(longer), strict=True):
        np.testing.assert_array_equal(np.asarray(one)[short], np.asarray(four)[short])


def going_on(steps, num_envs=1, reward=1.0):
    """Rows [T, N] without an end."""
    flag = np.zeros((steps, num_envs), bool)
    number = np.arange(steps * num_envs, dtype=np.float32).reshape(steps, num_envs)
    return Transition(number, number, np.full_like(number, reward), number + num_envs, flag, flag, ())


@pytest.mark.parametrize("n_step", [2, 3, 6])
def test_a_window_ends_at_the_newest_row_and_bootstraps_there(n_step):
    rollout = going_on(6)
    ring = add(replay.empty(jax.tree.map(lambda x: x[0], rollout), 6), rollout)
    ring = add(ring, jax.tree.map(lambda x: x + 6 if x.dtype == np.float32 else x, rollout))
    # rows 6 .. 11 lie at slots 0 .. 5; slot 0 follows slot 5 in memory and not in time
    batch = n_step_batch(ring, replay.Windows(np.arange(6, 12), np.zeros(6, int)), 0.5, n_step=n_step)
    rows = np.minimum(n_step, 12 - np.arange(6, 12))
    np.testing.assert_allclose(batch.discount, 0.5**rows)
    np.testing.assert_array_equal(batch.next_obs, np.arange(6, 12) + rows)
    np.testing.assert_allclose(batch.reward, 7 * (2 - 2 * 0.5**rows))


@pytest.mark.parametrize(("writes", "length"), [(1, 1), (3, 1), (1, 2), (5, 3)])
def test_draws_are_uniform_over_starts_and_environments(writes, length):
    rollout = going_on(4, num_envs=3)
    ring = replay.empty(jax.tree.map(lambda x: x[0], rollout), 8)
    for i in range(writes):
        ring = add(ring, rollout._replace(action=rollout.action + 12 * i))
    rows = min(8, 4 * writes)
    oldest, cells = 4 * writes - rows, (rows - length + 1) * 3
    batch = sample(
        ring, jax.random.key(11 * writes + length), Replay(batch_size=300 * cells, length=length), 0.9
    )
    first = np.asarray(batch.action if length == 1 else batch.action[:, 0]).astype(int)
    assert first.min() >= 3 * oldest
    counts = np.bincount(first - 3 * oldest, minlength=cells)
    assert len(counts) == cells
    assert chisquare(counts).pvalue > 1e-3
    # and one draw says nothing of the next
    first -= 3 * oldest
    pairs = np.bincount(first[:-1:2] // 3 * (cells // 3) + first[1::2] // 3, minlength=(cells // 3) ** 2)
    assert chisquare(pairs).pvalue > 1e-3


def test_cut_ends_the_masked_episodes_at_the_newest_row_only():
    rollout = going_on(2, num_envs=4)
    ends = np.zeros((2, 4), bool)
    ends[1, 2] = True
    rollout = rollout._replace(terminated=ends)
    empty = replay.empty(jax.tree.map(lambda x: x[0], rollout), 4)
    ring = cut(add(empty, rollout), np.array([True, False, True, False]))
    # terminated wins: never both flags on one row
    np.testing.assert_array_equal(ring.rows.truncated[:2], [[0, 0, 0, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(ring.rows.terminated[:2], ends)
    assert int(ring.clock.value) == 2
    assert not cut(empty, np.ones(4, bool)).rows.truncated.any()
    # what an environment said itself stays
    kept = cut(add(empty, rollout._replace(terminated=~ends & False, truncated=ends)), np.zeros(4, bool))
    np.testing.assert_array_equal(kept.rows.truncated[:2], ends)


@pytest.mark.parametrize(
    ("capacity", "num_envs", "steps", "count"),
    [(10, 1, 1, 10), (10, 1, 3, 9), (10, 3, 1, 3), (100, 7, 5, 10), (6, 2, 3, 3), (1_000_000, 16, 4, 62_500)],
)
def test_slots_are_whole_rollouts_within_the_capacity(capacity, num_envs, steps, count):
    assert Replay(capacity=capacity, steps=steps).slots(num_envs) == count
    assert count % steps == 0
    assert count * num_envs <= capacity < (count + steps) * num_envs


@pytest.mark.parametrize(("capacity", "num_envs", "steps"), [(5, 2, 3), (1, 2, 1), (0, 1, 1)])
def test_there_are_no_slots_where_no_rollout_fits(capacity, num_envs, steps):
    assert Replay(capacity=capacity, steps=steps).slots(num_envs) == 0
    assert Replay(capacity=steps * num_envs, steps=steps).slots(num_envs) == steps


def test_planned_bytes_are_the_allocated_ones():
    row = Episodes(3, 0).rollout(1)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), row)
    ring = replay.empty(shapes, 9)
    assert replay.planned_bytes(shapes, 9) == sum(x.nbytes for x in jax.tree.leaves(ring.rows))
    assert all(x.shape[:2] == (9, 3) for x in jax.tree.leaves(ring.rows))


def test_a_ring_keeps_its_structure_shapes_and_dtypes():
    rollout = going_on(2)
    ring = replay.empty(jax.tree.map(lambda x: x[0], rollout), 4)
    wide = rollout._replace(reward=rollout.reward.astype(np.float16), obs=rollout.obs.astype(np.int32))
    for new in (add(ring, rollout), add(ring, wide), cut(ring, np.array([True]))):
        assert jax.tree.structure(new) == jax.tree.structure(ring)
        same = jax.tree.map(
            lambda a, b: (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type), new, ring
        )
        assert all(jax.tree.leaves(same))


def test_gamma_may_be_traced():
    rollout = going_on(4)
    ring = add(replay.empty(jax.tree.map(lambda x: x[0], rollout), 4), rollout)
    gammas = jnp.array([0.5, 0.9])

    def discount(gamma, n_step):
        return replay.n_step_batch(
            ring, replay.Windows(jnp.zeros(1, int), jnp.zeros(1, int)), gamma, n_step
        ).discount

    for n_step in (1, 3):
        got = jax.vmap(lambda gamma: discount(gamma, n_step))(gammas)  # noqa: B023
        np.testing.assert_allclose(got[:, 0], gammas**n_step, rtol=1e-6)

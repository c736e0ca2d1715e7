"""Every adapter and both drivers against worlds that show each missing, doubled or invented row.

`make audit` plays a million steps through each adapter (POLYAK_AUDIT_STEPS), `make test` some thousands.
"""

import os
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import (
    CARTPOLE,
    COUNTING,
    Config,
    World,
    auditor,
    drive,
    history,
    ring_of,
    row_is_sound,
    state_of,
)
from counting_gym import CountingGym

from polyak.drivers.learn import on_policy_batch
from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.envs.find import find
from polyak.envs.worlds.counting import Counting
from polyak.interface import OnPolicy, Replay, Transition

STEPS = int(os.environ.get("POLYAK_AUDIT_STEPS", "20000"))
SLOW_SHARE = 0.1 if STEPS < 1_000_000 else 1.0  # of them, where processes step
SEEDS = (1, 2)
T = 7  # rows of a rollout: divides neither the lengths nor the time limits


@dataclass(frozen=True)
class Adapter:
    """A world behind an adapter.

    kinds  of data that an algorithm asks for, see `data_of`
    share  of the steps that this one plays
    """

    name: str
    world: World
    make: Any
    kinds: tuple[str, ...] = ("replay",)
    num_envs: int = 5
    seeds: tuple[int, ...] = SEEDS
    share: float = 1.0
    asynchronous: bool = False


def counting_gym(**fields):
    return GymnasiumFactory("CountingGym", fields, entry=CountingGym)


def limited(name, field, limit):
    return lambda: find(name, {field: limit})


def data_of(kind, rows, num_envs):
    """On policy; a ring that keeps everything; a small ring that wraps often, with windows of three rows."""
    if kind == "on policy":
        return OnPolicy(steps=T)
    if kind == "replay":
        return Replay(rows * num_envs, batch_size=32, warmup=10 * T, steps=T)
    return Replay(5 * T * num_envs, batch_size=32, warmup=2 * T * num_envs, steps=T, updates=2, n_step=3)


ALL = ("on policy", "replay", "windows of 3")
LIMITS = {
    "jax:CartPole-v1": "time_limit",
    "gymnax:CartPole-v1": "max_steps_in_episode",
    "CartPole-v1": "max_episode_steps",
    "envpool:CartPole-v1": "max_episode_steps",
}
ADAPTERS = [
    Adapter("jax counting", COUNTING, Counting, ALL, 3),
    Adapter("jax counting, limit 12", COUNTING, lambda: Counting(time_limit=12), ALL[2:], 4),
    Adapter("jax counting, no limit", COUNTING, lambda: Counting(time_limit=None), ALL[:1], 3),
    Adapter("gymnasium counting", COUNTING, counting_gym, ALL),
    Adapter("gymnasium, limit 12", COUNTING, lambda: counting_gym(max_episode_steps=12), ALL[2:]),
    Adapter("gymnasium, processes", COUNTING, counting_gym, ("replay",), 3, (1,), SLOW_SHARE, True),
    *[Adapter(name, CARTPOLE, limited(name, field, 23)) for name, field in LIMITS.items()],
]


# ---- the audit


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_no_row_is_missing_doubled_or_invented(adapter):
    lanes = adapter.num_envs * len(adapter.seeds)
    iterations = -(-round(STEPS * adapter.share) // (len(adapter.kinds) * lanes * T))
    played = bad = 0
    for kind in adapter.kinds:
        steps, violations = audit(adapter, kind, iterations)
        played, bad = played + steps, bad + violations
    print(f"{adapter.name:24} {played:>10,} steps {bad:>4} violations", flush=True)
    assert bad == 0


def audit(adapter, kind, iterations):
    """Play with one kind of data; the steps, and how many rows are wrong. All sums are checked here."""
    cfg = Config(data=data_of(kind, iterations * T, adapter.num_envs))
    world = adapter.make()
    driver = drive(auditor(adapter.world), cfg, world, adapter.seeds, adapter.num_envs, adapter.asynchronous)
    try:
        carry, sums = play(driver, iterations)
    finally:
        driver.close()
    ledger = jax.tree.map(np.asarray, state_of(carry))
    rows = iterations * T * adapter.num_envs
    assert ledger.rows.tolist() == [rows] * len(adapter.seeds)
    assert_sums(sums, ledger)
    updates = iterations - driver.warmup
    assert sums["updates"].tolist() == [updates * getattr(cfg.data, "updates", 1)] * len(adapter.seeds)
    bad = int(ledger.gaps.sum() + ledger.wrong.sum())
    assert bad or not sums["update/violations"].any()
    if kind != "on policy":
        for index in range(len(adapter.seeds)):
            kept = history(ring_of(carry), index)
            bad += audit_history(adapter.world, kept, world.spec.time_limit)
            if kind == "replay":
                assert_episodes(kept, {name: float(value[index]) for name, value in sums.items()})
                assert_starts_differ(kept)
    return rows * len(adapter.seeds), bad


def play(driver, iterations):
    """Advance in three parts, with a report after each; the run and the sum of the reports."""
    carry, total = driver.start(), {}
    for count in (1, iterations // 2, iterations - 1 - iterations // 2):
        carry = driver.advance(carry, count)
        carry, sums = driver.report(carry)
        total = {name: total.get(name, 0.0) + value.astype(np.float64) for name, value in sums.items()}
    return carry, total


def assert_sums(sums, ledger):
    """What the driver reports is what the rollouts say."""
    np.testing.assert_array_equal(sums["episodes"], ledger.episodes)
    np.testing.assert_array_equal(sums["episode/length"], ledger.length)
    np.testing.assert_array_equal(sums["episode/return"], ledger.total)
    assert (ledger.episodes > 10).all()
    assert (ledger.terminated > 0).all()
    assert (ledger.terminated < ledger.episodes).all()  # both kinds of end were seen


def audit_history(world, rows, time_limit):
    """How many of the rows [time, N, ...] do not follow the one before, in plain NumPy."""
    last = rows.terminated | rows.truncated
    gap = (rows.obs[1:] != rows.next_obs[:-1]).any(-1) & ~last[:-1]
    stale = ~np.asarray(world.is_start(rows.obs[1:])) & last[:-1]
    both = rows.terminated & rows.truncated
    follows = np.asarray(world.follows(rows.obs, rows.action, rows.reward, rows.next_obs, rows.terminated, 1))
    late = 0
    if world is COUNTING and time_limit is not None:
        late = (rows.next_obs[..., 2] > time_limit) | ((rows.next_obs[..., 2] == time_limit) & ~last)
    return int(gap.sum() + stale.sum() + both.sum() + (~follows).sum() + np.sum(late))


def assert_episodes(rows, sums):
    """Returns and lengths of all episodes, counted one by one in float64."""
    returns, lengths = [], []
    for env in range(rows.reward.shape[1]):
        length, total = 0, 0.0
        for reward, last in zip(
            rows.reward[:, env].tolist(), (rows.terminated | rows.truncated)[:, env].tolist(), strict=True
        ):
            length, total = length + 1, total + reward
            if last:
                returns.append(total)
                lengths.append(length)
                length, total = 0, 0.0
    assert (sums["episodes"], sums["episode/length"]) == (len(lengths), sum(lengths))
    assert sums["episode/return"] == sum(returns)


def assert_starts_differ(rows):
    """Every episode of every environment begins from a start of its own."""
    last = rows.terminated | rows.truncated
    starts = np.concatenate([rows.obs[0], rows.obs[1:][last[:-1]]])
    assert len(np.unique(starts, axis=0)) == len(starts)
    assert len(starts) > 20


# ---- what the numbers must look like


def test_counting_returns_are_triangular_numbers_and_lengths_are_uniform():
    driver = drive(auditor(COUNTING), Config(data=Replay(60_000, warmup=T, steps=T)), Counting(), (1,), 3)
    carry = driver.advance(driver.start(), 600)
    rows = history(ring_of(carry), 0)
    last = rows.terminated | rows.truncated
    lengths = rows.next_obs[..., 2][last].astype(int)
    assert set(lengths) == set(range(1, 21))
    assert abs(lengths.mean() - 10.5) < 5 * 5.8 / np.sqrt(len(lengths))
    assert abs(rows.terminated[last].mean() - 0.5) < 5 * 0.5 / np.sqrt(len(lengths))
    sums = driver.report(carry)[1]
    assert sums["episode/return"][0] == (lengths * (lengths + 1) // 2).sum()


def test_seeds_and_environments_play_different_episodes():
    driver = drive(auditor(COUNTING), Config(data=Replay(2100, warmup=T, steps=T)), Counting(), SEEDS, 3)
    ring = ring_of(driver.advance(driver.start(), 100))
    starts = np.concatenate([history(ring, seed).obs.reshape(-1, 3) for seed in range(2)])
    starts = starts[starts[:, 2] == 0]
    assert len(np.unique(starts, axis=0)) == len(starts)


@pytest.mark.parametrize("name", LIMITS)
def test_a_time_limit_truncates_at_exactly_that_step_and_nowhere_else(name):
    cfg = Config(data=Replay(6000, warmup=T, steps=T))
    driver = drive(auditor(CARTPOLE), cfg, find(name, {LIMITS[name]: 11}), (1,), 3)
    try:
        rows = history(ring_of(driver.advance(driver.start(), 120)), 0)
    finally:
        driver.close()
    for env in range(3):
        length = 0
        for terminated, truncated in zip(rows.terminated[:, env], rows.truncated[:, env], strict=True):
            length += 1
            assert truncated == (length == 11 and not terminated)
            if terminated or truncated:
                length = 0
    assert rows.truncated.sum() > 20
    assert rows.terminated.any()


# ---- the auditor itself finds what is wrong


def sound_rows(steps=12, num_envs=2):
    """Rows as Counting gives them: episodes of 5 steps that terminate."""
    time = np.arange(steps)[:, None] + np.array([0, 2])
    t, episode = time % 5, time // 5
    obs = np.stack([episode + 10, np.broadcast_to([3, 4], t.shape), t], -1).astype(np.float32)
    obs[..., 2] = t
    next_obs = obs + np.array([0, 0, 1], np.float32)
    terminated = t == 4
    action = np.zeros((steps, num_envs), np.int32)
    reward = (t + 1).astype(np.float32)
    return Transition(obs, action, reward, next_obs, terminated, np.zeros_like(terminated), ())


def found(rows, time_limit=None):
    """What `observe`, `update` and the NumPy audit each count."""
    algorithm, cfg = auditor(COUNTING), Config()
    spec = Counting(time_limit=time_limit).spec
    spec = type(spec)(spec.obs, spec.action, time_limit, 2)
    state = algorithm.init(cfg, spec, jax.random.key(0))
    running = state.running.replace(
        expected=jnp.asarray(rows.obs[0]), fresh=jnp.zeros(2, bool), length=jnp.asarray([0, 2])
    )
    observed = algorithm.observe(cfg, spec, state.replace(running=running), rows)
    sound = row_is_sound(COUNTING, on_policy_batch(rows, cfg.gamma, None), 1)
    return int(observed.gaps), int((~sound).sum()), audit_history(COUNTING, rows, time_limit)


def change(rows, **fields):
    changed = {name: np.array(getattr(rows, name)) for name in fields}
    for name, (where, value) in fields.items():
        changed[name][where] = value
    return rows._replace(**changed)


def test_a_sound_stream_passes():
    assert found(sound_rows()) == (0, 0, 0)
    assert found(sound_rows(), 5) == (0, 0, 0)


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"next_obs": ((4, 0), [11, 3, 0])}, (0, 1, 1)),  # the observation after the reset
        ({"next_obs": ((2, 0), [10, 3, 4])}, (1, 1, 2)),  # a step is missing
        ({"truncated": ((4, 0), True)}, (1, 1, 1)),  # both kinds of end
        ({"terminated": ((4, 0), False)}, (1, 0, 1)),  # an end that nobody saw
        ({"reward": ((3, 1), 9)}, (0, 1, 1)),
        ({"obs": ((5, 0), [10, 3, 1])}, (1, 1, 2)),  # an episode that does not begin at its start
    ],
)
def test_each_planted_fault_is_found(fields, seen):
    assert found(change(sound_rows(), **fields)) == seen


def test_a_time_limit_that_is_passed_is_found():
    gaps, wrong, late = found(sound_rows(), 4)
    assert gaps > 0
    assert wrong == 0
    assert late > 0


@pytest.mark.parametrize(("k", "count"), [(1, 0), (2, 0), (3, 0), (2, 1)])
def test_windows_are_followed_over_their_rows(k, count):
    rows = sound_rows(1, 2)
    reward = sum(0.5**i * (rows.reward + i) for i in range(k)) + count
    batch = on_policy_batch(rows, 0.5, None)._replace(
        next_obs=rows.obs + np.array([0, 0, k], np.float32),
        reward=reward,
        discount=np.full((1, 2), 0.5**k, np.float32),
    )
    assert int((~row_is_sound(COUNTING, batch, 3)).sum()) == 2 * count

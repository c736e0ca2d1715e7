"""Rollouts of whole episodes, under both drivers: `OnPolicy(episodes=k)`, its padding, and common random numbers.

A witness keeps every batch that it was given, and what its memory was when it acted.
"""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import arrays_of, assert_same_bits, drive, saved_and_loaded, state_of
from counting_gym import CountingGym

from polyak.drivers.check import check_data
from polyak.drivers.in_graph import InGraph
from polyak.drivers.side_by_side import SideBySide
from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.envs.worlds.counting import Counting
from polyak.errors import UserError
from polyak.interface import Algorithm, Batch, Box, Discrete, OnPolicy, Spec, Update, rows_of
from polyak.pytree import Record, pytree
from polyak.wrappers import normalize_obs, normalize_reward

K, N, LIMIT, ROLLOUTS, SEEDS = 2, 3, 6, 7, (4, 5)
T = K * LIMIT
PLACES = ("graph", "host")
each = pytest.mark.parametrize("place", PLACES)


@dataclass(frozen=True)
class Config:
    gamma: float = 0.5
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=K))


@pytree
class Diary(Record):
    """Every batch [ROLLOUTS, T, N, ...], and how many there were."""

    batches: Any
    count: jax.Array


def row_of(spec: Spec) -> dict[str, Any]:
    flags = dict.fromkeys(("terminated", "truncated"), jnp.zeros((), bool))
    numbers = dict.fromkeys(("reward", "discount", "weight", "noise", "drawn"), jnp.zeros(()))
    obs = dict.fromkeys(("obs", "next_obs"), jnp.zeros(spec.obs.shape))
    return flags | numbers | obs | dict.fromkeys(("episode", "age"), jnp.zeros((), jnp.int32))


def init(cfg: Config, spec: Spec, key: jax.Array) -> Diary:
    lead = ROLLOUTS, rows_of(cfg.data, spec.time_limit), spec.num_envs
    return Diary(
        jax.tree.map(lambda x: jnp.zeros((*lead, *x.shape), x.dtype), row_of(spec)), jnp.zeros((), jnp.int32)
    )


def memory(cfg: Config, spec: Spec, env_ids: Any, episode: Any, key: jax.Array) -> Any:
    drawn = jax.random.uniform(key, env_ids.shape)
    return {"drawn": drawn, "episode": episode, "age": jnp.zeros_like(episode)}


def act(cfg: Config, spec: Spec, actor: Any, memory: Any, obs: Any, key: jax.Array, explore: bool) -> Any:
    noise = jax.random.uniform(key, (len(obs),))
    after = {**memory, "age": memory["age"] + 1}
    return (noise > 0.5).astype(jnp.int32), after, {**memory, "noise": noise}


def update(cfg: Config, spec: Spec, state: Diary, batch: Batch, key: jax.Array) -> Update:
    row = {**{name: x for name, x in batch._asdict().items() if name in state.batches}, **batch.extras}
    batches = jax.tree.map(lambda kept, x: kept.at[state.count].set(x), state.batches, row)
    return Update(Diary(batches, state.count + 1), {"played": batch.weight.sum()})


WITNESS = Algorithm(Config, ("discrete",), init, lambda state: (), act, update, memory=memory)


def world_of(place: str) -> Any:
    """Episodes of 1 to 20 steps, of which six are allowed."""
    if place == "graph":
        return Counting(time_limit=LIMIT)
    return GymnasiumFactory("CountingGym", {"max_episode_steps": LIMIT}, entry=CountingGym)


@functools.cache
def driver_of(place: str, seeds: tuple[int, ...] = SEEDS, common: int = 0, envs: int = N) -> Any:
    cfg = Config(data=OnPolicy(episodes=K, common=common))
    driver = drive(WITNESS, cfg, world_of(place), seeds, envs)
    assert isinstance(driver, InGraph) == (place == "graph")
    return driver


@functools.cache
def seen(place: str, seeds: tuple[int, ...] = SEEDS, common: int = 0) -> tuple[Any, dict[str, np.ndarray]]:
    """Batches [S, ROLLOUTS, T, N, ...] of a run in two parts, and what was reported."""
    driver = driver_of(place, seeds, common)
    run = driver.advance(driver.advance(driver.start(), 3), ROLLOUTS - 3)
    sums = driver.report(run)[1]
    return jax.tree.map(np.asarray, state_of(run).batches), sums


def episodes_in(batches: Any, seed: int, rollout: int, env: int) -> list[dict[str, np.ndarray]]:
    """The rows of each episode of one environment in one rollout, padding left out."""
    rows = {name: x[seed, rollout, :, env] for name, x in batches.items()}
    ends = np.flatnonzero(rows["terminated"] | rows["truncated"])
    cuts = zip([0, *(ends[:-1] + 1)], ends + 1, strict=True)
    return [{name: x[start:stop] for name, x in rows.items()} for start, stop in cuts]


PLACE = [
    (seed, rollout, env) for seed in range(len(SEEDS)) for rollout in range(ROLLOUTS) for env in range(N)
]


@each
def test_a_rollout_is_k_whole_episodes_of_each_environment_from_resets(place):
    batches, _ = seen(place)
    lengths, kinds = set(), set()
    for seed, rollout, env in PLACE:
        found = episodes_in(batches, seed, rollout, env)
        assert len(found) == K
        for number, rows in enumerate(found, rollout * K):
            steps = len(rows["reward"])
            np.testing.assert_array_equal(rows["obs"][:, 2], np.arange(steps))
            np.testing.assert_array_equal(rows["next_obs"][:, 2], np.arange(1, steps + 1))
            np.testing.assert_array_equal(rows["reward"], np.arange(1, steps + 1))
            assert len(np.unique(rows["obs"][:, :2], axis=0)) == 1
            assert rows["terminated"][-1] != rows["truncated"][-1]
            assert not (rows["terminated"] | rows["truncated"])[:-1].any()
            assert steps <= LIMIT
            np.testing.assert_array_equal(rows["weight"], 1)
            np.testing.assert_array_equal(rows["discount"], np.where(rows["terminated"], 0, 0.5))
            # fresh memory in every episode, which knows its number
            np.testing.assert_array_equal(rows["age"], np.arange(steps))
            np.testing.assert_array_equal(rows["episode"], number)
            assert len(np.unique(rows["drawn"])) == 1
            lengths.add(steps)
            kinds.add(bool(rows["terminated"][-1]))
    assert {1, LIMIT} <= lengths
    assert kinds == {True, False}


@each
def test_padding_weighs_nothing_ends_nothing_and_repeats_the_first_row(place):
    batches, _ = seen(place)
    padding = 0
    for seed, rollout, env in PLACE:
        played = sum(len(rows["reward"]) for rows in episodes_in(batches, seed, rollout, env))
        rows = {name: x[seed, rollout, :, env] for name, x in batches.items()}
        after = {name: x[played:] for name, x in rows.items()}
        padding += T - played
        for name in ("reward", "terminated", "truncated", "discount", "weight"):
            assert not after[name].any()
        for name in ("obs", "next_obs", "noise", "drawn", "episode", "age"):
            np.testing.assert_array_equal(after[name], np.broadcast_to(rows[name][0], after[name].shape))
    assert padding > len(PLACE)


@each
def test_no_episode_memory_or_noise_comes_twice(place):
    batches, _ = seen(place)
    found = [rows for place in PLACE for rows in episodes_in(batches, *place)]
    assert len(np.unique([rows["obs"][0, :2] for rows in found], axis=0)) == len(found)
    assert len(np.unique([rows["drawn"][0] for rows in found])) == len(found)
    noise = np.concatenate([rows["noise"] for rows in found])
    assert len(np.unique(noise)) == len(noise)


@each
def test_what_is_reported_is_what_was_played(place):
    batches, sums = seen(place)
    for seed in range(len(SEEDS)):
        found = [rows for s, *where in PLACE if s == seed for rows in episodes_in(batches, s, *where)]
        assert sums["episodes"][seed] == len(found) == K * N * ROLLOUTS
        assert sums["episode/length"][seed] == sum(len(rows["reward"]) for rows in found)
        assert sums["episode/return"][seed] == sum(rows["reward"].sum() for rows in found)
        assert sums["update/played"][seed] == sums["episode/length"][seed]


def test_both_drivers_have_the_same_memory_for_the_same_episode():
    graph, host = seen("graph")[0], seen("host")[0]
    where = [(batches, *place) for place in PLACE for batches in (graph, host)]
    for one, other in zip(where[::2], where[1::2], strict=True):
        assert (
            episodes_in(*one)[0]["drawn"][0] == episodes_in(*other)[0]["drawn"][0]
        )  # of the first, at row 0


@each
def test_a_seeds_neighbours_do_not_change_its_rollouts(place):
    """Though a rollout lasts until the last environment of the last seed is through."""
    alone, together = seen(place, SEEDS[1:])[0], seen(place)[0]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[1]), alone, together)


def test_seeds_side_by_side_are_their_single_runs():
    driver = driver_of("graph")
    beside = SideBySide(WITNESS, driver.cfg, driver.env, driver.spec, SEEDS, threads=2)
    run = beside.advance(beside.start(), ROLLOUTS)
    batches = beside.pack(run)[0]["state"].batches
    beside.close()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), batches, seen("graph")[0])


@each
def test_a_run_that_is_saved_and_loaded_goes_on_to_the_same_bits(place, tmp_path):
    driver = driver_of(place)
    whole = arrays_of(driver, driver.advance(driver.start(), 5))
    run = driver.start()
    for count in (0, 2, 2, 1):
        run = saved_and_loaded(driver, driver.advance(run, count), tmp_path)
        assert driver.inexact == []
    assert_same_bits(arrays_of(driver, run), whole)


def test_a_rollout_in_graph_ends_with_the_last_episode():
    """Longer limits cost no steps: an environment whose step tells of itself is stepped as often as needed."""
    told = []

    @pytree
    class Telling(Counting):
        def step(self, state, action, key):
            jax.debug.callback(lambda t: told.append(int(t)), state.t)
            return super().step(state, action, key)

    driver = drive(WITNESS, Config(), Telling(max_length=2, time_limit=50), (0,), 1)
    run = driver.advance(driver.start(), 1)
    jax.effects_barrier()
    played = state_of(run).batches["weight"].sum()
    assert K <= played <= 2 * K
    assert len(told) == played


def test_an_environment_on_the_host_is_stepped_until_the_last_episode_is_over():
    steps = []

    class Telling(CountingGym):
        def step(self, action):
            steps.append(self.t)
            return super().step(action)

    factory = GymnasiumFactory("Telling", {"max_length": 2, "max_episode_steps": 50}, entry=Telling)
    driver = drive(WITNESS, Config(), factory, (0,), 1)
    played = state_of(driver.advance(driver.start(), 1)).batches["weight"].sum()
    driver.close()
    assert K <= len(steps) == played <= 2 * K


class Endless(gymnasium.Env):
    """Says that it has a time limit, and has none."""

    observation_space = gymnasium.spaces.Box(0, 1e6, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(3, self.t, np.float32), 1.0, False, False, {}


def test_an_environment_that_forgets_its_time_limit_is_held_to_it():
    factory = GymnasiumFactory("Endless", {"max_episode_steps": LIMIT}, entry=Endless)
    spec = dataclasses.replace(factory.spec, num_envs=N)
    from polyak.drivers.host import Host

    free = GymnasiumFactory("Endless", {}, entry=Endless)
    driver = Host(WITNESS, Config(), free.make(N), spec, (0,))
    batches = jax.tree.map(np.asarray, state_of(driver.advance(driver.start(), 2)).batches)
    driver.close()
    want = np.arange(1, T + 1) % LIMIT == 0
    for rollout in range(2):
        np.testing.assert_array_equal(batches["truncated"][0, rollout], np.repeat(want[:, None], N, axis=1))


# ---- common random numbers


@each
@pytest.mark.parametrize("common", [1, 3])
def test_common_episodes_are_those_of_environment_0_but_for_the_noise_of_acting(place, common):
    own, shared = seen(place)[0], seen(place, SEEDS, common)[0]
    for seed in range(len(SEEDS)):
        first = {}
        for rollout in range(ROLLOUTS):
            for env in range(N):
                for number, rows in enumerate(episodes_in(shared, seed, rollout, env), rollout * K):
                    first.setdefault(number % common, rows["next_obs"][:, :2])
                    np.testing.assert_array_equal(rows["next_obs"][:, :2], first[number % common])
        assert len(np.unique([x[0] for x in first.values()], axis=0)) == common
        np.testing.assert_array_equal(first[0], episodes_in(own, seed, 0, 0)[0]["next_obs"][:, :2])
    noise = shared["noise"][shared["weight"] > 0]
    assert len(np.unique(noise)) == len(noise)


# ---- normalisers


@each
def test_normalisers_do_not_see_padding(place):
    wrapped = normalize_obs(normalize_reward(WITNESS))
    driver = drive(wrapped, Config(), world_of(place), (4,), N)
    state = jax.tree.map(np.asarray, state_of(driver.advance(driver.start(), ROLLOUTS)))
    driver.close()
    batches, _ = seen(place)
    played = batches["weight"][0] > 0
    obs = batches["obs"][0][played].astype(np.float64)
    moments = state.moments
    assert moments.count[0] == played.sum()
    np.testing.assert_allclose(moments.mean[0][0], obs.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(moments.var[0][0], obs.var(axis=0), rtol=1e-3)
    sums = []
    for _, rollout, env in PLACE[: ROLLOUTS * N]:
        for rows in episodes_in(batches, 0, rollout, env):
            total = 0.0
            for reward in rows["reward"]:
                total = 0.5 * total + float(reward)
                sums.append(total)
    np.testing.assert_allclose(state.inner.moments.mean[0], np.mean(sums), rtol=1e-4)
    np.testing.assert_allclose(state.inner.moments.var[0], np.var(sums), rtol=1e-3)


# ---- refusals


@pytest.mark.parametrize(
    ("data", "limit", "says"),
    [
        (OnPolicy(), 10, "data.steps is 0"),
        (OnPolicy(steps=4, episodes=2), 10, "data.steps is 4 and data.episodes 2: set one of them to 0"),
        (OnPolicy(episodes=2), None, "data.episodes needs a time limit"),
        (OnPolicy(episodes=-1), 10, "data.episodes is -1"),
        (OnPolicy(episodes=1, common=-1), 10, "data.common is -1"),
    ],
)
def test_a_rollout_without_a_length_is_refused(data, limit, says):
    spec = Spec(Box((2,)), Discrete(2), limit)
    check_data("witness", WITNESS, Config(), dataclasses.replace(spec, time_limit=10))
    with pytest.raises(UserError, match=says):
        check_data("witness", WITNESS, Config(data=data), spec)


def test_an_algorithm_that_would_learn_from_padding_is_not_given_any():
    from polyak.algorithms import find

    ppo = find("ppo")
    cfg = ppo.Config(data=OnPolicy(episodes=1))
    with pytest.raises(UserError, match="padding"):
        check_data("ppo", ppo, cfg, Spec(Box((2,)), Discrete(2), 10))

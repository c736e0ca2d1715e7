"""What is drawn at random differs by step, episode, rollout, environment and seed, under both drivers.

The world tells what it drew and which action reached it; the algorithm tells what it drew, when it began its memory
and with which key it learned. Nothing here is learned: a stream that repeats itself would leave every curve as it is.
"""

import dataclasses
import functools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import drive, history, ring_of, state_of

from polyak.drivers.evaluate import Evaluator
from polyak.drivers.in_graph import InGraph
from polyak.drivers.keys import Keys, RowKeys
from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.envs.environment import Environment, Step
from polyak.interface import Algorithm, Box, Replay, Spec, Transition, Update
from polyak.pytree import Record, pytree

N, SEEDS, T, LIMIT, WARM, ROLLOUTS = 3, (4, 5), 4, 5, 3, 9
LOW, HIGH = (-3.0, 0.0), (5.0, 0.5)
PLACES = ("graph", "host")
MEASURES = {"steps": "sum", "pushed": "sum"}
OBS = Box(
    (5,), -10.0, 10.0
)  # drawn at the start, drawn in this step, two numbers of the action, steps so far


@pytree
class Drawing(Environment):
    """Tells what it drew when the episode began, what it draws in each step, and the action that reached it."""

    @property
    def spec(self) -> Spec:
        return Spec(OBS, Box((2,), LOW, HIGH), LIMIT, measures=MEASURES)

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        start = jax.random.uniform(key)
        obs = jnp.concatenate([jnp.stack([start, start]), jnp.zeros(3)])
        return obs, obs

    def step(self, state: Any, action: Any, key: jax.Array) -> Step:
        drawn = jnp.stack([state[0], jax.random.uniform(key)])
        obs = jnp.concatenate([drawn, action, state[4:] + 1])
        return Step(
            obs,
            obs,
            jnp.float32(1),
            jnp.bool_(False),
            jnp.bool_(False),
            {"steps": jnp.float32(1), "pushed": action[0]},
        )


class DrawingGym(gymnasium.Env):
    """The same for Gymnasium."""

    observation_space = gymnasium.spaces.Box(-10, 10, (5,), np.float32)
    action_space = gymnasium.spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        start = self.np_random.random()
        self.obs = np.array([start, start, 0, 0, 0], np.float32)
        return self.obs, {}

    def step(self, action):
        drawn = self.np_random.random()
        self.obs = np.array([self.obs[0], drawn, *action, self.obs[4] + 1], np.float32)
        return self.obs, 1.0, False, False, {"steps": 1.0, "pushed": action[0]}


@dataclass(frozen=True)
class Config:
    gamma: float = 0.9
    data: Replay = field(
        default_factory=lambda: Replay(
            capacity=N * T * ROLLOUTS, batch_size=4, warmup=N * T * WARM, steps=T, updates=2
        )
    )


@pytree
class Diary(Record):
    """What each update drew, in order."""

    learned: jax.Array  # [updates]
    count: jax.Array


def init(cfg: Config, spec: Spec, key: jax.Array) -> Diary:
    return Diary(jnp.full(2 * ROLLOUTS, -1.0), jnp.int32(0))


def memory(cfg: Config, spec: Spec, env_ids: Any, episode: Any, key: jax.Array) -> Any:
    return {
        "drawn": jax.random.uniform(key, env_ids.shape),
        "episode": episode,
        "age": jnp.zeros_like(episode),
    }


def act(cfg: Config, spec: Spec, actor: Any, memory: Any, obs: Any, key: jax.Array, explore: bool) -> Any:
    """Uniform actions, drawn as those of a warm-up are: with one key for both they would be the same.

    In an evaluation they say how old the memory is.
    """
    action = jax.random.uniform(key, (len(obs), 2), jnp.float32, -1.0, 1.0)
    if not explore:
        action = jnp.stack([memory["age"] / 10, jnp.zeros(len(obs))], axis=-1)
    return action, {**memory, "age": memory["age"] + 1}, {"action": action, **memory}


def update(cfg: Config, spec: Spec, state: Diary, batch: Any, key: jax.Array) -> Update:
    learned = state.learned.at[state.count].set(jax.random.uniform(key))
    return Update(Diary(learned, state.count + 1), {"drawn": batch.obs[:, 0].mean()})


WITNESS = Algorithm(Config, ("continuous",), init, lambda state: (), act, update, memory=memory)


@dataclass
class Seen:
    """What two seeds went through: rows [time, N, ...] of each, what their updates drew, what was reported."""

    rows: list[Transition]
    learned: np.ndarray  # [S, updates]
    sums: dict[str, np.ndarray]


def make(place: str) -> Any:
    """The world in graph or on the host."""
    made = {"max_episode_steps": LIMIT}
    return Drawing() if place == "graph" else GymnasiumFactory("Drawing", made, MEASURES, entry=DrawingGym)


@functools.cache
def seen(place: str) -> Seen:
    driver = drive(WITNESS, Config(), make(place), SEEDS, N)
    assert isinstance(driver, InGraph) == (place == "graph")
    carry = driver.advance(driver.start(), WARM + 1)
    carry = driver.advance(carry, ROLLOUTS - WARM - 1)
    learned = np.asarray(state_of(carry).learned)[:, : 2 * (ROLLOUTS - WARM)]
    rows = [history(ring_of(carry), seed) for seed in range(len(SEEDS))]
    sums = driver.report(carry)[1]
    driver.close()
    assert all(len(each.reward) == ROLLOUTS * T for each in rows)
    return Seen(rows, learned, sums)


def distinct(*draws: Any) -> bool:
    """Whether no number was drawn twice."""
    flat = np.concatenate([np.ravel(x) for x in draws])
    return len(np.unique(flat)) == flat.size


each = pytest.mark.parametrize("place", PLACES)


@each
def test_an_environment_draws_anew_in_every_step_and_episode(place):
    rows = seen(place).rows
    starts = [each.obs[each.obs[..., 4] == 0][:, 0] for each in rows]
    assert all(len(x) == N * -(-ROLLOUTS * T // LIMIT) for x in starts)
    assert distinct(*starts, *(each.next_obs[..., 1] for each in rows))


@each
def test_the_noise_of_a_row_is_that_of_no_other_row_rollout_or_seed(place):
    assert distinct(*(each.extras["action"] for each in seen(place).rows))


@each
def test_the_warm_up_draws_from_a_stream_of_its_own(place):
    for each_seed in seen(place).rows:
        warm = each_seed.action[: WARM * T]
        np.testing.assert_array_equal(each_seed.action[WARM * T :], each_seed.extras["action"][WARM * T :])
        assert np.abs(warm).max() <= 1
    warm = [each_seed.action[: WARM * T] for each_seed in seen(place).rows]
    assert distinct(*warm, *(each_seed.extras["action"] for each_seed in seen(place).rows))


@each
def test_every_update_of_every_rollout_learns_with_a_key_of_its_own(place):
    learned = seen(place).learned
    assert (learned >= 0).all()
    assert distinct(learned)


@each
def test_memory_is_made_afresh_with_the_episode_and_only_then(place):
    drawn = []
    for each_seed in seen(place).rows:
        own, age = each_seed.extras, each_seed.obs[..., 4].astype(int)
        np.testing.assert_array_equal(own["age"], age)
        number = np.cumsum(age == 0, axis=0) - 1
        np.testing.assert_array_equal(own["episode"], number)
        drawn.append(own["drawn"][age == 0])
        same = (own["drawn"][1:] == own["drawn"][:-1]) == (age[1:] > 0)
        assert same.all()
    assert distinct(*drawn)


@pytest.mark.parametrize("row", [0, 1, 2**30 - 1, 2**30])
def test_sampled_actions_of_an_evaluation_have_keys_that_no_row_of_training_has(row):
    keys = Keys.of(jnp.uint32(3))

    def key(explore):
        return jax.random.key_data(Evaluator._key(SimpleNamespace(explore=explore), keys, jnp.uint32(row)))

    training = [RowKeys.of(keys, jnp.uint32(each)).act for each in (row, row + 2**30)]
    assert not any((key(True) == each).all() for each in training)
    assert (key(False) == training[1]).all()  # as it ever was: without exploring most algorithms draw nothing


@each
def test_memory_is_made_afresh_with_each_episode_of_an_evaluation(place):
    world = make(place)
    spec = dataclasses.replace(world.spec, num_envs=N)
    envs = world if place == "graph" else world.make(len(SEEDS) * 2)
    evaluator = Evaluator(WITNESS, Config(), spec, SEEDS, 5, envs)
    played = evaluator(())
    evaluator.close()
    want = sum(LOW[0] + (age / 10 + 1) / 2 * (HIGH[0] - LOW[0]) for age in range(LIMIT))
    np.testing.assert_allclose(played.measures["pushed"], np.full((len(SEEDS), 5), want), rtol=1e-5)


@each
def test_measures_begin_with_the_episode(place):
    sums = seen(place).sums
    assert (sums["episodes"] == N * (ROLLOUTS * T // LIMIT)).all()
    for name in ("episode/return", "episode/length", "episode/steps"):
        np.testing.assert_array_equal(sums[name], LIMIT * sums["episodes"])


@each
def test_an_action_reaches_the_environment_in_its_bounds(place):
    low, high = np.array(LOW), np.array(HIGH)
    for each_seed in seen(place).rows:
        want = low + (each_seed.action + 1) / 2 * (high - low)
        np.testing.assert_allclose(each_seed.next_obs[..., 2:4], want, rtol=1e-5, atol=1e-5)

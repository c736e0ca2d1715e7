"""The border: observations come in and actions go out in the environment's own terms, in training and in use."""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import border_gym
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASE, FEW
from gymnasium import spaces as gs

import polyak
from polyak import Agent, UserError
from polyak.drivers.check import unsavable
from polyak.drivers.episodes_host import episode_seed
from polyak.drivers.evaluate import STREAM
from polyak.drivers.validate import inside
from polyak.envs import spaces
from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.envs.adapters.processes import GymnasiumAsync, _Vector
from polyak.envs.border import Border
from polyak.envs.environment import to_bounds, unscaled
from polyak.envs.find import _fitting, find
from polyak.errors import CheckpointError
from polyak.interface import Algorithm, Box, Discrete, OnPolicy, Spec, Update
from polyak.runs.spec import describe_border, read_border
from polyak.runs.values import convert
from polyak.show.terminal import Terminal
from polyak.show.video import pixels

SPACES = {
    "shifted": border_gym.Shifted().observation_space,
    "float64": gs.Box(np.array([0.1, -np.inf]), np.array([0.7, 3.0]), dtype=np.float64),
    "picture": gs.Box(0, 255, (4, 4, 3), np.uint8),
    "whole": gs.Box(-(2**62), 2**62, (2,), np.int64),
    "table": gs.MultiDiscrete([[2, 3], [4, 5]]),
    "number": gs.Box(-1.0, 1.0, (), np.float32),
    "pair": gs.Tuple([gs.Discrete(3, start=-1), gs.Dict({"a": gs.Discrete(2)})]),
}
CONTINUOUS = gs.Box(-1.0, 1.0, (1,), np.float32)
ADVICE = {
    "pair": (lambda obs: (obs, {}), r"pair \(obs, info\)"),
    "list": (
        lambda obs: obs.tolist(),
        r"a list, but must be an array of shape \(3,\), or \(N, 3\) for a batch",
    ),
    "nothing": (lambda obs: None, "is None"),
    "nan": (lambda obs: np.where([False, True, False], np.nan, obs), r"nan at \[1\]"),
    "width": (lambda obs: obs[:2], r"shape \(2,\), but must have \(3,\)"),
    "deep": (lambda obs: obs[None, None], r"shape \(1, 1, 3\)"),
    "kind": (lambda obs: obs.astype(complex), "dtype complex128"),
    "dict": (lambda obs: {"obs": obs}, "a dict"),
}


def one_line(function, *args, error: Any = UserError, **more) -> str:
    with pytest.raises(error) as raised:
        function(*args, **more)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@functools.cache
def agent(name: str, env: str, num_envs: int = 2) -> Agent:
    """An agent that has not learned, so that only acting is compiled."""
    return Agent(name, env, config=CASE[name].small, num_envs=num_envs, preset=False)


# ---- one conversion


@pytest.mark.parametrize("name", SPACES)
def test_one_observation_and_a_batch_are_converted_as_in_training(name):
    space = SPACES[name]
    space.seed(0)
    points = [space.sample() for _ in range(3)]
    border, rows = Border(space, CONTINUOUS), spaces.stack([spaces.convert(space, p) for p in points])
    for i, point in enumerate(points):
        obs, single = border.observe(point)
        assert single
        jax.tree.map(np.testing.assert_array_equal, obs, jax.tree.map(lambda x, i=i: x[i : i + 1], rows))
    batch = gymnasium.vector.utils.concatenate(
        space, points, gymnasium.vector.utils.create_empty_array(space, 3)
    )
    obs, single = border.observe(batch)
    assert not single
    jax.tree.map(np.testing.assert_array_equal, obs, rows)


@pytest.mark.parametrize("name", ADVICE)
def test_what_is_no_observation_is_one_line(name):
    spoil, line = ADVICE[name]
    border = Border(gs.Box(-1.0, 1.0, (3,), np.float32), CONTINUOUS)
    given = spoil(np.zeros(3, np.float32))
    with pytest.raises(UserError, match=line):
        border.observe(given)
    one_line(border.observe, given)


def test_every_part_of_an_observation_is_looked_at():
    border, obs = Border(SPACES["shifted"], CONTINUOUS), SPACES["shifted"].sample()
    mixed = one_line(border.observe, {**obs, "bits": np.zeros((2, 3), np.int8)})
    assert "obs.bits is a batch of 2" in mixed
    assert "5 .. 8" in one_line(border.observe, {**obs, "seen": 4})
    assert "obs.inner.0" in one_line(border.observe, {**obs, "inner": (np.full((2, 1), np.inf), 0)})
    assert "obs.columns" in one_line(border.observe, {**obs, "columns": np.array([0, 0])})
    assert "'bits', 'columns'" in one_line(border.observe, {"bits": 1})


@pytest.mark.parametrize("world", ["Shifted", "OddBounds"])
def test_predict_plays_the_episode_that_evaluation_plays(world, tmp_path):
    made, env = agent("ppo", f"border_gym:{world}"), getattr(border_gym, world)()
    made.save(tmp_path / "run")
    loaded = polyak.load(tmp_path / "run").policy()  # makes no environment
    total, ended = 0.0, False
    obs, _ = env.reset(seed=episode_seed(0, STREAM, 0))
    while not ended:
        action, _ = made.predict(obs)
        assert env.action_space.contains(action)
        np.testing.assert_array_equal(loaded(obs)[0], action)
        obs, reward, ended, _, _ = env.step(action)
        total += reward
    assert made.evaluate(episodes=1).returns == [[total]]


def test_sampled_actions_lie_inside_the_space_whatever_it_is():
    for world in ("Shifted", "OddBounds"):
        made, env = agent("ppo", f"border_gym:{world}"), getattr(border_gym, world)()
        rows = gymnasium.vector.utils.batch_space(env.observation_space, 64)
        actions, _ = made.predict(rows.sample(), deterministic=False)
        assert len(actions) == 64
        assert all(env.action_space.contains(action) for action in actions)
    assert (
        len(np.unique(agent("ppo", "border_gym:Shifted").predict(rows_of_shifted(), deterministic=False)[0]))
        == 3
    )


def rows_of_shifted() -> Any:
    return gymnasium.vector.utils.batch_space(SPACES["shifted"], 64).sample()


# ---- kept with the run


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("action", [gs.Discrete(3, start=-1), border_gym.OddBounds().action_space], ids=str)
def test_a_border_comes_back_from_its_description(name, action):
    border = Border(SPACES[name], action)
    spec = Spec(spaces.from_gymnasium(border.observation), spaces.action_from_gymnasium(action))
    said = json.loads(json.dumps(describe_border(border), allow_nan=False))
    assert read_border({"border": said}, spec, Path("run")) == border


def test_a_border_of_our_own_spaces_keeps_their_dtypes():
    spec = Spec(
        {"a": Discrete(3), "b": (Box((2,), 0.0, (1.0, 2.0)), Box((2, 2), 0, 255, "uint8"))}, Discrete(4)
    )
    border = Border.of(spec)
    assert spaces.from_gymnasium(border.observation) == spec.obs
    assert border.act(np.array([3], np.int32), single=True).dtype == np.int32
    said = json.loads(json.dumps(describe_border(border), allow_nan=False))
    assert read_border({"border": said}, spec, Path("run")) == border


def places(said: Any, path: tuple = ()) -> list[tuple]:
    """Every place in plain values."""
    inner = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def test_no_damage_to_a_border_is_anything_but_a_checkpoint_error():
    border = Border(SPACES["shifted"], border_gym.OddBounds().action_space)
    spec = Spec(spaces.from_gymnasium(border.observation), spaces.action_from_gymnasium(border.action))
    said = describe_border(border)
    wrong = [
        None,
        -1,
        0,
        1e300,
        2**80,
        "x",
        [],
        {},
        [[]],
        True,
        {"box": {}},
        {"tuple": 3},
        [10**9] * 3,
        "float64",
    ]
    refused = 0
    for place in places(said):
        for value in wrong:
            spoiled = {"border": json.loads(json.dumps(said))}
            *path, last = ("border", *place)
            functools.reduce(lambda tree, key: tree[key], path, spoiled)[last] = value
            try:
                read_border(spoiled, spec, Path("run"))
            except CheckpointError as error:
                refused += "\n" not in str(error) or pytest.fail(str(error))
    assert refused > 300
    huge = {"box": {"shape": [1 << 20, 1 << 20], "dtype": "float64", "low": None, "high": None}}
    for part in (huge, {"tuple": [huge]}):
        line = one_line(
            read_border, {"border": {**said, "observation": part}}, spec, Path("run"), error=CheckpointError
        )
        assert "bytes" in line
    one_line(read_border, {}, spec, Path("run"), error=CheckpointError)


# ---- bounds are bounds per entry

BIG = float(np.finfo(np.float32).max)
TINY, HUGE = float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).max)
INF = float("inf")
BOUNDED = [  # low, high, and where -2, -1, 0, 1, 2 go
    (-1.0, 3.0, [-1, -1, 1, 3, 3]),
    (0.0, 1.0, [0, 0, 0.5, 1, 1]),
    (-INF, INF, [-2, -1, 0, 1, 2]),
    (-BIG, BIG, [-2, -1, 0, 1, 2]),
    (TINY, HUGE, [-2, -1, 0, 1, 2]),
    (-1e10, 1e10, [-2, -1, 0, 1, 2]),
    (0.5, INF, [0.5, 0.5, 0.5, 1, 2]),
    (-HUGE, -1.5, [-2, -1.5, -1.5, -1.5, -1.5]),
    (2.0, 2.0, [2, 2, 2, 2, 2]),
]


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("several", [False, True])
def test_each_entry_is_rescaled_by_its_own_bounds(xp, several):
    given = np.array([-2, -1, 0, 1, 2], np.float32)
    if several:  # all in one space, in a column
        low, high, wanted = zip(*BOUNDED, strict=True)
        space, want = Box((len(low), 1), low, high), np.array(wanted, np.float32).T[..., None]
        got = to_bounds(space, xp.asarray(np.tile(given[:, None], len(low))))
        np.testing.assert_allclose(got, want)
        assert unscaled(space) == [2, 3, 4, 5, 6, 7]
        return
    for low, high, want in BOUNDED:
        for bounds in ((low, high), ((low, low), high), (low, (high, high))):
            got = to_bounds(Box((2,), *bounds), xp.asarray(np.stack([given, given], 1)))
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, np.array([want, want]).T)


def test_actions_of_any_bounds_are_finite_and_inside():
    rng = np.random.default_rng(0)
    choices = np.array([-INF, -HUGE, -BIG, -1.7, -0.1, 0, 1 / 3, 1.1, BIG, HUGE, INF])
    for dtype in (np.float32, np.float64):
        for _ in range(300):
            with np.errstate(over="ignore"):
                low, high = np.sort(rng.choice(choices, (2, 3)), axis=0).astype(dtype)
            low, high = np.minimum(low, BIG if dtype == np.float32 else 1e9), np.maximum(high, -1e9)
            low, high = (
                np.where(low >= 1e9, 0, low).astype(dtype),
                np.where(high <= -1e9, 2, high).astype(dtype),
            )
            space = gs.Box(low, high, dtype=dtype)
            given = Border(CONTINUOUS, space).act(rng.choice([-3, -1, 0.3, 1, 3], (4, 3)).astype(np.float32))
            assert np.isfinite(given).all()
            assert all(space.contains(row) for row in given)


def test_observations_are_held_to_the_bounds_that_mean_something():
    space = spaces.from_gymnasium(gs.Box(np.array([TINY, -1.0]), np.array([HUGE, 1.0]), dtype=np.float64))
    fine = lambda *row: all(each.all() for each in inside(space, np.array([row], np.float32)))  # noqa: E731
    assert fine(-5, 0.5)
    assert fine(5, -1)
    assert not fine(0, 2)
    assert not fine(np.inf, 0)
    own = Box((2,), (TINY, -1.0), (HUGE, 1.0))
    assert all(each.all() for each in inside(own, np.array([[-5, 0]], np.float32)))


@pytest.mark.parametrize("name", ["HumanoidCMUStand-v1", "BipedalWalker-v3", "AcrobotSwingup-v1"])
def test_envpools_bounds_that_mean_none_stop_no_run(name):
    pytest.importorskip("envpool")
    factory = find(f"envpool:{name}")
    envs = factory.make(1)
    obs = [envs.reset([0], [3])]
    for _ in range(5):
        action = to_bounds(factory.spec.action, np.zeros((1, factory.spec.action.size), np.float32))
        obs.append(envs.step(action).obs)
    envs.close()
    for tree in obs:
        for space, leaf in zip(jax.tree.leaves(factory.spec.obs), jax.tree.leaves(tree), strict=True):
            assert all(each.all() for each in inside(space, leaf))


def test_actions_that_are_not_scaled_are_said_once(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(Terminal, "warn", lambda self, text: said.append(text))
    made = Agent("ppo", "border_gym:OddBounds", config=CASE["ppo"].small, preset=False, eval_episodes=1)
    made.learn(1, verbose=False)
    made.learn(1, verbose=False)
    assert len(said) == 1
    assert "(entries of 4: 1, 2)" in said[0]
    Agent("ppo", "border_gym:Shifted", config=CASE["ppo"].small, preset=False).policy()
    assert len(said) == 1


# ---- acting at random


@dataclass(frozen=True)
class Config:
    gamma: float = 1.0
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=2))


# A perturbed policy: all its noise is drawn when an episode begins.
memoried = Algorithm(
    Config=Config,
    actions=("continuous", "discrete"),
    init=lambda cfg, spec, key: jnp.zeros(()),
    actor=lambda state: state,
    memory=lambda cfg, spec, env_ids, episode, key: jax.random.uniform(key, (len(env_ids), 1), minval=-1.0),
    act=lambda cfg, spec, actor, memory, obs, key, explore: (memory if explore else 0 * memory, memory, ()),
    update=lambda cfg, spec, state, batch, key: Update(state, {}),
)


@pytest.mark.parametrize("name", [*FEW, "test_border:memoried"])
def test_exploring_draws_anew_from_a_stream_that_a_seed_begins(name):
    config = CASE[name].small if name in CASE else None
    world = CASE[name].world if name in CASE else "Pendulum-v1"
    made = Agent(name, f"jax:{world}", config=config, preset=False)
    policy, obs = made.policy(), np.zeros((16, *made.policy().spec.obs.shape), np.float32)

    def stream(seed=None):
        first = policy(obs, explore=True, seed=seed)[0]
        return np.stack([first, *(policy(obs, explore=True)[0] for _ in range(7))])

    one, same, other = stream(3), stream(3), stream(4)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (stream() != other).any()  # it goes on
    assert (one[1:] != one[:-1]).reshape(7, -1).any(axis=1).all()  # and moves with each call
    calm = [policy(obs)[0] for _ in range(2)]
    np.testing.assert_array_equal(*calm)
    assert policy._acting._cache_size() == 2  # with exploration and without
    single = [made.predict(obs[0], deterministic=False)[0] for _ in range(50)]
    assert len({float(np.sum(action)) for action in single}) > 1
    assert "seed" in one_line(policy, obs, explore=True, seed=-1)


# ---- what is read from infos, words, pictures, keys


@pytest.mark.slow
def test_each_lanes_info_has_its_own_type():
    said = [0, 0.75, -0.5, None, "2.9", True]
    make = [functools.partial(border_gym.Many, value) for value in said]
    envs = GymnasiumAsync(make, ["said"])
    try:
        envs.reset(range(len(said)), range(len(said)))
        measured = envs.step(np.zeros(len(said), np.int32)).measures["said"]
    finally:
        envs.close()
    np.testing.assert_array_equal(measured, [0, 0.75, -0.5, np.nan, 2.9, 1])


def test_a_vectors_info_keeps_every_type():
    infos: dict = {}
    for lane, value in enumerate([0, 0.75]):
        infos = _Vector._add_info(None, infos, {"said": value}, lane)  # pyright: ignore[reportArgumentType]
    assert [infos[lane]["said"] for lane in range(2)] == [0, 0.75]


WORDS = {"yes": True, "No": False, "TRUE": True, "false": False, "1": True, "0": False, 1: True, False: False}


@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_words_for_booleans_mean_the_same_everywhere(word):
    assert convert(word, bool) is WORDS[word]
    made = GymnasiumFactory("Shifted", {"flag": word}, entry=border_gym.Shifted).make_one()
    assert made.unwrapped.flag is WORDS[word]
    assert GymnasiumFactory("FrozenLake-v1", {"is_slippery": word})._checked_fields == {
        "is_slippery": WORDS[word]
    }


@pytest.mark.parametrize("word", ["maybe", "", 2, 0.5, "2"], ids=repr)
def test_other_words_for_booleans_are_refused_in_one_line(word):
    factory = GymnasiumFactory("Shifted", {"flag": word}, entry=border_gym.Shifted)
    assert "flag must be true or false" in one_line(factory.make_one)
    pytest.importorskip("envpool")
    assert "gray_scale must be true or false" in one_line(find, "envpool:Pong-v5", {"gray_scale": word})


def test_a_jax_environment_takes_the_same_words():
    assert _fitting("x", True, "No", "bool") is False
    assert "must be true or false" in one_line(_fitting, "x", False, "maybe", "bool")
    assert "must be true or false" in one_line(_fitting, "x", False, None, "bool")


def test_envpool_takes_the_same_words():
    pytest.importorskip("envpool")
    space = find("envpool:Pong-v5", {"gray_scale": "no"}).spec.obs
    assert space.shape[0] == 12


def test_keys_that_cannot_be_saved_are_refused_at_the_start():
    number, fine = Box((1,)), {"a/b": Box((1,)), "": (Box((1,)), {"é": Discrete(2)})}
    assert unsavable(fine) == []
    assert unsavable({1: number, "a": ({"\ud800": number},)}) == ["1", "'\\ud800'"]


class Collides(border_gym.Many):
    """Two parts whose names in a file are one."""

    observation_space = gs.Dict({"a": gs.Dict({"b": gs.Discrete(2)}), "a/b": gs.Discrete(2)})

    def reset(self, *, seed=None, options=None):
        return {"a": {"b": 0}, "a/b": 0}, {}


def test_a_run_that_could_not_be_saved_does_not_begin():
    made = Agent("ppo", "test_border:Collides", config=CASE["ppo"].small, preset=False)
    assert "a/b" in one_line(made.policy)


def test_pictures_of_real_numbers_and_of_truth_values_are_seen():
    shades = np.array([[[0.0, 0.5, 1.0]]])
    np.testing.assert_array_equal(pixels(shades), [[[0, 128, 255]]])
    np.testing.assert_array_equal(pixels(shades.astype(np.float32)), [[[0, 128, 255]]])
    np.testing.assert_array_equal(pixels(shades > 0.2), [[[0, 255, 255]]])
    np.testing.assert_array_equal(pixels(200 * shades), [[[0, 100, 200]]])
    np.testing.assert_array_equal(pixels(np.array([[[0, 1, 300]]])), [[[0, 1, 255]]])
    given = np.array([[[0, 1, 255]]], np.uint8)
    np.testing.assert_array_equal(pixels(given), given)


# ---- the public names


def test_the_public_names_are_listed():
    assert {"Agent", "Run", "UserError", "load", "train"} <= set(dir(polyak))
    assert "TYPE_CHECKING" not in dir(polyak)


def test_whole_numbers_are_checked_before_anything_runs(tmp_path):
    made = agent("ppo", "border_gym:Shifted")
    assert "total_timesteps" in one_line(made.learn, 0.5)
    assert "total_timesteps" in one_line(made.learn, 0)
    assert "episodes" in one_line(made.evaluate, 1.5)
    assert "episodes" in one_line(made.evaluate, 0)
    assert "seed" in one_line(made.evaluate, 1, seed="x")
    run = polyak.load(made.save(tmp_path / "run"))
    assert "seed" in one_line(run.policy, 0.5)
    assert run.policy(0.0).seed == 0


def test_learning_takes_1e5_as_a_whole_number():
    small = {**CASE["ppo"].small, "horizon": 64}  # the budget does not move it
    made = Agent("ppo", "jax:CartPole-v1", config=small, preset=False, eval_episodes=1)
    assert made.learn(3e0, verbose=False).env_steps >= 3
    before = made.policy()
    assert made.policy() is before
    assert made.learn(1, verbose=False).policy() is not before
    assert made.policy()._acting is before._acting  # what was compiled stays

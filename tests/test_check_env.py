"""`polyak check-env` finds what is broken, says what to do, and blames nothing that is sound."""

import json
from types import SimpleNamespace

import broken_envs
import gymnasium
import numpy as np
import pytest
from broken_envs import FAULTS, Cells, Sound
from gymnasium import spaces

import polyak
from polyak.cli import main
from polyak.health.environment import check_env
from polyak.health.episodes import Episode, difference, random_actions
from polyak.health.finding import LEVELS, Finding, Report, ranked
from polyak.health.played import ends
from polyak.health.points import MOST, Points

NAMES = list(FAULTS)
SLOW = ["twenty steps a second", "pictures that fit no memory"]
HOST = [name for name in NAMES if name not in SLOW and not name.startswith("JAX")]
QUICK = [*HOST[::5], "JAX: an if", "JAX: NaN"]
GYMNASIUM = (
    *("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1"),
    *("Blackjack-v1", "CliffWalking-v1", "FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4"),
    *("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5", "Walker2d-v5"),
    *("InvertedDoublePendulum-v5", "InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5"),
)
OURS = (
    *("CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "CarOnHill"),
    *("Reach", "BitFlip", "Parkour", "CartPoleSwingUp", "SparseCartPoleSwingUp", "DynaMaze-v0"),
)
STOCK = [*GYMNASIUM, *(f"jax:{name}" for name in OURS)]
TRUE = {  # what is so, and may be meant
    "alias": ["MountainCarContinuous-v0"],  # shown below
    "reward-constant": [
        "MountainCar-v0",
        "Acrobot-v1",
        "jax:MountainCar-v0",
        "jax:Acrobot-v1",
    ],  # chance never arrives
    "reward-zero": ["FrozenLake8x8-v1", "jax:SparseCartPoleSwingUp"],  # chance hardly ever gets there
    "seed-ignored": ["CliffWalking-v1", "jax:CarOnHill", "jax:DynaMaze-v0"],  # nothing in them is random
    # masses, bodies that nothing touches, a goal that stays, the force of a constraint that nothing reaches
    "constant": ["Ant-v5", "Humanoid-v5", "HumanoidStandup-v5", "Pusher-v5", "InvertedDoublePendulum-v5"],
}


def found(name, steps=1000, seconds=1.0):
    """Names of what is found in an environment with this fault, and whether the fault is among them."""
    wanted, make = FAULTS[name]
    names = [finding.name for finding in check_env(make, steps=steps, seconds=seconds).findings]
    return names, bool({wanted} & set(names) if isinstance(wanted, str) else wanted & set(names))


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_is_found(name):
    names, there = found(name)
    assert there, f"{name}: {names}"


@pytest.mark.long
def test_at_least_57_of_60_faults_are_found():
    missed = {name: names for name in NAMES for names, there in [found(name, 1500)] if not there}
    print(f"{len(NAMES) - len(missed)} of {len(NAMES)} faults found; missed: {missed}")
    assert len(NAMES) >= 60
    assert len(missed) <= len(NAMES) * 3 / 60


@pytest.mark.parametrize("make", [Sound, Cells], ids=["real", "whole"])
def test_nothing_is_found_in_a_sound_environment(make):
    assert check_env(make, steps=1500).findings == []


@pytest.mark.long
@pytest.mark.parametrize("make", [broken_envs.in_jax(""), broken_envs.Camera, lambda: broken_envs.Goals(0.0)])
def test_nothing_is_found_in_sound_environments_of_other_kinds(make):
    assert check_env(make, steps=1500).findings == []


def truths(name, steps):
    """What is found in a stock environment beside what is true of it."""
    return [f for f in check_env(name, steps=steps).findings if name not in TRUE.get(f.name, ())]


@pytest.mark.parametrize("name", ["CartPole-v1", "Blackjack-v1", "CliffWalking-v1", "Reacher-v5"])
def test_nothing_false_is_said_of_a_stock_environment(name):
    assert truths(name, 4000 if name == "CliffWalking-v1" else 800) == []


@pytest.mark.long
def test_nothing_false_is_said_of_30_stock_environments():
    assert len(STOCK) >= 30
    assert {name: said for name in STOCK if (said := truths(name, 10_000))} == {}


def test_the_observation_of_the_continuous_mountain_car_is_its_state():
    env = gymnasium.make("MountainCarContinuous-v0").unwrapped
    obs, _ = env.reset(seed=0)
    obs, *_ = env.step(np.zeros(1, np.float32))
    assert obs is env.state


def test_one_instance_is_left_as_it_was_and_open():
    env = broken_envs.OldSeed()
    closed = []
    env.close = lambda: closed.append(True)
    report = polyak.check_env(env, steps=200)
    assert [finding.name for finding in report.findings] == ["reset-arguments"]
    assert "reset" not in vars(env)
    assert not closed


def test_the_command_prints_each_finding_with_its_fix_and_exits_with_2_for_an_error(capsys, monkeypatch):
    monkeypatch.syspath_prepend("tests")
    assert main(["check-env", "broken_envs:ResetsItself", "--steps", "400"]) == 2
    text = " ".join(capsys.readouterr().out.split())
    assert "error [final-observation]" in text
    assert "-> return the last observation from step" in text
    assert "1 error" in text
    assert main(["check-env", "broken_envs:Sound", "--steps", "400", "--env.limit", "20", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["findings"] == []
    assert said["facts"]["played"].startswith("400 random steps")


def test_a_name_that_does_not_exist_is_one_line(capsys):
    assert main(["check-env", "CartPole-v9"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "CartPole-v1" in said


# ---- the parts


def test_findings_are_ranked_by_level_and_then_by_name_each_once():
    given = [
        Finding("note", "b", ""),
        Finding("error", "z", "1"),
        Finding("warning", "a", ""),
        Finding("error", "y", ""),
    ]
    assert [f.name for f in ranked([*given, Finding("error", "z", "2")], ["y", "z"])] == ["y", "z", "a", "b"]
    report = Report("env", ranked(given))
    assert report.count() == "2 errors, 1 warning, 1 note"
    assert not report.sound
    assert {f.level for f in report.findings} == set(LEVELS)


def test_points_are_laid_out_by_name_with_their_bounds():
    space = spaces.Dict(
        b=spaces.Box(-1.0, 2.0, (1, 2), np.float32),
        a=spaces.Tuple([spaces.Discrete(4, start=2), spaces.MultiBinary(2)]),
    )
    points = Points(space)
    names = [points.name(i) for i in range(points.size)]
    assert names == [
        "observation['b'][0, 0]",
        "observation['b'][0, 1]",
        "observation['a'][0]",
        "observation['a'][1][0]",
        "observation['a'][1][1]",
    ]
    assert points.low.tolist() == [-1, -1, 2, 0, 0]
    assert points.high.tolist() == [2, 2, 5, 1, 1]
    value = {"a": (3, np.array([0, 1])), "b": np.array([[0.5, 9.0]])}
    assert points.row(value).tolist() == [0.5, 9, 3, 0, 1]
    points.see(points.row(value)[None], 0, 0)
    assert points.outside == 1
    assert points.row({"a": 3}) is None


def test_of_a_large_point_some_numbers_are_picked_and_a_checksum_tells_all_others():
    points = Points(spaces.Box(0, 255, (40, 40), np.uint8))
    one = np.zeros((2, 1600))
    rest = np.setdiff1d(np.arange(1600), points.picked)
    one[1, rest[0]] = 1
    seen = points.see(one, 0, 0)
    assert seen.shape == (2, MOST + 1)
    assert (seen[0, :-1] == seen[1, :-1]).all()
    episodes = [Episode(0, row[None], np.zeros(0)) for row in seen]
    assert "checksum" in difference(*episodes, points)
    assert difference(episodes[0], episodes[0], points) == ""


def test_random_actions_keep_their_bounds_and_dtypes():
    rng = np.random.default_rng(0)
    box = spaces.Box(np.float32([-1, -np.inf, 0]), np.float32([3, np.inf, np.inf]))
    drawn = random_actions(box, 500, rng)
    assert drawn.dtype == np.float32
    assert (drawn >= box.low).all()
    assert (drawn <= box.high).all()
    assert abs(drawn[:, 0].mean() - 1) < 0.2
    assert np.isfinite(drawn).all()
    whole = random_actions(spaces.Discrete(3, start=5), 200, rng)
    assert set(whole.tolist()) == {5, 6, 7}


def test_an_episode_that_had_no_time_to_begin_hides_no_end_at_once():
    world = SimpleNamespace(time_limit=None, players=1)
    over = [Episode(seed, np.zeros((2, 1)), np.ones(1), "terminated") for seed in range(6)]
    cut = Episode(6, np.zeros((1, 1)), np.zeros(0))
    assert [finding.name for finding in ends(world, [*over, cut])] == ["one-step"]
    longer = Episode(6, np.zeros((3, 1)), np.zeros(2))
    assert list(ends(world, [*over, longer])) == []

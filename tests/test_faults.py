"""What an environment may not give: stopped before anything is learned from it, and named in one line."""

import dataclasses
import itertools
import re
import shutil
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import assert_same_bits, drive, state_of
from cases import CASE

from polyak.algorithms import find as find_algorithm
from polyak.cli import main
from polyak.drivers import inspection, validate
from polyak.drivers.side_by_side import SideBySide
from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.envs.environment import Environment, Step
from polyak.envs.find import find
from polyak.errors import EnvironmentFault
from polyak.interface import Box, Discrete, Spec, Transition
from polyak.pytree import pytree, static
from polyak.runs.run import load, train
from polyak.store import checkpoint

BAD = {
    "reward is NaN": "reward",
    "reward is infinite": "reward",
    "observation is NaN": "observation",
    "observation is infinite": "observation",
    "observation is outside": "observation",
}
SHAPES = {
    "observation has another shape": "observation",
    "observation is of integers and more": "observation",
    "reward is a vector": "reward",
    "reward is a word": "reward",
}
EARLY, LATE = 2, 13  # steps of the run, counted from 0


@pytree
class Faulty(Environment):
    """A walk that goes wrong at step `at` of the episode whose start is `lane`: an environment has no number."""

    how: str = static(default="")
    at: int = 10_000
    lane: float = 1.0
    time_limit: int | None = static(default=50)

    @property
    def spec(self) -> Spec:
        return Spec(Box((2,), -1.0, 1.0), Discrete(2), self.time_limit)

    def reset(self, key: jax.Array) -> tuple:
        start = jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)
        return (start, jnp.int32(0)), start

    def step(self, state: tuple, action: jax.Array, key: jax.Array) -> Step:
        start, t = state
        now = (t == self.at) & (start[0] == self.lane)
        obs, reward = start * jnp.cos(t + 1.0), start.sum()
        obs = jnp.where(now & self.how.startswith("observation is"), obs + value_of(self.how), obs)
        reward = jnp.where(now & self.how.startswith("reward is"), value_of(self.how), reward)
        return Step((start, t + 1), obs, reward, jnp.array(False), jnp.array(False))


def value_of(how):
    return {"NaN": np.nan, "infinite": -np.inf, "outside": 2.5}.get(how.rpartition(" ")[2], 0.0)


class FaultyGym(gymnasium.Env):
    """The same: the copy with number `lane` goes wrong at its step `at`, or at the reset after it."""

    made = 0

    def __init__(self, how: str = "", at: int = 10_000, lane: int = 1, length: int = 50):
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.how, self.at, self.length = how, at, length
        self.wrong = FaultyGym.made == lane
        FaultyGym.made += 1
        self.steps = self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.t = self.np_random.uniform(-0.5, 0.5, 2), 0
        obs = self.start.astype(np.float32)
        if self.wrong and self.how == "first observation is NaN" and self.steps > self.at:
            obs[1] = np.nan
        return obs, {}

    def step(self, action):
        now = self.wrong and self.steps == self.at
        self.steps, self.t = self.steps + 1, self.t + 1
        obs, reward = (self.start * np.cos(self.t)).astype(np.float32), float(self.start.sum())
        if now and self.how.startswith("observation is"):
            obs = obs + np.float32(value_of(self.how))
        if now and self.how.startswith("reward is"):
            reward = float(value_of(self.how))
        if now and self.how in SHAPES:
            obs, reward = {
                "observation has another shape": (np.zeros(3, np.float32), 0.0),
                "observation is of integers and more": (np.zeros(2, np.complex64), 0.0),
                "reward is a vector": (obs, np.zeros(2)),
                "reward is a word": (obs, "much"),
            }[self.how]
        return obs, reward, False, self.t >= self.length, {}


def config(name):
    """An algorithm with small networks: rollouts of 5 rows, 3 environments."""
    data = CASE[name].data(
        {"steps": 5}, {"capacity": 60, "batch_size": 4, "warmup": 15, "steps": 5, "clip": None}
    )
    return find_algorithm(name), CASE[name].config(data, hidden=(4,), epochs=1, minibatch=15, horizon=100)


def gym_of(how, at, lane=1, length=50):
    FaultyGym.made = -1  # the factory makes one to look at
    return GymnasiumFactory("Faulty", {"how": how, "at": at, "lane": lane, "length": length}, entry=FaultyGym)


def driver_of(name, place, how, at, seeds=(0,), strict=True):
    """A driver over three environments of each seed, of which number 1 (of the first seed) goes wrong."""
    algorithm, cfg = config(name)
    if place == "host":
        return drive(algorithm, cfg, gym_of(how, at), seeds, 3, strict=strict)
    driver = drive(algorithm, cfg, Faulty(how=how, at=at), seeds, 3, strict=strict)
    start = np.asarray(driver.start().episodes.obs)[0, 1, 0]
    return drive(algorithm, cfg, Faulty(how=how, at=at, lane=jnp.float32(start)), seeds, 3, strict=strict)


def values_of(carry):
    return jax.tree.map(np.array, state_of(carry))


# ---- values


@pytest.mark.parametrize(
    ("name", "place", "how"),
    [("dqn", "host", how) for how in BAD]
    + [("ppo", "graph", "reward is infinite"), ("ppo", "graph", "observation is outside")],
)
def test_a_bad_value_stops_the_run_and_names_step_environment_and_field(name, place, how):
    driver = driver_of(name, place, how, LATE)
    carry = driver.advance(driver.start(), 2)
    before = values_of(carry)
    with pytest.raises(EnvironmentFault) as error:
        driver.advance(carry, 3)
    driver.close()
    said = str(error.value)
    assert "\n" not in said
    assert re.search(rf"step {LATE}, environment 1, seed 0: {BAD[how]}\b", said), said
    assert "stopped before the update" in said
    if place == "host":  # in graph the run was given away
        after = values_of(carry)
        jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize(("name", "place"), [("dqn", "graph"), ("ppo", "host")])
def test_a_fault_in_the_first_rollout_and_with_more_seeds_is_found_too(name, place):
    driver = driver_of(name, place, "reward is NaN", EARLY, (4, 5))
    with pytest.raises(EnvironmentFault, match=rf"step {EARLY}, environment 1, seed 4: reward"):
        driver.advance(driver.start(), 4)
    driver.close()


def test_a_fault_of_seeds_side_by_side_is_named():
    one = driver_of("dqn", "graph", "reward is NaN", EARLY, (4,))
    driver = SideBySide(one.algorithm, one.cfg, one.env, one.spec, (4, 5, 6), threads=2)
    with pytest.raises(EnvironmentFault, match=rf"step {EARLY}, environment 1, seed 4: reward"):
        driver.advance(driver.start(), 4)
    driver.close()


def test_the_second_seeds_fault_is_named_as_its_own():
    algorithm, cfg = config("ppo")
    driver = drive(algorithm, cfg, gym_of("reward is NaN", LATE, lane=5), (4, 5), 3)
    with pytest.raises(EnvironmentFault, match=rf"step {LATE}, environment 2, seed 5: reward"):
        driver.advance(driver.start(), 4)
    driver.close()


def test_in_graph_nothing_is_learned_from_a_bad_rollout_or_after_it():
    driver = driver_of("ppo", "graph", "reward is NaN", LATE)
    good = values_of(driver.advance(driver.start(), 2))
    carry = driver.program[False](driver.start(), driver.seed_array, 5)
    jax.tree.map(np.testing.assert_array_equal, values_of(carry).policy, good.policy)
    jax.tree.map(np.testing.assert_array_equal, values_of(carry).critic, good.critic)
    assert np.asarray(carry.fault).tolist() == [[LATE, 1, 1]]


@pytest.mark.parametrize("place", ["graph", "host"])
def test_a_sound_world_is_not_stopped(place):
    driver = driver_of("ppo", place, "", LATE)
    carry = driver.advance(driver.start(), 6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(values_of(carry)))
    driver.close()


def test_a_first_observation_that_is_not_finite_is_the_environments_fault():
    algorithm, cfg = config("dqn")
    driver = drive(algorithm, cfg, gym_of("first observation is NaN", 6, length=8), (0,), 3)
    with pytest.raises(EnvironmentFault, match=r"environment 1, seed 0: reset with seed .* not finite"):
        driver.advance(driver.start(), 6)
    driver.close()


# ---- outside the declared bounds


@pytest.mark.parametrize(("name", "place"), [("dqn", "host"), ("ppo", "graph")])
def test_an_observation_outside_its_bounds_is_learned_from_and_noted_with_value_bound_and_count(name, place):
    how = "observation is outside"
    driver = driver_of(name, place, how, LATE, strict=False)
    carry = driver.advance(driver.start(), 2)
    assert driver.notes == {}
    before = values_of(carry)
    carry = driver.advance(carry, 3)
    driver.close()
    (said,) = driver.notes.values()
    assert re.match(
        rf"step {LATE}, environment 1, seed 0: observation\[[01]\] is [23]\.\d+, above its upper bound 1 "
        r"\(1 of \d+ rows so far\);.* --strict-spaces stops",
        said,
    ), said
    assert not all(
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (before, values_of(carry))), strict=True)
    )


@pytest.mark.parametrize("how", ["observation is NaN", "observation is infinite"])
@pytest.mark.parametrize(("name", "place"), [("dqn", "host"), ("ppo", "graph")])
def test_an_observation_that_is_not_finite_stops_whatever_its_bounds(name, place, how):
    driver = driver_of(name, place, how, LATE, strict=False)
    with pytest.raises(
        EnvironmentFault, match=rf"step {LATE}, environment 1, seed 0: observation is not finite"
    ):
        driver.advance(driver.start(), 5)
    driver.close()


def test_seeds_side_by_side_note_what_is_outside_too():
    one = driver_of("ppo", "graph", "observation is outside", EARLY, (4,), strict=False)
    driver = SideBySide(one.algorithm, one.cfg, one.env, one.spec, (4, 5, 6), threads=2)
    driver.advance(driver.start(), 2)
    driver.close()
    assert re.search(rf"step {EARLY}, environment 1, seed 4: observation", driver.notes["outside"])


def looked_at(space, obs, next_obs):
    zero = np.zeros((2, 1), np.float32)
    rollout = Transition(obs, zero, zero, next_obs, zero > 0, zero > 0)
    spec = Spec(space, Discrete(2))
    return spec, validate.look(spec, rollout, np)


def test_the_component_of_a_part_of_a_dict_is_named_by_its_place_in_the_array():
    space = {"a": Discrete(3), "b": Box((2, 2), (0.0, 0.0, -1.0, 0.0), 5.0)}
    obs = {"a": np.zeros((2, 1), np.int32), "b": np.ones((2, 1, 2, 2), np.float32)}
    bad = {"a": obs["a"], "b": obs["b"].copy()}
    bad["b"][1, 0, 1, 0] = -1.5
    spec, found = looked_at(space, obs, bad)
    said = validate.outside_note(spec, found, 3, 4)
    assert (
        "step 1, environment 0, seed 3: observation['b'][1, 0] is -1.5, below its lower bound -1 (1 of 4"
        in said
    )


def test_an_integer_that_its_space_does_not_have_is_never_learned_from():
    zero = np.zeros((2, 1), np.int32)
    _, found = looked_at(Discrete(3), zero, zero + 3)
    assert found.fault.tolist() == [0, 0, 2]


PARTS = {
    "number": Discrete(3),
    "some": Box((2,), (-1.0, -np.inf), (1.0, 5.0)),
    "all": Box((), -np.inf, np.inf),
    "whole": Box((2,), 0, 255, "uint8"),
    "part": Box((2,), 0, 9, "uint8"),
}


@pytest.mark.parametrize("small", [0, inspection.SMALL])
@pytest.mark.parametrize("space", [PARTS, PARTS["some"]], ids=["dict", "flat"])
@pytest.mark.parametrize("began", [True, False])
def test_the_quick_look_on_the_host_misses_nothing_that_the_close_one_finds(space, began, small, monkeypatch):
    monkeypatch.setattr(inspection, "SMALL", small)
    spec = Spec(space, Box((2,), -1.0, 1.0))

    def rollout():
        obs, after = (
            jax.tree.map(lambda part: np.zeros((3, 2, *part.shape), part.dtype), space) for _ in "12"
        )
        flag = np.zeros((3, 2), bool)
        return Transition(
            obs, np.zeros((3, 2, 2), np.float32), np.zeros((3, 2), np.float32), after, flag, flag
        )

    sound = inspection.Sound(spec, rollout())
    assert sound(rollout(), began)
    worth = {"i": (-1, 2, 3), "u": (9, 10, 255), "f": (np.nan, np.inf, -np.inf, -1.0, 1.0, 5.0, 5.1, -1.1)}
    found = {True: 0, False: 0}
    for leaf, place in itertools.product(range(2 * len(jax.tree.leaves(space)) + 2), (0, -1)):
        given = rollout()
        x = jax.tree.leaves(given)[leaf]
        for value in worth[x.dtype.kind]:
            x.reshape(-1)[place] = value
            seen = given if began else given._replace(obs=given.next_obs)
            close = validate.look_closely(spec, seen, np, strict=False)
            fine = close.fault[0] == validate.NOTHING and not close.count
            assert sound(given, began) == fine, (leaf, value)
            found[bool(fine)] += 1
    assert min(found.values()) > 10


LEAVING = """
import gymnasium, numpy as np

class Leaving(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([0.0, 1.003 if self.t == 3 else 0.0], np.float32), 1.0, False, self.t == 5, {}
"""


def test_a_run_warns_once_of_what_leaves_its_bounds_also_over_a_resume(tmp_path, monkeypatch, capsys):
    (tmp_path / "leaving_worlds.py").write_text(LEAVING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line = "train ppo leaving_worlds:Leaving --steps 48 --config.data.steps 8 --config.minibatch 8 --eval-every 16"
    line += " --config.hidden 4 --eval-episodes 1 --out ."
    assert main([*line.split(), "--name", "x"]) == 0
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert (
        "step 2, environment 0, seed 0: observation[1] is 1.003, above its upper bound 1 (2 of 8 rows" in said
    )
    for number in ("00000048", "00000032"):
        shutil.rmtree(tmp_path / "x" / "checkpoints" / number)
    assert main(["resume", "x", "--trust", "leaving_worlds:Leaving"]) == 0
    assert "warning:" not in capsys.readouterr().err
    assert main([*line.split(), "--name", "y", "--strict-spaces"]) == 2
    assert "observation is not finite and inside its space" in capsys.readouterr().err


# ---- shapes and types


@pytest.mark.parametrize("how", SHAPES)
def test_a_wrong_shape_or_type_on_the_host_names_environment_and_field(how):
    driver = driver_of("dqn", "host", how, LATE)
    carry = driver.advance(driver.start(), 2)
    before = values_of(carry)
    with pytest.raises(EnvironmentFault, match=rf"environment 1.*{SHAPES[how]}") as error:
        driver.advance(carry, 3)
    driver.close()
    assert "\n" not in str(error.value)
    jax.tree.map(np.testing.assert_array_equal, values_of(carry), before)


def test_a_wrong_shape_on_the_host_names_the_step():
    driver = driver_of("dqn", "host", "observation has another shape", LATE)
    with pytest.raises(EnvironmentFault, match=f"step {LATE}"):
        driver.advance(driver.start(), 3)


@pytree
class Misshapen(Faulty):
    """Gives what its spec does not say, from the first step on."""

    def step(self, state: tuple, action: jax.Array, key: jax.Array) -> Step:
        step = super().step(state, action, key)
        wrong = {
            "obs shape": {"obs": jnp.zeros(3)},
            "obs dtype": {"obs": jnp.zeros(2, jnp.int32)},
            "reward shape": {"reward": jnp.zeros(2)},
            "state": {"state": (step.state[0], step.state[1].astype(jnp.float32))},
            "terminated dtype": {"terminated": jnp.float32(0)},
        }
        return step._replace(**wrong[self.how])


@pytest.mark.parametrize("how", ["obs shape", "obs dtype", "reward shape", "state", "terminated dtype"])
def test_a_wrong_shape_or_type_in_graph_is_one_line_that_names_the_field(how):
    algorithm, cfg = config("ppo")
    driver = drive(algorithm, cfg, Misshapen(how=how), (0,), 3)
    with pytest.raises(EnvironmentFault, match=how.split()[0]) as error:
        driver.start()
    assert "\n" not in str(error.value)


# ---- a diverging policy


@pytest.mark.parametrize("place", ["graph", "host"])
def test_a_policy_that_diverged_is_not_the_environments_fault(place):
    algorithm, cfg = config("ppo")
    poisoned = algorithm._replace(
        actions=("discrete", "continuous"),
        act=lambda cfg, spec, actor, memory, obs, key, explore: (
            jnp.full((len(obs), 1), jnp.nan),
            memory,
            {"log_prob": jnp.zeros(len(obs))},
        ),
    )
    world = find("jax:Pendulum-v1" if place == "graph" else "Pendulum-v1")
    driver = drive(poisoned, cfg, world, (0,), 3)
    with pytest.raises(
        EnvironmentFault, match=r"step 0, environment 0, seed 0: the policy's action.*diverged"
    ):
        driver.advance(driver.start(), 1)
    driver.close()


def test_parameters_that_are_not_finite_stop_a_run_with_discrete_actions():
    algorithm, cfg = config("dqn")
    driver = drive(algorithm, dataclasses.replace(cfg, lr=1e38, max_norm=1e38, huber=0.0), Faulty(), (0,), 3)
    with pytest.raises(EnvironmentFault, match="update diverged"):
        driver.advance(driver.start(), 30)


# ---- the last checkpoint, and the command line


def train_on(world, monkeypatch, out, name, steps):
    """A run of PPO on three environments, with a checkpoint after each of its rollouts of 5 rows."""
    for module in ("session", "beginning"):
        monkeypatch.setattr(f"polyak.runs.{module}.find", lambda *args: world)
    config = {"hidden": [4], "epochs": 1, "minibatch": 15, "horizon": 150, "data.steps": 5}
    settings = {"num_envs": 3, "eval_every": 15, "eval_episodes": 1, "verbose": False, "config": config}
    return train("ppo", "CartPole-v1", out=str(out), name=name, steps=steps, preset=False, **settings)


def test_the_last_checkpoint_is_the_one_before_the_bad_rollout(tmp_path, monkeypatch):
    with pytest.raises(EnvironmentFault, match="step 32, environment 1"):
        train_on(gym_of("reward is NaN", 32, length=7), monkeypatch, tmp_path, "bad", 150)
    good = train_on(gym_of("", 0, length=7), monkeypatch, tmp_path, "good", 90)
    bad = load(tmp_path / "bad")
    assert checkpoint.latest(bad.folder.checkpoints).name == "00000090"
    assert all(np.isfinite(x).all() for x in bad._raw[0].values())
    assert_same_bits(bad._raw[0], good._raw[0])
    assert not bad.finished


MODULE = """
import gymnasium, numpy as np

class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), np.inf if self.t == 23 else 1.0, False, self.t % 5 == 0, {}
"""


def test_the_command_line_says_it_in_one_line_and_exits_with_2(tmp_path):
    (tmp_path / "broken_worlds.py").write_text(MODULE)
    line = "train ppo broken_worlds:Broken --steps 80 --name x --config.data.steps 8 --config.minibatch 8"
    done = subprocess.run(
        [sys.executable, "-m", "polyak", *line.split(), "--config.hidden", "4", "--eval-every", "8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    said = [text for text in done.stderr.splitlines() if text.startswith("polyak:")]
    assert len(said) == 1
    assert "step 22, environment 0, seed 0: reward" in said[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert int(checkpoint.latest(tmp_path / "runs" / "x" / "checkpoints").name) == 16

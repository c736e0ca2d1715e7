"""Environments of a user's own: whatever they have is taken, and what is wrong with it is one line with its place."""

import dataclasses
import functools
import re

import gymnasium
import jax
import jax.numpy as jnp
import mistaken
import numpy as np
import pytest
from auditing import drive
from counting_gym import CountingGym
from small_runs import small_ppo

import polyak
from polyak.algorithms import find as find_algorithm
from polyak.cli import main
from polyak.drivers import episodes_host
from polyak.drivers.check import ignored
from polyak.drivers.episodes_host import HostEpisodes
from polyak.envs.environment import Environment, Step
from polyak.envs.find import find, name_of
from polyak.envs.worlds.classic_control import CartPole
from polyak.errors import EnvironmentFault, UserError
from polyak.interface import Box, Discrete, Spec
from polyak.pytree import pytree
from polyak.runs.session import check_alike

SMALL = small_ppo(hidden=[4])
PLAN = {"config": SMALL, "preset": False, "eval_episodes": 1, "num_envs": 1, "verbose": False}


def make_counting(max_length: int = 5):
    return CountingGym(max_length)


def make_cartpole():
    return CartPole()


SPEC = gymnasium.spec("CartPole-v1")
GIVEN = {
    "class": (CountingGym, "counting_gym:CountingGym"),
    "function": (make_counting, "test_own_worlds:make_counting"),
    "lambda": (lambda: CountingGym(5), "object:lambda"),
    "partial": (functools.partial(CountingGym, max_length=5), "object:CountingGym"),
    "EnvSpec": (SPEC, "CartPole-v1"),
    "EnvSpec of another make": (dataclasses.replace(SPEC, max_episode_steps=7), "object:CartPole-v1"),
    "instance": (CountingGym(5), "object:CountingGym"),
    "JAX class": (CartPole, "polyak.envs.worlds.classic_control:CartPole"),
    "JAX instance": (CartPole(), "object:CartPole"),
    "JAX function": (make_cartpole, "test_own_worlds:make_cartpole"),
}


# ---- whatever the user has


@pytest.mark.parametrize("how", GIVEN)
def test_an_environment_is_given_as_it_is_and_has_a_name_that_says_what_it_is(how):
    given, name = GIVEN[how]
    assert name_of(given) == name
    world = find(given)
    assert world.spec.action == Discrete(2)
    if not name.startswith("object:"):
        assert find(name).spec == world.spec
    if how == "EnvSpec of another make":
        assert world.spec.time_limit == 7


def test_a_run_on_an_object_asks_for_it_again_in_one_line(tmp_path):
    made = lambda: CountingGym(5)  # noqa: E731
    run = polyak.train("ppo", made, steps=16, out=str(tmp_path), name="x", **PLAN)
    assert run.finished
    assert run.evaluate(episodes=2).returns.shape == (1, 2)
    again = polyak.load(tmp_path / "x")
    assert again.policy()(np.zeros((1, 3), np.float32))[0].shape == (1,)
    for call in (again.evaluate, again.resume):
        with pytest.raises(
            UserError, match=r"given as an object \(lambda\): give it again.*polyak.load\("
        ) as error:
            call()
        assert "\n" not in str(error.value)
    given = polyak.load(tmp_path / "x", env=made)
    assert np.array_equal(given.evaluate(2).returns, run.evaluate(2).returns)
    assert given.resume().finished
    assert polyak.Agent.load(tmp_path / "x", env=made).learn(8, verbose=False).env_steps == 24


def test_a_class_that_can_be_imported_again_is_a_name_which_is_trusted_where_it_was_given(tmp_path, capsys):
    run = polyak.train("ppo", CountingGym, steps=16, out=str(tmp_path), name="x", **PLAN)
    assert run.plan.env == "counting_gym:CountingGym"
    assert run.evaluate(1).returns.shape == (1, 1)
    assert polyak.load(tmp_path / "x", env=CountingGym).evaluate(1).returns.shape == (1, 1)
    with pytest.raises(UserError, match="was trained on counting_gym:CountingGym, not on"):
        polyak.load(tmp_path / "x", env=CartPole)
    line = ["evaluate", "ppo", "counting_gym:CountingGym", "--episodes", "1", "--out", str(tmp_path)]
    assert main(line) == 0  # typed, so trusted
    assert main(["evaluate", str(tmp_path / "x"), "--episodes", "1"]) == 2  # said by a file alone
    assert "--trust counting_gym:CountingGym" in capsys.readouterr().err


class Kept(CountingGym):
    closed = False

    def close(self):
        self.closed = True


def test_one_instance_that_was_evaluated_goes_on_with_its_episode():

    def learned(evaluates):
        agent = polyak.Agent("ppo", mistaken.Right(), preset=False, config=small_ppo(16))
        for _ in range(2):
            agent.learn(16, verbose=False)  # episodes have five steps
            if evaluates:
                assert agent.evaluate(2).lengths.tolist() == [[5, 5]]
        return [{n: v for n, v in line.items() if n != "time/unix_s"} for line in agent.metrics]

    lines = learned(evaluates=True)
    assert lines[-1]["episode/length"] == 5
    assert lines == learned(evaluates=False)


def test_one_instance_trains_alone_is_evaluated_afterwards_and_stays_open(tmp_path):
    env = Kept(5)
    run = polyak.train("ppo", env, steps=16, out=str(tmp_path), name="x", **PLAN)
    assert not any("eval/return" in line for line in run.metrics)
    assert run.evaluate(2).returns.shape == (1, 2)
    assert not env.closed
    agent = polyak.Agent("ppo", env, config=SMALL, preset=False)
    assert agent.learn(16, verbose=False).env_steps == 16
    for settings, says in (
        ({"num_envs": 2}, "2 environments are asked for"),
        ({"eval_every": 8}, "a second"),
    ):
        with pytest.raises(UserError, match=f"Kept is one instance.*{says}.*give its class"):
            polyak.train("ppo", env, steps=16, out=str(tmp_path), **{**PLAN, **settings})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


class Tupled(CountingGym):
    def __init__(self, gains=(1.0, 2.0), names=None):
        super().__init__(5)
        assert isinstance(gains, tuple)
        assert not isinstance(names, tuple)


def test_a_list_is_a_tuple_where_the_constructor_has_one():
    find(Tupled, {"gains": [1, 2, 3], "names": [1]})


def test_a_field_that_no_file_can_keep_is_named_before_there_is_a_folder(tmp_path):
    for value in (np.inf, np.float32(np.nan)):
        with pytest.raises(UserError, match=r"^--env.max_length is .*functools.partial"):
            polyak.train("ppo", CountingGym, env_fields={"max_length": value}, out=str(tmp_path), **PLAN)
    assert not list(tmp_path.iterdir())


# ---- user code is the user's


def line_of(source, text):
    """The number of the line of a source that holds this text."""
    return next(i for i, line in enumerate(source.splitlines(), 1) if text in line)


class Plain:
    spec = None


class NoSpaces(gymnasium.Env):
    pass


class NoRegistration(Environment):
    @property
    def spec(self):
        return Spec(Box((1,)), Discrete(2))


@pytree
class NoSpec(Environment):
    pass


@pytree
class ForeignSpace(Environment):
    @property
    def spec(self):
        return Spec(gymnasium.spaces.Box(-1, 1, (2,)), Discrete(2))


@pytree
class ArrayBounds(Environment):
    @property
    def spec(self):
        return Spec(Box((2,), -jnp.ones(2), 1.0), Discrete(2))


def raises():
    raise RuntimeError("no simulator")  # the line that is named


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Plain, "Plain is neither a gymnasium.Env nor"),
        (NoSpaces, "NoSpaces has no observation_space: set it"),
        (NoRegistration, "put @pytree (polyak.pytree) above class NoRegistration"),
        (NoSpec, "has no spec"),
        (ForeignSpace, "spec.obs is Box, but must be a Box or Discrete of polyak's"),
        (ArrayBounds, "a bound in spec.obs is an array or a list: give one number, or a tuple"),
        (raises, "RuntimeError: no simulator at "),
        (3, "is a int; an environment, its class, or a function"),
        ("Own-v0", "named with it, as in my_module:Own-v0"),
    ],
)
def test_what_is_wrong_with_an_environment_is_one_line(given, says):
    with pytest.raises(UserError, match=re.escape(says)) as error:
        find(given)
    assert "\n" not in str(error.value)


def test_the_line_of_an_exception_in_the_making_is_named():
    with open(__file__, encoding="utf-8") as file:
        line = line_of(file.read(), "# the line that is named")
    with pytest.raises(UserError, match=rf"test_own_worlds.py:{line}$"):
        find(raises)


@pytree
class Wrong(Environment):
    @property
    def spec(self):
        return Spec(Box((1,)), Discrete(2), 5)

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state, action, key):
        if action > 0:  # an `if`
            state = state + 1
        return Step(state, state, 0.0, jnp.array(False), jnp.array(False))


@pytree
class WithNumPy(Wrong):
    def step(self, state, action, key):
        return Step(np.sin(state), state, 0.0, jnp.array(False), jnp.array(False))  # NumPy


@pytree
class WithFloat(Wrong):
    def step(self, state, action, key):
        return Step(state, state, float(state[0]), jnp.array(False), jnp.array(False))  # float()


@pytree
class Raising(Wrong):
    def step(self, state, action, key):
        return state["x"]  # a word


@pytree
class Tuples(Wrong):
    def step(self, state, action, key):
        return state, state, 0.0, False, False


@pytest.mark.parametrize(
    ("cls", "says", "mark"),
    [
        (Wrong, "use jnp.where, jax.lax.cond", "# an `if`"),
        (WithNumPy, "where jax.numpy is needed", "# NumPy"),
        (WithFloat, "not float()", "# float()"),
        (Raising, "Raising.step raised", "# a word"),
        (Tuples, "Tuples.step must return a Step, not tuple", None),
    ],
)
def test_what_cannot_be_traced_is_one_line_with_its_place(cls, says, mark):
    algorithm = find_algorithm("ppo")
    driver = drive(algorithm, algorithm.Config(), cls(), (0,), 1)
    with pytest.raises(EnvironmentFault) as error:
        driver.start()
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    if mark:
        with open(__file__, encoding="utf-8") as file:
            assert f"test_own_worlds.py:{line_of(file.read(), mark)}" in str(error.value)


class Failing(CountingGym):
    how = "raise"

    def step(self, action):
        if self.how == "raise":
            return {}["missing"]  # the line of a step
        return super().step(action)[:4]


@pytest.mark.parametrize(
    ("how", "says"), [("raise", "KeyError: 'missing' at "), ("old", "must return (obs, rew")]
)
def test_an_exception_of_an_environment_shows_its_file_and_line(how, says):
    class Now(Failing):
        pass

    Now.how = how
    envs = find(Now).make(1)
    envs.reset([0], [0])
    with pytest.raises(EnvironmentFault, match=re.escape(says)) as error:
        envs.step(np.zeros(1, np.int32))
    if how == "raise":
        with open(__file__, encoding="utf-8") as file:
            assert str(error.value).endswith(
                f"test_own_worlds.py:{line_of(file.read(), '# the line of a step')}"
            )


def test_an_environment_registered_by_a_script_is_made_in_processes_too():
    gymnasium.register("RegisteredHere-v0", entry_point="counting_gym:CountingGym", max_episode_steps=9)
    try:
        envs = find("RegisteredHere-v0").make(2, asynchronous=True)
        envs.reset([0, 1], [0, 1])
        envs.close()
    finally:
        del gymnasium.registry["RegisteredHere-v0"]


# ---- what nothing reads yet


class Masked(CountingGym):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.ones(2, np.int8)}


def test_an_environment_of_evaluation_with_numbers_of_another_type_is_named_by_it():
    words = "dtype='uint8'.*but in training they are .*dtype='float32'"
    with pytest.raises(UserError, match=words):
        check_alike("--eval-env", Spec(Box((2,), dtype="uint8"), Discrete(2)), Spec(Box((2,)), Discrete(2)))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_mask_of_legal_actions_that_nothing_reads_is_noted(asynchronous):
    envs = find(Masked).make(1, asynchronous)
    assert not envs.masked
    envs.reset([0], [0])
    envs.close()
    assert envs.masked
    if not asynchronous:
        algorithm = find_algorithm("ppo")
        driver = drive(algorithm, algorithm.Config(), find(Masked), (0,), 1)
        driver.start()
        assert "action_mask" in driver.notes["mask"]


def test_pictures_and_goals_that_are_read_as_vectors_are_noted():
    cfg = find_algorithm("ppo").Config()
    picture = Box((84, 84, 3), 0, 255, "uint8")
    goal = {name: Box((2,)) for name in ("observation", "achieved_goal", "desired_goal")}
    assert "21,168 numbers" in ignored(Spec({"camera": picture}, Discrete(2)), cfg)["picture"]
    assert "hindsight" in ignored(Spec(goal, Discrete(2)), cfg)["goal"]
    assert ignored(Spec(Box((3, 4)), Discrete(2)), cfg) == {}
    assert ignored(Spec({"observation": Box((2,)), "desired_goal": Box((2,))}, Discrete(2)), cfg) == {}


def test_a_sigma_that_a_beta_policy_does_not_read_is_noted():
    config, spec = find_algorithm("ppo").Config, Spec(Box((3,)), Box((2,)))
    said = ignored(spec, config(policy="beta", sigma="state", log_sigma=-1.0))["sigma"]
    assert said.startswith("sigma and log_sigma of a Gaussian")
    assert ignored(spec, config(policy="beta")) == ignored(spec, config(sigma="state")) == {}


# ---- episodes without an end


class Endless(CountingGym):
    """Never ends."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return np.minimum(obs, 20), reward, False, False, info


def endless():
    envs = find(Endless).make(2)
    return HostEpisodes(envs, envs.spec, (0,))


def actions_of(step):
    return np.array([step % 2, step // 2 % 2], np.int32)


def test_actions_of_endless_episodes_take_a_bounded_room_and_a_shorter_one_comes_back(monkeypatch):
    monkeypatch.setattr(episodes_host, "KEPT", 128)
    episodes = endless()
    episodes.begin()
    for step in range(1000):
        if step == 900:
            episodes.next_episode(np.array([1]))
        episodes.step(actions_of(step))
    packed = episodes.pack()
    assert episodes.actions.ring.shape == (128, 2)
    assert episodes.kept.tolist() == [0, 100]
    assert packed["length"].tolist() == [1000, 100]
    assert packed["actions"].tolist() == [int(actions_of(step)[1]) for step in range(900, 1000)]
    again = endless()
    assert again.template(100)["actions"].shape == packed["actions"].shape
    assert again.unpack(packed) == [0]  # a new episode stands in its place
    assert again.length.tolist() == [0, 100]
    assert np.array_equal(again.obs[1], episodes.obs[1])


def test_actions_come_back_whatever_the_lengths_and_however_they_are_added_up():
    rng = np.random.default_rng(0)
    episodes, wanted = endless(), [[], []]
    episodes.begin()
    for step in range(700):
        action = rng.integers(2, size=2).astype(np.int32)
        episodes.step(action)
        for slot in (0, 1):
            wanted[slot].append(int(action[slot]))
        if rng.random() < 0.02:
            slot = int(rng.integers(2))
            episodes.reset_ended(np.array([slot]))
            wanted[slot] = []
        if step % 97 == 0:
            assert episodes.pack()["actions"].tolist() == wanted[0] + wanted[1]


# ---- modes of JAX


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_disable_jit", True),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
    ],
)
def test_a_mode_of_jax_that_does_not_run_is_refused_in_one_line(name, value, tmp_path, monkeypatch):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        for call in (
            lambda: polyak.train("ppo", "jax:CartPole-v1", steps=16, out=str(tmp_path), **PLAN),
            lambda: polyak.Agent("ppo", "jax:CartPole-v1", config=SMALL),
        ):
            with pytest.raises(
                UserError, match=rf"^{name} is {value}, but polyak needs .*jax.config.update\("
            ):
                call()
        monkeypatch.setenv(name.upper(), "1")
        with pytest.raises(UserError, match=f"unset {name.upper()}$"):
            polyak.Agent("ppo", "jax:CartPole-v1", config=SMALL)
    finally:
        jax.config.update(name, before)
    assert not list(tmp_path.iterdir())

"""The adapters to other people's environments, against plain loops over those environments.

Worker processes import this file: what is heavy is imported inside the tests.
"""

import functools
import math
import os
import signal
import sys
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces as gs

from polyak.envs import spaces
from polyak.envs.find import find, names
from polyak.errors import EnvironmentFault, UserError
from polyak.interface import Box, Discrete

STRUCTURES = ("flat", "dict")


class RandomEnds(gymnasium.Env):
    """Random episodes that end with probability 0.3, by termination, truncation or both at once.

    It returns the same array at every step, which whoever keeps it must copy.
    """

    def __init__(self, structure="flat"):
        self.structure = structure
        self.action_space = gs.Box(-1.0, 1.0, (2,), np.float32)
        box = gs.Box(-np.inf, np.inf, (3,), np.float64)
        parts = {"z": box, "pair": gs.Tuple((gs.Discrete(5, start=2), gs.MultiDiscrete([3, 4])))}
        self.observation_space = box if structure == "flat" else gs.Dict({**parts, "bits": gs.MultiBinary(2)})
        self.kept = np.zeros(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(np.zeros(2)), {}

    def step(self, action):
        ends = self.np_random.random(2) < 0.3
        info = {"distance": float(action[0])} if action[0] > 0 else {}
        obs = self.observe(action)
        action[:] = 99  # an environment may write to what it is given
        return obs, np.float64(self.kept.sum()), bool(ends[0]), bool(ends[1]), info

    def observe(self, action):
        self.kept[:] = self.np_random.normal(size=3) + action[0]
        if self.structure == "flat":
            return self.kept
        integers = self.np_random.integers(3, size=4)
        return {
            "z": self.kept,
            "pair": (np.int64(2 + integers[0]), integers[1:3]),
            "bits": (integers[2:] > 1).astype(np.int8),
        }


class Misbehaves(gymnasium.Env):
    """Lane 1's third step goes wrong in the way that it is told, once `wrong` is set by a reset's seed."""

    def __init__(self, how="nothing"):
        self.how = how
        self.action_space = gs.Discrete(2)
        box = gs.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gs.Dict({"inner": gs.Dict({"a": box})}) if how == "nested" else box

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wrong, self.t = seed == 1, 0
        obs = np.zeros(2, np.float32)
        return ({"inner": {"a": obs}} if self.how == "nested" else obs), {}

    def step(self, action):
        self.t += 1
        obs, reward = np.zeros(2, np.float32), 0.0
        if self.wrong and self.t == 3:
            match self.how:
                case "shape" | "nested":
                    obs = np.zeros(3, np.float32)
                case "dtype":
                    obs = np.zeros(2, complex)
                case "reward":
                    reward = None
                case "array":
                    reward = np.zeros(1)
                case "raise":
                    raise ValueError("the floor\nis gone")
                case "exit":
                    os._exit(3)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(60)
        return ({"inner": {"a": obs}} if self.how == "nested" else obs), reward, False, False, {}


class Starts(gymnasium.Env):
    """Actions and observations are integers from 5; the observation is the action."""

    action_space = gs.Discrete(3, start=5)
    observation_space = gs.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 6, {}

    def step(self, action):
        return action, 1, False, False, {}


def needs_mujoco():
    raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")


def sync(make, lanes, measures=()):
    from polyak.envs.adapters.in_process import GymnasiumSync

    return GymnasiumSync(make, lanes, measures)


def asynchronous(make, lanes, measures=(), **settings):
    from polyak.envs.adapters.processes import GymnasiumAsync

    return GymnasiumAsync([make] * lanes, measures, **settings)


def one_line(function, *args, **kwargs):
    """The message of the UserError that this raises."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


# ---- spaces


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (gs.Box(-1.0, 1.0, (3,), np.float64), Box((3,), -1.0, 1.0, "float32")),
        (gs.Box(np.array([-1.0, 0.0]), np.array([1.0, 2.0]), dtype=np.float64), Box((2,), (-1, 0), (1, 2))),
        (gs.Box(-np.inf, np.inf, (2,), np.float64), Box((2,))),
        (gs.Box(-1e300, 1e300, (2,), np.float64), Box((2,))),
        (gs.Box(0, 255, (4, 4, 3), np.uint8), Box((4, 4, 3), 0.0, 255.0, "uint8")),
        (gs.Box(0, 7, (2,), np.int64), Box((2,), 0.0, 7.0, "int32")),
        (gs.Discrete(4, start=-1), Discrete(4)),
        (gs.MultiBinary(3), Box((3,), 0.0, 1.0)),
        (gs.MultiDiscrete([2, 5]), (Discrete(2), Discrete(5))),
        (gs.MultiDiscrete([[2, 5]]), Box((1, 2), 0.0, (1.0, 4.0))),
        (gs.Tuple((gs.Discrete(2), gs.Discrete(3))), (Discrete(2), Discrete(3))),
    ],
)
def test_observation_spaces_become_our_records(given, ours):
    assert spaces.from_gymnasium(given) == ours


def test_dict_spaces_keep_their_names_and_order():
    space = gs.Dict({"b": gs.Discrete(2), "a": gs.Dict({"c": gs.Box(0.0, 1.0, (1,))})})
    assert spaces.from_gymnasium(space) == {"b": Discrete(2), "a": {"c": Box((1,), 0.0, 1.0)}}
    assert list(spaces.from_gymnasium(space)) == list(space.spaces)


def test_unsupported_spaces_are_named_in_one_line():
    assert "Text" in one_line(spaces.from_gymnasium, gs.Dict({"a": gs.Text(5)}))
    assert "MultiDiscrete" in one_line(spaces.action_from_gymnasium, gs.MultiDiscrete([2, 2]))
    assert "int32" in one_line(spaces.action_from_gymnasium, gs.Box(0, 3, (2,), np.int32))


def test_actions_rescaled_to_a_bound_stay_inside_it():
    from polyak.envs.environment import to_bounds

    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for _ in range(200):
            low, width = rng.normal(size=3), rng.random(3)
            space = gs.Box(low.astype(dtype), (low + width).astype(dtype), dtype=dtype)
            actions, ours = spaces.Actions(space), spaces.action_from_gymnasium(space)
            for action in (-1, 1, rng.uniform(-1, 1)):
                given = actions(to_bounds(ours, np.full((1, 3), action, np.float32)))
                assert given.dtype == dtype
                assert space.contains(given[0])


# ---- Gymnasium


def play(envs, steps=40):
    """Everything that L lanes give under random actions, each ended lane reset with a seed of its own."""
    rng, lanes = np.random.default_rng(3), envs.spec.num_envs
    episode = np.zeros(lanes, int)
    rows = [envs.reset(range(lanes), [10 * lane for lane in range(lanes)])]
    for _ in range(steps):
        step = envs.step(rng.uniform(-1, 1, (lanes, 2)).astype(np.float32))
        rows.append(step)
        ended = np.flatnonzero(step.terminated | step.truncated)
        episode[ended] += 1
        if ended.size:
            rows.append(envs.reset(ended, [10 * lane + episode[lane] for lane in ended]))
    return rows


def play_plainly(make, lanes=3, steps=40):
    """The same by a loop over single environments, with lists of each lane's own results."""
    rng, envs, episode = np.random.default_rng(3), [make() for _ in range(lanes)], [0] * lanes

    def plain(obs):
        if not isinstance(obs, dict):
            return obs.astype(np.float32)
        first, pair = obs["pair"]
        return {
            "z": obs["z"].astype(np.float32),
            "pair": (np.int32(first - 2), tuple(np.int32(i) for i in pair)),
            "bits": obs["bits"].astype(np.float32),
        }

    current = [plain(env.reset(seed=10 * lane)[0]) for lane, env in enumerate(envs)]
    rows = [list(current)]
    for _ in range(steps):
        actions = rng.uniform(-1, 1, (lanes, 2)).astype(np.float32)
        results = []
        for lane, env in enumerate(envs):
            obs, reward, terminated, truncated, info = env.step(actions[lane].copy())
            current[lane] = plain(obs)
            distance = info.get("distance", math.nan)
            results.append((current[lane], float(reward), terminated, truncated and not terminated, distance))
        rows.append(results)
        ended = [lane for lane, result in enumerate(results) if result[2] or result[3]]
        for lane in ended:
            episode[lane] += 1
            current[lane] = plain(envs[lane].reset(seed=10 * lane + episode[lane])[0])
        if ended:
            rows.append(list(current))
    return rows


def same(a, b):
    """Equal trees, bit for bit and in their dtypes."""
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def lane_of(tree, lane):
    return spaces.over(lambda part: part[lane], tree)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_thin_loop_is_a_plain_loop_bit_for_bit_with_true_final_observations(structure):
    make = functools.partial(RandomEnds, structure)
    ours, plain = play(sync(make, 3, ["distance"])), play_plainly(make)
    assert len(ours) == len(plain) > 60
    for row, expected in zip(ours, plain, strict=True):
        for lane in range(3):
            if not hasattr(row, "reward"):
                assert same(lane_of(row, lane), expected[lane])
                continue
            obs, reward, terminated, truncated, distance = expected[lane]
            assert same(lane_of(row.obs, lane), obs)
            assert (row.reward[lane], row.terminated[lane], row.truncated[lane]) == (
                reward,
                terminated,
                truncated,
            )
            assert same(row.measures["distance"][lane], np.float64(distance))
    steps = [row for row in ours if hasattr(row, "reward")]
    assert steps[0].reward.dtype == np.float64
    assert steps[0].terminated.dtype == steps[0].truncated.dtype == bool
    assert any(step.terminated.any() for step in steps)
    assert any(step.truncated.any() for step in steps)


def test_processes_give_what_the_thin_loop_gives():
    make = functools.partial(RandomEnds, "dict")
    processes = asynchronous(make, 2, ["distance"])
    ours = play(processes, 25)
    processes.close()
    for a, b in zip(play(sync(make, 2, ["distance"]), 25), ours, strict=True):
        if hasattr(a, "reward"):
            assert same(a.measures, b.measures)
            a, b = a[:4], b[:4]
        assert same(a, b)
    assert processes.spec == sync(make, 2, ["distance"]).spec
    assert not any(process.is_alive() for process in processes._vector.processes)


def test_integers_start_at_zero_on_our_side():
    envs = sync(Starts, 2)
    assert envs.spec.action == envs.spec.obs == Discrete(3)
    assert envs.reset(range(2), range(2)).tolist() == [1, 1]
    step = envs.step(np.array([0, 2], np.int32))
    assert step.obs.tolist() == [0, 2]
    assert step.obs.dtype == np.int32


def test_termination_wins_over_a_time_limit_at_the_same_step():
    """CartPole pushed one way falls at some step; with its limit at that step both flags are raised."""
    env = find("CartPole-v1").make_one()
    env.reset(seed=0)
    fall = 1
    while not env.step(1)[2]:
        fall += 1
    envs = find("CartPole-v1", {"max_episode_steps": fall}).make(1)
    assert envs.spec.time_limit == fall
    envs.reset([0], [0])
    for _ in range(fall):
        step = envs.step(np.array([1]))
    assert step.terminated.tolist() == [True]
    assert step.truncated.tolist() == [False]

    envs = find("CartPole-v1", {"max_episode_steps": fall - 1}).make(1)
    envs.reset([0], [0])
    for _ in range(fall - 1):
        step = envs.step(np.array([1]))
    assert step.terminated.tolist() == [False]
    assert step.truncated.tolist() == [True]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("shape", "environment 1: observation is of shape (3,), its space says (2,)"),
        ("nested", "environment 1: observation.inner.a is of shape (3,)"),
        ("dtype", "environment 1: observation is of dtype complex128"),
        ("reward", "environment 1: reward is None"),
        ("array", "environment 1: reward is an array of shape (1,)"),
        ("raise", "environment 1: step with action 0 raised ValueError: the floor is gone"),
    ],
)
def test_a_broken_contract_names_environment_and_field(how, says):
    envs = sync(functools.partial(Misbehaves, how), 2)
    envs.reset([0, 1], [0, 1])
    for _ in range(2):
        envs.step(np.zeros(2, int))
    with pytest.raises(EnvironmentFault) as caught:
        envs.step(np.zeros(2, int))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nested", ["environment 1: observation.inner.a is of shape (3,)"]),
        (
            "raise",
            [
                "environment 1: step with action 1 raised ValueError: the floor is gone",
                "test_adapters.py:",
            ],
        ),
        ("exit", ["environment 1: its process (worker 1, pid", "exited with code 3 in step; last action 1"]),
        (
            "kill",
            ["environment 1: its process (worker 1, pid", "was killed by SIGKILL in step; last action 1"],
        ),
        (
            "hang",
            ["environment 1: its process (worker 1, pid", "did not answer within 1 s in step; last action 1"],
        ),
    ],
)
def test_a_worker_that_fails_dies_or_hangs_is_named_and_nobody_waits(how, says):
    envs = asynchronous(functools.partial(Misbehaves, how), 2, deadline=1.0)
    envs.reset([0, 1], [0, 1])
    for _ in range(2):
        envs.step(np.array([0, 1]))
    before = time.monotonic()
    message = one_line(envs.step, np.array([0, 1]))
    envs.close()
    assert time.monotonic() - before < 6
    for part in says:
        assert part in message
    assert not any(process.is_alive() for process in envs._vector.processes)
    assert "closed" in one_line(envs.step, np.array([0, 1]))


# ---- EnvPool


@pytest.fixture
def pool():
    envs = find("envpool:CartPole-v1").make(3)
    yield envs
    envs.close()


def test_envpool_follows_gymnasiums_cartpole_through_ends_and_masked_resets(pool):
    rng, plain = np.random.default_rng(0), find("CartPole-v1").make_one().unwrapped
    obs = pool.reset(range(3), range(3))
    assert obs.shape == (3, 4)
    assert len({tuple(row) for row in obs}) == 3
    kept, copies, elapsed, ended_at = [obs], [obs.copy()], np.zeros(3, int), []
    for _ in range(120):
        action = rng.integers(2, size=3)
        step = pool.step(action)
        elapsed += 1
        for lane in range(3):
            plain.reset(seed=0)
            plain.state = obs[lane].astype(np.float64)
            expected, reward, terminated, *_ = plain.step(int(action[lane]))
            np.testing.assert_allclose(step.obs[lane], expected, atol=1e-5)
            assert (step.reward[lane], step.terminated[lane]) == (reward, terminated)
        assert not step.truncated.any()
        assert pool._elapsed.tolist() == elapsed.tolist()
        obs, ended = step.obs, np.flatnonzero(step.terminated)
        if ended.size:
            ended_at.extend(elapsed[ended])
            elapsed[ended] = 0
            obs = pool.reset(ended, [0] * ended.size)
            others = np.setdiff1d(range(3), ended)
            assert np.all(np.abs(obs[ended]) <= 0.05)
            assert np.array_equal(obs[others], step.obs[others])
        kept += [step.obs, obs]
        copies += [step.obs.copy(), obs.copy()]
    assert len(ended_at) > 8
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("early", [0, 1])
def test_envpool_truncates_at_the_limit_and_terminates_where_the_world_ends_there(early):
    envs = find("envpool:CartPole-v1").make(1)
    envs.reset([0], [4])
    fall = 1
    while not envs.step(np.array([1])).terminated[0]:
        fall += 1
    limited = find("envpool:CartPole-v1", {"max_episode_steps": fall - early}).make(1)
    assert limited.spec.time_limit == fall - early
    limited.reset([0], [4])
    flags = [limited.step(np.array([1])) for _ in range(fall - early)]
    assert [bool(f.terminated[0]) for f in flags] == [False] * (fall - early - 1) + [early == 0]
    assert [bool(f.truncated[0]) for f in flags] == [False] * (fall - early - 1) + [early == 1]
    assert "without a reset" in one_line(limited.step, np.array([1]))
    limited.reset([0], [0])
    assert not limited.step(np.array([1])).truncated[0]
    assert not limited.exact_reset


def test_envpool_pools_of_the_same_first_seeds_are_the_same():
    def first(seeds):
        envs = find("envpool:HalfCheetah-v5", measures={"x_position": "last"}).make(2)
        start = envs.reset(range(2), seeds)
        step = envs.step(np.zeros((2, 6), np.float32))
        envs.close()
        assert start.dtype == step.obs.dtype == np.float32
        assert step.reward.dtype == np.float64
        assert np.isfinite(step.measures["x_position"]).all()
        return start

    a, b, c = first([7, 2**40]), first([7, 2**40]), first([8, 9])
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


# ---- gymnax


def test_gymnax_cartpole_follows_gymnasiums():
    import jax
    import jax.numpy as jnp

    env, plain = find("gymnax:CartPole-v1"), find("CartPole-v1").make_one().unwrapped
    with jax.debug_key_reuse(True):
        state, obs = jax.jit(env.reset)(jax.random.key(0))
        advance = jax.jit(lambda env, *args: env.step(*args))
        for t in range(60):
            action = t % 2 if t < 20 else 1
            plain.reset(seed=0)
            plain.state = np.asarray(obs, np.float64)
            expected, _, terminated, *_ = plain.step(action)
            step = advance(env, state, jnp.int32(action), jax.random.key(t + 1))
            np.testing.assert_allclose(step.obs, expected, atol=1e-5)
            assert bool(step.terminated) == terminated
            assert float(step.reward) == 1.0
            state, obs = step.state, step.obs
            assert not any(leaf.weak_type for leaf in jax.tree.leaves(step))
            if terminated:
                break
    assert terminated
    assert t > 20


def test_gymnax_time_limit_truncates_and_never_terminates():
    import jax

    env = find("gymnax:CartPole-v1", {"max_steps_in_episode": 3})
    assert env.spec.time_limit == 3
    state, _ = env.reset(jax.random.key(0))
    flags = []
    for t in range(3):
        step = env.step(state, jax.numpy.int32(t % 2), jax.random.key(t))
        state = step.state
        flags.append((bool(step.terminated), bool(step.truncated)))
    assert flags == [(False, False), (False, False), (False, True)]


def test_gymnax_parameters_are_leaves_and_options_are_not():
    import jax
    import jax.numpy as jnp

    env = find("gymnax:Pendulum-v1", {"g": 0.0})
    state, _ = env.reset(jax.random.key(0))

    def speed(gravity):
        return env.replace(g=gravity).step(state, jnp.zeros(1), jax.random.key(1)).obs[2]

    speeds = jax.vmap(speed)(jnp.array([0.0, 5.0, 10.0]))
    np.testing.assert_allclose(speeds[0], speed(0.0), rtol=1e-6)
    np.testing.assert_allclose(speeds[2] - speeds[1], speeds[1] - speeds[0], rtol=1e-4)
    assert abs(float(speeds[1] - speeds[0])) > 1e-3
    assert find("gymnax:Catch-bsuite", {"rows": 6}).spec.obs.shape == (6, 5)
    assert env.spec.action == Box((1,), -2.0, 2.0)


GAMES = [f"{game}-MinAtar" for game in ("Breakout", "Asterix", "SpaceInvaders", "Freeway", "Seaquest")]


@pytest.mark.parametrize("name", [*GAMES, "FourRooms-misc", "Catch-bsuite", "FrozenLake-misc"])
def test_gymnax_observations_are_what_their_spaces_say(name):
    import jax
    import jax.numpy as jnp

    env = find(f"gymnax:{name}")
    state, obs = jax.eval_shape(env.reset, jax.random.key(0))
    step = jax.eval_shape(env.step, state, jnp.int32(0), jax.random.key(1))
    assert (
        (obs.shape, obs.dtype) == (step.obs.shape, step.obs.dtype) == (env.spec.obs.shape, env.spec.obs.dtype)
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), step.state
    )


# ---- by name


def test_each_prefix_finds_its_own():
    assert type(find("jax:CartPole-v1")).__name__ == "CartPole"
    assert type(find("gymnax:CartPole-v1")).__name__ == "Gymnax"
    assert find("envpool:CartPole-v1").kind == find("CartPole-v1").kind == "host"
    assert find("CartPole-v1").spec == find("envpool:CartPole-v1").spec
    assert find("polyak.envs.worlds.classic_control:Pendulum", {"gravity": 2}).gravity == 2.0
    assert find("CartPole-v1").make_one("rgb_array").render_mode == "rgb_array"
    found = names()
    assert {"jax", "gymnasium", "gymnax", "pgx", "envpool", "atari"} == set(found)
    shown = {"atari": "Pong-v5", "pgx": "go_9x9"}
    assert all(shown.get(of, "CartPole-v1") in listed for of, listed in found.items())


def test_an_environment_of_ones_own_is_found_in_the_current_folder(tmp_path, monkeypatch):
    code = "from test_adapters import Starts\ninstance = 3\ndef made(by=1):\n    return Starts()\n"
    (tmp_path / "my_own_package.py").write_text(code)
    (tmp_path / "my_broken_package.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert find("my_own_package:Starts").spec.obs == Discrete(3)
    assert find("my_own_package:made", {"max_episode_steps": 9}).spec.time_limit == 9
    assert "did you mean 'by'" in one_line(find, "my_own_package:made", {"bye": 1})
    assert "is a int" in one_line(find, "my_own_package:instance")
    assert "did you mean 'Starts'" in one_line(find, "my_own_package:Start")
    assert "nothing_of_this_name" in one_line(find, "my_broken_package:Any")


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("CartPoll-v1", {}, "did you mean 'CartPole-v1'"),
        ("CartPole-v9", {}, "did you mean 'CartPole-v1'"),
        ("HalfCheetah-v2", {}, "gymnasium-robotics"),
        ("jax:CartPoll-v1", {}, "did you mean 'CartPole-v1'"),
        ("gymnax:CartPoll-v1", {}, "did you mean 'CartPole-v1'"),
        ("envpool:CartPoll-v1", {}, "did you mean 'CartPole-v1'"),
        ("gymnaxx:CartPole-v1", {}, "did you mean 'gymnax'"),
        ("brax:ant", {}, "not served yet"),
        ("pgx:go_9", {}, "did you mean 'go_9x9'"),
        ("pgx:backgammon", {}, "no board game of two"),
        ("pgx:go_9x9", {"size": 5}, "has no field 'size'"),
        ("envpool:Go9x9-v1", {}, "2 players"),
        ("HalfCheetah-v5", {"fram_skip": 1}, "did you mean 'frame_skip'"),
        ("CartPole-v1", {"sutton_reward": 1}, "did you mean 'sutton_barto_reward'"),
        ("jax:CartPole-v1", {"gravty": 1}, "did you mean 'gravity'"),
        ("jax:CartPole-v1", {"gravity": "low"}, "gravity must be a number, not 'low'"),
        ("jax:CartPole-v1", {"time_limit": 2.5}, "time_limit must be an integer, not 2.5"),
        ("gymnax:CartPole-v1", {"gravty": 1}, "did you mean 'gravity'"),
        ("gymnax:Catch-bsuite", {"rows": "many"}, "rows must be an integer"),
        ("gymnax:Catch-bsuite", {"row": 1}, "did you mean 'rows'"),
        ("envpool:CartPole-v1", {"max_episode_step": 1}, "did you mean 'max_episode_steps'"),
        ("test_adapters:needs_mujoco", {}, 'needs mujoco: pip install "polyak[mujoco]"'),
    ],
)
def test_a_mistake_is_one_line_with_what_would_be_right(name, fields, says):
    assert says in one_line(find, name, fields)


def test_measures_are_checked():
    assert "no measure 'success'" in one_line(find, "jax:CartPole-v1", {}, ["success"])
    assert "Valid: last, max, mean, sum" in one_line(find, "CartPole-v1", {}, {"success": "first"})
    assert find("CartPole-v1", {}, ["success"]).spec.measures == {"success": "last"}


@pytest.mark.skipif("ale_py" in sys.modules, reason="ale_py is installed")
@pytest.mark.parametrize(
    ("name", "package"), [("ALE/Pong-v5", "ale_py"), ("LunarLander-v3", "Box2D"), ("CarRacing-v3", "Box2D")]
)
def test_a_missing_package_says_what_to_install(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = one_line(find, name)
    assert f"needs {package}: pip install" in message


def test_pictures_without_pygame_say_what_to_install(monkeypatch):
    factory = find("CartPole-v1")
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert 'pip install "polyak[classic-control]"' in one_line(factory.make_one, "rgb_array")
    assert factory.make_one() is not None


def test_pictures_need_no_display(no_driver_chosen):
    env = find("CartPole-v1").make_one("rgb_array")
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)

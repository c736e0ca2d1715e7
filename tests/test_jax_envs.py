"""Classic control is Gymnasium's, probes have the values they claim, and the counting environment counts."""

import random
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting_gym import CountingGym, ForgetfulGym
from scipy.stats import ks_2samp

from polyak.envs.worlds import arm, car_on_hill, classic_control, counting, linear, probes
from polyak.envs.worlds.classic_control import CartPole, Pendulum
from polyak.envs.worlds.counting import Counting
from polyak.errors import UserError
from polyak.interface import Box, Discrete

CLASSIC = list(classic_control.ENVIRONMENTS)
PROBES = [(make, c) for make in probes.ENVIRONMENTS.values() for c in (False, True)]
ALL = (
    [
        make()
        for make in (
            classic_control.ENVIRONMENTS | linear.ENVIRONMENTS | car_on_hill.ENVIRONMENTS | arm.ENVIRONMENTS
        ).values()
    ]
    + [make(continuous=c) for make, c in PROBES]
    + [Counting(continuous=c) for c in (False, True)]
)
STEPS = 10_000


def titled(env):
    """A test's name for an environment."""
    return type(env).__name__ + ("-continuous" if getattr(env, "continuous", False) else "")


@pytest.fixture(autouse=True)
def every_key_is_used_once():
    with jax.debug_key_reuse(True):
        yield


def an_action(space):
    return jnp.int32(1) if isinstance(space, Discrete) else jnp.full(space.shape, 0.3, jnp.float32)


# ---- what holds for every environment


@pytest.mark.parametrize("env", ALL, ids=titled)
def test_shapes_and_strong_types_never_change(env):
    key = jax.random.key(0)
    state, obs = jax.eval_shape(env.reset, key)
    step = jax.eval_shape(env.step, state, an_action(env.spec.action), key)
    after = jax.eval_shape(env.step, step.state, an_action(env.spec.action), key)
    seen = [jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (state, step.state, after.state)]
    assert seen[0] == seen[1] == seen[2]
    assert (obs.shape, obs.dtype) == (step.obs.shape, step.obs.dtype) == (env.spec.obs.shape, np.float32)
    assert (step.reward.shape, step.reward.dtype) == ((), np.float32)
    assert step.terminated.dtype == step.truncated.dtype == np.bool_
    assert step.terminated.shape == step.truncated.shape == ()
    assert step.measures.keys() == env.spec.measures.keys()
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, obs, step, after)))


@pytest.mark.parametrize("env", ALL, ids=titled)
def test_the_spec_of_a_traced_copy_is_the_same_and_holds_no_tracer(env):
    specs = []
    jax.jit(lambda e, key: specs.append(e.spec) or e.reset(key)[1])(env, jax.random.key(0))
    assert specs == [env.spec]
    hash((specs[0].obs, specs[0].action))


@pytest.mark.parametrize("env", [e for e in ALL if not getattr(e, "continuous", False)], ids=titled)
def test_observations_stay_in_their_space_until_the_episode_ends(env):
    space, action = env.spec.obs, env.spec.action

    def an_action_of(key):
        if isinstance(action, Discrete):
            return jax.random.randint(key, (), 0, action.n)
        low, high = max(action.low, -10.0), min(action.high, 10.0)
        return jax.random.uniform(key, action.shape, minval=low, maxval=high)

    def step(carry, key):
        state, alive = carry
        key_action, key_step = jax.random.split(key)
        chosen = jax.vmap(an_action_of)(jax.random.split(key_action, 32))
        step = jax.vmap(env.step)(state, chosen, jax.random.split(key_step, 32))
        return (step.state, alive & ~step.terminated & ~step.truncated), (step.obs, alive)

    @jax.jit
    def walk(key):
        key_reset, key_walk = jax.random.split(key)
        state, obs = jax.vmap(env.reset)(jax.random.split(key_reset, 32))
        _, seen = jax.lax.scan(step, (state, jnp.ones(32, bool)), jax.random.split(key_walk, 100))
        return obs, *seen

    obs, seen, alive = walk(jax.random.key(1))
    seen = np.concatenate([obs, np.asarray(seen)[np.asarray(alive)]])
    low, high = np.float32(space.low), np.float32(space.high)
    assert ((seen >= low) & (seen <= high)).all()


# ---- classic control against Gymnasium


def space_of(ours):
    """Gymnasium's space for one of ours."""
    if isinstance(ours, Discrete):
        return gymnasium.spaces.Discrete(ours.n)
    low, high = (np.broadcast_to(np.asarray(b, ours.dtype), ours.shape) for b in (ours.low, ours.high))
    return gymnasium.spaces.Box(low, high, ours.shape, np.dtype(ours.dtype))


@pytest.mark.parametrize("name", CLASSIC)
def test_spaces_and_time_limit_are_gymnasiums(name):
    spec, theirs = classic_control.ENVIRONMENTS[name]().spec, gymnasium.make(name)
    assert space_of(spec.obs) == theirs.observation_space
    assert space_of(spec.action) == theirs.action_space
    assert spec.time_limit == gymnasium.spec(name).max_episode_steps


def pump(name, state, rng):
    """Random actions, but half of the time along the motion, so that episodes reach their ends."""
    along = rng.random() < 0.5
    if name == "CartPole-v1":
        return int(state[2] + state[3] > 0) if along else int(rng.integers(2))
    if name == "Pendulum-v1":
        return rng.uniform(-2, 2, 1).astype(np.float32)
    if name == "MountainCarContinuous-v0":
        return np.float32([np.sign(state[1])]) if along else rng.uniform(-1, 1, 1).astype(np.float32)
    velocity = state[1] if name == "MountainCar-v0" else -state[2]
    return int(2 * (velocity > 0)) if along else int(rng.integers(3))


def play(name, steps):
    """Gymnasium's record of `steps` steps; the time limit resets, so that resets are many."""
    env, rng = gymnasium.make(name).unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    limit, rows, t = gymnasium.spec(name).max_episode_steps, [], 0
    for _ in range(steps):
        before = np.array(env.state, np.float64)
        action = pump(name, before, rng)
        obs, reward, terminated, _, _ = env.step(action)
        t += 1
        last = terminated or t == limit
        rows.append((before, action, obs, reward, terminated, np.array(env.state, np.float64), last))
        if last:
            env.reset()
            t = 0
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.fixture(scope="module", params=CLASSIC)
def record(request):
    return request.param, play(request.param, STEPS)


def test_ten_thousand_steps_are_gymnasiums_when_each_starts_from_its_state(record):
    name, (before, action, obs, reward, terminated, after, last) = record
    env = classic_control.ENVIRONMENTS[name]()
    keys = jax.random.split(jax.random.key(0), STEPS)
    ours = jax.jit(jax.vmap(env.step))(jnp.float32(before), jnp.asarray(action), keys)
    assert last.sum() > 5
    if name != "Pendulum-v1":
        assert terminated.sum() > 5
    np.testing.assert_allclose(ours.obs, obs, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(ours.reward, reward, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(ours.terminated, terminated)
    assert not ours.truncated.any()
    np.testing.assert_allclose(ours.state, after, rtol=1e-5, atol=2e-5)
    if name == "Acrobot-v1":
        assert (np.abs(after - before)[:, :2] > np.pi).sum() > 5, "angles must have wrapped"


def test_episodes_are_gymnasiums_without_synchronising(record):
    name, (before, action, obs, reward, terminated, _, last) = record
    env = classic_control.ENVIRONMENTS[name]()

    @jax.jit
    def run(state, actions):
        def step(state, action):
            step = env.step(state, action, jax.random.key(0))
            return step.state, (step.obs, step.reward, step.terminated)

        return jax.lax.scan(step, state, actions)[1]

    # two magnify the rounding of float32 beyond any tolerance in time; the others run to their ends
    most = {"CartPole-v1": 100, "Acrobot-v1": 80}.get(name, env.spec.time_limit)
    ends = np.flatnonzero(last)[:6]
    for start, end in zip([0, *ends[:-1] + 1], ends + 1, strict=True):
        end = min(end, start + most)
        padded = np.resize(action[start:end], (most, *action.shape[1:]))
        ours = [np.asarray(x)[: end - start] for x in run(jnp.float32(before[start]), padded)]
        np.testing.assert_allclose(ours[0], obs[start:end], rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(ours[1], reward[start:end], rtol=1e-2, atol=1e-2)
        np.testing.assert_array_equal(ours[2], terminated[start:end])


@pytest.mark.parametrize("name", CLASSIC)
def test_resets_are_distributed_as_gymnasiums_and_all_differ(name):
    n, env, theirs = 4096, classic_control.ENVIRONMENTS[name](), gymnasium.make(name).unwrapped
    keys = jax.random.split(jax.random.key(3), n)
    state, obs = (np.asarray(x) for x in jax.jit(jax.vmap(env.reset))(keys))
    theirs.reset(seed=3)
    starts = [(theirs.reset()[0], np.array(theirs.state)) for _ in range(n)]
    for ours, other in zip((obs, state), zip(*starts, strict=True), strict=True):
        other = np.stack(other)
        spread = np.ptp(other, axis=0)
        assert (np.abs(ours.mean(0) - other.mean(0)) <= 0.03 * spread).all()
        np.testing.assert_allclose(ours.min(0), other.min(0), atol=0.01 * spread.max())
        np.testing.assert_allclose(ours.max(0), other.max(0), atol=0.01 * spread.max())
        for k in range(ours.shape[1]):
            assert ks_2samp(ours[:, k], other[:, k]).pvalue > 1e-3
    # uniform draws from 2^23 numbers collide now and then in one dimension
    assert len(np.unique(state, axis=0)) > n - 10


def test_sutton_barto_reward_is_gymnasiums():
    theirs = gymnasium.make("CartPole-v1", sutton_barto_reward=True).unwrapped
    theirs.reset(seed=0)
    env = CartPole(sutton_barto_reward=True)
    for _ in range(50):
        before = jnp.asarray(theirs.state, jnp.float32)
        _, reward, terminated, _, _ = theirs.step(1)
        ours = env.step(before, jnp.int32(1), jax.random.key(0))
        assert (float(ours.reward), bool(ours.terminated)) == (reward, terminated)
        if terminated:
            break
    assert reward == -1


CHANGED = {  # our constants and Gymnasium's names for them
    "CartPole-v1": (
        {"gravity": 5.0, "mass_cart": 2.0, "mass_pole": 0.3, "length": 0.8, "force": 7.0, "timestep": 0.01},
        {"gravity": 5.0, "masscart": 2.0, "masspole": 0.3, "length": 0.8, "force_mag": 7.0, "tau": 0.01}
        | {"total_mass": 2.3, "polemass_length": 0.3 * 0.8},
    ),
    "Pendulum-v1": (
        {"gravity": 9.0, "mass": 1.5, "length": 0.7, "timestep": 0.03},
        {"g": 9.0, "m": 1.5, "l": 0.7, "dt": 0.03},
    ),
    "MountainCar-v0": (
        {"force": 0.002, "gravity": 0.003, "goal_position": -0.5, "goal_velocity": 0.003},
        {"force": 0.002, "gravity": 0.003, "goal_position": -0.5, "goal_velocity": 0.003},
    ),
    "MountainCarContinuous-v0": (
        {"force": 0.002, "goal_position": -0.5, "goal_velocity": 0.003},
        {"power": 0.002, "goal_position": -0.5, "goal_velocity": 0.003},
    ),
    "Acrobot-v1": (
        {"mass_1": 1.2, "mass_2": 0.8, "length_1": 1.1, "center_1": 0.4, "center_2": 0.6, "inertia": 0.9}
        | {"torque": 0.5, "timestep": 0.1},
        {"LINK_MASS_1": 1.2, "LINK_MASS_2": 0.8, "LINK_LENGTH_1": 1.1, "LINK_COM_POS_1": 0.4}
        | {"LINK_COM_POS_2": 0.6, "LINK_MOI": 0.9, "AVAIL_TORQUE": [-0.5, 0, 0.5], "dt": 0.1},
    ),
}


@pytest.mark.parametrize("name", CLASSIC)
def test_every_constant_means_what_gymnasiums_means(name):
    constants, named = CHANGED[name]
    env = classic_control.ENVIRONMENTS[name](**constants)
    theirs, rng = gymnasium.make(name).unwrapped, np.random.default_rng(1)
    for attribute, value in named.items():
        assert hasattr(theirs, attribute)
        setattr(theirs, attribute, value)
    step = jax.jit(type(env).step)
    theirs.reset(seed=1)
    for _ in range(200):
        before = np.array(theirs.state, np.float32)
        action = pump(name, before, rng)
        obs, reward, terminated, _, _ = theirs.step(action)
        ours = step(env, before, jnp.asarray(action), jax.random.key(0))
        np.testing.assert_allclose(ours.obs, obs, rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(ours.reward, reward, rtol=1e-5)
        assert bool(ours.terminated) == terminated
        if terminated:
            theirs.reset()


def test_constants_are_leaves_that_vmap_and_grad_go_through():
    state, action, key = jnp.float32([0.5, 0.0]), jnp.float32([1.0]), jax.random.key(0)

    def speed(mass):
        return Pendulum().replace(mass=mass).step(state, action, key).state[1]

    masses = jnp.float32([0.5, 1.0, 2.0])
    expected = 0.05 * (15 * np.sin(0.5) + 3 / np.float64(masses))
    np.testing.assert_allclose(jax.jit(jax.vmap(speed))(masses), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(speed))(masses), -0.15 / np.float64(masses) ** 2, rtol=1e-5)


def test_a_batch_of_environments_steps_each_with_its_own_constants():
    envs = jax.vmap(lambda x: CartPole().replace(length=x))(jnp.float32([0.3, 0.6]))
    state = jnp.float32([0.01, 0.02, 0.03, 0.04])
    step = jax.vmap(lambda env: env.step(state, jnp.int32(1), jax.random.key(0)).state)
    alone = [CartPole(length=x).step(state, jnp.int32(1), jax.random.key(0)).state for x in (0.3, 0.6)]
    np.testing.assert_allclose(step(envs), np.stack(alone), rtol=1e-6)
    assert not np.allclose(alone[0], alone[1], rtol=1e-3)


# ---- pictures


@pytest.mark.parametrize("name", CLASSIC)
def test_a_picture_is_gymnasiums_own_and_shows_the_state(name):
    env = classic_control.ENVIRONMENTS[name]()
    first, _ = env.reset(jax.random.key(0))
    second, _ = env.reset(jax.random.key(1))
    second = second + 0.3
    picture = env.draw(first)
    other = env.draw(second)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.flags.c_contiguous
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
    assert (picture != other).any()
    assert (env.draw(first) == picture).all()

    theirs = gymnasium.make(name, render_mode="rgb_array").unwrapped
    theirs.reset()
    theirs.state = np.asarray(first, np.float64)
    np.testing.assert_array_equal(theirs.render(), picture)
    theirs.close()
    assert (env.draw(first) == picture).all(), "another renderer's end must not disturb ours"


def test_a_picture_shows_the_constants():
    state = jnp.zeros(4)
    assert (CartPole(length=0.2).draw(state) != CartPole().draw(state)).any()
    assert (CartPole().draw(state) == CartPole().draw(state)).all()


def test_a_picture_without_pygame_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    classic_control._renderer.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'polyak\[classic-control\]'"):
        CartPole().draw(jnp.zeros(4))


# ---- probes


def outcomes(env, obs, action, gamma, depth):
    """Q(obs, action) in float64 by following the environment step by step, best actions after the first."""
    step = env.step(obs, action, jax.random.key(0))
    reward = float(step.reward)
    if depth == 0 or step.terminated:
        return reward
    return reward + gamma * max(outcomes(env, step.obs, a, gamma, depth - 1) for a in choices(env)[:2])


def choices(env):
    if not env.continuous:
        return [jnp.int32(0), jnp.int32(1)]
    return [jnp.float32([a]) for a in (-1, -0.5, 0, 0.5, 1)]


def starts(env):
    keys = jax.random.split(jax.random.key(5), 400)
    _, obs = jax.vmap(env.reset)(keys)
    return np.unique(obs, return_counts=True)


@pytest.mark.parametrize("env", [make(continuous=c) for make, c in PROBES], ids=titled)
@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_probe_values_are_what_playing_gives(env, gamma):
    seen = starts(env)[0].tolist() + ([1.0] if isinstance(env, probes.TwoStep) else [])
    for number in seen:
        obs = jnp.float32([number])
        played = []
        for action in choices(env):
            if isinstance(env, probes.Constant):
                step = env.step(obs, action, jax.random.key(0))
                assert (float(step.reward), bool(step.terminated), step.obs.tolist()) == (1, False, [0])
                value = sum(gamma**t for t in range(10_000))
            else:
                value = outcomes(env, obs, action, gamma, 3)
            played.append(value)
            assert float(env.action_value(obs, action, gamma)) == pytest.approx(value, abs=1e-5, rel=1e-5)
        best = env.action_value(obs, env.best_action(obs), gamma)
        assert float(best) == pytest.approx(max(played), abs=1e-5, rel=1e-5)


KNOWN = {  # (observation, action): Q, for gamma 0.99
    (probes.ConstantReward, False): {(0, 0): 1, (0, 1): 1},
    (probes.ObsReward, False): {(-1, 0): -1, (-1, 1): -1, (1, 0): 1, (1, 1): 1},
    (probes.TwoStep, False): {(0, 0): 0.99, (0, 1): 0.99, (1, 0): 1, (1, 1): 1},
    (probes.ActionReward, False): {(0, 0): -1, (0, 1): 1},
    (probes.ActionReward, True): {(0, 0.5): 0, (0, 0): -0.25, (0, -1): -2.25},
    (probes.ObsActionReward, False): {(-1, 0): 1, (-1, 1): -1, (1, 0): -1, (1, 1): 1},
    (probes.ObsActionReward, True): {(-1, -0.5): 0, (-1, 0.5): -1, (1, 0.5): 0, (1, -0.5): -1},
    (probes.Constant, False): {(0, 0): 100, (0, 1): 100},
}


@pytest.mark.parametrize(("make", "continuous"), KNOWN)
def test_probe_values_are_the_known_ones(make, continuous):
    env, known = make(continuous=continuous), KNOWN[make, continuous]
    for (number, action), value in known.items():
        obs, taken = jnp.float32([number]), jnp.float32([action]) if continuous else jnp.int32(action)
        assert float(env.action_value(obs, taken, 0.99)) == pytest.approx(value, rel=1e-5, abs=1e-6)
        best = max(q for (o, _), q in known.items() if o == number)
        assert float(env.action_value(obs, env.best_action(obs), 0.99)) == pytest.approx(
            best, rel=1e-5, abs=1e-6
        )


@pytest.mark.parametrize("make", [probes.ObsReward, probes.ObsActionReward])
def test_random_observations_are_a_fair_coin(make):
    numbers, counts = starts(make())
    assert numbers.tolist() == [-1, 1]
    assert abs(counts[0] - 200) < 50


def test_probe_targets_are_leaves():
    targets = jnp.float32([-0.5, 0.0, 0.5])
    reward = jax.vmap(
        lambda t: (
            probes.ActionReward(continuous=True, target=t)
            .step(jnp.zeros(1), jnp.float32([0.5]), jax.random.key(0))
            .reward
        )
    )
    np.testing.assert_allclose(reward(targets), [-1, -0.25, 0], atol=1e-6)


# ---- counting


def count_in_jax(key, env):
    """One episode of Counting: observations, rewards, (terminated, truncated) of the last, last measure."""
    state, obs = env.reset(key)
    seen, rewards = [np.asarray(obs)], []
    while True:
        step = jax.jit(type(env).step)(env, state, jnp.int32(0), jax.random.key(9))
        state = step.state
        seen.append(np.asarray(step.obs))
        rewards.append(float(step.reward))
        if step.terminated or step.truncated:
            return (
                seen,
                rewards,
                (bool(step.terminated), bool(step.truncated)),
                float(step.measures["length"]),
            )


def count_in_gymnasium(seed, env):
    obs, _ = env.reset(seed=seed)
    seen, rewards = [obs], []
    while True:
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        seen.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            return seen, rewards, (terminated, truncated), info["length"]


@pytest.mark.parametrize("world", ["jax", "gymnasium", "forgetful"])
def test_counting_keeps_its_promises(world):
    episodes, most = [], 6
    for seed in range(100):
        if world == "jax":
            episodes.append(count_in_jax(jax.random.key(seed), Counting(max_length=most)))
        else:
            make = CountingGym if world == "gymnasium" else ForgetfulGym
            episodes.append(count_in_gymnasium(seed, make(max_length=most)))
    for seen, rewards, (terminated, truncated), length in episodes:
        n = len(rewards)
        np.testing.assert_array_equal(np.diff(seen, axis=0), np.tile([0, 0, 1], (n, 1)))
        assert seen[0][2] == 0
        assert rewards == list(range(1, n + 1))
        assert sum(rewards) == n * (n + 1) // 2
        assert length == n
        assert terminated != truncated
    assert {len(e[1]) for e in episodes} == set(range(1, most + 1))
    assert 25 < sum(e[2][0] for e in episodes) < 75
    assert len({tuple(e[0][0]) for e in episodes}) == 100


def test_identities_are_exact_in_float32():
    largest = np.arange(counting.IDENTITIES - 1000, counting.IDENTITIES)
    assert (largest.astype(np.float32).astype(np.int64) == largest).all()
    state, obs = jax.vmap(Counting().reset)(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_array_equal(np.asarray(obs)[:, :2].astype(np.int64), state.identity)
    assert np.asarray(state.identity).max() > 0.99 * counting.IDENTITIES
    assert len(np.unique(np.asarray(obs), axis=0)) == 2000


def test_a_seed_brings_back_an_episode_of_counting_but_not_of_forgetful():
    def start(env):
        obs, _ = env.reset(seed=7)
        return obs.tolist(), env.length, env.terminates

    assert start(CountingGym()) == start(CountingGym())
    random.seed(0)
    assert start(ForgetfulGym()) != start(ForgetfulGym())


@pytest.mark.parametrize("continuous", [False, True])
def test_the_gymnasium_version_has_the_same_spaces(continuous):
    theirs, spec = CountingGym(continuous=continuous), Counting(continuous=continuous).spec
    assert space_of(spec.obs) == theirs.observation_space
    assert space_of(spec.action) == theirs.action_space
    assert isinstance(spec.action, Box) == continuous

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyak.drivers.learn import learn
from polyak.interface import Algorithm, Batch, Box, Discrete, OnPolicy, Replay, Spec, Transition, Update
from polyak.parts import replay
from polyak.parts.moments import Moments
from polyak.wrappers import WRAPPERS, normalize_obs, normalize_reward

N, GAMMA = 3, 0.9
SPEC = Spec(
    obs={"cell": Discrete(4), "image": Box((2,), dtype="uint8"), "x": Box((2,)), "y": Box(())},
    action=Box((1,)),
    num_envs=N,
)


# ---- moments


add = jax.jit(lambda moments, points: moments.add(points))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([(1, 1), (2, 3), (5, 3), (4,)]), min_size=1, max_size=6),
    st.sampled_from([0.0, 100.0]),
    st.integers(0, 2**32 - 1),
)
def test_moments_of_any_chunks_are_numpy_s(chunks, shift, seed):
    rng = np.random.default_rng(seed)
    data = [
        {
            "a": rng.normal(shift, 3, (*lead, 2)).astype(np.float32),
            "b": rng.normal(size=lead).astype(np.float32),
        }
        for lead in chunks
    ]
    moments = Moments.empty({"a": jnp.zeros(2), "b": jnp.zeros(())})
    for points in data:
        moments = add(moments, points)
    a = np.concatenate([points["a"].reshape(-1, 2) for points in data]).astype(np.float64)
    b = np.concatenate([points["b"].reshape(-1) for points in data]).astype(np.float64)
    assert moments.count == len(b)
    for got, want in ((moments.mean, np.mean), (moments.var, np.var)):
        np.testing.assert_allclose(got["a"], want(a, axis=0), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(got["b"], want(b), rtol=1e-4, atol=1e-4)


def test_moments_before_any_data_are_those_of_a_unit():
    moments = Moments.empty(jnp.zeros(2))
    np.testing.assert_array_equal(moments.mean, [0, 0])
    np.testing.assert_array_equal(moments.var, [1, 1])
    assert moments.count == 0


def test_moments_stay_right_when_the_count_can_no_longer_grow():
    full = Moments(jnp.zeros(()), jnp.ones(()), jnp.float32(2.0**24))
    points = jax.random.normal(jax.random.key(0), (1000, 1))
    end, _ = jax.lax.scan(lambda m, x: (m.add(x), None), full, points)
    np.testing.assert_allclose(end.var, 1.0, atol=1e-3)
    np.testing.assert_allclose(end.mean, 0.0, atol=1e-3)


def test_moments_are_strongly_typed_and_closed_under_add():
    before = Moments.empty((jnp.zeros(2), jnp.zeros(())))
    after = before.add((jnp.ones((4, 2)), jnp.ones(4)))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
        assert not old.weak_type
        assert not new.weak_type


# ---- wrappers around an algorithm that tells what it saw


@dataclass(frozen=True)
class Config:
    gamma: float = GAMMA
    data: OnPolicy = field(default_factory=OnPolicy)


def init(cfg, spec, key):
    return {"weight": jnp.zeros(()), "seen": jnp.zeros(()), "key": jax.random.uniform(key)}


def act(cfg, spec, actor, memory, obs, key, explore):
    return jax.random.normal(key, (N, 1)) + actor, memory + 1, {"obs": obs, "explore": explore}


def update(cfg, spec, state, batch, key):
    return Update({**state, "weight": state["weight"] + 1}, {"batch": batch}, priority=batch.weight)


def observe(cfg, spec, state, rollout):
    return {
        **state,
        "seen": state["seen"] + sum(x.sum() for x in jax.tree.leaves((rollout.obs, rollout.reward))),
    }


def gradient(cfg, spec, actor, batch, key):
    return {"weight": actor}, {"batch": batch}


def apply(cfg, spec, state, grads):
    return {**state, "weight": state["weight"] - grads}


TELLTALE = Algorithm(
    Config,
    ("continuous",),
    init,
    lambda state: state["weight"],
    act,
    update,
    lambda cfg, spec, env_ids, episode, key: jnp.zeros(N),
    observe,
    gradient,
    apply,
)


def points(rng, *lead):
    return {
        "cell": rng.integers(4, size=lead).astype(np.int32),
        "image": rng.integers(256, size=(*lead, 2)).astype(np.uint8),
        "x": (rng.normal(size=(*lead, 2)) * [2, 30] + [5, -100]).astype(np.float32),
        "y": rng.normal(-3, 0.5, lead).astype(np.float32),
    }


def rollout(seed, T=6):
    rng = np.random.default_rng(seed)
    terminated = rng.random((T, N)) < 0.2
    truncated = (rng.random((T, N)) < 0.2) & ~terminated
    reward = (rng.normal(size=(T, N)) * 20 + 5).astype(np.float32)
    rows = Transition(
        points(rng, T, N),
        rng.normal(size=(T, N, 1)).astype(np.float32),
        reward,
        points(rng, T, N),
        terminated,
        truncated,
    )
    return jax.tree.map(jnp.asarray, rows)


def batch(rows):
    discount = jnp.where(rows.terminated, 0.0, GAMMA)
    return Batch(*rows, discount=discount, weight=jnp.ones_like(discount))


def unit(x, data):
    flat = np.concatenate([np.asarray(d, np.float64).reshape(-1, *x.shape[2:]) for d in data])
    return np.clip((np.asarray(x, np.float64) - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-8), -10, 10)


def start(algorithm, cfg=None):
    return algorithm.init(cfg or Config(), SPEC, jax.random.key(0))


def given(algorithm, state, rows, cfg=None):
    """What `learn` gives to `update`."""
    made = batch(rows)
    actor = algorithm.actor(state)
    return made._replace(reward=algorithm.reward(cfg or Config(), SPEC, actor, made.reward))


def seen_by(algorithm, state, rows, cfg=None):
    made = given(algorithm, state, rows, cfg)
    return algorithm.update(cfg or Config(), SPEC, state, made, jax.random.key(2)).metrics["batch"]


def test_observations_are_raw_before_any_data():
    algorithm = normalize_obs(TELLTALE)
    rows = rollout(0)
    rows = rows._replace(obs={**rows.obs, "x": rows.obs["x"] / 100})
    seen = seen_by(algorithm, start(algorithm), rows)
    np.testing.assert_allclose(seen.obs["x"], rows.obs["x"], rtol=1e-6)


def test_float_observations_are_normalised_by_everything_observed_so_far():
    algorithm = normalize_obs(TELLTALE)
    state, rollouts = start(algorithm), [rollout(i) for i in range(3)]
    observe = jax.jit(lambda state, rows: algorithm.observe(Config(), SPEC, state, rows))
    for rows in rollouts:
        state = observe(state, rows)
    seen = seen_by(algorithm, state, rollouts[0])
    for name in ("x", "y"):
        data = [rows.obs[name] for rows in rollouts]
        np.testing.assert_allclose(seen.obs[name], unit(rollouts[0].obs[name], data), rtol=1e-3, atol=1e-3)
        want = unit(rollouts[0].next_obs[name], data)
        np.testing.assert_allclose(seen.next_obs[name], want, rtol=1e-3, atol=1e-3)


def test_what_is_no_float_passes_untouched():
    algorithm = normalize_obs(TELLTALE)
    rows = rollout(0)
    state = algorithm.observe(Config(), SPEC, start(algorithm), rows)
    seen = seen_by(algorithm, state, rows)
    for name in ("cell", "image"):
        np.testing.assert_array_equal(seen.obs[name], rows.obs[name])
        assert seen.obs[name].dtype == rows.obs[name].dtype
    for name in ("action", "reward", "terminated", "truncated", "discount", "weight"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(batch(rows), name))


def test_an_outlier_is_clipped():
    algorithm = normalize_obs(TELLTALE, clip=2.5)
    rows = rollout(0)
    state = algorithm.observe(Config(), SPEC, start(algorithm), rows)
    far = rows._replace(obs={**rows.obs, "x": rows.obs["x"].at[0, 0].set(jnp.array([1e6, -1e6]))})
    np.testing.assert_array_equal(seen_by(algorithm, state, far).obs["x"][0, 0], [2.5, -2.5])


def test_acting_sees_what_learning_sees_and_changes_no_statistics():
    algorithm = normalize_obs(TELLTALE)
    rows = rollout(0)
    state = algorithm.observe(Config(), SPEC, start(algorithm), rows)
    obs = jax.tree.map(lambda x: x[2], rows.obs)
    actor = algorithm.actor(state)
    action, memory, extras = algorithm.act(Config(), SPEC, actor, jnp.zeros(N), obs, jax.random.key(1), True)
    want = jax.tree.map(lambda x: x[2], seen_by(algorithm, state, rows).obs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), extras["obs"], want)
    np.testing.assert_array_equal(memory, 1)
    np.testing.assert_array_equal(action, jax.random.normal(jax.random.key(1), (N, 1)))
    after = algorithm.update(Config(), SPEC, state, batch(rows), jax.random.key(2)).state
    jax.tree.map(np.testing.assert_array_equal, after.moments, state.moments)
    jax.tree.map(np.testing.assert_array_equal, algorithm.actor(after)[1], state.moments)


def test_the_inner_algorithm_observes_the_normalised_rollout():
    algorithm = normalize_obs(TELLTALE)
    rows = rollout(0)
    state = algorithm.observe(Config(), SPEC, start(algorithm), rows)
    seen = seen_by(algorithm, state, rows)
    want = sum(np.asarray(x, np.float64).sum() for x in jax.tree.leaves((seen.obs, seen.reward)))
    np.testing.assert_allclose(state.inner["seen"], want, rtol=1e-4)


def slow_running_returns(rollouts, clip=None):
    """Every R_t = gamma R_{t-1} + r_t of every environment, from 0 in every episode."""
    sums, running = [], np.zeros(N)
    for rows in rollouts:
        for t in range(rows.reward.shape[0]):
            for i in range(N):
                r = float(rows.reward[t, i])
                r = r if clip is None else min(max(r, -clip), clip)
                running[i] = GAMMA * running[i] + r
                sums.append(running[i])
                if rows.terminated[t, i] or rows.truncated[t, i]:
                    running[i] = 0
    return np.array(sums), running


@pytest.mark.parametrize("clip", [None, 1.0])
def test_rewards_are_divided_by_the_deviation_of_running_returns(clip):
    algorithm, cfg = normalize_reward(TELLTALE), Config(data=OnPolicy(clip=clip))
    state, rollouts = start(algorithm, cfg), [rollout(i) for i in range(4)]
    assert any(rows.last.any() for rows in rollouts)
    observe = jax.jit(lambda state, rows: algorithm.observe(cfg, SPEC, state, rows))
    for rows in rollouts:
        state = observe(state, rows)
    sums, running = slow_running_returns(rollouts, clip)
    np.testing.assert_allclose(state.running, running, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state.moments.var, sums.var(), rtol=1e-4)
    rewards = rollouts[0].reward
    want = np.clip(np.asarray(rewards) / np.sqrt(sums.var() + 1e-8), -10, 10)
    np.testing.assert_allclose(seen_by(algorithm, state, rollouts[0], cfg).reward, want, rtol=1e-4)


def test_rewards_before_any_data_are_raw_but_clipped():
    algorithm = normalize_reward(TELLTALE, clip=4.0)
    rows = rollout(0)
    seen = seen_by(algorithm, start(algorithm), rows)
    np.testing.assert_allclose(seen.reward, np.clip(rows.reward, -4, 4), rtol=1e-6)
    assert (abs(rows.reward) > 4).any()


def test_a_scaled_reward_keeps_its_sign_and_its_zero():
    algorithm = normalize_reward(TELLTALE)
    rows = rollout(0)
    rows = rows._replace(reward=rows.reward.at[0].set(0.0))
    state = algorithm.observe(Config(), SPEC, start(algorithm), rows)
    np.testing.assert_array_equal(np.sign(seen_by(algorithm, state, rows).reward), np.sign(rows.reward))


def test_two_rollouts_are_as_good_as_one_long_one():
    algorithm = normalize_reward(TELLTALE)
    long = rollout(0, T=8)
    halves = [jax.tree.map(lambda x: x[:3], long), jax.tree.map(lambda x: x[3:], long)]
    state = start(algorithm)
    for half in halves:
        state = algorithm.observe(Config(), SPEC, state, half)
    whole = algorithm.observe(Config(), SPEC, start(algorithm), long)
    np.testing.assert_allclose(state.running, whole.running, rtol=1e-5)
    np.testing.assert_allclose(state.moments.var, whole.moments.var, rtol=1e-4)


@pytest.mark.parametrize(
    "order", [("normalize_obs", "normalize_reward"), ("normalize_reward", "normalize_obs")]
)
def test_wrappers_compose_in_both_orders(order):
    first, second = (WRAPPERS[name] for name in order)
    algorithm, rows = second(first(TELLTALE)), rollout(0)
    state = jax.jit(lambda rows: algorithm.observe(Config(), SPEC, start(algorithm), rows))(rows)
    seen = seen_by(algorithm, state, rows)
    alone = {}
    for name in order:
        one = WRAPPERS[name](TELLTALE)
        alone[name] = seen_by(one, one.observe(Config(), SPEC, start(one), rows), rows)
    np.testing.assert_allclose(seen.obs["x"], alone["normalize_obs"].obs["x"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.next_obs["y"], alone["normalize_obs"].next_obs["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.reward, alone["normalize_reward"].reward, rtol=1e-5)
    obs = jax.tree.map(lambda x: x[2], rows.obs)
    _, _, extras = algorithm.act(
        Config(), SPEC, algorithm.actor(state), jnp.zeros(N), obs, jax.random.key(1), False
    )
    np.testing.assert_allclose(extras["obs"]["x"], seen.obs["x"][2], rtol=1e-5, atol=1e-6)
    assert extras["explore"] is False


@pytest.mark.parametrize("wrapped", [lambda a: a, normalize_obs])
def test_each_reward_of_an_n_step_sum_is_scaled_and_clipped_before_it(wrapped):
    """A sum that is clipped at 10 says nothing of rewards that are worth more together."""
    T, n, clip = 8, 3, 0.5
    cfg = Config(data=Replay(capacity=T * N, batch_size=64, warmup=0, steps=T, n_step=n))
    algorithm, rows = wrapped(normalize_reward(TELLTALE, clip)), rollout(0, T)
    state = start(algorithm, cfg)
    ring = replay.empty(jax.tree.map(lambda x: x[0], rows), T)
    _, _, metrics = jax.jit(lambda key: learn(algorithm, cfg, SPEC, state, ring, rows, key))(
        jax.random.key(0)
    )
    deviation = np.sqrt(slow_running_returns([rows])[0].var() + 1e-8)
    names, beyond = np.asarray(rows.action)[..., 0], 0
    for name, got in zip(metrics["batch"].action[:, 0], metrics["batch"].reward, strict=True):
        t, i = (int(x[0]) for x in np.nonzero(names == name))
        want = 0.0
        for k in range(n):
            if t + k == T:
                break
            want += GAMMA**k * min(max(float(rows.reward[t + k, i]) / deviation, -clip), clip)
            if rows.terminated[t + k, i] or rows.truncated[t + k, i]:
                break
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
        beyond += abs(want) > clip
    assert beyond > 5


@pytest.mark.parametrize("name", WRAPPERS)
def test_update_is_apply_of_gradient_for_a_wrapped_algorithm(name):
    algorithm, rows = WRAPPERS[name](TELLTALE), rollout(0)
    state = algorithm.observe(Config(), SPEC, start(algorithm), rows)
    state = algorithm.update(Config(), SPEC, state, batch(rows), jax.random.key(2)).state
    made = given(algorithm, state, rows)
    grads, metrics = algorithm.gradient(Config(), SPEC, algorithm.actor(state), made, jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, metrics["batch"], seen_by(algorithm, state, rows))
    assert grads["weight"] == 1.0
    after = algorithm.apply(Config(), SPEC, state, jnp.float32(0.25))
    assert after.inner["weight"] == 0.75
    jax.tree.map(np.testing.assert_array_equal, after.moments, state.moments)


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_an_algorithm_does_not_have_its_wrapper_does_not_have(name):
    algorithm = WRAPPERS[name](TELLTALE._replace(gradient=None, apply=None))
    assert algorithm.gradient is None
    assert algorithm.apply is None
    assert algorithm.memory is TELLTALE.memory
    assert algorithm.Config is Config


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_state_keeps_its_types_and_priorities_pass(name):
    algorithm, rows = WRAPPERS[name](TELLTALE), rollout(0)
    before = start(algorithm)
    done = algorithm.update(Config(), SPEC, before, batch(rows), jax.random.key(2))
    after = algorithm.observe(Config(), SPEC, done.state, rows)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, False)
    np.testing.assert_array_equal(done.priority, batch(rows).weight)


def test_goals_that_hardly_vary_are_not_blown_up_and_none_is_seen_beyond_five():
    """A replaced goal is where things came to rest, a tenth of a millimetre off: it must look like one asked for."""
    algorithm, rows = WRAPPERS["normalize_goals"](TELLTALE), rollout(0)
    x = np.array([[0.4247, 1.0], [0.4247, 3.0]], np.float32)[np.arange(rows.reward.size) % 2]
    rows = rows._replace(obs={**rows.obs, "x": x.reshape(*rows.reward.shape, 2)})
    state = algorithm.observe(Config(), SPEC, start(algorithm), rows)
    moved = rows._replace(obs={**rows.obs, "x": rows.obs["x"] + np.float32([1e-4, 100.0])})
    seen = seen_by(algorithm, state, moved).obs["x"]
    np.testing.assert_allclose(seen[..., 0], 0.01, atol=1e-3)
    np.testing.assert_array_equal(seen[..., 1], 5.0)


def test_a_tuple_of_spaces_and_a_lone_box_are_normalised_too():
    for space, obs in (
        (Box((2,)), rollout(0).obs["x"]),
        ((Discrete(4), Box(())), (rollout(0).obs["cell"], rollout(0).obs["y"])),
    ):
        spec = Spec(obs=space, action=Box((1,)), num_envs=N)
        algorithm, rows = normalize_obs(TELLTALE), rollout(0)._replace(obs=obs, next_obs=obs)
        state = algorithm.observe(Config(), spec, algorithm.init(Config(), spec, jax.random.key(0)), rows)
        seen = algorithm.update(Config(), spec, state, batch(rows), jax.random.key(2)).metrics["batch"]
        got, raw = (jax.tree.leaves(x)[-1] for x in (seen.obs, obs))
        np.testing.assert_allclose(got, unit(raw, [raw]), rtol=1e-3, atol=1e-3)


def test_nothing_to_normalise_changes_nothing():
    spec = Spec(obs=Discrete(4), action=Discrete(2), num_envs=N)
    algorithm, rows = normalize_obs(TELLTALE), rollout(0)
    rows = rows._replace(obs=rows.obs["cell"], next_obs=rows.next_obs["cell"])
    state = algorithm.observe(Config(), spec, algorithm.init(Config(), spec, jax.random.key(0)), rows)
    seen = algorithm.update(Config(), spec, state, batch(rows), jax.random.key(2)).metrics["batch"]
    np.testing.assert_array_equal(seen.obs, rows.obs)

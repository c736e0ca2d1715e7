"""Workers that send gradients, against slow loops of what each has read, and when."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK, arrays_of, assert_same_bits, drive, saved_and_loaded

from polyak.drivers.asynchronous import MOST_BINS, in_step, out_of_step
from polyak.envs.find import find
from polyak.interface import Algorithm, Batch, Box, Clock, Discrete, OnPolicy, Spec, Update, count_steps
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    gamma: float = 0.5
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=2))


@pytree
class State(Record):
    weight: jax.Array  # a number
    clock: Clock


def act(cfg, spec, actor, memory, obs, key, explore):
    """What was acted with is remembered, and how many steps everybody has taken."""
    weight, clock = actor
    each = jnp.ones(len(obs))
    return jnp.zeros(len(obs), jnp.int32), memory, {"weight": each * weight, "steps": each * clock.env_steps}


def gradient(cfg, spec, actor, batch, key):
    """Something that tells whose weights, whose rows and which key it is made of."""
    odd = (batch.extras["weight"] - actor[0]).sum()  # 0 where the rows were acted in the same weights
    grads = 0.3 * actor[0] + batch.reward.mean() + jax.random.uniform(key)
    return grads, {
        "odd": odd,
        "grads": grads,
        "steps": batch.extras["steps"].mean(),
        "envs": float(spec.num_envs) + 0 * odd,
    }


def apply(cfg, spec, state, grads):
    return state.replace(weight=state.weight * 0.9 - grads, clock=state.clock.updated())


def update(cfg, spec, state, batch, key):
    grads, metrics = gradient(cfg, spec, (state.weight, state.clock), batch, key)
    return Update(apply(cfg, spec, state, grads), metrics)


TOY = Algorithm(
    Config=Config,
    actions=("discrete",),
    init=lambda cfg, spec, key: State(jnp.ones(()), start_clock()),
    actor=lambda state: (state.weight, state.clock),
    act=act,
    update=update,
    observe=count_steps,
    gradient=gradient,
    apply=apply,
)
CFG, T = Config(), 2


def rollout(K, n, weights, seed):
    """Rows [T, K n] of workers that acted with these weights."""
    rng = np.random.default_rng(seed)
    shape = T, K * n
    zeros, flags = np.zeros((*shape, 1), np.float32), np.zeros(shape, bool)
    reward = rng.normal(size=shape).astype(np.float32)
    extras = {
        "weight": np.tile(np.repeat(weights, n), (T, 1)).astype(np.float32),
        "steps": np.zeros(shape, np.float32),
    }
    one = np.ones(shape, np.float32)
    return Batch(zeros, np.zeros(shape, np.int32), reward, zeros, flags, flags, extras, 0.5 * one, one)


@pytest.mark.parametrize(("K", "n"), [(1, 2), (2, 1), (4, 3)])
def test_every_gradient_is_in_the_weights_that_its_worker_read_and_moves_the_newest(K, n):
    """Five rounds beside a Python loop."""
    spec, made = Spec(Box((1,)), Discrete(2), num_envs=K * n), out_of_step(TOY, K)
    state = made.init(CFG, spec, jax.random.key(0))
    step = jax.jit(lambda *args: made.update(CFG, spec, *args), compiler_options=QUICK)
    newest, read, read_at, updates = 1.0, np.ones(K), np.zeros(K, int), 0
    for round in range(5):
        key = jax.random.key(round)
        batch = rollout(K, n, read, round)
        keys = [key] if K == 1 else jax.random.split(key, K + 1)[1:]
        draws = [float(jax.random.uniform(each)) for each in keys]
        rewards = batch.reward.reshape(T, K, n).mean(axis=(0, 2))
        grads = [0.3 * read[w] + rewards[w] + draws[w] for w in range(K)]
        order = np.asarray(jax.random.permutation(jax.random.split(jax.random.key(round), K + 1)[0], K))
        ages = []
        for w in order:
            newest = 0.9 * newest - grads[w]
            ages.append(updates - read_at[w])
            updates += 1
            read[w], read_at[w] = newest, updates
        done = step(state, batch, jax.random.key(round))
        state, metrics = done.state, done.metrics
        np.testing.assert_allclose(state.newest.weight, newest, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.read[0], read, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(state.read_at, read_at)
        assert state.newest.clock.updates == updates == K * (round + 1)
        np.testing.assert_allclose(metrics["actor/staleness"], np.mean(ages), rtol=1e-6)
        for age in range(2 * K - 1):
            np.testing.assert_allclose(
                metrics[f"actor/staleness_{age}"], np.mean(np.equal(ages, age)), rtol=1e-6
            )
        np.testing.assert_allclose(metrics["grads"], np.mean(grads), rtol=1e-5)
        assert metrics["envs"] == n
        assert abs(metrics["odd"]) < 1e-5


def test_workers_in_step_apply_the_mean_of_their_gradients_once():
    K, n = 4, 2
    spec, made = Spec(Box((1,)), Discrete(2), num_envs=K * n), in_step(TOY, K)
    state, key = made.init(CFG, spec, jax.random.key(0)), jax.random.key(3)
    batch = rollout(K, n, np.ones(K), 0)
    done = jax.jit(lambda *args: made.update(CFG, spec, *args), compiler_options=QUICK)(
        state, batch, jax.random.key(3)
    )
    draws = np.mean([float(jax.random.uniform(each)) for each in jax.random.split(key, K)])
    np.testing.assert_allclose(done.state.weight, 0.9 - (0.3 + batch.reward.mean() + draws), rtol=1e-5)
    assert done.state.clock.updates == 1
    assert done.metrics["actor/staleness"] == 0


@pytest.mark.parametrize("world", ["jax:CartPole-v1", "CartPole-v1"])
def test_each_worker_acts_with_what_it_read_and_counts_with_everybody(world):
    """In both drivers, with two seeds; then saved, loaded and gone on with, bit for bit."""
    made = out_of_step(TOY, 3)
    driver = drive(made, CFG, find(world), (0, 1), 6)
    _, sums = driver.report(driver.advance(driver.start(), 7))
    np.testing.assert_allclose(sums["update/odd"], 0, atol=1e-4)
    np.testing.assert_allclose(sums["update/steps"], sum(12 * i for i in range(7)))
    assert (sums["actor/staleness"] > 0).all()
    assert (sums["actor/staleness"] / 7 <= 4).all()
    np.testing.assert_allclose(sum(sums[f"actor/staleness_{age}"] for age in range(5)), 7)
    driver.close()


def test_a_run_out_of_step_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    driver = drive(out_of_step(TOY, 2), CFG, find("CartPole-v1"), (0,), 2)
    run = driver.advance(driver.start(), 3)
    before = {name: x.copy() for name, x in arrays_of(driver, run).items()}
    back = saved_and_loaded(driver, run, tmp_path)
    assert_same_bits(arrays_of(driver, back), before)
    want = arrays_of(driver, driver.advance(back, 4))
    whole = drive(out_of_step(TOY, 2), CFG, find("CartPole-v1"), (0,), 2)
    assert_same_bits(want, arrays_of(whole, whole.advance(whole.start(), 7)))
    driver.close()
    whole.close()


def test_evaluation_plays_the_newest_weights():
    made, spec = out_of_step(TOY, 2), Spec(Box((1,)), Discrete(2), num_envs=4)
    state = made.init(CFG, spec, jax.random.key(0))
    state = state.replace(newest=state.newest.replace(weight=jnp.float32(7.0)))
    for count, explore in ((4, False), (3, True)):
        extras = made.act(
            CFG, spec, made.actor(state), (), jnp.zeros((count, 1)), jax.random.key(0), explore
        )[2]
        assert (np.asarray(extras["weight"]) == 7).all()
    extras = made.act(CFG, spec, made.actor(state), (), jnp.zeros((4, 1)), jax.random.key(0), True)[2]
    assert (np.asarray(extras["weight"]) == 1).all()


def test_the_histogram_has_an_end():
    K = MOST_BINS
    spec, made = Spec(Box((1,)), Discrete(2), num_envs=K), out_of_step(TOY, K)
    state, update = made.init(CFG, spec, jax.random.key(0)), jax.jit(lambda *a: made.update(CFG, spec, *a))
    for round in range(3):
        done = update(state, rollout(K, 1, np.ones(K), 0), jax.random.key(round))
        state = done.state
    bins = [float(done.metrics[f"actor/staleness_{age}"]) for age in range(MOST_BINS)]
    assert len(done.metrics) == MOST_BINS + 6
    np.testing.assert_allclose(sum(bins), 1, rtol=1e-5)
    assert bins[-1] > 0


def exploring(cfg, spec, actor, memory, obs, key, explore):
    """What worker and state say, and a random number that is everybody's."""
    bounds = (actor[0] * 2.0 + memory + obs[:, 0]) % 4.0
    numbers = jax.random.randint(key, (len(obs),), 0, 2)
    if isinstance(spec.action, Discrete):
        return (bounds + numbers).astype(jnp.int32), memory, {}
    return jnp.stack([bounds + numbers, 3.0 * bounds], axis=-1), memory, {}


@pytest.mark.parametrize("action", [Discrete(6), Box((2,))])
@pytest.mark.parametrize("arranged", [in_step, out_of_step])
def test_diversity_is_how_far_actions_in_the_same_states_are_apart(arranged, action):
    """Beside loops over pairs; workers have numbers of their own, and out of step weights of their own."""
    K, n = 3, 2
    spec = Spec(Box((1,)), action, num_envs=K * n)
    toy = TOY._replace(
        act=exploring, memory=lambda cfg, spec, env_ids, episode, key: (env_ids // n) % 2 * 1.0
    )
    made = arranged(toy, K)
    state, read = made.init(CFG, spec, jax.random.key(0)), np.ones(K)
    if arranged is out_of_step:
        read = np.array([1.0, 0.25, 2.0])
        state = state.replace(read=(jnp.asarray(read, jnp.float32),))
    batch = rollout(K, n, read, 0)
    batch = batch._replace(obs=np.random.default_rng(1).integers(4, size=batch.obs.shape).astype(np.float32))
    done = jax.jit(lambda *args: made.update(CFG, spec, *args))(state, batch, jax.random.key(0))
    states = batch.obs[0, ::K, 0]
    assert len(states) == n
    total = 0.0
    for v in range(K):
        for w in range(v):
            for x in states:
                one, other = ((read[i] * 2 + i % 2 + x) % 4 for i in (v, w))
                same = int(one) == int(other)
                total += float(not same) if isinstance(action, Discrete) else abs(one - other) * 2
    np.testing.assert_allclose(done.metrics["actor/diversity"], total / (K * (K - 1) / 2) / n, rtol=1e-5)
    assert total > 0


def test_workers_that_explore_alike_have_no_diversity_and_one_has_none_to_measure():
    spec, key = Spec(Box((1,)), Discrete(6), num_envs=4), jax.random.key(0)
    toy = TOY._replace(act=exploring, memory=lambda cfg, spec, env_ids, episode, key: jnp.zeros(len(env_ids)))
    for workers in (2, 1):
        made = out_of_step(toy, workers)
        batch = rollout(workers, 4 // workers, np.ones(workers), 0)
        metrics = jax.jit(lambda *args, made=made: made.update(CFG, spec, *args))(
            made.init(CFG, spec, key), batch, jax.random.key(0)
        ).metrics
        assert metrics["actor/diversity"] == 0 if workers == 2 else "actor/diversity" not in metrics

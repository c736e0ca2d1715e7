"""Constants that are drawn for each episode, and random pushes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import polyak
from polyak.envs.fields import override
from polyak.envs.find import find
from polyak.errors import UserError

RANGE = {"randomize.mass": (0.5, 2.0), "randomize.length": [0.8, 1.2]}


def test_each_episode_has_constants_of_its_own_uniform_between_the_bounds():
    env = find("jax:Pendulum-v1", RANGE)
    (drawn, _), _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 4_000))
    for name, (low, high) in (("mass", (0.5, 2.0)), ("length", (0.8, 1.2))):
        assert stats.kstest(np.asarray(drawn[name]), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn["mass"], drawn["length"])[0, 1]) < 0.06


def test_an_episode_is_played_with_what_was_drawn_for_it():
    env = find("jax:Pendulum-v1", RANGE)
    state, _ = env.reset(jax.random.key(3))
    drawn, inner = state
    plain = find("jax:Pendulum-v1", {name: float(x) for name, x in drawn.items()})
    for t in range(5):
        action = jnp.array([1.0 - 0.5 * t])
        step, wanted = (
            env.step(state, action, jax.random.key(t)),
            plain.step(inner, action, jax.random.key(t)),
        )
        np.testing.assert_allclose(step.obs, wanted.obs, rtol=1e-6)
        np.testing.assert_allclose(step.reward, wanted.reward, rtol=1e-6)
        state, inner = step.state, wanted.state
        assert state[0] == drawn
    assert (env.draw(state) == plain.draw(inner)).all()


def test_a_range_of_one_value_is_that_value():
    fixed = find("jax:CartPole-v1", {"randomize.length": (0.7, 0.7)})
    plain = find("jax:CartPole-v1", {"length": 0.7})
    state, _ = fixed.reset(jax.random.key(0))
    step = fixed.step(state, jnp.array(1), jax.random.key(1))
    np.testing.assert_array_equal(step.obs, plain.step(state[1], jnp.array(1), jax.random.key(1)).obs)


@pytest.mark.parametrize(("name", "push"), [("jax:Pendulum-v1", 0.5), ("jax:CartPole-v1", 1.0)])
def test_pushes_come_as_often_and_are_as_large_as_said(name, push):
    plain, env = find(name), find(name, {"push.size": push, "push.chance": 0.25})
    state, _ = plain.reset(jax.random.key(0))
    action = jnp.zeros(1) if name == "jax:Pendulum-v1" else jnp.array(0)
    keys = jax.random.split(jax.random.key(1), 8_000)
    after = np.asarray(jax.vmap(lambda key: env.step(state, action, key).state)(keys))
    moved = (after != np.asarray(plain.step(state, action, jax.random.key(9)).state)).any(axis=1)
    chance = (
        0.25 if name == "jax:Pendulum-v1" else 0.125
    )  # a random one of two actions is the same half of the time
    assert abs(moved.mean() - chance) < 4 * np.sqrt(chance / 8_000)
    if name == "jax:Pendulum-v1":  # torques within half of the range: velocity moves by 3 u dt
        change = after[moved, 1] - np.asarray(plain.step(state, action, jax.random.key(9)).state)[1]
        assert 0.9 < np.abs(change).max() / (3 * 0.5 * 2 * 0.05) <= 1 + 1e-5


def test_without_a_chance_nothing_is_pushed():
    env = find("jax:Pendulum-v1", {"push.chance": 0.0})
    state, _ = env.reset(jax.random.key(0))
    step = env.step(state, jnp.ones(1), jax.random.key(1))
    np.testing.assert_array_equal(
        step.obs, find("jax:Pendulum-v1").step(state, jnp.ones(1), jax.random.key(1)).obs
    )


def test_an_evaluation_that_sets_a_constant_does_not_draw_it():
    assert override({"randomize.mass": (1, 2), "length": 1.0}, {"mass": 3.0}) == {"length": 1.0, "mass": 3.0}
    assert override({"randomize.mass": (1, 2)}, {}) == {"randomize.mass": (1, 2)}


def test_a_run_trains_on_drawn_constants_and_evaluates_on_its_own(tmp_path):
    run = polyak.train(
        "ppo", "jax:Pendulum-v1", steps=512, out=tmp_path, verbose=False, eval_episodes=2,
        config={"data.steps": 256}, env_fields=RANGE, eval_env_fields={"mass": 3.0},
    )  # fmt: skip
    again = polyak.load(run.path)
    assert again.plan.env_fields["randomize.mass"] == [0.5, 2.0]
    assert "randomize.mass" not in again.plan.eval_env_fields
    assert again.plan.eval_env_fields["mass"] == 3.0


@pytest.mark.parametrize(
    ("name", "fields", "line"),
    [
        ("jax:Pendulum-v1", {"randomize.mas": (1, 2)}, "mas is no constant of it; did you mean 'mass'"),
        ("jax:Pendulum-v1", {"randomize.max_torque": (1, 2)}, "max_torque shapes its spaces"),
        (
            "jax:Pendulum-v1",
            {"randomize.mass": 1.0},
            "must be two numbers, the lower first, as in 0.8,1.2, not 1.0",
        ),
        ("jax:Pendulum-v1", {"randomize.mass": (2, 1)}, "the lower first"),
        ("jax:Pendulum-v1", {"randomize.mass": (0, float("inf"))}, "must be two numbers"),
        ("jax:Pendulum-v1", {"push.sizes": 1}, "has no field 'push.sizes'; did you mean 'size'"),
        ("jax:Pendulum-v1", {"push.chance": 2}, "push.chance must be a probability, not 2"),
        ("CartPole-v1", {"randomize.length": (1, 2)}, "randomize.length is for environments written in JAX"),
    ],
)
def test_a_mistake_is_one_line(name, fields, line):
    with pytest.raises(UserError) as error:
        find(name, fields)
    assert line in str(error.value)
    assert "\n" not in str(error.value)

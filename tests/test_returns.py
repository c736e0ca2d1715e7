import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyak.parts.returns import discounted_return, gae, lambda_return

GAMMA = 0.9
LAMS = (0.0, 0.5, 1.0)
lambda_return_ = jax.jit(lambda_return)
discounted_return_ = jax.jit(discounted_return)
gae_ = jax.jit(gae)


@st.composite
def rollouts(draw):
    T, N = draw(st.sampled_from([1, 2, 5, 9])), draw(st.sampled_from([1, 3]))
    ends = draw(st.lists(st.sampled_from("...tT"), min_size=T * N, max_size=T * N))
    ends = np.array(ends).reshape(T, N)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    numbers = [rng.normal(size=(T, N)).astype(np.float32) for _ in range(3)]
    terminated, truncated = ends == "t", ends == "T"
    return *numbers, terminated, truncated


def arrays(reward, terminated, truncated):
    discount = np.where(terminated, 0, GAMMA).astype(np.float32)
    return jnp.asarray(reward), jnp.asarray(discount), jnp.asarray(terminated | truncated)


@settings(max_examples=60, deadline=None)
@given(rollouts(), st.sampled_from(LAMS))
def test_lambda_return_is_the_weighted_average_of_n_step_returns(rollout, lam):
    reward, _, next_value, terminated, truncated = rollout
    got = lambda_return_(*arrays(reward, terminated, truncated), jnp.asarray(next_value), lam)
    want = oracles.lambda_return(reward, terminated, truncated, next_value, GAMMA, lam)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(rollouts(), st.sampled_from(LAMS))
def test_gae_is_the_sum_of_td_errors_to_the_end_of_the_episode(rollout, lam):
    reward, value, next_value, terminated, truncated = rollout
    reward_, discount, last = arrays(reward, terminated, truncated)
    got = gae_(reward_, discount, last, jnp.asarray(value), jnp.asarray(next_value), lam)
    want = oracles.gae(reward, terminated, truncated, value, next_value, GAMMA, lam)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(rollouts())
def test_discounted_return_sums_rewards_to_the_end_of_each_episode(rollout):
    reward, _, next_value, terminated, truncated = rollout
    got = discounted_return_(*arrays(reward, terminated, truncated), jnp.asarray(next_value))
    want = oracles.lambda_return(reward, terminated, truncated, next_value, GAMMA, 1.0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_discounted_return_by_hand():
    # two episodes: 1, 2 then terminated; 4, 8 then the rollout ends with v = 16; gamma 1/2
    reward = jnp.array([[1.0], [2.0], [4.0], [8.0]])
    discount = jnp.array([[0.5], [0.0], [0.5], [0.5]])
    last = jnp.array([[False], [True], [False], [False]])
    next_value = jnp.array([[99.0], [99.0], [99.0], [16.0]])
    got = discounted_return(reward, discount, last, next_value)
    np.testing.assert_array_equal(got[:, 0], [2.0, 2.0, 12.0, 16.0])


@pytest.mark.parametrize("lam", LAMS)
def test_a_time_limit_does_not_lower_the_return_of_a_constant_reward(lam):
    reward, last = jnp.ones((20, 1)), (jnp.arange(20) % 5 == 4)[:, None]
    next_value = jnp.full((20, 1), 100.0)
    got = lambda_return(reward, jnp.full((20, 1), 0.99), last, next_value, lam)
    np.testing.assert_allclose(got, 100.0, rtol=1e-5)


def test_gae_is_td_error_when_lambda_is_zero():
    reward, value, next_value = jax.random.normal(jax.random.key(0), (3, 6, 2))
    discount, last = jnp.full((6, 2), GAMMA), jnp.zeros((6, 2), bool)
    got = gae(reward, discount, last, value, next_value, 0.0)
    np.testing.assert_allclose(got, reward + GAMMA * next_value - value, rtol=1e-6)


@pytest.mark.parametrize("lam", LAMS)
def test_gae_plus_value_is_the_lambda_return(lam):
    # only where v(s_{t+1}) of a row is v(s_t) of the next: the two sums then telescope
    values = jax.random.normal(jax.random.key(0), (7, 2))
    reward = jax.random.normal(jax.random.key(1), (6, 2))
    discount, last = jnp.full((6, 2), GAMMA), jnp.zeros((6, 2), bool).at[2, 0].set(True)
    got = gae(reward, discount, last, values[:-1], values[1:], lam) + values[:-1]
    np.testing.assert_allclose(
        got, lambda_return(reward, discount, last, values[1:], lam), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("case", range(4))
def test_returns_agree_with_rlax(case):
    golden = json.loads((Path(__file__).parent / "golden" / "returns.json").read_text())
    reward, discount, values = (jnp.array(golden[k], jnp.float32) for k in ("reward", "discount", "values"))
    last, want = jnp.array(golden["last"]), golden["cases"][case]
    got = lambda_return(reward, discount, last, values[1:], want["lam"])
    np.testing.assert_allclose(got, np.array(want["lambda_return"]), rtol=1e-5, atol=1e-5)
    got = gae(reward, discount, last, values[:-1], values[1:], want["lam"])
    np.testing.assert_allclose(got, np.array(want["gae"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan")])
def test_a_lambda_outside_zero_and_one_is_refused(lam):
    x, last = jnp.ones((2, 1)), jnp.zeros((2, 1), bool)
    with pytest.raises(ValueError, match=r"lam is .*; it must lie in \[0, 1\]"):
        lambda_return(x, x, last, x, lam)
    with pytest.raises(ValueError, match=r"lam is .*; it must lie in \[0, 1\]"):
        gae(x, x, last, x, x, lam)


def test_lambda_may_be_traced_and_swept():
    x, last = jax.random.normal(jax.random.key(0), (4, 5, 2)), jnp.zeros((5, 2), bool)
    swept = jax.jit(jax.vmap(lambda lam: gae(x[0], x[1], last, x[2], x[3], lam)))(jnp.array(LAMS))
    for lam, got in zip(LAMS, swept, strict=True):
        np.testing.assert_allclose(got, gae(x[0], x[1], last, x[2], x[3], lam), rtol=1e-5, atol=1e-6)

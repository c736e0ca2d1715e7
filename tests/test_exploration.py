import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.parts.exploration import (
    adapted_scale,
    epsilon_greedy,
    explore_by,
    gaussian,
    initial_noise,
    initial_scale,
    ornstein_uhlenbeck,
    perturbed,
)

M = 20_000


def rows(q):
    return jnp.broadcast_to(jnp.array(q), (M, len(q)))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0])
def test_epsilon_greedy_draws_each_action_with_its_probability(epsilon):
    action = jax.jit(epsilon_greedy)(jax.random.key(0), rows([0.0, 2.0, 1.0]), epsilon)
    frequency = np.bincount(action, minlength=3) / M
    want = epsilon / 3 + (1 - epsilon) * np.array([0.0, 1.0, 0.0])
    np.testing.assert_allclose(frequency, want, atol=4 * np.sqrt(0.25 / M))
    if epsilon == 0:
        assert (action == 1).all()


def test_epsilon_greedy_never_draws_an_action_of_minus_infinity():
    action = epsilon_greedy(jax.random.key(0), rows([-jnp.inf, 2.0, -jnp.inf, 1.0]), 1.0)
    np.testing.assert_allclose(np.bincount(action, minlength=4) / M, [0, 0.5, 0, 0.5], atol=0.02)
    assert set(np.unique(action)) == {1, 3}


def test_each_element_has_its_own_epsilon_and_its_own_luck():
    q = jnp.broadcast_to(jnp.array([0.0, 1.0]), (2, M, 2))
    action = epsilon_greedy(jax.random.key(0), q, jnp.array([[0.0], [1.0]]))
    assert action.shape == (2, M)
    assert action.dtype == jnp.int32
    assert (action[0] == 1).all()
    assert 0.45 < action[1].mean() < 0.55
    neighbours = np.corrcoef(action[1, :-1], action[1, 1:])[0, 1]
    assert abs(neighbours) < 0.03


def test_whether_to_explore_is_independent_of_what_is_drawn():
    # with epsilon 1/2 and two actions the other one is taken 1/4 of the time, whichever is greedy
    for q in ([0.0, 1.0], [1.0, 0.0]):
        action = epsilon_greedy(jax.random.key(3), rows(q), 0.5)
        np.testing.assert_allclose((action != np.argmax(q)).mean(), 0.25, atol=0.015)


def test_gaussian_noise_has_mean_zero_and_width_sigma():
    action = jnp.full((M, 2), 0.1)
    noisy = jax.jit(gaussian)(jax.random.key(0), action, 0.2)
    np.testing.assert_allclose(noisy.mean(0), 0.1, atol=0.01)
    np.testing.assert_allclose(noisy.std(0), 0.2, rtol=0.03)
    assert abs(np.corrcoef(noisy[:, 0], noisy[:, 1])[0, 1]) < 0.03


def test_gaussian_noise_is_clipped_to_the_bounds_of_actions():
    noisy = gaussian(jax.random.key(0), jnp.zeros((M, 1)), 5.0)
    assert (float(noisy.min()), float(noisy.max())) == (-1.0, 1.0)


def test_gaussian_noise_of_no_width_changes_nothing():
    action = jnp.linspace(-1, 1, 9)[:, None]
    np.testing.assert_array_equal(gaussian(jax.random.key(0), action, 0.0), action)


@pytest.mark.parametrize(("theta", "sigma", "dt"), [(0.15, 0.2, 1.0), (1.0, 0.3, 0.1), (2.0, 1.0, 0.5)])
def test_ornstein_uhlenbeck_noise_has_the_moments_of_its_equation(theta, sigma, dt):
    """Mean 0, variance sigma^2 / (2 theta), and correlation exp(-theta lag dt) of steps that are `lag` apart."""
    count, steps = 4000, 60

    def step(x, key):
        x = ornstein_uhlenbeck(key, x, sigma, theta, dt)
        return x, x

    stationary = sigma / np.sqrt(2 * theta) * np.random.default_rng(0).normal(size=count).astype(np.float32)
    _, path = jax.lax.scan(step, jnp.asarray(stationary), jax.random.split(jax.random.key(1), steps))
    path, variance = np.asarray(path, float), sigma**2 / (2 * theta)
    assert abs(path[-1].mean()) < 4 * np.sqrt(variance / count)
    np.testing.assert_allclose(path[-1].var(), variance, rtol=0.12)
    for lag in (1, 3, 10):
        found = np.mean([np.corrcoef(path[t], path[t + lag])[0, 1] for t in range(0, steps - lag, 7)])
        np.testing.assert_allclose(found, np.exp(-theta * lag * dt), atol=0.03)


def test_two_half_steps_of_the_noise_are_one_whole_step():
    """In distribution: its mean shrinks by exp(-theta dt), its variance grows alike."""
    x = jnp.ones(20_000)
    one = ornstein_uhlenbeck(jax.random.key(0), x, 0.5, 1.0, 1.0)
    half = ornstein_uhlenbeck(jax.random.key(1), x, 0.5, 1.0, 0.5)
    two = ornstein_uhlenbeck(jax.random.key(2), half, 0.5, 1.0, 0.5)
    np.testing.assert_allclose(np.mean(one), np.exp(-1), atol=0.01)
    np.testing.assert_allclose(np.mean(two), np.mean(one), atol=0.015)
    np.testing.assert_allclose(np.std(two), np.std(one), rtol=0.03)


# ---- noise on parameters


def linear_policy(actor, obs):
    return jnp.tanh(obs @ actor)


def test_a_perturbed_policy_is_the_same_for_a_whole_episode_and_another_for_each_environment():
    actor, obs = jnp.ones((3, 2)), jax.random.normal(jax.random.key(5), (4, 3))
    memory = initial_noise("parameter", (4, 2), jax.random.key(0))
    scale = initial_scale("parameter", 0.3)
    first, kept = explore_by("parameter", jax.random.key(1), linear_policy, actor, scale, obs, memory, 0.3)
    again, _ = explore_by("parameter", jax.random.key(2), linear_policy, actor, scale, obs, kept, 0.3)
    np.testing.assert_array_equal(first, again)
    same_obs = jnp.broadcast_to(obs[:1], obs.shape)
    action, _ = explore_by("parameter", jax.random.key(1), linear_policy, actor, scale, same_obs, memory, 0.3)
    assert len(np.unique(np.asarray(action)[:, 0])) == 4
    for row in range(4):
        theta = perturbed(actor, jax.random.wrap_key_data(memory[row]), scale)
        np.testing.assert_allclose(action[row], linear_policy(theta, obs[0]), rtol=1e-6)
    other = initial_noise("parameter", (4, 2), jax.random.key(1))
    assert (other != memory).any()


def test_perturbations_are_normal_with_the_scale_that_is_asked_for():
    moved = perturbed({"a": jnp.zeros(M), "b": jnp.ones(M)}, jax.random.key(0), 0.5)
    for leaf, mean in zip(moved.values(), (0.0, 1.0), strict=True):
        np.testing.assert_allclose(leaf.mean(), mean, atol=4 * 0.5 / np.sqrt(M))
        np.testing.assert_allclose(leaf.std(), 0.5, rtol=0.03)
    assert abs(np.corrcoef(moved["a"], moved["b"])[0, 1]) < 0.03


def test_the_scale_adapts_until_the_actions_are_delta_away():
    """By hand: for a linear policy and observations of length 1 the distance is sigma, on average."""
    obs = jnp.ones((1, 100)) / 10.0  # of length 1
    policy = lambda actor, obs: obs @ actor  # noqa: E731
    actor, scale = jnp.zeros((100, 400)), jnp.float32(5.0)
    seen = []
    for number in range(600):
        key = jax.random.key(number)
        after = adapted_scale("parameter", key, policy, actor, scale, obs, 0.2)
        assert np.isclose(after / scale, 1.01, rtol=1e-5) or np.isclose(after / scale, 1 / 1.01, rtol=1e-5)
        scale = after
        seen.append(float(scale))
    np.testing.assert_allclose(np.mean(seen[-100:]), 0.2, rtol=0.1)
    assert adapted_scale("gaussian", jax.random.key(0), policy, actor, (), obs, 0.2) == ()
    assert initial_scale("ou", 0.2) == ()

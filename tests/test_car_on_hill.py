"""The car on the hill against SciPy's integrator and the formulas of its paper, and values on a grid by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from polyak.envs.worlds.car_on_hill import CarOnHill
from polyak.errors import UserError
from polyak.lab.grid import corners, value_iteration

MASS, GRAVITY = 1.0, 9.81


def hill(p):
    return p**2 + p if p < 0 else p / np.sqrt(1 + 5 * p**2)


def moved(state, force):
    """After 0.1 s, by an adaptive method; the slopes of the hill by differences of its height."""
    h = 1e-5

    def slope(_, x):
        p, s = x
        first = (hill(p + h) - hill(p - h)) / (2 * h)
        second = (hill(p + h) - 2 * hill(p) + hill(p - h)) / h**2
        return [s, (force / MASS - GRAVITY * first - s**2 * first * second) / (1 + first**2)]

    return solve_ivp(slope, (0, 0.1), state, rtol=1e-8, atol=1e-10, max_step=0.005).y[:, -1]


def test_steps_are_those_of_an_exact_integrator():
    env, random = CarOnHill(), np.random.default_rng(0)
    step = jax.jit(env.step)
    for _ in range(60):
        state = random.uniform([-1, -3], [1, 3])
        action = int(random.integers(2))
        found = step(jnp.asarray(state, jnp.float32), action, jax.random.key(0)).state
        # Euler's method with a hundred steps errs by a few thousandths
        np.testing.assert_allclose(found, moved(state, 4.0 if action else -4.0), atol=0.02)
    finer = jax.jit(env.replace(substeps=2000).step)(jnp.array([0.3, -1.0]), 1, jax.random.key(0)).state
    np.testing.assert_allclose(finer, moved([0.3, -1.0], 4.0), atol=1e-3)


@pytest.mark.parametrize(
    ("state", "action", "reward", "terminated"),
    [
        ([0.95, 2.0], 1, 1.0, True),  # over the top
        ([-0.95, -2.0], 0, -1.0, True),  # out at the left
        ([0.9, 3.5], 1, -1.0, True),  # over the top, but too fast
        ([-0.9, -2.95], 0, -1.0, True),
        ([-0.5, 0.0], 1, 0.0, False),
    ],
)
def test_the_reward_is_of_where_a_step_ends(state, action, reward, terminated):
    step = CarOnHill().step(jnp.array(state), action, jax.random.key(0))
    assert (float(step.reward), bool(step.terminated)) == (reward, terminated)
    assert not step.truncated


def test_an_episode_starts_at_rest_at_the_bottom():
    state, obs = CarOnHill().reset(jax.random.key(3))
    np.testing.assert_array_equal(state, [-0.5, 0.0])
    np.testing.assert_array_equal(obs, state)


# ---- values on a grid


def line(states, action):
    """One step along a line of nodes 0 .. 4, right or left by 1/2; 4 pays 1 and ends."""
    after = np.clip(states + (0.5 if action else -0.5), 0, 4)
    ended = after[:, 0] >= 4
    return after, ended.astype(float), ended


def test_values_on_a_line_are_powers_of_gamma():
    found = value_iteration(line, [np.linspace(0, 4, 9)], 2, 0.9, 1e-10)
    np.testing.assert_allclose(found.value, [*(0.9 ** np.arange(7, -1, -1)), 1.0], atol=1e-9)
    q = found.action_values(np.array([[3.0], [0.0]]))
    np.testing.assert_allclose(q, [[0.9 * 0.9**2, 0.9], [0.9 * 0.9**7, 0.9**7]], atol=1e-9)


def test_between_nodes_a_plane_is_exact_and_outside_the_border_counts():
    axes, random = [np.linspace(-1, 1, 5), np.linspace(0, 6, 4)], np.random.default_rng(0)
    nodes = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=1)
    plane = lambda x: 2 + 3 * x[:, 0] - x[:, 1]  # noqa: E731
    inside = random.uniform([-1, 0], [1, 6], size=(200, 2))
    node, weight = corners(axes, inside)
    np.testing.assert_allclose((weight * plane(nodes)[node]).sum(1), plane(inside))
    node, weight = corners(axes, np.array([[5.0, -3.0]]))
    np.testing.assert_allclose((weight * plane(nodes)[node]).sum(1), plane(np.array([[1.0, 0.0]])))


def test_without_a_discount_it_does_not_begin():
    with pytest.raises(UserError, match=r"gamma must lie in \[0, 1\), not 1"):
        value_iteration(line, [np.linspace(0, 4, 9)], 2, 1)

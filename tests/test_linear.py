"""The linear network: its features, the gradient of a softmax of it, and the table that it is on integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.interface import Box, Discrete
from polyak.parts.networks import build, features
from polyak.parts.policies import Softmax

SPACES = {
    "box": Box((3,)),
    "discrete": Discrete(5),
    "both": {"place": Discrete(2), "speed": Box((2,))},
    "two boxes": (Box((2,)), Box(())),
}
WITH_ONE = {"box", "two boxes"}


def points(space, rng, lead):
    if isinstance(space, dict):
        return {key: points(part, rng, lead) for key, part in space.items()}
    if isinstance(space, tuple):
        return tuple(points(part, rng, lead) for part in space)
    if isinstance(space, Discrete):
        return rng.integers(space.n, size=lead)
    return rng.normal(size=(*lead, *space.shape)).astype(np.float32)


@pytest.mark.parametrize("name", SPACES)
def test_it_is_a_sum_of_weighted_features_with_a_constant_where_none_is_one_hot(name):
    space, point = SPACES[name], points(SPACES[name], np.random.default_rng(0), (4, 2))
    net = build("linear")(jax.random.key(0), space, 3)
    phi = np.asarray(features(space, point), float)
    if name in WITH_ONE:
        phi = np.concatenate([phi, np.ones((4, 2, 1))], axis=-1)
    np.testing.assert_allclose(net.features(point), phi, rtol=1e-6)
    np.testing.assert_allclose(net(point), phi @ np.asarray(net.weight, float), rtol=1e-5, atol=1e-6)
    assert (
        np.linalg.matrix_rank(np.concatenate([phi, np.ones((4, 2, 1))], -1).reshape(8, -1)) <= phi.shape[-1]
    )


def test_on_integers_it_is_a_table():
    net = build("linear")(jax.random.key(0), Discrete(4), 2, init="orthogonal", scale=0.5)
    np.testing.assert_array_equal(net(jnp.arange(4)), net.weight)
    assert net.weight.shape == (4, 2)
    assert not build("linear")(jax.random.key(0), Discrete(4), 2, scale=0.0).weight.any()


@pytest.mark.parametrize("name", SPACES)
def test_the_gradient_of_log_pi_is_the_feature_minus_its_mean_under_pi(name):
    """Sutton & Barto 2018, eq. 13.9: grad log pi(a|s) = phi(s, a) - sum_b pi(b|s) phi(s, b)."""
    space, num_actions = SPACES[name], 3
    point = points(space, np.random.default_rng(1), ())
    net = build("linear")(jax.random.key(1), space, num_actions, scale=2.0)
    x, weight = np.asarray(net.features(point), float), np.asarray(net.weight, float)
    phi = np.stack([np.outer(x, np.eye(num_actions)[a]) for a in range(num_actions)])  # phi(s, a) [A, D, A]
    preference = (phi * weight).sum(axis=(1, 2))
    pi = np.exp(preference) / np.exp(preference).sum()
    for action in range(num_actions):
        got = jax.grad(lambda policy: policy(point).log_prob(jnp.int32(action)))(Softmax(net))  # noqa: B023
        np.testing.assert_allclose(
            got.net.weight, phi[action] - np.tensordot(pi, phi, 1), rtol=1e-5, atol=1e-6
        )

"""The maximisers against functions whose maximum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.parts.maximizers import cross_entropy_method, gradient_ascent

PEAKS = jnp.array([[0.3, -0.7], [-0.9, 0.2], [1.7, 0.0]])  # the last lies outside: the bound is best


def parabola(action):
    return -((action - PEAKS) ** 2).sum(-1)


@pytest.mark.parametrize("iterations", [3, 10])
def test_the_cross_entropy_method_finds_the_peak_of_each_state(iterations):
    best = cross_entropy_method(parabola, jax.random.key(0), (3, 2), 256, 12, iterations)
    np.testing.assert_allclose(best, np.clip(PEAKS, -1, 1), atol=0.15 if iterations == 3 else 0.02)


def test_more_iterations_come_closer():
    gaps = [
        float(
            (
                parabola(jnp.clip(PEAKS, -1, 1))
                - parabola(cross_entropy_method(parabola, key, (3, 2), 64, 6, n))
            ).sum()
        )
        for n in (1, 2, 6)
        for key in [jax.random.key(1)]
    ]
    assert gaps[0] > gaps[1] > gaps[2] >= 0


def test_gradient_ascent_finds_the_higher_of_two_hills_from_many_starts():
    def hills(action):
        return jnp.exp(-20 * (action[..., 0] + 0.6) ** 2) + 2 * jnp.exp(-20 * (action[..., 0] - 0.5) ** 2)

    best = gradient_ascent(hills, jax.random.key(0), (4, 1), 16, 30, 0.1)
    np.testing.assert_allclose(best, 0.5, atol=0.03)


def test_both_are_the_same_for_the_same_key_and_stay_inside():
    for search in (
        lambda key: cross_entropy_method(parabola, key, (3, 2), 32, 4, 2),
        lambda key: gradient_ascent(parabola, key, (3, 2), 8, 3, 0.5),
    ):
        first, again = search(jax.random.key(5)), search(jax.random.key(5))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first).max() <= 1

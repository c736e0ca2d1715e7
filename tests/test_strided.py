"""The network of four strided layers beside SciPy's correlation, and by its shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from polyak.errors import UserError
from polyak.interface import Box
from polyak.parts.networks import build
from polyak.parts.networks.squares import four_of_each
from polyak.parts.networks.strided import (
    LATENT,
    every_other,
    halved,
    make_decoder,
    make_encoder,
)

CAMERA = Box((60, 80, 3), 0.0, 255.0, "uint8")
RNG = np.random.default_rng(0)


def correlated(image, weight, bias):
    """Every other place of a correlation with zeros beyond the edge, and what is negative made 0: loops in float64."""
    weight = np.asarray(weight, float).reshape(3, 3, image.shape[-1], -1)
    planes = []
    for k in range(weight.shape[-1]):
        said = sum(
            signal.correlate2d(image[:, :, c], weight[:, :, c, k], "same") for c in range(image.shape[-1])
        )
        planes.append(np.maximum(said[::2, ::2] + float(bias[k]), 0))
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize("size", [(8, 12), (7, 5)])
def test_an_encoder_is_four_of_scipy_s_correlations(size):
    encoder = make_encoder(jax.random.key(0), Box((*size, 2), 0, 255, "uint8"))
    image = RNG.integers(256, size=(*size, 2), dtype=np.uint8)
    x = image / 255.0
    for layer in encoder.filters:
        x = correlated(x, layer.weight, layer.bias)
    row = x.ravel()
    np.testing.assert_allclose(encoder.seen(image), row, rtol=1e-4, atol=1e-5)
    want = row @ np.asarray(encoder.out.weight, float) + np.asarray(encoder.out.bias, float)
    np.testing.assert_allclose(encoder(image), want, rtol=1e-4, atol=1e-5)


def test_signals_keep_their_size_through_the_filters():
    encoder = make_encoder(jax.random.key(0), CAMERA)
    x = RNG.integers(256, size=(4, 60, 80, 3), dtype=np.uint8)
    spread = float(np.asarray(encoder.seen(x)).std())
    assert 0.1 < spread / (x / 255.0).std() < 3


def test_of_the_camera_it_has_the_paper_s_layers():
    net = build("strided")(jax.random.key(0), {"camera": CAMERA, "car": Box((2,))}, 2)
    shapes = [layer.weight.shape for layer in net.encoder.filters]
    assert shapes == [(27, 16), (144, 16), (144, 16), (144, 16)]
    assert net.encoder.out.weight.shape == (4 * 5 * 16, LATENT)
    assert [layer.weight.shape for layer in net.head.layers] == [(LATENT + 2, 8), (8, 2)]


def test_speed_steering_and_action_join_after_the_encoder():
    space = ({"camera": CAMERA, "car": Box((2,))}, Box((2,)))
    net = build("strided")(jax.random.key(0), space, 1, hidden=(8,))
    camera = RNG.integers(256, size=(3, 4, 60, 80, 3), dtype=np.uint8)
    car, action = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 4, 2))
    got = net(({"camera": camera, "car": car}, action))
    assert got.shape == (3, 4, 1)
    row = np.concatenate(
        [net.encoder(camera), car, action], axis=-1
    )  # a dict is read in the order of its keys
    for layer in net.head.layers[:-1]:
        row = np.maximum(row @ np.asarray(layer.weight) + np.asarray(layer.bias), 0)
    last = net.head.layers[-1]
    np.testing.assert_allclose(
        got, row @ np.asarray(last.weight) + np.asarray(last.bias), rtol=1e-4, atol=1e-5
    )


def test_a_layer_has_half_as_many_places_rounded_up():
    for size in range(3, 12):
        assert every_other(jnp.zeros((size, 5, 1))).shape == (halved(size), 3, 9)
    assert [halved(60, times) for times in range(5)] == [60, 30, 15, 8, 4]


def test_four_of_each_place_lie_side_by_side():
    x = RNG.normal(size=(2, 3, 5, 8)).astype(np.float32)
    made = np.asarray(four_of_each(jnp.asarray(x)))
    for row, column in np.ndindex(6, 10):
        of_four = 4 * (row % 2) + 2 * (column % 2)
        want = x[:, row // 2, column // 2, of_four : of_four + 2]
        np.testing.assert_array_equal(made[:, row, column], want)


@pytest.mark.parametrize("size", [(60, 80), (30, 40), (9, 13)])
def test_a_decoder_gives_a_picture_of_the_size_that_was_encoded(size):
    image = Box((*size, 3), 0, 255, "uint8")
    picture = make_decoder(jax.random.key(0), image)(jnp.zeros((2, LATENT)))
    assert picture.shape == (2, *size, 3)
    assert float(picture.min()) > 0
    assert float(picture.max()) < 1


def test_a_space_without_a_picture_or_with_two_is_refused_in_one_line():
    for space, count in ((Box((3,)), 0), ((CAMERA, CAMERA), 2)):
        with pytest.raises(UserError, match=rf"'strided' is for one picture .* has {count}"):
            build("strided")(jax.random.key(0), space, 1)

"""The network of the Atari papers beside SciPy's correlation, and by its shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from polyak.errors import UserError
from polyak.interface import Box
from polyak.parts.networks import build
from polyak.parts.networks.nature import LAYERS
from polyak.parts.networks.noisy import NoisyLinear, quiet

FRAMES = Box((4, 84, 84), 0, 255, "uint8")
RNG = np.random.default_rng(0)


def made(name, space, **more):
    return build(name)(jax.random.key(0), space, 3, hidden=(8,), **more)


def test_of_atari_it_has_the_paper_s_sizes():
    net = build("nature")(jax.random.key(0), FRAMES, 6, hidden=(512,))
    assert [layer.weight.shape for layer in net.filters[0]] == [(256, 32), (512, 64), (576, 64)]
    assert [layer.weight.shape for layer in net.head.layers] == [(7 * 7 * 64, 512), (512, 6)]


def test_its_layers_are_scipy_s_correlation_at_every_fourth_second_and_single_place():
    net = made("nature", Box((40, 44, 2)))
    picture = RNG.normal(size=(40, 44, 2))
    x = picture
    for (width, stride, count), layer in zip(LAYERS, net.filters[0], strict=True):
        weight = np.asarray(layer.weight, float).reshape(width, width, -1, count)
        said = [
            sum(signal.correlate2d(x[:, :, c], weight[:, :, c, k], "valid") for c in range(x.shape[2]))
            for k in range(count)
        ]
        x = np.maximum(np.stack(said, -1)[::stride, ::stride] + np.asarray(layer.bias, float), 0)
    assert x.shape == (1, 2, 64)
    np.testing.assert_allclose(net.convolved(0, jnp.asarray(picture)), x.ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net(picture), net.head(jnp.asarray(x.ravel(), jnp.float32)), atol=1e-5)


def test_bytes_are_divided_by_255_here_and_other_numbers_are_not():
    net, pixels = made("nature", FRAMES), RNG.integers(256, size=(4, 84, 84), dtype=np.uint8)
    scaled = pixels.astype(np.float32) / 255
    np.testing.assert_allclose(net(pixels), net(scaled), atol=1e-6)
    assert np.abs(net(pixels) - net(pixels.astype(np.float32))).max() > 1


def test_the_shorter_of_first_and_last_axis_is_the_channels():
    first, last = made("nature", FRAMES), made("nature", Box((84, 84, 4), 0, 255, "uint8"))
    pixels = RNG.integers(256, size=(5, 4, 84, 84), dtype=np.uint8)
    np.testing.assert_allclose(first(pixels), last(np.moveaxis(pixels, 1, -1)), atol=1e-6)


@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_any_leading_axes_broadcast(lead):
    net, pixels = made("nature", FRAMES), RNG.integers(256, size=(*lead, 4, 84, 84), dtype=np.uint8)
    got = net(pixels)
    assert got.shape == (*lead, 3)
    for place in np.ndindex(lead):
        np.testing.assert_allclose(got[place], net(pixels[place]), atol=1e-5)


def test_what_is_beside_a_picture_joins_after_the_filters():
    space = ({"eye": FRAMES, "speed": Box((2,))}, Box((1,)))
    net = made("nature", space)
    assert net.head.layers[0].weight.shape == (7 * 7 * 64 + 2 + 1, 8)
    pixels, speed, action = (RNG.integers(256, size=(4, 84, 84), dtype=np.uint8), np.ones(2), np.ones(1))
    row = np.concatenate([net.convolved(0, pixels), speed, action])
    np.testing.assert_allclose(
        net(({"eye": pixels, "speed": speed}, action)),
        net.head((({"eye": row[:-3], "speed": speed}), action)),
    )


def test_without_a_picture_it_says_what_to_use():
    with pytest.raises(UserError, match="use 'cnn' for smaller ones"):
        made("nature", Box((10, 10, 4)))


def test_with_noise_only_what_is_behind_the_filters_is_noisy():
    plain, noisy = made("nature", FRAMES), made("noisy_nature", FRAMES)
    assert all(isinstance(layer, NoisyLinear) for layer in noisy.head.layers)
    assert not any(isinstance(layer, NoisyLinear) for layer in noisy.filters[0])
    assert noisy.filters[0][0].weight.shape == plain.filters[0][0].weight.shape
    pixels = RNG.integers(256, size=(4, 84, 84), dtype=np.uint8)
    assert (noisy(pixels) != quiet(noisy)(pixels)).all()

"""The residual network beside SciPy's correlation, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from polyak.errors import UserError
from polyak.interface import Box
from polyak.parts.networks import build

BOARD = {"board": Box((5, 4, 2), 0.0, 1.0), "legal": Box((3,), 0.0, 1.0)}
RNG = np.random.default_rng(0)


def convolved(layer, image):
    """A convolution of 3 x 3 with zeros beyond the border, plane by plane."""
    weight = np.asarray(layer.weight, float)
    weight = weight.reshape(3, 3, image.shape[-1], -1)
    planes = []
    for k in range(weight.shape[-1]):
        said = sum(
            signal.correlate2d(image[:, :, c], weight[:, :, c, k], "same") for c in range(image.shape[-1])
        )
        planes.append(said + float(layer.bias[k]))
    return np.stack(planes, axis=-1)


def relu(x):
    return np.maximum(x, 0)


def affine(layer, x):
    return x @ np.asarray(layer.weight, float) + np.asarray(layer.bias, float)


def moved(net, seed=1):
    """The network with other random numbers, so that no block is the identity."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(scale=0.3, size=x.shape), jnp.float32), net)


def test_it_is_a_tower_of_scipy_s_correlations_and_a_reading():
    net = moved(build("residual")(jax.random.key(0), BOARD, 4, hidden=(6, 6, 6)))
    assert len(net.blocks) == 2
    board = RNG.normal(size=(5, 4, 2))
    x = relu(convolved(net.stem, board))
    for block in net.blocks:
        x = relu(x + convolved(block.second, relu(convolved(block.first, x))))
    row = np.concatenate([relu(affine(net.planes, x)).ravel(), [1.0, 0.0, 1.0]])
    want = affine(net.direct, row) + affine(net.indirect, relu(affine(net.hidden, row)))
    got = net({"board": board.astype(np.float32), "legal": np.array([1, 0, 1], np.float32)})
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_each_block_begins_as_the_identity():
    deep = build("residual")(jax.random.key(0), Box((4, 4, 1)), 2, hidden=(6, 6, 6, 6))
    x = jnp.asarray(RNG.random((3, 4, 4, 6)), jnp.float32)
    for block in deep.blocks:
        np.testing.assert_array_equal(block(x, "relu"), x)


@pytest.mark.parametrize("lead", [(), (5,), (4, 2)])
def test_any_leading_axes_broadcast(lead):
    net = moved(build("residual")(jax.random.key(0), Box((4, 3, 2)), 2, hidden=(6, 6)))
    image = RNG.random((*lead, 4, 3, 2)).astype(np.float32)
    got = net(image)
    assert got.shape == (*lead, 2)
    for place in np.ndindex(lead):
        np.testing.assert_allclose(got[place], net(image[place]), rtol=1e-4, atol=1e-5)


def test_what_it_cannot_be_built_for_is_said():
    with pytest.raises(UserError, match="has 0: use 'mlp'"):
        build("residual")(jax.random.key(0), Box((9,)), 2)
    with pytest.raises(UserError, match="all are of one width"):
        build("residual")(jax.random.key(0), BOARD, 2, hidden=(6, 8))

"""The convolutional network beside SciPy's correlation and by its shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from cases import CASE, few_now, marked
from scipy import signal

from polyak.algorithms import find, names
from polyak.drivers.learn import on_policy_batch
from polyak.errors import UserError
from polyak.interface import Batch, Box, Discrete, OnPolicy, Spec, Transition
from polyak.parts.networks import build

IMAGE = Box((10, 10, 4), 0.0, 1.0)
RNG = np.random.default_rng(0)


def test_a_convolution_is_scipy_s_correlation():
    net = build("cnn")(jax.random.key(0), Box((6, 5, 2)), 3, hidden=(8,), activation="tanh")
    image = RNG.normal(size=(6, 5, 2)).astype(np.float32)
    weight = np.asarray(net.filters[0].weight, float).reshape(3, 3, 2, 16)
    planes = []
    for k in range(16):
        said = sum(signal.correlate2d(image[:, :, c], weight[:, :, c, k], "valid") for c in range(2))
        planes.append(np.tanh(said + float(net.filters[0].bias[k])))
    row = np.stack(planes, axis=-1).ravel()  # [4, 3, 16]
    np.testing.assert_allclose(net.convolved(net.filters[0], image), row, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net(image), net.head(jnp.asarray(row, jnp.float32)), rtol=1e-4, atol=1e-5)


def test_of_minatar_it_has_the_paper_s_sizes():
    net = build("cnn")(jax.random.key(0), IMAGE, 3, hidden=(128,))
    shapes = [layer.weight.shape for layer in (*net.filters, *net.head.layers)]
    assert shapes == [(36, 16), (1024, 128), (128, 3)]


@pytest.mark.parametrize("lead", [(), (5,), (4, 2)])
def test_any_leading_axes_broadcast(lead):
    net = build("cnn")(jax.random.key(0), IMAGE, 2, hidden=(8,))
    image = RNG.integers(2, size=(*lead, 10, 10, 4)).astype(np.float32)
    got = net(image)
    assert got.shape == (*lead, 2)
    for place in np.ndindex(lead):
        np.testing.assert_allclose(got[place], net(image[place]), rtol=1e-4, atol=1e-5)


def test_an_image_beside_other_things_is_found_and_they_are_read_too():
    space = {"b": (Discrete(3), IMAGE), "a": Box((2,))}
    net = build("cnn")(jax.random.key(0), (space, Box((1,))), 2, hidden=(8,))
    point = {"b": (np.array([1, 2]), RNG.normal(size=(2, 10, 10, 4))), "a": RNG.normal(size=(2, 2))}
    action = RNG.normal(size=(2, 1))
    got = net((point, action))
    assert got.shape == (2, 2)
    assert net.head.layers[0].weight.shape == (2 + 3 + 1024 + 1, 8)
    image = np.asarray(point["b"][1], np.float32)
    row = np.concatenate(
        [point["a"], np.eye(3)[point["b"][0]], net.convolved(net.filters[0], image), action], axis=1
    )
    x = np.maximum(row @ np.asarray(net.head.layers[0].weight) + np.asarray(net.head.layers[0].bias), 0)
    np.testing.assert_allclose(
        got,
        x @ np.asarray(net.head.layers[1].weight) + np.asarray(net.head.layers[1].bias),
        rtol=1e-4,
        atol=1e-4,
    )
    for other in (
        point | {"a": point["a"] + 1},
        point | {"b": (point["b"][0] * 0, image)},
        point | {"b": (point["b"][0], image + 1)},
    ):
        assert (net((other, action)) != got).all()


def test_without_an_image_it_says_what_to_use():
    with pytest.raises(UserError, match=r"has none: use 'mlp'"):
        build("cnn")(jax.random.key(0), Box((4,)), 2)


# ---- in algorithms


@pytest.mark.parametrize(
    "name", marked([(name,) for name in names() if hasattr(find(name).Config(), "network")], few_now)
)
def test_every_algorithm_learns_from_an_image(name):
    """One update moves the filters, and the action of an image is finite."""
    algorithm, T, N = find(name), 4, 2
    discrete = "discrete" in algorithm.actions
    action = Discrete(3) if discrete else Box((2,), -1.0, 1.0)
    spec = Spec(Box((4, 4, 2), 0.0, 1.0), action, time_limit=20, num_envs=N)
    cfg = CASE[name].config(
        {"steps": T} if isinstance(algorithm.Config().data, OnPolicy) else {}, network="cnn", minibatch=4
    )
    state = algorithm.init(cfg, spec, jax.random.key(0))
    obs, next_obs = (RNG.integers(2, size=(T, N, 4, 4, 2)).astype(np.float32) for _ in range(2))
    taken = (
        RNG.integers(3, size=(T, N), dtype=np.int32)
        if discrete
        else RNG.uniform(-1, 1, (T, N, 2)).astype(np.float32)
    )
    memory = algorithm.memory(cfg, spec, jnp.arange(N), jnp.zeros(N, jnp.int32), jax.random.key(3))
    actor = algorithm.actor(state)
    chosen, _, extras = algorithm.act(cfg, spec, actor, memory, obs[0], jax.random.key(1), True)
    assert np.isfinite(chosen).all()
    extras = jax.tree.map(lambda x: jnp.stack([x] * T), extras)
    reward, never = RNG.normal(size=(T, N)).astype(np.float32), np.zeros((T, N), bool)
    batch = on_policy_batch(Transition(obs, taken, reward, next_obs, never, never, extras), cfg.gamma, None)
    if not isinstance(cfg.data, OnPolicy):
        batch = Batch(*jax.tree.map(lambda x: x.reshape(T * N, *x.shape[2:]), batch))
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args), compiler_options=QUICK)
    made = update(state, batch, jax.random.key(2))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(made))
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(made.state), strict=True)
    filters = [(a, b) for a, b in pairs if a.shape[-2:] == (18, 16)]
    assert filters
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in filters)

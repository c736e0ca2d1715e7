import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.algorithms import find
from polyak.drivers.check import check_data
from polyak.errors import UserError
from polyak.interface import Box, Discrete, Spec
from polyak.parts.networks import Linear, build, ensemble, features, mlp, num_features

KEY_SEEDS = range(3)
SPACE = {"speed": Box((2, 3)), "cell": Discrete(4), "pair": (Box(()), Discrete(2))}


def point(*lead):
    rng = np.random.default_rng(0)
    return {
        "speed": rng.normal(size=(*lead, 2, 3)).astype(np.float32),
        "cell": rng.integers(4, size=lead),
        "pair": (rng.normal(size=lead).astype(np.float32), rng.integers(2, size=lead)),
    }


def test_linear_is_a_matrix_product_on_the_last_axis():
    weight, bias, x = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(3, 2), (2,), (5, 4, 3)])
    )
    got = Linear(weight, bias)(x)
    want = np.zeros((5, 4, 2))
    for t, n, o in np.ndindex(5, 4, 2):
        want[t, n, o] = sum(float(x[t, n, i]) * float(weight[i, o]) for i in range(3)) + float(bias[o])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lead", [(), (5,), (4, 5)])
def test_features_of_a_tree_are_its_parts_in_key_order(lead):
    p = point(*lead)
    want = np.concatenate(
        [
            np.eye(4)[p["cell"]],
            p["pair"][0][..., None],
            np.eye(2)[p["pair"][1]],
            p["speed"].reshape(*lead, 6),
        ],
        axis=-1,
    )
    got = features(SPACE, p)
    np.testing.assert_array_equal(got, want.astype(np.float32))
    assert got.dtype == jnp.float32
    assert num_features(SPACE) == want.shape[-1]


def test_features_do_not_depend_on_the_order_in_which_a_dict_was_written():
    reversed_space = {key: SPACE[key] for key in reversed(SPACE)}
    np.testing.assert_array_equal(features(SPACE, point(3)), features(reversed_space, point(3)))


def test_features_broadcast_leading_axes():
    obs, action = jnp.arange(6.0).reshape(3, 2), jnp.arange(15).reshape(5, 3) % 4
    got = features((Box((2,)), Discrete(4)), (obs, action))
    assert got.shape == (5, 3, 6)
    for s, n in np.ndindex(5, 3):
        np.testing.assert_array_equal(got[s, n], [*obs[n], *np.eye(4)[action[s, n]]])


def test_features_refuse_what_is_no_space():
    with pytest.raises(TypeError, match="a space is a Box"):
        features("Box(3)", jnp.ones(3))


ACTIVATION = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATION)
def test_mlp_is_the_textbook_network(activation):
    net = mlp(jax.random.key(0), SPACE, 3, hidden=(8, 5), activation=activation)
    x = np.asarray(features(SPACE, point(4, 5)), np.float64)
    for i, layer in enumerate(net.layers):
        x = x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
        x = ACTIVATION[activation](x) if i < 2 else x
    np.testing.assert_allclose(net(point(4, 5)), x, rtol=1e-5, atol=1e-6)


def test_the_same_mlp_serves_one_batch_and_a_rollout():
    net = mlp(jax.random.key(0), Box((3,)), 2, hidden=(8,))
    x = jax.random.normal(jax.random.key(1), (4, 5, 3))
    rollout = net(x)
    for t in range(4):
        np.testing.assert_allclose(net(x[t]), rollout[t], rtol=1e-5, atol=1e-6)


def test_mlp_takes_integers_of_a_discrete_observation():
    net = mlp(jax.random.key(0), Discrete(3), 2, hidden=())
    np.testing.assert_allclose(net(jnp.arange(3)), net.layers[0].weight + net.layers[0].bias, rtol=1e-6)


def test_an_integer_box_is_read_as_numbers():
    np.testing.assert_array_equal(
        features(Box((2,), dtype="uint8"), jnp.array([7, 255], jnp.uint8)), [7.0, 255.0]
    )


def test_uniform_init_fills_pytorch_s_interval_and_scales_the_last_layer():
    net = mlp(jax.random.key(0), Box((64,)), 50, hidden=(400,), init="uniform", scale=0.01)
    for layer, scale in zip(net.layers, (1.0, 0.01), strict=True):
        bound = scale / np.sqrt(layer.weight.shape[0])
        for values in (np.asarray(layer.weight), np.asarray(layer.bias)):
            assert abs(values).max() <= bound
            assert abs(values).max() > 0.9 * bound
            assert abs(values.mean()) < 0.25 * bound
        np.testing.assert_allclose(layer.weight.std(), bound / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("sizes", [(12, 5), (5, 12)])
def test_orthogonal_init_has_its_gain_and_no_bias(sizes):
    net = mlp(jax.random.key(0), Box(sizes[:1]), 3, hidden=sizes[1:], init="orthogonal", scale=0.1)
    for layer, gain in zip(net.layers, (np.sqrt(2), 0.1), strict=True):
        weight = np.asarray(layer.weight, np.float64)
        gram = weight @ weight.T if weight.shape[0] < weight.shape[1] else weight.T @ weight
        np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-5)
        assert not layer.bias.any()


@pytest.mark.parametrize("init", ["uniform", "orthogonal"])
def test_layers_are_drawn_from_different_keys(init):
    net = mlp(jax.random.key(0), Box((4,)), 4, hidden=(4, 4), init=init, scale=float(np.sqrt(2)))
    weights = [np.asarray(layer.weight) for layer in net.layers]
    assert not np.allclose(weights[0], weights[1])
    assert not np.allclose(weights[1], weights[2])


def test_an_ensemble_says_what_each_member_says():
    space = (Box((3,)), Box((2,)))
    critics = ensemble(lambda key: mlp(key, space, 1, hidden=(8,)), jax.random.key(0), 3)
    x = (jax.random.normal(jax.random.key(1), (5, 3)), jax.random.normal(jax.random.key(2), (5, 2)))
    got = critics(x)
    assert got.shape == (3, 5, 1)
    for i, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        np.testing.assert_allclose(got[i], mlp(key, space, 1, hidden=(8,))(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(critics.first(x), got[0], rtol=1e-5, atol=1e-6)
    assert len({float(q) for q in got[:, 0, 0]}) == 3


def test_a_network_is_strongly_typed_data_with_a_hashable_structure():
    net = mlp(jax.random.key(0), SPACE, 3, hidden=(8,), scale=0.5)
    assert all(leaf.dtype == jnp.float32 and not leaf.weak_type for leaf in jax.tree.leaves(net))
    structure = jax.tree.structure(net)
    hash(structure)
    again = pickle.loads(pickle.dumps(net))
    assert jax.tree.structure(again) == structure
    np.testing.assert_array_equal(again(point(2)), net(point(2)))


def test_networks_of_one_structure_share_one_compiled_program():
    forward = jax.jit(lambda net, p: net(p))
    for seed in KEY_SEEDS:
        forward(mlp(jax.random.key(seed), SPACE, 3, hidden=(8,)), point(2))
    assert forward._cache_size() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "relo"}, "unknown activation 'relo': did you mean 'relu'"),
        ({"network": "mpl"}, "unknown network 'mpl': did you mean 'mlp'"),
        ({"network": "mpl", "activation": "relo"}, "unknown network .*; unknown activation"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(settings, message):
    algorithm = find("ppo")
    spec = Spec(Box((2,)), Box((1,)))
    with pytest.raises(UserError, match=message) as error:
        check_data("ppo", algorithm, algorithm.Config(**settings), spec)
    assert "\n" not in str(error.value)


def test_build_finds_a_builder_by_name():
    assert build("mlp") is mlp


def test_a_layer_norm_network_is_an_mlp_with_normalised_hidden_layers():
    net = build("layer_norm")(jax.random.key(0), Box((3,)), 2, (5, 4), "tanh")
    x = np.random.default_rng(0).normal(size=(6, 3))
    y = x
    for layer in net.layers[:-1]:
        y = y @ np.asarray(layer.weight, float) + np.asarray(layer.bias, float)
        y = np.tanh([(row - row.mean()) / np.sqrt(row.var() + 1e-5) for row in y])
    last = net.layers[-1]
    want = y @ np.asarray(last.weight, float) + np.asarray(last.bias, float)
    np.testing.assert_allclose(net(jnp.float32(x)), want, rtol=1e-4, atol=1e-5)

"""Noisy layers against equations 9 to 11 of Fortunato et al. 2018, and when their noise is drawn, for any algorithm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from cases import CASE

from polyak.algorithms import find
from polyak.interface import Box, Discrete, Spec
from polyak.parts.networks import build
from polyak.parts.networks.noisy import is_noisy, quiet, redraw
from polyak.parts.optimize import adam, gradient_step
from polyak.pytree import strip_weak_types
from polyak.wrappers import draw_noise, normalize_obs

N, T, B = 3, 6, 8
AGENTS = {"dqn": Discrete(3), "td3": Box((2,), -1.0, 1.0), "ppo": Discrete(3)}
CHOOSES = {
    "dqn": lambda state: state.q,
    "td3": lambda state: state.actor,
    "ppo": lambda state: state.policy.net,
}


def network(hidden=(4,), seed=0, **settings):
    return build("noisy")(jax.random.key(seed), Box((3,)), 2, hidden, **settings)


def matrices(layer):
    """W and b of a layer as equations 9 to 11 have them, float64."""
    f = lambda e: np.sign(e) * np.sqrt(np.abs(e))  # noqa: E731
    each = {name: np.asarray(getattr(layer, name), np.float64) for name in vars(layer)}
    noise = np.outer(f(each["noise_in"]), f(each["noise_out"]))
    return (
        each["weight"] + each["weight_sigma"] * noise,
        each["bias"] + each["bias_sigma"] * f(each["noise_out"]),
    )


# ---- layers


def test_a_noisy_network_is_the_mlp_of_its_noisy_weights():
    net, x = network(), np.random.default_rng(0).normal(size=(5, 3))
    want = oracles.mlp([matrices(layer) for layer in net.layers], x)
    np.testing.assert_allclose(net(jnp.float32(x)), want, rtol=1e-5, atol=1e-6)
    means = oracles.mlp(oracles.layers_of(net), x)
    np.testing.assert_allclose(quiet(net)(jnp.float32(x)), means, rtol=1e-5, atol=1e-6)
    assert np.abs(want - means).max() > 0.1


def test_what_is_learned_is_mu_and_sigma_and_not_the_noise():
    net, x = network(), np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    slow = oracles.float64(net)

    def loss(net):
        return (oracles.mlp([matrices(layer) for layer in net.layers], x) ** 2).sum()

    want = oracles.finite_differences(loss, slow)
    got = jax.grad(lambda net: (net(x) ** 2).sum())(net)
    for found, wanted in zip(got.layers, want.layers, strict=True):
        for name in ("weight", "bias", "weight_sigma", "bias_sigma"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-3, atol=1e-3)
        assert not found.noise_in.any()
        assert not found.noise_out.any()
    optimizer = adam(max_norm=1.0)
    stepped, _ = gradient_step(optimizer, got, optimizer.init(net), net, 0.1)
    for before, after in zip(net.layers, stepped.layers, strict=True):
        np.testing.assert_array_equal(before.noise_in, after.noise_in)
        assert (before.weight_sigma != after.weight_sigma).any()


def test_means_begin_as_those_of_an_mlp_and_sigma_as_section_3_2_says():
    net = network((50,), init="orthogonal", scale=0.01)
    assert float(jnp.abs(net.layers[-1].weight).max()) < 0.01
    for layer in net.layers:
        np.testing.assert_allclose(layer.weight_sigma, 0.5 / np.sqrt(len(layer.weight)), rtol=1e-6)
        np.testing.assert_allclose(layer.bias_sigma, 0.5 / np.sqrt(len(layer.weight)), rtol=1e-6)


def test_noise_is_normal_independent_and_never_that_of_moments():
    nets = (network((200,)), network((200,)))
    tree = {"nets": nets, "moments": adam().init(nets)}
    drawn = redraw(tree, jax.random.key(1))
    noise = np.concatenate([np.asarray(layer.noise_in) for net in drawn["nets"] for layer in net.layers])
    assert abs(noise.mean()) < 0.2
    assert 0.85 < noise.std() < 1.15
    a, b = (net.layers[1].noise_in for net in drawn["nets"])
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.3
    assert abs(np.corrcoef(a, nets[0].layers[1].noise_in)[0, 1]) < 0.3
    jax.tree.map(np.testing.assert_array_equal, drawn["moments"], tree["moments"])
    for before, after in zip(nets[0].layers, drawn["nets"][0].layers, strict=True):
        np.testing.assert_array_equal(before.weight, after.weight)
        np.testing.assert_array_equal(before.weight_sigma, after.weight_sigma)
    assert is_noisy(nets)
    assert not is_noisy(adam().init(nets))


# ---- any algorithm


@functools.cache
def agent(name, network="noisy"):
    algorithm, spec = draw_noise(find(name)), Spec(Box((3,)), AGENTS[name], num_envs=N)
    chosen = CASE[name]
    data = chosen.data({"steps": T}, {"batch_size": B})
    calm = {"epsilon": 0.0, "epsilon_end": 0.0, "exploration": 0.0}
    cfg = chosen.config(data, horizon=100, network=network, **calm, **chosen.at_once)
    init = jax.jit(lambda key: strip_weak_types(algorithm.init(cfg, spec, key)), compiler_options=QUICK)
    return algorithm, cfg, spec, init(jax.random.key(0))


def values(algorithm, cfg, spec, state, key, explore=True):
    """The actions for many observations, from one call."""
    obs = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    memory = algorithm.memory(cfg, spec, jnp.arange(300), jnp.zeros(300, jnp.int32), jax.random.key(0))
    return np.asarray(
        algorithm.act(cfg, spec, algorithm.actor(state), memory, obs, jax.random.key(key), explore)[0]
    )


def batch_of(cfg, spec):
    rows = oracles.rows(3, spec.action, (T, N) if not cfg.data.replays else (B,))
    if not cfg.data.replays:
        rows = rows._replace(extras={"log_prob": np.full((T, N), -1.1, np.float32)})
    return oracles.as_batch(rows, cfg.gamma)


@pytest.mark.parametrize("name", ["dqn", "td3"])
def test_from_replay_every_call_acts_with_other_noise_and_the_means_act_without_exploring(name):
    algorithm, cfg, spec, state = agent(name)
    one, same, other = (values(algorithm, cfg, spec, state, key) for key in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    calm = [values(algorithm, cfg, spec, state, key, explore=False) for key in (1, 2)]
    np.testing.assert_array_equal(*calm)
    np.testing.assert_array_equal(calm[0], values(find(name), cfg, spec, quiet(state), 1, explore=False))


def test_on_policy_a_rollout_and_its_update_have_the_same_noise_and_the_next_has_other():
    algorithm, cfg, spec, state = agent("ppo")
    one, other = (values(algorithm, cfg, spec, state, 1) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, values(find("ppo"), cfg, spec, state, 1))
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args), compiler_options=QUICK)
    plain = jax.jit(lambda *args: find("ppo").update(cfg, spec, *args), compiler_options=QUICK)
    batch = batch_of(cfg, spec)
    got = update(state, batch, jax.random.key(3))
    same = plain(state, batch, jax.random.split(jax.random.key(3))[0])
    for name in got.metrics:  # of the policy that acted
        np.testing.assert_allclose(got.metrics[name], same.metrics[name], rtol=1e-4, atol=1e-6)
    for mine, plains in zip(got.state.policy.net.layers, same.state.policy.net.layers, strict=True):
        np.testing.assert_allclose(mine.weight, plains.weight, rtol=1e-4, atol=1e-6)
        assert (mine.noise_in != plains.noise_in).any()


@pytest.mark.parametrize("name", AGENTS)
def test_sigma_is_learned_by_any_algorithm_and_nothing_changes_shape(name):
    algorithm, cfg, spec, state = agent(name)
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args), compiler_options=QUICK)
    after = state
    for number in range(2):
        after = update(after, batch_of(cfg, spec), jax.random.key(number)).state
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for before, now in zip(CHOOSES[name](state).layers, CHOOSES[name](after).layers, strict=True):
        assert (before.weight_sigma != now.weight_sigma).any()
        assert (before.noise_in != now.noise_in).any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))


@pytest.mark.parametrize("name", AGENTS)
def test_an_algorithm_without_noisy_networks_keeps_every_bit(name):
    algorithm, cfg, spec, state = agent(name, "mlp")
    plain = find(name)
    np.testing.assert_array_equal(values(algorithm, cfg, spec, state, 1), values(plain, cfg, spec, state, 1))
    batch = batch_of(cfg, spec)
    one, other = (
        jax.jit(lambda *args, each=each: each.update(cfg, spec, *args), compiler_options=QUICK)(
            state, batch, jax.random.key(1)
        )
        for each in (algorithm, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_noise_is_found_inside_other_wrappers():
    algorithm, cfg, spec, state = agent("dqn")
    wrapped = normalize_obs(algorithm)
    state = wrapped.init(cfg, spec, jax.random.key(0))
    one, other = (values(wrapped, cfg, spec, state, key) for key in (1, 2))
    assert (one != other).any()

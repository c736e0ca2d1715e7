"""Progressive networks: equation 2 in slow loops, a first column that stays, and where it comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from polyak.interface import Box
from polyak.parts.networks import build, mlp
from polyak.parts.optimize import Frozen, adam, gradient_step
from polyak.runs.run import load, train

SPACE = Box((3,))
PPO = {"hidden": [8, 8], "data.steps": 32, "minibatch": 16, "epochs": 4, "lr": 0.01}


def slow(net, x):
    """The new column of one observation, from equation 2, unit by unit in float64."""
    old, new, adapters = (oracles.float64(part) for part in (net.first.frozen, net.layers, net.adapters))
    sigma = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh}[net.activation]
    h = np.array([sum(x * new[0].weight[:, j]) + new[0].bias[j] for j in range(new[0].bias.size)])
    h = sigma(h) if len(new) > 1 else h
    before = x
    for i in range(1, len(new)):
        before = sigma(old.layers[i - 1].weight.T @ before + old.layers[i - 1].bias)
        lateral = adapters[i - 1].up.T @ sigma(adapters[i - 1].down.T @ (adapters[i - 1].alpha * before))
        out = np.array(
            [sum(h * new[i].weight[:, j]) + new[i].bias[j] + lateral[j] for j in range(lateral.size)]
        )
        h = out if i == len(new) - 1 else sigma(out)
    return h


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("init", ["uniform", "orthogonal"])
@pytest.mark.parametrize("hidden", [(5, 4), (5,), ()])
def test_the_new_column_is_equation_2(hidden, init, activation):
    net = build("progressive")(jax.random.key(0), SPACE, 2, hidden, activation, init)
    net = net.replace(adapters=tuple(a.replace(alpha=jnp.float32(1.5)) for a in net.adapters))
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    got = net(jnp.asarray(x, jnp.float32))
    want = np.array([[slow(net, row) for row in rows] for rows in x])
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)


def test_it_begins_nearly_as_the_new_column_alone():
    net = build("progressive")(jax.random.key(1), SPACE, 2, (16, 16), "tanh", "orthogonal", 0.01)
    alphas = np.array([adapter.alpha for adapter in net.adapters])
    assert (alphas > 0).all()
    assert (alphas < 0.1).all()
    assert len(set(alphas.tolist())) == 2
    x = jax.random.normal(jax.random.key(2), (100, 3))
    assert np.abs(net(x)).max() < 0.05  # a first policy that is nearly uniform, as of `mlp`


def test_steps_move_all_of_the_new_column_and_no_bit_of_the_old():
    net = build("progressive")(jax.random.key(0), SPACE, 2, (8, 8), "tanh")
    start, optimizer = net, adam(max_norm=0.5)
    opt_state = optimizer.init(net)
    loss = lambda net, x: ((net(x) - 3 * x[:, :2]) ** 2).mean()  # noqa: E731
    step = jax.jit(lambda n, s, x: gradient_step(optimizer, jax.grad(loss)(n, x), s, n, 0.01))
    for number in range(100):
        net, opt_state = step(net, opt_state, jax.random.normal(jax.random.key(number), (32, 3)))
    for a, b in zip(*(jax.tree.leaves(n.first) for n in (net, start)), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(*(jax.tree.leaves((n.layers, n.adapters)) for n in (net, start)), strict=True):
        assert (np.asarray(a) != np.asarray(b)).all()
    x = jax.random.normal(jax.random.key(1000), (32, 3))
    assert loss(net, x) < 0.1 * loss(start, x)


def test_units_of_the_old_column_are_used():
    """Where it knows the answer, the new column finds it through the adapters alone."""
    net = build("progressive")(jax.random.key(0), SPACE, 1, (8, 8), "tanh")
    old = mlp(jax.random.key(5), SPACE, 1, (8, 8), "tanh")
    net = net.replace(
        first=Frozen(old), layers=tuple(jax.tree.map(jnp.zeros_like, layer) for layer in net.layers)
    )
    x = jax.random.normal(jax.random.key(1), (64, 3))

    def loss(adapters):
        return ((net.replace(adapters=adapters)(x) - old(x)) ** 2).mean()

    adapters, optimizer = net.adapters, adam()
    opt_state, step = (
        optimizer.init(adapters),
        jax.jit(lambda a, s: gradient_step(optimizer, jax.grad(loss)(a), s, a, 0.01)),
    )
    for _ in range(500):
        adapters, opt_state = step(adapters, opt_state)
    assert loss(adapters) < 0.02 * old(x).var()


@pytest.mark.slow
def test_the_first_column_is_another_runs_and_stays_bit_for_bit(tmp_path):
    given = {"out": str(tmp_path), "preset": False, "verbose": False, "eval_every": 0}
    first = train("ppo", "jax:CartPole-v1", steps=64, config=PPO, name="first", **given)
    columns = (f"{first.path}:policy/net=policy/net/first", f"{first.path}:critic=critic/first")
    config = PPO | {"network": "progressive"}
    second = train("ppo", "jax:CartPole-v1", steps=128, config=config, init=columns, name="second", **given)
    one, two = first.state(), load(second.path).state()
    for a, b in ((one.policy.net, two.policy.net.first), (one.critic, two.critic.first)):
        for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
            np.testing.assert_array_equal(x, y)
    obs = np.zeros((3, 4), np.float32)
    assert second.policy()(obs)[0].shape == (3,)

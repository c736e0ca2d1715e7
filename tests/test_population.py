"""Populations: vectors of parameters, whose turn it is, returns, and ranks."""

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.stats import rankdata

from polyak.interface import Box, Discrete, OnPolicy, Spec
from polyak.parts import population

SPEC = Spec(Box((3,)), Discrete(4))
REAL = dataclasses.replace(SPEC, action=Box((2,), -1.0, 1.0))


@dataclass(frozen=True)
class Config:
    gamma: float = 0.9
    population: int = 6
    network: str = "mlp"
    hidden: tuple[int, ...] = (5,)
    activation: str = "tanh"
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=4))


@pytest.mark.parametrize("network", ["mlp", "threshold"])
@pytest.mark.parametrize("spec", [SPEC, REAL])
def test_a_network_is_its_vector(spec, network):
    cfg = Config(network=network)
    net = population.build_network(cfg, spec, jax.random.key(0))
    params = population.flatten(net)
    assert params.shape == (population.num_params(cfg, spec),)
    again = population.unflatten(cfg, spec, params)
    assert jax.tree.structure(again) == jax.tree.structure(net)
    jax.tree.map(np.testing.assert_array_equal, again, net)


@pytest.mark.parametrize("spec", [SPEC, REAL])
def test_each_environment_is_played_by_its_own_candidate_from_its_first_step_on(spec):
    cfg, made = Config(), []
    table = np.random.default_rng(0).normal(size=(6, population.num_params(cfg, spec))).astype(np.float32)
    obs = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    player = population.players(cfg, spec, jnp.array([0, 1, 2]), jnp.array([8, 9, 11]))
    member = [8 % 6, 13 % 6, 19 % 6]
    np.testing.assert_array_equal(player.member, member)

    def candidate(number):
        jax.debug.callback(lambda n: made.append(int(n)), number)
        return jnp.asarray(table)[number]

    play = jax.jit(lambda player, obs: population.play(cfg, spec, player, candidate, obs))
    for _ in range(3):
        action, player = play(player, obs)
        for n in range(3):
            net = population.unflatten(cfg, spec, jnp.asarray(table[member[n]]))
            out = oracles.mlp(net, obs[n], "tanh")
            want = out.argmax() if spec is SPEC else np.tanh(out)
            np.testing.assert_allclose(action[n], want, rtol=1e-5)
    jax.effects_barrier()
    assert sorted(made) == sorted(member)  # made once, not at every step


def test_a_rollout_deals_the_candidates_out_evenly():
    for envs, k, size in ((1, 6, 6), (3, 2, 6), (3, 4, 6), (4, 6, 8)):
        cfg = Config(population=size, data=OnPolicy(episodes=k))
        spec = dataclasses.replace(SPEC, num_envs=envs)
        assert population.wrong_population(cfg, spec) == []
        for rollout in range(3):
            ids, episodes = np.meshgrid(np.arange(envs), rollout * k + np.arange(k))
            member = population.players(cfg, spec, ids.ravel(), episodes.ravel()).member
            np.testing.assert_array_equal(np.bincount(member, minlength=size), envs * k // size)
    (line,) = population.wrong_population(Config(population=5), dataclasses.replace(SPEC, num_envs=3))
    assert "makes 12 episodes, but must make a multiple of population, 5" in line
    (line,) = population.wrong_population(Config(data=OnPolicy(steps=5)), SPEC)
    assert line.startswith("data.episodes is 0, but must be at least 1")


@pytest.mark.parametrize(("envs", "k"), [(1, 6), (3, 2), (3, 4)])
def test_returns_are_discounted_sums_of_whole_episodes_averaged_over_a_candidates_own(envs, k):
    cfg = Config(data=OnPolicy(episodes=k))
    for rollout in range(3):
        batch = oracles.generation(cfg, envs, rollout)
        assert (batch.weight == 0).any() or envs == 1
        found = jax.jit(lambda batch, cfg=cfg: population.returns(cfg, batch))(batch)
        np.testing.assert_allclose(found, oracles.member_returns(cfg, batch), rtol=1e-5, atol=1e-6)


def test_returns_by_hand():
    """One environment, three steps of one candidate and one of another: 1 + 10 / 2 + 100 / 4, and 7."""
    cfg = Config(gamma=0.5, population=2, data=OnPolicy(episodes=2))
    column = lambda *x: np.array(x)[:, None]  # noqa: E731
    batch = oracles.generation(cfg, 1)._replace(
        reward=column(1.0, 10.0, 100.0, 7.0, 0.0),
        weight=column(1.0, 1.0, 1.0, 1.0, 0.0),
        terminated=column(False, False, True, False, False),
        truncated=column(False, False, False, True, False),
        extras={"member": column(1, 1, 1, 0, 1)},
    )
    np.testing.assert_allclose(population.returns(cfg, batch), [7.0, 31.0])


def test_centred_ranks_are_scipys_between_minus_and_plus_a_half():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=9), rng.integers(3, size=20).astype(float), np.ones(4)):
        want = (rankdata(values) - 1) / (len(values) - 1) - 0.5
        np.testing.assert_allclose(population.centred_ranks(jnp.asarray(values)), want, atol=1e-6)


def test_the_best_come_first_and_equals_keep_their_order():
    value = jnp.array([1.0, 3.0, 2.0, 3.0])
    np.testing.assert_array_equal(population.best_first(value), [1, 3, 2, 0])


def test_a_threshold_network_has_hard_steps_and_no_gradient():
    cfg = Config(network="threshold")
    net = population.build_network(cfg, REAL, jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    first, last = net.layers
    units = (x @ np.asarray(first.weight) + np.asarray(first.bias) > 0).astype(float)
    assert 0 < units.mean() < 1
    np.testing.assert_allclose(net(x), units @ np.asarray(last.weight) + np.asarray(last.bias), rtol=1e-5)
    slope = jax.grad(lambda x: net(x).sum())(jnp.asarray(x))
    assert not slope.any()

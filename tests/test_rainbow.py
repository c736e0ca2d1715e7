"""Rainbow against slow float64 loops written from section 3 of Hessel et al. 2018, with its parts on and off."""

import dataclasses

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp

from polyak.algorithms import rainbow
from polyak.drivers.check import check_data
from polyak.errors import UserError
from polyak.interface import Box, Discrete, Spec
from polyak.pytree import copy

A, B = 3, 6
SPEC = Spec(obs=Box((2,)), action=Discrete(A))
CFG = rainbow.Config(
    **{"hidden": (3,), "gamma": 0.9, "lr": 1e-2, "max_norm": 0.5, "network": "mlp", "horizon": 100},
    **{"low": -1.5, "high": 2.0, "atoms": 5, "period": 2, "tau": 0.6},
)
ATOMS = np.linspace(CFG.low, CFG.high, CFG.atoms)


def start(cfg):
    """A target that is not the online network."""
    init = jax.jit(lambda key: rainbow.init(cfg, SPEC, key), compiler_options=QUICK)
    return init(jax.random.key(0)).replace(q_target=copy(init(jax.random.key(1)).q))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


class Slow:
    """One row after the other."""

    def __init__(self, cfg, state):
        self.cfg, self.t = cfg, 0
        self.q, self.q_target = float64(state.q), float64(state.q_target)
        self.adam = Adam(cfg.lr, eps=1.5e-4, max_norm=cfg.max_norm)

    def outputs(self, net, obs):
        """Logits or a value for each action, [A, atoms]."""
        rows = mlp(net, obs).reshape(A + self.cfg.dueling, -1)
        if self.cfg.dueling:
            value, advantage = rows[0], rows[1:]
            return np.array([value + advantage[a] - advantage.mean(axis=0) for a in range(A)])
        return rows

    def means(self, net, obs):
        rows = self.outputs(net, obs)
        return [row[0] if self.cfg.critic == "scalar" else softmax(row) @ ATOMS for row in rows]

    def distances(self, net, batch, targets):
        found = []
        for i in range(B):
            out, y = self.outputs(net, batch.obs[i])[batch.action[i]], targets[i]
            if self.cfg.critic == "scalar":
                error = abs(out[0] - y)
                found.append(0.5 * error**2 if error < 1 else error - 0.5)
            else:
                p = softmax(out)
                found.append(sum(m * np.log(m / each) for m, each in zip(y, p, strict=True) if m > 0))
        return np.array(found)

    def update(self, batch, key):
        targets = []
        for i in range(B):
            judge = self.q if self.cfg.double else self.q_target
            best = int(np.argmax(self.means(judge, batch.next_obs[i])))
            out = self.outputs(self.q_target, batch.next_obs[i])[best]
            gamma = 0.0 if batch.terminated[i] else self.cfg.gamma
            if self.cfg.critic == "scalar":
                targets.append(batch.reward[i] + gamma * out[0])
            else:
                targets.append(oracles.categorical_backup(float(batch.reward[i]), gamma, softmax(out), ATOMS))
        grads = finite_differences(
            lambda q: (batch.weight * self.distances(q, batch, targets)).mean(), self.q
        )
        self.q = self.adam.step(self.q, grads)
        self.t += 1
        if self.t % self.cfg.period == 0:
            self.q_target = averaged(self.cfg.tau, self.q, self.q_target)


@pytest.mark.parametrize(
    "off",
    [{}, {"double": False}, {"dueling": False}, {"critic": "scalar"}],
    ids=["all", "not double", "not dueling", "scalar"],
)
def test_three_updates_are_those_of_section_3(off):
    cfg = dataclasses.replace(CFG, **off)
    update = jax.jit(lambda *args: rainbow.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, cfg.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, start(cfg), Slow(cfg, start(cfg)), batches)
    slow = Slow(cfg, start(cfg))
    slow.update(batches[0], jax.random.key(0))
    assert (update(start(cfg), batches[0], jax.random.key(0)).priority >= 0).all()


def test_all_six_parts_are_on_by_default_and_each_can_be_turned_off_by_itself():
    cfg = rainbow.Config()
    on = cfg.double, cfg.dueling, cfg.critic == "categorical", cfg.network == "noisy"
    assert all((*on, cfg.data.n_step == 3, cfg.data.priority == 0.5))
    assert cfg.epsilon == cfg.epsilon_end == 0.0
    for other in (
        {"double": False},
        {"dueling": False},
        {"critic": "scalar"},
        {"network": "mlp", "epsilon": 1.0, "epsilon_end": 0.01},
        {"data": dataclasses.replace(cfg.data, n_step=1)},
        {"data": dataclasses.replace(cfg.data, priority=0.0)},
    ):
        check_data("rainbow", rainbow.algorithm, dataclasses.replace(cfg, **other), SPEC)
    with pytest.raises(UserError, match="low is 2 and high 1"):
        check_data("rainbow", rainbow.algorithm, dataclasses.replace(cfg, low=2.0, high=1.0), SPEC)


def test_it_acts_greedily_on_the_means_of_its_distributions():
    state, slow = start(CFG), Slow(CFG, start(CFG))
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    action = rainbow.act(CFG, SPEC, rainbow.actor(state), (), obs, jax.random.key(0), False)[0]
    np.testing.assert_array_equal(action, [np.argmax(slow.means(slow.q, row)) for row in obs])

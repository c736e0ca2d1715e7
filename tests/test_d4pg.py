"""D4PG against slow float64 loops written from Algorithm 1 of Barth-Maron et al. 2018, and its four parts."""

import dataclasses

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp

from polyak.algorithms import d4pg
from polyak.drivers.check import check_data
from polyak.errors import UserError
from polyak.interface import Box, Spec
from polyak.pytree import copy

SPEC = Spec(obs=Box((2,)), action=Box((2,), -3.0, 3.0))
B = 6
CFG = d4pg.Config(
    **{"hidden": (3,), "gamma": 0.9, "actor_lr": 2e-2, "critic_lr": 1e-2},
    **{"low": -1.5, "high": 2.0, "atoms": 5, "period": 2, "tau": 0.6},
)
ATOMS = np.linspace(CFG.low, CFG.high, CFG.atoms)


def start(cfg=CFG):
    """Targets that are not the online networks."""
    init = jax.jit(lambda key: d4pg.init(cfg, SPEC, key), compiler_options=QUICK)
    state, other = init(jax.random.key(0)), init(jax.random.key(1))
    return state.replace(actor_target=copy(other.actor), critic_target=copy(other.critic))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


class Slow:
    """Algorithm 1, one row after the other; both updates begin from the old weights."""

    def __init__(self, cfg, state):
        self.cfg, self.t, self.priority = cfg, 0, None
        for name in ("actor", "critic", "actor_target", "critic_target"):
            setattr(self, name, float64(getattr(state, name)))
        self.adams = Adam(cfg.actor_lr), Adam(cfg.critic_lr)

    def distance(self, out, target):
        """d(Y, Z), or the squared error."""
        if self.cfg.critic == "scalar":
            return (out[0] - target) ** 2
        p = softmax(out)
        return sum(y * (np.log(y) - np.log(q)) for y, q in zip(target, p, strict=True) if y > 0)

    def q(self, out):
        return out[0] if self.cfg.critic == "scalar" else softmax(out) @ ATOMS

    def update(self, batch, key):
        Y = []
        for i in range(B):
            gamma = 0.0 if batch.terminated[i] else self.cfg.gamma
            mu = np.tanh(mlp(self.actor_target, batch.next_obs[i]))
            out = mlp(self.critic_target, np.concatenate([batch.next_obs[i], mu]))
            if self.cfg.critic == "scalar":
                Y.append(batch.reward[i] + gamma * out[0])
            else:
                Y.append(oracles.categorical_backup(float(batch.reward[i]), gamma, softmax(out), ATOMS))

        def critic_loss(critic):
            outs = [mlp(critic, np.concatenate([batch.obs[i], batch.action[i]])) for i in range(B)]
            return (batch.weight * [self.distance(out, y) for out, y in zip(outs, Y, strict=True)]).mean()

        def actor_loss(actor):
            mu = [np.tanh(mlp(actor, batch.obs[i])) for i in range(B)]
            return -np.mean(
                [self.q(mlp(self.critic, np.concatenate([batch.obs[i], mu[i]]))) for i in range(B)]
            )

        outs = [mlp(self.critic, np.concatenate([batch.obs[i], batch.action[i]])) for i in range(B)]
        self.priority = [self.distance(out, y) for out, y in zip(outs, Y, strict=True)]
        actor_grads = finite_differences(actor_loss, self.actor)
        critic_grads = finite_differences(critic_loss, self.critic)
        self.actor = self.adams[0].step(self.actor, actor_grads)
        self.critic = self.adams[1].step(self.critic, critic_grads)
        self.t += 1
        if self.t % self.cfg.period == 0:
            self.actor_target = averaged(self.cfg.tau, self.actor, self.actor_target)
            self.critic_target = averaged(self.cfg.tau, self.critic, self.critic_target)


@pytest.mark.parametrize("critic", ["categorical", "scalar"])
def test_three_updates_are_those_of_algorithm_1(critic):
    cfg = dataclasses.replace(CFG, critic=critic)
    update = jax.jit(lambda *args: d4pg.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, cfg.gamma, seed) for seed in range(3)]
    slow = Slow(cfg, start(cfg))
    oracles.assert_follows(update, start(cfg), slow, batches)
    done, once = update(start(cfg), batches[0], jax.random.key(0)), Slow(cfg, start(cfg))
    once.update(batches[0], jax.random.key(0))
    want = np.sqrt(once.priority) if critic == "scalar" else once.priority
    np.testing.assert_allclose(done.priority, want, rtol=1e-3, atol=1e-5)


def test_all_four_parts_are_on_by_default_and_each_can_be_turned_off_by_itself():
    cfg = d4pg.Config()
    assert cfg.critic == "categorical"
    assert cfg.data.n_step == 5
    assert cfg.data.priority > 0
    assert cfg.data.correction == 1.0
    assert cfg.noise == "gaussian"
    for other in (
        {"critic": "scalar"},
        {"noise": "ou"},
        {"data": dataclasses.replace(cfg.data, n_step=1)},
        {"data": dataclasses.replace(cfg.data, priority=0.0)},
    ):
        check_data("d4pg", d4pg.algorithm, dataclasses.replace(cfg, **other), SPEC)
    with pytest.raises(UserError, match="low is 1 and high 1"):
        check_data("d4pg", d4pg.algorithm, dataclasses.replace(cfg, low=1.0, high=1.0), SPEC)


def test_exploration_is_gaussian_around_the_policy():
    cfg = dataclasses.replace(CFG, sigma=0.1)
    actor, obs = (start(cfg).actor, ()), np.zeros((5000, 2), np.float32)
    quiet = d4pg.act(cfg, SPEC, actor, (), obs, jax.random.key(0), False)[0]
    loud = d4pg.act(cfg, SPEC, actor, (), obs, jax.random.key(0), True)[0]
    np.testing.assert_allclose(quiet, np.tanh(mlp(actor[0], obs)), rtol=1e-5)
    np.testing.assert_allclose((loud - quiet).std(axis=0), 0.1, rtol=0.05)

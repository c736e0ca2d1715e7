"""QT-Opt against slow float64 loops written from eq. 1 and 3 of Kalashnikov et al. 2018."""

import dataclasses

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import Adam, averaged, finite_differences, float64, mlp

from polyak.algorithms import qt_opt
from polyak.interface import Box, Spec
from polyak.pytree import copy

SPEC = Spec(obs=Box((2,)), action=Box((2,), -3.0, 3.0))
B = 8
CFG = qt_opt.Config(hidden=(4,), gamma=0.9, tau=0.2, lr=1e-2, samples=16, elites=4)


def start(cfg=CFG):
    """Targets that are not the online networks."""
    init = jax.jit(lambda key: qt_opt.init(cfg, SPEC, key), compiler_options=QUICK)
    return init(jax.random.key(0)).replace(critics_target=copy(init(jax.random.key(1)).critics))


def q_of(critics, member, obs, action):
    return mlp(critics.member, np.concatenate([obs, action]), member=member)[0]


class Slow:
    """One step of descent after another; the best next action is found as the file finds it, in other tests."""

    def __init__(self, cfg, state):
        self.cfg, self.adam = cfg, Adam(cfg.lr)
        self.critics, self.critics_target = float64(state.critics), float64(state.critics_target)
        self.exact = state  # in float32, for the search

    def update(self, batch, key):
        target = jax.tree.map(np.float32, self.critics_target)
        best = np.asarray(qt_opt.best_action(self.cfg, SPEC, target, batch.next_obs, key), float)
        y = np.zeros(B)
        for i in range(B):
            q = min(q_of(self.critics_target, m, batch.next_obs[i], best[i]) for m in range(2))
            y[i] = batch.reward[i] + (0.0 if batch.terminated[i] else self.cfg.gamma * q)

        def loss(critics):
            errors = [
                [q_of(critics, m, batch.obs[i], batch.action[i]) - y[i] for i in range(B)] for m in range(2)
            ]
            return (batch.weight * np.square(errors)).mean(axis=1).sum()

        self.critics = self.adam.step(self.critics, finite_differences(loss, self.critics))
        self.critics_target = averaged(self.cfg.tau, self.critics, self.critics_target)


@pytest.mark.parametrize("maximizer", ["cross_entropy", "gradient"])
def test_three_updates_are_those_of_equations_1_and_3(maximizer):
    cfg = dataclasses.replace(CFG, maximizer=maximizer)
    update = jax.jit(lambda *args: qt_opt.update(cfg, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.make_batch(2, SPEC.action, B, cfg.gamma, seed) for seed in range(3)]
    oracles.assert_follows(update, start(cfg), Slow(cfg, start(cfg)), batches, atol=1e-3)


@pytest.mark.parametrize(
    ("maximizer", "settings", "states"),
    [
        ("cross_entropy", {"iterations": 8, "samples": 256, "elites": 16}, 20),
        (
            "gradient",
            {"iterations": 20, "samples": 64, "ascent": 0.3},
            18,
        ),  # on a plateau it has nowhere to go
    ],
)
def test_the_best_action_is_that_of_a_dense_grid_in_so_many_of_twenty_states(maximizer, settings, states):
    cfg = dataclasses.replace(CFG, maximizer=maximizer, **settings)
    critics = start(cfg).critics
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    found = np.asarray(qt_opt.best_action(cfg, SPEC, critics, obs, jax.random.key(3)))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 101)] * 2), axis=-1).reshape(-1, 2).astype(np.float32)
    near = 0
    for i in range(20):
        values = mlp(
            critics.member, np.concatenate([np.tile(obs[i], (len(grid), 1)), grid], axis=1), member=0
        )[:, 0]
        near += values.max() - q_of(critics, 0, obs[i], found[i]) <= 0.01 * np.ptp(values) + 1e-6
    assert near >= states


def test_a_share_of_the_actions_is_uniform_and_the_rest_is_near_the_best():
    cfg = dataclasses.replace(CFG, epsilon=0.3, sigma=0.01, iterations=4, samples=64)
    obs = np.zeros((2000, 2), np.float32)
    best = qt_opt.act(cfg, SPEC, start(cfg).critics, (), obs[:1], jax.random.key(0), False)[0]
    action = qt_opt.act(cfg, SPEC, start(cfg).critics, (), obs, jax.random.key(0), True)[0]
    near = (np.abs(np.asarray(action) - best) < 0.15).all(axis=1).mean()
    assert 0.66 < near < 0.76

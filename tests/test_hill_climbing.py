"""Hill climbing against a slow loop of Russell & Norvig's figure 4.2."""

import jax
import numpy as np
import oracles
from auditing import QUICK

from polyak.algorithms import hill_climbing
from polyak.interface import Box, Discrete, OnPolicy, Spec

N = 2
CFG = hill_climbing.Config(hidden=(3,), gamma=0.9, population=6, sigma=0.3, data=OnPolicy(episodes=3))
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)


class Slow:
    """current <- the best of some neighbours, where that is better."""

    def __init__(self, state):
        self.params, self.noise = np.asarray(state.params, float), state.noise
        self.moves = []

    def update(self, batch, key):
        value = oracles.member_returns(CFG, batch)
        points = [self.params]
        for number in range(1, CFG.population):
            points.append(self.params + CFG.sigma * oracles.gaussian(self.noise, number, len(self.params)))
        best = max(range(1, CFG.population), key=lambda number: value[number])
        self.moves.append(value[best] > value[0])
        if self.moves[-1]:
            self.params = points[best]
        self.noise = jax.random.key_data(key)


def test_its_updates_are_those_of_the_figure():
    state = jax.jit(lambda key: hill_climbing.init(CFG, SPEC, key))(jax.random.key(0))
    update = jax.jit(lambda *args: hill_climbing.update(CFG, SPEC, *args), compiler_options=QUICK)
    slow = Slow(state)
    oracles.assert_follows(
        update, state, slow, [oracles.generation(CFG, N, rollout) for rollout in range(12)], atol=1e-5
    )
    assert set(slow.moves) == {True, False}


def test_candidate_0_is_the_current_policy():
    state = hill_climbing.init(CFG, SPEC, jax.random.key(0))
    actor = hill_climbing.actor(state)
    np.testing.assert_array_equal(hill_climbing.candidate(CFG, actor, 0), state.params)
    assert (hill_climbing.candidate(CFG, actor, 1) != hill_climbing.candidate(CFG, actor, 2)).all()


def test_equal_returns_do_not_move_it():
    state = hill_climbing.init(CFG, SPEC, jax.random.key(0))
    batch = oracles.generation(CFG, N)
    batch = batch._replace(reward=np.zeros_like(batch.reward))
    after = hill_climbing.update(CFG, SPEC, state, batch, jax.random.key(1))
    np.testing.assert_array_equal(after.state.params, state.params)
    assert after.metrics["climbed"] == 0

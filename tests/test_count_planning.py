"""Planning with counts against float64 loops over dictionaries of what was seen."""

import jax
import numpy as np
import oracles
from auditing import QUICK

import polyak
from polyak.algorithms import count_planning
from polyak.interface import Batch, Discrete, Spec

S, A = 5, 3
SPEC = Spec(obs=Discrete(S), action=Discrete(A))
CFG = count_planning.Config(gamma=0.8, enough=2, max_reward=1.5, sweeps=3)


def batch(seed, T=6, N=4):
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.integers(S, size=(2, T, N), dtype=np.int32)
    ends = rng.choice(3, size=(T, N), p=[0.6, 0.2, 0.2])
    action = rng.integers(A, size=(T, N), dtype=np.int32)
    reward = rng.normal(size=(T, N)).astype(np.float32)
    discount = np.where(ends == 1, 0, CFG.gamma).astype(np.float32)
    return Batch(obs, action, reward, next_obs, ends == 1, ends == 2, (), discount, np.ones_like(reward))


class Slow:
    """Lists of what was seen, and value iteration over them pair by pair."""

    def __init__(self):
        self.visits = np.zeros((S, A))
        self.rows, self.q = [], np.full((S, A), CFG.max_reward / (1 - CFG.gamma))

    def update(self, batch, key):
        for place in np.ndindex(batch.reward.shape):
            s, a, after = (int(x[place]) for x in (batch.obs, batch.action, batch.next_obs))
            self.visits[s, a] += 1
            self.rows.append((s, a, float(batch.reward[place]), None if batch.terminated[place] else after))
        for _ in range(CFG.sweeps):
            swept = np.empty_like(self.q)
            for s, a in np.ndindex(S, A):
                seen = [row for row in self.rows if row[:2] == (s, a)]
                futures = [0.0 if row[3] is None else max(self.q[row[3]]) for row in seen]
                known = len(seen) >= CFG.enough
                swept[s, a] = CFG.max_reward / (1 - CFG.gamma)
                if known:
                    swept[s, a] = np.mean([row[2] for row in seen]) + CFG.gamma * np.mean(futures)
            self.q = swept


def test_three_updates_are_those_of_value_iteration_over_lists_of_what_was_seen():
    update = jax.jit(lambda *args: count_planning.update(CFG, SPEC, *args), compiler_options=QUICK)
    start = count_planning.init(CFG, SPEC, jax.random.key(0))
    oracles.assert_follows(update, start, Slow(), [batch(seed) for seed in range(3)])


def test_what_was_not_seen_often_enough_is_worth_the_most_that_there_is():
    start = count_planning.init(CFG, SPEC, jax.random.key(0))
    state = count_planning.update(CFG, SPEC, start, batch(0, 2, 3), jax.random.key(0)).state
    seen_less = np.asarray(state.visits) < CFG.enough
    assert seen_less.any()
    assert (~seen_less).any() or np.asarray(state.visits).max() < 2
    np.testing.assert_allclose(np.asarray(state.q)[seen_less], 1.5 / 0.2, rtol=1e-6)


def test_the_model_is_the_share_of_what_was_seen():
    state = count_planning.init(CFG, SPEC, jax.random.key(0))
    rows = batch(3, 40, 4)
    state = count_planning.update(CFG, SPEC, state, rows, jax.random.key(0)).state
    transition, reward = count_planning.model(CFG, state)
    for s, a in np.ndindex(S, A):
        here = (rows.obs == s) & (rows.action == a)
        share = [
            (here & ~rows.terminated & (rows.next_obs == after)).sum() / here.sum() for after in range(S)
        ]
        np.testing.assert_allclose(transition[s, a], share, rtol=1e-5)
        np.testing.assert_allclose(reward[s, a], rows.reward[here].mean(), rtol=1e-4, atol=1e-5)


def test_the_dyna_maze_is_solved_in_a_thousand_steps(tmp_path):
    """Without one random action: optimism alone leads to every cell."""
    run = polyak.train(
        "count_planning", "jax:DynaMaze-v0", steps=1000, eval_every=0, out=str(tmp_path), verbose=False
    )
    assert run.evaluate(episodes=1, limit=50).summary()["mean_length"] == 14

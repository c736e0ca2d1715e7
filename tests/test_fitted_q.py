"""Fitted Q-iteration against slow float64 loops written from figure 1 of Ernst, Geurts & Wehenkel 2005."""

import functools

import jax
import numpy as np
import oracles
from auditing import QUICK
from oracles import Adam, float64, mlp, mlp_gradient

from polyak.algorithms import fitted_q
from polyak.interface import Box, Discrete, OnPolicy, Spec

T, N = 4, 2
CFG = fitted_q.Config(
    hidden=(4,), gamma=0.8, lr=0.02, lr_end=0.4, iterations=3, regression=2, data=OnPolicy(steps=T)
)
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)


@functools.cache
def start():
    state, rng = fitted_q.init(CFG, SPEC, jax.random.key(0)), np.random.default_rng(0)
    move = lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype)  # noqa: E731
    return state.replace(q=jax.tree.map(move, state.q))


class Slow:
    """Targets from the last regression, which stand still while the next one takes its steps."""

    def __init__(self, cfg, state):
        self.cfg, self.q, self.adam = cfg, float64(state.q), Adam(cfg.lr)
        self.clock = state.clock

    def update(self, batch, key):
        x, after = batch.obs.reshape(-1, 2), batch.next_obs.reshape(-1, 2)
        action, reward, end = batch.action.ravel(), batch.reward.ravel(), batch.terminated.ravel()
        for _ in range(self.cfg.iterations):
            targets = [
                float(r) + (0.0 if e else self.cfg.gamma * mlp(self.q, o).max())
                for o, r, e in zip(after, reward, end, strict=True)
            ]
            for step in range(self.cfg.regression):
                # a line from lr to its last share, which it would have after the last step
                self.adam.lr = self.cfg.lr * (1 + (self.cfg.lr_end - 1) * step / self.cfg.regression)
                slope = np.zeros((len(x), 3))
                for i, (obs, a, target) in enumerate(zip(x, action, targets, strict=True)):
                    slope[i, a] = (mlp(self.q, obs)[a] - target) / len(x)
                layers = [array for pair in mlp_gradient(self.q, x, slope)[0] for array in pair]
                self.q = self.adam.step(self.q, jax.tree.unflatten(jax.tree.structure(self.q), layers))
        self.clock = self.clock._replace(updates=self.clock.updates + 1)


def test_three_batches_teach_what_the_figure_says():
    state = start()
    update = jax.jit(lambda *args: fitted_q.update(CFG, SPEC, *args), compiler_options=QUICK)
    batches = [oracles.as_batch(oracles.rows(2, SPEC.action, (T, N), seed), CFG.gamma) for seed in range(3)]
    oracles.assert_follows(update, state, Slow(CFG, state), batches)


def test_a_minibatch_draws_its_rows_anew_in_each_step_and_a_large_one_ends_at_the_same_table():
    """Two cells and two actions, as below; eight rows of four a step."""
    cfg = fitted_q.Config(gamma=0.5, lr=0.02, iterations=60, regression=100, network="linear", minibatch=8)
    spec, batch = Spec(Discrete(2), Discrete(2), num_envs=1), two_cells(cfg)
    state = fitted_q.init(cfg, spec, jax.random.key(0))
    update = jax.jit(lambda *args: fitted_q.update(cfg, spec, *args), compiler_options=QUICK)
    one, other = (update(state, batch, jax.random.key(seed)).state.q.weight for seed in range(2))
    np.testing.assert_allclose(one, [[3, 0], [4, 0]], atol=0.02)
    assert (np.asarray(one) != np.asarray(other)).any()


def two_cells(cfg):
    """0 -> 1 for 1, 1 -> 1 for 2; the other actions end the world for nothing."""
    column = lambda values, kind: np.array(values, kind)[:, None]  # noqa: E731
    end = column([0, 0, 1, 1], bool)
    rows = oracles.rows(1, Discrete(2), (4, 1))._replace(
        obs=column([0, 1, 0, 1], np.int32),
        action=column([0, 0, 1, 1], np.int32),
        reward=column([1, 2, 0, 0], np.float32),
        next_obs=column([1, 1, 0, 0], np.int32),
        terminated=end,
        truncated=np.zeros_like(end),
    )
    return oracles.as_batch(rows, cfg.gamma)


def test_a_table_ends_at_the_values_of_the_batch():
    """By hand, from the two cells."""
    cfg = fitted_q.Config(gamma=0.5, lr=0.05, iterations=60, regression=40, network="linear")
    spec = Spec(Discrete(2), Discrete(2), num_envs=1)
    state = fitted_q.init(cfg, spec, jax.random.key(0))
    done = jax.jit(lambda *args: fitted_q.update(cfg, spec, *args), compiler_options=QUICK)(
        state, two_cells(cfg), jax.random.key(0)
    )
    np.testing.assert_allclose(done.state.q.weight, [[3, 0], [4, 0]], atol=0.02)  # 2 / (1 - 1/2), 1 + 4 / 2
    assert done.metrics["change"] < 0.02


def test_a_batch_is_collected_at_random_and_an_evaluation_is_greedy():
    state, obs = start(), np.ones((3000, 2), np.float32)
    best = int(np.argmax(mlp(state.q, obs[0])))
    explore = fitted_q.act(CFG, SPEC, state.q, (), obs, jax.random.key(0), True)[0]
    greedy = fitted_q.act(CFG, SPEC, state.q, (), obs, jax.random.key(0), False)[0]
    np.testing.assert_allclose(np.bincount(explore, minlength=3) / 3000, 1 / 3, atol=0.03)
    assert (np.asarray(greedy) == best).all()

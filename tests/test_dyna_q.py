"""Dyna-Q against a slow float64 loop written from the box of Sutton & Barto 2018, section 8.2."""

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK

from polyak.algorithms import dyna_q
from polyak.interface import Batch, Discrete, Spec

S, A = 6, 3
SPEC = Spec(obs=Discrete(S), action=Discrete(A))


class Slow:
    """The box, line by line. Draws are the algorithm's own: uniform, from the same keys, by counting."""

    def __init__(self, cfg):
        self.cfg, self.q, self.steps = cfg, np.zeros((S, A)), 0
        self.model = {}  # (s, a) -> reward, discount, s'
        self.when = {}

    def learn(self, s, a, reward, discount, after):
        self.q[s, a] += self.cfg.lr * (reward + discount * max(self.q[after]) - self.q[s, a])

    def update(self, batch, key):
        T, N = batch.reward.shape
        rows = [(t, n) for t in range(T) for n in range(N)]
        for number, place in enumerate(rows):
            key_row = jax.random.fold_in(key, number)
            s, a = int(batch.obs[place]), int(batch.action[place])
            ended = bool(batch.terminated[place])
            after = s if ended else int(batch.next_obs[place])
            outcome = float(batch.reward[place]), 0.0 if ended else self.cfg.gamma, after
            self.learn(s, a, *outcome)
            self.steps += 1
            self.model[s, a], self.when[s, a] = outcome, self.steps
            for turn in range(self.cfg.planning):
                key_state, key_action = jax.random.split(jax.random.fold_in(key_row, turn))
                seen = sorted({s for s, _ in self.model})
                s = seen[int(jax.random.randint(key_state, (), 1, len(seen) + 1)) - 1]
                tried = [b for b in range(A) if self.cfg.kappa or (s, b) in self.model]
                a = tried[int(jax.random.randint(key_action, (), 1, len(tried) + 1)) - 1]
                reward, discount, after = self.model.get((s, a), (0.0, self.cfg.gamma, s))
                bonus = self.cfg.kappa * np.sqrt(self.steps - self.when.get((s, a), 0))
                self.learn(s, a, reward + bonus, discount, after)

    @property
    def tried(self):
        return np.array([[self.when.get((s, a), 0) for a in range(A)] for s in range(S)])


def batches(count, T, N):
    """Rows of a deterministic world but for the rewards, with both kinds of ends."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        obs, next_obs = rng.integers(S, size=(2, T, N), dtype=np.int32)
        ends = rng.choice(3, size=(T, N), p=[0.6, 0.2, 0.2])
        action = rng.integers(A, size=(T, N), dtype=np.int32)
        reward = rng.normal(size=(T, N)).astype(np.float32)
        discount = np.where(ends == 1, 0, 0.9).astype(np.float32)
        made.append(
            Batch(obs, action, reward, next_obs, ends == 1, ends == 2, (), discount, np.ones_like(reward))
        )
    return made


@pytest.mark.parametrize(
    "cfg",
    [
        dyna_q.Config(gamma=0.9, lr=0.3, planning=0),
        dyna_q.Config(gamma=0.9, lr=0.3, planning=4),
        dyna_q.Config(gamma=0.9, lr=0.3, planning=4, kappa=0.1),
    ],
    ids=["n = 0", "n = 4", "Dyna-Q+"],
)
def test_several_updates_are_those_of_the_box(cfg):
    update = jax.jit(lambda *args: dyna_q.update(cfg, SPEC, *args), compiler_options=QUICK)
    slow, seen = Slow(cfg), []
    state = dyna_q.init(cfg, SPEC, jax.random.key(0))
    for number, batch in enumerate(batches(4, 3, 2)):
        known = dict(slow.model)
        done = update(state, batch, jax.random.key(number))
        state = done.state
        slow.update(batch, jax.random.key(number))
        np.testing.assert_allclose(state.q, slow.q, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(state.tried, slow.tried)
        assert int(state.steps) == slow.steps
        assert done.metrics["known"] == np.float32(len(slow.model) / (S * A))
        seen.append(len(slow.model) - len(known))
    assert seen[0] > 1


def test_the_whole_update_follows_the_box():
    cfg = dyna_q.Config(gamma=0.9, lr=0.3, planning=2, kappa=0.05)
    update = jax.jit(lambda *args: dyna_q.update(cfg, SPEC, *args), compiler_options=QUICK)
    oracles.assert_follows(update, dyna_q.init(cfg, SPEC, jax.random.key(0)), Slow(cfg), batches(3, 1, 1))


def test_a_world_that_is_not_deterministic_is_said():
    cfg = dyna_q.Config(planning=0)
    state = dyna_q.init(cfg, SPEC, jax.random.key(0))
    batch = batches(1, 1, 1)[0]
    said = []
    for reward in (1.0, 1.0, 2.0, 1.0):
        row = batch._replace(reward=np.full((1, 1), reward, np.float32))
        done = dyna_q.update(cfg, SPEC, state, row, jax.random.key(0))
        state = done.state
        said.append(float(done.metrics["surprise"]))
    assert said == [0.0, 0.0, 1.0, 1.0]


def test_equal_actions_are_drawn_alike_and_the_best_is_taken_without_exploring():
    cfg = dyna_q.Config(epsilon=0.3)
    obs = np.zeros(6000, np.int32)
    q = np.zeros((S, A), np.float32)
    q[0] = [1, 0, 1]
    action = dyna_q.act(cfg, SPEC, q, (), obs, jax.random.key(0), True)[0]
    share = np.bincount(action, minlength=A) / len(obs)
    np.testing.assert_allclose(share, [0.45, 0.1, 0.45], atol=0.02)  # 0.35 + 0.1, 0.1, 0.35 + 0.1
    assert (dyna_q.act(cfg, SPEC, q, (), obs, jax.random.key(0), False)[0] == 0).all()


def test_a_draw_is_uniform_over_what_is_marked():
    mask = np.array([False, True, False, True, True, False])
    drawn = jax.vmap(lambda key: dyna_q.draw(key, mask))(jax.random.split(jax.random.key(0), 6000))
    share = np.bincount(drawn, minlength=6) / 6000
    np.testing.assert_allclose(share, mask / 3, atol=0.02)

"""Asynchronous Q-learning and SARSA against slow float64 loops of Algorithms 1 and S2 of Mnih et al. 2016."""

import dataclasses
import functools

import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK
from oracles import float64, mlp, mlp_gradient

from polyak.algorithms import async_q, q_learning
from polyak.drivers.asynchronous import in_step, out_of_step
from polyak.interface import Box, Discrete, Spec

T, N = 4, 3
CFG = async_q.Config(
    **{"hidden": (4,), "gamma": 0.8, "lr": 0.02, "lr_end": 0.5, "horizon": 100, "decay": 0.8, "eps": 1e-3},
    **{"period": 2, "epsilon_ends": (0.3,), "chances": ()},
)
SPEC = Spec(Box((2,)), Discrete(3), num_envs=N)
METHODS = ["n_step_q", "one_step_q", "one_step_sarsa"]


@functools.cache
def start():
    """Networks that are not small, and a target that is another."""
    state, rng = async_q.init(CFG, SPEC, jax.random.key(0)), np.random.default_rng(0)
    move = lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype)  # noqa: E731
    return state.replace(q=jax.tree.map(move, state.q), q_target=jax.tree.map(move, state.q_target))


def make_batch(seed, epsilon=0.0):
    """A segment; with epsilon 0 a drawn action is the greedy one."""
    rows = oracles.rows(2, SPEC.action, (T, N), seed)
    rows = rows._replace(extras={"epsilon": np.full((T, N), epsilon, np.float32)})
    return oracles.as_batch(rows, CFG.gamma)


class Slow:
    """One thread, row by row; the target network is copied after every second update."""

    def __init__(self, cfg, state):
        self.cfg, self.q, self.q_target = cfg, float64(state.q), float64(state.q_target)
        self.g, self.updates, self.env_steps = (
            jax.tree.map(np.zeros_like, self.q),
            0,
            int(state.clock.env_steps),
        )

    def y(self, batch, t, i):
        """What Q(s_t, a_t) moves to."""
        if batch.terminated[t, i]:
            return batch.reward[t, i]
        ends = t == T - 1 or batch.truncated[t, i]
        after = mlp(self.q_target, batch.next_obs[t, i])
        if self.cfg.method == "n_step_q":
            R = after.max() if ends else self.y(batch, t + 1, i)
        elif self.cfg.method == "one_step_sarsa":
            R = after[mlp(self.q, batch.next_obs[t, i]).argmax() if ends else batch.action[t + 1, i]]
        else:
            R = after.max()
        return batch.reward[t, i] + self.cfg.gamma * R

    def update(self, batch, key):
        slope = np.zeros((T, N, 3))
        for t, i in np.ndindex(T, N):
            a = batch.action[t, i]
            slope[t, i, a] = (mlp(self.q, batch.obs[t, i])[a] - self.y(batch, t, i)) / (T * N)
        d = mlp_gradient(self.q, batch.obs.reshape(-1, 2), slope.reshape(-1, 3))[0]
        d = oracles.unflat(self.q, oracles.flat(d))
        self.g = jax.tree.map(lambda g, d: self.cfg.decay * g + (1 - self.cfg.decay) * d**2, self.g, d)
        lr = self.cfg.lr * oracles.linear_schedule(self.env_steps, 1.0, self.cfg.lr_end, self.cfg.horizon)
        self.q = jax.tree.map(lambda q, g, d: q - lr * d / np.sqrt(g + self.cfg.eps), self.q, self.g, d)
        self.updates += 1
        if self.updates % self.cfg.period == 0:
            self.q_target = self.q


@pytest.mark.parametrize("method", METHODS)
def test_four_updates_are_those_of_the_paper(method):
    cfg, state = dataclasses.replace(CFG, method=method), start()
    state = state.replace(clock=state.clock.at(50))
    update = jax.jit(lambda *args: async_q.update(cfg, SPEC, *args), compiler_options=QUICK)
    oracles.assert_follows(update, state, Slow(cfg, state), [make_batch(seed) for seed in range(4)])


def test_one_step_methods_look_one_step_ahead_and_n_step_to_the_end():
    """By hand: with all values 0 and a reward of 1 in the last row only, one row learns of it, or all do."""
    zero = jax.tree.map(np.zeros_like, start().q)
    state = start().replace(q=zero, q_target=zero)
    batch = make_batch(0)
    never = np.zeros((T, N), bool)
    reward = np.zeros((T, N), np.float32)
    reward[-1] = 1
    batch = batch._replace(
        reward=reward, terminated=never, truncated=never, discount=np.full((T, N), 0.5, np.float32)
    )
    for method, want in (("one_step_q", [0, 0, 0, 1]), ("n_step_q", [0.125, 0.25, 0.5, 1])):
        cfg = dataclasses.replace(CFG, method=method)
        metrics = async_q.update(cfg, SPEC, state, batch, jax.random.key(0)).metrics
        np.testing.assert_allclose(metrics["loss"], 0.5 * np.mean(np.square(want)), rtol=1e-6)


def test_sarsa_draws_the_action_that_is_not_taken_before_the_update():
    """Of a segment's last row: with epsilon 1 each action as often, so that the target is their mean value."""
    cfg = dataclasses.replace(CFG, method="one_step_sarsa")
    spec, state = dataclasses.replace(SPEC, num_envs=4000), start()
    one = jax.tree.map(lambda x: np.repeat(x[:1, :1], 4000, axis=1), make_batch(0, 1.0))
    one = one._replace(terminated=one.terminated & False, truncated=one.truncated & False)
    one = one._replace(discount=np.full((1, 4000), 0.8, np.float32))
    loss = async_q.gradient(cfg, spec, async_q.actor(state), one, jax.random.key(0))[1]["loss"]
    after = mlp(state.q_target, one.next_obs[0, 0])
    q = mlp(state.q, one.obs[0, 0])[one.action[0, 0]]
    np.testing.assert_allclose(loss, 0.5 * np.mean((one.reward[0, 0] + 0.8 * after - q) ** 2), rtol=0.05)


def test_a_worker_alone_without_a_target_network_is_q_learning():
    """Copied after every update the target is Q itself, and the order of events is that of the other file."""
    same = {"hidden": (4,), "lr": 0.02, "horizon": 100}
    cfg = async_q.Config(**same, method="one_step_q", rule="adam", eps=1e-8, lr_end=1.0, period=1)
    mine = async_q.init(cfg, SPEC, jax.random.key(1))
    other = q_learning.init(q_learning.Config(**same), SPEC, jax.random.key(1))
    update = jax.jit(lambda *args: async_q.update(cfg, SPEC, *args).state)
    want = jax.jit(lambda *args: q_learning.update(q_learning.Config(**same), SPEC, *args).state)
    for seed in range(3):
        mine = update(mine, make_batch(seed), jax.random.key(seed))
        other = want(other, make_batch(seed), jax.random.key(seed))
        for a, b in zip(jax.tree.leaves(mine.q), jax.tree.leaves(other.q), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_q_learning_with_one_worker_is_q_learning_bit_for_bit(num_envs):
    """C3 with k = 1 is C1: one that waits for nobody, and one that waits for itself."""
    cfg, spec = q_learning.Config(hidden=(4,), horizon=100), dataclasses.replace(SPEC, num_envs=num_envs)
    ends = []
    for made in (
        q_learning.algorithm,
        in_step(q_learning.algorithm, 1),
        out_of_step(q_learning.algorithm, 1),
    ):
        state = made.init(cfg, spec, jax.random.key(0))
        update = jax.jit(lambda *args, made=made: made.update(cfg, spec, *args).state)
        for seed in range(3):
            rows = oracles.rows(2, SPEC.action, (3, num_envs), seed)
            state = update(state, oracles.as_batch(rows, cfg.gamma), jax.random.key(seed))
        ends.append([x.tobytes() for x in jax.tree.leaves(getattr(state, "newest", state))])
    assert ends[1] == ends[0]
    assert ends[2] == ends[0]


def test_each_thread_has_an_epsilon_of_its_own_which_falls_to_it():
    spec = dataclasses.replace(SPEC, num_envs=5)
    cfg = dataclasses.replace(CFG, epsilon_ends=(0.1, 0.01, 0.5), chances=(), epsilon_fraction=0.5)
    ids = np.arange(5)
    own = async_q.memory(cfg, spec, ids, ids, jax.random.key(0))
    np.testing.assert_allclose(own, [0.1, 0.01, 0.5, 0.1, 0.01])
    state, obs = start(), np.ones((5, 2), np.float32)
    for steps, want in ((0, np.ones(5)), (25, (1 + own) / 2), (50, own), (99, own)):
        actor = async_q.Actor(state.q, state.q_target, state.clock.at(steps))
        extras = async_q.act(cfg, spec, actor, own, obs, jax.random.key(1), True)[2]
        np.testing.assert_allclose(extras["epsilon"], want, rtol=1e-6)
    drawn = dataclasses.replace(cfg, chances=(0.4, 0.3, 0.3))
    many = np.asarray(async_q.memory(drawn, spec, np.arange(20_000), ids, jax.random.key(2)))
    shares = [np.isclose(many, end).mean() for end in (0.1, 0.01, 0.5)]
    np.testing.assert_allclose(shares, (0.4, 0.3, 0.3), atol=0.02)


def test_epsilons_and_chances_that_do_not_fit_are_said():
    assert async_q.wrong(CFG, SPEC) == []
    assert async_q.wrong(async_q.Config(), SPEC) == []
    for said in ({"chances": (0.5, 0.5)}, {"chances": (0.5, 0.5, 0.5)}, {"epsilon_ends": (), "chances": ()}):
        assert len(async_q.wrong(dataclasses.replace(async_q.Config(), **said), SPEC)) == 1

"""MuZero against slow float64 loops written from Schrittwieser et al. 2020: targets, update, search."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Adam, finite_differences, float64, mlp

from polyak.algorithms import muzero
from polyak.drivers.check import check_data
from polyak.errors import UserError
from polyak.interface import Batch, Box, Discrete, Replay, Spec, Transition
from polyak.parts import replay, search
from polyak.parts.networks.latent import compressed, expanded
from polyak.parts.unrolled import targets

A, B = 3, 4
SPEC = Spec(obs=Box((2,)), action=Discrete(A))
GAME = Spec(obs={"board": Box((2,)), "legal": Box((A,))}, action=Discrete(A), players=2)


def config(unroll=2, n=2, **values):
    data = Replay(capacity=100, batch_size=B, warmup=40, length=unroll + n + 1, uniform=False, self_play=True)
    small = {"hidden": (3,), "width": 3, "low": -1.0, "high": 1.5, "atoms": 4, "gamma": 0.9, "lr": 1e-2}
    return muzero.Config(**{**small, "unroll": unroll, "decay": 1e-2, "data": data, **values})


@functools.cache
def start(cfg, board=False):
    """A state whose parameters are all far from 0, so that each has a slope."""
    init = jax.jit(lambda key: muzero.init(cfg, GAME if board else SPEC, key), compiler_options=QUICK)
    state, rng = init(jax.random.key(0)), np.random.default_rng(0)
    model = jax.tree.map(lambda x: jnp.asarray(rng.normal(scale=0.7, size=x.shape), x.dtype), state.model)
    return state.replace(model=model)


# ---- targets


def slow_targets(rows, first, cfg, gamma, cut):
    """pi, z and u of states k = 0 .. K, None where nothing is to be learned; walks along `rows` one by one."""
    found, place, last_reward = [], "inside", None
    for k in range(cfg.unroll + 1):
        t = first + k
        policy = value = None
        if place == "inside":
            value, factor, policy = 0.0, 1.0, rows[t]["policy"]
            for i in range(cfg.n_step):
                row = rows[t + i]
                value += factor * row["reward"]
                if row["end"] == "over":
                    break
                factor *= gamma
                if row["end"] == "limit":
                    value += factor * cut
                    break
            else:
                value += factor * rows[t + cfg.n_step]["value"]
        elif place == "over":
            value = 0.0
        found.append((policy, value, last_reward))
        last_reward = {"inside": rows[t]["reward"], "over": 0.0, "unknown": None}[place]
        if place == "inside" and rows[t]["end"]:
            place = {"over": "over", "limit": "unknown"}[rows[t]["end"]]
    return found


def assert_targets(got, b, want):
    for k, (policy, value, reward) in enumerate(want):
        for has, target, wanted in (
            (got.has_policy, got.policy, policy),
            (got.has_value, got.value, value),
            (got.has_reward, got.reward, reward),
        ):
            assert has[b, k] == (wanted is not None)
            if wanted is not None:
                np.testing.assert_allclose(target[b, k], wanted, rtol=1e-5, atol=1e-5)


def drawn_rows(rng, pattern):
    """Rows of a history, one for each letter: a step, the end of the world, a time limit."""
    words = {"s": None, "o": "over", "l": "limit"}
    return [
        {"reward": rng.normal(), "value": rng.normal(), "policy": rng.dirichlet(np.ones(A)), "end": words[x]}
        for x in pattern
    ]


def as_sequences(histories, gamma):
    """The same rows as a batch [B, L]."""

    def of(name):
        return np.array([[row[name] for row in rows] for rows in histories], np.float32)

    over, limit = (np.array([[r["end"] == w for r in rows] for rows in histories]) for w in ("over", "limit"))
    discount = np.where(over, 0, gamma).astype(np.float32)
    lead = over.shape
    obs, zero = np.zeros((*lead, 2), np.float32), np.zeros(lead, np.int32)
    extras = {"policy": of("policy"), "value": of("value")}
    return Batch(obs, zero, of("reward"), obs, over, limit, extras, discount, np.ones(lead, np.float32))


@functools.cache
def fast_targets(cfg):
    return jax.jit(lambda batch, cut: targets(batch, cfg.unroll, cfg.n_step, cut), compiler_options=QUICK)


SHAPES = [(1, 1), (2, 3), (3, 6)]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    gamma=st.sampled_from([1.0, 0.9, -1.0, -0.9]),
    seed=st.integers(0, 2**20),
    data=st.data(),
)
def test_targets_are_those_of_a_loop_over_any_pattern_of_ends(shape, gamma, seed, data):
    cfg, rng = config(*shape), np.random.default_rng(seed)
    length = cfg.data.length
    letters = st.lists(st.sampled_from("ssssol"), min_size=length, max_size=length)
    histories = [drawn_rows(rng, data.draw(letters)) for _ in range(B)]
    cut = rng.normal(size=B).astype(np.float32)
    got = jax.tree.map(np.asarray, fast_targets(cfg)(as_sequences(histories, gamma), cut))
    for b in range(B):
        assert_targets(got, b, slow_targets(histories[b], 0, cfg, gamma, cut[b]))


def test_targets_of_a_game_that_is_won_inside_the_unroll_worked_by_hand():
    """o moves, x moves and wins: z = -1, 1, and past the end 0; nothing of the next game is learned from."""
    cfg = config(unroll=3, n=3)
    rows = drawn_rows(np.random.default_rng(0), "sossoss")
    for row, reward in zip(rows, (0, 1, 0, 0, 1, 0, 0), strict=True):
        row["reward"] = reward
    got = fast_targets(cfg)(as_sequences([rows] * B, -1.0), np.zeros(B, np.float32))
    np.testing.assert_allclose(got.value[0], [-1, 1, 0, 0])
    np.testing.assert_allclose(got.reward[0], [0, 0, 1, 0])
    np.testing.assert_array_equal(got.has_policy[0], [1, 1, 0, 0])
    np.testing.assert_array_equal(got.has_value[0], [1, 1, 1, 1])
    np.testing.assert_array_equal(got.has_reward[0], [0, 1, 1, 1])


def test_targets_of_what_a_ring_gives_are_those_of_the_whole_history_also_where_the_ring_begins_again():
    cfg, rng, N, T, slots = config(unroll=2, n=3), np.random.default_rng(1), 2, 4, 12
    histories = [drawn_rows(rng, rng.choice(list("sssol"), size=28)) for _ in range(N)]
    ring, count = None, 16
    data = dataclasses.replace(cfg.data, batch_size=count)
    add = jax.jit(replay.add, compiler_options=QUICK)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def learned_from(ring, key):
        sample = replay.sample(ring, key, data, -0.9)
        return sample.obs[:, 0], targets(sample, cfg.unroll, cfg.n_step, jnp.full(count, 0.7))

    for first in range(0, 28, T):
        rows = [h[first : first + T] for h in histories]
        batch = jax.tree.map(lambda x: np.swapaxes(x, 0, 1), as_sequences(rows, 1.0))
        time, env = np.meshgrid(np.arange(first, first + T), np.arange(N), indexing="ij")
        obs = np.stack([time, env], axis=-1).astype(np.float32)
        rollout = Transition(
            obs, batch.action, batch.reward, obs, batch.terminated, batch.truncated, batch.extras
        )
        if ring is None:
            ring = replay.empty(jax.tree.map(lambda x: x[0], rollout), slots)
        ring = add(ring, rollout)
        if first + T < cfg.data.length:
            continue
        begun, got = jax.tree.map(np.asarray, learned_from(ring, jax.random.key(first)))
        for b in range(count):
            time, env = np.asarray(begun[b], int)
            assert max(0, first + T - slots) <= time <= first + T - cfg.data.length
            assert_targets(got, b, slow_targets(histories[env], time, cfg, -0.9, 0.7))


# ---- numbers on atoms


def test_h_and_its_inverse_are_those_of_appendix_f():
    x = np.array([-300.0, -2.5, -1e-3, 0.0, 0.3, 1.0, 200.0, 90_000.0])
    h = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x
    np.testing.assert_allclose(compressed(jnp.asarray(x, jnp.float32)), h, rtol=1e-6, atol=1e-7)
    back = np.sign(h) * (((np.sqrt(1 + 4 * 0.001 * (np.abs(h) + 1 + 0.001)) - 1) / (2 * 0.001)) ** 2 - 1)
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(expanded(jnp.asarray(h, jnp.float32)), x, rtol=1e-5, atol=1e-6)


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


class Slow:
    """The model and its loss, one state after another, in float64."""

    def __init__(self, cfg, spec, state):
        self.cfg, self.A = cfg, spec.action.n
        self.sign = -1 if spec.players == 2 else 1
        self.model, self.adam, self.clock = float64(state.model), Adam(cfg.lr), [0, 0, 0]
        self.atoms = np.linspace(cfg.low, cfg.high, cfg.atoms)
        if cfg.critic == "outcome":
            self.atoms = np.array([-1.0, 0.0, 1.0])

    def scaled(self, s):
        return (s - s.min()) / max(s.max() - s.min(), 1e-5)

    def represent(self, model, obs):
        return self.scaled(mlp(model.representation, obs))

    def imagine(self, model, s, a):
        out = mlp(model.dynamics, np.concatenate([s, np.eye(self.A)[int(a)]]))
        return self.scaled(out[: self.cfg.width]), out[self.cfg.width :]

    def predict(self, model, s):
        out = mlp(model.prediction, s)
        return out[: self.A], out[self.A :]

    def number(self, out):
        if self.cfg.critic == "scalar":
            return np.tanh(out[0])
        h = softmax(out) @ self.atoms
        if self.cfg.critic == "outcome":
            return h
        return np.sign(h) * (((np.sqrt(1 + 0.004 * (abs(h) + 1.001)) - 1) / 0.002) ** 2 - 1)

    def distance(self, target, out):
        if self.cfg.critic == "scalar":
            return (np.tanh(out[0]) - target) ** 2
        h = np.sign(target) * (np.sqrt(abs(target) + 1) - 1) + 0.001 * target
        h = target if self.cfg.critic == "outcome" else h
        place = np.eye(len(self.atoms))[0]
        two = oracles.categorical_backup(float(h), 0.0, place, self.atoms)
        return -(two * np.log(softmax(out))).sum()

    def path(self, model, obs, actions, frozen=None):
        """States s^0 .. s^K and the reward's head; each step reads half of a state that does not move."""
        states, rewards = [self.represent(model, obs)], [None]
        for k, a in enumerate(actions):
            s = states[-1] if frozen is None else 0.5 * states[-1] + 0.5 * frozen[k]
            s, reward = self.imagine(model, s, a)
            states.append(s)
            rewards.append(reward)
        return states, rewards

    def update(self, batch, key):
        self.clock[0] += 1
        cfg, K = self.cfg, self.cfg.unroll
        drawn = jax.random.randint(jax.random.split(key)[1], (B, K), 0, self.A, jnp.int32)
        todo = []
        for b in range(B):
            ends = np.flatnonzero(batch.terminated[b] | batch.truncated[b])
            end = ends[0] if len(ends) else 0
            beyond = self.represent(self.model, batch.next_obs[b, end])
            cut = self.number(self.predict(self.model, beyond)[1])
            word = {(True, False): "over", (False, True): "limit", (False, False): None}
            rows = [
                {
                    "reward": float(batch.reward[b, t]),
                    "value": float(batch.extras["value"][b, t]),
                    "policy": batch.extras["policy"][b, t],
                    "end": word[bool(batch.terminated[b, t]), bool(batch.truncated[b, t])],
                }
                for t in range(cfg.data.length)
            ]
            wanted = slow_targets(rows, 0, cfg, self.sign * cfg.gamma, cut)
            actions = [batch.action[b, k] if wanted[k][0] is not None else int(drawn[b, k]) for k in range(K)]
            frozen = self.path(self.model, batch.obs[b, 0], actions)[0]
            todo.append((batch.obs[b, 0], actions, frozen, wanted, float(batch.weight[b, 0])))

        def loss(model):
            total = 0.0
            for obs, actions, frozen, wanted, weight in todo:
                states, rewards = self.path(model, obs, actions, frozen)
                for k, (policy, value, reward) in enumerate(wanted):
                    scale = weight / B * (1 if k == 0 else 1 / K)
                    logits, v = self.predict(model, states[k])
                    if policy is not None:
                        total -= scale * (policy * np.log(softmax(logits))).sum()
                    if value is not None:
                        total += scale * self.cfg.value_scale * self.distance(value, v)
                    if reward is not None:
                        total += scale * self.distance(reward, rewards[k])
            squares = sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(model))
            return total + cfg.decay * squares

        self.model = self.adam.step(self.model, finite_differences(loss, self.model))
        self.priority = [abs(batch.extras["value"][b, 0] - todo[b][3][0][1]) for b in range(B)]
        self.loss = loss


def sequences(cfg, spec, seed):
    """A batch [B, L] with both kinds of ends, and what acting remembered."""
    rng = np.random.default_rng(seed)
    lead = (B, cfg.data.length)
    rows = oracles.rows(2, spec.action, lead, seed)
    batch = oracles.as_batch(rows, cfg.gamma * (-1 if spec.players == 2 else 1), seed)
    extras = {
        "policy": rng.dirichlet(np.ones(A), size=lead).astype(np.float32),
        "value": rng.uniform(-1, 1, size=lead).astype(np.float32),
    }
    return batch._replace(extras=extras)


@pytest.mark.parametrize("critic", ["categorical", "outcome", pytest.param("scalar", marks=pytest.mark.long)])
def test_updates_are_those_of_appendix_g(critic):
    cfg = config(critic=critic, value_scale=0.25)
    spec = SPEC if critic == "categorical" else dataclasses.replace(SPEC, players=2)
    update = jax.jit(lambda *args: muzero.update(cfg, spec, *args), compiler_options=QUICK)
    slow, steps = Slow(cfg, spec, start(cfg)), []

    def followed(state, batch, key):
        steps.append((float64(state.model), update(state, batch, key)))
        return steps[-1][1]

    oracles.assert_follows(followed, start(cfg), slow, [sequences(cfg, spec, number) for number in range(2)])
    before, done = steps[-1]
    np.testing.assert_allclose(done.metrics["loss"], slow.loss(before), rtol=1e-4)
    np.testing.assert_allclose(done.priority, slow.priority, rtol=1e-3, atol=1e-4)


# ---- search


class Node:
    def __init__(self, state, prior, value):
        self.state, self.prior, self.total, self.visits = state, prior, value, 1
        self.children, self.rewards = {}, {}


def slow_search(slow, obs, simulations, legal=None):
    """PUCT with a dictionary of nodes, appendix B; the root counts as seen once. Returns visits [A] and the value."""
    cfg, gamma = slow.cfg, slow.sign * slow.cfg.gamma

    def node(s):
        logits, value = slow.predict(slow.model, s)
        return Node(s, softmax(logits), slow.number(value))

    root = node(slow.represent(slow.model, obs))
    if legal is not None:
        root.prior = root.prior * legal / (root.prior * legal).sum()
    nodes = [root]

    def q(parent, a):
        child = parent.children[a]
        return parent.rewards[a] + gamma * child.total / child.visits

    for _ in range(simulations):
        at, way = root, []
        tried = [q(each, a) for each in nodes for a in each.children]
        low, high = (-1.0, 1.0) if cfg.critic != "categorical" else (min(tried or [0]), max(tried or [0]))
        while True:
            scores = []
            for a in range(slow.A):
                count = at.children[a].visits if a in at.children else 0
                value = (q(at, a) - low) / (high - low if high > low else 1) if count else 0
                c = cfg.pb_c_init + np.log((at.visits + cfg.pb_c_base + 1) / cfg.pb_c_base)
                score = value + at.prior[a] * np.sqrt(at.visits) / (1 + count) * c
                scores.append(score if at is not root or legal is None or legal[a] else -np.inf)
            a = int(np.argmax(scores))
            way.append((at, a))
            if a not in at.children:
                break
            at = at.children[a]
        s, reward = slow.imagine(slow.model, at.state, a)
        at.children[a], at.rewards[a] = node(s), slow.number(reward)
        nodes.append(at.children[a])
        value = at.children[a].total
        for parent, a in reversed(way):
            value = parent.rewards[a] + gamma * value
            parent.total, parent.visits = parent.total + value, parent.visits + 1
    visits = [root.children[a].visits if a in root.children else 0 for a in range(slow.A)]
    return np.array(visits), root.total / root.visits


@pytest.mark.parametrize(
    "critic", ["outcome", *(pytest.param(each, marks=pytest.mark.long) for each in ("categorical", "scalar"))]
)
def test_search_has_the_visits_and_the_value_of_an_independent_puct(critic):
    two = critic != "categorical"
    cfg = config(critic=critic, simulations=25, low=-2.0, high=3.0)
    spec = GAME if two else SPEC
    state = start(cfg, two)
    slow = Slow(cfg, spec, state)
    rng = np.random.default_rng(3)
    board = rng.normal(size=(12, 2)).astype(np.float32)
    legal = np.ones((12, A), np.float32)
    legal[np.arange(8), rng.integers(A, size=8)] = 0
    obs = {"board": board, "legal": legal} if two else board
    act = jax.jit(
        lambda obs: muzero.act(
            cfg, spec, muzero.actor(state), jnp.zeros(12, jnp.int32), obs, jax.random.key(9), False
        ),
        compiler_options=QUICK,
    )
    action, _, extras = act(obs)
    for i in range(12):
        row = np.concatenate([board[i], legal[i]]) if two else board[i]
        visits, value = slow_search(slow, row, cfg.simulations, legal[i] if two else None)
        np.testing.assert_allclose(extras["policy"][i], visits / visits.sum(), atol=1e-6)
        np.testing.assert_allclose(extras["value"][i], value, rtol=1e-3, atol=1e-4)
        assert visits[action[i]] == visits.max()
        assert not two or legal[i, action[i]]


def test_gumbel_search_plays_legal_moves_and_remembers_a_policy_over_them():
    cfg = config(critic="scalar", simulations=8, search="gumbel")
    actor = muzero.actor(start(cfg, True))
    legal = np.ones((6, A), np.float32)
    legal[np.arange(6), np.arange(6) % A] = 0
    obs = {"board": np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32), "legal": legal}
    act = jax.jit(
        lambda key: muzero.act(cfg, GAME, actor, jnp.zeros(6, jnp.int32), obs, key, True),
        compiler_options=QUICK,
    )
    for seed in range(5):
        action, _, extras = act(jax.random.key(seed))
        assert legal[np.arange(6), action].all()
        np.testing.assert_allclose(extras["policy"].sum(axis=1), 1, rtol=1e-5)
        assert (np.asarray(extras["policy"])[legal == 0] < 1e-6).all()


@pytest.mark.parametrize("search", ["puct", "gumbel"])
def test_after_the_opening_puct_plays_the_most_visited_and_gumbels_noise_is_of_scale_one(search):
    """T = 50 is as good as uniform: for 500 episodes whose opening lasts one more step, and not for 500 others."""
    cfg = config(simulations=9, search=search, temperature=50.0, temperature_end=50.0, opening=2)
    memory, actor = jnp.repeat(jnp.array([1, 0]), 500), muzero.actor(start(cfg))
    obs = jnp.broadcast_to(jnp.array([0.3, -0.2]), (1000, 2))
    action, after, extras = jax.jit(
        lambda key: muzero.act(cfg, SPEC, actor, memory, obs, key, True), compiler_options=QUICK
    )(jax.random.key(1))
    np.testing.assert_array_equal(after, memory - 1)
    policy = np.asarray(extras["policy"])
    if search == "puct":
        best = policy[np.arange(1000), action] == policy.max(axis=1)
    else:
        best = np.asarray(action == np.bincount(action[500:]).argmax())
    early, late = best[:500].mean(), best[500:].mean()
    assert early < 0.7
    assert late == 1 if search == "puct" else early + 0.1 < late < 1


def test_the_opening_is_drawn_for_each_episode_and_without_one_lasts_for_ever():
    many = jnp.arange(3000)
    drawn = muzero.memory(config(opening=2), SPEC, many, jnp.zeros_like(many), jax.random.key(0))
    np.testing.assert_allclose(np.bincount(drawn), 1000, atol=100)
    assert (muzero.memory(config(), SPEC, many, many, jax.random.key(0)) > 2**30).all()


def test_reanalyze_searches_its_share_of_the_sequences_again_and_leaves_the_others():
    cfg = config(simulations=6, reanalyze=0.5)
    state, batch = start(cfg), sequences(cfg, SPEC, 0)
    fresh = jax.jit(
        lambda key: muzero.reanalyzed(cfg, SPEC, state, jax.tree.map(jnp.asarray, batch), key),
        compiler_options=QUICK,
    )(jax.random.key(0))
    slow = Slow(cfg, SPEC, state)
    for name in ("policy", "value"):
        np.testing.assert_array_equal(fresh.extras[name][2:], batch.extras[name][2:])
    for b in range(2):
        for t in range(cfg.data.length):
            visits, value = slow_search(slow, batch.obs[b, t], cfg.simulations)
            np.testing.assert_allclose(fresh.extras["policy"][b, t], visits / visits.sum(), atol=1e-6)
            np.testing.assert_allclose(fresh.extras["value"][b, t], value, rtol=1e-3, atol=1e-4)


# ---- what cannot work


def test_what_cannot_work_is_one_line(monkeypatch):
    def check(**values):
        check_data("muzero", muzero.algorithm, config(**values), SPEC)

    check()
    with pytest.raises(UserError, match="length is 3, but unroll"):
        check(n=0)
    with pytest.raises(UserError, match="low is 2 and high 1"):
        check(low=2.0, high=1.0)
    with pytest.raises(UserError, match="simulator is for planners, and this is none"):
        check(data=dataclasses.replace(config().data, simulator=True))
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "polyak\[games\]"'):
        check()

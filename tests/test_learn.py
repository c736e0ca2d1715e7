"""`learn`: what an update receives, when it happens, and which settings are refused before anything is compiled."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.drivers.act import act_or_warm_up, row_shape
from polyak.drivers.check import check_data
from polyak.drivers.keys import Keys, RowKeys
from polyak.drivers.learn import learn, on_policy_batch
from polyak.errors import UserError
from polyak.interface import (
    Algorithm,
    Box,
    Discrete,
    OnPolicy,
    Replay,
    Spec,
    Transition,
    Update,
    within,
)
from polyak.parts import replay as ring
from polyak.pytree import Record, pytree

GAMMA = 0.9


@dataclass(frozen=True)
class Config:
    gamma: float = within(GAMMA, 0, 1)
    size: float = within(1.0, 0)
    data: OnPolicy | Replay = field(default_factory=lambda: OnPolicy(steps=4))


@pytree
class Diary(Record):
    """What was called in which order: a 1 for observe, a 2 for update, as digits; and the last batch's sums."""

    calls: jax.Array
    reward: jax.Array
    drawn: jax.Array
    seen: jax.Array


def init(cfg, spec, key):
    return Diary(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(8, jnp.int32), jnp.zeros(()))


def act(cfg, spec, actor, memory, obs, key, explore):
    """Always 2 in every place, which no uniform action is."""
    return jnp.full(obs.shape[0], 2, jnp.int32), memory, {"doubled": 2 * obs[:, 0]}


def update(cfg, spec, state, batch, key):
    drawn = jnp.roll(state.drawn, 1).at[0].set(batch.action.ravel()[0])
    state = state.replace(calls=10 * state.calls + 2, reward=batch.reward.sum(), drawn=drawn)
    return Update(state, {"one": jnp.ones(()), "reward": batch.reward.sum()})


def observe(cfg, spec, state, rollout):
    return state.replace(calls=10 * state.calls + 1, seen=state.seen + rollout.reward.sum())


recorder = Algorithm(Config, ("discrete",), init, lambda state: state.calls, act, update, observe=observe)
SPEC = Spec(obs=Box((2,)), action=Discrete(5), num_envs=2)


def rollout(steps=4, num_envs=2, seed=0):
    """Rows of every kind of end; the action numbers the rows."""
    rng = np.random.default_rng(seed)
    ends = rng.choice(3, size=(steps, num_envs), p=[0.5, 0.25, 0.25])
    ends[:2, 0] = 1, 2
    obs = rng.normal(size=(steps, num_envs, 2)).astype(np.float32)
    number = np.arange(steps * num_envs, dtype=np.int32).reshape(steps, num_envs)
    reward = rng.normal(scale=3, size=(steps, num_envs)).astype(np.float32)
    return Transition(obs, number, reward, obs + 1, ends == 1, ends == 2, {"doubled": 2 * obs[..., 0]})


def fresh(cfg):
    state = init(cfg, SPEC, None)
    if isinstance(cfg.data, OnPolicy):
        return state, ()
    count = cfg.data.slots(SPEC.num_envs)
    return state, ring.empty(row_shape(recorder, cfg, SPEC, state), count)


def run(cfg, rows=None, algorithm=recorder, **options):
    state, buffer = fresh(cfg)
    rows = rollout() if rows is None else rows
    go = jax.jit(lambda s, b, r: learn(algorithm, cfg, SPEC, s, b, r, jax.random.key(5), **options))
    return go(state, buffer, rows)


# ---- what an update receives


def test_on_policy_batch_is_the_rollout_with_discount_and_weight():
    rows = rollout()
    batch = on_policy_batch(rows, GAMMA, None)
    for name in Transition._fields:
        jax.tree.map(np.testing.assert_array_equal, getattr(batch, name), getattr(rows, name))
    np.testing.assert_array_equal(batch.discount, np.where(rows.terminated, 0, np.float32(GAMMA)))
    np.testing.assert_array_equal(batch.weight, np.ones((4, 2)))
    assert batch.discount.dtype == batch.weight.dtype == np.float32
    assert rows.truncated.any()
    assert (np.asarray(batch.discount)[rows.truncated] > 0).all()


def test_on_policy_reward_is_clipped_for_learning_and_raw_for_observe():
    rows = rollout()
    state, _, metrics = run(Config(data=OnPolicy(steps=4, clip=0.5)))
    clipped = np.clip(rows.reward.astype(float), -0.5, 0.5)
    assert abs(clipped.sum() - rows.reward.sum()) > 0.1
    np.testing.assert_allclose(metrics["reward"], clipped.sum(), rtol=1e-5)
    np.testing.assert_allclose(state.seen, rows.reward.sum(), rtol=1e-5)


@pytest.mark.parametrize("n_step", [1, 3])
def test_replay_reward_is_clipped_before_the_n_step_sum(n_step):
    rows = rollout()
    rows = rows._replace(terminated=rows.terminated & False, truncated=rows.truncated & False)
    cfg = Config(data=Replay(capacity=8, batch_size=1, warmup=0, steps=4, n_step=n_step, clip=0.5))
    state, _, _ = run(cfg, rows)
    start, env = divmod(int(state.drawn[0]), 2)
    window = np.clip(rows.reward[start : start + n_step, env].astype(float), -0.5, 0.5)
    np.testing.assert_allclose(state.reward, (window * GAMMA ** np.arange(len(window))).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "n_step", "shape"), [(1, 1, (6,)), (1, 3, (6,)), (2, 1, (6, 2)), (3, 2, (6, 3))]
)
def test_a_replay_batch_has_these_axes_discounts_and_weights(length, n_step, shape):
    def spy(cfg, spec, state, batch, key):
        return Update(state, {"batch": batch._replace(extras=batch.extras["doubled"])})

    data = Replay(capacity=8, batch_size=6, warmup=4, steps=4, length=length, n_step=n_step)
    batch = run(Config(data=data), algorithm=recorder._replace(update=spy))[2]["batch"]
    assert batch.reward.shape == batch.weight.shape == batch.discount.shape == shape
    assert batch.obs.shape == (*shape, 2)
    np.testing.assert_array_equal(batch.weight, 1)
    np.testing.assert_allclose(batch.extras, 2 * batch.obs[..., 0], rtol=1e-6)
    powers = np.array([0, *GAMMA ** np.arange(1, n_step + 1)])
    nearest = np.abs(np.asarray(batch.discount)[..., None] - powers).min(-1)
    assert nearest.max() < 1e-6
    np.testing.assert_array_equal(np.asarray(batch.discount) == 0, batch.terminated)


# ---- when it happens


def test_on_policy_updates_and_then_observes():
    state, buffer, metrics = run(Config())
    assert int(state.calls) == 21
    assert buffer == ()
    assert metrics["one"] == 1


@pytest.mark.parametrize("updates", [1, 3])
def test_replay_observes_and_then_updates(updates):
    data = Replay(capacity=8, batch_size=2, warmup=0, steps=4, updates=updates)
    state, buffer, metrics = run(Config(data=data))
    assert str(int(state.calls)) == "1" + "2" * updates
    assert metrics["one"] == updates
    assert int(buffer.clock.value) == 4


def test_each_update_of_a_rollout_has_its_own_draw_and_key():
    def spy(cfg, spec, state, batch, key):
        number = jax.random.randint(key, (), 0, 1_000_000)
        state = update(cfg, spec, state, batch, key).state
        return Update(state.replace(drawn=jnp.roll(state.drawn, 1).at[0].set(number)), {})

    data = Replay(capacity=8, batch_size=1, warmup=0, steps=4, updates=8)
    drawn = run(Config(data=data))[0].drawn
    assert len(set(np.asarray(drawn).tolist())) > 2
    keys = run(Config(data=data), algorithm=recorder._replace(update=spy))[0].drawn
    assert len(set(np.asarray(keys)[::2].tolist())) == 4


def test_a_warm_up_stores_and_observes_but_does_not_update():
    data = Replay(capacity=8, batch_size=2, warmup=8, steps=4)
    state, buffer, metrics = run(Config(data=data), warm=True)
    assert int(state.calls) == 1
    assert metrics == {}
    np.testing.assert_array_equal(buffer.rows.reward[:4], rollout().reward)
    assert int(buffer.clock.value) == 4


DATA = [OnPolicy(steps=4), Replay(capacity=8, batch_size=2, warmup=0, steps=4, updates=2)]


def without_observe(data):
    return recorder._replace(observe=lambda cfg, spec, state, rollout: state)


@pytest.mark.parametrize("data", DATA)
def test_an_invalid_rollout_updates_nothing_bit_for_bit(data):
    rows = rollout()
    rows = rows._replace(reward=np.full_like(rows.reward, np.nan))
    cfg = Config(data=data)
    state, _, metrics = run(cfg, rows, without_observe(data), valid=jnp.asarray(False))
    jax.tree.map(np.testing.assert_array_equal, state, fresh(cfg)[0])
    assert metrics["one"] == 0
    assert metrics["reward"] == 0


@pytest.mark.parametrize("data", DATA)
def test_an_invalid_rollout_is_not_observed_either(data):
    rows = rollout()
    rows = rows._replace(reward=np.full_like(rows.reward, np.nan))
    cfg = Config(data=data)
    state = run(cfg, rows, valid=jnp.asarray(False))[0]
    jax.tree.map(np.testing.assert_array_equal, state, fresh(cfg)[0])


@pytest.mark.parametrize("data", DATA)
def test_a_valid_rollout_is_learned_from_as_if_nobody_had_asked(data):
    plain, asked = run(Config(data=data)), run(Config(data=data), valid=jnp.asarray(True))
    jax.tree.map(np.testing.assert_array_equal, plain, asked)


@pytest.mark.parametrize(
    ("warmup", "steps", "num_envs", "iterations"),
    [(0, 1, 1, 0), (1, 1, 1, 1), (10, 4, 1, 3), (10, 4, 2, 2), (8, 4, 2, 1), (9, 4, 2, 2)],
)
def test_warm_up_is_rounded_up_to_whole_rollouts(warmup, steps, num_envs, iterations):
    assert Replay(warmup=warmup, steps=steps).warmup_rollouts(num_envs) == iterations
    assert OnPolicy(steps=steps).warmup_rollouts(num_envs) == 0


def chosen(spec, warm, uniform, action=None):
    def acts(cfg, spec, actor, memory, obs, key, explore):
        assert explore is True
        like = jnp.full(obs.shape[0], 2, jnp.int32) if action is None else action
        return like, memory + 1, {"doubled": 2 * obs[:, 0]}

    cfg = Config(data=Replay(uniform=uniform))
    algorithm = recorder._replace(act=acts)
    memory, obs = jnp.zeros(spec.num_envs), jnp.ones((spec.num_envs, 2))

    def at(row):
        return act_or_warm_up(algorithm, cfg, spec, (), memory, obs, RowKeys.of(Keys.of(3), row), warm)

    go = jax.jit(at)
    return lambda row: go(jnp.int32(row))


def test_a_uniform_warm_up_replaces_actions_only():
    spec = Spec(Box((2,)), Discrete(5), num_envs=4000)
    action, memory, extras = chosen(spec, warm=True, uniform=True)(0)
    counts = np.bincount(action, minlength=5)
    assert len(counts) == 5
    assert counts.min() > 650
    assert action.dtype == np.int32
    assert (memory == 1).all()
    assert (extras["doubled"] == 2).all()
    for warm, uniform in [(True, False), (False, True)]:
        assert (chosen(spec, warm, uniform)(0)[0] == 2).all()


def test_uniform_real_actions_fill_the_unit_box_and_change_at_every_step():
    spec = Spec(Box((2,)), Box((3,), -7.0, 7.0), num_envs=500)
    go = chosen(spec, True, True, action=jnp.zeros((500, 3)))
    first, second = np.asarray(go(0)[0]), np.asarray(go(1)[0])
    assert first.shape == (500, 3)
    assert -1 <= first.min() < -0.95
    assert 0.95 < first.max() <= 1
    assert abs(first.mean()) < 0.05
    assert not (first == second).any()


# ---- what is refused


def refusal(data, spec=SPEC, algorithm=recorder, **values):
    with pytest.raises(UserError) as error:
        check_data("diary", algorithm, Config(data=data, **values), spec)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("diary")
    return str(error.value)


REPLAY = Replay(capacity=100, batch_size=2, warmup=10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames", 4),
    ],
)
def test_what_replay_does_not_serve_yet_is_refused_by_name(name, value):
    check_data("diary", recorder, Config(data=REPLAY), SPEC)
    text = refusal(replace(REPLAY, **{name: value}))
    assert f"data.{name} " in text
    assert repr(value) in text


@pytest.mark.parametrize(("name", "value"), [("simulator", True), ("self_play", True)])
def test_what_on_policy_does_not_serve_yet_is_refused_by_name(name, value):
    check_data("diary", recorder, Config(), SPEC)
    text = refusal(OnPolicy(steps=4, **{name: value}))
    assert f"data.{name} " in text
    assert repr(value) in text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (Replay(capacity=0), "data.capacity is 0"),
        (Replay(batch_size=0), "data.batch_size is 0"),
        (Replay(warmup=-1), "data.warmup is -1"),
        (Replay(steps=0), "data.steps is 0"),
        (Replay(updates=0), "data.updates is 0"),
        (Replay(length=0), "data.length is 0"),
        (Replay(n_step=0), "data.n_step is 0"),
        (Replay(clip=-1.0), "data.clip is -1.0"),
        (Replay(priority=1.1), "data.priority is 1.1, but must be between 0 and 1"),
        (Replay(priority=-0.1), "data.priority is -0.1, but must be between 0 and 1"),
        (Replay(correction=1.5), "data.correction is 1.5"),
        (Replay(correction=(0.4, -1.0, 100)), "data.correction is (0.4, -1.0, 100)"),
        (Replay(correction=(0.4, 1.0, 0)), "at least 1 update"),
        (Replay(clip=0.0), "data.clip is 0.0"),
        (OnPolicy(steps=-1), "data.steps is -1"),
        (Replay(capacity=10, warmup=11), "more than data.capacity"),
        (Replay(capacity=100, warmup=4, length=4), "replay holds 3 rows"),
        (Replay(capacity=7, warmup=4, steps=2, n_step=5), "raise data.capacity to 12 or more"),
    ],
)
def test_settings_out_of_range_are_refused(data, says):
    assert says in refusal(data)


def test_all_that_is_wrong_is_said_at_once():
    text = refusal(Replay(capacity=0, n_step=0, frames=4), gamma=1.5, size=float("nan"))
    for part in ("data.capacity is 0", "data.n_step is 0", "data.frames", "gamma is 1.5", "size is nan"):
        assert part in text


def test_the_wrong_kind_of_action_is_refused():
    assert "continuous" in refusal(OnPolicy(steps=4), Spec(Box((2,)), Box((1,))))
    assert "discrete" in refusal(OnPolicy(4), algorithm=recorder._replace(actions=("continuous",)))
    both = recorder._replace(actions=("continuous", "discrete"))
    check_data("diary", both, Config(), Spec(Box((2,)), Box((1,))))


def test_games_of_two_players_are_refused():
    assert "2 players" in refusal(OnPolicy(steps=4), Spec(Box((2,)), Discrete(2), players=2))


def test_a_rollout_of_no_steps_is_refused():
    assert "data.steps" in refusal(OnPolicy())


def test_no_warm_up_is_allowed_where_one_rollout_holds_a_sequence():
    check_data("diary", recorder, Config(data=Replay(capacity=100, warmup=0, steps=4, length=4)), SPEC)


def test_a_sequence_longer_than_the_ring_is_refused():
    # 2 rollouts of 10 rows are written, but 39 transitions of 2 environments are a ring of 10 rows
    assert "data.length" in refusal(Replay(capacity=39, warmup=39, steps=10, length=15))


def test_a_capacity_below_one_rollout_is_refused():
    assert "data.capacity" in refusal(Replay(capacity=7, warmup=7, steps=4))

"""What every algorithm keeps, whatever it is: found by name, on each kind of action, plain and wrapped."""

import ast
import dataclasses
import functools
import inspect
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from cases import CASE, CASES, COLLECTING, FEW, KINDS, few_first, few_now, marked
from jax.interpreters import partial_eval
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from polyak.algorithms import find, names
from polyak.drivers.act import row_shape
from polyak.drivers.check import check_data
from polyak.drivers.learn import on_policy_batch
from polyak.drivers.padding import padded
from polyak.drivers.program import map_seeded, over_seeds, stack_seeds
from polyak.envs.environment import Rules, flat_actions
from polyak.errors import UserError
from polyak.flags import comments
from polyak.interface import (
    Algorithm,
    Batch,
    Box,
    Discrete,
    Hindsight,
    OnPolicy,
    Planning,
    Replay,
    Shown,
    Spec,
    Transition,
    played,
)
from polyak.parts import replay
from polyak.pytree import strip_weak_types
from polyak.runs.inputs import check_frozen
from polyak.wrappers import freeze, normalize_obs, normalize_reward

OBS = {"dict": {"a": Box((3,)), "b": (Discrete(4), Box((2, 2)))}}
WRAP = {
    "plain": lambda algorithm: algorithm,
    "normalize_obs": normalize_obs,
    "normalize_reward": normalize_reward,
    "both": lambda algorithm: normalize_reward(normalize_obs(algorithm)),
}
T, N, B = 8, 4, 16


def compiled(function, **options):
    return jax.jit(function, compiler_options=QUICK, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """An algorithm with a small config and a world."""

    name: str
    algorithm: Algorithm
    cfg: Any
    spec: Spec


@functools.cache
def case(name: str, action: str, wrap: str = "plain", obs: str = "vector") -> Case:
    chosen, spec = CASE[name], CASE[name].spec(action, time_limit=20, num_envs=N)
    if obs != "vector":
        spec = dataclasses.replace(spec, obs=OBS[obs], model=spec.model and shows(spec.model, OBS[obs]))
    data = chosen.data({"steps": T}, {"capacity": 64, "batch_size": B, "warmup": 32, "steps": T})
    cfg = chosen.config(data, horizon=1000, minibatch=8, **chosen.at_once)
    wrap = "plain" if cfg.data.plans else wrap  # there is nothing to normalise where nothing is collected
    return Case(name, WRAP[wrap](find(name)), cfg, spec)


def shows(model: Rules, space: Any) -> Rules:
    """These rules with observations of another space, all zeros."""
    nothing = jax.tree.map(jnp.zeros_like, point(space, np.random.default_rng(0), ()))

    def step(state, action, key):
        return model.step(state, action, key)._replace(obs=nothing)

    return Rules(lambda key: (model.reset(key)[0], nothing), step)


def compiles_early(name, kind, wrap):
    """Both wrappers at once, of the few in `make check`; each by itself when there is time."""
    return few_first(name) if wrap == "both" else "long"


WRAPPED = [(*plain, wrap) for plain in KINDS for wrap in WRAP]
UNIFORM = [c for c in KINDS if getattr(find(c[0]).Config().data, "uniform", False)]
each_plain = pytest.mark.parametrize(("name", "kind"), marked(KINDS, few_first))
each_of_few = pytest.mark.parametrize(("name", "kind"), marked(KINDS, few_now))
each_wrapped = pytest.mark.parametrize(
    ("name", "kind", "wrap"),
    marked(WRAPPED, lambda name, kind, wrap: None if wrap == "both" else few_now(name)),
)
each_worked = pytest.mark.parametrize(("name", "kind", "wrap"), marked(WRAPPED, compiles_early))


def point(space, rng, lead):
    """Random points [*lead, ...] of a space, as NumPy arrays."""
    if isinstance(space, dict):
        return {key: point(part, rng, lead) for key, part in space.items()}
    if isinstance(space, tuple):
        return tuple(point(part, rng, lead) for part in space)
    if isinstance(space, Discrete):
        return rng.integers(space.n, size=lead, dtype=np.int32)
    return rng.normal(1.0, 2.0, size=(*lead, *space.shape)).astype(np.float32)


@functools.cache
def state_of(c: Case):
    """After one rollout was observed, so that normalisers have seen something; of a planner after one update."""
    init = compiled(lambda key: strip_weak_types(c.algorithm.init(c.cfg, c.spec, key)))
    if c.cfg.data.plans:
        return update(c)(init(jax.random.key(0)), None, jax.random.key(2)).state
    return observe(c)(init(jax.random.key(0)), rollout(c))


@functools.cache
def rollout(c: Case, seed: int = 0) -> Transition:
    """Rows [T, N, ...] with both kinds of ends; actions in [-1, 1], and the extras that `act` asks for."""
    rng = np.random.default_rng(seed)
    ends = rng.choice(3, size=(T, N), p=[0.6, 0.2, 0.2])
    if isinstance(c.spec.action, Discrete):
        action = rng.integers(c.spec.action.n, size=(T, N), dtype=np.int32)
    else:
        action = rng.uniform(-1, 1, size=(T, N, *c.spec.action.shape)).astype(np.float32)
    state = jax.eval_shape(lambda key: c.algorithm.init(c.cfg, c.spec, key), jax.random.key(0))
    extras = jax.tree.map(
        lambda x: (
            rng.integers(N, size=(T, *x.shape), dtype=x.dtype)
            if jnp.issubdtype(x.dtype, jnp.integer)
            else rng.normal(-1.5, 0.1, size=(T, *x.shape)).astype(x.dtype)
        ),
        row_shape(c.algorithm, c.cfg, c.spec, state).extras,
    )
    reward = rng.normal(size=(T, N)).astype(np.float32)
    obs, next_obs = (point(c.spec.obs, rng, (T, N)) for _ in range(2))
    return Transition(obs, action, reward, next_obs, ends == 1, ends == 2, extras)


@functools.cache
def batch(c: Case) -> Any:
    """[T, N, ...] on policy, or [B, ...] from a ring; NumPy arrays. None where it plans without data."""
    if c.cfg.data.plans:
        return None
    if isinstance(c.cfg.data, OnPolicy):
        rows = padded(c.cfg.data, rollout(c), np)
        made = on_policy_batch(rows, c.cfg.gamma, c.cfg.data.clip, played(c.cfg.data, rows.last))
    else:
        rows = rollout(c)
        ring = replay.add(replay.empty(jax.tree.map(lambda x: x[0], rows), T), rows)
        data = c.cfg.data
        made = replay.sample(ring, jax.random.key(7), data, c.cfg.gamma)
    return jax.tree.map(np.asarray, made)


@functools.cache
def update(c: Case):
    return compiled(lambda state, batch, key: c.algorithm.update(c.cfg, c.spec, state, batch, key))


@functools.cache
def observe(c: Case):
    return compiled(lambda state, rows: c.algorithm.observe(c.cfg, c.spec, state, rows))


def describe(tree):
    """Structure, shapes, dtypes and weak types."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves]


def assert_close(got, want, rtol=1e-5):
    """Relative to the largest entry of each leaf: a sum in another order moves the small ones more."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = float(np.abs(b).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(scale, 1e-3))


# ---- state in, state out


@each_wrapped
def test_state_keeps_structure_shapes_dtypes_and_no_weak_types(name, kind, wrap):
    c = case(name, kind, wrap)
    init = jax.eval_shape(lambda key: c.algorithm.init(c.cfg, c.spec, key), jax.random.key(0))
    assert not any(weak for _, _, weak in describe(init)[1])
    updated = jax.eval_shape(update(c), init, batch(c), jax.random.key(1))
    observed = jax.eval_shape(observe(c), init, rollout(c))
    assert describe(updated.state) == describe(init)
    assert describe(observed) == describe(init)


@each_worked
def test_metrics_are_finite_scalars_and_the_state_moves_and_stays_finite(name, kind, wrap):
    c = case(name, kind, wrap)
    state = state_of(c)
    done = update(c)(state, batch(c), jax.random.key(1))
    assert done.metrics or not c.algorithm.learns
    for metric, value in done.metrics.items():
        assert isinstance(metric, str)
        assert value.shape == ()
        assert value.dtype == np.float32
        assert np.isfinite(value), metric
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(done.state))
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), c.algorithm.actor(done.state), c.algorithm.actor(state)
    )
    assert any(jax.tree.leaves(moved)) == c.algorithm.learns
    if isinstance(c.cfg.data, Replay) and done.priority is not None:
        assert done.priority.shape == (B,)
        assert (np.asarray(done.priority) >= 0).all()


@pytest.mark.parametrize("how", ["eagerly", "compiled"])
@each_plain
def test_no_two_leaves_of_a_new_state_share_memory(name, kind, how):
    c = case(name, kind, "both")

    def init(key):
        return c.algorithm.init(c.cfg, c.spec, key)

    state = (compiled(init) if how == "compiled" else init)(jax.random.key(0))
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size]
    assert len(places) == len(set(places))


@each_of_few
def test_an_updated_state_can_be_donated(name, kind):
    c = case(name, kind)
    state = jax.tree.map(jnp.array, state_of(c))
    go = compiled(lambda *args: c.algorithm.update(c.cfg, c.spec, *args), donate_argnums=0)
    for i in range(2):
        state = go(state, batch(c), jax.random.key(i)).state
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


# ---- the same update, wherever it runs


@each_worked
def test_an_update_from_device_arrays_and_from_numpy_arrays_has_the_same_bits(name, kind, wrap):
    c = case(name, kind, wrap)
    host = update(c)(jax.tree.map(np.asarray, state_of(c)), batch(c), jax.random.key(1))
    device = update(c)(state_of(c), jax.tree.map(jnp.asarray, batch(c)), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, host, device)


@pytest.mark.parametrize(
    ("name", "kind", "wrap"),
    marked(WRAPPED, lambda name, kind, wrap: few_now(name) if wrap == "both" else "long"),
)
def test_an_update_sharded_over_two_devices_is_the_same(name, kind, wrap):
    c = case(name, kind, wrap)
    if len(jax.devices()) < 2:
        pytest.skip("needs XLA_FLAGS of conftest.py")
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    axes = (None, "data") if isinstance(c.cfg.data, OnPolicy) else ("data",)
    split = jax.device_put(batch(c), NamedSharding(mesh, PartitionSpec(*axes)))
    state = jax.device_put(state_of(c), NamedSharding(mesh, PartitionSpec()))
    got = update(c)(state, split, jax.device_put(jax.random.key(1), NamedSharding(mesh, PartitionSpec())))
    want = update(c)(state_of(c), batch(c), jax.random.key(1))
    assert_close(got.state, want.state, 1e-5)
    assert_close(got.metrics, want.metrics, 1e-4)


@each_plain
def test_seeds_in_one_program_are_single_runs(name, kind):
    c = case(name, kind, "both")
    seeds = (3, 8)
    rows = [rollout(c, seed) for seed in seeds]
    batches = [batch(c), jax.tree.map(lambda x: x[::-1], batch(c))]

    def one(state, rows, batch, seed):
        state = c.algorithm.observe(c.cfg, c.spec, state, rows)
        return strip_weak_types(c.algorithm.update(c.cfg, c.spec, state, batch, jax.random.key(seed)).state)

    # two states that differ everywhere but in the clock, which seeds share
    first = state_of(c)
    second = map_seeded(lambda x: x * 1.1 if x.dtype == np.float32 else x, first)
    states = stack_seeds([first, second])
    stacked = [jax.tree.map(lambda *x: np.stack(x), *trees) for trees in (rows, batches)]
    together = compiled(lambda *args: over_seeds(one, *args))(states, *stacked, np.array(seeds))
    for i, (state, seed) in enumerate(zip((first, second), seeds, strict=True)):
        alone = update(c)(observe(c)(state, rows[i]), batches[i], jax.random.key(seed)).state
        assert_close(map_seeded(lambda x, i=i: x[i], together), alone)


# ---- time limits and targets


@pytest.mark.parametrize(("name", "kind"), marked([c for c in KINDS if CASE[c[0]].bootstraps], few_first))
def test_a_time_limit_is_bootstrapped_through_and_a_true_end_is_not(name, kind):
    """The future of a truncated row is read; what stands behind a row that terminated changes nothing."""
    c = case(name, kind, "both")
    limit = batch(c)
    rows = limit.truncated.copy()
    assert rows.any()
    assert not rows.all()
    end = limit._replace(
        terminated=limit.terminated | rows,
        truncated=np.zeros_like(rows),
        discount=np.where(rows, 0, limit.discount).astype(np.float32),
    )

    def updated(data):
        return jax.tree.map(np.asarray, update(c)(state_of(c), data, jax.random.key(1)).state)

    def elsewhere(data):
        """The same with other successors of the rows that a time limit cut."""
        mask = rows.reshape(rows.shape + (1,) * len(c.spec.obs.shape))
        return data._replace(next_obs=np.where(mask, data.next_obs + 1, data.next_obs))

    assert differ(updated(limit), updated(end))
    assert differ(updated(limit), updated(elsewhere(limit)))
    assert not differ(updated(end), updated(elsewhere(end)))
    if getattr(c.cfg.data, "length", 0) == 1:  # a row by itself has no trace to cut
        assert not differ(updated(limit), updated(limit._replace(truncated=np.zeros_like(rows))))


def differ(a, b) -> bool:
    """Whether two trees of equal structure differ in a bit."""
    return any(
        x.tobytes() != y.tobytes() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def targets_of(state) -> list[str]:
    """The fields of a state that are slow copies: `X_target` beside `X`."""
    names = [entry.name for entry in dataclasses.fields(state)]
    return [name for name in names if name.endswith("_target") and name.removesuffix("_target") in names]


@each_plain
def test_the_first_targets_are_copies_that_share_no_memory(name, kind):
    c = case(name, kind)
    key = jax.random.key(0)
    state = c.algorithm.init(c.cfg, c.spec, key)
    for target in targets_of(state):
        online, slow = getattr(state, target.removesuffix("_target")), getattr(state, target)
        jax.tree.map(np.testing.assert_array_equal, online, slow)
        for a, b in zip(jax.tree.leaves(online), jax.tree.leaves(slow), strict=True):
            assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()


def test_targets_are_found_by_their_names():
    state = dataclasses.make_dataclass("State", ["q", "q_target", "moving_target", "target"])(1, 1, 1, 1)
    assert targets_of(state) == ["q_target"]


# ---- acting


def shown(c: Case, obs):
    """Observations as `act` is given them: planners see the environments' states too."""
    if not c.cfg.data.simulator:
        return obs
    return Shown(obs, jax.vmap(c.spec.model.reset)(jax.random.split(jax.random.key(5), N))[0])


@functools.cache
def act(c: Case, explore: bool):
    def go(actor, obs, key, episode=0):
        obs = shown(c, obs)
        key_memory, key = jax.random.split(key)
        ids, episodes = jnp.arange(N), jnp.full(N, episode, jnp.int32)
        memory = c.algorithm.memory(c.cfg, c.spec, ids, episodes, key_memory)
        return c.algorithm.act(c.cfg, c.spec, actor, memory, obs, key, explore)

    return compiled(go)


VALUED = [(name, kind) for name, kind in KINDS if find(name).value and (kind == find(name).actions[0])]


@pytest.mark.parametrize(("name", "kind"), marked(VALUED, few_now))
def test_the_return_that_people_see_expected_is_its_value_in_the_environments_own_units(name, kind):
    c = case(name, kind, "both")
    state, obs = state_of(c), point(c.spec.obs, np.random.default_rng(1), (N,))
    scaled, normalized = state.moments, state.inner.moments
    action, _, _ = act(c, False)(c.algorithm.actor(state), obs, jax.random.key(3))
    assert c.algorithm.value is not None
    value = c.algorithm.value(c.cfg, c.spec, state, obs, action)
    seen = np.clip((obs - normalized.mean[0]) / np.sqrt(normalized.var[0] + 1e-8), -10, 10)
    learned = CASE[name].value(state.inner.inner, jnp.asarray(seen))
    assert value.shape == (N,)
    assert_close(value, np.sqrt(scaled.var + 1e-8) * np.asarray(learned))


@each_worked
def test_actions_have_the_kind_shape_and_range_of_the_border(name, kind, wrap):
    c = case(name, kind, wrap)
    actor = jax.tree.map(np.asarray, c.algorithm.actor(state_of(c)))  # its own bytes: nothing else is needed
    obs = point(c.spec.obs, np.random.default_rng(1), (N,))
    for explore in (True, False):
        action, _, _ = act(c, explore)(actor, obs, jax.random.key(3))
        assert action.shape == (N, *c.spec.action.shape)
        assert not action.weak_type
        if kind == "discrete":
            assert action.dtype == np.int32
            assert action.min() >= 0
            assert action.max() < c.spec.action.n
        else:
            assert action.dtype == np.float32
            assert np.isfinite(action).all()
            if CASE[name].squashed:
                assert np.abs(action).max() <= 1


@each_worked
def test_far_out_observations_give_finite_actions_and_squashed_ones_stay_in_range(name, kind, wrap):
    c = case(name, kind, wrap)
    actor = c.algorithm.actor(state_of(c))
    near = point(c.spec.obs, np.random.default_rng(1), (N,))
    for scale in (1e3, 1e6):
        obs = jax.tree.map(lambda x, scale=scale: (scale * x).astype(x.dtype), near)
        for explore in (True, False):
            action = np.asarray(act(c, explore)(actor, obs, jax.random.key(3))[0])
            if kind == "discrete":
                assert action.min() >= 0
                assert action.max() < c.spec.action.n
            else:
                assert np.isfinite(action).all()
                if CASE[name].squashed:
                    assert np.abs(action).max() <= 1


@each_worked
def test_without_exploring_the_key_says_nothing(name, kind, wrap):
    c = case(name, kind, wrap)
    actor = c.algorithm.actor(state_of(c))
    obs = point(c.spec.obs, np.random.default_rng(1), (N,))
    first, again = (act(c, False)(actor, obs, jax.random.key(seed)) for seed in (3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    if CASE[name].together:
        return
    # exploring is drawn from the key, or from the number of the episode
    drawn = [np.asarray(act(c, True)(actor, obs, jax.random.key(seed), seed)[0]) for seed in range(8)]
    assert any((drawn[0] != other).any() for other in drawn[1:])


@pytest.mark.parametrize(("name", "kind"), marked([c for c in KINDS if not CASE[c[0]].together], few_first))
def test_each_environment_explores_by_itself(name, kind):
    c = case(name, kind)
    actor, actions = c.algorithm.actor(state_of(c)), []
    for s in range(8):
        one = point(c.spec.obs, np.random.default_rng(s), (1,))
        obs = jax.tree.map(lambda x: np.repeat(x, N, axis=0), one)
        actions.append(np.asarray(act(c, True)(actor, obs, jax.random.key(s), s)[0]))
    assert any((row != row[:1]).any() for row in actions)


@pytest.mark.parametrize(("name", "kind"), UNIFORM)
def test_what_a_uniform_warm_up_makes_void_is_not_read(name, kind):
    """With `uniform` the stored action is not `act`'s: then no extras may flow into an update."""
    c = case(name, kind, "both")
    state, data = state_of(c), batch(c)

    def learned(extras):
        return c.algorithm.update(c.cfg, c.spec, state, data._replace(extras=extras), jax.random.key(1))

    assert not dependencies(jax.make_jaxpr(learned)(data.extras).jaxpr)


def dependencies(jaxpr) -> list:
    """The inputs of a traced function that anything it returns depends on."""
    return [used for used in partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1] if used]


def test_dependencies_are_found():
    assert dependencies(jax.make_jaxpr(lambda x, y: jax.jit(jnp.sin)(y))(1.0, 2.0).jaxpr) == [True]
    assert dependencies(jax.make_jaxpr(lambda x: jnp.ones(3))(1.0).jaxpr) == []


@pytest.mark.parametrize(
    ("name", "kind"), marked([c for c in KINDS if find(c[0]).observes == "any"], few_first)
)
def test_dict_and_tuple_observations_fit(name, kind):
    """Traced only: the next test computes it."""
    c = case(name, kind, "both", "dict")
    state = jax.eval_shape(lambda key: c.algorithm.init(c.cfg, c.spec, key), jax.random.key(0))
    row = row_shape(c.algorithm, c.cfg, c.spec, state)
    assert row.action.shape == (N, *c.spec.action.shape)
    updated = jax.eval_shape(update(c), state, batch(c), jax.random.key(1))
    observed = jax.eval_shape(observe(c), state, rollout(c))
    assert describe(updated.state) == describe(observed) == describe(state)


@pytest.mark.parametrize(
    ("name", "kind"), marked([c for c in KINDS if find(c[0]).observes == "any"], few_now)
)
def test_dict_and_tuple_observations_work(name, kind):
    c = case(name, kind, "both", "dict")
    state = state_of(c)
    done = update(c)(state, batch(c), jax.random.key(1))
    assert describe(done.state) == describe(state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(done))
    obs = point(c.spec.obs, np.random.default_rng(1), (N,))
    action = act(c, True)(c.algorithm.actor(state), obs, jax.random.key(3))[0]
    assert action.shape == (N, *c.spec.action.shape)


@pytest.mark.parametrize("name", [name for name in COLLECTING if "continuous" in CASE[name].kinds])
def test_real_actions_of_any_shape_are_one_row_of_numbers(name):
    c = case(name, "continuous")
    for shape in ((2, 2), ()):
        c = dataclasses.replace(
            c, spec=flat_actions(dataclasses.replace(c.spec, action=Box(shape, -1.0, 1.0)))
        )
        state = jax.eval_shape(lambda key: c.algorithm.init(c.cfg, c.spec, key), jax.random.key(0))  # noqa: B023
        row = row_shape(c.algorithm, c.cfg, c.spec, state)
        assert row.action.shape == (N, math.prod(shape))
        length = getattr(c.cfg.data, "length", 1)
        lead = (T, N) if isinstance(c.cfg.data, OnPolicy) else (B,) if length == 1 else (B, length)
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[1:]), x.dtype), row)  # noqa: B023
        flat = jax.ShapeDtypeStruct(lead, jnp.float32)
        done = jax.eval_shape(update(c), state, Batch(*rows, flat, flat), jax.random.key(1))
        assert describe(done.state) == describe(state)


# ---- the config and the file


def test_every_algorithm_has_a_row_of_cases():
    assert [each.name for each in CASES] == names()
    assert set(FEW) <= set(names())


@pytest.mark.parametrize("name", names())
def test_config_is_frozen_flat_and_valid(name):
    Config = find(name).Config
    cfg = Config()
    entries = {entry.name: getattr(cfg, entry.name) for entry in dataclasses.fields(Config)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.gamma = 0.5
    assert {"gamma", "data"} <= set(entries)
    assert isinstance(cfg.data, OnPolicy | Replay | Planning)
    assert hash(cfg) == hash(Config())
    assert cfg == Config()
    for key, value in entries.items():
        if key != "data":
            flat = value if isinstance(value, tuple) else (value,)
            assert all(isinstance(x, int | float | bool | str) or x is None for x in flat), key
    for kind in find(name).actions:
        check_data(name, find(name), cfg, CASE[name].spec(kind, time_limit=20))


@pytest.mark.parametrize("name", names())
def test_out_of_range_values_are_named(name):
    algorithm = find(name)
    spec = CASE[name].spec(algorithm.actions[0])
    for entry in dataclasses.fields(algorithm.Config):
        bounds = entry.metadata.get("within")
        if bounds is None:
            continue
        cfg = dataclasses.replace(algorithm.Config(), **{entry.name: bounds[0] - 1})
        with pytest.raises(UserError, match=f"{entry.name} is {bounds[0] - 1:g}".replace(".", r"\.")):
            check_data(name, algorithm, cfg, spec)


@pytest.mark.parametrize("name", names())
def test_file_is_in_the_order_that_every_file_has(name):
    module = inspect.getmodule(find(name).Config)
    source = inspect.getsource(module)
    body = ast.parse(source).body
    assert isinstance(body[0], ast.Expr)
    first_line = {}
    for node in body[1:]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert "Config" not in first_line, "an import below Config"
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            first_line[node.name] = node.lineno
        elif isinstance(node, ast.Assign):
            first_line[ast.unparse(node.targets[0])] = node.lineno
    order = ["Config", "State", "init", "actor", "memory", "act", "update", "observe", "algorithm"]
    assert {"Config", "State", "init", "act", "update", "algorithm"} <= set(first_line)
    lines = [first_line[part] for part in order if part in first_line]
    assert lines == sorted(lines)
    assert first_line["Config"] == min(first_line.values())
    assert first_line["algorithm"] == max(first_line.values())


@pytest.mark.parametrize(
    "record",
    [*(find(name).Config for name in names()), OnPolicy, Replay, Planning, Hindsight],
    ids=[*names(), "on policy", "replay", "planning", "hindsight"],
)
def test_every_field_has_a_comment_that_says_more_than_its_name(record):
    """Help and the tables of settings are made of them."""
    said = comments(record)
    for entry in dataclasses.fields(record):
        comment = said.get(entry.name, "")
        words = {word.lower() for word in re.findall(r"[A-Za-z']{3,}", comment)}
        assert len(words - set(entry.name.split("_"))) >= 2, f"{entry.name}: {comment!r}"
        assert len(comment) <= 90, f"{entry.name}: {comment!r}"
        assert not comment.endswith("."), f"{entry.name}: {comment!r}"


@pytest.mark.parametrize("name", names())
def test_docstring_says_whose_when_which_lecture_and_what_departs(name):
    text = inspect.getmodule(find(name).Config).__doc__
    assert re.search(r"\b(19|20)\d\d\b", text)
    assert "Departures:" in text
    assert text.split("Departures:")[1].strip()
    assert re.search(r"\bLectures? \d", text)
    for function in ("init", "act", "update"):
        assert getattr(inspect.getmodule(find(name).Config), function).__doc__


# ---- frozen networks


@each_of_few
def test_a_frozen_network_keeps_every_bit_or_is_refused(name, kind):
    c = case(name, kind)
    plain, refused = state_of(c), False
    for field in [f for f, part in vars(plain).items() if callable(part) and not f.endswith("_target")]:
        cold = dataclasses.replace(c, algorithm=freeze(c.algorithm, (field,)))
        try:
            check_frozen(name, cold.algorithm, cold.cfg, cold.spec)
        except UserError:
            refused = True
            continue
        state = state_of(cold)
        begun = map_seeded(jnp.copy, state)
        for number in range(2):
            state = update(cold)(state, batch(cold), jax.random.key(number)).state
        for a, b in zip(*(jax.tree.leaves(getattr(s, field)) for s in (state, begun)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert refused != CASE[name].freezes

"""Each algorithm's whole update over several rollouts, held against its oracle: order of events, schedules, moments.

A planted error that a test of one update does not see shows here: moments that are forgotten between rollouts, a
schedule of the wrong counter, an epoch that is left out, a step that comes too early.
"""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from cases import CASE, KINDS, VALUED, few_first, marked

from polyak import algorithms
from polyak.interface import Box, Discrete, Spec, Transition

T, N, B, ROLLOUTS = 7, 2, 12, 4
ACTIONS = {"discrete": Discrete(4), "continuous": Box((2,), -1.0, 1.0)}


def test_every_algorithm_has_an_oracle_of_its_whole_update():
    """A class `Whole` in its own test file, or one that holds it there update after update."""
    assert set(algorithms.names()) == CASE.keys()
    for name, case in CASE.items():
        if not algorithms.find(name).learns:
            continue
        own = (Path(__file__).parent / f"test_{name}.py").read_text(encoding="utf-8")
        assert ("class Whole(oracles.Whole)" if case.whole else "oracles.assert_follows(") in own, name


def oracle_of(name):
    """The class `Whole` of an algorithm's own tests."""
    return importlib.import_module(f"test_{name}").Whole


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in KINDS if CASE[name].whole])
def test_several_rollouts_teach_what_the_pseudocode_says(name, kind):
    algorithm = algorithms.find(name)
    cfg = algorithm.Config(hidden=(8,), gamma=0.9, **CASE[name].whole)
    spec = Spec(obs=Box((3,)), action=ACTIONS[kind], num_envs=N)
    state = moved(
        jax.jit(lambda key: algorithm.init(cfg, spec, key), compiler_options=QUICK)(jax.random.key(0))
    )
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args).state, compiler_options=QUICK)
    observe = jax.jit(lambda *args: algorithm.observe(cfg, spec, *args), compiler_options=QUICK)
    oracle, before = oracle_of(name)(cfg, spec, state), oracle_of(name).read(state)
    for number in range(ROLLOUTS):
        rollout = oracles.rows(3, spec.action, (T, N), seed=number)
        if cfg.data.replays:
            state = observe(state, rollout)
            oracle.observe(T * N)
            batches = [
                oracles.make_batch(3, spec.action, B, cfg.gamma, 10 * number + i, 2.0) for i in range(2)
            ]
        else:
            batches = [on_policy(oracle, rollout, cfg.gamma, number)]
        for index, batch in enumerate(batches):
            key = jax.random.key(100 * number + index)
            state = update(state, batch, jax.random.clone(key))
            oracle.update(batch, key)
        if not cfg.data.replays:
            state = observe(state, rollout)
            oracle.observe(T * N)
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-4),
            oracle.read(state),
            oracle.networks,
        )
    steps = jax.tree.map(lambda a, b: np.abs(a - b).max(initial=0.0), oracle.networks, before)
    assert min(step for step in jax.tree.leaves(steps) if step) > 3e-3


def learns_from_rows(name):
    """Whether it learns a policy from the rows of a rollout: not from a ring, nor from whole returns alone."""
    algorithm = algorithms.find(name)
    return name in VALUED and not algorithm.Config().data.replays and algorithm.family != "value"


ON_POLICY = [(name, kind) for name, kind in KINDS if learns_from_rows(name)]


@pytest.mark.parametrize(("name", "kind"), marked(ON_POLICY, few_first))
def test_a_rollout_of_one_row_teaches_the_policy(name, kind):
    """An advantage minus its own mean is 0, and teaches nothing."""
    algorithm = algorithms.find(name)
    cfg = CASE[name].config(CASE[name].data({"steps": 1}, {}), entropy=0.0)
    spec = Spec(Box((3,)), ACTIONS[kind], time_limit=5, num_envs=1)
    state = moved(algorithm.init(cfg, spec, jax.random.key(0)))
    rollout = oracles.rows(3, spec.action, (5, 1))
    row = jax.tree.map(lambda x: x[:1], rollout._replace(extras={"log_prob": np.zeros((5, 1), np.float32)}))
    old = state.policy(row.obs).log_prob(row.action)
    row = row._replace(extras={"log_prob": old})
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args).state, compiler_options=QUICK)
    after = update(state, oracles.as_batch(row, 0.9), jax.random.key(0))
    assert abs(after.policy(row.obs).log_prob(row.action) - old).max() > 1e-5


def moved(state):
    """A state whose networks are not those of a fresh one: no target is a copy, no layer small, no bias zero."""
    rng = np.random.default_rng(0)

    def move(path, x):
        if "opt_state" in jax.tree_util.keystr(path) or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x + rng.normal(scale=0.3, size=x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(move, state)


def on_policy(oracle, rollout: Transition, gamma, seed):
    """The batch of a rollout whose actions are nearly as likely as the policy has them."""
    flat = (np.reshape(x, (T * N, *x.shape[2:])) for x in (rollout.obs, rollout.action))
    log_prob = oracle.policy(*flat)[0] + np.random.default_rng(seed).normal(scale=0.2, size=T * N)
    remembered = {"log_prob": log_prob.reshape(T, N).astype(np.float32)}
    return oracles.as_batch(rollout._replace(extras=remembered), gamma)

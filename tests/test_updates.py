"""Each algorithm's whole update over several rollouts, held against its oracle: order of events, schedules, moments.

A planted error that a test of one update does not see shows here: moments that are forgotten between rollouts, a
schedule of the wrong counter, an epoch that is left out, a step that comes too early.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from cases import CASE, KINDS

from polyak import algorithms
from polyak.interface import Box, Discrete, Spec, Transition

T, N, B, ROLLOUTS = 7, 2, 12, 4
ACTIONS = {"discrete": Discrete(4), "continuous": Box((2,), -1.0, 1.0)}
# Every schedule falls within the rollouts, and no two settings are equal by accident.
SETTINGS = {
    "dqn": {"period": 3, "tau": 0.4, "lr": 1e-2, "lr_end": 0.1, "horizon": 48, "max_norm": 0.5},
    "ppo": {
        "epochs": 3,
        "minibatch": 4,
        "lr": 1e-2,
        "lr_end": 0.1,
        "horizon": 48,
        "entropy": 0.05,
        "clip": 0.3,
    },
    "td3": {"actor_lr": 1e-2, "critic_lr": 3e-3, "tau": 0.1, "delay": 2},
}


def test_every_algorithm_has_an_oracle_of_its_whole_update():
    """Among the kit's oracles, or in its own test file, update after update."""
    assert oracles.WHOLE.keys() == SETTINGS.keys()
    assert set(algorithms.names()) == CASE.keys()
    for name in CASE.keys() - oracles.WHOLE.keys():
        own = (Path(__file__).parent / f"test_{name}.py").read_text(encoding="utf-8")
        assert "oracles.assert_follows(" in own, name


@pytest.mark.parametrize(("name", "kind"), [pair for pair in KINDS if pair[0] in oracles.WHOLE])
def test_several_rollouts_teach_what_the_pseudocode_says(name, kind):
    algorithm = algorithms.find(name)
    cfg = algorithm.Config(hidden=(8,), gamma=0.9, **SETTINGS[name])
    spec = Spec(obs=Box((3,)), action=ACTIONS[kind], num_envs=N)
    state = moved(
        jax.jit(lambda key: algorithm.init(cfg, spec, key), compiler_options=QUICK)(jax.random.key(0))
    )
    update = jax.jit(lambda *args: algorithm.update(cfg, spec, *args).state, compiler_options=QUICK)
    observe = jax.jit(lambda *args: algorithm.observe(cfg, spec, *args), compiler_options=QUICK)
    oracle, before = oracles.WHOLE[name](cfg, spec, state), oracles.WHOLE[name].read(state)
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

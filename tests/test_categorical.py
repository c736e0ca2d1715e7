"""The categorical projection against rlax, a slow loop from Algorithm 1, and what a projection has to keep."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyak.parts import categorical

GOLDEN = json.loads((Path(__file__).parent / "golden" / "categorical.json").read_text())


def test_the_projection_is_the_one_that_rlax_publishes():
    """The values of L2ProjectTest in rlax/_src/value_learning_test.py; its weights are no probabilities."""
    old = np.stack([np.arange(-1, 1, 0.25), np.arange(0, 2, 0.25)])
    weights = old.copy()
    weights[0, ::2] = weights[1, 1::2] = 0.0
    want = [[-0.375, -0.5, 0.0, 0.875], [0.0, 0.5, 1.0, 1.5]]
    for row in range(2):
        atoms = jnp.arange(-1, 1, 0.5) + row
        got = jax.jit(categorical.project)(
            jnp.float32(old[row]), jnp.float32(weights[row]), jnp.float32(atoms)
        )
        np.testing.assert_allclose(got, want[row], atol=1e-7)


@pytest.mark.parametrize("case", GOLDEN, ids=["even", "uneven"])
def test_targets_and_losses_are_rlaxs(case):
    case = {name: jnp.array(value, jnp.float32) for name, value in case.items()}
    probs = jax.nn.softmax(case["next_logits"])
    target = jax.jit(categorical.bellman)(case["reward"], case["discount"], probs, case["atoms"])
    np.testing.assert_allclose(target, case["target"], atol=1e-6)
    loss = categorical.log_loss(target, case["logits"])
    np.testing.assert_allclose(loss, case["loss"], rtol=1e-5, atol=1e-6)


rows = st.integers(0, 10_000).map(np.random.default_rng)


@settings(max_examples=60, deadline=None)
@given(
    rows, st.integers(2, 9), st.floats(-20, 20), st.floats(0.1, 30), st.sampled_from([0.0, 0.5, 0.99, 1.0])
)
def test_a_bellman_backup_is_algorithm_1(rng, count, low, width, discount):
    atoms = categorical.support(low, low + width, count)
    probs, reward = rng.dirichlet(np.ones(count), 4), rng.normal(scale=width, size=4)
    got = categorical.bellman(
        jnp.float32(reward), jnp.full(4, discount, jnp.float32), jnp.float32(probs), atoms
    )
    want = [
        oracles.categorical_backup(r, discount, p, np.linspace(low, low + width, count))
        for r, p in zip(reward, probs, strict=True)
    ]
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_allclose(got.sum(axis=-1), 1.0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(2, 9), st.integers(1, 12))
def test_inside_the_support_the_mean_stays_and_outside_it_is_clipped(rng, count, places):
    atoms = np.cumsum(rng.uniform(0.1, 3.0, count))
    z, probs = rng.uniform(atoms[0] - 2, atoms[-1] + 2, places), rng.dirichlet(np.ones(places))
    got = np.asarray(categorical.project(*(jnp.float32(x) for x in (z, probs, atoms))), np.float64)
    clipped = np.clip(z, atoms[0], atoms[-1])
    assert (got >= 0).all()
    np.testing.assert_allclose(got.sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(got @ atoms, clipped @ probs, rtol=1e-4, atol=1e-4)


def test_the_mean_and_the_cross_entropy_of_a_hand_worked_case():
    atoms = categorical.support(0.0, 2.0, 3)
    logits = jnp.log(jnp.array([0.25, 0.25, 0.5]))
    np.testing.assert_allclose(categorical.mean(logits, atoms), 1.25, rtol=1e-6)
    target = jnp.array([0.5, 0.0, 0.5])
    want = 0.5 * np.log(4) + 0.5 * np.log(2)
    np.testing.assert_allclose(categorical.log_loss(target, logits), want, rtol=1e-6)
    np.testing.assert_allclose(categorical.entropy(target), np.log(2), rtol=1e-6)

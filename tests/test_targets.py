import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.parts.targets import follow, periodic, polyak_average

ONLINE = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(4.0)}
TARGET = {"w": jnp.array([3.0, 6.0]), "b": jnp.array(-4.0)}


def test_polyak_by_hand():
    got = polyak_average(ONLINE, TARGET, 0.25)
    np.testing.assert_array_equal(got["w"], [2.5, 4.0])
    np.testing.assert_array_equal(got["b"], -2.0)


def moves(rule, clocks):
    """At which clocks a target that starts at 0 moves towards an online network that is 1."""
    moved, target = [], jnp.zeros(())
    for clock in clocks:
        before, target = target, rule(jnp.ones(()), target, jnp.int32(clock))
        if target != before:
            moved.append(clock)
            target = jnp.zeros(())
    return moved


@pytest.mark.parametrize(
    ("period", "steps"),
    [(1, [1, 2, 3, 4, 5, 6, 7, 8, 9]), (2, [2, 4, 6, 8]), (3, [3, 6, 9]), (4, [4, 8]), (10, [])],
)
@pytest.mark.parametrize("rule", ["periodic", "follow"])
def test_targets_move_at_exactly_these_updates(rule, period, steps):
    if rule == "periodic":
        move = jax.jit(lambda online, target, clock: periodic(online, target, clock, period))
    else:
        move = jax.jit(lambda online, target, clock: follow(online, target, clock, 0.5, period))
    assert moves(move, range(1, 10)) == steps
    # a run that was stopped after any update moves at the same ones
    for stop in range(10):
        assert moves(move, range(1, 1 + stop)) + moves(move, range(1 + stop, 10)) == steps


def test_follow_with_period_one_is_polyak_averaging():
    for clock in range(1, 4):
        got, want = follow(ONLINE, TARGET, jnp.int32(clock), 0.1, 1), polyak_average(ONLINE, TARGET, 0.1)
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_follow_with_tau_one_is_a_periodic_copy():
    for clock in range(1, 7):
        got = follow(ONLINE, TARGET, jnp.int32(clock), 1.0, 3)
        jax.tree.map(np.testing.assert_array_equal, got, ONLINE if clock in (3, 6) else TARGET)


def test_follow_moves_by_tau_every_period():
    target = jnp.zeros(())
    seen = []
    for clock in range(1, 7):
        target = follow(jnp.ones(()), target, jnp.int32(clock), 0.5, 2)
        seen.append(float(target))
    assert seen == [0.0, 0.5, 0.5, 0.75, 0.75, 0.875]


def test_tau_and_period_may_be_traced():
    got = jax.jit(follow)(ONLINE, TARGET, jnp.int32(4), 0.25, 2)
    jax.tree.map(np.testing.assert_array_equal, got, polyak_average(ONLINE, TARGET, 0.25))
    swept = jax.vmap(lambda tau: polyak_average(jnp.float32(1), jnp.float32(0), tau))(
        jnp.array([0.0, 0.5, 1.0])
    )
    np.testing.assert_array_equal(swept, [0.0, 0.5, 1.0])


def test_a_periodic_target_is_copied_under_a_real_branch():
    text = str(jax.make_jaxpr(lambda clock: periodic(ONLINE, TARGET, clock, 3))(jnp.int32(1)))
    assert "cond[" in text


def test_a_copy_of_every_bit_that_does_not_alias():
    online = jnp.array([-0.0, 1e-45, 1.0])
    target = polyak_average(online, jnp.array([jnp.nan, 1.0, 1.0]), 1)
    np.testing.assert_array_equal(np.asarray(target).view(np.int32), np.asarray(online).view(np.int32))
    assert target.unsafe_buffer_pointer() != online.unsafe_buffer_pointer()


@pytest.mark.parametrize("tau", [1, 0.5])
def test_targets_keep_strong_dtypes(tau):
    target = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32)}
    got = follow(ONLINE, target, jnp.int32(2), tau, 2)
    for new, old in zip(jax.tree.leaves(got), jax.tree.leaves(target), strict=True):
        assert new.dtype == old.dtype
        assert not new.weak_type

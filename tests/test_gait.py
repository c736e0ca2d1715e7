"""The quadruped: mechanics that are known, and a gait that walks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.envs.worlds.gait import LOCUS, Gait, rotation

MIDDLE = jnp.asarray([(low + high) / 2 for low, high in LOCUS], jnp.float32)
FAST = {"timestep": 0.02, "substeps": 10}


def still(**constants):
    """A world whose feet hang in the air, above the floor."""
    env = Gait(**{**FAST, **constants})
    walker, _ = env.reset(jax.random.key(0))
    return env, walker.replace(place=jnp.array([0.0, 0.0, 1.0]), velocity=jnp.array([0.3, -0.2, 0.5]))


def after(env, walker, steps, gait=MIDDLE):
    step = jax.jit(env.step)
    for _ in range(steps):
        walker = step(walker, gait, jax.random.key(0)).state
    return walker


def test_in_the_air_it_falls_on_a_parabola_and_keeps_its_angular_momentum():
    env, walker = still()
    walker = walker.replace(spin=jnp.array([1.0, -2.0, 0.5]))
    inertia = env.mass / 12 * np.array([0.12**2 + 0.1**2, 0.22**2 + 0.1**2, 0.22**2 + 0.12**2])
    momentum = lambda w: np.asarray(rotation(w.turn)) @ (inertia * np.asarray(w.spin))  # noqa: E731
    later = after(env, walker, 10)
    t = 0.2
    np.testing.assert_allclose(later.place, [0.3 * t, -0.2 * t, 1 + 0.5 * t - 9.81 * t**2 / 2], atol=0.003)
    np.testing.assert_allclose(momentum(later), momentum(walker), rtol=0.01, atol=1e-5)
    assert np.abs(np.asarray(later.spin - walker.spin)).max() > 0.01
    frame = np.asarray(rotation(later.turn))
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-5)


def test_standing_the_floor_carries_its_weight():
    env = Gait(**FAST, disturbance=0.0)
    walker, _ = env.reset(jax.random.key(0))
    flat = MIDDLE.at[jnp.array([0, 3, 6])].set(0.0)  # feet that neither lift nor stride
    walker = after(env, walker.replace(feet=env.commanded(flat, walker.phase)), 100, flat)
    deep = -(walker.place + walker.feet @ rotation(walker.turn).T)[:, 2]
    np.testing.assert_allclose(env.stiffness * deep.sum(), env.mass * env.gravity, rtol=0.02)
    # friction is smooth below 1 cm/s, which is as still as it stands
    np.testing.assert_allclose(walker.velocity, 0, atol=0.01)


def test_on_ice_it_goes_nowhere_and_on_a_floor_forward():
    begun, _ = Gait(disturbance=0.0).reset(jax.random.key(0))
    distance = {
        friction: float(after(Gait(friction=friction), begun, 50).place[0]) for friction in (0.0, 0.6)
    }
    assert abs(distance[0.0]) < 0.01
    assert distance[0.6] > 0.15


def test_diagonal_feet_move_together_through_half_an_ellipse():
    env = Gait()
    phases = jnp.linspace(0, 0.999, 200)
    feet = np.asarray(jax.vmap(lambda phase: env.commanded(MIDDLE, phase))(phases))
    front_left, front_right, rear_left, rear_right = (feet[:, i] for i in range(4))
    np.testing.assert_allclose(np.ptp(front_left[:, 0]), MIDDLE[6], atol=1e-3)
    np.testing.assert_allclose(front_left[:, 2].max() + MIDDLE[8], MIDDLE[0], atol=1e-3)
    np.testing.assert_allclose(rear_right[:, 2].max() + MIDDLE[9], MIDDLE[3], atol=1e-3)
    stride = lambda foot: foot[:, 0] - foot[:, 0].mean()  # noqa: E731
    np.testing.assert_allclose(stride(front_left), stride(rear_right), atol=1e-5)
    np.testing.assert_allclose(stride(front_right), stride(rear_left), atol=1e-5)
    # on the ground for its share of the time, and on the ellipse for the rest
    air = front_left[:, 2] > -float(MIDDLE[8]) + 1e-6
    np.testing.assert_allclose(1 - air.mean(), MIDDLE[11], atol=0.01)
    centre = front_left[:, 0].min() / 2 + front_left[:, 0].max() / 2
    across = (front_left[air, 0] - centre) / (MIDDLE[6] / 2), (front_left[air, 2] + MIDDLE[8]) / MIDDLE[0]
    np.testing.assert_allclose(across[0] ** 2 + across[1] ** 2, 1, atol=0.02)


@pytest.mark.parametrize(("tilt", "ended"), [(0.5, False), (1.3, True)])
def test_it_ends_where_the_body_tips_over(tilt, ended):
    env, walker = still()
    half = tilt / 2
    walker = walker.replace(turn=jnp.array([np.cos(half), np.sin(half), 0.0, 0.0]), spin=jnp.zeros(3))
    assert bool(env.step(walker, MIDDLE, jax.random.key(0)).terminated) == ended

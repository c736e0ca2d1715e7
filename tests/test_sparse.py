import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.envs.worlds.sparse import SparseCartPoleSwingUp
from reproductions.parameter_noise import SparseHalfCheetah

ENV = SparseCartPoleSwingUp()
KEY = jax.random.key(0)


def joined(masses, velocity, jacobian):
    """Velocities of cart and pole [4] that keep the joint: nearest in kinetic energy, by multipliers."""
    inverse = np.diag(1 / masses)
    impulse = np.linalg.solve(jacobian @ inverse @ jacobian.T, -jacobian @ velocity)
    return velocity + inverse @ jacobian.T @ impulse


def slow(state, force):
    """Box2D's step in float64: cart (1 kg) and pole (0.1 kg, 1 m) as two bodies, which a joint holds together.

    velocity [4]: of the cart, of the pole's middle along and up, of the pole's angle
    """
    (x, x_dot, angle, angle_dot), half, h = state, 0.5, 0.05
    masses = np.array([1.0, 0.1, 0.1, 0.1 / 12])  # 1/12 m (2 half)^2
    before = angle - h * angle_dot
    middle = x_dot + half * math.cos(before) * angle_dot, -half * math.sin(before) * angle_dot
    velocity = np.array([x_dot, *middle, angle_dot]) + h * np.array([force / 1.0, 0, -10.0, 0])
    # the pole's lower end has the cart's velocity
    jacobian = np.array([[-1, 1, 0, -half * math.cos(angle)], [0, 0, 1, half * math.sin(angle)]])
    x_dot, _, _, angle_dot = joined(masses, velocity, jacobian)
    x, angle = x + h * x_dot, angle + h * angle_dot
    ended = abs(x) > 3.0
    return (x, x_dot, angle, angle_dot), float(math.cos(angle) > 0.8 and not ended), ended


def test_the_cart_follows_the_equations_of_motion_and_is_paid_while_the_pole_is_up():
    random, step, paid, ends = np.random.default_rng(0), jax.jit(ENV.step), 0, 0
    for _ in range(300):
        state = random.uniform([-2.9, -20, -7, -8], [2.9, 20, 7, 8])
        action = random.uniform(-1.5, 1.5)  # what is beyond the bounds is clipped
        found = step(jnp.float32(state), jnp.float32([action]), KEY)
        after, reward, ended = slow(np.float64(np.float32(state)), 10 * np.clip(action, -1, 1))
        assert bool(found.terminated) == ended
        assert float(found.reward) == reward
        assert not found.truncated
        np.testing.assert_array_equal(found.obs, found.state)
        np.testing.assert_allclose(found.state, after, rtol=1e-4, atol=2e-5)
        paid, ends = paid + reward, ends + ended
    assert paid > 30
    assert ends > 10


def test_a_pole_above_the_threshold_is_paid_nothing_where_the_rail_ends():
    upright = lambda x, speed: ENV.step(jnp.array([x, speed, 0.0, 0.0]), jnp.zeros(1), KEY)  # noqa: E731
    assert float(upright(0.0, 0.0).reward) == 1
    assert float(upright(2.99, 4.0).reward) == 0
    assert bool(upright(2.99, 4.0).terminated)
    assert bool(upright(-2.99, -4.0).terminated)
    tilted = lambda angle: float(  # noqa: E731
        ENV.replace(timestep=0.0).step(jnp.array([0.0, 0.0, angle, 0.0]), jnp.zeros(1), KEY).reward
    )
    assert [tilted(sign * math.acos(0.8 + more)) for sign in (1, -1) for more in (0.01, -0.01)] == [
        1,
        0,
        1,
        0,
    ]
    assert tilted(2 * math.pi) == 1


def test_an_episode_starts_hanging_and_in_motion():
    states = np.asarray(jax.vmap(ENV.reset)(jax.random.split(KEY, 20_000))[0])
    middle, width = np.array([0, 0, math.pi, 0]), np.array([1, 2, 1, 3])
    assert (abs(states - middle) <= width + 1e-6).all()
    np.testing.assert_allclose(states.mean(axis=0), middle, atol=0.05)
    np.testing.assert_allclose(states.std(axis=0), width / math.sqrt(3), rtol=0.02)


def test_box2d_moves_cart_and_pole_alike():
    """As rllab builds them; a joint of Box2D is solved by eight passes, so nearly."""
    Box2D = pytest.importorskip("Box2D")
    side, up = 2 / math.sqrt(12), 3 / math.sqrt(12)  # half the cart's width, all of its height
    random, step = np.random.default_rng(0), jax.jit(ENV.step)
    swung = []
    for _ in range(5):
        world = Box2D.b2World(doSleep=False)
        cart, pole = world.CreateDynamicBody(), world.CreateDynamicBody(position=(0, up / 2))
        cart.CreatePolygonFixture(box=(side, up / 2), density=1)
        pole.CreatePolygonFixture(vertices=[(-0.05, 0), (0.05, 0), (0.05, 1), (-0.05, 1)], density=1)
        world.CreateRevoluteJoint(bodyA=cart, bodyB=pole, anchor=(0, up / 2))
        world.CreatePrismaticJoint(bodyA=world.CreateStaticBody(), bodyB=cart)
        x, x_dot, angle, angle_dot = random.uniform([-1, -2, 2, -3], [1, 2, 4, 3])
        cart.position, cart.linearVelocity = (x, 0), (x_dot, 0)
        pole.angle, pole.angularVelocity = -angle, -angle_dot
        pole.position = (x, up / 2)
        middle = x_dot + 0.5 * math.cos(angle) * angle_dot, -0.5 * math.sin(angle) * angle_dot
        pole.linearVelocity = middle
        state = jnp.array([x, x_dot, angle, angle_dot])
        for _ in range(20):
            action = random.uniform(-1, 1)
            cart.ApplyForce((10 * action, 0), cart.position, True)
            world.Step(0.05, 8, 3)
            state = step(state, jnp.array([action]), KEY).state
        theirs = [cart.position[0], cart.linearVelocity[0], -pole.angle, -pole.angularVelocity]
        np.testing.assert_allclose(state, theirs, atol=0.2)
        swung.append(abs(theirs[3]))
    assert max(swung) > 2


def test_a_slow_pole_conserves_energy_and_a_fast_one_does_not():
    """Of a turn of 6 rad/s in a step of 0.05 s, 3/4 (1 - cos 0.3) of the speed is along the rod and is lost."""
    still = ENV.replace(gravity=0.0, mass_cart=1e6)
    after = lambda env, speed: float(env.step(jnp.array([0.0, 0.0, 1.0, speed]), jnp.zeros(1), KEY).state[3])  # noqa: E731
    assert after(still, 6.0) / 6 == pytest.approx(1 - 0.75 * (1 - math.cos(0.3)), rel=1e-3)
    assert after(still.replace(timestep=1e-3), 6.0) / 6 == pytest.approx(1, abs=1e-4)


def test_the_half_cheetah_is_paid_more_than_five_metres_ahead():
    pytest.importorskip("mujoco")
    env = SparseHalfCheetah()
    first, _ = env.reset(seed=0)
    body: Any = env.unwrapped
    assert first.shape == (18,)
    paid = []
    for x in (-6.0, 4.5, 5.5):
        position = body.data.qpos.copy()
        position[0] = x
        body.set_state(position, 0 * body.data.qvel)
        obs, reward, terminated, *_ = env.step(np.zeros(6))
        assert obs[0] == pytest.approx(x, abs=0.3)
        assert not terminated
        paid.append(reward)
    assert paid == [0, 0, 1]
    ended = [env.step(np.zeros(6))[3] for _ in range(497)]
    assert ended == [False] * 496 + [True]

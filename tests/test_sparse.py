import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from polyak.envs.worlds.sparse import SparseCartPoleSwingUp

ENV = SparseCartPoleSwingUp()
KEY = jax.random.key(0)


def slow(state, force):
    """Lagrange's equations of a cart of 1 kg and a rod of 0.1 kg and 1 m that turns about its end, in float64.

    (M + m) x'' + m l cos(a) a'' = F + m l sin(a) a'^2        m l cos(a) x'' + 4/3 m l^2 a'' = m g l sin(a)
    """
    x, x_dot, angle, angle_dot = state
    cart, pole, half, gravity, h = 1.0, 0.1, 0.5, 10.0, 0.05
    cos, sin = math.cos(angle), math.sin(angle)
    inertia = np.array([[cart + pole, pole * half * cos], [pole * half * cos, 4 / 3 * pole * half**2]])
    pushed = np.array([force + pole * half * sin * angle_dot**2, pole * gravity * half * sin])
    x_acc, angle_acc = np.linalg.solve(inertia, pushed)
    x_dot, angle_dot = x_dot + h * x_acc, angle_dot + h * angle_acc
    x, angle = x + h * x_dot, angle + h * angle_dot
    ended = abs(x) >= 3.0
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
        if ended:  # at the end of the rail the cart stands
            assert abs(float(found.state[0])) == 3.0
            np.testing.assert_allclose(found.state[2:], after[2:], rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_allclose(found.state, after, rtol=1e-5, atol=1e-5)
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


def test_box2d_moves_the_cart_alike():
    """As rllab builds it; a joint of Box2D is solved by eight passes, so for a few steps and nearly."""
    Box2D = pytest.importorskip("Box2D")
    side, up = 2 / math.sqrt(12), 3 / math.sqrt(12)  # half the cart's width, all of its height
    world = Box2D.b2World(doSleep=False)
    cart = world.CreateDynamicBody(position=(0, up / 2))
    cart.CreatePolygonFixture(box=(side, up / 2), density=1)
    pole = world.CreateDynamicBody(position=(0, up))
    pole.CreatePolygonFixture(
        vertices=[(-0.05, 0), (0.05, 0), (0.05, 1), (-0.05, 1)], density=1, groupIndex=-1
    )
    track = world.CreateStaticBody(position=(0, -0.1))
    track.CreatePolygonFixture(box=(100, 0.1), groupIndex=-1)
    world.CreateRevoluteJoint(bodyA=cart, bodyB=pole, anchor=(0, up))
    world.CreatePrismaticJoint(bodyA=track, bodyB=cart)
    pole.angle = math.pi  # hanging, at rest
    state, step, random = jnp.array([0.0, 0.0, -math.pi, 0.0]), jax.jit(ENV.step), np.random.default_rng(1)
    for number in range(12):
        world.Step(0.05, 8, 3) if number == 0 else None  # the joints settle
        force = random.uniform(-1, 1)
        cart.ApplyForce((10 * force, 0), cart.position, True)
        world.Step(0.05, 8, 3)
        if number == 0:
            state = jnp.array([cart.position[0], cart.linearVelocity[0], -pole.angle, -pole.angularVelocity])
            continue
        state = step(state, jnp.array([force]), KEY).state
    theirs = [cart.position[0], cart.linearVelocity[0], -pole.angle, -pole.angularVelocity]
    np.testing.assert_allclose(state, theirs, atol=0.05)
    assert abs(theirs[1]) + abs(theirs[3]) > 0.3

"""Riccati's recursion, linear-Gaussian controllers and iterative LQR against dense solves, SciPy and differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from scipy.stats import multivariate_normal

from polyak.envs.worlds.arm import Arm
from polyak.lab import linear
from polyak.lab.ilqr import ILQR
from polyak.parts import lqr

T, D, A = 5, 3, 2


def random_model(seed=0):
    """A time-varying model with convex costs."""
    random = np.random.default_rng(seed)
    root = random.normal(size=(T, D + A, D + A))
    spread = 0.2 * random.normal(size=(T, D, D))
    arrays = (
        random.normal(size=(T, D, D + A)) / 2,
        random.normal(size=(T, D)),
        spread @ spread.swapaxes(1, 2),
        root @ root.swapaxes(1, 2) + np.eye(D + A),
        random.normal(size=(T, D + A)),
    )
    return lqr.Model(*(jnp.asarray(x, jnp.float32) for x in arrays))


def random_controller(seed):
    random = np.random.default_rng(seed)
    root = random.normal(size=(T, A, A))
    precision = root @ root.swapaxes(1, 2) + np.eye(A)
    arrays = random.normal(size=(T, A, D)) / 2, random.normal(size=(T, A)), precision
    return jax.jit(lqr.Controller.of, compiler_options=QUICK)(*(jnp.asarray(x, jnp.float32) for x in arrays))


def total_cost(model, x, actions):
    """Of a plan [T, A] from x, by stepping, in float64."""
    total = 0.0
    for F, f, _, H, h, u in zip(*(np.asarray(y, float) for y in model), actions, strict=True):
        z = np.concatenate([x, u])
        total += 0.5 * z @ H @ z + h @ z
        x = F @ z + f
    return total


def test_the_recursion_finds_the_plan_of_one_dense_solve():
    model, x = random_model(), np.array([1.0, -2.0, 0.5])
    # the cost of a plan is a quadratic function: its Hessian and slope by differences, which are exact
    size, eye = T * A, np.eye(T * A)
    cost = lambda v: total_cost(model, x, v.reshape(T, A))  # noqa: E731
    slope = np.array([(cost(e) - cost(-e)) / 2 for e in eye])
    hessian = np.array([[cost(a + b) - cost(a) - cost(b) + cost(np.zeros(size)) for b in eye] for a in eye])
    wanted = np.linalg.solve(hessian, -slope).reshape(T, A)
    K, k, _ = jax.jit(lqr.backward, compiler_options=QUICK)(model)
    for t in range(T):
        u = np.asarray(K[t] @ x + k[t], float)
        np.testing.assert_allclose(u, wanted[t], rtol=1e-3, atol=1e-3)
        x = np.asarray(model.F[t], float) @ np.concatenate([x, u]) + np.asarray(model.f[t], float)


def test_what_a_controller_adds_to_the_cost_is_its_log_density():
    model, p = random_model(), random_controller(3)
    added = lqr.towards(model, p, 0.7)
    random = np.random.default_rng(1)
    for t in range(T):
        values = []
        for _ in range(2):
            z = random.normal(size=D + A)
            H, h = (np.asarray(b - a, float) for a, b in ((model.H[t], added.H[t]), (model.h[t], added.h[t])))
            mean = np.asarray(p.K[t]) @ z[:D] + np.asarray(p.k[t])
            log_density = multivariate_normal(mean, np.linalg.inv(p.precision[t])).logpdf(z[D:])
            values.append(0.5 * z @ H @ z + h @ z + 0.7 * log_density)
        np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-4)  # the same constant everywhere


def test_states_have_the_moments_of_simulated_ones():
    model, p = random_model(1), random_controller(2)
    start, spread = np.array([0.5, 0.0, -1.0]), 0.3 * np.eye(D)
    random, count = np.random.default_rng(0), 200_000
    mean, cov = lqr.forward(model, p, jnp.float32(start), jnp.float32(spread))
    x = random.multivariate_normal(start, spread, size=count)
    for t in range(T):
        np.testing.assert_allclose(mean[t], x.mean(0), atol=0.05)
        np.testing.assert_allclose(cov[t], np.cov(x.T), atol=0.1, rtol=0.03)
        F, f, noise = (np.asarray(y[t], float) for y in model[:3])
        u = x @ np.asarray(p.K[t]).T + np.asarray(p.k[t])
        u = u + random.normal(size=(count, A)) @ np.asarray(p.root[t]).T
        x = np.hstack([x, u]) @ F.T + f + random.multivariate_normal(np.zeros(D), noise, size=count)


def test_the_divergence_is_the_mean_difference_of_log_densities():
    new, old = random_controller(0), random_controller(1)
    mean, cov = np.full((T, D), 0.3), np.broadcast_to(0.2 * np.eye(D), (T, D, D))
    found = lqr.divergence(new, old, jnp.float32(mean), jnp.float32(cov))
    random, count = np.random.default_rng(0), 20_000
    for t in range(T):
        x = random.multivariate_normal(mean[t], cov[t], size=count)
        said = [x @ np.asarray(c.K[t]).T + np.asarray(c.k[t]) for c in (new, old)]
        C = [np.linalg.inv(np.asarray(c.precision[t], float)) for c in (new, old)]
        u = said[0] + random.multivariate_normal(np.zeros(A), C[0], size=count)
        log = [multivariate_normal(np.zeros(A), c).logpdf(u - m) for c, m in zip(C, said, strict=True)]
        gap = log[0] - log[1]
        assert abs(found[t] - gap.mean()) < 5 * gap.std() / np.sqrt(count)


def test_elimination_gives_the_determinant_too():
    random = np.random.default_rng(0)
    root = random.normal(size=(5, 5))
    matrix = root @ root.T + np.eye(5)
    solved, log_det = lqr.eliminate(jnp.float32(matrix), jnp.eye(5))
    np.testing.assert_allclose(solved, np.linalg.inv(matrix), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(matrix)[1], rtol=1e-5)


# ---- iterative LQR


def test_of_a_linear_system_the_first_iteration_is_riccatis():
    system = linear.double_integrator()
    A_, B, Q, R = (jnp.asarray(x, jnp.float32) for x in (system.A, system.B, system.Q, system.R))
    solver = ILQR(lambda x, u: A_ @ x + B @ u, lambda x, u: x @ Q @ x + u @ R @ u)
    x = np.array([2.0, -1.0], np.float32)
    found = solver.solve(x, np.zeros((20, 1), np.float32))
    P, gains = linear.riccati(system, 20)
    assert found.converged
    np.testing.assert_allclose(found.cost, x @ P[0] @ x, rtol=1e-4)
    np.testing.assert_allclose(found.gains, gains, atol=0.02)


def test_the_plan_of_an_arm_has_no_slope():
    env, key = Arm(), jax.random.key(0)
    solver = ILQR(lambda x, u: env.step(x, u, key).state, lambda x, u: -env.step(x, u, key).reward)
    start = np.array([-0.5, 1.0, 0.0, 0.0], np.float32)
    found = solver.solve(start, np.zeros((50, 2), np.float32), tolerance=1e-6)
    assert found.converged

    @jax.jit
    def cost(actions):
        return jax.lax.scan(
            lambda x, u: (env.step(x, u, key).state, -env.step(x, u, key).reward), start, actions
        )[1].sum()

    slope = jax.grad(cost)(found.actions)
    assert float(jnp.abs(slope).max()) < 0.01 < float(jnp.abs(jax.grad(cost)(0 * found.actions)).max())
    assert float(cost(found.actions)) < 0.5 * float(cost(0 * found.actions))


# ---- the arm


def energy(env, state, points=4000):
    """Of two thin rods, from the velocities of their points."""
    q1, q2, w1, w2 = np.asarray(state, float)
    along = (np.arange(points) + 0.5) / points * env.length
    one, two = np.array([np.cos(q1), np.sin(q1)]), np.array([np.cos(q1 + q2), np.sin(q1 + q2)])
    turned = lambda v: np.array([-v[1], v[0]])  # noqa: E731
    first = along[:, None] * one, along[:, None] * w1 * turned(one)
    second = (
        env.length * one + along[:, None] * two,
        env.length * w1 * turned(one) + along[:, None] * (w1 + w2) * turned(two),
    )
    return sum(env.mass * ((v**2).sum(1) / 2 + env.gravity * x[:, 1]).mean() for x, v in (first, second))


@pytest.mark.parametrize("torque", [0.0, 1.5])
def test_an_arms_energy_changes_by_the_work_of_its_torques_and_frictions(torque):
    env = Arm(gravity=9.81, friction=0.0 if not torque else 0.2, timestep=1e-3, substeps=20)
    state, action, work = jnp.array([0.3, 0.8, 1.0, -2.0]), jnp.array([torque, -torque]), 0.0
    begun, step = energy(env, state), jax.jit(env.step)
    for _ in range(300):
        after = step(state, action, jax.random.key(0)).state
        turn = np.asarray(after[:2] - state[:2], float)
        speed = np.asarray(after[2:] + state[2:], float) / 2
        work += (np.asarray(action) - env.friction * speed) @ turn
        state = after
    np.testing.assert_allclose(energy(env, state) - begun, work, atol=0.005)
    assert abs(energy(env, state) - begun) > 0.1 or not torque


def test_the_reward_is_of_the_tip():
    env = Arm(x=0.5, y=0.5)
    right_angle = jnp.array([0.0, np.pi / 2, 0.0, 2.0])
    step = env.step(right_angle, jnp.array([1.0, 0.0]), jax.random.key(0))
    np.testing.assert_allclose(step.reward, -(0.01 * 4 + 0.01), atol=1e-6)


def test_lapack_is_never_given_a_batch():
    """JAX shares a batch out among XLA's threads and waits in one of them: seeds side by side would wait for ever."""
    many = jax.vmap(lambda precision: lqr.Controller.of(jnp.zeros((T, A, D)), jnp.zeros((T, A)), precision))
    root = np.random.default_rng(0).normal(size=(4, T, A, A))
    precision = jnp.asarray(root @ root.swapaxes(-1, -2) + np.eye(A), jnp.float32)
    lowered = jax.jit(many).lower(precision).as_text()
    calls = re.findall(r"@lapack_\w+.*?num_batch_dims = \"(\d+)\"", lowered)
    assert calls
    assert set(calls) == {"0"}
    wanted = np.linalg.inv(np.asarray(precision, np.float64))
    found = np.asarray(many(precision).root, np.float64)
    np.testing.assert_allclose(found @ found, wanted, rtol=2e-4, atol=1e-5)

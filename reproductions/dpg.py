"""DPG (D1): on a linear-quadratic regulator its gradient is the closed form's, whoever acts; then it solves a bandit.

The gradient of section 4.2 is the mean of grad_theta mu(s) grad_a Q^mu(s, a), a = mu(s), over the states that the
behaviour visits. For u = K x, LQR has it in closed form: G S, where G x is the gradient of Q^mu in the action at K x
(from the Lyapunov equation of K) and S the second moment of the states under the behaviour (from another one). Both
are held against finite differences of exact costs, too. Behaviours are K x plus noise of two kinds; noise around mu is
what theorem 3 needs, since the second-order part of Q must not look like a slope.

The critic is solved and not approached: what COPDAC-Q adds to w and v is affine in them, so that a few calls of
`update` on one large batch give the system whose solution is where it would come to rest. One such solution has an
error of its own sample; the mean over many must be the closed form within its standard error.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_discrete_lyapunov

from polyak.algorithms import dpg
from polyak.envs.find import find
from polyak.interface import Array, Batch
from polyak.pytree import Record, pytree
from reproductions.finding import Finding, main, train

GAMMA, REPEATS, EPISODES, LENGTH = 0.9, 40, 4_000, 50
WORLD = find("jax:LQR", {"start": 1.0})
A, B, Q, R = (np.array(matrix) for matrix in (WORLD.A, WORLD.B, WORLD.Q, WORLD.R))
K = np.array([[-0.3, -0.1], [0.2, -0.4]])  # the policy u = K x whose gradient is asked for
# the two behaviours: Gaussian and small, uniform and wide with numbers that go together
MIX = {"gaussian": 0.2 * np.eye(2), "uniform": np.array([[1.0, 0.5], [0.0, 0.8]])}
BANDITS = (10, 25, 50)  # numbers in an action, as in the paper


@pytree
class Gain(Record):
    """u = x K'."""

    weight: Array  # [2, 2], K transposed

    def __call__(self, x: Array) -> Array:
        """From [..., 2] to [..., 2]."""
        return x @ self.weight


@pytree
class Quadratic(Record):
    """V(x) = v . (1, x1^2, x1 x2, x2^2): linear in v, and what V of LQR is made of."""

    v: Array  # [4]

    def __call__(self, x: Array) -> Array:
        """From [..., 2] to [..., 1]."""
        features = [jnp.ones_like(x[..., 0]), x[..., 0] ** 2, x[..., 0] * x[..., 1], x[..., 1] ** 2]
        return (jnp.stack(features, axis=-1) * self.v).sum(axis=-1, keepdims=True)


# ---- the closed form


def cost_matrix(gain: np.ndarray) -> np.ndarray:
    """P of V^mu(x) = -(x'Px + constant): P = Q + K'RK + gamma (A + BK)' P (A + BK)."""
    closed = np.sqrt(GAMMA) * (A + B @ gain)
    return solve_discrete_lyapunov(closed.T, Q + gain.T @ R @ gain)


def slope(gain: np.ndarray) -> np.ndarray:
    """G of grad_a Q^mu(x, a) = G x at a = K x."""
    P = cost_matrix(gain)
    return -2 * ((R + GAMMA * B.T @ P @ B) @ gain + GAMMA * B.T @ P @ A)


def second_moment(kind: str) -> np.ndarray:
    """The mean of x x' over the steps of an episode of the behaviour."""
    closed = A + B @ K
    added = WORLD.noise**2 * np.eye(2) + B @ MIX[kind] @ MIX[kind].T @ B.T
    now, total = WORLD.start**2 * np.eye(2), np.zeros((2, 2))
    for _ in range(LENGTH):
        total += now
        now = closed @ now @ closed.T + added
    return total / LENGTH


def true_gradient_error() -> float:
    """Relative difference of finite differences of the exact cost from G times its own discounted states."""
    noise = WORLD.noise**2 * GAMMA / (1 - GAMMA)

    def value(gain: np.ndarray) -> float:
        return -np.trace(cost_matrix(gain)) * (WORLD.start**2 + noise)

    closed = np.sqrt(GAMMA) * (A + B @ K)
    states = solve_discrete_lyapunov(closed, (WORLD.start**2 + noise) * np.eye(2))
    found = np.zeros((2, 2))
    for index in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[index] = 1e-5
        found[index] = (value(K + step) - value(K - step)) / 2e-5
    wanted = slope(K) @ states
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


# ---- what DPG makes of what a behaviour did


@jax.jit
def rollout(mix: Array, uniform: bool, key: Array) -> tuple[Array, Array, Array, Array]:
    """Observations, actions, rewards and successors of EPISODES x LENGTH steps."""
    key_start, *keys = jax.random.split(key, LENGTH + 1)

    def step(x: Array, key: Array) -> tuple[Array, tuple]:
        key_noise, key_world = jax.random.split(key)
        keys_uniform, keys_normal = jax.random.split(key_noise)
        wide = jax.random.uniform(keys_uniform, x.shape, minval=-np.sqrt(3), maxval=np.sqrt(3))
        noise = jnp.where(uniform, wide, jax.random.normal(keys_normal, x.shape))
        action = x @ jnp.float32(K.T) + noise @ mix.T
        stepped = jax.vmap(WORLD.step)(x, action, jax.random.split(key_world, len(x)))
        return stepped.obs, (x, action, stepped.reward, stepped.obs)

    x = jax.vmap(WORLD.reset)(jax.random.split(key_start, EPISODES))[0]
    rows = jax.lax.scan(step, x, jnp.stack(keys))[1]
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)


@jax.jit
def increments(critic: Array, batch: Batch) -> tuple[Array, Array]:
    """What one update adds to (w, v), flat, and to the policy, at learning rates of 1."""
    cfg = dpg.Config(gamma=GAMMA, actor_lr=1.0, advantage_lr=1.0, value_lr=1.0)
    actor = Gain(jnp.float32(K.T))
    state = dpg.State(
        actor=actor,
        advantage=Gain(critic[:4].reshape(2, 2)),
        value=Quadratic(critic[4:]),
        correction=Gain(jnp.zeros((2, 2))),
        clock=dpg.start_clock(),
    )
    done = dpg.update(cfg, WORLD.spec, state, batch, jax.random.key(0)).state
    added = jnp.concatenate([(done.advantage.weight).ravel(), done.value.v]) - critic
    return added, done.actor.weight - actor.weight


def gradient(kind: str, seed: int) -> np.ndarray:
    """The step of the policy once the critic rests, [2, 2] as K is."""
    obs, action, reward, after = rollout(jnp.float32(MIX[kind]), kind == "uniform", jax.random.key(seed))
    never = jnp.zeros(len(reward), bool)
    batch = Batch(
        obs, action, reward, after, never, never, (), jnp.full(len(reward), GAMMA), jnp.ones(len(reward))
    )
    at_zero = np.asarray(increments(jnp.zeros(8), batch)[0], np.float64)
    columns = [np.asarray(increments(jnp.eye(8)[i], batch)[0], np.float64) - at_zero for i in range(8)]
    critic = np.linalg.solve(np.stack(columns, axis=1), -at_zero)
    return np.asarray(increments(jnp.float32(critic), batch)[1], np.float64).T


def compatible(draws: int = 20) -> float:
    """Largest error of grad_a Q^w(s, a) = grad mu(s)^T w and of Q^w(s, mu(s)) = V^v(s), for policies that are networks.

    Q^w is read from what `update` says of it, its mean over a batch of one row.
    """
    spec, cfg, worst = WORLD.spec, dpg.Config(hidden=(16,), network="mlp"), 0.0
    init = jax.jit(lambda key: dpg.init(cfg, spec, key))

    @jax.jit
    def q(state: Any, obs: Array, action: Array) -> Array:
        row = Batch(
            obs,
            action,
            jnp.zeros(1),
            obs,
            jnp.zeros(1, bool),
            jnp.zeros(1, bool),
            (),
            jnp.ones(1),
            jnp.ones(1),
        )
        return dpg.update(cfg, spec, state, row, jax.random.key(0)).metrics["q"]

    for draw in range(draws):
        state, other = init(jax.random.key(2 * draw)), init(jax.random.key(2 * draw + 1))
        state = state.replace(advantage=other.actor)
        obs = jax.random.normal(jax.random.key(draw), (1, 2))
        mu = state.actor(obs)
        wanted = jnp.zeros(2)
        rows = jax.jacobian(lambda actor, obs=obs: actor(obs)[0])(state.actor)
        for jacobian, w in zip(jax.tree.leaves(rows), jax.tree.leaves(state.advantage), strict=True):
            wanted = wanted + (jacobian * w).reshape(2, -1).sum(axis=1)
        found = jax.grad(q, argnums=2)(state, obs, mu)[0]
        worst = max(worst, float(jnp.abs(found - wanted).max()))
        worst = max(worst, float(abs(q(state, obs, mu) - state.value(obs)[0, 0])))
    return worst


def bandit(size: int) -> float:
    """The mean cost of the last policy over three seeds, as a share of the first's, which is 0."""
    run = train("dpg", "jax:ContinuousBandit", steps=20_000, seeds=3, env_fields={"size": size})
    found = -run.evaluate(1).returns.mean()
    world = find("jax:ContinuousBandit", {"size": size})
    return float(found / -world.step(jnp.ones(1), jnp.zeros(size), jax.random.key(0)).reward)


def unbiased() -> Finding:
    """Bias under both behaviours, features, and the bandit."""
    claims, said = {}, []
    error = true_gradient_error()
    claims[f"the closed form is the exact cost's slope by finite differences (off by {error:.1e})"] = (
        error < 1e-6
    )
    for kind in MIX:
        wanted = slope(K) @ second_moment(kind)
        found = np.array([gradient(kind, seed) for seed in range(REPEATS)])
        bias = found.mean(axis=0) - wanted
        standard_error = found.std(axis=0, ddof=1) / np.sqrt(REPEATS)
        z, share = float(np.abs(bias / standard_error).max()), np.linalg.norm(bias) / np.linalg.norm(wanted)
        claims[
            f"{kind} behaviour: bias 0 within 3.5 standard errors in each of 4 numbers (found {z:.1f})"
        ] = z < 3.5
        claims[f"{kind} behaviour: bias below 1 % of the gradient (found {share:.2%})"] = share < 0.01
        said.append(f"{kind} {share:.2%} ({z:.1f} s.e.)")
    features = compatible()
    claims[f"compatible features: grad_a Q = grad mu^T w and Q(s, mu) = V (off by {features:.1e})"] = (
        features < 1e-4
    )
    rest = {size: bandit(size) for size in BANDITS}
    for size, share in rest.items():
        claims[f"bandit with {size} numbers: less than 1 % of the first cost is left (found {share:.2%})"] = (
            share < 0.01
        )
    return Finding(
        claims,
        f"bias of the gradient: {', '.join(said)}; {REPEATS} samples of {EPISODES * LENGTH:,} steps; bandit: "
        + ", ".join(f"{share:.2%} of the cost left with {size} numbers" for size, share in rest.items()),
    )


if __name__ == "__main__":
    main({"D1": unbiased})

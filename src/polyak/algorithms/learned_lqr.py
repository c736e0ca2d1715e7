"""Learned LQR: collect data, fit linear dynamics and a quadratic cost by least squares, solve Riccati, and again.

Anderson & Moore 1990, "Optimal Control: Linear Quadratic Methods", for the Riccati equation; Dean, Mania, Matni, Recht
& Tu 2020, "On the Sample Complexity of the Linear Quadratic Regulator" (arXiv:1710.01688), for least squares and
certainty equivalence. Lecture 1.

Departures: the cost is fitted too, to the rewards, where the papers know it. Least squares has a small ridge, and is
solved by elimination. Riccati's recursion goes on for `sweeps` steps, and not to the end. A gain that is not finite, as
a fit to nothing may give, is not taken: the last one stays.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Clock,
    OnPolicy,
    Spec,
    Tree,
    Update,
    count_steps,
    within,
)
from polyak.parts.lqr import form, products, riccati_step, solve
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Settings of the fit, of the planner and of exploration."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step
    sigma: float = within(0.5, 0)  # standard deviation of the noise on actions while exploring
    ridge: float = within(1e-4, 0)  # added to the diagonal of both least squares
    sweeps: int = within(500, 1)  # steps of Riccati's recursion
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=100))  # of one outer iteration


@pytree
class State(Record):
    """Sums that least squares are made of, and the gain. z is (x, u); q has the products z_i z_j, i <= j, and 1."""

    zz: Array  # sum of z z^T
    zx: Array  # sum of z x'^T
    qq: Array  # sum of q q^T
    qr: Array  # sum of q r, [Q, 1]
    gain: Array  # K [A, D]: u = K x
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """No data, and nothing is done."""
    size, actions = spec.obs.size, spec.action.size
    both = size + actions
    products = both * (both + 1) // 2 + 1
    return State(
        zz=jnp.zeros((both, both)),
        zx=jnp.zeros((both, size)),
        qq=jnp.zeros((products, products)),
        qr=jnp.zeros((products, 1)),
        gain=jnp.zeros((actions, size)),
        clock=start_clock(),
    )


def act(cfg: Config, spec: Spec, actor: Array, memory: Tree, obs: Array, key: Array, explore: bool) -> tuple:
    """The action u = K x, and noise while exploring."""
    action = obs @ actor.T
    if explore:
        action = action + cfg.sigma * jax.random.normal(key, action.shape)
    return action, memory, ()


def fitted(cfg: Config, state: State) -> tuple[Array, Array]:
    """F [D, Z] of x' = F z, and the symmetric H [Z, Z] of the cost z^T H z, by least squares."""
    size = len(state.zz)
    dynamics = solve(state.zz + cfg.ridge * jnp.eye(size), state.zx).T
    weights = solve(state.qq + cfg.ridge * jnp.eye(len(state.qq)), state.qr)[:-1, 0]
    return dynamics, form(-weights, size)


def riccati(cfg: Config, dynamics: Array, cost: Array) -> tuple[Array, Array]:
    """The gain K and the matrix P of the best cost-to-go x^T P x, after some steps of Riccati's recursion."""
    size = len(dynamics)

    def step(P: Array, _: None) -> tuple[Array, Array]:
        # Q(x, u) = z^T G z with G = H + gamma F^T P F
        G = cost + cfg.gamma * dynamics.T @ P @ dynamics
        K, after = riccati_step(G, size)
        return after, K

    P, gains = jax.lax.scan(step, jnp.zeros((size, size)), None, cfg.sweeps)
    return gains[-1], P


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Add a rollout [T, N, ...] to the sums, fit, and solve."""
    z = jnp.concatenate([batch.obs, batch.action], axis=-1).reshape(-1, len(state.zz))
    q, after = products(z), batch.next_obs.reshape(len(z), -1)
    state = state.replace(
        zz=state.zz + z.T @ z,
        zx=state.zx + z.T @ after,
        qq=state.qq + q.T @ q,
        qr=state.qr + q.T @ batch.reward.reshape(-1, 1),
    )
    dynamics, cost = fitted(cfg, state)
    gain, _ = riccati(cfg, dynamics, cost)
    sound = jnp.isfinite(gain).all()
    metrics = {
        "dynamics_error": ((after - z @ dynamics.T) ** 2).mean(),  # mean squared error of x', on this rollout
        "sound": sound.astype(jnp.float32),  # 1 where the new gain was finite, and so was taken
        "change": jnp.where(sound, jnp.abs(gain - state.gain).max(), 0.0),  # largest change of an entry of K
    }
    return Update(
        state.replace(gain=jnp.where(sound, gain, state.gain), clock=state.clock.updated()), metrics
    )


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    observes="vector",
    family="planning",
    init=init,
    actor=lambda state: state.gain,
    act=act,
    update=update,
    observe=count_steps,
)

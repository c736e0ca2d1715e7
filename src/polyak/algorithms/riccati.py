"""Riccati's equation: the best controller of a known linear system with quadratic costs, step by step of its recursion.

Anderson & Moore 1990, "Optimal Control: Linear Quadratic Methods" (Prentice Hall), section 2.4. Lecture 1.

Departures: the book is given A, B, Q and R; here they are the derivatives of the environment's rules at 0, which is the
same where the dynamics are linear and the cost quadratic, and a linearisation elsewhere. Costs may be discounted.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Planning, Spec, Tree, Update, within
from polyak.parts.lqr import riccati_step
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Settings of the recursion."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step
    data: Planning = field(default_factory=Planning)  # one step of the recursion in one update


@pytree
class State(Record):
    """The cost-to-go, and the controller that it leads to."""

    P: Array  # x^T P x is the least cost of as many steps as there were updates, [D, D]
    gain: Array  # K [A, D]: u = K x


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """No step to go: P = 0, and nothing is done."""
    size = spec.obs.size
    return State(jnp.zeros((size, size)), jnp.zeros((spec.action.size, size)))


def act(cfg: Config, spec: Spec, actor: Array, memory: Tree, obs: Array, key: Array, explore: bool) -> tuple:
    """The action u = K x."""
    return obs @ actor.T, memory, ()


def linear_quadratic(spec: Spec, key: Array) -> tuple[Array, Array]:
    """F [D, Z] and H [Z, Z] of the rules: x' = F z and cost z^T H z, with z = (x, u)."""
    size, actions = spec.obs.size, spec.action.size
    key_move, key_cost = jax.random.split(key)

    def move(z: Array) -> Array:
        return spec.model.step(z[:size], z[size:], key_move).obs

    def cost(z: Array) -> Array:
        return -spec.model.step(z[:size], z[size:], key_cost).reward

    rest = jnp.zeros(size + actions)
    return jax.jacobian(move)(rest), jax.hessian(cost)(rest) / 2


def update(cfg: Config, spec: Spec, state: State, batch: None, key: Array) -> Update:
    """One step more to go."""
    F, H = linear_quadratic(spec, key)
    # P <- Q + A^T P A - A^T P B (R + B^T P B)^-1 B^T P A,   K = -(R + B^T P B)^-1 B^T P A
    K, P = riccati_step(H + cfg.gamma * F.T @ state.P @ F, spec.obs.size)
    change = jnp.abs(K - state.gain).max()
    metrics = {
        "change": change,  # largest change of an entry of K: 0 where the recursion has ended
        "cost": jnp.trace(P),  # trace of P: sum of the costs-to-go from each unit vector
    }
    return Update(State(P, K), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A line where what is observed is not the state that the rules move."""
    state = jax.eval_shape(spec.model.reset, jax.random.key(0))[0]
    if getattr(state, "shape", None) != spec.obs.shape:
        return ["its controller is linear in the state, of which this environment shows something else"]
    return []


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    observes="vector",
    family="planning",
    init=init,
    actor=lambda state: state.gain,
    act=act,
    update=update,
    wrong=wrong,
)

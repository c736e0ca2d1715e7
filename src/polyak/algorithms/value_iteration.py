"""Value iteration: sweep over all states of a known model, each worth what its best action is, until nothing moves.

Bellman 1957, "Dynamic Programming" (Princeton University Press); Sutton & Barto 2018, section 4.4. Lecture 1.

Departures: action values are kept beside V, which is their maximum, so that acting needs no model. A sweep reads the
values of the sweep before alone, where the book's reads those of this sweep as soon as it has them. The number of
sweeps is the budget's; `bound` says how far from the optimum they may have ended.
"""

from dataclasses import dataclass, field

import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Planning, Spec, Tree, Update, within
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Settings of the sweeps."""

    gamma: float = within(0.95, 0, 1)  # gamma, discount of one step
    data: Planning = field(default_factory=Planning)  # one sweep in one update


@pytree
class State(Record):
    """Values of all states and actions."""

    q: Array  # q(s, a), [states, A]


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """The values 0 everywhere."""
    return State(jnp.zeros((spec.obs.n, spec.action.n)))


def act(cfg: Config, spec: Spec, actor: Array, memory: Tree, obs: Array, key: Array, explore: bool) -> tuple:
    """The action pi(s) = argmax_a q(s, a)."""
    return actor[obs].argmax(axis=-1).astype(jnp.int32), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: None, key: Array) -> Update:
    """One sweep."""
    transition, reward = spec.model.table()
    v = state.q.max(axis=1)
    # V(s) <- max_a sum_s',r p(s', r | s, a) [r + gamma V(s')]                      eq. 4.10
    q = reward + cfg.gamma * transition @ v
    # Delta <- max(Delta, |v - V(s)|)
    delta = jnp.abs(q.max(axis=1) - v).max()
    bound = delta * cfg.gamma / max(1 - cfg.gamma, 1e-6)
    metrics = {
        "delta": delta,  # Delta, the largest change of a state's value in the sweep
        "bound": bound,  # most that a value can be away from the optimum
        "v": q.max(axis=1).mean(),  # V(s), mean over all states
    }
    return Update(State(q), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A line where the states cannot be counted."""
    if spec.model.table is None:
        return ["it sweeps over all states, which this environment does not list (Environment.table)"]
    return []


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    observes="discrete",
    family="planning",
    init=init,
    actor=lambda state: state.q,
    act=act,
    update=update,
    wrong=wrong,
)

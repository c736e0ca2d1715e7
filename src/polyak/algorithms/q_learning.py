"""Q-learning, as it was before replay and target networks: each transition is used once, by every environment in step.

Watkins 1989, "Learning from Delayed Rewards"; Watkins & Dayan 1992, "Q-learning" (Machine Learning 8); Sutton & Barto
2018, section 6.5, page 131. With `network = "linear"` and a Discrete observation it is the book's table; with any other
network it is lecture 4's naive deep Q-learning, whose target is made of the very weights that it moves; with many
environments it is that lecture's synchronous parallel Q-learning. Lecture 4.

Departures: with N environments (or T rows) the step is along their mean, where one by one would be N steps; epsilon
falls over a share of the horizon, from `epsilon` to `epsilon_end`. Time limits are bootstrapped through.
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
from polyak.parts.exploration import epsilon_greedy
from polyak.parts.networks import build
from polyak.parts.optimize import Rule, gradient_step, rule
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Symbols are the book's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    rule: Rule = "adam"  # how a gradient becomes a step: adam, or sgd, which is the book's
    lr: float = within(5e-4, 0)  # alpha, step size
    epsilon: float = within(1.0, 0, 1)  # epsilon, probability of a random action, at the first step
    epsilon_end: float = within(0.05, 0, 1)  # epsilon once it has fallen
    epsilon_fraction: float = within(0.2, 0, 1)  # share of the horizon over which epsilon falls
    horizon: int = within(0, 0)  # environment steps that epsilon falls over; 0: all of the run's
    network: str = "mlp"  # builder of the network; linear on a Discrete observation: a table
    hidden: tuple[int, ...] = (128, 128)  # units of each hidden layer
    init_scale: float = within(1.0, 0)  # scale of the last layer's first weights; 0: all values start at 0
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=1))  # each transition [T, N, ...] once

    @property
    def anneal(self) -> int:
        """Environment steps over which epsilon falls."""
        return max(1, round(self.epsilon_fraction * self.horizon))


@pytree
class State(Record):
    """One network, and its optimiser."""

    q: Tree
    opt_state: Tree
    clock: Clock


@pytree
class Actor(Record):
    """The network, and how far epsilon has fallen."""

    q: Tree
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Initialize Q(s, a)."""
    build_q = build(cfg.network)
    q = build_q(key, spec.obs, spec.action.n, cfg.hidden, "relu", "uniform", cfg.init_scale)
    return State(q, rule(cfg.rule).init(q), start_clock())


def actor(state: State) -> Actor:
    """The parameters that a gradient is taken in."""
    return Actor(state.q, state.clock)


def act(cfg: Config, spec: Spec, actor: Actor, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Choose A from S using the epsilon-greedy policy derived from Q, or the greedy one."""
    q = actor.q(obs)
    if not explore:
        return jnp.argmax(q, axis=-1).astype(jnp.int32), memory, ()
    epsilon = linear_schedule(actor.clock.env_steps, cfg.epsilon, cfg.epsilon_end, cfg.anneal)
    return epsilon_greedy(key, q, epsilon), memory, ()


def gradient(
    cfg: Config, spec: Spec, actor: Actor, batch: Batch, key: Array
) -> tuple[Tree, dict[str, Array]]:
    """Half the gradient of the squared TD errors of the transitions [T, N, ...], in the weights that made them."""
    # R + gamma max_a Q(S', a), of the same weights
    target = batch.reward + batch.discount * actor.q(batch.next_obs).max(axis=-1)

    # Q(S, A) <- Q(S, A) + alpha [R + gamma max_a Q(S', a) - Q(S, A)]
    def loss(q: Tree) -> tuple[Array, Array]:
        taken = jax.nn.one_hot(batch.action, spec.action.n)
        chosen = (taken * q(batch.obs)).sum(axis=-1)
        return 0.5 * ((target - chosen) ** 2).mean(), chosen

    (loss_value, chosen), grads = jax.value_and_grad(loss, has_aux=True)(actor.q)
    metrics = {
        "loss": loss_value,  # half the mean squared TD error
        "q": chosen.mean(),  # Q(s, a), mean over the transitions
        "largest": jnp.abs(chosen).max(),  # largest |Q(s, a)| of the transitions
    }
    return grads, metrics


def apply(cfg: Config, spec: Spec, state: State, grads: Tree) -> State:
    """One step along a gradient, whoever found it."""
    q, opt_state = gradient_step(rule(cfg.rule), grads, state.opt_state, state.q, cfg.lr)
    return State(q, opt_state, state.clock.updated())


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step from the transitions [T, N, ...] that were just made."""
    grads, metrics = gradient(cfg, spec, actor(state), batch, key)
    return Update(apply(cfg, spec, state, grads), metrics)


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    family="value",
    init=init,
    actor=actor,
    act=act,
    update=update,
    observe=count_steps,
    gradient=gradient,
    apply=apply,
)

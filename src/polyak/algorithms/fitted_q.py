"""Fitted Q-iteration: a batch of transitions, and one regression after the other towards the last one's values.

Ernst, Geurts & Wehenkel 2005, "Tree-Based Batch Mode Reinforcement Learning" (JMLR 6), figure 1; with a neural network
Riedmiller 2005, "Neural Fitted Q Iteration" (ECML), figure 1. Lecture 4.

Departures: a network and Adam in the place of trees, or of Rprop, on the whole batch or on minibatches of it; a
regression takes a fixed number of steps, from where the last one ended, and the first targets are a random network's.
The batch is the newest rollout: a run of one rollout has the paper's fixed batch, a longer one collects anew, by the
epsilon-greedy policy of what was learned. Time limits are bootstrapped through.
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
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Symbols are those of Ernst et al."""

    gamma: float = within(0.95, 0, 1)  # gamma, discount of one step
    iterations: int = within(50, 1)  # N, regressions on a batch, each towards new targets
    regression: int = within(100, 1)  # steps of each regression
    minibatch: int = within(0, 0)  # rows of one step, drawn at random; 0: the whole batch
    lr: float = within(3e-3, 0)  # Adam's learning rate
    lr_end: float = within(1.0, 0, 1)  # share of it that is left at the end of each regression
    epsilon: float = within(1.0, 0, 1)  # epsilon, probability of a random action while a batch is collected
    network: str = "mlp"  # builder of the network; linear on a Discrete observation: a table
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer
    data: OnPolicy = field(
        default_factory=lambda: OnPolicy(steps=1000)
    )  # F, a batch of transitions [T, N, ...]


@pytree
class State(Record):
    """The last regression's network, and the optimiser."""

    q: Tree
    opt_state: Tree
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A network whose first values are random and small, where the paper has Q_0 = 0."""
    q = build(cfg.network)(key, spec.obs, spec.action.n, cfg.hidden)
    return State(q, optimizer.init(q), start_clock())


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """With probability epsilon a random action, otherwise argmax_u Q_N(x, u)."""
    return epsilon_greedy(key, actor(obs), cfg.epsilon if explore else 0.0), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """All N iterations on a batch [T, N, ...]."""
    rows = batch.reward.size

    def chosen(q: Tree, obs: Tree, action: Array) -> Array:
        return (jax.nn.one_hot(action, spec.action.n) * q(obs)).sum(axis=-1)

    def error(q: Tree, obs: Tree, action: Array, target: Array) -> Array:
        return 0.5 * ((chosen(q, obs, action) - target) ** 2).mean()

    def iteration(carry: tuple[Tree, Tree], key: Array) -> tuple[tuple[Tree, Tree], tuple[Array, Array]]:
        last = carry[0]
        # o_l = r_l + gamma max_u Q_{N-1}(x_{l+1}, u)
        target = batch.reward + batch.discount * last(batch.next_obs).max(axis=-1)
        pairs = batch.obs, batch.action, target

        def step(number: Array, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            q, opt_state = carry
            drawn = pairs
            if cfg.minibatch:
                row = jax.random.randint(jax.random.fold_in(key, number), (cfg.minibatch,), 0, rows)
                drawn = jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:])[row], pairs)
            lr = cfg.lr * linear_schedule(number, 1.0, cfg.lr_end, cfg.regression)
            return gradient_step(optimizer, jax.grad(error)(q, *drawn), opt_state, q, lr)

        # induce Q_N from the pairs ((x_l, u_l), o_l) by regression
        q, opt_state = jax.lax.fori_loop(0, cfg.regression, step, carry)
        change = jnp.abs(chosen(q, batch.obs, batch.action) - chosen(last, batch.obs, batch.action)).max()
        return (q, opt_state), (error(q, *pairs), change)

    begin = state.q, state.opt_state
    (q, opt_state), (losses, changes) = jax.lax.scan(iteration, begin, jax.random.split(key, cfg.iterations))
    metrics = {
        "loss": losses[-1],  # half the mean squared error of the last regression, after its steps
        "change": changes[-1],  # largest |Q_N - Q_{N-1}| over the batch
        "q": chosen(q, batch.obs, batch.action).mean(),  # Q_N(x, u), mean over the batch
    }
    return Update(State(q, opt_state, state.clock.updated()), metrics)


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    family="value",
    init=init,
    actor=lambda state: state.q,
    act=act,
    update=update,
    observe=count_steps,
)

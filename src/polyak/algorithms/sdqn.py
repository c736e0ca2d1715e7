"""SDQN: Q-learning that chooses one discretised dimension of an action after another.

Metz, Ibarz, Jaitly & Davidson 2017, "Discrete Sequential Prediction of Continuous Actions for Deep RL"
(arXiv:1705.05035), section 3. Lecture 0.

Departures: values are passed down the chain by the same networks' targets, without the paper's second, undivided
critic; exploration is epsilon-greedy in each dimension. The values of the bins are spread evenly from bound to bound,
both included. A time limit is bootstrapped through.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Box,
    Clock,
    Replay,
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
from polyak.parts.targets import polyak_average
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """Settings for low-dimensional tasks; the paper names none for all of its own."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lr: float = within(1e-3, 0)  # Adam's learning rate
    tau: float = within(0.005, 0, 1)  # share of the new weights in each step of the targets
    bins: int = within(32, 2)  # B, values that each dimension can have
    epsilon: float = within(1.0, 0, 1)  # probability of a uniform bin in a dimension, at the first step
    epsilon_end: float = within(0.05, 0, 1)  # and from `epsilon_fraction` of the horizon on
    epsilon_fraction: float = within(0.2, 0, 1)  # share of the horizon over which epsilon falls
    horizon: int = within(
        0, 0
    )  # environment steps that epsilon's schedule is a share of; 0: all of the run's
    network: str = "mlp"  # builder of the networks
    hidden: tuple[int, ...] = (128, 128)  # units of each hidden layer, in each dimension's network
    data: Replay = field(  # mini-batches of transitions [B, ...]
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=128, warmup=1_000)
    )


@pytree
class State(Record):
    """A network for each dimension of an action, their targets and their optimiser."""

    q: tuple[Tree, ...]  # Q^1(s)[a_1], Q^2(s, a_1)[a_2], ...
    q_target: tuple[Tree, ...]
    opt_state: Tree
    clock: Clock


@pytree
class Actor(Record):
    """The networks, and how far epsilon has fallen."""

    q: tuple[Tree, ...]
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks and their copies; each one sees the dimensions that were chosen before."""
    keys = jax.random.split(key, spec.action.size)
    network = build(cfg.network)
    q = tuple(
        network(keys[i], (spec.obs, Box((i,), -1.0, 1.0)), cfg.bins, cfg.hidden)
        for i in range(spec.action.size)
    )
    return State(q, copy(q), optimizer.init(q), start_clock())


def actor(state: State) -> Actor:
    """The part of the state that acting needs."""
    return Actor(state.q, state.clock)


def level(cfg: Config, index: Array) -> Array:
    """The value of a bin, evenly from bound to bound: -1 + 2 b / (B - 1)."""
    return -1.0 + 2.0 * index / (cfg.bins - 1)


def nearest_bin(cfg: Config, value: Array) -> Array:
    """The bin whose value is nearest to one in [-1, 1]."""
    return jnp.clip(jnp.round((value + 1.0) / 2.0 * (cfg.bins - 1)), 0, cfg.bins - 1).astype(jnp.int32)


def act(cfg: Config, spec: Spec, actor: Actor, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Choose a_1, then a_2 given a_1, ...: in each dimension the best bin, or a uniform one."""
    epsilon = 0.0
    if explore:
        fall = max(1, round(cfg.epsilon_fraction * cfg.horizon))
        epsilon = linear_schedule(actor.clock.env_steps, cfg.epsilon, cfg.epsilon_end, fall)
    action = jnp.zeros((len(jax.tree.leaves(obs)[0]), 0))
    for q, key_dimension in zip(actor.q, jax.random.split(key, len(actor.q)), strict=True):
        values = q((obs, action))
        index = epsilon_greedy(key_dimension, values, epsilon) if explore else values.argmax(axis=-1)
        action = jnp.concatenate([action, level(cfg, index)[..., None]], axis=-1)
    return action, memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of descent on a mini-batch [B, ...]."""
    size = len(state.q)
    index = nearest_bin(cfg, batch.action)
    taken = level(cfg, index)  # the action as the networks saw it

    # Q^i(s, a_1 .. a_i) <- max_b Q^(i+1)(s, a_1 .. a_i)[b], within the same step
    inner = [state.q_target[i]((batch.obs, taken[:, :i])).max(axis=-1) for i in range(1, size)]
    # Q^D(s, a) <- r + gamma max_b Q^1(s')[b]
    none = jnp.zeros((len(batch.reward), 0))
    target = batch.reward + batch.discount * state.q_target[0]((batch.next_obs, none)).max(axis=-1)
    targets = jnp.stack([*inner, target])  # [D, B]

    def loss(q: tuple[Tree, ...]) -> tuple[Array, Array]:
        values = [q[i]((batch.obs, taken[:, :i])) for i in range(size)]
        chosen = jnp.stack([(jax.nn.one_hot(index[:, i], cfg.bins) * values[i]).sum(-1) for i in range(size)])
        return (batch.weight * (chosen - targets) ** 2).mean(axis=-1).sum(), chosen

    (loss_value, chosen), grads = jax.value_and_grad(loss, has_aux=True)(state.q)
    q, opt_state = gradient_step(optimizer, grads, state.opt_state, state.q, cfg.lr)
    q_target = polyak_average(q, state.q_target, cfg.tau)
    metrics = {
        "loss": loss_value,  # sum over the dimensions of their mean squared error
        "q": chosen[-1].mean(),  # Q(s, a) of the whole action, mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
    }
    state = State(q, q_target, opt_state, state.clock.updated())
    return Update(state, metrics, priority=jnp.abs(chosen[-1] - target))


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="value",
    init=init,
    actor=actor,
    act=act,
    update=update,
    observe=count_steps,
)

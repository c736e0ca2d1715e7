"""Double DQN: the online network chooses the next action, the target network values it.

van Hasselt, Guez & Silver 2016, "Deep Reinforcement Learning with Double Q-learning" (arXiv:1509.06461), eq. 4.
Lecture 2 and 3. All else is DQN (Mnih et al. 2015); this file differs from `dqn.py` in the target.

Departures: those of DQN: Adam instead of centred RMSProp, a small MLP unless `network` says otherwise; beside the
error term the gradient's norm is clipped (`max_norm`), and the learning rate may fall (`lr_end`). Epsilon falls over a
share of the horizon (`epsilon_fraction`). Evaluation acts greedily. Time limits are bootstrapped through.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import (
    Algorithm,
    Array,
    Batch,
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
from polyak.parts.targets import follow
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The paper's settings, where the departures above do not say otherwise."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lr: float = within(2.5e-4, 0)  # Adam's learning rate at the first step
    lr_end: float = within(1.0, 0)  # share of lr left at the horizon; 1 keeps it constant, as the paper does
    epsilon: float = within(1.0, 0, 1)  # epsilon, probability of a random action, at the first step
    epsilon_end: float = within(0.1, 0, 1)  # epsilon once it has fallen
    epsilon_fraction: float = within(0.02, 0, 1)  # share of the horizon over which epsilon falls
    horizon: int = within(0, 0)  # environment steps that lr and epsilon fall over; 0: all of the run's
    tau: float = within(1.0, 0, 1)  # tau, share of the online weights in each step of the target; 1 copies
    period: int = within(10_000, 1)  # C, updates between two steps of the target
    huber: float = within(1.0, 0)  # the error term is clipped to [-huber, huber]; 0 squares it
    max_norm: float = within(10.0, 0)  # largest norm of the gradient, which is scaled down to it
    network: str = "mlp"  # builder of the network
    hidden: tuple[int, ...] = (256, 256)  # units of each hidden layer
    data: Replay = field(  # mini-batches [B, ...] from replay, with the paper's sizes
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=32, warmup=50_000, steps=4, clip=1.0)
    )

    @property
    def anneal(self) -> int:
        """Environment steps over which epsilon falls."""
        return max(1, round(self.epsilon_fraction * self.horizon))


@pytree
class State(Record):
    """The online network, its target and its optimiser."""

    q: Tree  # theta
    q_target: Tree  # theta^-
    opt_state: Tree
    clock: Clock


@pytree
class Actor(Record):
    """The online network, and how far epsilon has fallen."""

    q: Tree
    clock: Clock


def optimizer(cfg: Config):
    """Adam on the clipped gradient."""
    return adam(max_norm=cfg.max_norm)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A random network and its copy."""
    q = build(cfg.network)(key, spec.obs, spec.action.n, cfg.hidden)
    return State(q=q, q_target=copy(q), opt_state=optimizer(cfg).init(q), clock=start_clock())


def actor(state: State) -> Actor:
    """The part of the state that acting needs."""
    return Actor(state.q, state.clock)


def act(cfg: Config, spec: Spec, actor: Actor, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """With probability epsilon select a random action, otherwise argmax_a Q(s, a)."""
    q = actor.q(obs)
    if not explore:
        return jnp.argmax(q, axis=-1).astype(jnp.int32), memory, ()
    epsilon = linear_schedule(actor.clock.env_steps, cfg.epsilon, cfg.epsilon_end, cfg.anneal)
    return epsilon_greedy(key, q, epsilon), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of descent on a mini-batch [B, ...]."""
    # y <- r + gamma Q(s', argmax_a' Q(s', a'; theta); theta^-)      eq. 4
    best = jax.nn.one_hot(state.q(batch.next_obs).argmax(axis=-1), spec.action.n)
    next_q = (best * state.q_target(batch.next_obs)).sum(axis=-1)
    target = batch.reward + batch.discount * next_q

    # a gradient descent step on (y - Q(s, a))^2, its error term clipped
    def loss(q: Tree) -> tuple[Array, tuple[Array, Array]]:
        taken = jax.nn.one_hot(batch.action, spec.action.n)
        chosen = (taken * q(batch.obs)).sum(axis=-1)
        error = chosen - target
        return (batch.weight * huber(error, cfg.huber)).mean(), (chosen, error)

    (loss_value, (chosen, error)), grads = jax.value_and_grad(loss, has_aux=True)(state.q)
    lr = cfg.lr * linear_schedule(state.clock.env_steps, 1.0, cfg.lr_end, max(cfg.horizon, 1))
    q, opt_state = gradient_step(optimizer(cfg), grads, state.opt_state, state.q, lr)

    # every C steps reset Q^ = Q
    clock = state.clock.updated()
    q_target = follow(q, state.q_target, clock.updates, cfg.tau, cfg.period)
    metrics = {
        "loss": loss_value,  # Huber loss, mean over the mini-batch
        "q": chosen.mean(),  # Q(s, a), mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
    }
    return Update(State(q, q_target, opt_state, clock), metrics, priority=jnp.abs(error))


def huber(error: Array, width: float) -> Array:
    """Half the square of an error, linear beyond `width`; its derivative is the clipped error."""
    if width == 0:
        return 0.5 * error**2
    small = jnp.clip(error, -width, width)
    return small * (error - 0.5 * small)


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    family="value",
    init=init,
    actor=actor,
    act=act,
    update=update,
    observe=count_steps,
    value=lambda cfg, spec, state, obs, action: state.q(obs).max(axis=-1),
)

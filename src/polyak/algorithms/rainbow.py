"""Rainbow: DQN with six of its improvements together.

Hessel, Modayil, van Hasselt, Schaul, Ostrovski, Dabney, Horgan, Piot, Azar & Silver 2018, "Rainbow: Combining
Improvements in Deep Reinforcement Learning" (arXiv:1710.02298), section 3 and table 1. Lecture 2. Each of the six
can be turned off by itself: double Q-learning (`double`), the dueling network (`dueling`), a distribution over returns
(`critic = "scalar"`), n-step returns (`data.n_step = 1`), prioritised replay (`data.priority = 0`) and noisy layers
(`network = "mlp"`, with epsilon in their place). All else is DQN; this file differs from `dqn.py` in these.

Departures: those of DQN, but for Adam, which is this paper's. The two streams of the dueling network share all hidden
layers. The scalar critic has DQN's clipped error.
"""

from dataclasses import dataclass, field
from typing import Literal

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
from polyak.parts import categorical
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
    lr: float = within(6.25e-5, 0)  # Adam's learning rate at the first step
    lr_end: float = within(1.0, 0)  # share of lr left at the horizon; 1 keeps it constant, as the paper does
    double: bool = True  # the online network chooses the next action; false: the target's own best
    dueling: bool = True  # Q is a value and advantages; false: the network says it at once
    critic: Literal["categorical", "scalar"] = "categorical"  # a distribution over returns, or their mean
    low: float = -10.0  # v_min, return of the first atom, in units of the clipped reward
    high: float = 10.0  # v_max, return of the last atom
    atoms: int = within(51, 2)  # N_atoms, atoms of the distribution
    epsilon: float = within(0.0, 0, 1)  # epsilon, probability of a random action, at the first step
    epsilon_end: float = within(0.0, 0, 1)  # epsilon once it has fallen
    epsilon_fraction: float = within(0.02, 0, 1)  # share of the horizon over which epsilon falls
    horizon: int = within(0, 0)  # environment steps that lr and epsilon fall over; 0: all of the run's
    tau: float = within(1.0, 0, 1)  # tau, share of the online weights in each step of the target; 1 copies
    period: int = within(8_000, 1)  # C, updates between two steps of the target
    huber: float = within(1.0, 0)  # a scalar critic's error is clipped to [-huber, huber]; 0 squares it
    max_norm: float = within(10.0, 0)  # largest norm of the gradient, which is scaled down to it
    network: str = "noisy"  # builder of the network; noisy layers explore by themselves
    hidden: tuple[int, ...] = (256, 256)  # units of each hidden layer
    data: Replay = field(  # windows of n steps [B, ...], drawn by priority, with the paper's sizes
        default_factory=lambda: Replay(
            **{"capacity": 1_000_000, "batch_size": 32, "warmup": 20_000, "steps": 4, "clip": 1.0},
            **{"n_step": 3, "priority": 0.5, "correction": (0.4, 1.0, 12_500_000)},
        )
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
    return adam(eps=1.5e-4, max_norm=cfg.max_norm)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A random network and its copy."""
    rows, width = spec.action.n + cfg.dueling, cfg.atoms if cfg.critic == "categorical" else 1
    q = build(cfg.network)(key, spec.obs, rows * width, cfg.hidden)
    return State(q=q, q_target=copy(q), opt_state=optimizer(cfg).init(q), clock=start_clock())


def actor(state: State) -> Actor:
    """The part of the state that acting needs."""
    return Actor(state.q, state.clock)


def outputs(cfg: Config, spec: Spec, q: Tree, obs: Tree) -> Array:
    """Logits of Z(s, a), or Q(s, a) itself with one number in the last axis, [..., A, atoms]."""
    out = q(obs)
    out = out.reshape(*out.shape[:-1], spec.action.n + cfg.dueling, -1)
    if not cfg.dueling:
        return out
    # v_eta(f) + a_psi(f, a) - mean_a' a_psi(f, a')      Dueling networks
    value, advantage = out[..., :1, :], out[..., 1:, :]
    return value + advantage - advantage.mean(axis=-2, keepdims=True)


def mean(cfg: Config, out: Array) -> Array:
    """Q(s, a) = E[Z(s, a)] from what a network says, without its last axis."""
    if cfg.critic == "scalar":
        return out[..., 0]
    return categorical.mean(out, categorical.support(cfg.low, cfg.high, cfg.atoms))


def act(cfg: Config, spec: Spec, actor: Actor, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """With probability epsilon select a random action, otherwise argmax_a Q(s, a)."""
    q = mean(cfg, outputs(cfg, spec, actor.q, obs))
    if not explore:
        return jnp.argmax(q, axis=-1).astype(jnp.int32), memory, ()
    epsilon = linear_schedule(actor.clock.env_steps, cfg.epsilon, cfg.epsilon_end, cfg.anneal)
    return epsilon_greedy(key, q, epsilon), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of descent on a mini-batch [B, ...]."""
    # a* = argmax_a' Q(s', a'; theta), or the target network's own
    next_out = outputs(cfg, spec, state.q_target, batch.next_obs)
    judge = outputs(cfg, spec, state.q, batch.next_obs) if cfg.double else next_out
    best = jax.nn.one_hot(mean(cfg, judge).argmax(axis=-1), spec.action.n)
    next_out = (best[..., None] * next_out).sum(axis=-2)
    target = batch.reward + batch.discount * mean(cfg, next_out)

    # a gradient descent step on D_KL(Phi d' || d), d' = (R + gamma^n z, p_theta^-(s', a*)), or on the clipped error
    def loss(q: Tree) -> tuple[Array, tuple[Array, Array]]:
        taken = jax.nn.one_hot(batch.action, spec.action.n)
        out = (taken[..., None] * outputs(cfg, spec, q, batch.obs)).sum(axis=-2)
        chosen = mean(cfg, out)
        if cfg.critic == "scalar":
            error = chosen - target
            return (batch.weight * huber(error, cfg.huber)).mean(), (chosen, jnp.abs(error))
        atoms = categorical.support(cfg.low, cfg.high, cfg.atoms)
        projected = categorical.bellman(batch.reward, batch.discount, jax.nn.softmax(next_out), atoms)
        divergence = categorical.log_loss(projected, out) - categorical.entropy(projected)
        return (batch.weight * divergence).mean(), (chosen, jnp.maximum(divergence, 0.0))

    (loss_value, (chosen, distance)), grads = jax.value_and_grad(loss, has_aux=True)(state.q)
    lr = cfg.lr * linear_schedule(state.clock.env_steps, 1.0, cfg.lr_end, max(cfg.horizon, 1))
    q, opt_state = gradient_step(optimizer(cfg), grads, state.opt_state, state.q, lr)

    # every C steps reset Q^ = Q
    clock = state.clock.updated()
    q_target = follow(q, state.q_target, clock.updates, cfg.tau, cfg.period)
    metrics = {
        "loss": loss_value,  # KL divergence from the target, or Huber loss; weighted mean
        "q": chosen.mean(),  # Q(s, a), mean over the mini-batch
        "target": target.mean(),  # mean of the target before it is clipped to the support
    }
    return Update(State(q, q_target, opt_state, clock), metrics, priority=distance)


def huber(error: Array, width: float) -> Array:
    """Half the square of an error, linear beyond `width`; its derivative is the clipped error."""
    if width == 0:
        return 0.5 * error**2
    small = jnp.clip(error, -width, width)
    return small * (error - 0.5 * small)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A support that has no width."""
    if cfg.low < cfg.high:
        return []
    return [f"low is {cfg.low:g} and high {cfg.high:g}, but the atoms must rise from low to high"]


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    family="value",
    init=init,
    actor=actor,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
)

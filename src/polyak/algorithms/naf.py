"""NAF: Q-learning with normalised advantage functions.

Gu, Lillicrap, Sutskever & Levine 2016, "Continuous Deep Q-Learning with Model-based Acceleration"
(arXiv:1603.00748), Algorithm 1 and section 4. Lecture 4.

Departures: one network has V, mu and L as its outputs, as in the paper's figure; no batch normalisation, but the last
layer starts small and the gradient's norm is clipped (`max_norm`). mu is kept in [-1, 1] by tanh. A warm-up of uniform
actions comes first. A time limit is bootstrapped through.
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
from polyak.parts.exploration import ActionNoise, add_noise, initial_noise
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.parts.targets import polyak_average
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The paper's section 4 and appendix; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lr: float = within(1e-3, 0)  # Adam's learning rate
    max_norm: float = within(1.0, 0)  # largest norm of the gradient, which is scaled down to it
    tau: float = within(0.001, 0, 1)  # tau, share of the new weights in each step of the target
    noise: ActionNoise = "ou"  # of exploration: Ornstein-Uhlenbeck's or Gaussian
    sigma: float = within(0.3, 0)  # sigma, scale of the noise in units of half the action range
    theta: float = within(0.15, 0)  # theta, rate at which Ornstein-Uhlenbeck noise returns to 0, per step
    network: str = "mlp"  # builder of the network
    hidden: tuple[int, ...] = (200, 200)  # units of each hidden layer
    data: Replay = field(  # mini-batches of transitions [B, ...]
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=100, warmup=1_000, updates=5)
    )


@pytree
class State(Record):
    """The network, its target and its optimiser."""

    q: Tree  # theta^Q, of which V, mu and L are outputs
    q_target: Tree  # theta^Q'
    opt_state: Tree
    clock: Clock


def optimizer(cfg: Config):
    """Adam on the clipped gradient."""
    return adam(max_norm=cfg.max_norm)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A random network and its copy: mu begins near 0, and L near the identity."""
    size = spec.action.size
    outputs = 1 + size + size * (size + 1) // 2
    q = build(cfg.network)(key, spec.obs, outputs, cfg.hidden, scale=0.01)
    return State(q, copy(q), optimizer(cfg).init(q), start_clock())


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """A random process N for action exploration, started with the episode."""
    return initial_noise(cfg.noise, (len(env_ids), spec.action.size))


def heads(q: Tree, size: int, obs: Tree) -> tuple[Array, Array, Array]:
    """V(s) [...], mu(s) [..., A] and the lower-triangular L(s) [..., A, A], whose diagonal is positive."""
    value, mu, entries = jnp.split(q(obs), [1, 1 + size], axis=-1)
    row, column = jnp.tril_indices(size)
    entries = jnp.where(row == column, jnp.exp(entries), entries)
    lower = jnp.zeros((*entries.shape[:-1], size, size)).at[..., row, column].set(entries)
    return value[..., 0], jnp.tanh(mu), lower


def action_value(q: Tree, obs: Tree, action: Array) -> Array:
    """Q(s, a) = V(s) - 1/2 (a - mu(s))^T L(s) L(s)^T (a - mu(s)), [...]."""
    value, mu, lower = heads(q, action.shape[-1], obs)
    # the quadratic form is the squared length of L^T (a - mu): nothing is multiplied out or inverted
    along = jnp.einsum("...ij,...i->...j", lower, action - mu)
    return value - 0.5 * (along**2).sum(axis=-1)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Select action a_t = mu(x_t|theta^mu) + N_t."""
    action = heads(actor, spec.action.size, obs)[1]
    if explore:
        action, memory = add_noise(cfg.noise, key, action, memory, cfg.sigma, cfg.theta)
    return action, memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One of the I iterations of Algorithm 1, on a mini-batch [B, ...]."""
    # y_i = r_i + gamma V'(x_{i+1})
    target = batch.reward + batch.discount * heads(state.q_target, spec.action.size, batch.next_obs)[0]

    # update theta^Q by minimising L = 1/N sum_i (y_i - Q(x_i, u_i))^2
    def loss(q: Tree) -> tuple[Array, Array]:
        value = action_value(q, batch.obs, batch.action)
        return (batch.weight * (value - target) ** 2).mean(), value

    (loss_value, value), grads = jax.value_and_grad(loss, has_aux=True)(state.q)
    q, opt_state = gradient_step(optimizer(cfg), grads, state.opt_state, state.q, cfg.lr)

    # theta^Q' <- tau theta^Q + (1 - tau) theta^Q'
    q_target = polyak_average(q, state.q_target, cfg.tau)
    metrics = {
        "loss": loss_value,  # mean squared error
        "q": value.mean(),  # Q(s, a), mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
    }
    return Update(State(q, q_target, opt_state, state.clock.updated()), metrics, jnp.abs(value - target))


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="value",
    init=init,
    actor=lambda state: state.q,
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
)

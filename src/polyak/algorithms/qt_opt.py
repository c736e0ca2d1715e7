"""QT-Opt: Q-learning whose maximum over actions is found by optimisation, without an actor.

Kalashnikov, Irpan, Pastor, Ibarz, Herzog, Jang, Quillen, Holly, Kalakrishnan, Vanhoucke & Levine 2018, "QT-Opt:
Scalable Deep Reinforcement Learning for Vision-Based Robotic Manipulation" (arXiv:1806.10293), section 4 and appendix
A. With `maximizer="gradient"` actions climb Q by gradient ascent instead. Lecture 4.

Departures: a squared error and Adam instead of a cross-entropy and momentum, since returns are no probabilities; the
second target network is the average of one copy and not six minutes older; exploration is Gaussian noise on the best
action, and a fifth of the actions uniform (appendix D.2). A time limit is bootstrapped through.
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
from polyak.parts.exploration import gaussian
from polyak.parts.maximizers import cross_entropy_method, gradient_ascent
from polyak.parts.networks import build, ensemble
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.parts.targets import polyak_average
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The paper's settings of the optimisation over actions; those of learning suit low-dimensional tasks."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lr: float = within(1e-3, 0)  # Adam's learning rate
    tau: float = within(0.005, 0, 1)  # share of the new weights in each step of the targets
    maximizer: Literal["cross_entropy", "gradient"] = "cross_entropy"  # how argmax_a Q(s, a) is found
    samples: int = within(64, 1)  # N, actions of one iteration; of gradient ascent, its starts
    elites: int = within(6, 1)  # M, the best of them, to which the next Gaussian is fitted
    iterations: int = within(2, 1)  # of the optimisation over actions
    ascent: float = within(0.1, 0)  # length of a step of gradient ascent, in units of half the action range
    sigma: float = within(0.1, 0)  # scale of the noise while acting, in units of half the action range
    epsilon: float = within(0.2, 0, 1)  # probability of a uniform action while acting
    network: str = "mlp"  # builder of the critics
    hidden: tuple[int, ...] = (128, 128)  # units of each hidden layer
    data: Replay = field(  # mini-batches of transitions [B, ...]
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=128, warmup=1_000)
    )


@pytree
class State(Record):
    """Two critics, their targets and their optimiser."""

    critics: Tree  # theta_1, theta_2
    critics_target: Tree  # theta-bar_1, theta-bar_2
    opt_state: Tree
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random critics; targets start as copies."""
    network = build(cfg.network)
    critics = ensemble(lambda key: network(key, (spec.obs, spec.action), 1, cfg.hidden), key, 2)
    return State(critics, copy(critics), optimizer.init(critics), start_clock())


def best_action(cfg: Config, spec: Spec, critics: Tree, obs: Tree, key: Array) -> Array:
    """pi(s) = argmax_a Q_1(s, a), [B, A], for observations [B, ...]."""

    def value(action: Array) -> Array:  # [N, B, A] -> [N, B]
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (*action.shape[:1], *x.shape)), obs)
        return critics.first((many, action))[..., 0]

    shape = len(jax.tree.leaves(obs)[0]), spec.action.size
    if cfg.maximizer == "gradient":
        return gradient_ascent(value, key, shape, cfg.samples, cfg.iterations, cfg.ascent)
    return cross_entropy_method(value, key, shape, cfg.samples, cfg.elites, cfg.iterations)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The best action; while exploring with noise, and with probability epsilon a uniform one."""
    key_best, key_noise, key_whether, key_uniform = jax.random.split(key, 4)
    # without exploring the optimisation draws the same numbers always
    action = best_action(cfg, spec, actor, obs, key_best if explore else jax.random.key(0))
    if explore:
        noisy = gaussian(key_noise, action, cfg.sigma)
        uniform = jax.random.uniform(key_uniform, action.shape, minval=-1.0)
        somewhere = jax.random.uniform(key_whether, (len(action), 1)) < cfg.epsilon
        action = jnp.where(somewhere, uniform, noisy)
    return action, memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of descent on a mini-batch [B, ...]."""
    # V(s') = min_i Q-bar_i(s', argmax_a' Q-bar_1(s', a'))      eq. 3
    next_action = best_action(cfg, spec, state.critics_target, batch.next_obs, key)
    next_q = state.critics_target((batch.next_obs, next_action))[..., 0].min(axis=0)
    target = batch.reward + batch.discount * next_q

    # E(theta) = E[D(Q(s, a), r + gamma V(s'))]      eq. 1
    def loss(critics: Tree) -> tuple[Array, Array]:
        q = critics((batch.obs, batch.action))[..., 0]  # [2, B]
        return (batch.weight * (q - target) ** 2).mean(axis=-1).sum(), q

    (loss_value, q), grads = jax.value_and_grad(loss, has_aux=True)(state.critics)
    critics, opt_state = gradient_step(optimizer, grads, state.opt_state, state.critics, cfg.lr)
    critics_target = polyak_average(critics, state.critics_target, cfg.tau)
    metrics = {
        "loss": loss_value,  # sum over the critics of their mean squared error
        "q": q[0].mean(),  # Q_1(s, a), mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
    }
    state = State(critics, critics_target, opt_state, state.clock.updated())
    return Update(state, metrics, priority=jnp.abs(q - target).mean(axis=0))


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="value",
    init=init,
    actor=lambda state: state.critics,
    act=act,
    update=update,
    observe=count_steps,
)

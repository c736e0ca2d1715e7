"""DPG: deterministic policy gradients with compatible function approximation, off-policy.

Silver, Lever, Heess, Degris, Wierstra & Riedmiller 2014, "Deterministic Policy Gradient Algorithms" (ICML), sections
4.2 and 4.3: COPDAC-Q, whose critic learns by Q-learning, and COPDAC-GQ, by gradient Q-learning. Lecture 2. There
are no importance weights: the policy is deterministic, and the critic learns its value from any actions.

Departures: mini-batches from replay; the paper takes each transition once, as it comes, which is
`data.capacity` = `data.batch_size` = 1 with one environment. The policy and V are networks as `network` and `hidden`
say (without hidden layers linear in the observation), and where actions have bounds a tanh keeps the policy inside.
"""

import math
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
from polyak.parts.networks import build
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Symbols are the paper's, which tunes the learning rates for each task."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    actor_lr: float = within(1e-3, 0)  # alpha_theta, step size of the policy
    advantage_lr: float = within(1e-2, 0)  # alpha_w, step size of the weights of the advantage
    value_lr: float = within(1e-2, 0)  # alpha_v, step size of V
    correction_lr: float = within(1e-2, 0)  # alpha_u, step size of gradient Q-learning's second weights
    critic: Literal["q", "gq"] = "q"  # COPDAC-Q, or gradient Q-learning's COPDAC-GQ
    natural: bool = False  # follow the natural gradient, which is w itself
    sigma: float = within(0.2, 0)  # of the behaviour N(mu(s), sigma^2), in units of half the action range
    network: str = "mlp"  # builder of the policy and of V
    hidden: tuple[int, ...] = (64,)  # units of each hidden layer, in both; none is linear
    data: Replay = field(  # mini-batches of transitions [B, ...]
        default_factory=lambda: Replay(capacity=100_000, batch_size=64, warmup=1_000)
    )


@pytree
class State(Record):
    """The policy, and the critic's three sets of weights."""

    actor: Tree  # theta
    advantage: Tree  # w, one for each number of theta
    value: Tree  # v
    correction: Tree  # u, one for each number of theta; 0 in COPDAC-Q
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks; hardly any action is better than another yet."""
    key_actor, key_advantage, key_value = jax.random.split(key, 3)
    network = build(cfg.network)
    actor = network(key_actor, spec.obs, spec.action.size, cfg.hidden)
    return State(
        actor=actor,
        advantage=jax.tree.map(
            lambda x: 0.01 * x, network(key_advantage, spec.obs, spec.action.size, cfg.hidden)
        ),
        value=network(key_value, spec.obs, 1, cfg.hidden),
        correction=jax.tree.map(jnp.zeros_like, actor),
        clock=start_clock(),
    )


def bounded(spec: Spec) -> bool:
    """Whether every action has two bounds, between which -1 and 1 are rescaled."""
    return all(math.isfinite(bound) for bound in jax.tree.leaves((spec.action.low, spec.action.high)))


def policy(spec: Spec, actor: Tree, obs: Tree) -> Array:
    """mu(s), [..., A], inside [-1, 1] where there are bounds."""
    mu = actor(obs)
    return jnp.tanh(mu) if bounded(spec) else mu


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Action a ~ beta(.|s) = N(mu(s), sigma^2), or mu(s)."""
    action = policy(spec, actor, obs)
    if explore:
        action = action + cfg.sigma * jax.random.normal(key, action.shape)
        action = jnp.clip(action, -1.0, 1.0) if bounded(spec) else action
    return action, memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of COPDAC-Q or COPDAC-GQ on the mean over a mini-batch [B, ...]."""

    def mean_grad(function: Tree, params: Tree, slope: Array) -> Tree:
        """The mean over rows of grad function(params) times slope [B, ...]."""
        return jax.vjp(function, params)[1](slope / batch.reward.size)[0]

    def mu_of(actor: Tree) -> Array:
        return policy(spec, actor, batch.obs)

    def value_of(value: Tree) -> Array:
        return value(batch.obs)[..., 0]

    def next_value_of(value: Tree) -> Array:
        return value(batch.next_obs)[..., 0]

    # phi(s, a) = grad_theta mu(s) (a - mu(s)),   grad_a Q^w(s, a) = grad_theta mu(s)^T w          Theorem 3
    mu, slope = jax.jvp(mu_of, (state.actor,), (state.advantage,))
    away = batch.action - mu
    # delta_t = r_t + gamma Q^w(s', mu(s')) - Q^w(s, a),   Q^w(s, a) = phi(s, a)^T w + V^v(s);   phi(s', mu(s')) = 0
    q = (away * slope).sum(axis=-1) + value_of(state.value)
    target = batch.reward + batch.discount * next_value_of(state.value)
    delta = target - q
    weighted = batch.weight * delta

    # theta <- theta + alpha_theta grad_theta mu(s) (grad_theta mu(s)^T w), or the natural gradient alpha_theta w
    ascent = state.advantage if cfg.natural else mean_grad(mu_of, state.actor, batch.weight[:, None] * slope)
    # w <- w + alpha_w delta phi(s, a)
    advantage = mean_grad(mu_of, state.actor, weighted[:, None] * away)
    # v <- v + alpha_v delta phi(s)
    value = mean_grad(value_of, state.value, weighted)

    correction = state.correction
    if cfg.critic == "gq":
        # v <- v - alpha_v gamma phi(s') (phi(s, a)^T u);   w's own correction is 0, as phi(s', mu(s')) is
        seen = (away * jax.jvp(mu_of, (state.actor,), (state.correction,))[1]).sum(axis=-1)
        value = add(value, mean_grad(next_value_of, state.value, batch.weight * batch.discount * seen), -1.0)
        # u <- u + alpha_u (delta - phi(s, a)^T u) phi(s, a)
        rest = mean_grad(mu_of, state.actor, (batch.weight * (delta - seen))[:, None] * away)
        correction = add(correction, rest, cfg.correction_lr)

    state = State(
        actor=add(state.actor, ascent, cfg.actor_lr),
        advantage=add(state.advantage, advantage, cfg.advantage_lr),
        value=add(state.value, value, cfg.value_lr),
        correction=correction,
        clock=state.clock.updated(),
    )
    metrics = {
        "td_error": (delta**2).mean(),  # delta^2, mean over the mini-batch
        "q": q.mean(),  # Q(s, a), mean over the mini-batch
        "target": target.mean(),  # r + gamma Q(s', mu(s')), mean over the mini-batch
        "slope": jnp.abs(slope).mean(),  # |grad_a Q| at a = mu(s), mean over rows and actions
    }
    return Update(state, metrics, priority=jnp.abs(delta))


def add(tree: Tree, step: Tree, rate: float) -> Tree:
    """Each leaf plus `rate` times its step."""
    return jax.tree.map(lambda x, s: (x + rate * s).astype(x.dtype), tree, step)


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="actor-critic",
    init=init,
    actor=lambda state: state.actor,
    act=act,
    update=update,
    observe=count_steps,
)

"""D4PG: distributed distributional deterministic policy gradients.

Barth-Maron, Hoffman, Budden, Dabney, Horgan, TB, Muldal, Heess & Lillicrap 2018, "Distributed Distributional
Deterministic Policy Gradients" (arXiv:1804.08617), Algorithm 1. Lecture 2. It is DDPG with four parts, each of which
can be turned off by itself: a categorical critic (`critic = "scalar"`), n-step returns (`data.n_step = 1`), prioritised
replay (`data.priority = 0`), and Gaussian exploration (`noise = "ou"`). `--num-envs 32` are the paper's actors.

Departures: the actors act in step with the learner and always with its newest weights. Priorities are the critic's
loss on the row: the KL divergence from the target, or the absolute error of a scalar critic. A warm-up of uniform
actions comes first. A time limit is bootstrapped through. With `noise = "parameter"` (Plappert et al. 2018) an
episode's noise is added to the newest weights, which move on meanwhile.
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
from polyak.parts.exploration import Noise, adapted_scale, explore_by, initial_noise, initial_scale
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.parts.targets import follow
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The paper's settings; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    actor_lr: float = within(1e-4, 0)  # alpha, Adam's learning rate of the actor
    critic_lr: float = within(1e-4, 0)  # beta, Adam's learning rate of the critic
    critic: Literal["categorical", "scalar"] = "categorical"  # a distribution over returns, or their mean
    low: float = -150.0  # V_min, return of the first atom, in the environment's own units
    high: float = 150.0  # V_max, return of the last atom
    atoms: int = within(51, 2)  # l, atoms of the distribution
    tau: float = within(1.0, 0, 1)  # share of the new weights in each step of the two targets; 1 copies
    period: int = within(100, 1)  # t_target, updates between two steps of the targets
    noise: Noise = "gaussian"  # of exploration: Gaussian, Ornstein-Uhlenbeck's, or on the actor's parameters
    sigma: float = within(0.3, 0)  # epsilon (delta on parameters), scale in units of half the action range
    theta: float = within(0.15, 0)  # theta, rate at which Ornstein-Uhlenbeck noise returns to 0, per step
    network: str = "mlp"  # builder of actor and critic
    hidden: tuple[int, ...] = (256, 256)  # units of each hidden layer, in both networks
    data: Replay = field(  # windows of N steps [B, ...], drawn by priority and weighted by (R p_i)^-1
        default_factory=lambda: Replay(capacity=1_000_000, n_step=5, priority=0.6, correction=1.0)
    )


@pytree
class State(Record):
    """Networks, targets and optimisers."""

    actor: Tree  # theta
    critic: Tree  # w
    actor_target: Tree  # theta'
    critic_target: Tree  # w'
    actor_opt_state: Tree
    critic_opt_state: Tree
    scale: Tree  # sigma of noise on the parameters, else nothing
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Lines 2 and 3: random networks; targets start as copies."""
    key_actor, key_critic = jax.random.split(key)
    network = build(cfg.network)
    outputs = cfg.atoms if cfg.critic == "categorical" else 1
    actor = network(key_actor, spec.obs, spec.action.size, cfg.hidden)
    critic = network(key_critic, (spec.obs, spec.action), outputs, cfg.hidden)
    return State(
        actor=actor,
        critic=critic,
        actor_target=copy(actor),
        critic_target=copy(critic),
        actor_opt_state=optimizer.init(actor),
        critic_opt_state=optimizer.init(critic),
        scale=initial_scale(cfg.noise, cfg.sigma),
        clock=start_clock(),
    )


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """What the noise keeps for an episode: nothing where it is Gaussian."""
    return initial_noise(cfg.noise, (len(env_ids), spec.action.size), key)


def policy(actor: Tree, obs: Tree) -> Array:
    """pi(x) in [-1, 1], [..., A]."""
    return jnp.tanh(actor(obs))


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Actor, line 2: sample action a = pi_theta(x) + epsilon N(0, 1)."""
    mu, scale = actor
    if not explore:
        return policy(mu, obs), memory, ()
    action, memory = explore_by(cfg.noise, key, policy, mu, scale, obs, memory, cfg.sigma, cfg.theta)
    return action, memory, ()


def value(cfg: Config, out: Array) -> Array:
    """Q(x, a) = E[Z(x, a)] from what a critic says, [...]."""
    if cfg.critic == "scalar":
        return out[..., 0]
    return categorical.mean(out, categorical.support(cfg.low, cfg.high, cfg.atoms))


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Lines 7 to 10, on a mini-batch [B, ...]: rows span N steps, `discount` is gamma^N."""
    # 7: Y_i = sum_n gamma^n r_{i+n} + gamma^N Z_w'(x_{i+N}, pi_theta'(x_{i+N}))
    next_action = policy(state.actor_target, batch.next_obs)
    next_out = state.critic_target((batch.next_obs, next_action))
    target = batch.reward + batch.discount * value(cfg, next_out)

    # 8: delta_w = 1/M sum_i grad_w (R p_i)^-1 d(Y_i, Z_w(x_i, a_i))
    def critic_loss(critic: Tree) -> tuple[Array, tuple[Array, Array]]:
        out = critic((batch.obs, batch.action))
        if cfg.critic == "scalar":
            error = value(cfg, out) - target
            return (batch.weight * error**2).mean(), (out, jnp.abs(error))
        atoms = categorical.support(cfg.low, cfg.high, cfg.atoms)
        projected = categorical.bellman(batch.reward, batch.discount, jax.nn.softmax(next_out), atoms)
        divergence = categorical.log_loss(projected, out) - categorical.entropy(projected)
        return (batch.weight * divergence).mean(), (out, jnp.maximum(divergence, 0.0))

    (loss, (out, distance)), critic_grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)

    # delta_theta = 1/M sum_i grad_theta pi_theta(x_i) E[grad_a Z_w(x_i, a)], a = pi_theta(x_i)
    def actor_loss(actor: Tree) -> Array:
        return -value(cfg, state.critic((batch.obs, policy(actor, batch.obs)))).mean()

    actor_grads = jax.grad(actor_loss)(state.actor)

    # 9: theta <- theta + alpha_t delta_theta,   w <- w + beta_t delta_w
    actor, actor_opt_state = gradient_step(
        optimizer, actor_grads, state.actor_opt_state, state.actor, cfg.actor_lr
    )
    critic, critic_opt_state = gradient_step(
        optimizer, critic_grads, state.critic_opt_state, state.critic, cfg.critic_lr
    )

    # 10: if t = 0 mod t_target, update the target networks (theta', w') <- (theta, w)
    clock = state.clock.updated()
    targets = follow(
        (actor, critic), (state.actor_target, state.critic_target), clock.updates, cfg.tau, cfg.period
    )
    state = State(
        actor=actor,
        critic=critic,
        actor_target=targets[0],
        critic_target=targets[1],
        actor_opt_state=actor_opt_state,
        critic_opt_state=critic_opt_state,
        scale=adapted_scale(cfg.noise, key, policy, actor, state.scale, batch.obs, cfg.sigma),
        clock=clock,
    )
    metrics = {
        "critic_loss": loss,  # KL divergence from the target, or squared error; weighted mean
        "q": value(cfg, out).mean(),  # Q(x, a), mean over the mini-batch
        "target": target.mean(),  # E[Y] before it is clipped to the support, mean over the mini-batch
    }
    return Update(state, metrics, priority=distance)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A support that has no width."""
    if cfg.low < cfg.high:
        return []
    return [f"low is {cfg.low:g} and high {cfg.high:g}, but the atoms must rise from low to high"]


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="actor-critic",
    init=init,
    actor=lambda state: (state.actor, state.scale),
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
)

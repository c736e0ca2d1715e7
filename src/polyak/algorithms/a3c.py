"""A3C: asynchronous advantage actor-critic.

Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver & Kavukcuoglu 2016, "Asynchronous Methods for Deep Reinforcement
Learning" (arXiv:1602.01783), Algorithm S3; RMSProp with shared statistics, equations (8) and (9). Lecture 3.

What one actor-learner thread does with its own rollout; which threads there are, what they have read and when their
gradients arrive is the driver's: `--sync lockstep`, `async` or `hogwild`, with `--workers`.

Departures: policy and value function share no weights (as in the paper's experiments with real actions); a gradient
is the mean over its rows where the paper has the sum. A segment goes on after the end of an episode, at which returns
are cut; where that is a time limit they bootstrap from the value of the true successor. The paper draws the learning
rate at random and says nothing of RMSProp's epsilon: both are settings here.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax

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
from polyak.parts.optimize import adam, gradient_step, rmsprop
from polyak.parts.policies import Family, Sigma, policy_and_value
from polyak.parts.returns import gae
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The paper's settings where it names them; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    rule: Literal["rmsprop", "adam"] = "rmsprop"  # how a gradient becomes a step; rmsprop is the paper's
    lr: float = within(7e-4, 0)  # eta, learning rate at the first step
    lr_end: float = within(0.0, 0)  # share of lr left at the horizon; 1 keeps it constant
    decay: float = within(0.99, 0, 1)  # alpha, decay of RMSProp's mean of squared gradients
    eps: float = within(1e-5, 0)  # epsilon of RMSProp, or of Adam
    value_loss: float = within(1.0, 0)  # weight of the squared error of the value function
    entropy: float = within(0.01, 0)  # beta, weight of the policy's entropy in nats
    max_norm: float | None = within(
        None, 0
    )  # largest norm of a gradient, which is scaled down to it; None: any
    policy: Family = "gaussian"  # of real actions: gaussian, or beta, which ends at their bounds
    sigma: Sigma = "parameter"  # of a Gaussian: parameters, one for all, outputs, a whole matrix, or fixed
    log_sigma: float = 0.0  # where log sigma starts; sigma is in units of half the action range
    network: str = "mlp"  # builder of the policy's and the value function's networks
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer, in both networks
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    horizon: int = within(0, 0)  # T_max, environment steps that lr falls over; 0: all of the run's
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=5))  # one segment [t_max, N, ...]


@pytree
class State(Record):
    """The global parameters, and the statistics of their one optimiser, which all threads share."""

    policy: Tree  # theta
    critic: Tree  # theta_v
    opt_state: Tree  # g
    clock: Clock  # T


def optimizer(cfg: Config):
    """RMSProp with shared statistics: g <- alpha g + (1 - alpha) d theta^2, a step eta d theta / sqrt(g + eps)."""
    if cfg.rule == "adam":
        return adam(eps=cfg.eps, max_norm=cfg.max_norm)
    return rmsprop(cfg.decay, cfg.eps, cfg.max_norm)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Orthogonal networks; the first policy is nearly uniform, or N(0, sigma)."""
    policy, critic = policy_and_value(cfg, spec, key)
    return State(policy, critic, optimizer(cfg).init((policy, critic)), start_clock())


def actor(state: State) -> tuple[Tree, Tree, Clock]:
    """What a thread reads: theta' <- theta and theta'_v <- theta_v, and the counter T."""
    return state.policy, state.critic, state.clock


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Perform a_t according to policy pi(a_t|s_t; theta'), or take its mode."""
    pi = actor[0](obs)
    return (pi.sample(key) if explore else pi.mode()), memory, ()


def gradient(cfg: Config, spec: Spec, actor: Tree, batch: Batch, key: Array) -> tuple[Tree, dict[str, Array]]:
    """Accumulate d theta and d theta_v over a thread's own segment [t_max, N, ...]."""
    policy, critic, _ = actor

    def loss(params: tuple) -> tuple[Array, dict[str, Array]]:
        policy, critic = params
        value, next_value = critic(batch.obs)[..., 0], critic(batch.next_obs)[..., 0]
        # R <- 0 for terminal s_t, V(s_t; theta'_v) otherwise; backwards R <- r_i + gamma R; here minus V(s_i)
        fixed, after = jax.lax.stop_gradient((value, next_value))
        advantage = gae(batch.reward, batch.discount, batch.last, fixed, after, 1.0)
        pi = policy(batch.obs)
        # d theta <- d theta + grad log pi(a_i|s_i; theta') (R - V(s_i; theta'_v)) + beta grad H(pi)
        policy_loss = -(pi.log_prob(batch.action) * advantage).mean()
        entropy = pi.entropy().mean()
        # d theta_v <- d theta_v + d (R - V(s_i; theta'_v))^2 / d theta'_v
        value_loss = ((advantage + fixed - value) ** 2).mean()
        metrics = {
            "policy_loss": policy_loss,  # minus log pi(a|s) times the advantage
            "value_loss": value_loss,  # mean squared error of the value function
            "entropy": entropy,  # of the policy in nats
        }
        return policy_loss + cfg.value_loss * value_loss - cfg.entropy * entropy, metrics

    return jax.grad(loss, has_aux=True)((policy, critic))


def apply(cfg: Config, spec: Spec, state: State, grads: Tree) -> State:
    """The update of theta with d theta and of theta_v with d theta_v, asynchronous where the driver is."""
    lr = cfg.lr * linear_schedule(state.clock.env_steps, 1.0, cfg.lr_end, max(cfg.horizon, 1))
    params = state.policy, state.critic
    (policy, critic), opt_state = gradient_step(optimizer(cfg), grads, state.opt_state, params, lr)
    return State(policy, critic, opt_state, state.clock.updated())


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """What a single thread does, which waits for nobody."""
    grads, metrics = gradient(cfg, spec, actor(state), batch, key)
    return Update(apply(cfg, spec, state, grads), metrics)


algorithm = Algorithm(
    Config=Config,
    actions=("discrete", "continuous"),
    family="policy gradient",
    init=init,
    actor=actor,
    act=act,
    update=update,
    observe=count_steps,
    gradient=gradient,
    apply=apply,
)

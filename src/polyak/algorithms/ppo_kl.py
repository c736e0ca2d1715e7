"""PPO-KL: proximal policy optimisation with an adaptive KL penalty.

Schulman, Wolski, Dhariwal, Radford & Klimov 2017, "Proximal Policy Optimization Algorithms" (arXiv:1707.06347),
section 4: the penalised objective of eq. 8, whose coefficient beta is doubled or halved after each rollout. Lecture 3.

Departures: those of `ppo.py`, from which this file differs in the objective and in beta: advantages are normalised
within each mini-batch and the gradient's norm is clipped (`max_norm`); Adam's epsilon is 1e-5, all layers start
orthogonal and the policy's last one small; policy and value function share no weights, and c1 is 0.5. A mini-batch
takes whole times, drawn without replacement, of every environment: as many as come nearest to M rows, and the last of
an epoch the fewer that are left. Where an episode is cut by a time limit the
advantage bootstraps from the value of the true successor.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

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
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.policies import Family, Sigma, policy_and_value
from polyak.parts.returns import gae
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The paper's Table 3; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lam: float = within(0.95, 0, 1)  # lambda of the advantage estimate GAE(lambda)
    lr: float = within(3e-4, 0)  # Adam's learning rate at the first step
    lr_end: float = within(1.0, 0)  # share of lr left at the horizon; 1 keeps it constant, 0 anneals it away
    kl_target: float = within(0.01, 0)  # d_targ, KL divergence of the old policy from the new, in nats
    beta: float = within(1.0, 0)  # beta, weight of the penalty before the first rollout
    epochs: int = within(10, 1)  # K, passes over a rollout
    minibatch: int = within(64, 1)  # M, rows of a gradient step: whole times of all environments, or fewer
    value_loss: float = within(0.5, 0)  # c1, weight of the squared error of the value function
    entropy: float = within(0.0, 0)  # c2, weight of the policy's entropy in nats; lecture 3 calls it beta
    max_norm: float = within(0.5, 0)  # largest norm of the gradient, which is scaled down to it
    normalize_advantage: bool = True  # make advantages mean 0 and deviation 1 in each mini-batch
    policy: Family = "gaussian"  # of real actions: gaussian, or beta, which ends at their bounds
    sigma: Sigma = "parameter"  # of a Gaussian: parameters, one for all, outputs, a whole matrix, or fixed
    log_sigma: float = 0.0  # where log sigma starts; sigma is in units of half the action range
    network: str = "mlp"  # builder of the policy's and the value function's networks
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer, in both networks
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    horizon: int = within(0, 0)  # environment steps that lr falls over; 0: all of the run's
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=2048))  # one rollout [T, N, ...]


@pytree
class State(Record):
    """Policy, value function and their one optimiser."""

    policy: Tree  # theta
    critic: Tree  # phi
    opt_state: Tree
    beta: Array  # weight of the penalty
    clock: Clock


class Minibatch(NamedTuple):
    """Rows that the surrogate is made of, [T, N, ...] or some of them."""

    obs: Tree
    action: Array
    log_prob: Array  # of the policy that acted
    old: Tree  # its distribution
    advantage: Array
    value_target: Array


def optimizer(cfg: Config):
    """Adam on the clipped gradient."""
    return adam(eps=1e-5, max_norm=cfg.max_norm)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Orthogonal networks; the first policy is nearly uniform, or N(0, sigma)."""
    policy, critic = policy_and_value(cfg, spec, key)
    opt_state = optimizer(cfg).init((policy, critic))
    return State(policy, critic, opt_state, jnp.full((), cfg.beta, jnp.float32), start_clock())


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Sample the policy, or take its mode; remembers log pi(a|s)."""
    pi = actor(obs)
    action = pi.sample(key) if explore else pi.mode()
    return action, memory, {"log_prob": pi.log_prob(action)}


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """K epochs of stochastic ascent on one rollout [T, N, ...]."""
    # compute advantage estimates A_1, ..., A_T
    value, next_value = state.critic(batch.obs)[..., 0], state.critic(batch.next_obs)[..., 0]
    advantage = gae(batch.reward, batch.discount, batch.last, value, next_value, cfg.lam)
    old, log_prob = state.policy(batch.obs), batch.extras["log_prob"]
    rows = Minibatch(batch.obs, batch.action, log_prob, old, advantage, advantage + value)

    # optimise the surrogate with K epochs and mini-batches of M <= N T
    lr = cfg.lr * linear_schedule(state.clock.env_steps, 1.0, cfg.lr_end, max(cfg.horizon, 1))

    def descend(learned: tuple, minibatch: Minibatch) -> tuple[tuple, dict[str, Array]]:
        params, opt_state = learned
        grads, metrics = jax.grad(loss, argnums=1, has_aux=True)(cfg, params, state.beta, minibatch)
        return gradient_step(optimizer(cfg), grads, opt_state, params, lr), metrics

    def epoch(learned: tuple, number: Array) -> tuple[tuple, dict[str, Array]]:
        minibatches, rest = shuffled(cfg, rows, jax.random.fold_in(key, number))
        learned, metrics = jax.lax.scan(descend, learned, minibatches)
        if rest is not None:
            learned, last = descend(learned, rest)
            metrics = jax.tree.map(jnp.append, metrics, last)
        return learned, metrics

    learned = (state.policy, state.critic), state.opt_state
    ((policy, critic), opt_state), metrics = jax.lax.scan(epoch, learned, jnp.arange(cfg.epochs))
    metrics = jax.tree.map(jnp.mean, metrics)

    # compute d = E[KL(pi_old(.|s) || pi_theta(.|s))]
    divergence = old.kl(policy(batch.obs)).mean()
    beta = adapted(cfg, state.beta, divergence)

    residual = jnp.var(rows.value_target - value) / (jnp.var(rows.value_target) + 1e-8)
    metrics |= {
        "explained_variance": 1 - residual,  # of the value targets by V before the update: 1 is perfect
        "lr": jnp.asarray(lr, jnp.float32),  # Adam's learning rate
        "kl": divergence,  # d, of the policy before the update from the one after it, in nats
        "beta": beta,  # weight of the penalty in the next update
    }
    return Update(State(policy, critic, opt_state, beta, state.clock.updated()), metrics)


def adapted(cfg: Config, beta: Array, divergence: Array) -> Array:
    """The weight of the penalty in the next update."""
    # beta <- beta / 2 if d < d_targ / 1.5, and 2 beta if d > 1.5 d_targ
    small, large = divergence < cfg.kl_target / 1.5, divergence > cfg.kl_target * 1.5
    return beta * jnp.where(small, 0.5, jnp.where(large, 2.0, 1.0))


def loss(cfg: Config, params: tuple, beta: Array, rows: Minibatch) -> tuple[Array, dict[str, Array]]:
    """Minus the penalised objective, on a mini-batch [..., N, ...]."""
    policy, critic = params
    pi = policy(rows.obs)
    advantage = rows.advantage
    if cfg.normalize_advantage and advantage.size > 1:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    # L^KLPEN = E[pi_theta(a|s) / pi_old(a|s) A - beta KL(pi_old(.|s), pi_theta(.|s))]      eq. 8
    ratio = jnp.exp(pi.log_prob(rows.action) - rows.log_prob)
    surrogate = (ratio * advantage).mean() - beta * rows.old.kl(pi).mean()
    # L^VF = (V(s) - V_target)^2
    value_loss = ((critic(rows.obs)[..., 0] - rows.value_target) ** 2).mean()
    entropy = pi.entropy().mean()
    total = -(surrogate - cfg.value_loss * value_loss + cfg.entropy * entropy)
    metrics = {
        "policy_loss": -surrogate,  # minus L^KLPEN
        "value_loss": value_loss,  # L^VF, mean squared error of the value function
        "entropy": entropy,  # of the policy in nats
    }
    return total, metrics


def shuffled(cfg: Config, rows: Minibatch, key: Array) -> tuple[Minibatch, Minibatch | None]:
    """Mini-batches: the times, shuffled and cut, [parts, times, N, ...]; and what is left [fewer, N, ...], if any."""
    times, num_envs = rows.advantage.shape
    each = times_of_minibatch(cfg, num_envs)
    whole = times // each * each
    order = jnp.argsort(jax.random.uniform(key, times))
    cut = order[:whole].reshape(-1, each)
    rest = jax.tree.map(lambda x: x[order[whole:]], rows) if whole < times else None
    return jax.tree.map(lambda x: x[cut], rows), rest


def times_of_minibatch(cfg: Config, num_envs: int) -> int:
    """How many times of N environments come nearest to M rows; at most all of a rollout."""
    return min(max(1, round(cfg.minibatch / num_envs)), cfg.data.steps)


def notes(cfg: Config, spec: Spec) -> list[str]:
    """A line where the rows of a gradient step are far from `minibatch`."""
    rows = times_of_minibatch(cfg, spec.num_envs) * spec.num_envs
    said = f"a gradient step takes {rows:,} rows, not the {cfg.minibatch:,} of --config.minibatch: whole times of all "
    rollout = f"environments, of a rollout of {cfg.data.steps:,} steps x {spec.num_envs:,} environments"
    return [said + rollout] if abs(rows - cfg.minibatch) > 0.1 * cfg.minibatch else []


algorithm = Algorithm(
    Config=Config,
    actions=("discrete", "continuous"),
    family="policy gradient",
    init=init,
    actor=lambda state: state.policy,
    act=act,
    update=update,
    observe=count_steps,
    notes=notes,
    value=lambda cfg, spec, state, obs, action: state.critic(obs)[..., 0],
)

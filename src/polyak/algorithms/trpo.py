"""TRPO: trust region policy optimisation.

Schulman, Levine, Moritz, Jordan & Abbeel 2015, "Trust Region Policy Optimization" (arXiv:1502.05477), section 6 and
appendix C: a step along the natural gradient, found by conjugate gradients and shortened until it improves the
surrogate and keeps the KL divergence within delta. Lecture 3 and 4.

Departures: advantages are generalised estimates and are normalised over the rollout, and the value function is a
network that is fitted by Adam, as in the authors' later code; the Fisher matrix is that of all rows.
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
from polyak.parts.natural import conjugate_gradient, fisher_product, inner, once_differentiable
from polyak.parts.optimize import adam
from polyak.parts.policies import Family, Sigma, policy_and_value
from polyak.parts.regression import fit_value
from polyak.parts.returns import gae
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The paper's section 8 and the authors' later code; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lam: float = within(0.97, 0, 1)  # lambda of the advantage estimate
    delta: float = within(0.01, 0)  # delta, largest mean KL divergence of a step in nats
    iterations: int = within(10, 1)  # of conjugate gradients
    damping: float = within(0.1, 0)  # added to the diagonal of the Fisher matrix
    backtracks: int = within(10, 1)  # how often a step may be shortened
    shorten: float = within(0.8, 0, 1)  # factor by which a step is shortened each time
    value_lr: float = within(1e-3, 0)  # Adam's learning rate of the value function
    value_epochs: int = within(10, 1)  # passes of the value function over a rollout
    value_parts: int = within(8, 1)  # mini-batches of each pass
    policy: Family = "gaussian"  # of real actions: gaussian, or beta, which ends at their bounds
    sigma: Sigma = "parameter"  # of a Gaussian: parameters, one for all, outputs, a whole matrix, or fixed
    log_sigma: float = 0.0  # where log sigma starts; sigma is in units of half the action range
    network: str = "mlp"  # builder of the policy's and the value function's networks
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer, in both networks
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=2048))  # one rollout [T, N, ...]


@pytree
class State(Record):
    """Policy, value function and the value function's optimiser."""

    policy: Tree  # theta
    critic: Tree
    opt_state: Tree
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Orthogonal networks; the first policy is nearly uniform, or N(0, sigma)."""
    policy, critic = policy_and_value(cfg, spec, key)
    return State(policy, critic, optimizer.init(critic), start_clock())


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Sample the policy, or take its mode; remembers log pi(a|s)."""
    pi = actor(obs)
    action = pi.sample(key) if explore else pi.mode()
    return action, memory, {"log_prob": pi.log_prob(action)}


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of the policy within its trust region, then the value function's regression, on [T, N, ...]."""
    value, next_value = state.critic(batch.obs)[..., 0], state.critic(batch.next_obs)[..., 0]
    advantage = gae(batch.reward, batch.discount, batch.last, value, next_value, cfg.lam)
    many = advantage.size > 1  # a row minus its own mean would say nothing
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8) if many else advantage
    old = state.policy(batch.obs)

    # L(theta) = E[pi_theta(a|s) / q(a|s) A(s, a)]      eq. 14
    def surrogate(policy: Tree) -> Array:
        return (jnp.exp(policy(batch.obs).log_prob(batch.action) - batch.extras["log_prob"]) * scaled).mean()

    # KL(theta_old, theta) = E[KL(pi_old(.|s) || pi_theta(.|s))]
    def divergence(policy: Tree) -> Array:
        return old.kl(policy(batch.obs)).mean()

    # s = A^-1 g by conjugate gradients, beta = sqrt(2 delta / s^T A s)      appendix C
    before, gradient = jax.value_and_grad(surrogate)(state.policy)
    product = fisher_product(divergence, state.policy, cfg.damping)
    direction, residual = conjugate_gradient(product, gradient, cfg.iterations)
    curvature = jnp.maximum(inner(direction, product(direction)), 1e-12)
    longest = jnp.sqrt(2 * cfg.delta / curvature)
    policy, accepted, length = line_search(
        cfg, state.policy, direction, longest, surrogate, divergence, before
    )

    learned = state.critic, state.opt_state
    how = cfg.value_lr, cfg.value_epochs, cfg.value_parts
    critic, opt_state, value_loss = fit_value(optimizer, *learned, batch.obs, advantage + value, key, *how)
    metrics = {
        "surrogate": surrogate(policy) - before,  # improvement of the surrogate by the step
        "kl": divergence(policy),  # mean KL divergence of the step in nats; never more than delta
        "accepted": accepted.astype(jnp.float32),  # share of steps that some length made acceptable
        "step": length,  # length of the step, as a share of the longest one
        "residual": residual,  # norm of what conjugate gradients left over, relative to the gradient's
        "entropy": policy(batch.obs).entropy().mean(),  # of the policy in nats
        "value_loss": value_loss,  # mean squared error of the value function
    }
    return Update(State(policy, critic, opt_state, state.clock.updated()), metrics)


def line_search(
    cfg: Config, policy: Tree, direction: Tree, longest: Array, surrogate, divergence, before: Array
) -> tuple[Tree, Array, Array]:
    """The longest of the shortened steps that improves the surrogate within the trust region; none keeps the policy."""

    def moved(length: Array) -> Tree:
        return jax.tree.map(lambda p, d: p + length * longest * d, policy, direction)

    def acceptable(length: Array) -> Array:
        candidate = moved(length)
        return (surrogate(candidate) > before) & (divergence(candidate) <= cfg.delta)

    def shorten(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tried, length, _ = carry
        length = length * cfg.shorten
        return tried + 1, length, acceptable(length)

    def unacceptable(carry: tuple[Array, Array, Array]) -> Array:
        return ~carry[2] & (carry[0] < cfg.backtracks)

    start = jnp.int32(0), jnp.float32(1.0), acceptable(jnp.float32(1.0))
    _, length, accepted = jax.lax.while_loop(unacceptable, shorten, start)
    # what is not finite is not acceptable either, and 0 times it would be no step of length 0
    kept = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved(length), policy)
    return kept, accepted, jnp.where(accepted, length, 0.0)


algorithm = Algorithm(
    Config=Config,
    actions=("discrete", "continuous"),
    family="trust region",
    init=init,
    actor=lambda state: state.policy,
    act=act,
    update=update,
    observe=count_steps,
    wrong=once_differentiable,
    value=lambda cfg, spec, state, obs, action: state.critic(obs)[..., 0],
)

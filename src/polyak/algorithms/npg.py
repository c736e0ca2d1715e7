"""NPG: natural policy gradient.

Kakade 2001, "A Natural Policy Gradient" (NIPS 14), with the step size of Rajeswaran, Lowrey, Todorov & Kakade 2017,
"Towards Generalization and Simplicity in Continuous Control" (arXiv:1703.02660), Algorithm 1. Lecture 4.

Departures: F^-1 g is found by conjugate gradients, so that the Fisher matrix is never made or inverted; advantages are
generalised estimates, normalised over the rollout; the value function is a network that is fitted by Adam.
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
    """Settings of Rajeswaran et al. where they name them; symbols are theirs."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lam: float = within(0.97, 0, 1)  # lambda of the advantage estimate
    delta: float = within(0.01, 0)  # delta, mean KL divergence that a step is meant to have, in nats
    iterations: int = within(10, 1)  # of conjugate gradients
    damping: float = within(0.1, 0)  # added to the diagonal of the Fisher matrix
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
    """Sample the policy, or take its mode."""
    pi = actor(obs)
    return (pi.sample(key) if explore else pi.mode()), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One natural step of the policy, then the value function's regression, on a rollout [T, N, ...]."""
    value, next_value = state.critic(batch.obs)[..., 0], state.critic(batch.next_obs)[..., 0]
    advantage = gae(batch.reward, batch.discount, batch.last, value, next_value, cfg.lam)
    many = advantage.size > 1  # a row minus its own mean would say nothing
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8) if many else advantage
    old = jax.lax.stop_gradient(state.policy(batch.obs))

    # g = E[grad log pi(a|s) A(s, a)]
    def objective(policy: Tree) -> Array:
        return (policy(batch.obs).log_prob(batch.action) * scaled).mean()

    # F = E[grad log pi grad log pi^T], the Hessian of this divergence at the old policy
    def divergence(policy: Tree) -> Array:
        return old.kl(policy(batch.obs)).mean()

    # theta <- theta + sqrt(2 delta / g^T F^-1 g) F^-1 g
    gradient = jax.grad(objective)(state.policy)
    product = fisher_product(divergence, state.policy, cfg.damping)
    direction, residual = conjugate_gradient(product, gradient, cfg.iterations)
    length = jnp.sqrt(2 * cfg.delta / jnp.maximum(inner(gradient, direction), 1e-12))
    policy = jax.tree.map(lambda p, d: p + length * d, state.policy, direction)

    learned = state.critic, state.opt_state
    how = cfg.value_lr, cfg.value_epochs, cfg.value_parts
    critic, opt_state, value_loss = fit_value(optimizer, *learned, batch.obs, advantage + value, key, *how)
    metrics = {
        "kl": divergence(policy),  # mean KL divergence of the step in nats; about delta
        "residual": residual,  # norm of what conjugate gradients left over, relative to the gradient's
        "entropy": policy(batch.obs).entropy().mean(),  # of the policy in nats
        "value_loss": value_loss,  # mean squared error of the value function
    }
    return Update(State(policy, critic, opt_state, state.clock.updated()), metrics)


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

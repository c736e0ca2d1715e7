"""Actor-critic: the policy gradient with an advantage from a critic, fitted by Monte Carlo or by temporal differences.

Barto, Sutton & Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems" (IEEE
SMC 13), as the batch loop "Advantage actor-critic", steps 1 to 5. The critic by Monte Carlo is Sutton & Barto 2018,
eq. 9.1 on returns; by temporal differences their semi-gradient TD(0), page 203. Lecture 0.

Departures: Adam; the gradient is a mean over all steps and not a sum over each episode; the critic takes `value_steps`
steps on a rollout. The advantage on the slide lacks the minus sign before V(s). After a time limit both critics look
beyond, to the value of the true successor.
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
    OnPolicy,
    Spec,
    Tree,
    Update,
    count_steps,
    within,
)
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.policies import Family, Sigma, policy_and_value
from polyak.parts.returns import discounted_return
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Symbols are the lecture's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    critic: Literal["mc", "td"] = "td"  # what V is fitted to: whole returns, or r + gamma V(s')
    lr: float = within(3e-3, 0)  # Adam's learning rate of the policy
    value_lr: float = within(1e-2, 0)  # Adam's learning rate of the critic
    value_steps: int = within(20, 1)  # steps of the critic on a rollout
    policy: Family = "gaussian"  # of real actions: gaussian, or beta, which ends at their bounds
    sigma: Sigma = "parameter"  # of a Gaussian: one parameter each, one for all, a network output, or fixed
    log_sigma: float = 0.0  # where log sigma starts; sigma is in units of half the action range
    network: str = "mlp"  # builder of the policy's and the critic's networks
    hidden: tuple[int, ...] = (64,)  # units of each hidden layer, in both networks
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(
        default_factory=lambda: OnPolicy(episodes=1)
    )  # whole episodes or T steps [T, N, ...]


@pytree
class State(Record):
    """Actor, critic and their optimisers."""

    policy: Tree  # theta
    critic: Tree  # of V
    policy_opt_state: Tree
    critic_opt_state: Tree
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Orthogonal networks; the first policy is nearly uniform, or N(0, sigma)."""
    policy, critic = policy_and_value(cfg, spec, key)
    return State(policy, critic, optimizer.init(policy), optimizer.init(critic), start_clock())


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Step 1: run the policy, or take its mode."""
    pi = actor(obs)
    return (pi.sample(key) if explore else pi.mode()), memory, ()


def targets(cfg: Config, critic: Tree, batch: Batch) -> Array:
    """What V(s_t) should be [T, N]: the rewards that followed, or one reward and the critic's own word."""
    next_value = critic(batch.next_obs)[..., 0]
    if cfg.critic == "td":
        # y_t = r_t + gamma V(s_{t+1})
        return batch.reward + batch.discount * next_value
    # y_t = sum over t' >= t of gamma^(t'-t) r_t'
    return discounted_return(batch.reward, batch.discount, batch.last, next_value)


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Steps 2 to 5, from a rollout [T, N, ...]."""

    def mean(x: Array) -> Array:
        return (batch.weight * x).sum() / batch.weight.sum()

    # 2. fit V to the targets by 1/2 sum |V(s) - y|^2, whose y is not differentiated
    def value_loss(critic: Tree) -> Array:
        y = jax.lax.stop_gradient(targets(cfg, critic, batch))
        return 0.5 * mean((critic(batch.obs)[..., 0] - y) ** 2)

    def value_step(_: Array, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        critic, opt_state = carry
        return gradient_step(optimizer, jax.grad(value_loss)(critic), opt_state, critic, cfg.value_lr)

    critic, critic_opt_state = jax.lax.fori_loop(
        0, cfg.value_steps, value_step, (state.critic, state.critic_opt_state)
    )
    # 3. A(s, a) = r + gamma V(s') - V(s)
    advantage = batch.reward + batch.discount * critic(batch.next_obs)[..., 0] - critic(batch.obs)[..., 0]

    # 4. grad J = mean of grad log pi(a|s) A(s, a)
    def policy_loss(policy: Tree) -> tuple[Array, Array]:
        pi = policy(batch.obs)
        return -mean(pi.log_prob(batch.action) * advantage), mean(pi.entropy())

    (loss, entropy), grads = jax.value_and_grad(policy_loss, has_aux=True)(state.policy)
    # 5. theta <- theta + alpha grad J
    policy, policy_opt_state = gradient_step(optimizer, grads, state.policy_opt_state, state.policy, cfg.lr)
    metrics = {
        "policy_loss": loss,  # minus log pi(a|s) times the advantage
        "value_loss": value_loss(state.critic),  # half the mean squared error of V, before its steps
        "advantage": jnp.sqrt(mean(advantage**2)),  # root mean square of the advantage
        "entropy": entropy,  # of the policy in nats
    }
    return Update(State(policy, critic, policy_opt_state, critic_opt_state, state.clock.updated()), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A Monte-Carlo return is that of a whole episode."""
    if cfg.critic == "mc" and not cfg.data.episodes:
        return ["critic mc learns from whole episodes: set data.steps to 0, or choose critic td"]
    return []


algorithm = Algorithm(
    Config=Config,
    actions=("discrete", "continuous"),
    family="policy gradient",
    init=init,
    actor=lambda state: state.policy,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
)

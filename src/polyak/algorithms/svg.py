"""SVG(0): stochastic value gradients with a model-free critic.

Heess, Wayne, Silver, Lillicrap, Tassa & Erez 2015, "Learning Continuous Control Policies by Stochastic Value
Gradients" (arXiv:1510.09142), section 4.4 and Algorithm 3 of its appendix. Lecture 0.

The policy's gradient goes through its action: a = mu(s) + sigma(s) eps, with eps from N(0, 1).

Departures: the policy is the tanh of that Gaussian, so that actions stay inside their bounds; actions for the critic's
target are drawn from the current policy and need no importance weights. `critic="lambda"` makes TD(lambda) targets on
the sequences that are drawn (`data.length` rows), `critic="td"` one-step targets. A time limit is bootstrapped through.
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
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.policies import TanhGaussian
from polyak.parts.returns import lambda_return
from polyak.parts.schedules import start_clock
from polyak.parts.targets import polyak_average
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """Settings for low-dimensional tasks; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lam: float = within(0.9, 0, 1)  # lambda of TD(lambda), for critic="lambda"
    critic: Literal["td", "lambda"] = "td"  # targets of one step, or of whole drawn sequences
    actor_lr: float = within(1e-3, 0)  # Adam's learning rate of the policy
    critic_lr: float = within(1e-3, 0)  # Adam's learning rate of the critic
    tau: float = within(0.005, 0, 1)  # share of the new weights in each step of the critic's target
    network: str = "mlp"  # builder of policy and critic
    hidden: tuple[int, ...] = (128, 128)  # units of each hidden layer, in both networks
    data: Replay = field(  # transitions [B, ...], or sequences [B, L, ...]
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=128, warmup=1_000)
    )


@pytree
class State(Record):
    """Policy, critic, its target and optimisers."""

    policy: TanhGaussian  # theta
    critic: Tree  # Q
    critic_target: Tree  # Q'
    policy_opt_state: Tree
    critic_opt_state: Tree
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks; the target starts as a copy."""
    key_policy, key_critic = jax.random.split(key)
    network = build(cfg.network)
    policy = TanhGaussian(network(key_policy, spec.obs, 2 * spec.action.size, cfg.hidden))
    critic = network(key_critic, (spec.obs, spec.action), 1, cfg.hidden)
    policy_opt_state, critic_opt_state = optimizer.init(policy), optimizer.init(critic)
    return State(policy, critic, copy(critic), policy_opt_state, critic_opt_state, start_clock())


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """A draw from the policy, or its mode."""
    pi = actor(obs)
    return (pi.sample(key) if explore else pi.mode()), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """A step of the critic and one of the policy, on a mini-batch [B, ...] or [B, L, ...]."""
    key_next, key_policy = jax.random.split(key)

    # y = r + gamma Q'(s', a'), a' ~ pi(.|s')
    next_action = state.policy(batch.next_obs).sample(key_next)
    next_q = state.critic_target((batch.next_obs, next_action))[..., 0]
    target = batch.reward + batch.discount * next_q
    if cfg.critic == "lambda":
        rows = batch.reward, batch.discount, batch.last, next_q
        reward, discount, last, after = (x.swapaxes(0, 1) for x in rows)  # time first
        target = lambda_return(reward, discount, last, after, cfg.lam).swapaxes(0, 1)

    def critic_loss(critic: Tree) -> tuple[Array, Array]:
        q = critic((batch.obs, batch.action))[..., 0]
        return (batch.weight * (q - target) ** 2).mean(), q

    (loss, q), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    critic, critic_opt_state = gradient_step(
        optimizer, grads, state.critic_opt_state, state.critic, cfg.critic_lr
    )

    # grad_theta E[Q(s, pi_theta(s, eps))]: through the action, eps held fixed      eq. 12 with a critic
    def policy_loss(policy: Tree) -> Array:
        action = policy(batch.obs).sample(key_policy)
        return -(batch.weight * critic((batch.obs, action))[..., 0]).mean()

    grads = jax.grad(policy_loss)(state.policy)
    policy, policy_opt_state = gradient_step(
        optimizer, grads, state.policy_opt_state, state.policy, cfg.actor_lr
    )
    critic_target = polyak_average(critic, state.critic_target, cfg.tau)
    metrics = {
        "critic_loss": loss,  # mean squared error of the critic
        "q": q.mean(),  # Q(s, a), mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
    }
    error = jnp.abs(q - target)
    state = State(policy, critic, critic_target, policy_opt_state, critic_opt_state, state.clock.updated())
    return Update(state, metrics, priority=error.reshape(len(error), -1).mean(axis=1))


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A line where TD(lambda) is asked for without sequences, or sequences without it."""
    if cfg.critic == "lambda" and cfg.data.length < 2:
        return [f'critic = "lambda" needs sequences: data.length is {cfg.data.length}, give 16']
    return []


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="actor-critic",
    init=init,
    actor=lambda state: state.policy,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
)

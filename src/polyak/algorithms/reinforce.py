"""REINFORCE: the Monte-Carlo policy gradient, with reward-to-go and a baseline.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning" (Machine
Learning 8), section 5 (episodic); in the words of Sutton & Barto 2018, "Reinforcement Learning: An Introduction",
sections 13.3 and 13.4, pages 328 and 330. Lectures 1, 3 and 4.

Departures: theta takes one step along the sum over an episode, as Williams has it, where the book's loop takes one for
each of its steps; several episodes are averaged; the baseline moves along the mean over their steps, `value_steps`
times. Of an episode that a time limit cuts, the baseline says what would have followed; without one that is left out.
`discounted = False` leaves gamma^t out of the step, as most programs do and the gradient does not.
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
from polyak.parts.optimize import Rule, gradient_step, rule
from polyak.parts.policies import Family, Sigma, policy_and_value
from polyak.parts.returns import discounted_return, time_of
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Symbols are the book's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    discounted: bool = True  # the step of time t is multiplied by gamma^t; false leaves it out
    baseline: bool = True  # subtract v^(s, w) from the return; false: nothing is subtracted
    rule: Rule = "adam"  # how a gradient becomes a step: adam, or sgd, which is the book's
    lr: float = within(3e-3, 0)  # alpha_theta, the policy's step size
    value_lr: float = within(1e-2, 0)  # alpha_w, the baseline's step size
    value_steps: int = within(10, 1)  # steps of the baseline after each rollout
    policy: Family = "gaussian"  # of real actions: gaussian, or beta, which ends at their bounds
    sigma: Sigma = "parameter"  # of a Gaussian: one parameter each, one for all, a network output, or fixed
    log_sigma: float = 0.0  # where log sigma starts; sigma is in units of half the action range
    network: str = "mlp"  # builder of the policy's and the baseline's networks
    hidden: tuple[int, ...] = (64,)  # units of each hidden layer, in both networks
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=1))  # k whole episodes [T, N, ...]


@pytree
class State(Record):
    """Policy, baseline and their optimisers."""

    policy: Tree  # theta
    critic: Tree  # w
    policy_opt_state: Tree
    critic_opt_state: Tree
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Orthogonal networks; the first policy is nearly uniform, or N(0, sigma)."""
    policy, critic = policy_and_value(cfg, spec, key)
    optimizer = rule(cfg.rule)
    return State(policy, critic, optimizer.init(policy), optimizer.init(critic), start_clock())


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Generate an episode following pi(.|., theta), or take its mode."""
    pi = actor(obs)
    return (pi.sample(key) if explore else pi.mode()), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step up the gradient of k whole episodes of N environments, [T, N, ...]."""
    optimizer, episodes = rule(cfg.rule), cfg.data.episodes * spec.num_envs

    def value(obs: Tree) -> Array:
        return state.critic(obs)[..., 0] if cfg.baseline else jnp.zeros(batch.reward.shape)

    # G <- sum over k = t+1 .. T of gamma^(k-t-1) R_k                                  page 328
    goal = discounted_return(batch.reward, batch.discount, batch.last, value(batch.next_obs))
    # delta <- G - v^(S_t, w)                                                          page 330
    delta = goal - value(batch.obs)
    power = cfg.gamma ** time_of(batch.last) if cfg.discounted else 1.0

    # theta <- theta + alpha_theta gamma^t delta grad ln pi(A_t|S_t, theta), summed over an episode
    def policy_loss(policy: Tree) -> tuple[Array, Array]:
        pi = policy(batch.obs)
        gain = batch.weight * power * delta * pi.log_prob(batch.action)
        return -gain.sum() / episodes, mean(pi.entropy())

    def mean(x: Array) -> Array:
        return (batch.weight * x).sum() / batch.weight.sum()

    # w <- w + alpha_w delta grad v^(S_t, w), averaged over the steps of the episodes
    def value_loss(critic: Tree) -> Array:
        return 0.5 * mean((goal - critic(batch.obs)[..., 0]) ** 2)

    def value_step(_: Array, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        critic, opt_state = carry
        return gradient_step(optimizer, jax.grad(value_loss)(critic), opt_state, critic, cfg.value_lr)

    (loss, entropy), grads = jax.value_and_grad(policy_loss, has_aux=True)(state.policy)
    policy, policy_opt_state = gradient_step(optimizer, grads, state.policy_opt_state, state.policy, cfg.lr)
    critic, critic_opt_state = state.critic, state.critic_opt_state
    if cfg.baseline:
        critic, critic_opt_state = jax.lax.fori_loop(
            0, cfg.value_steps, value_step, (critic, critic_opt_state)
        )
    metrics = {
        "policy_loss": loss,  # minus the sum over an episode of gamma^t delta ln pi(a|s)
        "value_loss": value_loss(
            state.critic
        ),  # half the mean squared error of the baseline, before its steps
        "advantage": mean(jnp.abs(delta)),  # mean |delta|: what an action's log-probability is weighed with
        "entropy": entropy,  # of the policy in nats
    }
    return Update(State(policy, critic, policy_opt_state, critic_opt_state, state.clock.updated()), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A return is that of a whole episode."""
    return [] if cfg.data.episodes else ["it learns from whole episodes: set data.steps to 0"]


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

"""SAC: soft actor-critic with automatic entropy adjustment.

Haarnoja, Zhou, Hartikainen, Tucker, Ha, Tan, Kumar, Zhu, Gupta, Abbeel & Levine 2018, "Soft Actor-Critic Algorithms
and Applications" (arXiv:1812.05905), Algorithm 1 and Table 1. Lecture 3.

Departures: log alpha is learned instead of alpha, as in the authors' code. Evaluation acts by tanh of the mean. A
warm-up of uniform actions comes first, and a time limit is bootstrapped through, likewise as there.
"""

from dataclasses import dataclass, field

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
from polyak.parts.networks import build, ensemble
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.policies import TanhGaussian
from polyak.parts.schedules import start_clock
from polyak.parts.targets import polyak_average
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The paper's Table 1; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lr: float = within(3e-4, 0)  # Adam's learning rate of policy, critics and temperature
    tau: float = within(0.005, 0, 1)  # tau, share of the new weights in each step of the targets
    alpha: float = within(0.0, 0)  # alpha, temperature of the entropy; 0: found automatically
    target_entropy: float | None = (
        None  # H-bar in nats, for an automatic temperature; None: minus the actions' number
    )
    network: str = "mlp"  # builder of policy and critics
    hidden: tuple[int, ...] = (256, 256)  # units of each hidden layer, in all networks
    data: Replay = field(  # mini-batches of transitions [B, ...]
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=256, warmup=10_000)
    )


@pytree
class State(Record):
    """Networks, targets, temperature and optimisers."""

    policy: TanhGaussian  # phi
    critics: Tree  # theta_1, theta_2
    critics_target: Tree  # theta-bar_1, theta-bar_2
    log_alpha: Array
    policy_opt_state: Tree
    critics_opt_state: Tree
    alpha_opt_state: Tree
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks; targets start as copies, the temperature at 1 unless it is given."""
    key_policy, key_critics = jax.random.split(key)
    network = build(cfg.network)
    policy = TanhGaussian(network(key_policy, spec.obs, 2 * spec.action.size, cfg.hidden))
    critics = ensemble(lambda key: network(key, (spec.obs, spec.action), 1, cfg.hidden), key_critics, 2)
    log_alpha = jnp.zeros(())
    return State(
        policy=policy,
        critics=critics,
        critics_target=copy(critics),
        log_alpha=log_alpha,
        policy_opt_state=optimizer.init(policy),
        critics_opt_state=optimizer.init(critics),
        alpha_opt_state=optimizer.init(log_alpha),
        clock=start_clock(),
    )


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Sample action from the policy a_t ~ pi(a_t|s_t), or take its mode."""
    pi = actor(obs)
    return (pi.sample(key) if explore else pi.mode()), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """The gradient steps of Algorithm 1, on a mini-batch [B, ...]."""
    key_next, key_policy = jax.random.split(key)
    alpha = jnp.exp(state.log_alpha) if cfg.alpha == 0 else cfg.alpha

    # y = r + gamma (min_i Q-bar_i(s', a') - alpha log pi(a'|s')), a' ~ pi(.|s')      eq. 5 with eq. 3
    next_action, next_log_prob = state.policy(batch.next_obs).sample_and_log_prob(key_next)
    next_q = state.critics_target((batch.next_obs, next_action))[..., 0].min(axis=0)
    target = batch.reward + batch.discount * (next_q - alpha * next_log_prob)

    # theta_i <- theta_i - lambda grad J_Q(theta_i)      eq. 5, 6
    def critic_loss(critics: Tree) -> tuple[Array, Array]:
        q = critics((batch.obs, batch.action))[..., 0]  # [2, B]
        return 0.5 * (batch.weight * (q - target) ** 2).mean(axis=-1).sum(), q

    (loss, q), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critics)
    critics, critics_opt_state = gradient_step(
        optimizer, grads, state.critics_opt_state, state.critics, cfg.lr
    )

    # phi <- phi - lambda grad J_pi(phi), a = f_phi(eps; s)      eq. 9, 10
    def policy_loss(policy: Tree) -> tuple[Array, Array]:
        action, log_prob = policy(batch.obs).sample_and_log_prob(key_policy)
        value = critics((batch.obs, action))[..., 0].min(axis=0)
        return (batch.weight * (alpha * log_prob - value)).mean(), log_prob

    grads, log_prob = jax.grad(policy_loss, has_aux=True)(state.policy)
    policy, policy_opt_state = gradient_step(optimizer, grads, state.policy_opt_state, state.policy, cfg.lr)

    # alpha <- alpha - lambda grad J(alpha), J = E[-alpha (log pi(a|s) + H-bar)]      eq. 18
    wanted = -float(spec.action.size) if cfg.target_entropy is None else cfg.target_entropy
    grads = -(batch.weight * (log_prob + wanted)).mean() * jnp.exp(state.log_alpha)
    log_alpha, alpha_opt_state = gradient_step(
        optimizer, grads, state.alpha_opt_state, state.log_alpha, cfg.lr
    )

    state = State(
        policy=policy,
        critics=critics,
        # theta-bar_i <- tau theta_i + (1 - tau) theta-bar_i
        critics_target=polyak_average(critics, state.critics_target, cfg.tau),
        log_alpha=log_alpha,
        policy_opt_state=policy_opt_state,
        critics_opt_state=critics_opt_state,
        alpha_opt_state=alpha_opt_state,
        clock=state.clock.updated(),
    )
    metrics = {
        "critic_loss": loss,  # sum over the critics of half their mean squared error
        "q": q[0].mean(),  # Q_1(s, a), mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
        "entropy": -log_prob.mean(),  # of the policy in nats, estimated from one action a state
        "alpha": jnp.asarray(alpha, jnp.float32),  # temperature
    }
    return Update(state, metrics, priority=jnp.abs(q - target).mean(axis=0))


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="maximum entropy",
    init=init,
    actor=lambda state: state.policy,
    act=act,
    update=update,
    observe=count_steps,
    value=lambda cfg, spec, state, obs, action: state.critics((obs, action))[..., 0].min(axis=0),
)

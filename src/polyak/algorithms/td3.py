"""TD3: twin delayed deep deterministic policy gradient.

Fujimoto, van Hoof & Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods"
(arXiv:1802.09477), Algorithm 1. Each of its three tricks has a switch of its own: `twin`, `delay` and
`smoothing`; with all three off this is the paper's "our DDPG" (AHE in its Table 2). Lectures 2 and 3.

Departures: the defaults are the authors' current code and not the paper's appendix: networks of 256-256
(400-300), batches of 256 (100), learning rates of 3e-4 (1e-3), 25,000 uniform steps (10,000 or 1,000). A
time limit is bootstrapped through, as in their code.
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
from polyak.parts.exploration import gaussian
from polyak.parts.networks import build, ensemble
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.parts.targets import polyak_average
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The authors' current settings; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    actor_lr: float = within(3e-4, 0)  # Adam's learning rate of the actor
    critic_lr: float = within(3e-4, 0)  # Adam's learning rate of the critics
    tau: float = within(0.005, 0, 1)  # tau, share of the new weights in each step of the three targets
    exploration: float = within(0.1, 0)  # sigma of the noise while acting, in units of half the action range
    twin: bool = True  # learn two critics and bootstrap from the smaller; false: one critic
    delay: int = within(2, 1)  # d, critic updates for each update of actor and targets; 1 is off
    smoothing: float = within(0.2, 0)  # sigma~ of the noise on the target action, same unit; 0 is off
    smoothing_clip: float = within(0.5, 0)  # c, where that noise is clipped, same unit
    network: str = "mlp"  # builder of the actor's and the critics' networks
    hidden: tuple[int, ...] = within((256, 256), 1)  # units of each hidden layer, in actor and critics
    data: Replay = field(  # mini-batches [B, ...] from replay
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=256, warmup=25_000)
    )


@pytree
class State(Record):
    """Networks, targets and optimisers."""

    actor: Tree  # phi
    critics: Tree  # theta_1, theta_2
    actor_target: Tree  # phi'
    critics_target: Tree  # theta'_1, theta'_2
    actor_opt_state: Tree
    critic_opt_state: Tree
    clock: Clock  # t


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks; targets start as copies."""
    key_actor, key_critics = jax.random.split(key)
    network = build(cfg.network)
    actor = network(key_actor, spec.obs, spec.action.size, cfg.hidden)
    critics = ensemble(
        lambda key: network(key, (spec.obs, spec.action), 1, cfg.hidden), key_critics, 2 if cfg.twin else 1
    )
    return State(
        actor=actor,
        critics=critics,
        actor_target=copy(actor),
        critics_target=copy(critics),
        actor_opt_state=optimizer.init(actor),
        critic_opt_state=optimizer.init(critics),
        clock=start_clock(),
    )


def policy(actor: Tree, obs: Tree) -> Array:
    """mu(s) in [-1, 1], [..., A]."""
    return jnp.tanh(actor(obs))


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Select action with exploration noise a ~ mu(s) + eps, eps ~ N(0, sigma)."""
    action = policy(actor, obs)
    return (gaussian(key, action, cfg.exploration) if explore else action), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Algorithm 1 from line 7 on, for one mini-batch [B, ...]."""
    # a~ <- mu'(s') + eps, eps ~ clip(N(0, sigma~), -c, c)      Alg. 1, line 9
    next_action = policy(state.actor_target, batch.next_obs)
    noise = cfg.smoothing * jax.random.normal(key, next_action.shape)
    noise = jnp.clip(noise, -cfg.smoothing_clip, cfg.smoothing_clip)
    next_action = jnp.clip(next_action + noise, -1.0, 1.0)

    # y <- r + gamma min_i Q'_i(s', a~)      Alg. 1, line 10
    next_q = state.critics_target((batch.next_obs, next_action))[..., 0].min(axis=0)
    target = batch.reward + batch.discount * next_q

    # theta_i <- argmin sum (y - Q_i(s, a))^2      Alg. 1, line 11
    def critic_loss(critics: Tree) -> tuple[Array, Array]:
        q = critics((batch.obs, batch.action))[..., 0]  # [2, B]
        return (batch.weight * (q - target) ** 2).mean(axis=-1).sum(), q

    (loss, q), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critics)
    critics, opt_state = gradient_step(optimizer, grads, state.critic_opt_state, state.critics, cfg.critic_lr)
    state = state.replace(critics=critics, critic_opt_state=opt_state, clock=state.clock.updated())

    # if t mod d then      Alg. 1, line 12
    state = jax.lax.cond(
        state.clock.updates % cfg.delay == 0,
        lambda state: move_actor_and_targets(cfg, state, batch),
        lambda state: state,
        state,
    )
    metrics = {
        "critic_loss": loss,  # sum over the critics of their mean squared error
        "q": q[0].mean(),  # Q_1(s, a), mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
    }
    return Update(state, metrics, priority=jnp.abs(q - target).mean(axis=0))


def move_actor_and_targets(cfg: Config, state: State, batch: Batch) -> State:
    """Step of the actor, and of both targets, at every d-th update."""

    # grad_phi J = mean of grad_a Q_1(s, a) grad_phi mu(s)      Alg. 1, line 13
    def actor_loss(actor: Tree) -> Array:
        q = state.critics.first((batch.obs, policy(actor, batch.obs)))
        return -(batch.weight * q[..., 0]).mean()

    grads = jax.grad(actor_loss)(state.actor)
    actor, opt_state = gradient_step(optimizer, grads, state.actor_opt_state, state.actor, cfg.actor_lr)
    # theta'_i <- tau theta_i + (1 - tau) theta'_i,   phi' <- tau phi + (1 - tau) phi'      Alg. 1, lines 14, 15
    return state.replace(
        actor=actor,
        actor_opt_state=opt_state,
        actor_target=polyak_average(actor, state.actor_target, cfg.tau),
        critics_target=polyak_average(state.critics, state.critics_target, cfg.tau),
    )


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="actor-critic",
    init=init,
    actor=lambda state: state.actor,
    act=act,
    update=update,
    observe=count_steps,
    value=lambda cfg, spec, state, obs, action: state.critics((obs, action))[..., 0].min(axis=0),
)

"""DDPG: deep deterministic policy gradient.

Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver & Wierstra 2016, "Continuous control with deep reinforcement
learning" (arXiv:1509.02971), Algorithm 1 and section 7. Lecture 0, 2, 3 and 4.

Departures: no batch normalisation, and the action enters the critic at its first layer; layers start as PyTorch's do,
the last ones not at 3e-3. `weight_decay` is off (0.01 on the critic). A warm-up of uniform actions comes first. A time
limit is bootstrapped through. Lecture 4 prints the target with mu(S_i); it is mu'(s_{i+1}), as in the paper. With
`noise = "parameter"` (Plappert et al. 2018) an episode's noise is added to the newest weights, which move on meanwhile,
and sigma adapts with every update (in the authors' code with every fiftieth). What hindsight's authors added to DDPG
(Andrychowicz et al. 2017, arXiv:1707.01495, appendix A) is off: `uniform`, `action_penalty` and `target_range`.
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
from polyak.parts.exploration import Noise, adapted_scale, explore_by, initial_noise, initial_scale
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step, squared_norm
from polyak.parts.schedules import start_clock
from polyak.parts.targets import polyak_average
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The paper's section 7; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    actor_lr: float = within(1e-4, 0)  # Adam's learning rate of the actor
    critic_lr: float = within(1e-3, 0)  # Adam's learning rate of the critic
    tau: float = within(0.001, 0, 1)  # tau, share of the new weights in each step of the two targets
    weight_decay: float = within(0.0, 0)  # L2 penalty on the critic's weights
    noise: Noise = "ou"  # of exploration: Ornstein-Uhlenbeck's, Gaussian, or on the actor's parameters
    sigma: float = within(0.2, 0)  # sigma (delta on parameters), scale in units of half the action range
    half_life: int = within(0, 0)  # environment steps in which sigma of noise on actions halves; 0: it stays
    theta: float = within(0.15, 0)  # theta, rate at which Ornstein-Uhlenbeck noise returns to 0, per step
    uniform: float = within(0.0, 0, 1)  # share of the exploring actions that are uniform instead
    action_penalty: float = within(0.0, 0)  # weight of the actions' mean square in the actor's loss
    target_range: tuple[float, float] | None = None  # y is clipped to it; None: as it is
    network: str = "mlp"  # builder of actor and critic
    hidden: tuple[int, ...] = (400, 300)  # units of each hidden layer, in both networks
    data: Replay = field(  # mini-batches of transitions [B, ...]
        default_factory=lambda: Replay(capacity=1_000_000, batch_size=64, warmup=1_000)
    )


@pytree
class State(Record):
    """Networks, targets and optimisers."""

    actor: Tree  # theta^mu
    critic: Tree  # theta^Q
    actor_target: Tree  # theta^mu'
    critic_target: Tree  # theta^Q'
    actor_opt_state: Tree
    critic_opt_state: Tree
    scale: Tree  # sigma of noise that changes: on the parameters, or with a half-life; else nothing
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks; targets start as copies."""
    key_actor, key_critic = jax.random.split(key)
    network = build(cfg.network)
    actor = network(key_actor, spec.obs, spec.action.size, cfg.hidden)
    critic = network(key_critic, (spec.obs, spec.action), 1, cfg.hidden)
    return State(
        actor=actor,
        critic=critic,
        actor_target=copy(actor),
        critic_target=copy(critic),
        actor_opt_state=optimizer.init(actor),
        critic_opt_state=optimizer.init(critic),
        scale=initial_scale("parameter" if cfg.half_life else cfg.noise, cfg.sigma),
        clock=start_clock(),
    )


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """A random process N for action exploration, started with the episode."""
    return initial_noise(cfg.noise, (len(env_ids), spec.action.size), key)


def policy(actor: Tree, obs: Tree) -> Array:
    """mu(s) in [-1, 1], [..., A]."""
    return jnp.tanh(actor(obs))


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Select action a_t = mu(s_t) + N_t."""
    mu, scale = actor
    if not explore:
        return policy(mu, obs), memory, ()
    sigma = scale if cfg.half_life else cfg.sigma
    if not cfg.uniform:
        action, memory = explore_by(cfg.noise, key, policy, mu, scale, obs, memory, sigma, cfg.theta)
        return action, memory, ()
    # a share of the actions is uniform over the whole range      Andrychowicz et al. 2017, appendix A
    key_noise, key_whether, key_which = jax.random.split(key, 3)
    action, memory = explore_by(cfg.noise, key_noise, policy, mu, scale, obs, memory, sigma, cfg.theta)
    anything = jax.random.uniform(key_which, action.shape, action.dtype, -1.0, 1.0)
    whether = jax.random.bernoulli(key_whether, cfg.uniform, (*action.shape[:-1], 1))
    return jnp.where(whether, anything, action), memory, ()


def next_scale(cfg: Config, state: State, actor: Tree, obs: Tree, key: Array) -> Tree:
    """Sigma of noise that changes: halved again and again, or adapted to how far it moves the actions."""
    if cfg.half_life:
        return cfg.sigma * 0.5 ** (state.clock.env_steps / cfg.half_life)
    return adapted_scale(cfg.noise, key, policy, actor, state.scale, obs, cfg.sigma)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """Noise on the parameters has a scale of its own, and a range a lower end."""
    lines = []
    if cfg.half_life and cfg.noise == "parameter":
        lines.append(
            "half_life is of noise on actions, and noise on the parameters adapts itself: give one of them"
        )
    if cfg.target_range is not None and not cfg.target_range[0] < cfg.target_range[1]:
        lines.append(f"target_range is {cfg.target_range}, but must be (low, high)")
    return lines


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Algorithm 1 from the sampled mini-batch on, [B, ...]."""
    # y_i = r_i + gamma Q'(s_{i+1}, mu'(s_{i+1}))
    next_action = policy(state.actor_target, batch.next_obs)
    target = batch.reward + batch.discount * state.critic_target((batch.next_obs, next_action))[..., 0]
    if cfg.target_range is not None:  # no return lies outside      Andrychowicz et al. 2017, appendix A
        target = jnp.clip(target, *cfg.target_range)

    # update critic by minimising L = 1/N sum_i (y_i - Q(s_i, a_i))^2
    def critic_loss(critic: Tree) -> tuple[Array, Array]:
        q = critic((batch.obs, batch.action))[..., 0]
        penalty = cfg.weight_decay * squared_norm(critic)
        return (batch.weight * (q - target) ** 2).mean() + penalty, q

    (loss, q), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    critic, critic_opt_state = gradient_step(
        optimizer, grads, state.critic_opt_state, state.critic, cfg.critic_lr
    )

    # update the actor policy using grad_theta J = 1/N sum_i grad_a Q(s_i, mu(s_i)) grad_theta mu(s_i)
    def actor_loss(actor: Tree) -> Array:
        action = policy(actor, batch.obs)
        loss = -(batch.weight * critic((batch.obs, action))[..., 0]).mean()
        return loss + cfg.action_penalty * (action**2).mean() if cfg.action_penalty else loss

    grads = jax.grad(actor_loss)(state.actor)
    actor, actor_opt_state = gradient_step(optimizer, grads, state.actor_opt_state, state.actor, cfg.actor_lr)

    # theta^Q' <- tau theta^Q + (1 - tau) theta^Q',   theta^mu' <- tau theta^mu + (1 - tau) theta^mu'
    state = State(
        actor=actor,
        critic=critic,
        actor_target=polyak_average(actor, state.actor_target, cfg.tau),
        critic_target=polyak_average(critic, state.critic_target, cfg.tau),
        actor_opt_state=actor_opt_state,
        critic_opt_state=critic_opt_state,
        scale=next_scale(cfg, state, actor, batch.obs, key),
        clock=state.clock.updated(),
    )
    metrics = {
        "critic_loss": loss,  # mean squared error of the critic
        "q": q.mean(),  # Q(s, a), mean over the mini-batch
        "target": target.mean(),  # y, mean over the mini-batch
    }
    return Update(state, metrics, priority=jnp.abs(q - target))


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
    value=lambda cfg, spec, state, obs, action: state.critic((obs, action))[..., 0],
)

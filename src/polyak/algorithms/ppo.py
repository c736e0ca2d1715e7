"""PPO: proximal policy optimisation with the clipped surrogate.

Schulman, Wolski, Dhariwal, Radford & Klimov 2017 (arXiv:1707.06347), Algorithm 1 with the objective of eq. 9;
defaults are its Table 3 (MuJoCo). Lecture 3.

Departures: advantages are normalised within each mini-batch and the gradient's norm is clipped (`max_norm`), as
in the authors' code; likewise Adam's epsilon is 1e-5, all layers start orthogonal and the policy's last one small.
Policy and value function share no weights, and c1 is 0.5. With `sigma="state"` log sigma is clipped to [-5, 2].
A mini-batch takes some times, drawn without replacement, of every environment. Where an episode is cut by a time
limit the advantage bootstraps from the value of the true successor.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Discrete,
    OnPolicy,
    Spec,
    Transition,
    Tree,
    Update,
    within,
)
from polyak.parts.distributions import Categorical, Normal
from polyak.parts.networks import build
from polyak.parts.optimize import adam, linear, step
from polyak.parts.returns import gae
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The paper's Table 3; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    lam: float = within(0.95, 0, 1)  # lambda of the advantage estimate GAE(lambda)
    lr: float = within(3e-4, 0)  # Adam's learning rate at the first step
    lr_end: float = within(1.0, 0)  # share of lr left at the horizon; 1 keeps it constant, 0 anneals it away
    clip: float = within(0.2, 0)  # epsilon, how far from 1 the ratio of the two policies may pay
    epochs: int = within(10, 1)  # K, passes over a rollout
    minibatch: int = within(64, 1)  # M, rows of one gradient step
    value_loss: float = within(0.5, 0)  # c1, weight of the squared error of the value function
    entropy: float = within(0.0, 0)  # c2, weight of the policy's entropy in nats; lecture 3 calls it beta
    max_norm: float = within(0.5, 0)  # largest norm of the gradient, which is scaled down to it
    normalize_advantage: bool = True  # make advantages mean 0 and deviation 1 in each mini-batch
    sigma: Literal["parameter", "state"] = "parameter"  # one log sigma for each action, or a network's output
    log_sigma: float = 0.0  # where log sigma starts; sigma is in units of half the action range
    network: str = "mlp"  # builder of the policy's and the value function's networks
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer, in both networks
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    horizon: int = within(0, 0)  # environment steps that lr falls over; 0: all of the run's
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=2048))  # one rollout [T, N, ...]

    def wrong(self, spec: Spec) -> list[str]:
        """What the ranges of single fields cannot say."""
        times, rows = self.data.steps, self.data.steps * spec.num_envs
        parts = max(1, rows // self.minibatch)
        near = min((n for n in range(1, times + 1) if times % n == 0), key=lambda n: abs(n - parts))
        advice = f"minibatch = {self.minibatch} does not cut data.steps = {times}: {rows // near} would"
        return [] if near == parts else [advice]


@pytree
class Policy(Record):
    """pi_theta(a|s): logits, or mean and log sigma."""

    net: Tree
    log_sigma: Array  # [A], or [0] where the network says it or actions are discrete


@pytree
class State(Record):
    """Policy, value function and their one optimiser; `clock` counts environment steps."""

    policy: Policy  # theta
    value: Tree  # phi
    moments: Tree
    clock: Array


class Rows(NamedTuple):
    """What the surrogate is made of, [T, N, ...] or a mini-batch of it."""

    obs: Tree
    action: Array
    log_prob: Array  # of the policy that acted
    advantage: Array
    value_target: Array


def optimizer(cfg: Config):
    """Adam on the clipped gradient."""
    return adam(eps=1e-5, max_norm=cfg.max_norm)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Orthogonal networks; the first policy is nearly uniform, or N(0, sigma)."""
    key_policy, key_value = jax.random.split(key)
    network = build(cfg.network)
    outputs = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
    parameter = not isinstance(spec.action, Discrete) and cfg.sigma == "parameter"
    if not isinstance(spec.action, Discrete) and cfg.sigma == "state":
        outputs *= 2
    net = network(key_policy, spec.obs, outputs, cfg.hidden, cfg.activation, "orthogonal", 0.01)
    log_sigma = jnp.full(outputs if parameter else 0, cfg.log_sigma, jnp.float32)
    policy = Policy(net, log_sigma)
    value = network(key_value, spec.obs, 1, cfg.hidden, cfg.activation, "orthogonal", 1.0)
    return State(policy, value, optimizer(cfg).init((policy, value)), jnp.zeros((), jnp.int32))


def distribution(cfg: Config, spec: Spec, policy: Policy, obs: Tree) -> Categorical | Normal:
    """pi_theta(.|s) for obs [..., *obs]."""
    out = policy.net(obs)
    if isinstance(spec.action, Discrete):
        return Categorical(out)
    if cfg.sigma == "parameter":
        return Normal(out, jnp.broadcast_to(jnp.exp(policy.log_sigma), out.shape))
    mean, log_sigma = jnp.split(out, 2, axis=-1)
    return Normal(mean, jnp.exp(jnp.clip(cfg.log_sigma + log_sigma, -5.0, 2.0)))


def act(cfg: Config, spec: Spec, actor: Policy, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Sample the policy, or take its mode; remembers log pi(a|s)."""
    pi = distribution(cfg, spec, actor, obs)
    action = pi.sample(key) if explore else pi.mode()
    extras = {"log_prob": pi.log_prob(action)}
    if not isinstance(spec.action, Discrete):
        action = action.reshape(*action.shape[:-1], *spec.action.shape)
    return action, memory, extras


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """K epochs of stochastic ascent on one rollout [T, N, ...]."""
    # compute advantage estimates A_1, ..., A_T
    value, next_value = state.value(batch.obs)[..., 0], state.value(batch.next_obs)[..., 0]
    advantage = gae(batch.reward, batch.discount, batch.last, value, next_value, cfg.lam)
    action = batch.action
    if not isinstance(spec.action, Discrete):
        action = action.reshape(*batch.reward.shape, -1)
    rows = Rows(batch.obs, action, batch.extras["log_prob"], advantage, advantage + value)

    # optimise the surrogate with K epochs and mini-batches of M <= N T
    lr = cfg.lr * linear(state.clock, 1.0, cfg.lr_end, max(cfg.horizon, 1))

    def ascend(learned: tuple, rows: Rows) -> tuple[tuple, dict[str, Array]]:
        params, moments = learned
        grads, metrics = jax.grad(loss, argnums=2, has_aux=True)(cfg, spec, params, rows)
        return step(optimizer(cfg), grads, moments, params, lr), metrics

    def epoch(learned: tuple, number: Array) -> tuple[tuple, dict[str, Array]]:
        return jax.lax.scan(ascend, learned, minibatches(cfg, rows, jax.random.fold_in(key, number)))

    learned = (state.policy, state.value), state.moments
    learned, metrics = jax.lax.scan(epoch, learned, jnp.arange(cfg.epochs))
    (policy, value_net), moments = learned
    metrics = jax.tree.map(jnp.mean, metrics)
    residual = jnp.var(rows.value_target - value) / (jnp.var(rows.value_target) + 1e-8)
    metrics |= {
        "explained_variance": 1 - residual,  # of the value targets by V before the update: 1 is perfect
        "lr": jnp.asarray(lr, jnp.float32),  # Adam's learning rate
    }
    return Update(state.replace(policy=policy, value=value_net, moments=moments), metrics)


def loss(cfg: Config, spec: Spec, params: tuple, rows: Rows) -> tuple[Array, dict[str, Array]]:
    """Minus the objective of eq. 9, on a mini-batch [..., N, ...]."""
    policy, value = params
    pi = distribution(cfg, spec, policy, rows.obs)
    advantage = rows.advantage
    if cfg.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    # r(theta) = pi_theta(a|s) / pi_old(a|s);   L^CLIP = E[min(r A, clip(r, 1 - eps, 1 + eps) A)]   eq. 7
    log_ratio = pi.log_prob(rows.action) - rows.log_prob
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - cfg.clip, 1 + cfg.clip) * advantage).mean()
    # L^VF = (V(s) - V_target)^2
    value_loss = ((value(rows.obs)[..., 0] - rows.value_target) ** 2).mean()
    entropy = pi.entropy().mean()
    total = -(surrogate - cfg.value_loss * value_loss + cfg.entropy * entropy)
    metrics = {
        "policy_loss": -surrogate,  # minus the clipped surrogate
        "value_loss": value_loss,  # mean squared error of V, before its weight c1
        "entropy": entropy,  # of the policy, in nats
        "kl": (ratio - 1 - log_ratio).mean(),  # estimate of KL(pi_old, pi), in nats
        "clip_fraction": (jnp.abs(ratio - 1) > cfg.clip).mean(dtype=jnp.float32),  # share of r beyond epsilon
    }
    return total, metrics


def minibatches(cfg: Config, rows: Rows, key: Array) -> Rows:
    """Shuffle the times and cut them into equal parts: [parts, T / parts, N, ...]."""
    times, num_envs = rows.advantage.shape
    parts = max(1, times * num_envs // cfg.minibatch)
    order = jnp.argsort(jax.random.uniform(key, times)).reshape(parts, times // parts)
    return jax.tree.map(lambda x: x[order], rows)


def observe(cfg: Config, spec: Spec, state: State, rollout: Transition) -> State:
    """Count environment steps: the learning rate falls with them."""
    return state.replace(clock=state.clock + rollout.reward.size)


algorithm = Algorithm(
    Config=Config,
    actions=("discrete", "continuous"),
    init=init,
    actor=lambda state: state.policy,
    act=act,
    update=update,
    observe=observe,
)

"""Asynchronous value-based methods: one-step Q-learning, one-step SARSA and n-step Q-learning.

Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver & Kavukcuoglu 2016, "Asynchronous Methods for Deep Reinforcement
Learning" (arXiv:1602.01783): Algorithm 1 (one-step Q), section 4.2 (SARSA) and Algorithm S2 (n-step Q); RMSProp with
shared statistics, equations (8) and (9). Lectures 3 and 4.

What one actor-learner thread does with its own rollout; which threads there are, what they have read and when their
gradients arrive is the driver's: `--sync lockstep`, `async` or `hogwild`, with `--workers`.

Departures: a gradient is the mean over its rows where the paper has the sum. A segment goes on after the end of an
episode, at which returns are cut; where that is a time limit they bootstrap from the true successor. The target network
is copied after so many updates instead of frames. SARSA's a' of a segment's last row, and at a time limit, is drawn
from the policy, since it is not taken before the update. An episode draws its epsilon anew ("periodically sampled").
The paper draws the learning rate at random and says nothing of RMSProp's epsilon: both are settings here.
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
from polyak.parts.exploration import epsilon_greedy
from polyak.parts.networks import build
from polyak.parts.optimize import Rule, adam, gradient_step, rmsprop, sgd
from polyak.parts.returns import lambda_return
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """The paper's settings where it names them; symbols are the paper's."""

    gamma: float = within(0.99, 0, 1)  # gamma, discount of one step
    method: Literal["n_step_q", "one_step_q", "one_step_sarsa"] = "n_step_q"  # which of the three
    rule: Rule = "rmsprop"  # how a gradient becomes a step: rmsprop, which is the paper's, adam or sgd
    lr: float = within(7e-4, 0)  # eta, learning rate at the first step
    lr_end: float = within(0.0, 0)  # share of lr left at the horizon; 1 keeps it constant
    decay: float = within(0.99, 0, 1)  # alpha, decay of RMSProp's mean of squared gradients
    eps: float = within(1e-5, 0)  # epsilon of RMSProp, or of Adam
    period: int = within(1_000, 1)  # I_target, updates between two copies into the target network
    epsilon: float = within(1.0, 0, 1)  # epsilon, probability of a random action, at the first step
    epsilon_ends: tuple[float, ...] = (
        0.1,
        0.01,
        0.5,
    )  # epsilon once it has fallen; each thread has one of these
    chances: tuple[float, ...] = (
        0.4,
        0.3,
        0.3,
    )  # of each of them, in an episode; empty: worker w has number w
    epsilon_fraction: float = within(0.2, 0, 1)  # share of the horizon over which epsilon falls
    horizon: int = within(0, 0)  # T_max, environment steps that lr and epsilon fall over; 0: all of the run's
    network: str = "mlp"  # builder of the network; linear on a Discrete observation: a table
    hidden: tuple[int, ...] = (128, 128)  # units of each hidden layer
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=5))  # one segment [t_max, N, ...]

    @property
    def anneal(self) -> int:
        """Environment steps over which epsilon falls."""
        return max(1, round(self.epsilon_fraction * self.horizon))


@pytree
class State(Record):
    """The global parameters, and the statistics of their optimiser, which all threads share."""

    q: Tree  # theta
    q_target: Tree  # theta^-
    opt_state: Tree  # g
    clock: Clock  # T


@pytree
class Actor(Record):
    """What a thread reads, and the counter T."""

    q: Tree  # theta'
    target: Tree
    clock: Clock


def optimizer(cfg: Config):
    """RMSProp with shared statistics: g <- alpha g + (1 - alpha) d theta^2, a step eta d theta / sqrt(g + eps)."""
    made = {"rmsprop": lambda: rmsprop(cfg.decay, cfg.eps), "adam": lambda: adam(eps=cfg.eps), "sgd": sgd}
    return made[cfg.rule]()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Initialize theta, and theta^- <- theta."""
    q = build(cfg.network)(key, spec.obs, spec.action.n, cfg.hidden, "relu", "uniform", 1.0)
    return State(q, copy(q), optimizer(cfg).init(q), start_clock())


def actor(state: State) -> Actor:
    """Synchronize thread-specific parameters theta' <- theta."""
    return Actor(state.q, state.q_target, state.clock)


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Array:
    """Where the epsilon of a thread ends, [N]: drawn for an episode, or the thread's own for ever."""
    ends = jnp.asarray(cfg.epsilon_ends, jnp.float32)
    if not cfg.chances:
        return ends[env_ids % len(ends)]
    return jax.random.choice(key, ends, (len(env_ids),), p=jnp.asarray(cfg.chances))


def act(cfg: Config, spec: Spec, actor: Actor, memory: Array, obs: Tree, key: Array, explore: bool) -> tuple:
    """Take action a with epsilon-greedy policy based on Q(s, a; theta'), or the greedy one."""
    q = actor.q(obs)
    if not explore:
        return jnp.argmax(q, axis=-1).astype(jnp.int32), memory, ()
    epsilon = linear_schedule(actor.clock.env_steps, cfg.epsilon, memory, cfg.anneal)
    return epsilon_greedy(key, q, epsilon), memory, {"epsilon": epsilon}


def gradient(
    cfg: Config, spec: Spec, actor: Actor, batch: Batch, key: Array
) -> tuple[Tree, dict[str, Array]]:
    """Half of d theta, accumulated over a thread's own segment [t_max, N, ...]."""
    after = actor.target(batch.next_obs)
    if cfg.method == "one_step_sarsa":
        # a' is the action taken in s', which is the next row's but at the end of an episode or of the segment
        drawn = epsilon_greedy(key, actor.q(batch.next_obs), batch.extras["epsilon"])
        taken = jnp.concatenate([batch.action[1:], drawn[-1:]])
        value = chosen(spec, after, jnp.where(batch.last, drawn, taken))
    else:
        value = after.max(axis=-1)
    # y = r for terminal s', r + gamma max_a' Q(s', a'; theta^-) otherwise; with n steps R <- r_i + gamma R
    lam = 1.0 if cfg.method == "n_step_q" else 0.0
    target = lambda_return(batch.reward, batch.discount, batch.last, value, lam)

    # d theta <- d theta + d (R - Q(s_i, a_i; theta'))^2 / d theta'
    def loss(q: Tree) -> tuple[Array, Array]:
        q_taken = chosen(spec, q(batch.obs), batch.action)
        return 0.5 * ((target - q_taken) ** 2).mean(), q_taken

    (loss_value, q_taken), grads = jax.value_and_grad(loss, has_aux=True)(actor.q)
    metrics = {
        "loss": loss_value,  # half the mean squared error
        "q": q_taken.mean(),  # Q(s, a), mean over the rows
        "epsilon": batch.extras["epsilon"].mean(),  # epsilon, mean over the rows
    }
    return grads, metrics


def chosen(spec: Spec, q: Array, action: Array) -> Array:
    """Q(s, a) [...] of Q(s, .) [..., A]."""
    return (jax.nn.one_hot(action, spec.action.n) * q).sum(axis=-1)


def apply(cfg: Config, spec: Spec, state: State, grads: Tree) -> State:
    """The update of theta with d theta, asynchronous where the driver is; at times theta^- <- theta."""
    lr = cfg.lr * linear_schedule(state.clock.env_steps, 1.0, cfg.lr_end, max(cfg.horizon, 1))
    q, opt_state = gradient_step(optimizer(cfg), grads, state.opt_state, state.q, lr)
    clock = state.clock.updated()
    # if T mod I_target == 0 then update the target network theta^- <- theta
    due = clock.updates % cfg.period == 0
    target = jax.tree.map(lambda new, old: jnp.where(due, new, old), q, state.q_target)
    return State(q, target, opt_state, clock)


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """What a single thread does, which waits for nobody."""
    grads, metrics = gradient(cfg, spec, actor(state), batch, key)
    return Update(apply(cfg, spec, state, grads), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """A line where the epsilons and their chances do not fit one another."""
    found = []
    if not cfg.epsilon_ends or not all(0 <= end <= 1 for end in cfg.epsilon_ends):
        found.append(f"epsilon_ends is {cfg.epsilon_ends}, but must be probabilities, at least one")
    if cfg.chances and (len(cfg.chances) != len(cfg.epsilon_ends) or abs(sum(cfg.chances) - 1) > 1e-6):
        found.append(
            f"chances is {cfg.chances}, but must be one of each of epsilon_ends, 1 together, or empty"
        )
    return found


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    family="value",
    init=init,
    actor=actor,
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    gradient=gradient,
    apply=apply,
    wrong=wrong,
)

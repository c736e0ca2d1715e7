"""Dyna-Q: acting, learning a model and planning with it at once.

Sutton 1990, "Integrated Architectures for Learning, Planning, and Reacting Based on Approximating Dynamic
Programming" (ICML); Sutton & Barto 2018, section 8.2, "Tabular Dyna-Q", and section 8.3 for Dyna-Q+ (`kappa`).
Lecture 1.

Departures: none where one environment takes one step at a time, which is the default. Rows of several environments
or steps are learned from one after the other. The model is deterministic, as in the book: of a world that is not it
keeps the last outcome only, and the metric `surprise` says how often that was wrong.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Batch, OnPolicy, Spec, Tree, Update, within
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The book's example 8.1; symbols are the book's."""

    gamma: float = within(0.95, 0, 1)  # gamma, discount of one step
    lr: float = within(0.1, 0, 1)  # alpha, share of the error that a step takes away
    epsilon: float = within(0.1, 0, 1)  # epsilon, probability of a random action
    planning: int = within(50, 0)  # n, simulated steps after every real one
    kappa: float = within(0.0, 0)  # kappa of Dyna-Q+, bonus per root of steps not tried; 0: Dyna-Q
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=1))  # each transition is used once


@pytree
class State(Record):
    """Values and the model, tables [states, A]."""

    q: Array  # Q(s, a)
    next_obs: Array  # int32, of Model(s, a)
    reward: Array  # of Model(s, a)
    discount: Array  # of Model(s, a): gamma, and 0 where it terminates
    tried: Array  # int32, real steps that had been made when (s, a) was last tried; 0: never
    steps: Array  # int32, real steps so far


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Initialise Q(s, a) and Model(s, a): what was never tried leads back to where it began, with reward 0."""
    shape = spec.obs.n, spec.action.n
    stay = jnp.broadcast_to(jnp.arange(shape[0], dtype=jnp.int32)[:, None], shape)
    discount = jnp.full(shape, cfg.gamma, jnp.float32)
    tried = jnp.zeros(shape, jnp.int32)
    return State(
        jnp.zeros(shape), jnp.copy(stay), jnp.zeros(shape), discount, tried, jnp.zeros((), jnp.int32)
    )


def act(cfg: Config, spec: Spec, actor: Array, memory: Tree, obs: Array, key: Array, explore: bool) -> tuple:
    """A <- epsilon-greedy(S, Q), where equal actions are drawn alike."""
    q = actor[obs]
    if not explore:
        return q.argmax(axis=-1).astype(jnp.int32), memory, ()
    key_whether, key_which = jax.random.split(key)
    random = jax.random.uniform(key_whether, q.shape[:-1]) < cfg.epsilon
    chosen = random[:, None] | (q == q.max(axis=-1, keepdims=True))
    action = jax.random.categorical(key_which, jnp.where(chosen, 0.0, -jnp.inf))
    return action.astype(jnp.int32), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Direct learning, model learning and planning for each row of [T, N, ...], one after the other."""
    rows = jax.tree.map(lambda x: x.reshape(-1), batch._replace(extras=()))

    def step(state: State, row: tuple[Batch, Array]) -> tuple[State, tuple[Array, Array]]:
        batch, number = row
        s, a = batch.obs, batch.action
        next_obs = jnp.where(batch.terminated, s, batch.next_obs)  # beyond an end there is nothing to keep
        # Q(S, A) <- Q(S, A) + alpha [R + gamma max_a Q(S', a) - Q(S, A)]                                 (d)
        q, error = learned(cfg, state.q, s, a, batch.reward, batch.discount, next_obs)
        known = state.tried[s, a] > 0
        other = (state.next_obs[s, a] != next_obs) | (state.reward[s, a] != batch.reward)
        surprise = known & (other | (state.discount[s, a] != batch.discount))
        # Model(S, A) <- R, S'                                                                            (e)
        steps = state.steps + 1
        state = State(
            q=q,
            next_obs=state.next_obs.at[s, a].set(next_obs),
            reward=state.reward.at[s, a].set(batch.reward),
            discount=state.discount.at[s, a].set(batch.discount),
            tried=state.tried.at[s, a].set(steps),
            steps=steps,
        )
        return planned(cfg, state, jax.random.fold_in(key, number)), (jnp.abs(error), surprise)

    state, (error, surprise) = jax.lax.scan(step, state, (rows, jnp.arange(rows.reward.size)))
    metrics = {
        "td_error": error.mean(),  # mean absolute error of Q on the real steps, before they were learned from
        "surprise": surprise.mean(dtype=jnp.float32),  # share of real steps that the model had otherwise
        "known": (state.tried > 0).mean(dtype=jnp.float32),  # share of all pairs (s, a) that were ever tried
    }
    return Update(state, metrics)


def learned(cfg: Config, q: Array, s: Array, a: Array, reward: Array, discount: Array, after: Array) -> tuple:
    """The table after one step of Q-learning, and the error."""
    error = reward + discount * q[after].max() - q[s, a]
    return q.at[s, a].add(cfg.lr * error), error


def planned(cfg: Config, state: State, key: Array) -> State:
    """Loop repeat n times: Q-learning on what the model says of pairs that are drawn from it, (f)."""
    tried = state.tried > 0
    seen = tried.any(axis=1)
    # Dyna-Q+ may plan with actions that were never tried from a state that was seen
    allowed = seen[:, None] & (tried | (cfg.kappa > 0))
    bonus = cfg.kappa * jnp.sqrt((state.steps - state.tried).astype(jnp.float32))

    def imagine(q: Array, number: Array) -> tuple[Array, None]:
        key_state, key_action = jax.random.split(jax.random.fold_in(key, number))
        s = draw(key_state, seen)  # random previously observed state
        a = draw(key_action, allowed[s])  # random action previously taken in S
        reward = state.reward[s, a] + bonus[s, a]  # R, S' <- Model(S, A)
        return learned(cfg, q, s, a, reward, state.discount[s, a], state.next_obs[s, a])[0], None

    return state.replace(q=jax.lax.scan(imagine, state.q, jnp.arange(cfg.planning))[0])


def draw(key: Array, mask: Array) -> Array:
    """A uniform draw of the indices where the mask is set."""
    return jnp.searchsorted(jnp.cumsum(mask), jax.random.randint(key, (), 1, mask.sum() + 1))


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    observes="discrete",
    family="planning",
    init=init,
    actor=lambda state: state.q,
    act=act,
    update=update,
)

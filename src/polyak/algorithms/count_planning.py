"""Planning with counts: a model of transition counts, optimism where nothing is known, value iteration.

Brafman & Tennenholtz 2002, "R-max: A General Polynomial Time Algorithm for Near-Optimal Reinforcement Learning"
(Journal of Machine Learning Research 3); Sutton & Barto 2018, section 4.4, for value iteration. Lecture 1.

Departures: rewards are discounted, where the paper has average rewards over a mixing time; planning is value
iteration that goes on from the last values, `sweeps` after every step of the data, and not to the end. A pair is known
after `enough` visits, which the paper's bounds would put far higher; 1 is right where the world is deterministic.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Batch, OnPolicy, Spec, Tree, Update, within
from polyak.parts.exploration import epsilon_greedy
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Settings of the model, of its optimism and of the planner."""

    gamma: float = within(0.95, 0, 1)  # gamma, discount of one step
    enough: int = within(1, 1)  # m, visits after which a pair (s, a) is known
    max_reward: float = 1.0  # R_max, reward that an unknown pair is thought to give at every step
    sweeps: int = within(20, 1)  # sweeps of value iteration in one update
    epsilon: float = within(0.0, 0, 1)  # epsilon, probability of a random action; optimism needs none
    data: OnPolicy = field(default_factory=lambda: OnPolicy(steps=1))  # each transition is counted once

    @property
    def optimism(self) -> float:
        """Value of a pair that is not known: R_max for ever."""
        return self.max_reward / max(1 - self.gamma, 1e-6)


@pytree
class State(Record):
    """Counts, and the values that are planned with them."""

    visits: Array  # n(s, a), [states, A]
    after: Array  # n(s, a, s'), [states, A, states]; an end counts for no s'
    reward: Array  # sum of the rewards of (s, a), [states, A]
    q: Array  # Q(s, a), [states, A]


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Nothing was counted, and everything may be good."""
    states, actions = spec.obs.n, spec.action.n
    shape = states, actions
    return State(
        visits=jnp.zeros(shape),
        after=jnp.zeros((*shape, states)),
        reward=jnp.zeros(shape),
        q=jnp.full(shape, cfg.optimism, jnp.float32),
    )


def act(cfg: Config, spec: Spec, actor: Array, memory: Tree, obs: Array, key: Array, explore: bool) -> tuple:
    """The best action of the optimistic model."""
    return epsilon_greedy(key, actor[obs], cfg.epsilon if explore else 0.0), memory, ()


def model(cfg: Config, state: State) -> tuple[Array, Array]:
    """The fitted P(s' | s, a) [states, A, states] and r(s, a) [states, A]; zeros where nothing was counted.

    What P lacks to 1 is the probability of an end.
    """
    visits = jnp.maximum(state.visits, 1)
    return state.after / visits[..., None], state.reward / visits


def planned(cfg: Config, state: State) -> tuple[Array, Array]:
    """Q after some sweeps of value iteration in the optimistic model, and how far the last one moved it."""
    transition, reward = model(cfg, state)
    known = state.visits >= cfg.enough

    def sweep(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        q, _ = carry
        # Q(s, a) <- r(s, a) + gamma sum_s' P(s' | s, a) max_a' Q(s', a'), and R_max / (1 - gamma) if unknown
        backup = reward + cfg.gamma * transition @ q.max(axis=1)
        swept = jnp.where(known, backup, cfg.optimism)
        return (swept, jnp.abs(swept - q).max()), None

    return jax.lax.scan(sweep, (state.q, jnp.zeros(())), None, cfg.sweeps)[0]


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Count the rows [T, N, ...] and plan."""
    s, a = batch.obs, batch.action
    state = state.replace(
        visits=state.visits.at[s, a].add(1),
        after=state.after.at[s, a, batch.next_obs].add(1 - batch.terminated.astype(jnp.float32)),
        reward=state.reward.at[s, a].add(batch.reward),
    )
    q, change = planned(cfg, state)
    metrics = {
        "known": (state.visits >= cfg.enough).mean(
            dtype=jnp.float32
        ),  # share of all pairs (s, a) that are known
        "change": change,  # largest change of Q in the last sweep: 0 where planning has come to an end
        "q": q[s].max(axis=-1).mean(),  # max_a Q(s, a), mean over the rows
    }
    return Update(state.replace(q=q), metrics)


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

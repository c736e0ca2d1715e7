"""An algorithm that learns nothing and writes down everything: each row that was collected, each that was drawn.

Trained on `Patterns`, whose observations are all different, a run's last state tells what replay gave to `update`
and what it had to choose from.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.envs.environment import Environment, Step
from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Box,
    Discrete,
    Replay,
    Spec,
    Transition,
    Tree,
    Update,
    within,
)
from polyak.pytree import Record, pytree, static


@pytree
class Patterns(Environment):
    """Episodes of 1 to `max_length` steps that terminate or are truncated, with random observations and rewards.

    obs [2]: random, so that no two are alike; rewards are normal, the first of an episode a thousand times as large
    """

    max_length: int = static(default=6)
    time_limit: int = static(default=5)  # so that some end neither way by themselves

    @property
    def spec(self) -> Spec:
        """Two random numbers to see, two actions without effect."""
        return Spec(Box((2,), 0.0, 1.0), Discrete(2), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Tree, Array]:
        """The length of the episode, its kind of end, and how many steps it has had."""
        key_length, key_end, key_obs = jax.random.split(key, 3)
        length = jax.random.randint(key_length, (), 1, self.max_length + 1)
        return (length, jax.random.bernoulli(key_end), jnp.int32(0)), jax.random.uniform(key_obs, (2,))

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One more."""
        length, terminates, steps = state
        key_obs, key_reward = jax.random.split(key)
        reward = jax.random.normal(key_reward) * jnp.where(steps == 0, 1000.0, 1.0)
        ended = steps + 1 >= length
        obs = jax.random.uniform(key_obs, (2,))
        return Step((length, terminates, steps + 1), obs, reward, ended & terminates, ended & ~terminates)


@dataclass(frozen=True)
class Config:
    """Nothing but what replay reads."""

    gamma: float = within(0.99, 0, 1)  # discount
    horizon: int = within(0, 0)  # environment steps of the whole run
    data: Replay = field(default_factory=lambda: Replay(capacity=256, batch_size=64, warmup=0, steps=16))


class Seen(NamedTuple):
    """A row of experience, of the stream [R, N, ...] or drawn [U, B, ...]."""

    obs: Array
    reward: Array
    next_obs: Array
    terminated: Array
    truncated: Array
    discount: Array


@pytree
class State(Record):
    """The whole stream, every drawn batch, and how far both have come."""

    stream: Seen
    drawn: Seen
    head: Array  # [U] rows of the stream that were there when the batch was drawn
    rows: Array
    updates: Array


def empty(lead: tuple[int, int], obs: tuple[int, ...]) -> Seen:
    """Room for so many rows."""
    number, flag = jnp.zeros(lead), jnp.zeros(lead, bool)
    return Seen(jnp.zeros((*lead, *obs)), number, jnp.zeros((*lead, *obs)), flag, flag, number)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Room for a run of `horizon` steps."""
    rows = -(-cfg.horizon // (spec.num_envs * cfg.data.steps)) * cfg.data.steps
    updates = rows // cfg.data.steps * cfg.data.updates
    stream = empty((rows, spec.num_envs), spec.obs.shape)
    drawn = empty((updates, cfg.data.batch_size), spec.obs.shape)
    zero = jnp.zeros((), jnp.int32)
    return State(stream, drawn, jnp.zeros(updates, jnp.int32), zero, jnp.copy(zero))


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Array, key: Array, explore: bool) -> tuple:
    """The first action, always."""
    return jnp.zeros(obs.shape[0], jnp.int32), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Write down what was drawn."""
    seen = Seen(*(getattr(batch, name) for name in Seen._fields))
    drawn = jax.tree.map(lambda log, new: log.at[state.updates].set(new), state.drawn, seen)
    head = state.head.at[state.updates].set(state.rows)
    return Update(state.replace(drawn=drawn, head=head, updates=state.updates + 1), {})


def observe(cfg: Config, spec: Spec, state: State, rollout: Transition) -> State:
    """Write down what was collected."""
    one = jnp.where(rollout.terminated, 0.0, jnp.float32(cfg.gamma))  # the discount of a single step
    seen = Seen(*(getattr(rollout, name) for name in Seen._fields[:-1]), discount=one)
    write = lambda log, new: jax.lax.dynamic_update_slice_in_dim(log, new, state.rows, 0)  # noqa: E731
    return state.replace(
        stream=jax.tree.map(write, state.stream, seen), rows=state.rows + rollout.reward.shape[0]
    )


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    init=init,
    actor=lambda state: (),
    act=act,
    update=update,
    observe=observe,
)


class Log(NamedTuple):
    """What a run wrote down, in NumPy.

    row, env  [U, B] where in the stream a drawn row begins, -1 if nowhere
    """

    stream: Seen
    drawn: Seen
    head: np.ndarray
    row: np.ndarray
    env: np.ndarray


def read(run: polyak.Run) -> Log:
    """The log of the first seed, each drawn row found again in the stream by its observation."""
    state = jax.tree.map(lambda x: np.asarray(x)[0], run.state())
    obs = state.stream.obs
    where = {obs[place].tobytes(): place for place in np.ndindex(obs.shape[:2])}
    assert len(where) == obs.shape[0] * obs.shape[1], "two observations are alike"
    places = np.array([[where.get(obs.tobytes(), (-1, -1)) for obs in batch] for batch in state.drawn.obs])
    return Log(state.stream, state.drawn, state.head, places[..., 0], places[..., 1])

"""Hill climbing on the parameters of a policy.

Russell & Norvig 2021, "Artificial Intelligence: A Modern Approach", 4th edition, figure 4.2, with random neighbours as
in section 4.2. Lecture 1.

Departures: neighbours are drawn from a Gaussian around the current parameters, several at once; the current parameters
play again in every generation, as candidate 0, since a return is a random number and a lucky one would never be beaten.
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
from polyak.parts import population
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The book names no values: these are ours."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    population: int = within(8, 2)  # P, candidates of a generation: the current one and its neighbours
    sigma: float = within(0.1, 0)  # sigma, standard deviation of a neighbour in every parameter
    network: str = "mlp"  # builder of the policy's network
    hidden: tuple[int, ...] = (16,)  # units of each hidden layer; none: a linear policy
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=8))  # one generation [T, N, ...]


@pytree
class State(Record):
    """Where the climber stands."""

    params: Array  # current, [D]
    noise: Array  # key of this generation's neighbours, uint32 words
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A random policy."""
    key_network, key_noise = jax.random.split(key)
    params = population.flatten(population.build_network(cfg, spec, key_network))
    return State(params, jax.random.key_data(key_noise), start_clock())


def actor(state: State) -> tuple[Array, Array]:
    """What the candidates are made of."""
    return state.params, state.noise


def candidate(cfg: Config, actor: tuple[Array, Array], member: Array) -> Array:
    """The current parameters [D] as candidate 0, else a neighbour of theirs."""
    params, noise = actor
    key = jax.random.fold_in(jax.random.wrap_key_data(noise), member)
    sigma = jnp.where(member == 0, 0.0, cfg.sigma)
    return params + sigma * jax.random.normal(key, params.shape, params.dtype)


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """The candidate that plays the episode."""
    return population.players(cfg, spec, env_ids, episode)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The candidate's action, or that of the current policy."""
    if not explore:
        return population.action_of(cfg, spec, actor[0], obs), memory, {"member": memory.member}
    action, memory = population.play(cfg, spec, memory, lambda i: candidate(cfg, actor, i), obs)
    return action, memory, {"member": memory.member}


def tell(cfg: Config, state: State, value: Array, key: Array) -> tuple[State, dict[str, Array]]:
    """One iteration of figure 4.2, from the values [P] of the candidates."""
    # neighbor <- a highest-valued successor of current
    best = value[1:].argmax() + 1
    # if VALUE(neighbor) <= VALUE(current) then return current; current <- neighbor
    better = value[best] > value[0]
    params = jnp.where(better, candidate(cfg, actor(state), best), state.params)
    metrics = {
        "current_return": value[0],  # of the current policy
        "best_return": value.max(),  # of the best candidate
        "mean_return": value.mean(),  # over the candidates
        "climbed": better.astype(jnp.float32),  # whether a neighbour was better: 0 or 1
        "norm": jnp.linalg.norm(params),  # length of the current parameters
    }
    return State(params, jax.random.key_data(key), state.clock.updated()), metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Move to the best neighbour if it was better in this rollout [T, N, ...]."""
    return Update(*tell(cfg, state, population.returns(cfg, batch), key))


algorithm = Algorithm(
    Config=Config,
    actions=("discrete", "continuous"),
    family="search",
    init=init,
    actor=actor,
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    wrong=population.wrong_population,
)

"""Genetic algorithm on the parameters of a policy.

Holland 1975, "Adaptation in Natural and Artificial Systems"; as in Mitchell 1996, "An Introduction to Genetic
Algorithms", section 1.6, with real-valued genes, truncation selection, Gaussian mutation and elitism as in Such,
Madhavan, Conti, Lehman, Stanley & Clune 2017, "Deep Neuroevolution" (arXiv:1712.06567), Algorithm 1. Lecture 1.

Departures: crossover is uniform (Syswerda 1989), each gene of a child from either parent; Such et al. have none
(`crossover` 0). The elite plays again with everyone else, once a generation, instead of 30 extra episodes for the best.
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
    """Sizes are ours, for small networks; Such et al. have P = 1,001, T = 20 and sigma = 0.002 for Atari."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    population: int = within(32, 2)  # P, individuals of a generation
    parents: int = within(8, 1)  # T, best individuals, from which all parents are drawn
    elites: int = within(1, 0)  # best individuals that live on unchanged
    crossover: float = within(0.5, 0, 1)  # p_c, probability that a child has two parents
    mutation: float = within(1.0, 0, 1)  # p_m, probability that a gene of a child mutates
    sigma: float = within(0.1, 0)  # sigma, standard deviation of a mutation
    network: str = "mlp"  # builder of the policy's network
    hidden: tuple[int, ...] = (16,)  # units of each hidden layer
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=32))  # one generation [T, N, ...]


@pytree
class State(Record):
    """The population."""

    members: Array  # chromosomes, [P, D]; the elite of the last generation comes first
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """P random policies."""

    def member(key: Array) -> Array:
        return population.flatten(population.build_network(cfg, spec, key))

    return State(jax.lax.map(member, jax.random.split(key, cfg.population)), start_clock())


def actor(state: State) -> Array:
    """All chromosomes."""
    return state.members


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """The individual that plays the episode."""
    return population.players(cfg, spec, env_ids, episode)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The individual's action, or that of the fittest of the last generation."""
    if not explore:
        return population.action_of(cfg, spec, actor[0], obs), memory, {"member": memory.member}
    action, memory = population.play(cfg, spec, memory, lambda i: actor[i], obs)
    return action, memory, {"member": memory.member}


def tell(cfg: Config, state: State, value: Array, key: Array) -> tuple[State, dict[str, Array]]:
    """The next generation, from the fitness [P] of this one."""
    key_parents, key_pair, key_gene, key_mutates, key_mutation = jax.random.split(key, 5)
    order = population.best_first(value)
    ranked, shape = state.members[order], state.members.shape
    # select a pair of parents from the T fittest, with replacement
    first, second = jax.random.randint(key_parents, (2, shape[0]), 0, cfg.parents)
    # with probability p_c cross them over: each gene is the one's or the other's
    crossed = jax.random.bernoulli(key_pair, cfg.crossover, (shape[0], 1))
    from_second = crossed & jax.random.bernoulli(key_gene, 0.5, shape)
    child = jnp.where(from_second, ranked[second], ranked[first])
    # mutate each gene with probability p_m: theta <- theta + sigma epsilon
    mutates = jax.random.bernoulli(key_mutates, cfg.mutation, shape)
    mutated = child + cfg.sigma * jax.random.normal(key_mutation, shape, child.dtype)
    child = jnp.where(mutates, mutated, child)
    # replace the current population, all but its elite
    lives_on = (jnp.arange(shape[0]) < cfg.elites)[:, None]
    members = jnp.where(lives_on, ranked, child)
    metrics = {
        "best_return": value.max(),  # of the fittest individual
        "parents_return": value[order[: cfg.parents]].mean(),  # over those that parents are drawn from
        "mean_return": value.mean(),  # over the population
        "spread": state.members.std(axis=0).mean(),  # standard deviation of a gene over the population
        "crossed": crossed.mean(dtype=jnp.float32),  # share of children with two parents
        "norm": jnp.linalg.norm(ranked[0]),  # length of the fittest's chromosome
    }
    return State(members, state.clock.updated()), metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One generation, from the returns in a rollout [T, N, ...]."""
    return Update(*tell(cfg, state, population.returns(cfg, batch), key))


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """Lines for sizes that do not fit the population's."""
    lines = population.wrong_population(cfg, spec)
    for name in ("parents", "elites"):
        if getattr(cfg, name) > cfg.population:
            lines.append(f"{name} is {getattr(cfg, name)}, but must be at most population, {cfg.population}")
    return lines


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
    wrong=wrong,
)

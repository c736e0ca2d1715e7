"""Policy gradient by finite differences.

Peters & Schaal 2008, "Reinforcement Learning of Motor Skills with Policy Gradients", Neural Networks 21(4), section
3.1; the step of fixed length is that of Kohl & Stone 2004, "Policy Gradient Reinforcement Learning for Fast Quadrupedal
Locomotion", ICRA. Lecture 1.

Departures: differences are central instead of the lecture's forward ones: two evaluations a parameter, and an error of
order epsilon^2 instead of epsilon. Where the population has fewer pairs than there are parameters, a generation
measures the next few parameters only, in turn, and moves those.
"""

from dataclasses import dataclass, field

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
    """The sources name no values for these tasks: they are ours, for a linear policy on CartPole."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    population: int = within(20, 2)  # P, candidates: twice the parameters for a whole gradient
    epsilon: float = within(0.5, 1e-6)  # epsilon, by how much a parameter is perturbed
    lr: float = within(0.5, 0)  # eta, length of a step, or factor of the gradient
    normalize: bool = True  # every step has the length eta; false: eta times the gradient
    network: str = "mlp"  # builder of the policy's network
    hidden: tuple[int, ...] = ()  # units of each hidden layer; none: a linear policy
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=20))  # one generation [T, N, ...]


@pytree
class State(Record):
    """The policy."""

    params: Array  # theta, [D]
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A random policy."""
    return State(population.flatten(population.build_network(cfg, spec, key)), start_clock())


def actor(state: State) -> tuple[Array, Array]:
    """theta, and the number of the generation, which says whose turn it is."""
    return state.params, state.clock.updates


def coordinate(cfg: Config, actor: tuple[Array, Array], pair: Array) -> Array:
    """k, the parameter that a pair of candidates perturbs: one after another, generation after generation."""
    params, generation = actor
    before = (generation % len(params)).astype(jnp.int32) * (cfg.population // 2 % len(params))
    return (before + pair) % len(params)


def candidate(cfg: Config, actor: tuple[Array, Array], member: Array) -> Array:
    """Parameters theta + epsilon u_k [D] of an even member, theta - epsilon u_k of the odd one after it."""
    epsilon = jnp.where(member % 2 == 0, cfg.epsilon, -cfg.epsilon)
    return actor[0].at[coordinate(cfg, actor, member // 2)].add(epsilon.astype(actor[0].dtype))


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """The candidate that plays the episode."""
    return population.players(cfg, spec, env_ids, episode)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The candidate's action, or that of theta."""
    if not explore:
        return population.action_of(cfg, spec, actor[0], obs), memory, {"member": memory.member}
    action, memory = population.play(cfg, spec, memory, lambda i: candidate(cfg, actor, i), obs)
    return action, memory, {"member": memory.member}


def gradient(cfg: Config, state: State, value: Array) -> Array:
    """dJ/dtheta [D] from the values [P] of the candidates; 0 for parameters that were not perturbed."""
    pair = value.reshape(-1, 2)
    k = coordinate(cfg, actor(state), jnp.arange(len(pair)))
    # dJ/dtheta_k = (J(theta + epsilon u_k) - J(theta - epsilon u_k)) / (2 epsilon), averaged over k's pairs
    slope = ((pair[:, 0] - pair[:, 1]) / (2 * cfg.epsilon)).astype(state.params.dtype)
    count = jnp.zeros_like(state.params).at[k].add(1.0)
    return jnp.zeros_like(state.params).at[k].add(slope) / jnp.maximum(count, 1.0)


def tell(cfg: Config, state: State, value: Array) -> tuple[State, dict[str, Array]]:
    """One step along the gradient, from the values [P] of the candidates."""
    slope = gradient(cfg, state, value)
    norm = jnp.linalg.norm(slope)
    step = slope / jnp.maximum(norm, 1e-12) if cfg.normalize else slope
    # theta <- theta + eta dJ/dtheta
    params = state.params + cfg.lr * step
    metrics = {
        "best_return": value.max(),  # of the best candidate
        "mean_return": value.mean(),  # over the candidates
        "return_spread": value.std(),  # standard deviation over the candidates
        "gradient_norm": norm,  # length of the measured gradient
        "norm": jnp.linalg.norm(params),  # length of theta
    }
    return State(params, state.clock.updated()), metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step along the gradient that a rollout [T, N, ...] measured."""
    return Update(*tell(cfg, state, population.returns(cfg, batch)))


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """Lines for sizes that do not fit the population's."""
    lines = population.wrong_population(cfg, spec)
    return [*lines, f"population is {cfg.population}, but must be even"] if cfg.population % 2 else lines


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

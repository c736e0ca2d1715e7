"""CEM: policy search by the cross-entropy method.

Rubinstein & Kroese 2004, "The Cross-Entropy Method"; for policies, and with noise that is added to the variance, Szita
& Lorincz 2006, "Learning Tetris Using the Noisy Cross-Entropy Method", Neural Computation 18(12), section 2. Lecture 1.

Departures: none.
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
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Sizes are ours, for small networks; Szita & Lorincz have 100 samples and 10 elites for 22 weights."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    population: int = within(32, 2)  # N, samples of a generation
    elites: int = within(8, 1)  # rho N, best samples, to which the distribution is fitted
    sigma: float = within(0.5, 0)  # sigma_0, standard deviation of every parameter at first
    extra: float = within(0.05, 0)  # Z_0, added to every variance at first
    extra_generations: int = within(50, 0)  # generations in which the added variance falls to 0
    network: str = "mlp"  # builder of the policy's network
    hidden: tuple[int, ...] = (16,)  # units of each hidden layer; none: a linear policy
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=32))  # one generation [T, N, ...]


@pytree
class State(Record):
    """A Gaussian over policies, each parameter by itself."""

    mean: Array  # mu, [D]
    std: Array  # sigma, [D]
    noise: Array  # key of this generation's samples, uint32 words
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """N(mu, sigma_0^2) around a random policy mu."""
    key_network, key_noise = jax.random.split(key)
    mean = population.flatten(population.build_network(cfg, spec, key_network))
    std = jnp.full(mean.shape, cfg.sigma, mean.dtype)
    return State(mean, std, jax.random.key_data(key_noise), start_clock())


def actor(state: State) -> tuple[Array, Array, Array]:
    """What the samples are made of."""
    return state.mean, state.std, state.noise


def candidate(cfg: Config, actor: tuple[Array, Array, Array], member: Array) -> Array:
    """Sample x_i [D] of N(mu, sigma^2)."""
    mean, std, noise = actor
    key = jax.random.fold_in(jax.random.wrap_key_data(noise), member)
    return mean + std * jax.random.normal(key, mean.shape, mean.dtype)


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """The sample that plays the episode."""
    return population.players(cfg, spec, env_ids, episode)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The sample's action, or that of the mean."""
    if not explore:
        return population.action_of(cfg, spec, actor[0], obs), memory, {"member": memory.member}
    action, memory = population.play(cfg, spec, memory, lambda i: candidate(cfg, actor, i), obs)
    return action, memory, {"member": memory.member}


def tell(cfg: Config, state: State, value: Array, key: Array) -> tuple[State, dict[str, Array]]:
    """One generation, from the values [N] of the samples."""
    order = population.best_first(value)[: cfg.elites]
    # the elite: the rho N samples with S(x) >= gamma_t, the level that they set
    elite = jax.vmap(lambda i: candidate(cfg, actor(state), i))(order)
    # mu_{t+1} = mean of the elite
    mean, variance = elite.mean(axis=0), elite.var(axis=0)
    # sigma^2_{t+1} = variance of the elite + Z_{t+1}
    generation = state.clock.updates.astype(jnp.float32)
    extra = linear_schedule(generation, cfg.extra, 0.0, cfg.extra_generations)
    std = jnp.sqrt(variance + extra.astype(variance.dtype))
    metrics = {
        "best_return": value.max(),  # of the best sample
        "elite_return": value[order].mean(),  # over the elite
        "level": value[order[-1]],  # gamma_t, return of the worst of the elite
        "mean_return": value.mean(),  # over all samples
        "elite_norm": jnp.linalg.norm(mean),  # length of the elite's mean
        "elite_variance": variance.mean(),  # of a parameter over the elite, mean over the parameters
        "spread": std.mean(),  # sigma of the next generation, mean over the parameters
    }
    return State(mean, std, jax.random.key_data(key), state.clock.updated()), metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Fit the distribution to the best samples of a rollout [T, N, ...]."""
    return Update(*tell(cfg, state, population.returns(cfg, batch), key))


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """Lines for sizes that do not fit the population's."""
    lines = population.wrong_population(cfg, spec)
    if cfg.elites > cfg.population:
        lines.append(f"elites is {cfg.elites}, but must be at most population, {cfg.population}")
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

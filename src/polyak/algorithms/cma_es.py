"""CMA-ES: evolution strategy with covariance matrix adaptation.

Hansen & Ostermeier 2001, "Completely Derandomized Self-Adaptation in Evolution Strategies", Evolutionary Computation
9(2); as in Hansen 2016, "The CMA Evolution Strategy: A Tutorial" (arXiv:1604.00772), figure 6 and table 1, with
negative weights: numbers in brackets are the tutorial's equations. Lecture 1.

Departures: eigenvalues of C that rounding alone can have made are raised to what it leaves, the largest times the
precision of its numbers.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
from polyak.parts.eigen import eigh
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The tutorial's strategy parameters follow from n and lambda; sigma_0 depends on the task."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    population: int = within(16, 4)  # lambda, samples of a generation; the tutorial: 4 + 3 ln n
    sigma: float = within(0.5, 1e-6)  # sigma_0, step size at first
    network: str = "mlp"  # builder of the policy's network
    hidden: tuple[int, ...] = ()  # units of each hidden layer; none: a linear policy
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=16))  # one generation [T, N, ...]


@pytree
class State(Record):
    """N(m, sigma^2 C), the two paths, and the eigenvectors and roots of the eigenvalues of C."""

    mean: Array  # m, [n]
    sigma: Array  # sigma
    covariance: Array  # C, [n, n]
    path_sigma: Array  # p_sigma, [n]
    path_c: Array  # p_c, [n]
    axes: Array  # B, [n, n], in columns
    scales: Array  # diagonal of D, [n]
    noise: Array  # key of this generation's samples, uint32 words
    clock: Clock


class Strategy(NamedTuple):
    """Table 1: default parameters for n dimensions and lambda samples."""

    weights: np.ndarray  # w_i, [lambda], the first mu of them positive
    mu: int
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    expected: float  # E||N(0, I)||


def strategy(n: int, samples: int) -> Strategy:
    """Table 1 of the tutorial."""
    raw = math.log((samples + 1) / 2) - np.log(np.arange(1, samples + 1))  # (49)
    mu = samples // 2
    mu_eff = float(raw[:mu].sum() ** 2 / (raw[:mu] ** 2).sum())  # (8)
    mu_eff_minus = float(raw[mu:].sum() ** 2 / (raw[mu:] ** 2).sum())
    c_sigma = (mu_eff + 2) / (n + mu_eff + 5)  # (55)
    d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)  # (56)
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)  # (57)
    c_mu = min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))  # (58)
    limits = [
        1 + c_1 / c_mu,
        1 + 2 * mu_eff_minus / (mu_eff + 2),
        (1 - c_1 - c_mu) / (n * c_mu),
    ]  # (50) - (52)
    positive, negative = raw[raw > 0].sum(), -raw[raw < 0].sum()
    weights = np.where(raw >= 0, raw / positive, raw * min(limits) / negative)  # (53)
    expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    return Strategy(weights, mu, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, expected)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """N(m, sigma_0^2 I) around a random policy m."""
    key_network, key_noise = jax.random.split(key)
    mean = population.flatten(population.build_network(cfg, spec, key_network))
    return start(cfg, mean, key_noise)


def start(cfg: Config, mean: Array, key: Array) -> State:
    """The first distribution around a point m [n]."""
    sigma = jnp.asarray(cfg.sigma, mean.dtype)
    return State(
        mean=mean,
        sigma=sigma,
        covariance=jnp.eye(len(mean), dtype=mean.dtype),
        path_sigma=jnp.zeros_like(mean),
        path_c=jnp.zeros_like(mean),
        axes=jnp.eye(len(mean), dtype=mean.dtype),
        scales=jnp.ones_like(mean),
        noise=jax.random.key_data(key),
        clock=start_clock(),
    )


def actor(state: State) -> tuple[Array, ...]:
    """What the samples are made of."""
    return state.mean, state.sigma, state.axes, state.scales, state.noise


def step(actor: tuple[Array, ...], member: Array) -> Array:
    """y_k = B D z_k [n], with z_k ~ N(0, I)."""
    mean, _, axes, scales, noise = actor
    key = jax.random.fold_in(jax.random.wrap_key_data(noise), member)
    z = jax.random.normal(key, mean.shape, mean.dtype)  # (38)
    return axes @ (scales * z)  # (39)


def candidate(cfg: Config, actor: tuple[Array, ...], member: Array) -> Array:
    """x_k = m + sigma y_k [n]."""
    return actor[0] + actor[1] * step(actor, member)  # (40)


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
    """One generation of figure 6, from the values [lambda] of the samples."""
    s = strategy(n := len(state.mean), cfg.population)
    order = population.best_first(value)
    y = jax.vmap(lambda i: step(actor(state), i))(order)  # y_{i:lambda}, [lambda, n]
    weights = jnp.asarray(s.weights, y.dtype)

    # selection and recombination
    mean_step = weights[: s.mu] @ y[: s.mu]  # (41)
    mean = state.mean + state.sigma * mean_step  # (42), with c_m = 1

    # step-size control: C^-1/2 = B D^-1 B^T
    def whitened(step: Array) -> Array:
        return ((step @ state.axes) / state.scales) @ state.axes.T

    c = s.c_sigma
    path_sigma = (1 - c) * state.path_sigma + math.sqrt(c * (2 - c) * s.mu_eff) * whitened(mean_step)  # (43)
    length = jnp.linalg.norm(path_sigma)
    sigma = state.sigma * jnp.exp(c / s.d_sigma * (length / s.expected - 1))  # (44)

    # covariance matrix adaptation
    generation = state.clock.updates.astype(y.dtype) + 1
    unbiased = length / jnp.sqrt(1 - (1 - c) ** (2 * generation))
    h = (unbiased < (1.4 + 2 / (n + 1)) * s.expected).astype(y.dtype)
    c = s.c_c
    path_c = (1 - c) * state.path_c + h * math.sqrt(c * (2 - c) * s.mu_eff) * mean_step  # (45)
    lengths = (whitened(y) ** 2).sum(axis=1)
    weights = jnp.where(weights >= 0, weights, weights * n / jnp.maximum(lengths, 1e-12))  # (46)
    forgets = 1 + s.c_1 * (1 - h) * c * (2 - c) - s.c_1 - s.c_mu * s.weights.sum()
    learned = s.c_1 * jnp.outer(path_c, path_c) + s.c_mu * (weights * y.T) @ y
    covariance = forgets.astype(y.dtype) * state.covariance + learned  # (47)
    covariance = (covariance + covariance.T) / 2
    eigenvalues, axes = eigh(covariance)
    scales = jnp.sqrt(jnp.maximum(eigenvalues, jnp.finfo(y.dtype).eps * eigenvalues[-1]))

    metrics = {
        "best_return": value.max(),  # of the best sample
        "elite_return": value[order[: s.mu]].mean(),  # over the best half
        "mean_return": value.mean(),  # over all samples
        "sigma": sigma,  # step size
        "spread": sigma * jnp.sqrt(jnp.diag(covariance)).mean(),  # standard deviation of a parameter, mean
        "axis_ratio": scales[-1] / scales[0],  # of the distribution's longest axis to its shortest
        "norm": jnp.linalg.norm(mean),  # length of m
    }
    noise, clock = jax.random.key_data(key), state.clock.updated()
    new = State(mean, sigma, covariance, path_sigma, path_c, axes, scales, noise, clock)
    return new, metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Move and reshape the distribution, from the returns in a rollout [T, N, ...]."""
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

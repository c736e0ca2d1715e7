"""OpenAI-ES: evolution strategies.

Salimans, Ho, Chen, Sidor & Sutskever 2017, "Evolution Strategies as a Scalable Alternative to Reinforcement Learning"
(arXiv:1703.03864), Algorithm 1 with section 2.1's mirrored sampling, centred ranks and weight decay, and Adam as in the
authors' code. Lecture 1.

Departures: no virtual batch normalisation, and real actions are not made discrete: neither is needed by small networks.
Real actions are tanh of the outputs. The last layer begins as that of other networks here, times 0.01, where the
authors' has columns of length 0.01.
Perturbations are made again from their keys, as in the paper's Algorithm 2, instead of a table of shared noise. Equal
returns share their rank.
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
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Of the authors' code for MuJoCo, but for the population, which is ours."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    population: int = within(64, 4)  # n, candidates of a generation, each with its mirror image
    sigma: float = within(0.02, 1e-6)  # sigma, standard deviation of a perturbation
    lr: float = within(0.01, 0)  # alpha, Adam's learning rate
    decay: float = within(0.005, 0)  # weight decay, share of the parameters that joins the gradient
    scale: float = within(0.01, 0)  # of the first policy's last layer: its actions are near 0
    network: str = "mlp"  # builder of the policy's network
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer; none: a linear policy
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=64))  # one generation [T, N, ...]


@pytree
class State(Record):
    """The policy around which is searched, and its optimiser."""

    params: Array  # theta, [D]
    opt_state: Tree
    noise: Array  # key of this generation's perturbations, uint32 words
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A random policy that hardly acts."""
    key_network, key_noise = jax.random.split(key)
    params = population.flatten(population.build_network(cfg, spec, key_network, cfg.scale))
    return State(params, adam().init(params), jax.random.key_data(key_noise), start_clock())


def actor(state: State) -> tuple[Array, Array]:
    """What the candidates are made of: no more is sent to workers than one policy and a key."""
    return state.params, state.noise


def perturbation(actor: tuple[Array, Array], pair: Array) -> Array:
    """epsilon_i [D] ~ N(0, I) of a candidate and of its mirror image."""
    params, noise = actor
    key = jax.random.fold_in(jax.random.wrap_key_data(noise), pair)
    return jax.random.normal(key, params.shape, params.dtype)


def candidate(cfg: Config, actor: tuple[Array, Array], member: Array) -> Array:
    """Parameters theta + sigma epsilon_i [D] of an even member, theta - sigma epsilon_i of the odd one after it."""
    sign = jnp.where(member % 2 == 0, 1.0, -1.0)
    return actor[0] + sign * cfg.sigma * perturbation(actor, member // 2)


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """The candidate that plays the episode."""
    return population.players(cfg, spec, env_ids, episode)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The candidate's action, or that of theta."""
    if not explore:
        return population.action_of(cfg, spec, actor[0], obs), memory, {"member": memory.member}
    action, memory = population.play(cfg, spec, memory, lambda i: candidate(cfg, actor, i), obs)
    return action, memory, {"member": memory.member}


def tell(cfg: Config, state: State, value: Array, key: Array) -> tuple[State, dict[str, Array]]:
    """One iteration of Algorithm 1, from the returns F_i [n] of the candidates."""
    # fitness shaping: F_i <- its rank, from -1/2 to 1/2
    rank = population.centred_ranks(value).reshape(-1, 2)
    weight = (rank[:, 0] - rank[:, 1]).astype(state.params.dtype)

    # 1/(n sigma) sum_i F_i epsilon_i, one perturbation after another: their matrix is never held
    def add(pair: Array, total: Array) -> Array:
        return total + weight[pair] * perturbation(actor(state), pair)

    total = jax.lax.fori_loop(0, len(weight), add, jnp.zeros_like(state.params))
    gradient = total / (len(value) * cfg.sigma)
    # theta <- theta + alpha times Adam's direction, with weight decay
    grads = cfg.decay * state.params - gradient
    params, opt_state = gradient_step(adam(), grads, state.opt_state, state.params, cfg.lr)
    metrics = {
        "best_return": value.max(),  # of the best candidate
        "mean_return": value.mean(),  # over the candidates
        "return_spread": value.std(),  # standard deviation over the candidates
        "gradient_norm": jnp.linalg.norm(gradient),  # length of the estimated gradient of the ranks
        "norm": jnp.linalg.norm(params),  # length of theta
    }
    return State(params, opt_state, jax.random.key_data(key), state.clock.updated()), metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step along the estimated gradient, from the returns in a rollout [T, N, ...]."""
    return Update(*tell(cfg, state, population.returns(cfg, batch), key))


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

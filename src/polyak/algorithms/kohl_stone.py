"""Policy gradient for a gait: random perturbations of all parameters at once, and a step of fixed length.

Kohl & Stone 2004, "Policy Gradient Reinforcement Learning for Fast Quadrupedal Locomotion", ICRA, section 3 and figure
3. Lecture 1.

Departures: epsilon is one number for all parameters, which are those of a network whose outputs tanh brings into the
bounds of the actions; a range of its own for each parameter is the environment's. A parameter of which no policy has
been perturbed one way, or been left as it is, has no average there; it then stays as it is in that step.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Batch, Clock, OnPolicy, Spec, Tree, Update, count_steps, within
from polyak.parts import population
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Fifteen policies and steps of 2 epsilon are the paper's; a linear policy of a constant input is its gait."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    population: int = within(15, 2)  # t, policies of an iteration
    epsilon: float = within(
        0.1, 1e-6
    )  # epsilon, by how much a parameter is perturbed, either way or not at all
    eta: float = within(0.2, 0)  # eta, length of a step
    scale: float = within(
        0.0, 0
    )  # scale of the first parameters; 0: all are 0, in the middle of the actions' bounds
    network: str = "linear"  # builder of the policy's network
    hidden: tuple[int, ...] = ()  # units of each hidden layer, where there are such
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=15))  # one iteration [T, N, ...]


@pytree
class State(Record):
    """The policy."""

    params: Array  # pi, [D]
    noise: Array  # key of this iteration's perturbations, uint32 words
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """The policy that the search begins with."""
    key_network, key_noise = jax.random.split(key)
    params = cfg.scale * population.flatten(population.build_network(cfg, spec, key_network))
    return State(params, jax.random.key_data(key_noise), start_clock())


def actor(state: State) -> tuple[Array, Array]:
    """What the policies of an iteration are made of."""
    return state.params, state.noise


def signs(actor: tuple[Array, Array], member: Array) -> Array:
    """How each parameter [D] of R_i is perturbed: 1, 0 or -1, each as often as the others."""
    params, noise = actor
    key = jax.random.fold_in(jax.random.wrap_key_data(noise), member)
    return jax.random.randint(key, params.shape, -1, 2).astype(params.dtype)


def candidate(cfg: Config, actor: tuple[Array, Array], member: Array) -> Array:
    """Policy R_i [D]: each parameter is pi_j + epsilon, pi_j or pi_j - epsilon."""
    return actor[0] + cfg.epsilon * signs(actor, member)


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """The policy that plays the episode."""
    return population.players(cfg, spec, env_ids, episode)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The action of R_i, or that of pi."""
    if not explore:
        return population.action_of(cfg, spec, actor[0], obs), memory, {"member": memory.member}
    action, memory = population.play(cfg, spec, memory, lambda i: candidate(cfg, actor, i), obs)
    return action, memory, {"member": memory.member}


def adjustment(cfg: Config, sign: Array, value: Array) -> Array:
    """A [D], of length eta, from the perturbations [P, D] and the scores [P] of the policies."""

    def average(which: Array) -> tuple[Array, Array]:
        count = which.sum(axis=0)
        return (which * value[:, None]).sum(axis=0) / jnp.maximum(count, 1), count

    # Avg_{+e,n}, Avg_{+0,n} and Avg_{-e,n}: average scores of the R_i with that perturbation in dimension n
    (plus, none, minus), counts = zip(*(average(sign == s) for s in (1, 0, -1)), strict=True)
    # if Avg_{+0,n} > Avg_{+e,n} and Avg_{+0,n} > Avg_{-e,n}: A_n <- 0, else A_n <- Avg_{+e,n} - Avg_{-e,n}
    stays = (none > plus) & (none > minus) & (counts[1] > 0)
    A = jnp.where(stays | (counts[0] == 0) | (counts[2] == 0), 0.0, plus - minus)
    # A <- A / |A| * eta
    return cfg.eta * A / jnp.maximum(jnp.linalg.norm(A), 1e-12)


def tell(cfg: Config, state: State, value: Array, key: Array) -> tuple[State, dict[str, Array]]:
    """One iteration, from the scores [P] of the policies."""
    sign = jax.vmap(lambda i: signs(actor(state), i))(jnp.arange(cfg.population))
    A = adjustment(cfg, sign, value).astype(state.params.dtype)
    # pi <- pi + A
    params = state.params + A
    metrics = {
        "best_return": value.max(),  # of the best policy
        "mean_return": value.mean(),  # over the policies
        "return_spread": value.std(),  # standard deviation over the policies
        "still": (A == 0).mean(),  # share of the parameters that stay as they are
        "norm": jnp.linalg.norm(params),  # length of pi
    }
    return State(params, jax.random.key_data(key), state.clock.updated()), metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One iteration, from a rollout [T, N, ...]."""
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

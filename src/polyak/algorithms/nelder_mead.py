"""Nelder-Mead: the simplex method on the parameters of a policy.

Nelder & Mead 1965, "A Simplex Method for Function Minimization", The Computer Journal 7(4); in the order of Lagarias,
Reeds, Wright & Wright 1998, "Convergence Properties of the Nelder-Mead Simplex Method in Low Dimensions", SIAM Journal
on Optimization 9(1), section 2. Lecture 1.

Departures: returns are maximised instead of a function minimised. A return is a random number, of which the method
knows nothing: by default all vertices play the same five starts (`data.common`).
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
    """The papers' coefficients; the first simplex is ours."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step in the return that is maximised
    edge: float = 2.0  # length of the first simplex along each parameter
    reflect: float = within(1.0, 1e-6)  # rho, of the reflection
    expand: float = within(2.0, 1.0)  # chi, of the expansion
    contract: float = within(0.5, 0, 1)  # gamma in Lagarias et al., of the two contractions
    shrink: float = within(0.5, 0, 1)  # sigma, share of the edges that a shrunken simplex keeps
    network: str = "mlp"  # builder of the policy's network
    hidden: tuple[int, ...] = ()  # units of each hidden layer; none: a linear policy
    activation: str = "tanh"  # between layers: tanh, relu, elu or swish
    data: OnPolicy = field(  # the episodes [T, N, ...] of one point
        default_factory=lambda: OnPolicy(episodes=5, common=5)
    )

    population = 1  # one point after another


@pytree
class State(Record):
    """A simplex of n + 1 vertices, the best first, and where in an iteration the method is."""

    simplex: Array  # x_1 ... x_{n+1}, [n + 1, n]
    value: Array  # f at the vertices, [n + 1]; minus the return
    stage: Array  # int32, what the point is that plays now
    index: Array  # int32, its number where it is a vertex
    reflected: Array  # f(x_r), once it is known
    clock: Clock


# What the point that plays is: a vertex of the first or of a shrunken simplex, or one of the four trial points.
VERTEX, REFLECTED, EXPANDED, OUTSIDE, INSIDE = range(5)
UNKNOWN = 1e30  # a value that has not been measured


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A simplex at a random policy."""
    return start(cfg, population.flatten(population.build_network(cfg, spec, key)))


def start(cfg: Config, point: Array) -> State:
    """The first simplex: a point [n], and one along each axis from it."""
    n = len(point)
    edges = jnp.concatenate([jnp.zeros((1, n), point.dtype), cfg.edge * jnp.eye(n, dtype=point.dtype)])
    value = jnp.full(n + 1, UNKNOWN, point.dtype)
    stage, index = jnp.full((2,), VERTEX, jnp.int32)
    return State(point + edges, value, stage, index, jnp.zeros((), point.dtype), start_clock())


def actor(state: State) -> tuple[Array, Array, Array]:
    """The simplex, and which point is to play."""
    return state.simplex, state.stage, state.index


def trial(cfg: Config, actor: tuple[Array, Array, Array], stage: Array | int) -> Array:
    """x_bar + t (x_bar - x_{n+1}) [n]: the trial point of a stage."""
    simplex = actor[0]
    rho, chi, gamma = cfg.reflect, cfg.expand, cfg.contract
    # x_r: t = rho; x_e: t = rho chi; x_c: t = rho gamma; x_cc: t = -gamma
    t = jnp.asarray([0.0, rho, rho * chi, rho * gamma, -gamma], simplex.dtype)[stage]
    centroid = simplex[:-1].mean(axis=0)
    return centroid + t * (centroid - simplex[-1])


def candidate(cfg: Config, actor: tuple[Array, Array, Array], member: Array) -> Array:
    """The point that is to play, [n]."""
    simplex, stage, index = actor
    return jnp.where(stage == VERTEX, simplex[index], trial(cfg, actor, stage))


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """The point plays every episode."""
    return population.players(cfg, spec, env_ids, episode)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The point's action, or that of the best vertex."""
    if not explore:
        return population.action_of(cfg, spec, actor[0][0], obs), memory, {"member": memory.member}
    action, memory = population.play(cfg, spec, memory, lambda i: candidate(cfg, actor, i), obs)
    return action, memory, {"member": memory.member}


def tell(cfg: Config, state: State, value: Array) -> tuple[State, dict[str, Array]]:
    """The state once the point that played is known to be worth `value`, which is maximised."""
    f, x = -value, candidate(cfg, actor(state), jnp.zeros((), jnp.int32))
    simplex, known, f_r, n = state.simplex, state.value, state.reflected, len(state.value) - 1
    vertex, reflected, expanded, outside, inside = (state.stage == stage for stage in range(5))
    # 2. Reflect: accept x_r if f(x_1) <= f(x_r) < f(x_n)
    accepted = reflected & (known[0] <= f) & (f < known[-2])
    # 3. Expand: accept x_e if f(x_e) < f(x_r), else x_r
    accepted |= expanded
    back = expanded & (f >= f_r)
    x, f_x = jnp.where(back, trial(cfg, actor(state), REFLECTED), x), jnp.where(back, f_r, f)
    # 4. Contract: accept x_c if f(x_c) <= f(x_r), x_cc if f(x_cc) < f(x_{n+1})
    accepted |= (outside & (f <= f_r)) | (inside & (f < known[-1]))
    # 5. else shrink: v_i = x_1 + sigma (x_i - x_1), which play one after another from the second on
    shrinks = (outside | inside) & ~accepted
    simplex = jnp.where(shrinks, simplex[0] + cfg.shrink * (simplex - simplex[0]), simplex)
    # what is accepted takes the place of x_{n+1}
    simplex = jnp.where(accepted, simplex.at[-1].set(x), simplex)
    known = jnp.where(vertex | accepted, known.at[jnp.where(vertex, state.index, n)].set(f_x), known)
    # 1. Order: f(x_1) <= ... <= f(x_{n+1})
    index = jnp.where(shrinks, 1, state.index + vertex)
    ordered = accepted | (vertex & (index > n))
    by = jnp.where(ordered, jnp.argsort(known), jnp.arange(n + 1))
    # what plays next
    next_stage = [
        (ordered, REFLECTED),
        (vertex | shrinks, VERTEX),
        (f < state.value[0], EXPANDED),
        (f < state.value[-1], OUTSIDE),
    ]
    stage = jnp.select(*zip(*next_stage, strict=True), default=INSIDE).astype(jnp.int32)
    f_r = jnp.where(reflected, f, f_r)
    new = State(simplex[by], known[by], stage, index.astype(jnp.int32), f_r, state.clock.updated())
    metrics = {
        "point_return": value,  # of the point that played
        "best_return": -new.value[0],  # of the best vertex
        "size": jnp.abs(new.simplex - new.simplex[0]).max(),  # largest distance from it along a parameter
        "shrunk": shrinks.astype(jnp.float32),  # whether the simplex shrinks: 0 or 1
        "norm": jnp.linalg.norm(new.simplex[0]),  # length of the best vertex
    }
    return new, metrics


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Move on, from the mean return of the point in a rollout [T, N, ...]."""
    return Update(*tell(cfg, state, population.returns(cfg, batch)[0]))


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

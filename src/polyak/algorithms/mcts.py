"""MCTS: Monte-Carlo tree search, UCT with rollouts, whose values are kept from move to move.

Kocsis & Szepesvari 2006, "Bandit based Monte-Carlo Planning" (ECML); Browne et al. 2012, "A Survey of Monte Carlo Tree
Search Methods" (IEEE Transactions on Computational Intelligence and AI in Games 4), Algorithm 2; Sutton & Barto 2018,
section 8.11. Lecture 1.

Departures: none in a world without chance. Where there is chance, the outcome of a move in the tree is drawn once, when
its node is made. The tree has room for twice as many nodes as there are simulations, and no way in it is longer than
`depth`; beyond either, a simulation goes on from its edge and adds no node. Nothing is learned: `update` only counts.
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
    Shown,
    Spec,
    Tree,
    Update,
    count_steps,
    within,
)
from polyak.parts.schedules import start_clock
from polyak.parts.tree import Search, empty, expanded, rerooted
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Settings of the search; symbols are the survey's."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step
    simulations: int = within(200, 1)  # simulations before every move
    exploration: float = within(1.4, 0)  # C_p times the root of 2, in units of the return
    rollout: int = within(200, 1)  # most steps of a rollout, whose policy is uniform
    depth: int = within(64, 1)  # most moves from the root to where a rollout begins
    keep: bool = True  # begin with what the last search knew of where the game is now
    data: OnPolicy = field(  # steps between two looks at the run; the state and both sides of a game are seen
        default_factory=lambda: OnPolicy(steps=32, simulator=True, self_play=True)
    )


@pytree
class State(Record):
    """Nothing is learned, only counted."""

    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Nothing."""
    return State(start_clock())


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Search:
    """A tree for each environment [N, ...], of which no node is any state of it yet."""
    shapes = jax.eval_shape(spec.model.reset, key)[0]
    world = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    search = empty(world, 2 * cfg.simulations + 1, spec.action.n).replace(size=jnp.int32(0))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(env_ids), *x.shape)), search)


def legal_in(spec: Spec, obs: Tree) -> Array:
    """Which actions [A] are allowed: all, unless the observation has a part `legal`."""
    named = isinstance(obs, dict) and "legal" in obs
    return obs["legal"] > 0 if named else jnp.ones(spec.action.n, bool)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Search, obs: Shown, key: Array, explore: bool) -> tuple:
    """The most visited move at the root, once the search has been through."""
    # without exploring, the rollouts draw the same numbers always
    keys = jax.random.split(key if explore else jax.random.key(0), len(jax.tree.leaves(obs.state)[0]))

    def one(search: Search, seen: Tree, world: Tree, key: Array) -> tuple[Array, Search]:
        fresh = empty(world, 2 * cfg.simulations + 1, spec.action.n)
        fresh = fresh.replace(legal=fresh.legal.at[0].set(legal_in(spec, seen)))
        search = rerooted(search, world, fresh) if cfg.keep else fresh

        def simulation(number: Array, search: Search) -> Search:
            return simulate(cfg, spec, search, jax.random.fold_in(key, number))

        search = jax.lax.fori_loop(0, cfg.simulations, simulation, search)
        visits = jnp.where(search.legal[0], search.visits[0], -1)
        if explore:  # equal moves are drawn alike
            best = jnp.where(visits == visits.max(), 0.0, -jnp.inf)
            action = jax.random.categorical(jax.random.fold_in(key, cfg.simulations), best)
        else:
            action = visits.argmax()
        return action.astype(jnp.int32), search

    action, memory = jax.vmap(one)(memory, obs.obs, obs.state, keys)
    return action, memory, ()


def simulate(cfg: Config, spec: Spec, search: Search, key: Array) -> Search:
    """One simulation: down the tree, one node more, a rollout, and back."""
    key_step, key_rollout = jax.random.split(key)
    node, action = tree_policy(cfg, search)
    world = jax.tree.map(lambda x: x[node], search.world)
    step = spec.model.step(world, action, key_step)
    ended = step.terminated | step.truncated
    search = search.replace(reward=search.reward.at[node, action].set(step.reward.astype(jnp.float32)))
    grows = (search.child[node, action] < 0) & (search.size < len(search.over))
    search = expanded(search, grows, node, action, step.state, legal_in(spec, step.obs), ended)
    value = default_policy(cfg, spec, step, key_rollout)
    return backed_up(cfg, spec, search, node, action, value)


def tree_policy(cfg: Config, search: Search) -> tuple[Array, Array]:
    """The edge (s, a) where the way down leaves the tree, or an episode ends: argmax Q + C sqrt(ln N(s) / N(s, a))."""

    def best(node: Array) -> Array:
        visits = search.visits[node]
        mean = search.total[node] / jnp.maximum(visits, 1)
        bound = jnp.sqrt(jnp.log(jnp.maximum(visits.sum(), 1)) / jnp.maximum(visits, 1))
        score = jnp.where(
            visits > 0, mean + cfg.exploration * bound, jnp.inf
        )  # what was never tried comes first
        return jnp.where(search.legal[node], score, -jnp.inf).argmax().astype(jnp.int32)

    def inside(edge: tuple[Array, Array, Array]) -> Array:
        node, action, moves = edge
        after = search.child[node, action]
        return (after >= 0) & ~search.over[after] & (moves < cfg.depth)

    def descend(edge: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        node, action, moves = edge
        after = search.child[node, action]
        return after, best(after), moves + 1

    root = jnp.int32(0)
    return jax.lax.while_loop(inside, descend, (root, best(root), jnp.int32(1)))[:2]


def turn(cfg: Config, spec: Spec) -> float:
    """What the return of the next mover is worth to who moves now."""
    return -cfg.gamma if spec.players == 2 else cfg.gamma


def default_policy(cfg: Config, spec: Spec, step: Tree, key: Array) -> Array:
    """The return after a step, of who moves then, if all moves are uniform from there on."""

    def going(carry: tuple) -> Array:
        over, count = carry[-2:]
        return ~over & (count < cfg.rollout)

    def move(carry: tuple) -> tuple:
        world, obs, total, weight, _, count = carry
        key_move, key_step = jax.random.split(jax.random.fold_in(key, count))
        action = jax.random.categorical(key_move, jnp.where(legal_in(spec, obs), 0.0, -jnp.inf))
        step = spec.model.step(world, action.astype(jnp.int32), key_step)
        total = total + weight * step.reward
        return (
            step.state,
            step.obs,
            total,
            weight * turn(cfg, spec),
            step.terminated | step.truncated,
            count + 1,
        )

    start = step.state, step.obs, jnp.zeros(()), jnp.ones(()), step.terminated | step.truncated, jnp.int32(0)
    return jax.lax.while_loop(going, move, start)[2]


def backed_up(cfg: Config, spec: Spec, search: Search, node: Array, action: Array, value: Array) -> Search:
    """The tree once every edge on the way back to the root has counted its return."""

    def below(carry: tuple) -> Array:
        return carry[0] >= 0

    def up(carry: tuple) -> tuple:
        node, action, value, (nodes, actions, values), count = carry
        value = search.reward[node, action] + turn(cfg, spec) * value
        path = nodes.at[count].set(node), actions.at[count].set(action), values.at[count].set(value)
        return search.parent[node], search.move[node], value, path, count + 1

    room = jnp.full(cfg.depth, len(search.over), jnp.int32)  # beyond the end nothing is written
    path = room, jnp.zeros_like(room), jnp.zeros(cfg.depth)
    nodes, actions, values = jax.lax.while_loop(below, up, (node, action, value, path, jnp.int32(0)))[3]
    return search.replace(
        visits=search.visits.at[nodes, actions].add(1, mode="drop"),
        total=search.total.at[nodes, actions].add(values, mode="drop"),
    )


def thought(memory: Search, extras: Tree) -> tuple[Array, Array]:
    """Shares of the visits [N, A] at the root, and the mean of the returns [N] there."""
    visits, total = memory.visits[:, 0], memory.total[:, 0]
    count = visits.sum(axis=-1)
    return visits / count[:, None], total.sum(axis=-1) / count


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Nothing is learned."""
    return Update(State(state.clock.updated()), {})


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    simulates=True,
    learns=False,
    family="planning",
    init=init,
    actor=lambda state: (),
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    thought=thought,
)

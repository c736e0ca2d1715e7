"""Rollout planning: one step of policy improvement by Monte-Carlo rollouts, when a decision is due.

Tesauro & Galperin 1996, "On-line Policy Improvement using Monte-Carlo Search" (NIPS); Sutton & Barto 2018, section
8.10. Lecture 1.

The base policy is another run's (`--use base=RUN`), or uniform over the legal actions, or one action that is always
the same.

Departures: rollouts end after `lookahead` steps, and what comes after counts as 0. The same random
numbers serve every action of a decision, which makes their differences less noisy. Nothing is learned: `update` only
counts.
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
from polyak.pytree import Record, copy, pytree


@dataclass(frozen=True)
class Config:
    """Settings of the rollouts."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step
    rollouts: int = within(32, 1)  # rollouts of each action before every decision
    lookahead: int = within(50, 1)  # most steps of a rollout
    base: int = within(-1, -1)  # action that the base policy always takes; -1: a uniform one
    improve: bool = True  # act by the rollouts; false: as the base policy does
    data: OnPolicy = field(  # steps between two looks at the run; the environment's state is seen
        default_factory=lambda: OnPolicy(steps=32, simulator=True)
    )


@pytree
class State(Record):
    """Nothing is learned, only counted."""

    base: Tree  # what another run's policy acts by, where it is the base
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """The base policy as it was learned."""
    return State(copy(spec.given["base"].actor) if "base" in spec.given else (), start_clock())


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """What the base policy remembers of an episode."""
    return spec.given["base"].memory(env_ids, episode, key) if "base" in spec.given else ()


def legal_in(spec: Spec, obs: Tree) -> Array:
    """Which actions [..., A] are allowed: all, unless the observation has a part `legal`."""
    if isinstance(obs, dict) and "legal" in obs:
        return obs["legal"] > 0
    return jnp.ones(spec.action.n, bool)


def base_policy(
    cfg: Config, spec: Spec, base: Tree, memory: Tree, obs: Tree, key: Array
) -> tuple[Array, Tree]:
    """Action of pi, the policy that is to be improved, in one environment, and what it remembers."""
    if "base" in spec.given:
        row = jax.tree.map(lambda x: x[None], (memory, obs))
        return jax.tree.map(lambda x: x[0], spec.given["base"].act(base, *row, key, False))
    if cfg.base >= 0:
        return jnp.int32(cfg.base), memory
    legal = jnp.where(legal_in(spec, obs), 0.0, -jnp.inf)
    return jax.random.categorical(key, legal).astype(jnp.int32), memory


def sampled_return(
    cfg: Config, spec: Spec, base: Tree, memory: Tree, world: Tree, action: Array, key: Array
) -> Array:
    """The discounted return of one rollout that begins with an action and goes on as pi does."""

    def move(carry: tuple, number: Array) -> tuple[tuple, None]:
        world, memory, action, total, weight = carry
        key_step, key_next = jax.random.split(jax.random.fold_in(key, number))
        step = spec.model.step(world, action, key_step)
        total = total + weight * step.reward
        weight = jnp.where(step.terminated | step.truncated, 0.0, weight * cfg.gamma)
        action, memory = base_policy(cfg, spec, base, memory, step.obs, key_next)
        return (step.state, memory, action, total, weight), None

    start = world, memory, action, jnp.zeros(()), jnp.ones(())
    return jax.lax.scan(move, start, jnp.arange(cfg.lookahead))[0][3]


def action_values(cfg: Config, spec: Spec, base: Tree, memory: Tree, world: Tree, key: Array) -> Array:
    """q_pi(s, a) [A], each the mean of as many rollouts."""
    keys = jax.random.split(key, cfg.rollouts)
    of_action = jax.vmap(
        lambda action, key: sampled_return(cfg, spec, base, memory, world, action, key), (0, None)
    )
    actions = jnp.arange(spec.action.n, dtype=jnp.int32)
    return jax.vmap(of_action, (None, 0))(actions, keys).mean(axis=0)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Shown, key: Array, explore: bool) -> tuple:
    """The action argmax_a q_pi(s, a), by rollouts."""
    # without exploring the rollouts draw the same numbers always
    keys = jax.random.split(key if explore else jax.random.key(0), len(jax.tree.leaves(obs.state)[0]))

    def followed(seen: Tree, memory: Tree, key: Array) -> tuple[Array, Tree]:
        return base_policy(cfg, spec, actor, memory, seen, key)

    def improved(seen: Tree, memory: Tree, world: Tree, key: Array) -> tuple[Array, Tree]:
        after = memory
        if "base" in spec.given:
            key, key_base = jax.random.split(key)
            _, after = followed(seen, memory, key_base)
        key_rollouts, key_tie = jax.random.split(key)
        values = action_values(cfg, spec, actor, memory, world, key_rollouts)
        q = jnp.where(legal_in(spec, seen), values, -jnp.inf)
        if explore:  # equal actions are drawn alike
            tied = jnp.where(q == q.max(), 0.0, -jnp.inf)
            return jax.random.categorical(key_tie, tied).astype(jnp.int32), after
        return q.argmax().astype(jnp.int32), after

    if cfg.improve:
        return *jax.vmap(improved)(obs.obs, memory, obs.state, keys), ()
    return *jax.vmap(followed)(obs.obs, memory, keys), ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Nothing is learned."""
    return Update(state.replace(clock=state.clock.updated()), {})


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    simulates=True,
    learns=False,
    family="planning",
    uses=("base",),
    init=init,
    actor=lambda state: state.base,
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
)

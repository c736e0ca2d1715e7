"""Many workers in one program: an algorithm whose gradients are found by K of them, in step or out of step.

Worker w has the environments w n .. w n + n - 1 of all N = K n. What is made of the workers here is an algorithm again,
so that every driver runs it, in graph and on the host, with seeds, checkpoints and exact resume:

  lockstep  the workers wait for each other: one step along the mean of their gradients
  async     nobody waits. Each worker acts, and finds its gradient, in weights of its own, which it read when its last
            gradient had been applied. In each round every worker arrives once, in an order that is drawn anew, so that
            a gradient is 0 to 2 K - 2 updates old. Timing is simulated: the same seed, the same bits.

The counter T of environment steps is read afresh by everybody, as in Mnih et al. 2016 (arXiv:1602.01783), and so are
schedules over it. `drivers/hogwild.py` has workers that are processes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from polyak.drivers.program import is_shared
from polyak.interface import Algorithm, Array, Batch, Discrete, Spec, Transition, Tree, Update
from polyak.pytree import Record, pytree

MOST_BINS = 32  # of the histogram of staleness; the last holds what is older too


@pytree
class Workers(Record):
    """The state of an algorithm with K workers that do not wait for each other."""

    newest: Tree  # the algorithm's own state
    read: tuple[Array, ...]  # [K, ...] theta', what each worker acts with, leaf by leaf
    read_at: Array  # [K] int32, updates that had been made when it was read
    updates: Array  # int32, all that were made


def in_step(algorithm: Algorithm, workers: int) -> Algorithm:
    """The algorithm whose update waits for the gradients of all workers, and applies their mean."""
    gradient, apply = gradient_and_apply(algorithm)

    def update(cfg: Any, spec: Spec, state: Tree, batch: Batch, key: Array) -> Update:
        share = of_worker(spec, workers)
        actor = algorithm.actor(state)

        def of_one(mine: Batch, key: Array) -> tuple[Tree, dict[str, Array]]:
            return gradient(cfg, share, actor, mine, key)

        grads, metrics = over_workers(of_one, split_rows(batch, workers), split_key(key, workers))
        mean = jax.tree.map(lambda x: x.mean(axis=0), (grads, metrics))
        more = staleness(jnp.zeros(workers, jnp.int32), 1)
        more |= diversity(algorithm, cfg, share, actor, stacked(actor, workers), batch, key)
        return Update(apply(cfg, spec, state, mean[0]), mean[1] | more)

    return algorithm._replace(update=update, gradient=None, apply=None)


def out_of_step(algorithm: Algorithm, workers: int) -> Algorithm:
    """The algorithm whose workers each go on with what they have read, while others move the newest weights."""
    gradient, apply = gradient_and_apply(algorithm)

    def init(cfg: Any, spec: Spec, key: Array) -> Workers:
        state, none = algorithm.init(cfg, spec, key), jnp.zeros((), jnp.int32)
        return Workers(state, stacked(algorithm.actor(state), workers), jnp.zeros(workers, jnp.int32), none)

    def actor(state: Workers) -> tuple[Tree, tuple[Array, ...]]:
        return algorithm.actor(state.newest), state.read

    def act(cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
        newest, read = actor
        if not explore or len(jax.tree.leaves(obs)[0]) != spec.num_envs:  # evaluation
            return algorithm.act(cfg, spec, newest, memory, obs, key, explore)
        share = of_worker(spec, workers)

        def of_one(mine: tuple[Array, ...], memory: Tree, obs: Tree, key: Array) -> tuple:
            return algorithm.act(cfg, share, replaced(newest, mine), memory, obs, key, explore)

        parts = split_envs(memory, workers), split_envs(obs, workers)
        acted = over_workers(of_one, read, *parts, split_key(key, workers))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), acted)

    def update(cfg: Any, spec: Spec, state: Workers, batch: Batch, key: Array) -> Update:
        share, newest = of_worker(spec, workers), algorithm.actor(state.newest)
        key_order, keys = (None, key[None]) if workers == 1 else with_order(key, workers)

        def of_one(mine: tuple[Array, ...], rows: Batch, key: Array) -> tuple[Tree, dict[str, Array]]:
            return gradient(cfg, share, replaced(newest, mine), rows, key)

        # A worker's gradient is in the weights that it acted with, whatever became of the newest ones meanwhile
        grads, metrics = over_workers(of_one, state.read, split_rows(batch, workers), keys)

        def arrive(state: Workers, worker: Array) -> tuple[Workers, Array]:
            own_grads = jax.tree.map(lambda x: x[worker], grads)
            moved, made = apply(cfg, spec, state.newest, own_grads), state.updates + 1
            read = [
                x.at[worker].set(new) for x, new in zip(state.read, own(algorithm.actor(moved)), strict=True)
            ]
            age = state.updates - state.read_at[worker]
            return Workers(moved, tuple(read), state.read_at.at[worker].set(made), made), age

        if key_order is None:  # a loop of one arrival is only more to compile
            after, age = arrive(state, jnp.zeros((), jnp.int32))
        else:
            after, age = jax.lax.scan(arrive, state, jax.random.permutation(key_order, workers))
        means = jax.tree.map(lambda x: x.mean(axis=0), metrics)
        more = staleness(jnp.atleast_1d(age), 2 * workers - 1)
        more |= diversity(algorithm, cfg, share, newest, state.read, batch, key)
        return Update(after, means | more)

    def observe(cfg: Any, spec: Spec, state: Workers, rollout: Transition) -> Workers:
        return state.replace(newest=algorithm.observe(cfg, spec, state.newest, rollout))

    def reward(cfg: Any, spec: Spec, actor: Tree, reward: Array) -> Array:
        return algorithm.reward(cfg, spec, actor[0], reward)

    return algorithm._replace(
        init=init,
        actor=actor,
        act=act,
        update=update,
        observe=observe,
        reward=reward,
        gradient=None,
        apply=None,
        value=None,
    )


SYNC: dict[str, Callable[[Algorithm, int], Algorithm]] = {"lockstep": in_step, "async": out_of_step}


def gradient_and_apply(algorithm: Algorithm) -> tuple[Callable, Callable]:
    """The two halves of an update; which algorithms have them was checked before."""
    assert algorithm.gradient is not None
    assert algorithm.apply is not None
    return algorithm.gradient, algorithm.apply


def staleness(age: Array, bins: int) -> dict[str, Array]:
    """Metrics of how old gradients were when they were applied, in updates of anybody: mean, and a histogram.

    age  [K]
    """
    bins = min(bins, MOST_BINS)
    shares = {f"actor/staleness_{b}": (jnp.minimum(age, bins - 1) == b).mean() for b in range(bins)}
    return {"actor/staleness": age.mean(dtype=jnp.float32), **shares}


def diversity(
    algorithm: Algorithm,
    cfg: Any,
    share: Spec,
    newest: Tree,
    read: tuple[Array, ...],
    batch: Batch,
    key: Array,
) -> dict[str, Array]:
    """A metric of how differently workers explore: what they would do in the same states, by the same random numbers.

    The mean over pairs of workers, over n of the states that the rollout began in, and over the parts of an action: 1
    where two discrete actions differ, the distance of continuous ones. Equal policies have 0. What an algorithm draws
    for an episode, as an epsilon, is drawn for each worker.

    read  [K, ...] what each worker acts with, leaf by leaf
    """
    workers = len(read[0])
    if workers == 1:
        return {}
    key_act, *keys = jax.random.split(jax.random.fold_in(key, workers + 1), workers + 1)
    numbers = jnp.arange(workers * share.num_envs, dtype=jnp.int32).reshape(workers, -1)
    obs = jax.tree.map(lambda x: x[0, ::workers], batch.obs)

    def of_one(mine: tuple[Array, ...], env_ids: Array, key: Array) -> Array:
        memory = algorithm.memory(cfg, share, env_ids, jnp.zeros_like(env_ids), key)
        return algorithm.act(cfg, share, replaced(newest, mine), memory, obs, key_act, True)[0]

    action = jax.vmap(of_one)(read, numbers, jnp.stack(keys))
    one, other = action[:, None], action[None]
    apart = (one != other).astype(jnp.float32) if isinstance(share.action, Discrete) else jnp.abs(one - other)
    return {"actor/diversity": apart.mean() * workers / (workers - 1)}  # the pairs of one with itself have 0


# ---- what belongs to whom


def of_worker(spec: Spec, workers: int) -> Spec:
    """The world as one worker knows it: with its own environments only."""
    return dataclasses.replace(spec, num_envs=spec.num_envs // workers)


def split_envs(tree: Tree, workers: int) -> Tree:
    """Trees [N, ...] as [K, n, ...]."""
    return jax.tree.map(lambda x: x.reshape(workers, -1, *x.shape[1:]), tree)


def split_rows(batch: Batch, workers: int) -> Batch:
    """A rollout [T, N, ...] as [K, T, n, ...]."""

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(len(x), workers, -1, *x.shape[2:]), 1, 0)

    return jax.tree.map(split, batch)


def split_key(key: Array, workers: int) -> Array:
    """A key for each worker, [K]; a worker alone has the key itself."""
    return key[None] if workers == 1 else jax.random.split(key, workers)


def with_order(key: Array, workers: int) -> tuple[Array, Array]:
    """A key of the order in which workers arrive, and one for each of them, [K]."""
    keys = jax.random.split(key, workers + 1)
    return keys[0], keys[1:]


def over_workers(function: Callable, *args: Tree) -> Tree:
    """Call `function`, written for one worker, on trees [K, ...] of all; for one alone bit for bit as it is."""
    if len(jax.tree.leaves(args)[0]) > 1:
        return jax.vmap(function)(*args)
    return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], args)))


def own(actor: Tree) -> tuple[Array, ...]:
    """The leaves that a worker has a copy of: all but counters, which everybody reads afresh."""
    return tuple(x for x in jax.tree.leaves(actor, is_leaf=is_shared) if not is_shared(x))


def stacked(actor: Tree, workers: int) -> tuple[Array, ...]:
    """These leaves for each of so many workers, [K, ...]."""
    return tuple(jnp.stack([x] * workers) for x in own(actor))


def replaced(newest: Tree, mine: tuple[Array, ...]) -> Tree:
    """An actor with a worker's own leaves in it."""
    leaves, structure = jax.tree.flatten(newest, is_leaf=is_shared)
    rest = iter(mine)
    return structure.unflatten([x if is_shared(x) else next(rest) for x in leaves])

"""Learning from a rollout, as every driver compiles it. A driver decides only where a rollout comes from."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from polyak.drivers.act import row_shape
from polyak.drivers.devices import shared_out
from polyak.drivers.keys import Keys
from polyak.drivers.program import stack_seeds
from polyak.errors import UserError
from polyak.interface import Algorithm, Array, Batch, Spec, Transition, Tree, played, rows_of
from polyak.parts import replay
from polyak.pytree import strip_weak_types

Metrics = dict[str, Array]


def learn(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    buffer: Any,
    rollout: Transition | None,
    key: Array,
    warm: bool = False,
    valid: Array | bool = True,
) -> tuple[Tree, Any, Metrics]:
    """Add a rollout, sample and update. Returns state, buffer and the sum of each metric over the updates.

    rollout  [T, N, ...]; None adds nothing to a ring that is there, and is all that planning is given
    buffer   a Ring, or () where the batch is the rollout itself, or there is none
    warm     no update yet
    valid    False keeps state from changing, because the rollout holds what no environment may give
    """
    if cfg.data.replays:
        kind = learn_by_index if cfg.data.indexed else learn_from_replay
        return kind(algorithm, cfg, spec, state, buffer, rollout, key, warm, valid)
    if cfg.data.plans:
        state, sums = learn_from_rules(algorithm, cfg, spec, state, key, valid)
    else:
        state, sums = learn_on_policy(algorithm, cfg, spec, state, rollout, key, valid)
    return state, buffer, sums


def learn_on_policy(
    algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, rollout: Any, key: Array, valid: Array | bool
) -> tuple[Tree, Metrics]:
    """Update on the rollout itself, then observe: what `act` remembered belongs to the old statistics."""
    batch = on_policy_batch(rollout, one_step(cfg, spec), cfg.data.clip, played(cfg.data, rollout.last))
    batch = batch._replace(reward=algorithm.reward(cfg, spec, algorithm.actor(state), batch.reward))

    def once(state: Tree, key_draw: Array, key: Array) -> tuple[Tree, Metrics]:
        made = algorithm.update(cfg, spec, state, shared_out(batch, 1), key)
        return made.state, made.metrics

    state, sums = update_valid(once, cfg.data.updates, state, key, valid)
    return observe_valid(algorithm, cfg, spec, state, rollout, valid), sums


def learn_from_replay(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    buffer: Any,
    rollout: Transition | None,
    key: Array,
    warm: bool,
    valid: Array | bool,
) -> tuple[Tree, Any, Metrics]:
    """Add the rollout to the ring, observe, then update on batches that are drawn from the ring."""
    if rollout is not None:
        buffer = replay.add(buffer, rollout)
        state = observe_valid(algorithm, cfg, spec, state, rollout, valid)
    if warm:
        return state, buffer, {}

    def once(state: Tree, key_draw: Array, key: Array) -> tuple[Tree, Metrics]:
        seen = partial(algorithm.reward, cfg, spec, algorithm.actor(state))
        batch = replay.sample(buffer, key_draw, cfg.data, one_step(cfg, spec), seen)
        made = algorithm.update(cfg, spec, state, shared_out(batch, 0), key)
        return made.state, made.metrics

    state, sums = update_valid(once, cfg.data.updates, state, key, valid)
    return state, buffer, sums


def learn_by_index(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    buffer: Any,
    rollout: Transition | None,
    key: Array,
    warm: bool,
    valid: Array | bool,
) -> tuple[Tree, Any, Metrics]:
    """The same by priorities, which are written back, of ended episodes, with other goals, or from frames."""
    data = cfg.data
    if rollout is not None:
        buffer = replay.index.add(buffer, rollout, data)
        state = observe_valid(algorithm, cfg, spec, state, rollout, valid)
    if warm:
        return state, buffer, {}

    def once(both: tuple[Tree, Any], key_draw: Array, key: Array) -> tuple[tuple[Tree, Any], Metrics]:
        state, index = both
        seen = partial(algorithm.reward, cfg, spec, algorithm.actor(state))
        batch, leaf = replay.index.sample(buffer, index, key_draw, data, one_step(cfg, spec), seen, spec.goal)
        made = algorithm.update(cfg, spec, state, shared_out(batch, 0), key)
        return (made.state, replay.index.write_back(index, leaf, made.priority, data)), made.metrics

    (state, index), sums = update_valid(once, data.updates, (state, buffer.index), key, valid)
    return state, buffer.replace(index=index), sums


def learn_from_rules(
    algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, key: Array, valid: Array | bool
) -> tuple[Tree, Metrics]:
    """Update by what `spec.model` says alone."""

    def once(state: Tree, key_draw: Array, key: Array) -> tuple[Tree, Metrics]:
        made = algorithm.update(cfg, spec, state, None, key)
        return made.state, made.metrics

    return update_valid(once, cfg.data.updates, state, key, valid)


def one_step(cfg: Any, spec: Spec) -> Any:
    """Discount of one step: negative where the other player moves next, and so alternating over several."""
    return -cfg.gamma if spec.players == 2 else cfg.gamma


def on_policy_batch(
    rollout: Transition, gamma: float, clip: float | None, weight: Array | None = None
) -> Batch:
    """A rollout [T, N, ...] as it is, with its discount and weight; both are 0 where `weight` says that no row is."""
    batch = Batch(
        *rollout._replace(reward=replay.clip_reward(rollout.reward, clip)),
        discount=jnp.where(rollout.terminated, 0.0, jnp.asarray(gamma, jnp.float32)),
        weight=jnp.ones_like(rollout.reward),
    )
    if weight is None:
        return batch
    return batch._replace(discount=batch.discount * weight, weight=batch.weight * weight)


def observe_valid(
    algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, rollout: Transition, valid: Array | bool
) -> Tree:
    """The state once it has observed a rollout, or as it was if the rollout is not valid."""
    seen = algorithm.observe(cfg, spec, state, rollout)
    if valid is True:
        return seen
    return jax.tree.map(lambda new, old: jnp.where(valid, new, old), seen, state)


def update_valid(
    once: Callable[[Tree, Array, Array], tuple[Tree, Metrics]],
    count: int,
    carry: Tree,
    key: Array,
    valid: Array | bool,
) -> tuple[Tree, Metrics]:
    """So many updates, or none if the rollout is not valid, and the sum of each metric.

    once  from the carry, a key to draw with and one to update with, to the next carry and metrics
    """

    def update(carry: Tree, index: Array | int) -> tuple[Tree, Metrics]:
        return strip_weak_types(once(carry, *jax.random.split(jax.random.fold_in(key, index))))

    def accumulate(index: Array, both: tuple[Tree, Metrics]) -> tuple[Tree, Metrics]:
        carry, sums = both
        carry, metrics = update(carry, index)
        return carry, jax.tree.map(jnp.add, sums, metrics)

    if count == 1 and valid is True:  # a loop around one update is only more to compile
        return update(carry, 0)
    shapes = jax.eval_shape(update, carry, 0)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    trips = count if valid is True else jnp.where(valid, count, 0)
    return jax.lax.fori_loop(0, trips, accumulate, (carry, zeros))


def check_priority(name: str, algorithm: Algorithm, cfg: Any, spec: Spec) -> None:
    """UserError where rows are to be drawn by priorities that the algorithm does not give; found by tracing it."""
    data = cfg.data
    if not data.replays or data.priority == 0:
        return

    def update(key: Array) -> Tree:
        key_init, key_draw, key_update = jax.random.split(key, 3)
        state = algorithm.init(cfg, spec, key_init)
        ring = replay.index.empty(row_shape(algorithm, cfg, spec, state), data.length, data)
        batch = replay.index.sample(ring, ring.index, key_draw, data, cfg.gamma)[0]
        return algorithm.update(cfg, spec, state, batch, key_update).priority

    if jax.eval_shape(update, jax.random.key(0)) is None:
        raise UserError(
            f"{name}: its updates give no priorities, so that with data.priority = {data.priority} there is nothing "
            "to draw by: leave it at 0"
        )


# ---- with what a run begins


def initializer(algorithm: Algorithm, cfg: Any, spec: Spec) -> Callable[[Iterable[int]], Tree]:
    """From seeds to the algorithm's state [S, ...] of each, made one after another; traced and compiled once.

    Never under vmap: batched LAPACK kernels, as orthogonal layers would need, can block XLA's threads for ever.
    """
    init = jax.jit(lambda seed: strip_weak_types(algorithm.init(cfg, spec, Keys.of(seed).init)))
    return lambda seeds: jax.jit(stack_seeds)([init(seed) for seed in seeds])


def initial_states(algorithm: Algorithm, cfg: Any, spec: Spec, seeds: Iterable[int]) -> Tree:
    """The algorithm's state [S, ...] for each seed; who asks again keeps an `initializer`."""
    return initializer(algorithm, cfg, spec)(seeds)


def empty_buffer(cfg: Any, spec: Spec, row: Transition) -> Any:
    """A ring for rows of this shape, or () where nothing is kept."""
    data = cfg.data
    return replay.index.empty(row, data.slots(spec.num_envs), data) if data.replays else ()


def empty_metrics(algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, row: Transition) -> Metrics:
    """Zeros for the metrics that an update gives, found by tracing `learn`."""
    rows = rows_of(cfg.data, spec.time_limit)
    rollout = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), row)

    def metrics(state: Tree, rollout: Transition) -> Metrics:
        buffer = replay.index.empty(row, cfg.data.steps, cfg.data) if cfg.data.replays else ()
        return learn(algorithm, cfg, spec, state, buffer, rollout, jax.random.key(0))[2]

    shapes = jax.eval_shape(metrics, state, rollout)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def initial_row(algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree) -> tuple[Transition, Any, Metrics]:
    """Shapes of a row, an empty buffer for such rows, and the zeros that metrics are added to."""
    row = row_shape(algorithm, cfg, spec, state)
    return row, empty_buffer(cfg, spec, row), empty_metrics(algorithm, cfg, spec, state, row)

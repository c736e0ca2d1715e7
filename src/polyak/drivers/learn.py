"""Learning from a rollout, as every driver compiles it. A driver decides only where a rollout comes from."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from polyak.drivers.act import row_shape
from polyak.drivers.keys import Keys
from polyak.drivers.program import stack_seeds
from polyak.interface import Algorithm, Array, Batch, Spec, Transition, Tree
from polyak.parts import replay
from polyak.pytree import strip_weak_types

Metrics = dict[str, Array]


def learn(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    buffer: Any,
    rollout: Transition,
    key: Array,
    warm: bool = False,
    valid: Array | bool = True,
) -> tuple[Tree, Any, Metrics]:
    """Add a rollout, sample and update. Returns state, buffer and the sum of each metric over the updates.

    rollout  [T, N, ...]
    buffer   a Ring, or () where the batch is the rollout itself
    warm     no update yet
    valid    False keeps state from changing, because the rollout holds what no environment may give
    """
    kind = learn_from_replay if cfg.data.replays else learn_on_policy
    return kind(algorithm, cfg, spec, state, buffer, rollout, key, warm, valid)


def learn_on_policy(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    buffer: Any,
    rollout: Transition,
    key: Array,
    warm: bool,
    valid: Array | bool,
) -> tuple[Tree, Any, Metrics]:
    """Update on the rollout itself, then observe: what `act` remembered belongs to the old statistics."""
    batch = on_policy_batch(rollout, one_step(cfg, spec), cfg.data.clip)
    batch = batch._replace(reward=algorithm.reward(cfg, spec, algorithm.actor(state), batch.reward))
    state, sums = update_valid(algorithm, cfg, spec, state, lambda state, key: batch, key, valid)
    return observe_valid(algorithm, cfg, spec, state, rollout, valid), buffer, sums


def learn_from_replay(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    buffer: Any,
    rollout: Transition,
    key: Array,
    warm: bool,
    valid: Array | bool,
) -> tuple[Tree, Any, Metrics]:
    """Add the rollout to the ring, observe, then update on batches that are drawn from the ring."""
    buffer = replay.add(buffer, rollout)
    state = observe_valid(algorithm, cfg, spec, state, rollout, valid)
    if warm:
        return state, buffer, {}

    def draw(state: Tree, key: Array) -> Batch:
        seen = partial(algorithm.reward, cfg, spec, algorithm.actor(state))
        return replay.sample(buffer, key, cfg.data, one_step(cfg, spec), seen)

    state, sums = update_valid(algorithm, cfg, spec, state, draw, key, valid)
    return state, buffer, sums


def one_step(cfg: Any, spec: Spec) -> Any:
    """Discount of one step: negative where the other player moves next, and so alternating over several."""
    return -cfg.gamma if spec.players == 2 else cfg.gamma


def on_policy_batch(rollout: Transition, gamma: float, clip: float | None) -> Batch:
    """A rollout [T, N, ...] as it is, with its discount and weight."""
    return Batch(
        *rollout._replace(reward=replay.clip_reward(rollout.reward, clip)),
        discount=jnp.where(rollout.terminated, 0.0, jnp.asarray(gamma, jnp.float32)),
        weight=jnp.ones_like(rollout.reward),
    )


def observe_valid(
    algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, rollout: Transition, valid: Array | bool
) -> Tree:
    """The state once it has observed a rollout, or as it was if the rollout is not valid."""
    seen = algorithm.observe(cfg, spec, state, rollout)
    if valid is True:
        return seen
    return jax.tree.map(lambda new, old: jnp.where(valid, new, old), seen, state)


def update_valid(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    draw: Callable[[Tree, Array], Batch],
    key: Array,
    valid: Array | bool,
) -> tuple[Tree, Metrics]:
    """`cfg.data.updates` updates, each on a fresh draw, or none if the rollout is not valid."""

    def update(state: Tree, index: Array | int) -> tuple[Tree, Metrics]:
        key_draw, key_update = jax.random.split(jax.random.fold_in(key, index))
        done = algorithm.update(cfg, spec, state, draw(state, key_draw), key_update)
        return strip_weak_types(done.state), strip_weak_types(done.metrics)

    def accumulate(index: Array, carry: tuple[Tree, Metrics]) -> tuple[Tree, Metrics]:
        state, sums = carry
        state, metrics = update(state, index)
        return state, jax.tree.map(jnp.add, sums, metrics)

    count = cfg.data.updates
    if count == 1 and valid is True:  # a loop around one update is only more to compile
        return update(state, 0)
    shapes = jax.eval_shape(update, state, 0)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    trips = count if valid is True else jnp.where(valid, count, 0)
    return jax.lax.fori_loop(0, trips, accumulate, (state, zeros))


# ---- with what a run begins


def initial_states(algorithm: Algorithm, cfg: Any, spec: Spec, seeds: Iterable[int]) -> Tree:
    """The algorithm's state [S, ...] for each seed, made one after another.

    Never under vmap: batched LAPACK kernels, as orthogonal layers would need, can block XLA's threads for ever.
    """
    init = jax.jit(lambda seed: strip_weak_types(algorithm.init(cfg, spec, Keys.of(seed).init)))
    return jax.jit(stack_seeds)([init(seed) for seed in seeds])


def empty_buffer(cfg: Any, spec: Spec, row: Transition) -> Any:
    """A ring for rows of this shape, or () where nothing is kept."""
    return replay.empty(row, cfg.data.slots(spec.num_envs)) if cfg.data.replays else ()


def empty_metrics(algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, row: Transition) -> Metrics:
    """Zeros for the metrics that an update gives, found by tracing `learn`."""
    rollout = jax.tree.map(lambda x: jax.ShapeDtypeStruct((cfg.data.steps, *x.shape), x.dtype), row)

    def metrics(state: Tree, rollout: Transition) -> Metrics:
        buffer = replay.empty(row, cfg.data.steps) if cfg.data.replays else ()
        return learn(algorithm, cfg, spec, state, buffer, rollout, jax.random.key(0))[2]

    shapes = jax.eval_shape(metrics, state, rollout)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def initial_row(algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree) -> tuple[Transition, Any, Metrics]:
    """Shapes of a row, an empty buffer for such rows, and the zeros that metrics are added to."""
    row = row_shape(algorithm, cfg, spec, state)
    return row, empty_buffer(cfg, spec, row), empty_metrics(algorithm, cfg, spec, state, row)

"""An algorithm as a worker's own driver runs it: where the other would update it finds a gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.act import row_shape
from polyak.drivers.asynchronous import gradient_and_apply
from polyak.drivers.learn import on_policy_batch, one_step
from polyak.interface import Algorithm, Array, Batch, Spec, Transition, Tree, Update, rows_of
from polyak.pytree import Record, pytree


@pytree
class Found(Record):
    """What a worker has read, and the gradient that it found there."""

    read: Tree  # the algorithm's state
    grads: Tree


def finder(algorithm: Algorithm, first: int) -> Algorithm:
    """The algorithm that finds a gradient where the other would update; its environments count from `first`."""
    gradient, _ = gradient_and_apply(algorithm)

    def init(cfg: Any, spec: Spec, key: Array) -> Found:
        state = algorithm.init(cfg, spec, key)
        row, rows = row_shape(algorithm, cfg, spec, state), rows_of(cfg.data, spec.time_limit)

        def found(rollout: Transition, key: Array) -> Tree:
            batch = on_policy_batch(rollout, one_step(cfg, spec), None)
            return gradient(cfg, spec, algorithm.actor(state), batch, key)[0]

        rollout = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), row)
        shapes = jax.eval_shape(found, rollout, jax.random.key(0))
        return Found(state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))

    def memory(cfg: Any, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
        return algorithm.memory(cfg, spec, first + env_ids, episode, key)

    def update(cfg: Any, spec: Spec, state: Found, batch: Batch, key: Array) -> Update:
        grads, metrics = gradient(cfg, spec, algorithm.actor(state.read), batch, key)
        return Update(state.replace(grads=grads), metrics)

    def observe(cfg: Any, spec: Spec, state: Found, rollout: Transition) -> Found:
        return state  # steps are counted by everybody together

    return algorithm._replace(
        init=init,
        actor=lambda state: algorithm.actor(state.read),
        memory=memory,
        update=update,
        observe=observe,
        gradient=None,
        apply=None,
        value=None,
    )


def own_seed(seed: int, worker: int) -> int:
    """The seed of a worker's acting and environments; the first has the run's own."""
    return seed if worker == 0 else int(np.random.SeedSequence([seed, worker]).generate_state(1)[0] % 2**31)

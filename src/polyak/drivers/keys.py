"""Random numbers by address: each stream is a function of the run's seed, each place in it of counters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from polyak.interface import Array


class Keys(NamedTuple):
    """Streams of random numbers of one run; a place in a stream is reached by `fold_in`."""

    init: Array
    act: Array
    uniform: Array
    learn: Array
    env: Array
    memory: Array
    evaluate: Array

    @classmethod
    def of(cls, seed: Array, worker: int = 0) -> "Keys":
        """The streams of one seed (an integer, or a tracer of one).

        worker  number of the process that acts on a part of the environments: what it draws for a row or a memory
                is its own, and worker 0 draws what a run without workers does
        """
        key, count = jax.random.key(seed), len(cls._fields)
        keys = cls(*jax.random.split(key, count))
        if worker == 0:
            return keys
        own = cls(*jax.random.split(jax.random.fold_in(jax.random.fold_in(key, count), worker), count))
        return keys._replace(act=own.act, uniform=own.uniform, memory=own.memory)


class RowKeys(NamedTuple):
    """Keys of one row of a rollout, a function of the row's number since the run began.

    Raw numbers, which cross the border of a program and of a loop like any others.
    """

    act: Array
    uniform: Array

    @classmethod
    def of(cls, keys: Keys, row: Array) -> "RowKeys":
        """Keys of one row."""
        return cls(*(jax.random.key_data(jax.random.fold_in(key, row)) for key in (keys.act, keys.uniform)))

    @classmethod
    def of_rollout(cls, keys: Keys, iteration: Array, steps: int) -> "RowKeys":
        """Keys of the T rows of a rollout, [T]: made at once, which is cheaper than one by one."""
        return jax.vmap(cls.of, (None, 0))(keys, iteration * steps + jnp.arange(steps))


def episode_key(key: Array, env: Array, episode: Array, step: Array) -> Array:
    """Key of one step of an environment, a function of (run, environment, episode, step); step 0 is the reset."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, env), episode), step)


def episode_keys(key: Array, env: Array, episode: Array, step: Array) -> Array:
    """`episode_key` of each of N environments, [N]."""
    return jax.vmap(episode_key, (None, 0, 0, 0))(key, env, episode, step)

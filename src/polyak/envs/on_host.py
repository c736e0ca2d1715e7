"""Environments in JAX, stepped on the host: for workers, whose episodes are not saved but played again."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, HostStep
from polyak.interface import Array, Tree
from polyak.pytree import select


class OnHost:
    """Makes copies of an environment in JAX that are stepped like Gymnasium's."""

    def __init__(self, env: Environment):
        self.env, self.spec = env, env.spec

    def make(self, lanes: int, asynchronous: bool = False, deadline: float = 60.0) -> "SteppedOnHost":
        """L environments in this process."""
        return SteppedOnHost(self.env, lanes)


class SteppedOnHost:
    """L environments in JAX, all of which step in one compiled call; see `HostEnvs`.

    What an episode draws is a function of its seed and the step's number.
    """

    exact_reset = True
    masked = False

    def __init__(self, env: Environment, lanes: int):
        self.env, self.spec = env, dataclasses.replace(env.spec, num_envs=lanes)
        self.seeds, self.length = np.zeros(lanes, np.uint32), np.zeros(lanes, np.int32)
        self._begin, self._reset, self._step = map(jax.jit, (self._begun, self._begun_where, self._stepped))
        self.state: Tree = None

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes, each from its own seed; observations [L, ...] of all lanes."""
        self.seeds[list(lanes)], self.length[list(lanes)] = seeds, 0
        if self.state is None:
            self.state, obs = self._begin(self.seeds)
        else:
            mask = np.isin(np.arange(len(self.seeds)), lanes)
            self.state, obs = self._reset(self.seeds, mask, self.state, self.obs)
        self.obs = jax.tree.map(np.asarray, obs)
        return self.obs

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        self.length = self.length + 1
        self.state, stepped = self._step(self.seeds, self.length, self.state, action)
        self.obs, reward, terminated, truncated, measures = jax.tree.map(np.asarray, stepped)
        measures = {name: value.astype(np.float64) for name, value in measures.items()}
        return HostStep(self.obs, reward.astype(np.float64), terminated, truncated, measures)

    def close(self) -> None:
        """Nothing is held."""

    # ---- what is compiled

    def _begun(self, seeds: Array) -> tuple[Tree, Tree]:
        return jax.vmap(self.env.reset)(keys_of(seeds, jnp.zeros_like(seeds)))

    def _begun_where(self, seeds: Array, mask: Array, state: Tree, obs: Tree) -> tuple[Tree, Tree]:
        return select(mask, self._begun(seeds), (state, obs))

    def _stepped(self, seeds: Array, length: Array, state: Tree, action: Array) -> tuple[Tree, Any]:
        stepped = jax.vmap(self.env.step)(state, action, keys_of(seeds, length))
        truncated = stepped.truncated
        if self.spec.time_limit is not None:
            truncated = truncated | (length >= self.spec.time_limit)
        truncated = truncated & ~stepped.terminated
        given = (
            stepped.obs,
            stepped.reward.astype(jnp.float32),
            stepped.terminated,
            truncated,
            stepped.measures,
        )
        return stepped.state, given


def keys_of(seeds: Array, step: Array) -> Array:
    """Keys [L] of one step of the episodes with these seeds; step 0 is the reset."""
    return jax.vmap(lambda seed, step: jax.random.fold_in(jax.random.key(seed), step))(seeds, step)

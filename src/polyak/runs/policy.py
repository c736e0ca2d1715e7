"""Policies: what was learned, as a function of observations that needs no environment."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.border import Border
from polyak.envs.environment import flat_actions
from polyak.errors import UserError
from polyak.interface import Spec
from polyak.runs.algorithm import with_given, wrapped
from polyak.runs.plan import Plan
from polyak.runs.values import whole


class Policy:
    """A trained policy as a function of observations in the environment's own terms; needs no environment.

    With `explore` it draws from a stream of random numbers that moves from call to call.
    """

    def __init__(self, plan: Plan, spec: Spec, border: Border, state: Any):
        self.algorithm, self.spec, self.border = wrapped(plan), spec, border
        self.flat = with_given(plan, flat_actions(spec))
        self.cfg = plan.settle(self.algorithm.Config())
        self.actor = self.algorithm.actor(state)
        self.state = state if self.algorithm.value else None
        self.seed, self.draws = plan.seed, 0
        self._valuing = jax.jit(self._value)
        self._acting = jax.jit(self._act, static_argnames="explore")
        self._beginning = jax.jit(self._begin, static_argnames="count")

    def of_state(self, state: Any) -> "Policy":
        """The same policy with a newer state of its algorithm; what was compiled stays, and its stream goes on."""
        newer = copy.copy(self)
        newer.actor = self.algorithm.actor(state)
        newer.state = state if self.algorithm.value else None
        return newer

    def initial(self, count: int = 1) -> Any:
        """The memory of `count` environments at the start of an episode."""
        return self._beginning(np.uint32(0), np.uint32(0), count=whole("count", count, 0))

    def __call__(
        self, obs: Any, memory: Any = None, explore: bool = False, seed: int | None = None
    ) -> tuple[Any, Any]:
        """From one observation, or a batch of them [N, ...], to an action, or actions [N, ...], and memory.

        memory   what the last call gave, in the same episode; None where one begins
        explore  act as in training; else as in evaluation
        seed     begin the stream of random numbers anew: the same seed, the same stream
        UserError, one line, where an observation does not lie in its space.
        """
        if self.cfg.data.simulator:
            raise UserError(
                "this policy plans with the environment's own state, which an observation is not: use evaluate or watch"
            )
        rows, single = self.border.observe(obs)
        action, memory = self.act(rows, memory, explore, seed)
        return self.border.act(action, single), memory

    def act(
        self, obs: Any, memory: Any = None, explore: bool = False, seed: int | None = None
    ) -> tuple[np.ndarray, Any]:
        """From observations [N, ...] as the drivers give them to actions [N, ...] as the algorithm gives them."""
        if seed is not None:
            self.seed, self.draws = whole("seed", seed, 0), 0
        draw = np.uint32(self.seed), np.uint32(self.draws if explore else 0)
        self.draws += explore
        if memory is None:
            begin = draw if explore else (np.uint32(0), np.uint32(0))
            memory = self._beginning(*begin, count=len(jax.tree.leaves(obs)[0]))
        action, memory = self._acting(self.actor, memory, obs, *draw, explore=explore)
        return np.asarray(action), memory

    def value(self, obs: Any, action: Any) -> np.ndarray | None:
        """Returns [N] that its algorithm expects from observations [N, ...] on, as `act` has them; None of others."""
        return None if self.state is None else np.asarray(self._valuing(self.state, obs, action))

    def _value(self, state: Any, obs: Any, action: Any) -> Any:
        assert self.algorithm.value is not None
        return self.algorithm.value(self.cfg, self.flat, state, obs, action)

    def _act(self, actor: Any, memory: Any, obs: Any, seed: Any, draw: Any, explore: bool) -> tuple:
        key, _ = _draw_keys(seed, draw)
        action, memory, _ = self.algorithm.act(self.cfg, self.flat, actor, memory, obs, key, explore)
        return action, memory

    def _begin(self, seed: Any, draw: Any, count: int) -> Any:
        _, key = _draw_keys(seed, draw)
        ids = jnp.arange(count)
        return self.algorithm.memory(self.cfg, self.flat, ids, jnp.zeros_like(ids), key)


def _draw_keys(seed: Any, draw: Any) -> tuple[jax.Array, jax.Array]:
    """Keys of one draw from a stream: for the action, and for a memory that begins with it."""
    key_act, key_memory = jax.random.split(jax.random.fold_in(jax.random.key(seed), draw))
    return key_act, key_memory

"""Goals of Gymnasium environments: observation, achieved_goal, desired_goal, and a reward that can be asked again."""

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from polyak.interface import Array, Goal, Tree

ROWS = 256  # that a note on the cost is measured with


def goal_of(env: gymnasium.Env) -> Goal | None:
    """How hindsight asks this environment again, whose observations are a dict with goals; None where it cannot."""
    try:
        compute_reward = env.get_wrapper_attr("compute_reward")
    except AttributeError:
        return None
    try:
        compute_terminated = env.get_wrapper_attr("compute_terminated")
    except AttributeError:
        compute_terminated = None
    again = Again(compute_reward, compute_terminated)
    points = [np.stack([env.observation_space.sample()["achieved_goal"] for _ in range(ROWS)]) for _ in "ab"]
    one, two = points
    flag = np.zeros(ROWS, bool)
    for each in (again, by_distance(env, again, one, two)):
        if each is not None and traceable(each, one, two, flag):
            return Goal(achieved, relabel, asked(each.traced))
    again.on_host(one, two, flag)
    began = time.perf_counter()
    again.on_host(one, two, flag)
    cost = 1e3 * (time.perf_counter() - began)
    note = (
        "compute_reward is no function that JAX can trace: every update calls it on the host, which took "
        f"{cost:.2g} ms for {ROWS} rows, and its program is compiled anew in every process"
    )
    return Goal(achieved, relabel, asked(again.called_back), note)


def traceable(again: "Again", one: np.ndarray, two: np.ndarray, flag: np.ndarray) -> bool:
    """Whether JAX can trace it, for goals and flags like these."""
    rows = [jnp.asarray(point, jnp.float32) for point in (one, two)]
    try:
        shapes = jax.eval_shape(again.traced, *rows, jnp.asarray(flag))
    except Exception:  # whatever it raises of a tracer, it is no function of JAX
        return False
    return [x.shape for x in shapes] == [flag.shape, flag.shape]


def by_distance(env: gymnasium.Env, again: "Again", one: np.ndarray, two: np.ndarray) -> "Again | None":
    """The same with the reward of gymnasium-robotics' sparse tasks in JAX, where it is this environment's; else None.

    It is -1 where the goal is farther away than `distance_threshold`. `compute_reward` must say the same of goals on
    both sides of that distance from the places `one` [M, ...], in the directions `two`.
    """
    threshold = getattr(env.unwrapped, "distance_threshold", None)
    if not isinstance(threshold, float) or one.ndim != 2:
        return None

    def reward(achieved: Array, desired: Array, info: dict) -> Array:
        away = jnp.sqrt(((achieved - desired) ** 2).sum(axis=-1))
        return jnp.where(away > threshold, -1.0, 0.0)

    direction = two / np.linalg.norm(two, axis=-1, keepdims=True)
    away = threshold * np.linspace(0.01, 1.99, len(one))[:, None]
    place, goal = (x.astype(np.float32) for x in (one, one + away * direction))
    said = of_rows(again.compute_reward, place, goal)
    same = np.array_equal(said, reward(place, goal, {}))
    return Again(reward, again.compute_terminated) if same else None


def achieved(obs: Tree) -> Array:
    """The goal that an observation has reached."""
    return obs["achieved_goal"]


def relabel(obs: Tree, goal: Array) -> Tree:
    """The same observation with another goal."""
    return {**obs, "desired_goal": goal.astype(obs["desired_goal"].dtype)}


def asked(function: Callable) -> Callable:
    """A function of goals as one of observations."""

    def reward(obs: Tree, next_obs: Tree, terminated: Array) -> tuple[Array, Array]:
        return function(next_obs["achieved_goal"], next_obs["desired_goal"], terminated)

    return reward


class Again:
    """The environment's own reward and end, of rows [M, ...] of achieved and desired goals.

    compute_terminated  None: an end stays what it was
    """

    def __init__(self, compute_reward: Callable, compute_terminated: Callable | None):
        self.compute_reward, self.compute_terminated = compute_reward, compute_terminated

    def traced(self, achieved: Array, desired: Array, terminated: Array) -> tuple[Array, Array]:
        """As part of a compiled program."""
        reward = jnp.asarray(self.compute_reward(achieved, desired, {}), jnp.float32)
        if self.compute_terminated is None:
            return reward, terminated
        ends = jnp.asarray(self.compute_terminated(achieved, desired, {}), bool)
        return reward, jnp.broadcast_to(ends, reward.shape)

    def called_back(self, achieved: Array, desired: Array, terminated: Array) -> tuple[Array, Array]:
        """As a call from a compiled program to the host, once for all rows."""
        shape = terminated.shape
        kinds = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, bool)
        given = achieved, desired, terminated
        return jax.pure_callback(self.on_host, kinds, *given, vmap_method="broadcast_all")

    def on_host(self, achieved: Any, desired: Any, terminated: Any) -> tuple[np.ndarray, np.ndarray]:
        """Of NumPy arrays [..., M, ...]."""
        achieved, desired, terminated = (np.asarray(x) for x in (achieved, desired, terminated))
        count = terminated.size
        goals = (
            achieved.reshape(count, *achieved.shape[terminated.ndim :]),
            desired.reshape(count, *desired.shape[terminated.ndim :]),
        )
        reward = of_rows(self.compute_reward, *goals)
        ends = terminated
        if self.compute_terminated is not None:
            ends = of_rows(self.compute_terminated, *goals)
        shape = terminated.shape
        return reward.reshape(shape).astype(np.float32), ends.reshape(shape).astype(bool)


def of_rows(function: Callable, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """[M], from one call where the function takes many rows at once, else from one for each."""
    count = len(achieved)
    try:
        found = np.asarray(function(achieved, desired, {}))
        if found.shape == (count,):
            return found
    except Exception:  # then it takes one row at a time, or fails there too
        pass
    return np.array([function(a, d, {}) for a, d in zip(achieved, desired, strict=True)]).reshape(count)

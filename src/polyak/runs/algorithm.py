"""The algorithm of a plan, in its wrappers, and the policies of other runs that it is given: from plans alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from polyak import algorithms
from polyak.drivers.asynchronous import SYNC
from polyak.errors import UserError, chosen
from polyak.interface import Algorithm, Given, Spec
from polyak.runs.plan import Plan
from polyak.wrappers import WRAPPERS, draw_noise, freeze


def wrapped(plan: Plan) -> Algorithm:
    """The plan's algorithm in its wrappers."""
    algorithm = algorithms.find(plan.algorithm)
    if plan.sync is not None:
        check_gradients(plan, algorithm)
        algorithm = SYNC.get(plan.sync, lambda each, workers: each)(algorithm, plan.workers)
    algorithm = draw_noise(algorithm)
    algorithm = freeze(algorithm, plan.freeze) if plan.freeze else algorithm
    for name in reversed(plan.wrap):
        algorithm = chosen(WRAPPERS, name, "wrapper")(algorithm)
    return algorithm


def check_gradients(plan: Plan, algorithm: Algorithm) -> None:
    """UserError where workers are asked for that an algorithm has no gradients for."""
    if algorithm.gradient is None or algorithm.apply is None:
        fitting = [name for name in algorithms.names() if algorithms.find(name).gradient]
        raise UserError(
            f"--sync {plan.sync}: {plan.algorithm} has no gradient that workers could send: {', '.join(fitting)} "
            "have one"
        )
    if plan.num_envs % plan.workers:
        raise UserError(f"num_envs is {plan.num_envs}, but must be a multiple of workers, {plan.workers}")


def with_given(plan: Plan, spec: Spec) -> Spec:
    """The spec with the policies of the runs that a plan uses; their actors are NaN."""
    if not plan.use:
        return spec
    return dataclasses.replace(spec, given={name: given(name, said, spec) for name, said in plan.use.items()})


def given(name: str, said: Mapping[str, Any], spec: Spec) -> Given:
    """The policy of one of these: how it acts, from its plan alone."""
    theirs = Plan.read(said["plan"], f"--use {name}={said['run']}")
    if theirs.to_trust and ":" in theirs.algorithm:
        raise UserError(
            f"--use {name}={said['run']}: names code to import ({theirs.algorithm}), which is not followed"
        )
    algorithm = wrapped(theirs)
    cfg, spec = theirs.settle(algorithm.Config()), with_given(theirs, spec)
    if cfg.data.simulator:
        raise UserError(
            f"--use {name}={said['run']}: plans with the environment's state, which it would not be shown"
        )

    def memory(env_ids: Any, episode: Any, key: Any) -> Any:
        return algorithm.memory(cfg, spec, env_ids, episode, key)

    def act(actor: Any, memory: Any, obs: Any, key: Any, explore: bool) -> tuple[Any, Any]:
        action, memory, _ = algorithm.act(cfg, spec, actor, memory, obs, key, explore)
        return action, memory

    def unknown(x: Any) -> np.ndarray:
        return np.full(x.shape, np.nan if np.issubdtype(x.dtype, np.floating) else 0, x.dtype)

    shapes = jax.eval_shape(lambda key: algorithm.actor(algorithm.init(cfg, spec, key)), jax.random.key(0))
    return Given(jax.tree.map(unknown, shapes), memory, act)

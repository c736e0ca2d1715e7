"""What a checkpoint says, held against the plan before anything is made, traced or compiled from either.

A run folder may come from a stranger, or from a disk that forgot. A plan that asks for more than the checkpoint's
arrays hold, and a value that no run ever had, are a CheckpointError, one line that names the file and the field.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from polyak import algorithms, files
from polyak.drivers.check import check_data
from polyak.drivers.learn import initial_states
from polyak.envs.environment import Rules, Table, flat_actions, rules
from polyak.errors import CheckpointError, UserError
from polyak.interface import Algorithm, Goal, Spec
from polyak.runs.algorithm import with_given, wrapped
from polyak.runs.plan import Plan
from polyak.runs.spec import read_spec, shapes
from polyak.store import storage
from polyak.store.storage import Field

STATE = "state/"  # before the names of the algorithm's arrays
MOST_NOTES = 64  # that a run has said
EPISODES = "episodes/length"  # the array with a number for each environment of each seed


class Counts(NamedTuple):
    """Where a run was when it was saved."""

    iteration: int
    base: int  # the iteration at which steps were last counted from 0
    driver: Mapping[str, Any]
    said: set[str]
    inexact: bool


def settled(plan: Plan, spec: Spec, path: Path) -> tuple[Algorithm, Any, Spec]:
    """The algorithm of a plan, its Config, and what it knows of its world; CheckpointError where they do not fit."""
    try:
        algorithm = wrapped(plan)
        cfg = plan.settle(algorithm.Config())
        known = with_given(plan, flat_actions(spec))
        ruled = dataclasses.replace(known, model=unknown_rules(known), goal=Goal(rules, rules, rules))
        check_data(plan.algorithm, algorithm, cfg, ruled, algorithms.fitting)
    except CheckpointError:
        raise
    except UserError as error:
        raise CheckpointError(f"{path / 'config.json'}: {error}") from error
    return algorithm, cfg, known


def unknown_rules(spec: Spec) -> Rules:
    """Rules that no file holds, in whose place these stand: whoever asks finds that all states are observed."""
    obs = jax.tree.map(lambda space: np.zeros(space.shape, space.dtype), spec.obs)
    return Rules(lambda key: (obs, obs), rules, lambda: Table(np.zeros(0), np.zeros(0)))


def state_shapes(plan: Plan, spec: Spec, arrays: Mapping[str, Field], path: Path) -> Any:
    """Shapes of the algorithm's state [S, ...]; CheckpointError unless the arrays of a checkpoint have them.

    Nothing is traced before the arrays show that there are so many seeds and environments.
    """
    where = path / "config.json"
    own = {name.removeprefix(STATE): field for name, field in arrays.items() if name.startswith(STATE)}
    if plan.seeds > max((field.shape[0] for field in own.values() if field.shape), default=0):
        raise files.damaged(where, f"seeds is {plan.seeds:,}, but the checkpoint's arrays are of fewer")
    if spec.num_envs != plan.num_envs:
        raise files.damaged(
            where, f"num_envs is {plan.num_envs:,}, but the checkpoint's is {spec.num_envs:,}"
        )
    lanes = arrays.get(EPISODES)
    if lanes is None or math.prod(lanes.shape) != plan.seeds * plan.num_envs:
        raise files.damaged(where, f"seeds x num_envs is not the size of the checkpoint's {EPISODES!r}")
    algorithm, cfg, known = settled(plan, spec, path)
    seeds = list(plan.all_seeds)
    template = jax.eval_shape(lambda: initial_states(algorithm, cfg, known, seeds))
    storage.check_fields(own, storage.fields(template), path)
    return template


def check_world(spec: Spec, extra: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where an environment has other spaces than the checkpoint was made in."""
    saved = read_spec(extra, path)
    if shapes((spec.obs, spec.action)) != shapes((saved.obs, saved.action)):
        raise files.damaged(path, "field 'spec' has other spaces than the environment")


def read_counts(
    extra: Mapping[str, Any], env_steps: int, arrays: Mapping[str, Any], per: int, path: Path
) -> Counts:
    """The counters of a checkpoint after `env_steps`, of `per` in each iteration; CheckpointError for a wrong one."""

    def expect(fits: bool, field: str) -> None:
        if not fits:
            raise files.damaged(path, f"field {field!r} is missing or wrong")

    iteration, base, driver, said = (extra.get(name) for name in ("iteration", "base", "driver", "said"))
    for name, count in (("iteration", iteration), ("base", base)):
        expect(files.is_count(count), name)
    assert isinstance(iteration, int)
    assert isinstance(base, int)
    expect(base <= iteration and (iteration - base) * per == env_steps, "iteration")
    expect(isinstance(driver, dict), "driver")
    assert isinstance(driver, dict)
    parts = {"": driver}
    if set(driver) == {"workers"}:  # each has what a driver of its own would have
        expect(isinstance(driver["workers"], list), "driver")
        parts = {f"workers/{worker}/": each for worker, each in enumerate(driver["workers"])}
    for prefix, own in parts.items():
        expect(isinstance(own, dict), "driver")
        if own:
            expect(set(own) == {"iteration", "steps"} and own["iteration"] == iteration, "driver")
            expect(files.is_count(own["steps"]), "driver")
            actions = arrays.get(f"{prefix}episodes/actions")
            expect(actions is not None and actions.shape[:1] == (own["steps"],), "driver")
    expect(isinstance(said, list) and len(said) <= MOST_NOTES, "said")
    assert isinstance(said, list)
    expect(all(isinstance(note, str) and len(note) <= 100 for note in said), "said")
    expect(isinstance(extra.get("inexact"), bool), "inexact")
    return Counts(iteration, base, driver, set(said), extra["inexact"])

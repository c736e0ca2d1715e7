"""How a plan is decided: what was said, joined with the preset and with what is usual."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from polyak.envs.fields import override
from polyak.errors import UserError, also_called, brief, nearest
from polyak.interface import Hindsight
from polyak.runs.plan import (
    Plan,
    Settings,
    check_budget,
    check_devices,
    check_eval_worker,
    check_ranges,
    check_stop,
)
from polyak.runs.presets import STEPS, UPDATES, default_config, preset, usual_config
from polyak.runs.values import amend, plain


def settings_of(algorithm: str, values: Mapping[str, Any]) -> Settings:
    """Settings by name; UserError, which for a setting of the algorithm says where it goes."""
    for name in values.keys() - {entry.name for entry in dataclasses.fields(Settings)}:
        config = usual_config(algorithm)
        own = [entry.name for entry in dataclasses.fields(config) if entry.name != "data"]
        own += [f"data.{entry.name}" for entry in dataclasses.fields(config.data)]
        meant = [each for each in (name, f"data.{name}", *also_called().get(name, ())) if each in own]
        if meant:
            raise UserError(f"{name} is a setting of {algorithm}: give it as config={{{meant[0]!r}: ...}}")
        if name.startswith(("on_", "callback")):
            from polyak.runs.events import Callbacks

            raise UserError(f"there is no callback {name!r}: {nearest(name, Callbacks._fields)}")
    return amend(Settings(), values)


def check_planning(algorithm: str, settings: Settings) -> None:
    """UserError for a setting of what is collected, where nothing is."""
    steps = settings.steps is not None and f"--steps is {settings.steps:,}"
    wrap = settings.wrap and f"--wrap is {','.join(settings.wrap)}"
    for said in (steps, wrap, settings.data and f"--data is {settings.data}"):
        if said:
            raise UserError(
                f"{said}, but {algorithm} plans by the environment's rules and takes no step in it: leave this out, "
                "and say by --updates how often it updates"
            )


def named_runs(texts: tuple[str, ...]) -> dict[str, dict]:
    """The entries of `Plan.use` for NAME=RUN, ...; digest and plan are looked up later. UserError for another form."""
    found = {}
    for text in texts:
        name, equals, run = text.partition("=")
        if not (name.isidentifier() and equals and run):
            raise UserError(f"--use is {brief(text)}, but must be NAME=RUN")
        if name in found:
            raise UserError(f"--use gives {name!r} twice")
        found[name] = {"run": run, "digest": "", "plan": {}}
    return found


def plain_fields(fields: Mapping[str, Any] | None, flag: str) -> dict[str, Any]:
    """An environment's fields as config.json can keep them; UserError names one that it cannot."""
    kept = {}
    for name, value in (fields or {}).items():
        value = value.tolist() if hasattr(value, "tolist") else value  # an array, or a number of NumPy's
        try:
            kept[name] = json.loads(json.dumps(plain(value), allow_nan=False))
        except (TypeError, ValueError):
            raise UserError(
                f"--{flag}.{name} is {value!r}, but must be a finite number, text, true, false, None, or a list "
                "of these: for anything else give the environment itself, or a functools.partial of its class"
            ) from None
    return kept


def with_hindsight(algorithm: str, config: Any, strategy: Any) -> Any:
    """The Config whose replay replaces goals by this strategy."""
    data = config.data
    if not data.replays:
        raise UserError(
            f"--her replaces goals of replayed rows, but {algorithm} has none: choose an algorithm with a "
            "replay"
        )
    hindsight = dataclasses.replace(data.hindsight or Hindsight(), strategy=strategy)
    return dataclasses.replace(config, data=dataclasses.replace(data, hindsight=hindsight))


def shared_out(settings: Settings, tuned: Mapping[str, Any], driver: str) -> tuple[int, Any, int]:
    """Number of environments, how gradients are sent, and number of workers that play as many environments each."""
    said = settings.actors or settings.num_envs
    if None not in (settings.actors, settings.num_envs) and settings.actors != settings.num_envs:
        raise UserError(
            f"--actors is {settings.actors} and --num-envs {settings.num_envs}, but both are the number of "
            "environments: say one"
        )
    num_envs = said or tuned.get("num_envs", 1)
    if driver == "ray":
        return num_envs, None, ray_workers(settings, num_envs)
    for name, given in (
        ("actors", settings.actors),
        ("lag", settings.lag),
        ("address", settings.address),
        ("no-lockstep", not settings.lockstep),
    ):
        if given:
            raise UserError(f"--{name} is for --driver ray, but the driver is {driver}")
    sync = settings.sync or tuned.get("sync")
    if sync is None and settings.workers is not None:
        raise UserError(
            f"--workers {settings.workers}: say what they do, by --driver ray (they play, one process learns) or by "
            "--sync lockstep, async or hogwild (they send gradients)"
        )
    if sync is None:
        return num_envs, sync, 1
    if settings.workers is None and said is not None:
        return said, sync, equal_shares(said, tuned.get("workers", 1))
    workers = settings.workers or tuned.get("workers", 1)
    if said is None:
        return max(num_envs, workers) // workers * workers, sync, workers
    if said % workers:
        raise UserError(
            f"--num-envs {said} cannot be shared out equally among {workers} workers: give a multiple of --workers"
        )
    return said, sync, workers


def ray_workers(settings: Settings, num_envs: int) -> int:
    """Number of Ray's workers that play so many environments, all of them as many."""
    if settings.sync is not None:
        raise UserError(
            f"--sync {settings.sync} sends gradients, but the workers of --driver ray send what they played: say one"
        )
    if settings.vectorization != "sync":
        raise UserError(
            f"--vectorization {settings.vectorization} is not for --driver ray, which has workers"
        )
    if not settings.lockstep and settings.lag:
        raise UserError("--lag is for lock-step: with --no-lockstep no worker waits anyway")
    if settings.workers is None:
        return equal_shares(num_envs, cores())
    if num_envs % settings.workers:
        raise UserError(
            f"--workers is {settings.workers}, which must divide the number of environments ({num_envs}; --actors)"
        )
    return settings.workers


def equal_shares(num_envs: int, most: int) -> int:
    """The largest number of workers, at most `most`, that play equally many of the environments."""
    return max(w for w in range(1, min(most, num_envs) + 1) if num_envs % w == 0)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_plan(
    algorithm: str,
    env: str,
    settings: Settings,
    config: Any = None,
    env_fields: Mapping[str, Any] | None = None,
    eval_env_fields: Mapping[str, Any] | None = None,
    in_graph: bool = False,
    alone: bool = False,
) -> Plan:
    """Join what was said with the preset and with what is usual.

    config    a Config, taken whole; or a mapping of values that the preset, then the defaults, fill up
    in_graph  whether the environment is written in JAX
    alone     whether it is one instance, which evaluation can be played on only afterwards
    """
    check_ranges(settings)
    tuned = preset(algorithm, env) if settings.preset else {}
    if config is None or isinstance(config, Mapping):
        config = amend(default_config(algorithm, tuned, settings.steps), config or {}, "config.")
    if settings.her is not None:
        config = with_hindsight(algorithm, config, settings.her)
    if config.data.plans:
        check_planning(algorithm, settings)
    updates = settings.updates or (tuned.get("updates", UPDATES) if config.data.plans else 0)
    steps = settings.steps if settings.steps is not None else 0 if updates else tuned.get("steps", STEPS)
    check_budget(steps, updates, settings.data or config.data.plans)
    driver = ("graph" if in_graph else "host") if settings.driver == "auto" else settings.driver
    if driver == "graph" and not in_graph:
        raise UserError(
            f"--driver graph needs an environment written in JAX, but {env!r} is not: use --driver host"
        )
    if driver == "host" and in_graph:
        raise UserError(
            f"--driver host steps Gymnasium environments, but {env!r} is in JAX: use --driver graph"
        )
    if in_graph and settings.vectorization != "sync":
        raise UserError(
            f"--vectorization {settings.vectorization} is for host environments, but {env!r} is in JAX"
        )
    num_envs, sync, workers = shared_out(settings, tuned, driver)
    fields, own = (
        plain_fields(given, flag) for given, flag in ((env_fields, "env"), (eval_env_fields, "eval-env"))
    )
    if updates and (driver == "ray" or sync is not None):
        raise UserError("--updates learns in one process: leave out --driver ray, --sync and --workers")
    usual = max(1, (steps or updates) // 20)
    eval_every = settings.eval_every if settings.eval_every is not None else 0 if alone else usual
    check_stop(settings.stop_at, eval_every)
    if settings.eval_worker:
        check_eval_worker(eval_every, settings.vectorization)
    plan = Plan(
        algorithm=algorithm,
        env=env,
        steps=steps,
        updates=updates,
        seed=settings.seed,
        seeds=settings.seeds,
        num_envs=num_envs,
        driver=driver,
        workers=workers,
        lockstep=settings.lockstep,
        lag=settings.lag,
        devices=settings.devices,
        vectorization=settings.vectorization,
        sync=sync,
        eval_every=eval_every,
        eval_episodes=settings.eval_episodes,
        eval_limit=settings.eval_limit,
        eval_worker=settings.eval_worker,
        checkpoint_every=settings.checkpoint_every or eval_every or usual,
        stop_at=settings.stop_at,
        deadline=settings.deadline,
        wrap=settings.wrap if settings.wrap is not None else tuple(tuned.get("wrap", ())),
        measures=settings.measures,
        strict_spaces=settings.strict_spaces,
        init=dict.fromkeys(settings.init, ""),
        use=named_runs(settings.use),
        data={"run": settings.data, "digest": "", "rows": 0} if settings.data else {},
        freeze=settings.freeze,
        config=plain(config),
        env_fields=fields,
        eval_env_fields=None if eval_env_fields is None else override(fields, own),
    )
    check_ranges(plan)
    check_devices(plan)
    return plan

"""How a run begins: from what was said of it to a session that is checked, and a folder that is held."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from polyak.envs.adapters.gymnasium import OneGymnasium
from polyak.envs.environment import Environment
from polyak.envs.find import find, name_of
from polyak.errors import UserError
from polyak.interface import rows_of
from polyak.runs import inputs, sources
from polyak.runs.decide import make_plan, plain_fields
from polyak.runs.folder import RunFolder, claimed, versions
from polyak.runs.memory import gigabytes
from polyak.runs.plan import Settings
from polyak.runs.presets import note_of, preset, preset_fields
from polyak.runs.session import Session
from polyak.runs.spec import show_space


def plan_run(
    algorithm: str,
    env: Any,
    settings: Settings,
    config: Any = None,
    env_fields: Mapping[str, Any] | None = None,
    eval_env_fields: Mapping[str, Any] | None = None,
) -> tuple[Session, str]:
    """The session of a run that is to begin, checked, and a note on its preset; nothing is written yet."""
    given, env = (None if isinstance(env, str) else env), name_of(env)
    tuned = preset(algorithm, env) if settings.preset else {}
    plain_fields(env_fields, "env")  # what no file can keep is said before it reaches the environment
    env_fields, eval_env_fields = preset_fields(tuned, env_fields, eval_env_fields)
    world = find(env if given is None else given, env_fields, settings.measures)
    kind = {"in_graph": isinstance(world, Environment), "alone": isinstance(world, OneGymnasium)}
    plan = make_plan(algorithm, env, settings, config, env_fields, eval_env_fields, **kind)
    session = Session(inputs.recorded(plan), given, settings.address, settings.track)
    session.check()
    session.check_budget()
    inputs.check(session)
    return session, note_of(tuned)


@contextmanager
def placed(path: Path, chosen: bool, session: Session, note: str) -> Iterator[tuple[RunFolder, bool]]:
    """The folder of a run, held for it, and whether the same run is there already.

    chosen  by the user; if not, another run that took the name in the meantime keeps it
    """
    plan, name, count = session.plan, path.name, 1
    while not chosen and not claimed(path):
        count += 1
        path = path.with_name(f"{name}-{count}")
    folder = RunFolder(path)
    with folder.held():
        if not folder.begun:
            folder.create(plan, note, device())
            yield folder, False
            return
        if (there := folder.plan()) != plan:
            instead = "resume it as it is"
            same = dataclasses.replace(there, **{plan.unit: plan.budget}) == plan
            if same and plan.budget > there.budget:
                instead = f"polyak resume {folder.path} --{plan.unit} {plan.budget}"
            if dataclasses.replace(there, stop_at=plan.stop_at) == plan:
                instead = f"polyak resume {folder.path} --stop-at {plan.stop_at}"
            raise UserError(
                f"{folder.path} is a run with other settings ({there.differences(plan)}): "
                f"choose another --name, or {instead}"
            )
        if files := sources.changed(folder.config().get("sources"), plan):
            raise UserError(
                f"{' and '.join(files)} changed since {folder.path} was begun: choose another --name, or, to go on "
                f"with what is written now, polyak resume {folder.path}"
            )
        yield folder, True


def facts(session: Session, note: str) -> dict[str, str]:
    """Facts that a person wants to know before a run begins."""
    plan, spec, data = session.plan, session.env_spec, session.cfg.data
    found = versions()
    shown = {
        "versions": " ".join(
            f"{name} {found[name]}" for name in ("polyak", "python", "jax") if name in found
        ),
        "device": device(),
        "spaces": f"{show_space(spec.obs)} -> {show_space(spec.action)}",
    }
    per = data.updates if plan.updates else rows_of(data, spec.time_limit) * spec.num_envs
    total = -(-plan.budget // per) * per
    rounded = (
        f" (rounded up from {plan.budget:,} to whole iterations of {per:,})" if total != plan.budget else ""
    )
    seeds = f" x {plan.seeds} seeds" if plan.seeds > 1 else ""
    envs = f", {spec.num_envs} environments" if spec.num_envs > 1 else ""
    shown["budget"] = f"{total:,} {plan.unit}{seeds}{envs}{rounded}"
    if data.replays:
        shown["replay"] = f"{gigabytes(session.planned_bytes)} for {data.capacity:,} transitions{seeds}"
    if note:
        shown["preset"] = note
    if plan.wrap:
        shown["wrap"] = ", ".join(plan.wrap)
    return shown


def device() -> str:
    """Name of the device that computes."""
    devices = jax.devices()
    kind = devices[0].device_kind
    return kind if devices[0].platform == "cpu" else f"{len(devices)} x {kind}"

"""Presets: tuned settings of an algorithm and an environment, and the Config that they make."""

import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

from polyak import algorithms
from polyak.errors import UserError, said_by
from polyak.interface import OnPolicy, Planning, Replay
from polyak.runs.values import amend, check_settable

STEPS = 100_000  # where nobody says how many
UPDATES = 100  # the same, of what plans without data
DEFAULT = "default"  # the preset of environments that have none of their own


def preset_name(env: str) -> str:
    """The environment whose preset this one uses: that of `jax:X` is X."""
    return env.partition(":")[2] if env.startswith(("jax:", "gymnax:", "envpool:", "atari:")) else env


def preset(algorithm: str, env: str) -> dict[str, Any]:
    """The tuned settings for an algorithm and environment, else the algorithm's `[default]`; `jax:X` uses X's.

    {} for an algorithm without presets.
    """
    path = importlib.resources.files("polyak.presets") / f"{algorithm}.toml"
    if algorithm not in algorithms.names() or not path.is_file():
        return {}
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return table.get(preset_name(env)) or table.get(DEFAULT, {})


def preset_fields(
    tuned: Mapping[str, Any],
    env_fields: Mapping[str, Any] | None,
    eval_env_fields: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Fields of training's environment and of evaluation's own: what was said, and else what a preset sets.

    >>> preset_fields({"env": {"patience": 12, "size": 3}, "eval_env": {"patience": 0}}, {"size": 4}, None)
    ({'patience': 12, 'size': 4}, {'patience': 0})
    """
    own = tuned.get("eval_env")
    evaluation = (
        None if own is None and eval_env_fields is None else {**(own or {}), **(eval_env_fields or {})}
    )
    return {**tuned.get("env", {}), **(env_fields or {})}, evaluation


def note_of(tuned: Mapping[str, Any]) -> str:
    """Where a preset comes from, and what it makes of the environment; empty without one."""
    flags = flags_of(tuned)
    sets = f"; it sets {flags}" if flags else ""
    return f"{tuned['source']}{sets} (--no-preset turns it off)" if tuned else ""


def flags_of(tuned: Mapping[str, Any]) -> str:
    """The flags that say what a preset makes of the environment."""
    return " ".join(
        f"--{group.replace('_', '-')}.{name} {_word_of(value)}"
        for group in ("env", "eval_env")
        for name, value in tuned.get(group, {}).items()
    )


def _word_of(value: Any) -> str:
    """A field's value as a flag says it."""
    return ",".join(map(_word_of, value)) if isinstance(value, list) else str(value).lower()


def default_config(algorithm: str, tuned: Mapping[str, Any], steps: int | None = None) -> Any:
    """An algorithm's Config with a preset's values in it.

    steps  of the run; None: the preset's. Its `shares` of `data` are of them, and at most the algorithm's own.
    """
    config = usual_config(algorithm)
    steps = steps or tuned.get("steps", STEPS)
    shares = {
        f"data.{name}": min(round(share * steps), getattr(config.data, name))
        for name, share in tuned.get("shares", {}).items()
    }
    return amend(amend(config, tuned.get("config", {})), shares)


def usual_config(algorithm: str) -> Any:
    """An algorithm's Config as it is by itself; UserError in one line for a user's own that cannot be one."""
    made = algorithms.find(algorithm).Config
    if ":" not in algorithm:
        return made()
    check_settable(made, f"{algorithm}: Config")
    try:
        config = made()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{algorithm}: Config() cannot be made: {said_by(error)}") from error
    if not isinstance(getattr(config, "data", None), OnPolicy | Replay | Planning):
        raise UserError(
            f"{algorithm}: Config has no data: give it a field `data: OnPolicy` or `data: Replay`"
        )
    return config

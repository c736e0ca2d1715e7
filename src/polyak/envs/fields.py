"""Fields of an environment as a person gives them: its own, those that are drawn, pushes. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

from polyak.errors import UserError

RANDOMIZE, PUSH = "randomize.", "push."  # before a field's name, on the command line and in `env_fields`


def split_fields(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Fields of the environment itself; ranges of those that are drawn; fields of pushes."""
    own = {name: x for name, x in fields.items() if not name.startswith((RANDOMIZE, PUSH))}
    ranges = {name.removeprefix(RANDOMIZE): x for name, x in fields.items() if name.startswith(RANDOMIZE)}
    pushes = {name.removeprefix(PUSH): x for name, x in fields.items() if name.startswith(PUSH)}
    return own, ranges, pushes


def override(fields: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's fields: training's, but what it sets itself is not drawn at random any more."""
    kept = {name: x for name, x in fields.items() if name.removeprefix(RANDOMIZE) not in own}
    return kept | dict(own)


def refuse_on_host(name: str, fields: Mapping[str, Any]) -> None:
    """UserError where an environment that is not written in JAX is to be randomised or pushed."""
    for field in fields:
        if field.startswith((RANDOMIZE, PUSH)):
            raise UserError(
                f"environment {name}: {field} is for environments written in JAX, which this one is not"
            )

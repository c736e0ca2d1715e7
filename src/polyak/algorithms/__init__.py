"""One file each: `td3.py` is TD3. This folder's listing is the list of algorithms; only one is imported."""

import importlib
import os
import sys
from pathlib import Path

from polyak.errors import UserError, nearest, said_by
from polyak.interface import Algorithm


def names() -> list[str]:
    """Every algorithm of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def check(name: str) -> None:
    """UserError for a name that is none; imports nothing."""
    if ":" not in name and name not in names():
        raise UserError(f"unknown algorithm {name!r}: {nearest(name, names())}")


def find(name: str) -> Algorithm:
    """The record of an algorithm: a name of `names()`, or a user's own as `my_package.module:algorithm`."""
    check(name)
    if ":" not in name:
        return importlib.import_module(f"polyak.algorithms.{name}").algorithm
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise UserError(f"cannot import the algorithm {name!r}: {said_by(error)}") from error
    if not isinstance(found, Algorithm):
        kind = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
        raise UserError(f"{name} is {kind}, but an algorithm is a record: polyak.interface.Algorithm(...)")
    return found


def fitting(kind: str) -> list[str]:
    """Names of those that learn with actions of this kind, "discrete" or "continuous", from any observations."""
    records = {name: find(name) for name in names()}
    return [
        name
        for name, each in records.items()
        if kind in each.actions and each.observes == "any" and each.learns
    ]


def title(name: str) -> str:
    """First line of an algorithm's file."""
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return text.split('"""')[1].splitlines()[0]

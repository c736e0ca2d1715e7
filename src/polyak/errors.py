"""Errors of a person or of an environment: one line with what is wrong, what was given and what would be right."""

import difflib
import functools
import os
import re
import tomllib
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


class UserError(Exception):
    """A mistake of the person who called: one line; the command line exits with 2."""


class CheckpointError(UserError):
    """A run folder or checkpoint that is damaged or missing; names the file and the field."""


class EnvironmentFault(UserError):
    """An environment broke its contract; names the step, the environment and the field.

    run   the driver's run as it is after the fault, where a run was in progress
    lane  the number of the environment among all of all seeds, until `at` says it as a person counts
    """

    def __init__(self, text: str = "", run: Any = None, lane: int | None = None):
        super().__init__(text if lane is None else f"environment {lane}: {text}")
        self.text, self.run, self.lane = text, run, lane

    def at(self, seed: int, env: int) -> "EnvironmentFault":
        """The same fault of this environment of this seed."""
        if self.lane is None:
            return EnvironmentFault(self.text, self.run)
        return EnvironmentFault(f"environment {env}, seed {seed}: {self.text}", self.run)


MOST = 1_000  # characters of a line for a person


def printable(text: object, most: int = MOST) -> str:
    r"""A text in one line of bounded length that no terminal obeys: control characters are spelled out.

    >>> print(printable("a\x1b[31m\nb"))
    a\x1b[31m b
    """
    line = visible(" ".join(str(text)[: 4 * most].split()))
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def visible(text: str) -> str:
    """A text with its control characters spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief(value: Any, most: int = 60) -> str:
    """A value as Python writes it, in a few characters; what cannot be written is named by its type."""
    try:
        return printable(repr(value), most)
    except Exception:
        return f"a {type(value).__name__}"


@functools.cache
def also_called() -> Mapping[str, list[str]]:
    """Settings as other libraries call them, each with our names."""
    return tomllib.loads(Path(__file__).with_name("also_called.toml").read_text(encoding="utf-8"))


def nearest(word: str, valid: Iterable[str], alike: float = 0.6) -> str:
    """A hint for a misspelt word, or one of another library: "did you mean 'ppo'? Valid: dqn, ppo, td3"."""
    valid = sorted(valid)
    close = [name for name in also_called().get(word, ()) if name.split(".")[0] in valid]
    if not close:
        lower = {name.lower(): name for name in reversed(valid)}
        close = [lower[name] for name in difflib.get_close_matches(word.lower(), lower, n=1, cutoff=alike)]
    listed = ", ".join(valid[:12]) + (", ..." if len(valid) > 12 else "")
    meant = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return meant + (f"Valid: {listed}" if valid else "")


def chosen(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a table that a user named; UserError with the nearest name for one that is not there."""
    if name not in table:
        raise UserError(f"unknown {what} {name!r}: {nearest(name, table)}")
    return table[name]


def boolean(value: Any) -> bool:
    """True or false in the words that a person may use for it, wherever that is; ValueError for anything else.

    >>> [boolean(word) for word in ("yes", "False", "1", 0, True)]
    [True, False, True, False, True]
    """
    word = str(value).lower() if isinstance(value, str | int) else ""
    if word not in WORDS:
        raise ValueError("true or false")
    return WORDS[word]


LIBRARIES = re.compile(r"[/\\](site|dist)-packages[/\\](gymnasium|jax|jaxlib|numpy)[/\\]|^<|importlib")


def place_of(error: BaseException) -> str:
    """Where in a user's code an exception was raised, as " at reach.py:12"; "" where none of it is theirs."""
    frames = traceback.extract_tb(error.__traceback__)
    return place_in((frame.filename, frame.lineno or 0) for frame in frames)


def place_in(frames: Iterable[tuple[str, int | str]]) -> str:
    """The same of the files and lines of a traceback, outermost first."""
    ours = str(Path(__file__).parent) + os.sep
    theirs = [
        (file, line) for file, line in frames if not file.startswith(ours) and not LIBRARIES.search(file)
    ]
    if not theirs:
        return ""
    file, line = theirs[-1]
    inside = file.startswith(os.getcwd() + os.sep)
    return f" at {os.path.relpath(file) if inside else file}:{line}"


def said_by(error: BaseException, length: int = 200) -> str:
    """An exception in one line: type, message, and where in a user's code; one that cannot be printed, by its type."""
    try:
        message = f": {error}"
    except BaseException:
        message = " (which cannot be printed)"
    return printable(f"{type(error).__name__}{message}", length) + place_of(error)


def out_of_range(cfg: Any, prefix: str = "") -> list[str]:
    """A line for each field of which a value lies outside `interface.within(...)`; a tracer is believed."""
    lines = []
    for entry in fields(cfg):
        value, bounds = getattr(cfg, entry.name), entry.metadata.get("within")
        name = entry.name.replace("_", "-") if prefix == "--" else entry.name  # as it is typed
        each = [x for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, int | float)]
        if any(isinstance(x, float) and x - x != 0 for x in each):  # inf - inf is NaN
            lines.append(f"{prefix}{name} is {brief(value)}, but must be finite")
            continue
        if bounds is None or all(bounds[0] <= x <= bounds[1] for x in each):
            continue
        low, high = (f"{int(bound):,}" if bound == bound // 1 < 1e15 else f"{bound:g}" for bound in bounds)
        allowed = f"at least {low}" if bounds[1] == float("inf") else f"between {low} and {high}"
        lines.append(f"{prefix}{name} is {brief(value)}, but must be {allowed}")
    return lines

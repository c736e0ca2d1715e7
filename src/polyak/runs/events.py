"""Callbacks: what a program is told of a run in progress, and how it ends one early."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polyak.errors import UserError, brief


@dataclass(frozen=True)
class Event:
    """Where a run is, as a callback is told.

    env_steps, updates  of each seed so far
    lines               the metric lines that were just written, one of each seed; () with a checkpoint
    path                the run's folder; None in `Agent.learn`, which has none and writes no checkpoint by itself
    """

    env_steps: int
    updates: int
    lines: tuple[dict[str, Any], ...] = ()
    path: Path | None = None

    def mean(self, name: str) -> float:
        """Mean over seeds of what the lines have under this name; NaN where they have nothing."""
        values = [line[name] for line in self.lines if line.get(name) is not None]
        return float(np.mean(values)) if values else float("nan")


Callback = Callable[[Event], Any]


class Callbacks(NamedTuple):
    """Functions of an `Event`, each called when its kind of thing was done; one that returns False ends the run."""

    on_log: Callback | None = None
    on_evaluation: Callback | None = None
    on_checkpoint: Callback | None = None


def callbacks(**given: Callback | None) -> Callbacks:
    """The callbacks of these names. UserError, one line, for what cannot be called with an event."""
    for name, call in given.items():
        if call is not None and not callable(call):
            raise UserError(f"{name} is {brief(call)}, but must be a function of one event")
        if call is not None and not _takes_one(call):
            raise UserError(
                f"{name} must be a function of one event, but {_signed(call)} cannot be called with one"
            )
    return Callbacks(**given)


def _takes_one(call: Callback) -> bool:
    """Whether a function can be called with one argument; one that does not say so is believed."""
    try:
        inspect.signature(call).bind(None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _signed(call: Callback) -> str:
    return f"{getattr(call, '__name__', type(call).__name__)}{inspect.signature(call)}"


def ends(answer: Any) -> bool:
    """Whether a callback's answer ends the run: False does, as Python or NumPy have it; None and all else do not."""
    return isinstance(answer, bool | np.bool_) and not answer

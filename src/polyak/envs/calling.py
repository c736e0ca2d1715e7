"""Calls of a user's environment: whatever it raises is its fault, in one line, and never the end of a program.

Imported in worker processes too, so it knows neither JAX nor Gymnasium.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from polyak.errors import EnvironmentFault, UserError, place_of, said_by
from polyak.signals import interrupts

RETURNED = {"reset": "(obs, info)", "step": "(obs, reward, terminated, truncated, info)"}
PR_SET_PDEATHSIG = 1


def passes(error: BaseException) -> bool:
    """Whether an exception out of an environment's code is raised as it is: a person's Ctrl-C, or one line already."""
    return isinstance(error, UserError) or interrupts(error)


def fault(lane: int, call: str, what: str, error: BaseException) -> EnvironmentFault:
    """The fault of an environment that raised something, SystemExit and KeyboardInterrupt too."""
    hint = "" if place_of(error) or call not in RETURNED else f"; {call} must return {RETURNED[call]}"
    if call == "reset" and isinstance(error, TypeError) and "unexpected keyword argument" in said_by(error):
        hint = "; it is defined as reset(self, *, seed=None, options=None)"
    return EnvironmentFault(f"{' '.join(f'{call} {what}'.split())} raised {said_by(error)}{hint}", lane=lane)


@contextlib.contextmanager
def calling(explain: Callable[[BaseException], UserError]) -> Iterator[None]:
    """What a user's code raises in the body becomes the error that `explain` makes of it."""
    try:
        yield
    except BaseException as error:
        if passes(error):
            raise
        raise explain(error) from error


@contextlib.contextmanager
def called(lane: int, call: str, what: str = "") -> Iterator[None]:
    """The same where one environment of several is called."""
    try:
        yield
    except BaseException as error:
        if passes(error):
            raise
        raise fault(lane, call, what, error) from error


def serve_parent(by_main_thread: bool) -> None:
    """In a worker process: leave signals to the process that trains, and end when it ends, however either does.

    by_main_thread  this process was started by the main thread of its parent; the kernel's own signal comes when
                    the thread ends that started it
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # who trains saves, and still needs its environments
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux" and by_main_thread:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """End this process when another ends."""
    parent.join()
    os._exit(1)

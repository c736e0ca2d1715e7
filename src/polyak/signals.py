"""Ctrl-C and its like: heard from the first line of a command on, and told from what an environment raises."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Ctrl-C as polyak's own handlers raise it."""


class Listener:
    """A handler that raises Stopped, and remembers: what it raises may be swallowed, as by a callback in C."""

    def __init__(self) -> None:
        self.heard = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Hear one signal."""
        self.heard = True
        raise Stopped

    def check(self) -> None:
        """Raise Stopped where it was heard before."""
        if self.heard:
            raise Stopped


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Hear Ctrl-C during the body; only in the main thread, and where nobody else listens."""
    listener = Listener()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield listener
        return
    signal.signal(signal.SIGINT, listener)
    try:
        yield listener
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupts(error: BaseException) -> bool:
    """Whether an exception out of an environment's code is a person's Ctrl-C, and not the environment's own."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    )
    return isinstance(error, Stopped) or not ours

"""What a run goes on under: signals that ask it to stop, a watch over environments that hang, a second thread."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from polyak.runs.session import Session
from polyak.show.terminal import Terminal
from polyak.signals import Listener, Stopped

ASKS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def interruptible(stop: threading.Event, terminal: Terminal) -> Iterator[None]:
    """Ctrl-C, SIGTERM or SIGHUP once asks to save and stop, and so does a reader that goes away; a second time
    stops at once.
    """

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise Stopped
        stop.set()
        terminal.say("stopping: saving the run (again to stop at once)")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ASKS}
    if isinstance(listener := before[signal.SIGINT], Listener):
        listener.check()  # of what was swallowed since the command began
    terminal.stream.on_lost = stop.set
    for number in ASKS:
        signal.signal(number, ask)
    try:
        yield
    finally:
        terminal.stream.on_lost = lambda: None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def watched(session: Session, terminal: Terminal) -> Iterator[None]:
    """Say where an environment in this process hangs, which nothing here can end, and what would."""
    over, deadline = threading.Event(), session.plan.deadline

    def look() -> None:
        said = 0.0
        while not over.wait(min(1.0, deadline / 2)):
            for name in ("driver", "evaluator"):
                holder = session.__dict__.get(name)
                envs = getattr(holder, "envs", getattr(holder, "env", None))
                asked = getattr(envs, "asked", 0.0)
                if asked and asked != said and time.monotonic() - asked > deadline:
                    said = asked
                    terminal.warn(
                        f"an environment has not answered for {deadline:g} s (--deadline). It runs in this process, "
                        "which cannot end it: Ctrl-C twice stops the run, and with --vectorization async each "
                        "environment has a process of its own, which is ended"
                    )

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def meanwhile(work: Callable[[], Any]) -> Iterator[None]:
    """Do `work` on a thread of its own while the body runs. Its error is raised at the end, the body's at once."""
    pool = ThreadPoolExecutor(1)
    working = pool.submit(work)
    try:
        yield
        working.result()
    finally:
        pool.shutdown(wait=False)

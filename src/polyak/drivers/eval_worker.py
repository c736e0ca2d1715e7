"""Evaluation in a process of its own, so that training goes on meanwhile: the same episodes, and the same returns.

The process makes an evaluator and is sent an actor for each evaluation. It computes on a CPU. One that is lost is
replaced and gets the same actor again: what is played is a function of the actor, so that nothing else is kept.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

from polyak.drivers import program
from polyak.drivers.evaluate import Evaluator, Played
from polyak.errors import EnvironmentFault, UserError, said_by
from polyak.interface import Tree

LOOK_SECONDS = 0.25  # between two looks at whether it has answered
BEGINNING = (
    120.0  # seconds beside a step's deadline that a new one may be silent for: it begins, and compiles
)
REPLACEMENTS = 3  # in one evaluation

Make = Callable[[], Evaluator]


class EvalWorker:
    """Plays what the evaluator that `make` makes would, in another process; called like it, or begun and asked later.

    make      called in that process
    deadline  seconds that a step of an environment may take
    """

    def __init__(self, make: Make, deadline: float):
        self.make, self.deadline = make, deadline
        self.limit = 0  # steps of an episode, as of `Evaluator`; known with the first answer
        self.actor: Tree = None  # of the evaluation that has begun
        self.process: Any = None
        self.began = False  # whether this process has answered before
        self.pipe: Any = None
        self.looks: Any = None  # how often the process has looked up from its episodes

    def __call__(self, actor: Tree, watch: Callable[[], bool] = lambda: False) -> Played | None:
        """Play with an actor [S, ...], and wait; None where `watch`, asked now and then, says to stop."""
        self.begin(actor)
        return self.answer(watch)

    def begin(self, actor: Tree) -> None:
        """Let it play with an actor [S, ...], of which a copy is kept."""
        self.actor = jax.tree.map(np.array, actor)
        self._ask()

    @property
    def ready(self) -> bool:
        """Whether `answer` has something to do: it is done, or lost."""
        return self.process is None or self.pipe.poll()

    def answer(self, watch: Callable[[], bool] = lambda: False) -> Played | None:
        """What has begun, when it is done; None where `watch` says to stop. EnvironmentFault of its environments."""
        lost = 0
        while True:
            try:
                told = self._wait(watch)
                break
            except (EOFError, OSError) as error:
                lost += 1
                if lost > REPLACEMENTS:
                    raise EnvironmentFault(f"its process was lost {lost} times in a row: {error}") from None
                self.close()
                self._ask()
        if told is None:
            self.close()
            return None
        self.began = True
        kind, answer = told
        if kind == "fault":
            raise EnvironmentFault(answer)
        played, self.limit = answer
        return played

    def close(self) -> None:
        """End the process."""
        if self.process is None:
            return
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process = None

    def _ask(self) -> None:
        with contextlib.suppress(OSError):  # it could not begin, or is gone: `answer` hears of it
            if self.process is None:
                self._begin_process()
            self.pipe.send(self.actor)

    def _begin_process(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.looks = context.Value("Q", 0)
        self.pipe, theirs = context.Pipe()
        given = self.make, dict(program.COMPILER_OPTIONS), self.looks, theirs
        process = context.Process(target=work, args=given, name="polyak-evaluation", daemon=True)
        with contextlib.closing(theirs):
            process.start()
        self.process, self.began = process, False

    def _wait(self, watch: Callable[[], bool]) -> tuple[str, Any] | None:
        """What it says; None where `watch` says to stop. EOFError or OSError where it is lost."""
        if self.process is None:
            raise OSError("it did not begin")
        looks, heard = self.looks.value, time.monotonic()
        silent = self.deadline if self.began else self.deadline + BEGINNING
        while not self.pipe.poll(LOOK_SECONDS):
            if watch():
                return None
            if looks != self.looks.value:
                looks, heard = self.looks.value, time.monotonic()
            if time.monotonic() - heard > silent:
                raise TimeoutError(f"nothing was heard of it for {silent:g} s")
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join(1.0)
            raise EOFError(f"exit code {self.process.exitcode}") from None


def work(make: Make, options: Mapping[str, Any], looks: Any, pipe: Connection) -> None:
    """Play with each actor that comes, until the process that trains is gone."""
    for asks in ("SIGINT", "SIGHUP"):  # Ctrl-C is for the process that trains
        if hasattr(signal, asks):
            signal.signal(getattr(signal, asks), signal.SIG_IGN)
    threading.Thread(target=go_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    jax.config.update("jax_platforms", "cpu")
    program.COMPILER_OPTIONS.update(options)
    evaluator: Evaluator | None = None

    def look() -> bool:
        looks.value += 1
        return False

    with contextlib.suppress(EOFError, OSError):
        while True:
            actor = pipe.recv()
            try:
                evaluator = evaluator or make()
                told = "done", (evaluator(actor, look), evaluator.limit)
            except UserError as error:
                told = "fault", str(error)
            except Exception as error:
                told = "fault", said_by(error, 300)
            pipe.send(told)


def go_with(parent: Any) -> None:
    """End this process when the one that began it is gone, whatever it is doing."""
    parent.join()
    os._exit(1)

"""Contenders in turns: each is a process of its own and stands still while another runs, so all see the same minutes.

On a machine that others share the same program's time varies by a third from one minute to the next. A contender
that cannot start, dies or hangs is ended; its error is its result, and the others go on.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from measure import BEGIN, END

ROOT = Path(__file__).parents[2]
TURN_SECONDS = 1.0
POLL_SECONDS = 0.1  # between two looks at whether a process that is waited for still lives
CAN_STOP = hasattr(signal, "SIGSTOP")


@dataclass(frozen=True)
class Patience:
    """Seconds of a contender's own turns that it may take to say BEGIN, then END, and then to leave."""

    begin: float = 300.0
    end: float = 900.0
    leave: float = 60.0


class Contender:
    """A measurement that announces BEGIN and END, and then prints a line of JSON with its `steps`.

    It leads a process group, so that what it starts stands still, goes on and ends with it. Raises OSError where
    the command cannot be started.
    """

    def __init__(
        self,
        words: Sequence[str],
        errors: IO[str],
        patience: Patience,
        environment: Mapping[str, str] | None = None,
    ):
        self.errors, self.patience = errors, patience
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "POLYAK_CACHE": "off", **(environment or {})},
            start_new_session=True,  # when the shell goes, a group of which one stands still is hung up
        )
        self.turns: list[tuple[float, float]] = []
        self.said = {BEGIN: threading.Event(), END: threading.Event()}
        self.moment: dict[str, float] = {}
        self.last = ""
        self.fault = ""  # why it was ended
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    @property
    def running(self) -> bool:
        """Whether what is timed goes on."""
        return not self.said[END].is_set()

    def turn(self, word: str, seconds: float | None = None) -> None:
        """Let it go on until it says this, for at most so many seconds; then it stands still.

        One whose patience is spent is killed.
        """
        left = self.patience_left()
        began = time.perf_counter()
        if self.turns:
            self._signal("SIGCONT")
        self._wait(word, left if seconds is None else min(seconds, left))
        if self.process.poll() is None:
            self._signal("SIGSTOP")
        self.turns.append((began, time.perf_counter()))
        if self.running and self.patience_left() <= 0:
            word, limit = (END, self.patience.end) if BEGIN in self.moment else (BEGIN, self.patience.begin)
            self.fault = f"no {word!r} within {limit:g} s"
            self.kill()

    def patience_left(self) -> float:
        """Seconds that it may still run before it says its next word."""
        since = self.moment.get(BEGIN)
        if since is None:
            return self.patience.begin - self._own_seconds(0.0, time.perf_counter())
        return self.patience.end - self._own_seconds(since, time.perf_counter())

    def result(self) -> dict[str, Any]:
        """Its JSON, where only its own turns count; or an error."""
        if self.process.poll() is None:
            self._signal("SIGCONT")
            try:
                self.process.wait(self.patience.leave)
            except subprocess.TimeoutExpired:
                self.fault = f"did not leave within {self.patience.leave:g} s"
        code = self.process.poll()
        self.kill()
        try:
            found = json.loads(self.last)
            begin, end = self.moment[BEGIN], self.moment[END]
            seconds = self._own_seconds(begin, end)
            measured = {**found, "seconds": seconds, "steps_per_s": found["steps"] / seconds}
        except (ValueError, TypeError, KeyError, ZeroDivisionError):
            measured = {}
        if code or self.fault or not measured:
            return {"error": self._error(code)}
        return measured

    def kill(self) -> None:
        """End it and what it started, whatever it does."""
        self._signal("SIGKILL")
        self.process.kill()
        self.process.wait()
        self.listener.join(1.0)  # a process that left the group may keep the pipe open
        if not self.listener.is_alive() and self.process.stdout:
            self.process.stdout.close()
        self._over()

    def _own_seconds(self, begin: float, end: float) -> float:
        """How long it ran between two moments."""
        return sum(max(0.0, min(to, end) - max(since, begin)) for since, to in self.turns)

    def _wait(self, word: str, seconds: float) -> None:
        """Until it has said the word or is gone, at most so long."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            if self.said[word].wait(min(POLL_SECONDS, left)):
                return
            if self.process.poll() is not None:
                self.listener.join(1.0)  # reads what it said last
                self._over()
                return

    def _over(self) -> None:
        """Nothing more is waited for."""
        for event in self.said.values():
            event.set()

    def _signal(self, name: str) -> None:
        """Send a signal to its whole group, where there are such."""
        if CAN_STOP:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, getattr(signal, name))

    def _error(self, code: int | None) -> str:
        """What went wrong in one line: why it was ended, and the last line of its errors."""
        words = [self.fault, *lines_of(self.errors)[-1:]]
        if not any(words):
            words = [f"exit {code}" if code else f"left without {BEGIN!r}, {END!r} and a line of JSON"]
        return "; ".join(filter(None, words))

    def _listen(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                word = line.strip()
                if word in self.said:
                    self.moment.setdefault(word, time.perf_counter())
                    self.said[word].set()
                elif word:
                    self.last = word
        finally:
            self._over()


def interleave(
    commands: Mapping[str, Sequence[str]],
    environments: Mapping[str, Mapping[str, str]] | None = None,
    patience: Patience | None = None,
) -> dict[str, dict[str, Any]]:
    """Results of all commands by name, each with what it measured or with an `error`.

    One after the other until it begins, or to the end where none can be stopped; then in turns.

    environments  name -> what its environment has beside this process's
    """
    results: dict[str, dict[str, Any]] = {}
    contenders: dict[str, Contender] = {}
    with contextlib.ExitStack() as stack:
        for name, words in commands.items():
            errors = stack.enter_context(text_file())
            added = (environments or {}).get(name)
            try:
                contender = Contender(words, errors, patience or Patience(), added)
            except OSError as error:
                results[name] = {"error": f"{short(words[0])} cannot be started: {error.strerror}"}
                continue
            contenders[name] = contender
            stack.callback(contender.kill)
            contender.turn(BEGIN)
            if not CAN_STOP and contender.running:
                contender.turn(END)
        while any(contender.running for contender in contenders.values()):
            for contender in contenders.values():
                if contender.running:
                    contender.turn(END, TURN_SECONDS)
        results |= {name: contender.result() for name, contender in contenders.items()}
    return {name: results[name] for name in commands}


def text_file() -> IO[str]:
    """A temporary file for what a process prints."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def lines_of(file: IO[str]) -> list[str]:
    """All lines of a file that are not empty."""
    file.seek(0)
    return [line.strip() for line in file.read().splitlines() if line.strip()]


def short(path: str) -> str:
    """A path from the root of this checkout, where it lies in it."""
    return str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else path

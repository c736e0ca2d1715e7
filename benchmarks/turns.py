"""Contenders that take turns: each a process of its own, stopped while another runs, so all see the same minutes.

On a machine that others share the same program's time varies by a third from one minute to the next.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from measured import BEGIN, END

ROOT = Path(__file__).parent.parent
TURN = 1.0  # seconds
CAN_STOP = hasattr(signal, "SIGSTOP")


class Contender:
    """A measurement that announces BEGIN and END, and then prints a line of JSON with its `steps`."""

    def __init__(self, words: Sequence[str], errors: IO[str]):
        self.errors = errors
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "POLYAK_CACHE": "off"},
            start_new_session=True,  # when the shell goes, a group of which one stands still is hung up
        )
        self.turns: list[tuple[float, float]] = []
        self.said = {BEGIN: threading.Event(), END: threading.Event()}
        self.moment: dict[str, float] = {}
        self.last = ""
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    @property
    def running(self) -> bool:
        """Whether what is timed goes on."""
        return not self.said[END].is_set()

    def turn(self, word: str, seconds: float | None = None) -> None:
        """Let it go on until it says this, for at most so many seconds; then it stands still."""
        began = time.perf_counter()
        if CAN_STOP and self.turns:
            self.process.send_signal(signal.SIGCONT)
        self.said[word].wait(seconds)
        if CAN_STOP and self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)
        self.turns.append((began, time.perf_counter()))

    def result(self) -> dict[str, Any]:
        """Its JSON, where only its own turns count; or an error."""
        if CAN_STOP and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.process.wait()
        self.listener.join()
        if self.process.returncode or END not in self.moment:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            return {"error": lines[-1] if lines else f"exit {self.process.returncode}"}
        begin, end = self.moment[BEGIN], self.moment[END]
        seconds = sum(max(0.0, min(to, end) - max(since, begin)) for since, to in self.turns)
        found = json.loads(self.last)
        return {**found, "seconds": seconds, "steps_per_s": found["steps"] / seconds}

    def kill(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.listener.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word = line.strip()
            if word in self.said:
                self.moment[word] = time.perf_counter()
                self.said[word].set()
            elif word:
                self.last = word
        for event in self.said.values():  # it has ended, one way or the other
            event.set()


def take_turns(commands: dict[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """What each command measured. One after the other until it begins, or to the end where none can be stopped."""
    contenders: dict[str, Contender] = {}
    with contextlib.ExitStack() as stack:
        for name, words in commands.items():
            errors = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            contenders[name] = Contender(words, errors)
            stack.callback(contenders[name].kill)
            contenders[name].turn(BEGIN if CAN_STOP else END)
        while any(contender.running for contender in contenders.values()):
            for contender in contenders.values():
                if contender.running:
                    contender.turn(END, TURN)
        return {name: contender.result() for name, contender in contenders.items()}

"""Progress of a run: one live line on a terminal or in a notebook, plain lines where there is neither."""

import io
import os
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from polyak.errors import visible
from polyak.files import silence

REFRESH = 8  # times a second that the live line is drawn
PLAIN_SECONDS = 10.0  # between two plain lines of a short run
PLAIN_SHARE = 0.02  # of the time so far, between two of a long one: a day writes some hundred lines
CELL_SECONDS = 0.5  # between two pictures of the line in a notebook
FIRST_SECONDS = 0.5  # until the first of them
WAIT_SECONDS = 5.0  # between two plain signs of life while something is waited for
WINDOW_SECONDS = 20.0  # over which the rate is measured
NUMBER = 7  # characters of most returns, so that those of evaluations stand below one another
SAMPLE_SECONDS = 0.25  # between two readings of it
WARM_UP = "warm-up"  # the phase before the first update


class Steady:
    """A stream whose reader may go away, or whose disk may be full: from then on nothing more is written to it."""

    def __init__(self, stream: TextIO):
        self.stream, self.lost = stream, False
        self.on_lost: Callable[[], Any] = lambda: None  # called once

    def write(self, text: str) -> int:
        """Write, unless nobody reads any more."""
        if not self.lost:
            try:
                return self.stream.write(text)
            except OSError:
                self._lose()
        return len(text)

    def flush(self) -> None:
        """Flush, unless nobody reads any more."""
        if not self.lost:
            try:
                self.stream.flush()
            except OSError:
                self._lose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stream"], name)

    def _lose(self) -> None:
        self.lost = True
        silence(self.stream)
        self.on_lost()


class Terminal:
    """Speaks to a person: words and progress to `stream` (stdout), warnings to stderr.

    live   draw a line that moves; None: where the stream is a terminal that can
    In a notebook what moves is one line of the cell's output.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None):
        self.cell = Cell() if stream is None and in_notebook() else None
        self.stream: Any = Steady(stream or sys.stdout)
        if live is None:
            live = self.stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self.live = live
        self.console = Console(
            file=self.stream, force_terminal=live, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self.running: Progress | None = None

    def header(self, text: str) -> None:
        """The run's name and folder: the first line bold, further ones plain."""
        first, *rest = text.splitlines()
        self._line(first, "bold")
        for line in rest:
            self._line(line)

    def facts(self, mapping: Mapping[str, Any]) -> None:
        """Short lines `name  value`, the values below one another."""
        width = max(map(len, mapping), default=0)
        for name, value in mapping.items():
            self._line(f"  {name:<{width}}  ", "dim", str(value))

    def say(self, text: str) -> None:
        """One line, above the live line where there is one."""
        self._line(text)

    def warn(self, text: str) -> None:
        """One line to stderr."""
        with suppress(OSError):  # there may be nobody who reads it
            print(visible(text), file=sys.stderr, flush=True)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Say what is being waited for, with a spinner; afterwards how long it took, where that was long."""
        began = time.monotonic()
        if self.running is not None:
            with self.running.busy(text):
                yield
        elif self.cell is not None:
            self.cell.show(f"{text} ...")
            yield
        elif self.live:
            with self._moving(_Waiting(text, began, self.console.options.ascii_only)):
                yield
        else:
            self._line(f"{text} ...")
            with self._still(text, began):
                yield
        seconds = time.monotonic() - began
        if seconds >= 1 and self.cell is None:
            self._line(f"{text}: {seconds:.1f} s", "dim")

    def progress(self, total_steps: int, unit: str = "steps") -> "Progress":
        """The progress of a run of so many environment steps; close it, or use it in a `with`.

        unit  another word for what is counted
        """
        return Progress(self, total_steps, unit)

    @contextmanager
    def _still(self, text: str, began: float) -> Iterator[None]:
        """A plain line every few seconds until it is over."""
        over = threading.Event()

        def speak() -> None:
            while not over.wait(WAIT_SECONDS):
                self._line(f"{text} ... {time.monotonic() - began:.0f} s")

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            over.set()
            speaker.join()

    def _line(self, text: str, style: str = "", more: str = "") -> None:
        """One whole line at once; plain text without any code where nothing is live."""
        text, more = visible(text), visible(more)
        if self.live:
            self.console.print(Text.assemble((text, style), more))
            return
        print(_writable(text + more, self.stream), file=self.stream, flush=True)

    def _moving(self, picture: RenderableType) -> Live:
        """A line that is redrawn by a thread and vanishes; prints by others appear above it."""
        same = self.stream.stream is sys.stdout
        return Live(
            picture,
            console=self.console,
            refresh_per_second=REFRESH,
            transient=True,
            redirect_stdout=same,
            redirect_stderr=same and sys.stderr.isatty(),
        )


class Progress:
    """How far a run is, how fast, how long it will take and what it earns. `update` costs microseconds."""

    def __init__(self, terminal: Terminal, total_steps: int, unit: str = "steps"):
        self.terminal, self.total, self.unit = terminal, total_steps, unit
        self.began = time.monotonic()
        self.printed = self.began + FIRST_SECONDS - PLAIN_SECONDS
        self.env_steps, self.given_rate, self.phase = 0, None, ""
        self.last_return: float | None = None
        self.eval_return: float | None = None
        self.reach = 0.0  # half the width of the last evaluation's interval
        self.best: float | None = None  # of the evaluations so far
        self.shown = 0.0  # when the line in a notebook was
        self.first_steps: int | None = None
        self.paused, self.pauses, self.more = (
            0.0,
            0,
            0,
        )  # evaluations: their seconds, how many, how many to come
        self.readings: deque[tuple[float, int]] = deque()
        self.open = True
        terminal.running = self
        self.moving = terminal._moving(_Line(self)) if terminal.live else None
        if self.moving:
            self.moving.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(
        self,
        env_steps: int,
        rate: float | None = None,
        last_return: float | None = None,
        eval_return: float | None = None,
        phase: str = "",
    ) -> None:
        """Take the newest numbers; a number that is None stays as it was.

        rate    steps/s where the caller knows better; else it is measured over the last 20 s
        phase   a word at the end of the line: WARM_UP, "compiling"
        """
        if phase != self.phase:
            self.readings.clear()  # another phase has another rate
        self.env_steps, self.given_rate, self.phase = env_steps, rate, phase
        if last_return is not None:
            self.last_return = last_return
        if eval_return is not None:
            self.eval_return = eval_return
        now = time.monotonic()
        stepping = now - self.paused  # as if what is beside the steps took no time
        if not self.readings or stepping - self.readings[-1][0] >= SAMPLE_SECONDS:
            self._read(stepping)
        if self.terminal.cell is not None:
            self._show(now)
        elif self.moving is None and now - self.printed >= max(
            PLAIN_SECONDS, PLAIN_SHARE * (now - self.began)
        ):
            self.printed = now
            self.terminal._line("  ".join(self.words()))

    def log_evaluation(self, env_steps: int, samples: Sequence[float], seeds: int = 1) -> None:
        """One lasting line for an evaluation: mean return, its 95 % interval, and whether none was better so far.

        samples  a mean for each seed; the return of each episode where there is one seed
        """
        mean, self.reach = mean_and_reach(samples)
        self.eval_return, best = mean, self.best
        self.best = mean if best is None or mean > best else best
        self.printed = time.monotonic()
        if self.terminal.cell is not None:
            self._show()
            return
        text = f"{env_steps:>{len(f'{self.total:,}')},} {self.unit}  evaluation {number(mean):>{NUMBER}}"
        text += interval(mean, self.reach, NUMBER)
        text += f"  ({seeds} seeds)" if seeds > 1 else ""
        text += "  best so far" if best is not None and mean > best else ""
        self.terminal._line(text)

    def log_pause(self, seconds: float, more: int) -> None:
        """Something beside the steps took so long, and will be done so many times more."""
        self.paused += seconds
        self.pauses += 1
        self.more = more

    def close(self) -> None:
        """Take the live line away and say what was done; a second call does nothing."""
        if not self.open:
            return
        self.open, self.terminal.running = False, None
        if self.moving:
            self.moving.stop()
        seconds = time.monotonic() - self.began
        made = self.env_steps - (self.first_steps or 0)
        rate = f", {count(made / seconds)} {self.unit}/s" if made and seconds > 0 else ""
        said = f"{self.env_steps:,} of {self.total:,} {self.unit} in {clock(seconds)}{rate}"
        if self.terminal.cell is None:
            self.terminal._line(said)
        else:
            self.terminal.cell.show("  ".join([said, *(word for _, word in self.earned())]))

    @contextmanager
    def busy(self, phase: str) -> Iterator[None]:
        """Show this word at the end of the line meanwhile."""
        before, self.phase = self.phase, phase
        if self.terminal.cell is not None:
            self._show()
        elif self.moving is None:
            self.terminal._line(f"{phase} ...")
        try:
            yield
        finally:
            self.phase = before

    @property
    def rate(self) -> float | None:
        """Steps per second, lately; None before anything can be said."""
        if self.given_rate is not None:
            return self.given_rate
        if len(self.readings) < 2:
            return None
        (then, before), (now, after) = self.readings[0], self.readings[-1]
        return (after - before) / (now - then)

    @property
    def seconds_left(self) -> float | None:
        """By the present rate; None where nothing moves, and in the warm-up, which tells nothing of what follows."""
        rate = self.rate
        if not rate or self.phase == WARM_UP:
            return None
        return max(self.total - self.env_steps, 0) / rate + self.more * self.paused / max(self.pauses, 1)

    def words(self) -> list[str]:
        """The plain line, part by part."""
        share = self.env_steps / max(self.total, 1)
        parts = [f"{self.env_steps:,}/{self.total:,} {self.unit}", f"{share:.0%}"]
        return parts + [word for _, word in self.details()]

    def details(self) -> list[tuple[int, str]]:
        """Facts that follow the steps, in order, each with its rank: the largest goes first where room lacks."""
        rate, left = self.rate, self.seconds_left
        return [
            (rank, word)
            for rank, word in (
                (3, f"{count(rate)}/s" if rate else ""),
                (1, f"{clock(left)} left" if left is not None and self.env_steps < self.total else ""),
                (2, f"return {number(self.last_return)}" if self.last_return is not None else ""),
                *self.earned(),
                (4, self.phase),
            )
            if word
        ]

    def earned(self) -> list[tuple[int, str]]:
        """The last evaluation with its interval, and the best so far, ranked as in `details`."""
        if self.eval_return is None:
            return []
        better = self.best is not None and self.best > self.eval_return
        return [
            (0, f"eval {number(self.eval_return)}"),
            (5, interval(self.eval_return, self.reach).strip()),
            (6, f"best {number(self.best)}" if better and self.best is not None else ""),
        ]

    def _show(self, now: float | None = None) -> None:
        """Draw the line in a notebook; unless `now` is soon after the last time."""
        if self.terminal.cell is None or (now is not None and now - self.shown < CELL_SECONDS):
            return
        self.shown = time.monotonic()
        self.terminal.cell.show("  ".join(self.words()))

    def _read(self, now: float) -> None:
        """Note where the run is; forget what lies further back than the window."""
        if self.first_steps is None:
            self.first_steps = self.env_steps
        self.readings.append((now, self.env_steps))
        while len(self.readings) > 2 and now - self.readings[1][0] >= WINDOW_SECONDS:
            self.readings.popleft()


class Cell:
    """One line of a notebook cell's output, which changes."""

    def __init__(self) -> None:
        self.name: str | None = None

    def show(self, text: str) -> None:
        """Put this text in place of the last."""
        from IPython.display import display, update_display  # pyright: ignore[reportMissingImports]

        data = {"text/plain": visible(text)}
        if self.name is None:
            self.name = secrets.token_hex(8)
            display(data, raw=True, display_id=self.name)
        else:
            update_display(data, raw=True, display_id=self.name)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; imports nothing."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return getattr(ask(), "kernel", None) is not None


class _Line:
    """The live line of a progress: a bar that takes the room that the words leave."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress = self.progress
        room = console.width - 1
        steps = f"{count(progress.env_steps)}/{count(progress.total)}"
        details = progress.details()
        while details and len("  ".join([steps, *(word for _, word in details)])) + 6 > room:
            details.remove(max(details))
        words = "  ".join([steps, *(word for _, word in details)])
        width = max(4, min(40, room - len(words) - 2))
        full = round(width * min(progress.env_steps / max(progress.total, 1), 1))
        mark, rest = ("#", "-") if console.options.ascii_only else ("\u2501", "\u2500")
        yield Text.assemble(
            (mark * full, "cyan"), (rest * (width - full), "dim"), "  ", words, no_wrap=True, overflow="crop"
        )


class _Waiting:
    """A spinner, what is waited for, and since when."""

    def __init__(self, text: str, began: float, ascii_only: bool):
        self.text, self.began = text, began
        self.spinner = Spinner("line" if ascii_only else "dots", style="cyan")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Table.grid(padding=(0, 1))
        seconds = time.monotonic() - self.began
        line.add_row(self.spinner, Text(f"{self.text}  {seconds:.0f} s", no_wrap=True, overflow="crop"))
        yield line


def count(x: float) -> str:
    """A count in few characters: 950, 12.5k, 1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size * 0.9995:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


def number(x: float) -> str:
    """A return: one decimal where it is large, else three significant digits."""
    return f"{x:,.1f}" if abs(x) >= 100 else f"{x:.3g}"


def mean_and_reach(samples: Sequence[float]) -> tuple[float, float]:
    """The mean of samples, and half the width of Student's 95 % interval for it; 0 where there is one sample."""
    size, mean = len(samples), float(sum(samples)) / len(samples)
    if size < 2:
        return mean, 0.0
    variance = sum((float(x) - mean) ** 2 for x in samples) / (size - 1)
    return mean, student(size - 1) * (variance / size) ** 0.5


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; Abramowitz and Stegun 26.7.5, and a table where that is too rough."""
    if freedom < 5:
        return (12.7062, 4.3027, 3.1824, 2.7764)[freedom - 1]
    z, terms = 1.959964, (2.372271, 2.822496, 2.555857)
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def interval(mean: float, reach: float, width: int = 0) -> str:
    """Both ends of an interval in brackets; "" where there is none."""
    if not reach > 0:
        return ""
    return f"  [{number(mean - reach):>{width}}, {number(mean + reach):>{width}}]"


def clock(seconds: float) -> str:
    """A duration: 0:07, 12:30, 3:05:00, 2 d 4 h."""
    whole = round(seconds)
    if whole >= 2 * 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _writable(text: str, stream: TextIO) -> str:
    """The text with what the stream's encoding cannot say replaced."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    return text


def silent() -> Terminal:
    """A terminal that nobody reads."""
    return Terminal(io.StringIO(), live=False)

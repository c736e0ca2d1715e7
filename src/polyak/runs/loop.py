"""The one training loop: advance the driver, log, evaluate, checkpoint; for every driver and every command."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyak import files
from polyak.drivers.driver import Left
from polyak.drivers.episodes_host import KEPT
from polyak.envs.environment import unscaled
from polyak.errors import EnvironmentFault, UserError, place_of, said_by
from polyak.parts.replay import Ring, clock_at
from polyak.pytree import Counter
from polyak.runs import inputs
from polyak.runs.events import Callbacks, Event, ends
from polyak.runs.packing import beside_rows, declared_frames, unpacked_frames
from polyak.runs.periodic_evaluation import Due, PeriodicEvaluation
from polyak.runs.plan import Plan
from polyak.runs.reading import check_world, read_counts
from polyak.runs.schedule import Schedule
from polyak.runs.session import Session
from polyak.runs.sink import InOrder, Sink
from polyak.show.terminal import WARM_UP, Progress, Terminal
from polyak.store import checkpoint, storage

SLICE_SECONDS = 0.5  # between two looks at the clock and at Ctrl-C


class Interrupted(Exception):
    """Ctrl-C: everything is saved, and `resume` goes on from here."""


class Told(Exception):
    """A callback raised `error`."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error = error


class Training:
    """A run in progress: its carry, and how far it is. It needs no folder; `save` is called where there is one."""

    def __init__(self, session: Session, terminal: Terminal):
        self.session, self.terminal = session, terminal
        self.schedule = Schedule(session)
        self.carry: Any = None
        self.iteration = 0
        self.slice = 1
        self.stop = threading.Event()
        self.said: set[str] = set()  # the notes that were said since the run began
        self.exact = True  # whether all that was resumed came back bit for bit
        self.last_return: float | None = None
        self.evaluation = PeriodicEvaluation(session, self.stop.is_set)
        self.saved: int | None = None  # the iteration of the newest checkpoint
        self.ended = ""  # why the run ends before its budget is spent
        self.callbacks, self.path = Callbacks(), None
        self.progress: Progress | None = None
        self.session.driver.watch = self._watch

    @property
    def env_steps(self) -> int:
        """Environment steps of each seed so far."""
        return (self.iteration - self.schedule.base) * self.session.driver.env_steps

    @property
    def position(self) -> int:
        """How much of the budget is spent, in its unit."""
        return (self.iteration - self.schedule.base) * self.schedule.per

    @property
    def place(self) -> str:
        """The same in words: "step 2,000"."""
        return f"{self.session.plan.unit[:-1]} {self.position:,}"

    @property
    def updates(self) -> int:
        """Updates of each seed so far."""
        first = max(self.session.driver.warmup, self.recorded)
        return max(0, self.iteration - first) * self.session.cfg.data.updates

    @property
    def recorded(self) -> int:
        """Iterations that another run's rows stand for, with which this one began."""
        return inputs.rollouts_given(self.session) if self.session.driver.rows else 0

    def clock_after(self, iteration: int) -> int:
        """Rows of time that the ring has been given by then."""
        rows = inputs.rollouts_given(self.session) * inputs.rows_in_rollout(self.session)
        return rows + (iteration - self.recorded) * self.session.driver.rows

    def start(self) -> None:
        """A run at step 0. UserError where its checkpoints could not be written."""
        begun = inputs.states(self.session)
        self.carry = self.session.driver.start() if begun is None else self.session.driver.start(begun)
        self.carry = inputs.filled(self.session, self.carry)
        self.iteration = self.recorded
        self.schedule = Schedule(self.session, self.iteration)
        try:
            storage.fields(self.session.driver.pack(self.carry)[0])
        except (TypeError, ValueError) as error:
            raise UserError(f"this run could not be saved: {error}") from error
        space = self.session.env_spec.action
        if entries := unscaled(space):
            which = "all" if len(entries) == space.size else ", ".join(map(str, entries))
            self.terminal.warn(
                f"actions without two bounds are not scaled (entries of {space.size}: {which}); "
                "a policy that squashes reaches only [-1, 1] of them"
            )

    def resume(self, checkpoints: Path) -> None:
        """The run of the newest checkpoint that is whole; later ones are forgotten."""
        self.unpack(self.load(checkpoints))

    def load(self, checkpoints: Path) -> checkpoint.Loaded:
        """The newest checkpoint that is whole. CheckpointError, before anything large is made, if it does not fit."""
        driver = self.session.driver
        path, manifest = checkpoint.describe(checkpoints, self.terminal.warn)
        check_world(self.session.env_spec, manifest.extra, path)

        def template(extra: dict[str, Any]) -> dict[str, Any]:
            shapes = dict(driver.template(extra["driver"]))
            ring = shapes.pop("buffer")
            return shapes | beside_rows(ring) | declared_frames(ring, extra, path)

        read_counts(manifest.extra, manifest.env_steps, manifest.arrays, self.schedule.per, path)
        ring = driver.buffer_shape()
        return checkpoint.load(
            checkpoints, template, ring.rows if isinstance(ring, Ring) else None, self.terminal.warn
        )

    def unpack(self, loaded: checkpoint.Loaded) -> None:
        """Go on from a checkpoint; those of more steps are forgotten once that is so."""
        driver, extra = self.session.driver, loaded.extra
        fields = storage.fields(loaded.tree)
        counts = read_counts(extra, loaded.env_steps, fields, self.schedule.per, loaded.path)
        buffer, ring = (), driver.buffer_shape()
        if isinstance(ring, Ring):
            if loaded.clock != self.clock_after(counts.iteration):
                raise files.damaged(loaded.path, "field 'clock' is not that of its iteration")
            clock = np.asarray(clock_at(loaded.clock, ring.slots), np.int32)
            index, packed = loaded.tree.pop("index", ()), loaded.tree.pop("frames", ())
            frames = unpacked_frames(ring, packed, loaded.path)
            buffer = Ring(loaded.rows, Counter(clock), index, frames)
        with files.guarded(loaded.path):
            self.carry = driver.unpack({**loaded.tree, "buffer": buffer}, dict(counts.driver))
        checkpoint.rewind(loaded.path.parent, loaded.env_steps)
        self.iteration = self.saved = counts.iteration
        self.schedule = Schedule(self.session, counts.base)
        self.said = counts.said
        self.exact = not counts.inexact
        self._say_inexact()

    def take_back(self) -> None:
        """Bring the environments back to their running episodes, after something else was played in them."""
        driver = self.session.driver
        self.carry = driver.unpack(*driver.pack(self.carry))
        self._say_inexact()

    def _say_inexact(self) -> None:
        """Say which environments the driver could not bring back."""
        driver = self.session.driver
        self.exact = self.exact and not driver.inexact
        if driver.inexact:
            self.terminal.warn(
                f"consistent, not exact: environments {driver.inexact} did not give the same again for the same "
                f"seed and actions, or their episode was longer than {KEPT:,} steps; their running episodes were "
                "cut and begun anew"
            )

    def replan(self, plan: Plan, anew: bool = False) -> None:
        """Go on under another plan; `anew`: count environment steps, and run schedules, from 0 again."""
        self.session.replan(plan)
        if anew:
            self.carry = self.session.driver.restart(self.carry)
            self.evaluation.returns.clear()
        self.schedule = Schedule(self.session, self.iteration if anew else self.schedule.base)

    def compile(self) -> None:
        """Compile all that is run from here on, what is needed first before the rest."""
        driver = self.session.driver
        for warm in (True, False) if self.iteration < driver.warmup else (False,):
            driver.compile(warm)

    def compile_next(self) -> None:
        """Compile what the next iteration runs."""
        self.session.driver.compile(self.iteration < self.session.driver.warmup)

    def run(
        self,
        sink: Sink,
        save: Any = None,
        until: int | None = None,
        owed: bool = False,
        callbacks: Callbacks | None = None,
        path: Path | None = None,
    ) -> None:
        """Go on to the end, to iteration `until`, or until `ended` says why not. Raises Interrupted.

        save       called with this to write a checkpoint, before the evaluation of the same iteration
        owed       the evaluation that is due at this iteration was not made
        callbacks  told of what happens; one that raises ends the run as it is, saved
        path       of the run's folder, which they are told
        """
        schedule = self.schedule
        end = schedule.total if until is None else until
        self.callbacks, self.path, self.ended = callbacks or Callbacks(), path, ""
        self.say_notes(self.session.notes)
        total = (schedule.total - schedule.base) * schedule.per
        lines = InOrder(sink)
        with self.terminal.progress(total, self.session.plan.unit) as progress:
            self.progress, progress.best = progress, self.evaluation.best
            progress.update(self.position, phase=self._phase())
            try:
                if owed:
                    self._evaluate(lines, progress)
                while self.iteration < end and not self.stop.is_set() and not self.ended:
                    self._iterate(lines, save, end, progress)
                self.evaluation.finish(self.iteration, lines, progress)
            except Told as told:
                self._keep_after(told.error, lines, save, progress)
                raise told.error from None
            finally:
                self.evaluation.let_go(lines)
            if self.ended:
                self._save(lines, save, progress)
            elif self.stop.is_set() and (self.iteration < end or self.evaluation.owed):
                self._save(lines, save, progress)
                raise Interrupted
        if self.ended:
            self.terminal.say(f"stopped at {self.place}: {self.ended}")

    def _iterate(self, sink: InOrder, save: Any, end: int, progress: Progress) -> None:
        """A slice of the run, and what is due after it."""
        schedule, before = self.schedule, self.iteration
        if self.evaluation.ready:
            self.evaluation.finish(self.iteration, sink, progress)
        self._advance(min(schedule.next(self.iteration), end) - self.iteration)
        self.say_notes(self.session.driver.notes)
        if self.iteration == before:
            return
        progress.update(self.position, last_return=self.last_return, phase=self._phase())
        if schedule.due(schedule.log, self.iteration):
            self._log(sink)
        if schedule.due(schedule.checkpoint, self.iteration):
            self._save(sink, save, progress)
            self._tell("on_checkpoint")
        if schedule.due(schedule.evaluation, self.iteration):
            self._evaluate(sink, progress)

    def _save(self, sink: InOrder, save: Any, progress: Progress) -> None:
        """Write a checkpoint, where there is a folder for it and none of this iteration."""
        if save and self.saved != self.iteration:
            self.evaluation.finish(self.iteration, sink, progress)
            sink.flush()
            save(self)
            self.saved = self.iteration

    def _tell(self, name: str, lines: list[dict[str, Any]] | None = None) -> None:
        """Call a callback, where there is one. Raises Told with what it raised."""
        call = getattr(self.callbacks, name)
        if call is None:
            return
        try:
            answer = call(Event(self.env_steps, self.updates, tuple(lines or ()), self.path))
        except (Exception, SystemExit) as error:
            error.add_note(f"polyak: {name} raised this at {self.place}{place_of(error)}")
            raise Told(error) from error
        if ends(answer):
            self.ended = self.ended or f"{name} returned False"

    def _keep_after(self, error: BaseException, sink: InOrder, save: Any, progress: Progress) -> None:
        """Save what there is before the error of a callback goes on its way."""
        if not save:
            return
        try:
            self._save(sink, save, progress)
        except Exception as other:
            error.add_note(f"polyak: the run could not be saved: {said_by(other)}")
            return
        error.add_note(f"polyak: the run is saved; go on with: polyak resume {self.path}")

    def _watch(self, rows: int) -> bool:
        """Show how far a rollout is; whether to leave it."""
        if self.progress is not None:
            per_row = self.schedule.per // self.session.driver.rows
            self.progress.update(self.position + rows * per_row, phase=self._phase())
        return self.stop.is_set()

    def say_notes(self, notes: Mapping[str, str]) -> None:
        """Say what was not said before; a resume knows what was."""
        for name in notes.keys() - self.said:
            self.said.add(name)
            self.terminal.warn(f"warning: {notes[name]}")

    def _phase(self) -> str:
        return WARM_UP if self.iteration < self.session.driver.warmup else ""

    def _advance(self, iterations: int) -> None:
        """At most `iterations`, and about SLICE_SECONDS: how a run is cut does not change its bits."""
        count = min(iterations, self.slice)
        began = time.monotonic()
        try:
            self.carry = self.session.driver.advance(self.carry, count)
        except Left as left:
            self.carry, self.iteration = left.run, self.iteration + left.iterations
            return
        except EnvironmentFault as fault:
            self.carry = self.carry if fault.run is None else fault.run
            raise
        self.iteration += count
        seconds = time.monotonic() - began
        fitting = count * SLICE_SECONDS / max(seconds, 1e-9)
        self.slice = max(1, min(int(fitting), 2 * count if count == self.slice else self.slice))

    def _log(self, sink: InOrder) -> None:
        """A line for each seed: means since the last one."""
        self.carry, sums = self.session.driver.report(self.carry)
        now = time.time()
        totals, lines = [], []
        for index, seed in enumerate(self.session.plan.all_seeds):
            line: dict[str, Any] = {"env_steps": self.env_steps, "updates": self.updates, "seed": seed}
            episodes, updates = int(sums["episodes"][index]), int(sums["updates"][index])
            line["episode/count"] = episodes
            for name, value in sums.items():
                count = episodes if name.startswith("episode/") else updates
                if "/" in name and count:
                    line[name] = float(value[index]) / count
            line["time/unix_s"] = now
            sink.write(line)
            lines.append(line)
            if "episode/return" in line:
                totals.append(line["episode/return"])
        if totals:
            self.last_return = float(np.mean(totals))
        self._tell("on_log", lines)

    def _evaluate(self, sink: InOrder, progress: Progress) -> None:
        """Evaluate the run. With a worker that plays training goes on meanwhile, unless this may end the run."""
        to_come = self.schedule.to_come(self.schedule.evaluation, self.iteration)
        due = Due(self.iteration, self.position, self.env_steps, self.updates, to_come)
        wanted = self.session.plan.stop_at
        may_end = wanted is not None or self.callbacks.on_evaluation is not None
        result = self.evaluation.begin(due, self.carry, may_end, sink, progress)
        if result is None:
            return
        if wanted is not None and result.mean >= wanted:
            self.ended = f"the evaluation reached {wanted:g} (--stop-at)"
        self._tell("on_evaluation", result.lines)

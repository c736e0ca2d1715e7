"""A plan executed in its folder, from the beginning or its newest checkpoint: saved, recorded and drawn."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from polyak import files
from polyak.errors import EnvironmentFault, UserError, printable, said_by
from polyak.parts.replay import Ring
from polyak.runs import sources
from polyak.runs.events import Callbacks
from polyak.runs.folder import STOPPED, Metrics, RunFolder
from polyak.runs.guards import interruptible, meanwhile, watched
from polyak.runs.loop import Training
from polyak.runs.packing import beside_rows, packed_frames
from polyak.runs.plan import Plan
from polyak.runs.reading import state_shapes
from polyak.runs.session import Session
from polyak.runs.spec import describe_border, describe_spec, read_spec
from polyak.runs.tracking import tracking
from polyak.show.terminal import Terminal
from polyak.store import checkpoint


def train(
    session: Session,
    folder: RunFolder,
    terminal: Terminal,
    resume: bool,
    facts: dict[str, str] | None = None,
    callbacks: Callbacks | None = None,
) -> Training:
    """Run a plan in its folder to the end, from the newest checkpoint if `resume`. Raises Interrupted."""
    with folder.held():
        return _train(session, folder, terminal, resume, facts, callbacks)


def _train(
    session: Session,
    folder: RunFolder,
    terminal: Terminal,
    resume: bool,
    facts: dict[str, str] | None,
    callbacks: Callbacks | None,
) -> Training:
    begun = resume  # a folder that was there stays there
    resume = resume and checkpoint.latest(folder.checkpoints) is not None
    doing = "loading the checkpoint, compiling" if resume else "compiling"
    try:
        if resume:
            check_folder(session.plan, folder, terminal)
        session.check()
        if facts:
            terminal.facts(facts)
        if begun:
            for name in sources.changed(folder.config().get("sources"), session.plan):
                terminal.warn(
                    f"note: {name} changed since this run was begun, which goes on with what it is now"
                )
        if not begun:
            for line in session.cautions():
                terminal.warn(f"note: {line}")
        training = Training(session, terminal)
        loaded = training.load(folder.checkpoints) if resume else None  # nothing is compiled before
        with interruptible(training.stop, terminal), watched(session, terminal), meanwhile(training.compile):
            with terminal.status(doing):
                training.start() if loaded is None else training.unpack(loaded)
                training.compile_next()
            begun = True
            if resume:
                terminal.say(f"resumed at {training.place}")
            folder.rewind(training.position, session.plan.seeds)
            training.evaluation.returns = folder.evaluations(session.plan.seeds)
            schedule, at = training.schedule, training.iteration
            owed = at > 0 and schedule.due(schedule.evaluation, at)
            owed = owed and not folder.evaluated(training.position, session.plan.seeds)
            sink = Metrics(folder, training.position)
            save = lambda training: save_checkpoint(folder, training)  # noqa: E731
            try:
                recorder = Recorder(sink, folder, terminal)
                with tracking(session.track, recorder, session.plan, folder.path, terminal.warn) as told:
                    training.run(told, save, owed=owed, callbacks=callbacks, path=folder.path)
            except EnvironmentFault as fault:
                with contextlib.suppress(OSError):  # for `polyak doctor`
                    files.write_bytes(folder.path / STOPPED, printable(fault).encode())
                raise
            finally:
                sink.close()
                draw(folder, terminal)
    finally:
        session.close(terminal.warn)
        if not begun:
            folder.give_up()
    return training


def check_folder(plan: Plan, folder: RunFolder, terminal: Terminal) -> None:
    """CheckpointError where the plan does not fit the arrays of the newest checkpoint; makes no environment."""
    path, manifest = checkpoint.describe(folder.checkpoints, terminal.warn)
    state_shapes(plan, read_spec(manifest.extra, path), manifest.arrays, folder.path)


def save_checkpoint(folder: RunFolder, training: Training) -> None:
    """The whole run as it is."""
    driver = training.session.driver
    tree, extra = driver.pack(training.carry)
    tree = dict(tree)
    ring = tree.pop("buffer")
    frames = packed_frames(ring)
    lengths = {"frames": [stream.size for stream in frames["frames"]["store"]]} if frames else {}
    checkpoint.save(
        folder.checkpoints,
        training.position,
        tree | beside_rows(ring) | frames,
        lengths
        | {
            "iteration": training.iteration,
            "base": training.schedule.base,
            "driver": extra,
            "inexact": not training.exact or bool(driver.inexact),
            "said": sorted(training.said),
            "spec": describe_spec(training.session.env_spec),
            "border": describe_border(training.session.border),
        },
        rows=ring.rows if isinstance(ring, Ring) else None,
        clock=training.clock_after(training.iteration) if isinstance(ring, Ring) else 0,
        also=best_kept(folder, training.evaluation.returns),
    )


def best_kept(folder: RunFolder, evaluations: Mapping[int, list[float]]) -> list[int]:
    """Steps of the checkpoint that evaluated best, mean over seeds, of those that there are; the later of equals."""
    there = {int(path.name) for path in checkpoint.complete(folder.checkpoints)} & evaluations.keys()
    return [max(there, key=lambda step: (float(np.mean(evaluations[step])), step))] if there else []


class Recorder:
    """A sink that also redraws the learning curve at each evaluation."""

    def __init__(self, metrics: Metrics, folder: RunFolder, terminal: Terminal):
        self.metrics, self.folder, self.terminal = metrics, folder, terminal
        self.drawn = 0.0

    def write(self, line: dict[str, Any]) -> None:
        """One line."""
        self.metrics.write(line)
        if "eval/return" in line and time.monotonic() - self.drawn > 5:
            with files.guarded(self.metrics.path):
                self.metrics.file.flush()
            draw(self.folder, self.terminal)
            self.drawn = time.monotonic()

    def flush(self) -> None:
        """Before a checkpoint."""
        self.metrics.flush()

    def close(self) -> None:
        """No more lines."""
        self.metrics.close()


def title(folder: RunFolder) -> str:
    """Title of this run's pictures."""
    plan = folder.plan()
    return f"{plan.algorithm} on {plan.env}"


def draw(folder: RunFolder, terminal: Terminal) -> None:
    """The learning curve; a picture that cannot be drawn never stops a run."""
    from polyak.show.curve import draw_curve

    try:
        lines = folder.metrics()
        if any("eval/return" in line or "episode/return" in line for line in lines):
            draw_curve(folder.path / "curve.png", lines, title(folder))
    except (
        Exception
    ) as error:  # whatever a folder holds: damaged metrics, a full disk, a name that no font has
        terminal.warn(f"curve.png was not drawn: {error if isinstance(error, UserError) else said_by(error)}")

"""Evaluations while a run trains: who plays them, here or a worker meanwhile, and what they have earned so far."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from polyak.drivers.eval_worker import EvalWorker
from polyak.drivers.evaluate import Played
from polyak.errors import said_by
from polyak.runs.session import Session
from polyak.runs.sink import InOrder
from polyak.show.terminal import Progress, Terminal


class Due(NamedTuple):
    """Where a run is when an evaluation is due."""

    iteration: int
    position: int
    env_steps: int
    updates: int
    to_come: int  # evaluations after this one


class Result(NamedTuple):
    """What an evaluation earned."""

    lines: list[dict[str, Any]]  # metric lines, one of each seed
    mean: float  # return over all seeds


class PeriodicEvaluation:
    """Plays whole episodes without exploration whenever it is due, on environments of their own.

    stopped  whether the run is to stop
    """

    def __init__(self, session: Session, stopped: Callable[[], bool]):
        self.session, self.stopped = session, stopped
        self.returns: dict[int, list[float]] = {}  # position -> mean return of each seed
        self.due: Due | None = None  # the place of one that has not come to an end
        self.worker: EvalWorker | None = None  # that is playing it
        self.failed = False  # one did, and no more are played
        self.played = False  # whether this process evaluated
        self.said_cut = False

    @property
    def best(self) -> float | None:
        """The best evaluation so far, mean over seeds."""
        return max((float(np.mean(values)) for values in self.returns.values()), default=None)

    @property
    def owed(self) -> bool:
        """Whether an evaluation that was due has not come to an end."""
        return self.due is not None

    @property
    def ready(self) -> bool:
        """Whether a worker is playing one, and `finish` would not wait."""
        return self.worker is not None and self.worker.ready

    def begin(self, due: Due, run: Any, wait: bool, lines: InOrder, progress: Progress) -> Result | None:
        """Evaluate a run. None where the result is not known yet, or there will be none.

        wait  for the result, also where a worker could play while training goes on
        """
        self.finish(due.iteration, lines, progress)
        self.due = due
        if wait or self.failed or not self.session.plan.eval_worker:
            return self._end(due, lambda: self._play(run), lines, progress)
        assert isinstance(self.session.evaluator, EvalWorker)
        self.worker = self.session.evaluator
        self.worker.begin(self.session.driver.actor(run))
        lines.wait()
        return None

    def finish(self, iteration: int, lines: InOrder, progress: Progress) -> None:
        """Wait for the evaluation that a worker is playing, if there is one; the run is at this iteration by now."""
        worker, self.worker = self.worker, None
        if worker is None:
            return
        assert self.due is not None  # the worker is playing it
        here = self.due.iteration == iteration
        self._end(self.due, lambda: self._answer(worker, here, progress.terminal), lines, progress)
        lines.go_on()

    def let_go(self, lines: InOrder) -> None:
        """Write what waits for an evaluation that nobody waits for any more."""
        if self.worker is not None:
            self.worker.close()
        self.worker = None
        lines.go_on()

    def _play(self, run: Any) -> Played | None:
        """What is played while training waits; None where the run was stopped."""
        return self.session.evaluator(self.session.driver.actor(run), self.stopped)

    def _answer(self, worker: EvalWorker, here: bool, terminal: Terminal) -> Played | None:
        """What a worker played; None where the run was stopped at the evaluation's place."""
        if self.stopped() and not here:  # no checkpoint has its place, so that a resume would leave it out
            terminal.say("an evaluation is being played, and is waited for (again to stop at once)")
        return worker.answer(lambda: here and self.stopped())

    def _end(
        self, due: Due, play: Callable[[], Played | None], lines: InOrder, progress: Progress
    ) -> Result | None:
        """A line for each seed of what `play` returns; None where it was stopped or failed."""
        terminal, began, played = progress.terminal, time.monotonic(), None
        if not self.failed:
            try:
                with terminal.status("evaluating") if not self.played else contextlib.nullcontext():
                    played = play()
            except Exception as error:
                terminal.warn(f"evaluation failed, and training goes on without: {said_by(error, 300)}")
                self.failed = True
        if played is None and not self.failed:  # it was stopped
            return None
        self.due, self.played = None, True
        seeds = self.session.plan.all_seeds
        places = [{"env_steps": due.env_steps, "updates": due.updates, "seed": seed} for seed in seeds]
        if played is None:
            for place in places:
                lines.write_first({**place, "eval/episodes": 0})
            return None
        progress.log_pause(time.monotonic() - began, due.to_come)
        if played.cut and not self.said_cut:
            self.said_cut = True
            limit = f"{self.session.evaluator.limit:,}"
            terminal.say(f"evaluation: {played.cut} episodes were cut at {limit} steps (--eval-limit)")
        found = [place | metrics_of(played, index) for index, place in enumerate(places)]
        for line in found:
            lines.write_first(line)
        means = played.total.mean(axis=1)
        self.returns[due.position] = means.tolist()
        # over seeds, or over the episodes of the only one
        samples = means if len(means) > 1 else played.total[0]
        progress.log_evaluation(due.position, samples.tolist(), len(means))
        return Result(found, float(means.mean()))


def metrics_of(played: Played, index: int) -> dict[str, Any]:
    """The metrics of the evaluation of one seed."""
    return {
        "eval/return": float(played.total[index].mean()),
        "eval/return_std": float(played.total[index].std()),
        "eval/length": float(played.length[index].mean()),
        "eval/episodes": int(played.total.shape[1]),
        **{f"eval/{name}": float(value[index].mean()) for name, value in played.measures.items()},
    }

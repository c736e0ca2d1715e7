"""Workers that are processes, and add to parameters in shared memory without a lock (Hogwild).

Recht, Re, Wright & Niu 2011, "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent"
(arXiv:1106.5730), as Mnih et al. 2016 (arXiv:1602.01783) use it. Each worker repeats: copy the parameters, collect a
rollout and find its gradient in that copy, copy the parameters again, apply the gradient to the second copy, and add
what that changed to whatever the parameters are by now. Optimiser statistics are shared in the same way. Only the
counter of updates is raised under a lock, so that every update has a number of its own, as the paper's T.

A worker's rollouts come from a driver of its own, in graph or on the host, with its share of the environments.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.hogwild_worker import Make, work
from polyak.drivers.learn import initial_states
from polyak.drivers.program import Program, over_seeds
from polyak.drivers.shared import Shared
from polyak.errors import CheckpointError, EnvironmentFault
from polyak.interface import Algorithm, Spec, Tree, rows_of

LOOK_SECONDS = 0.25  # between two looks at workers that are silent
STARTING = 120.0  # seconds until every worker has compiled what it runs


@dataclass
class HogwildRun:
    """The run is in shared memory and in the workers; this is how far each of them is."""

    iteration: int


class Hogwild:
    """Advances S runs together by K processes. See `Driver` for its promises, most of which are kept.

    With more than one worker the bits depend on who comes when, and a resume is consistent and not exact. A checkpoint
    is written while all of them rest.

    spec      of all workers together
    make      from a Config and a worker's number to the algorithm and its driver, called in the worker's process
    deadline  seconds that a row of a rollout may take
    """

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        spec: Spec,
        seeds: Sequence[int],
        workers: int,
        make: Make,
        deadline: float,
    ):
        self.algorithm, self.cfg, self.spec, self.seeds = algorithm, cfg, spec, tuple(seeds)
        self.workers, self.make, self.deadline = workers, make, deadline
        self.rows = rows_of(cfg.data, spec.time_limit)
        self.env_steps, self.warmup = self.rows * spec.num_envs, 0
        self.inexact: list[int] = []
        self.watch: Callable[[int], bool] | None = None
        self.notes: dict[str, str] = {}
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []
        self.number: Any = None  # the lock of the counter of updates

    # ---- what the loop calls

    def start(self, states: Tree | None = None) -> HogwildRun:
        """A run that has not stepped."""
        self._begin()
        if states is None:
            seeds = np.asarray(self.seeds, np.uint32)
            states = initial_states(self.algorithm, self.cfg, self.spec, seeds)
        self.shared.write(states)
        self._ask("start", seconds=STARTING)
        return HogwildRun(0)

    def compile(self, warm: bool) -> None:
        """Nothing: each worker compiles what it runs when it starts."""

    def advance(self, run: HogwildRun, iterations: int) -> HogwildRun:
        """The run, `iterations` rollouts of each worker on."""
        try:
            self._ask("advance", iterations, seconds=self.deadline * self.rows)
        except EnvironmentFault as fault:
            fault.run = run
            raise
        run.iteration += iterations
        for part, value in zip(self.shared.parts, self.shared.views, strict=True):
            if np.issubdtype(part.dtype, np.floating) and not np.isfinite(value).all():
                raise EnvironmentFault(
                    f"iteration {run.iteration}: a parameter is not finite: the update diverged; try a lower "
                    "learning rate; what was saved stays",
                    run,
                )
        return run

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape."""
        self.cfg = cfg
        if self.processes:
            self._ask("refit", cfg)

    def restart(self, run: HogwildRun) -> HogwildRun:
        """The run with every clock at environment step 0."""
        self.shared.count[1] = self.shared.count[0]
        return run

    def pack(self, run: HogwildRun) -> tuple[Tree, dict]:
        """Everything that a checkpoint holds: the parameters, and each worker's own."""
        trees, extras = zip(*self._ask("pack"), strict=True)
        length = [np.asarray(tree["episodes"]["length"]).reshape(len(self.seeds), -1) for tree in trees]
        tree = {
            "state": self._states(),
            "buffer": (),
            "episodes": {"length": np.concatenate(length, axis=1)},  # of all, as every driver has it
            "counts": {"updates": self.shared.count.copy(), "rollouts": self.shared.played.copy()},
            "workers": {str(worker): tree for worker, tree in enumerate(trees)},
        }
        return tree, {"workers": list(extras)}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        self._begin()
        extras = [dict(each) for each in extra["workers"]]
        if len(extras) != self.workers:
            raise CheckpointError(
                f"the checkpoint is of {len(extras)} workers, but the run has {self.workers}"
            )
        trees = self._ask("template", each=[(one,) for one in extras], seconds=STARTING)
        lanes, length = (len(self.seeds), self.spec.num_envs), trees[0]["episodes"]["length"]
        return {
            "state": self._shapes,
            "buffer": (),
            "episodes": {"length": jax.ShapeDtypeStruct(lanes, length.dtype)},
            "counts": {"updates": np.zeros(3, np.int64), "rollouts": np.zeros(self.workers, np.int64)},
            "workers": {str(worker): tree for worker, tree in enumerate(trees)},
        }

    def buffer_shape(self) -> Any:
        """Nothing is kept from rollout to rollout."""
        return ()

    def unpack(self, tree: Tree, extra: dict) -> HogwildRun:
        """The run that was packed: exact where there is one worker, else consistent."""
        self._begin()
        self.shared.write(tree["state"])
        self.shared.count[:], self.shared.played[:] = tree["counts"]["updates"], tree["counts"]["rollouts"]
        each = [(tree["workers"][str(w)], dict(one)) for w, one in enumerate(extra["workers"])]
        own, self.inexact = self.spec.num_envs // self.workers, []
        for worker, slots in enumerate(self._ask("unpack", each=each, seconds=STARTING)):
            self.inexact += [slot // own * self.spec.num_envs + worker * own + slot % own for slot in slots]
        if self.workers > 1:
            self.notes["hogwild"] = (
                "resumed: consistent, not exact, since with --sync hogwild the bits depend on which worker comes when"
            )
        return HogwildRun(int(self.shared.played[0]))

    def report(self, run: HogwildRun) -> tuple[HogwildRun, dict[str, np.ndarray]]:
        """The run with empty sums, and the sums [S] of all workers since the last report."""
        reports = self._ask("report")
        sums = {name: np.sum([each[name] for each in reports], axis=0) for name in reports[0]}
        seen = [
            name for name, value in sums.items() if not name.startswith("actor/staleness_") or value.any()
        ]
        return run, {name: sums[name] for name in seen}  # ages that no gradient had are left out

    def actor(self, run: HogwildRun) -> Tree:
        """The newest actor, [S, ...]."""
        return self._read(self._states())

    def close(self) -> None:
        """End every process: asked, then killed; then give the memory back."""
        for pipe in self.pipes:
            with contextlib.suppress(OSError, ValueError):
                pipe.send(("close", ()))
        until = time.monotonic() + 5.0
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(1.0)
        for pipe in self.pipes:
            pipe.close()
        self.pipes, self.processes = [], []
        if "shared" in self.__dict__:
            self.shared.close(forget=True)
            del self.__dict__["shared"]

    # ---- workers

    @cached_property
    def _shapes(self) -> Tree:
        seeds = list(self.seeds)
        return jax.eval_shape(lambda: initial_states(self.algorithm, self.cfg, self.spec, seeds))

    @cached_property
    def _read(self) -> Program:
        return Program(lambda states: over_seeds(self.algorithm.actor, states))

    @cached_property
    def shared(self) -> Shared:
        """The parameters."""
        return Shared(self._shapes, self.workers, self.env_steps // self.workers)

    def _states(self) -> Tree:
        """The states as they are."""
        states = self.shared.tree(self.shared.read(), int(self.shared.count[0]))
        return jax.tree.map(jnp.asarray, states)

    def _begin(self) -> None:
        """Start the processes, unless they run."""
        if self.processes:
            return
        context = multiprocessing.get_context("spawn")
        self.number = context.Lock()  # kept here until every process has it
        for worker in range(self.workers):
            mine, theirs = context.Pipe()
            given = self.make, self.cfg, worker, self.workers, self.shared.block.name, self.number, theirs
            process = context.Process(target=work, args=given, name=f"polyak-worker-{worker}", daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(mine)

    def _ask(
        self, what: str, *args: Any, each: Sequence[tuple] | None = None, seconds: float = 60.0
    ) -> list[Any]:
        """Ask every worker for the same, and wait for all answers. EnvironmentFault of the first that fails.

        seconds  in which something must have been heard of a worker: an answer, or a rollout
        """
        for worker, pipe in enumerate(self.pipes):
            try:
                pipe.send((what, each[worker] if each else args))
            except OSError:
                raise self._gone(worker) from None
        answers: list[Any] = [None] * self.workers
        waiting = dict(enumerate(self.pipes))
        heard, before = time.monotonic(), self.shared.played.copy()
        fault: EnvironmentFault | None = None
        while waiting:
            ready = wait(list(waiting.values()), LOOK_SECONDS)
            for worker in [worker for worker, pipe in waiting.items() if pipe in ready]:
                try:
                    kind, answer = waiting.pop(worker).recv()
                except (EOFError, OSError):
                    raise self._gone(worker) from None
                if kind == "fault":
                    fault = fault or EnvironmentFault(f"worker {worker}: {answer}")
                answers[worker] = answer
            if ready or (self.shared.played != before).any():
                heard, before = time.monotonic(), self.shared.played.copy()
            elif time.monotonic() - heard > seconds:
                raise self._silent(min(waiting), seconds)
            if self.watch is not None and what == "advance":
                self.watch(0)
        if fault is not None:
            raise fault
        return answers

    def _gone(self, worker: int) -> EnvironmentFault:
        """A process that ended."""
        process = self.processes[worker]
        process.join(3.0)
        code = process.exitcode
        how = (
            f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"exited with code {code}"
        )
        return EnvironmentFault(f"worker {worker}: its process {how}; what was saved stays")

    def _silent(self, worker: int, seconds: float) -> EnvironmentFault:
        """A process that hangs; it is ended."""
        self.processes[worker].kill()
        return EnvironmentFault(
            f"worker {worker}: nothing was heard of its process for {seconds:g} s (--deadline times the rows of a "
            "rollout); what was saved stays"
        )

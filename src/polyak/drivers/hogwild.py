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
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.act import row_shape
from polyak.drivers.asynchronous import MOST_BINS, gradient_and_apply
from polyak.drivers.learn import initial_states, on_policy_batch, one_step
from polyak.drivers.program import Program, is_shared, over_seeds
from polyak.errors import CheckpointError, EnvironmentFault, UserError, said_by
from polyak.interface import WORD, Algorithm, Array, Batch, Clock, Spec, Transition, Tree, Update, rows_of
from polyak.pytree import Record, pytree

LOOK_SECONDS = 0.25  # between two looks at workers that are silent
STARTING = 120.0  # seconds until every worker has compiled what it runs
BINS = MOST_BINS
Make = Callable[[Any, int], tuple[Algorithm, Any]]


# ---- an algorithm as a worker's own driver runs it


@pytree
class Found(Record):
    """What a worker has read, and the gradient that it found there."""

    read: Tree  # the algorithm's state
    grads: Tree


def finder(algorithm: Algorithm, first: int) -> Algorithm:
    """The algorithm that finds a gradient where the other would update; its environments count from `first`."""
    gradient, _ = gradient_and_apply(algorithm)

    def init(cfg: Any, spec: Spec, key: Array) -> Found:
        state = algorithm.init(cfg, spec, key)
        row, rows = row_shape(algorithm, cfg, spec, state), rows_of(cfg.data, spec.time_limit)

        def found(rollout: Transition, key: Array) -> Tree:
            batch = on_policy_batch(rollout, one_step(cfg, spec), None)
            return gradient(cfg, spec, algorithm.actor(state), batch, key)[0]

        rollout = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), row)
        shapes = jax.eval_shape(found, rollout, jax.random.key(0))
        return Found(state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))

    def memory(cfg: Any, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
        return algorithm.memory(cfg, spec, first + env_ids, episode, key)

    def update(cfg: Any, spec: Spec, state: Found, batch: Batch, key: Array) -> Update:
        grads, metrics = gradient(cfg, spec, algorithm.actor(state.read), batch, key)
        return Update(state.replace(grads=grads), metrics)

    def observe(cfg: Any, spec: Spec, state: Found, rollout: Transition) -> Found:
        return state  # steps are counted by everybody together

    return algorithm._replace(
        init=init,
        actor=lambda state: algorithm.actor(state.read),
        memory=memory,
        update=update,
        observe=observe,
        gradient=None,
        apply=None,
        value=None,
    )


def plain(tree: dict[str, Any]) -> dict[str, Any]:
    """What a driver packs but for the state, which all workers share, with the episodes as a dict."""
    rest = {name: value for name, value in tree.items() if name not in ("state", "buffer")}
    return rest | {"episodes": dict(getattr(rest["episodes"], "__dict__", rest["episodes"]))}


def own_seed(seed: int, worker: int) -> int:
    """The seed of a worker's acting and environments; the first has the run's own."""
    return seed if worker == 0 else int(np.random.SeedSequence([seed, worker]).generate_state(1)[0] % 2**31)


# ---- parameters in shared memory


class Shared:
    """States [S, ...] in shared memory: all that is learned leaf by leaf, and counters.

    shapes   of the states
    workers  K
    rows     environment steps of one update
    name     of the memory, to attach to it; None makes it
    """

    def __init__(self, shapes: Tree, workers: int, rows: int, name: str | None = None):
        leaves, self.structure = jax.tree.flatten(shapes, is_leaf=is_shared)
        self.is_clock = [is_shared(x) for x in leaves]
        self.parts = [x for x in leaves if not is_shared(x)]
        sizes = [int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in self.parts]
        starts = np.cumsum([0, *(-(-size // 8) * 8 for size in sizes)]).tolist()
        self.rows, counters = rows, 8 * (3 + workers)
        total = starts[-1] + counters
        self.block = SharedMemory(name, create=name is None, size=total)
        self.views = [
            np.ndarray(x.shape, x.dtype, self.block.buf, start)
            for x, start in zip(self.parts, starts, strict=False)
        ]
        numbers = np.ndarray(3 + workers, np.int64, self.block.buf, starts[-1])
        self.count = numbers[
            :3
        ]  # updates that have a number; of these before the clock was set back; its updates
        self.played = numbers[3:]  # [K] rollouts of each worker

    def clock(self, number: int) -> Clock:
        """The clock before the update of this number."""
        updates = number + int(self.count[2])
        steps = (number - int(self.count[1])) * self.rows
        return Clock(np.uint32(updates % 2**32), np.int32(steps % WORD), np.int32(steps // WORD))

    def read(self) -> list[np.ndarray]:
        """A copy of all that is learned, which others may be writing to meanwhile."""
        return [view.copy() for view in self.views]

    def tree(self, values: Sequence[Any], number: int) -> Tree:
        """The states of these leaves before the update of this number."""
        rest, clock = iter(values), self.clock(number)
        return self.structure.unflatten([clock if each else next(rest) for each in self.is_clock])

    def own(self, states: Tree) -> list[Any]:
        """The leaves of states that are learned."""
        return [x for x in jax.tree.leaves(states, is_leaf=is_shared) if not is_shared(x)]

    def write(self, states: Tree) -> None:
        """Put states in, while nobody works."""
        for view, x in zip(self.views, self.own(states), strict=True):
            view[...] = np.asarray(x)

    def add(self, before: Sequence[np.ndarray], after: Sequence[Any]) -> None:
        """Add what an update changed; where nobody else wrote since, the result is the update's own bits."""
        for view, old, new in zip(self.views, before, after, strict=True):
            new = np.asarray(new)
            view[...] = np.where(view == old, new, view + (new - old))

    def close(self, forget: bool = False) -> None:
        """Let go of the memory, and give it back if `forget`."""
        if forget:
            self.block.unlink()
        self.views, self.count, self.played = [], np.zeros(3, np.int64), np.zeros(0, np.int64)
        with contextlib.suppress(BufferError):  # somebody still looks at it; it goes with the process
            self.block.close()


# ---- a worker, in its own process


class Worker:
    """One process: a driver of its own, and what it does to the shared parameters."""

    def __init__(self, make: Make, cfg: Any, worker: int, workers: int, name: str, number: Any):
        self.algorithm, self.driver = make(cfg, worker)
        self.spec, self.number, self.worker = self.driver.spec, number, worker
        states = jax.eval_shape(
            lambda: initial_states(self.algorithm, self.driver.cfg, self.spec, list(self.driver.seeds))
        )
        self.shared = Shared(states, workers, self.driver.env_steps, name)
        self.apply = Program(self._apply)
        self.age = np.zeros(BINS, np.int64)
        self.total_age = 0
        self.parent = os.getppid()
        self.run: Any = None

    def _apply(self, states: Tree, grads: Tree) -> list[Array]:
        def one(state: Tree, grads: Tree) -> Tree:
            assert self.algorithm.apply is not None
            return self.algorithm.apply(self.driver.cfg, self.spec, state, grads)

        return self.shared.own(over_seeds(one, states, grads))

    def start(self) -> None:
        """Begin the first episodes, and compile all that a rollout needs."""
        self.run = self.driver.start()
        self.driver.compile(False)
        state = self.driver.learned(self.run)
        self.apply.compile(state.read, state.grads)

    def advance(self, rollouts: int) -> int:
        """So many rollouts, each with its gradient applied; fewer where the process that trains is gone."""
        shared = self.shared
        for _ in range(rollouts):
            if os.getppid() != self.parent:
                raise SystemExit
            read_at = int(shared.count[0])
            # theta' <- theta
            found = Found(shared.tree(shared.read(), read_at), self.driver.learned(self.run).grads)
            self.run = self.driver.with_learned(self.run, found)
            self.run = self.driver.advance(self.run, 1)
            grads = self.driver.learned(self.run).grads
            with self.number:  # T <- T + 1
                number = int(shared.count[0])
                shared.count[0] = number + 1
            # the update of theta with d theta, whatever others did meanwhile
            before = shared.read()
            shared.add(before, self.apply(shared.tree(before, number), grads))
            self.age[min(number - read_at, BINS - 1)] += 1
            self.total_age += number - read_at
            shared.played[self.worker] += 1
        return rollouts

    def report(self) -> dict[str, np.ndarray]:
        """The sums [S] since the last report."""
        self.run, sums = self.driver.report(self.run)
        ones = np.ones(len(self.driver.seeds))
        sums["actor/staleness"] = ones * self.total_age
        sums |= {f"actor/staleness_{b}": ones * count for b, count in enumerate(self.age.tolist())}
        self.age[:], self.total_age = 0, 0
        return sums

    def pack(self) -> tuple[Tree, dict]:
        """What a checkpoint holds of this worker's episodes and sums."""
        tree, extra = self.driver.pack(self.run)
        return plain(jax.tree.map(np.array, tree)), extra

    def template(self, extra: dict) -> Tree:
        """The shapes of what `pack` gave."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.driver.template(extra))
        return plain(shapes)

    def unpack(self, tree: Tree, extra: dict) -> list[int]:
        """Go on from what was packed; the environments that did not come back exactly."""
        if self.run is None:
            self.start()
        found = self.driver.learned(self.run)
        states = self.shared.tree(self.shared.read(), int(self.shared.count[0]))
        found = jax.tree.map(jnp.asarray, found.replace(read=states))
        kind = type(self.driver.pack(self.run)[0]["episodes"])
        episodes = tree["episodes"] if kind is dict else kind(**tree["episodes"])
        self.run = self.driver.unpack({**tree, "episodes": episodes, "state": found, "buffer": ()}, extra)
        return list(self.driver.inexact)

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape."""
        self.driver.refit(cfg)
        self.apply = Program(self._apply)

    def close(self) -> None:
        """Release the environments and the memory."""
        self.driver.close()
        self.shared.close()


def work(make: Make, cfg: Any, worker: int, workers: int, name: str, number: Any, pipe: Connection) -> None:
    """Do what the process that trains asks for, until it is gone."""
    for asks in (signal.SIGINT, getattr(signal, "SIGHUP", None)):
        if asks is not None:
            signal.signal(asks, signal.SIG_IGN)  # Ctrl-C is for the process that trains
    one_core(worker)
    mine: Worker | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            asked, args = pipe.recv()
            try:
                mine = mine or Worker(make, cfg, worker, workers, name, number)
                answer = getattr(mine, asked)(*args)
            except UserError as error:
                pipe.send(("fault", str(error)))
            except Exception as error:
                pipe.send(("fault", f"raised {said_by(error, 300)}"))
            else:
                pipe.send(("done", answer))
            if asked == "close":
                return


def one_core(worker: int) -> None:
    """Let XLA begin with a single thread: a worker has a core, and small operations are not cut between several."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
    jax.devices()
    os.sched_setaffinity(0, cores)


# ---- the driver


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

"""A worker of Hogwild, in a process of its own."""

import contextlib
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.asynchronous import MOST_BINS
from polyak.drivers.finding import Found
from polyak.drivers.learn import initial_states
from polyak.drivers.program import Program, over_seeds
from polyak.drivers.shared import Shared
from polyak.errors import UserError, said_by
from polyak.interface import Algorithm, Array, Tree

BINS = MOST_BINS
Make = Callable[[Any, int], tuple[Algorithm, Any]]


def plain(tree: dict[str, Any]) -> dict[str, Any]:
    """What a driver packs but for the state, which all workers share, with the episodes as a dict."""
    rest = {name: value for name, value in tree.items() if name not in ("state", "buffer")}
    return rest | {"episodes": dict(getattr(rest["episodes"], "__dict__", rest["episodes"]))}


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

"""The driver for workers: Ray's actors play the environments, this process learns; the only file that imports Ray.

Each worker owns lanes (`drivers/lanes.py`) and gets tickets. Ray retries nothing: whatever happens to a worker (it
dies, raises, or does not answer in time), it is killed and replaced by one that begins with its carry and gets the
same tickets again. In lock-step every rollout is joined from one ticket of each worker, and learned from as in one
process: the bits are the same whatever worker is lost, and with one worker they are those of the host driver.

`lag = 1` lets workers play the next rollout with the actor before, while this process learns.
"""

import contextlib
import dataclasses
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import program
from polyak.drivers.cluster import Cluster, undisturbed
from polyak.drivers.devices import Devices
from polyak.drivers.driver import Left
from polyak.drivers.episodes_host import HostEpisodes, word
from polyak.drivers.host import LOOK_SECONDS, ActInput, ActState, Host, HostRun
from polyak.drivers.lanes import (
    Begun,
    Carries,
    Lanes,
    Place,
    Rollout,
    Ticket,
    joined_ended,
    joined_rollout,
    places,
)
from polyak.drivers.program import at_step_zero, zeros
from polyak.errors import EnvironmentFault, UserError, said_by
from polyak.interface import Algorithm, Spec, Transition, Tree
from polyak.pytree import Flattened, flat

REPLACEMENTS = 3  # of one worker, between two rollouts that it gives
START_SECONDS = 120.0  # that a worker may take until it has begun


class Part(NamedTuple):
    """What a worker is made of."""

    algorithm: Algorithm
    cfg: Any
    world: Any  # a factory of environments on the host
    spec: Spec
    seeds: tuple[int, ...]
    strict: bool
    place: Place
    modes: Mapping[str, Any]  # of JAX
    options: Mapping[str, Any]  # of its compiler


class Worker:
    """A process with environments. Its calls are done one after the other."""

    def look_in(self, paths: Sequence[str]) -> None:
        """Find modules where the one who learns finds them; called before anything of a user's arrives."""
        sys.path += [path for path in paths if path not in sys.path]

    def go_on(self, part: Part, number: int, episodes: Any, memory: Any) -> tuple[int, Begun]:
        """Make the environments, and be where a carry is; the number of this process too."""
        for name, value in part.modes.items():
            jax.config.update(name, value)
        program.COMPILER_OPTIONS.update(part.options)
        envs = part.world.make(len(part.seeds) * part.place.lanes, False)
        given = part.algorithm, part.cfg, envs, part.spec, part.seeds, part.strict
        self.lanes = Lanes(*given, part.place.worker, part.place.first)
        return os.getpid(), self.lanes.go_on(number, episodes, memory)

    def play(self, ticket: Ticket, actor: Any) -> Rollout:
        """One rollout."""
        return self.lanes.play(ticket, actor)

    def refit(self, cfg: Any) -> None:
        """Go on under other settings."""
        self.lanes.refit(cfg)


# ---- what this process knows of its workers


class Call(NamedTuple):
    """A call of a worker that has not returned. Of going on there is no ticket."""

    ref: Any
    seconds: float  # that it may take
    ticket: Ticket | None = None
    actor: Any = None  # its arrays, or where they are


class Given(NamedTuple):
    """A rollout that a worker gave for a ticket."""

    ticket: Ticket
    rollout: Rollout


@dataclass
class Hand:
    """A worker as this process sees it."""

    place: Place
    process: Any = None  # Ray's handle of it
    pid: int = 0  # of a worker on this machine
    calls: deque[Call] = field(default_factory=deque)
    since: float = 0.0  # when the first of these calls began
    given: deque[Given] = field(default_factory=deque)  # not accepted yet, in the order of its tickets
    next: int = 0  # number of the ticket that is accepted next
    failures: int = 0  # since one was


@dataclass
class Ledger:
    """Tickets: issued = accepted + void + those that workers have."""

    issued: int = 0
    accepted: int = 0
    void: int = 0


@dataclass
class WorkersRun(HostRun):
    """A run whose episodes are elsewhere."""

    ahead: Tree = None  # with lag: the actor that the next rollout is played with


class Distributed(Host):
    """Advances S runs together: this process learns, W workers play their environments.

    See `Driver` for its promises. world: makes environments on the host. address: of a cluster that is there.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        world: Any,
        spec: Spec,
        seeds: Sequence[int],
        strict: bool = False,
        workers: int = 1,
        lag: int = 0,
        deadline: float = 60.0,
        address: str | None = None,
        devices: Devices | None = None,
    ):
        elsewhere: Any = SimpleNamespace(exact_reset=True, masked=False, close=lambda: None)
        rollout = self.of_rollout(cfg, spec, workers, elsewhere)
        super().__init__(algorithm, *rollout, seeds, strict, devices=devices)
        self.all, self.world, self.workers, self.lag = spec, world, workers, lag
        self.deadline, self.address = deadline, address
        self.places = places(spec.num_envs, workers)
        self.hands = [Hand(place) for place in self.places]
        self.ledger = Ledger()
        self.cluster: Cluster | None = None

    @staticmethod
    def of_rollout(cfg: Any, spec: Spec, workers: int, elsewhere: Any) -> tuple[Any, Any, Spec]:
        """Settings, environments and spec as what is learned from at once has them: of all workers."""
        return cfg, elsewhere, spec

    def start(self, states: Tree | None = None) -> WorkersRun:
        """A run that has not stepped."""
        carries = self._carries()
        self._hire(carries, [0] * self.workers)
        if states is None:
            states = self.initial(self.seed_array)
        episodes: Any = carries
        run = WorkersRun(*self._begun(states), episodes, self._no_sums(), 0, 0)
        run.ahead = run.act_input.tree.actor
        self._until(run, self._all_there)
        return run

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run here: learning."""
        learner, act_input, act_state = [flat(part) for part in self._shapes]
        self.learn[warm].compile(learner, act_input, act_state, self._rollout.tree, self.seed_array)

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape."""
        super().refit(cfg)
        for hand in self.hands:
            if hand.process is not None:
                hand.process.refit.remote(cfg)

    def restart(self, run: HostRun) -> HostRun:
        """The run with every clock at environment step 0."""
        assert isinstance(run, WorkersRun)
        run.ahead = at_step_zero(run.ahead)
        return super().restart(run)

    def pack(self, run: HostRun) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays, and plain values."""
        assert isinstance(run, WorkersRun)
        tree, extra = super().pack(run)
        memory = jax.tree.unflatten(jax.tree.structure(tree["memory"]), self.carries.pack_memory())
        return tree | {"memory": memory} | ({"ahead": run.ahead} if self.lag else {}), extra

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        ahead = {"ahead": self._shapes.act_input.actor} if self.lag else {}
        return super().template(extra) | ahead

    def unpack(self, tree: Tree, extra: dict) -> WorkersRun:
        """The run that was packed: workers play the running episodes again."""
        tree, carries, iteration = dict(tree), self._carries(), int(extra["iteration"])
        numbers = tree.pop("tickets", np.full(self.workers, iteration)).tolist()
        carries.unpack(tree.pop("episodes"), flat(tree.pop("memory")))
        sums = {name: np.array(value) for name, value in tree.pop("sums").items()}
        self._hire(carries, numbers)
        ahead = jax.tree.map(jnp.array, tree.pop("ahead", None))
        learner = self._unpacked(tree)
        act_state = ActState(*zeros(tuple(vars(self._shapes.act_state).values())))
        row_keys = self.row_keys(self.seed_array, word(iteration))
        act_input = ActInput(self.read(self._acting(learner.state)), row_keys)
        episodes: Any = carries
        parts = Flattened(learner), Flattened(act_input), Flattened(act_state)
        run = WorkersRun(*parts, episodes, sums, iteration, iteration, ahead=ahead)
        self.inexact = []
        self._until(run, self._all_there)
        return run

    def close(self) -> None:
        """End the workers, and what of Ray is this run's own."""
        for hand in self.hands:
            self._dismiss(hand)
        if self.cluster is not None:
            self.cluster.close()
        self.cluster = None

    # ---- one rollout

    def _collect(self, run: HostRun, warm: bool) -> Transition:
        """One rollout of every worker, joined to [T, L, ...]."""
        assert isinstance(run, WorkersRun)
        newest = run.act_input.tree.actor
        self._order(Ticket(run.iteration, warm), run.ahead if self.lag else newest)
        self._until(run, lambda: all(hand.given for hand in self.hands))
        given = [self._accept(hand).rollout for hand in self.hands]
        rollout = joined_rollout(self._rollout.structure, given, len(self.seeds))
        self._add_ended(run, joined_ended(given, self.carries.slots))
        self._remember(
            run, [np.concatenate(xs, 2) for xs in zip(*(one.extras for one in given), strict=True)]
        )
        if self.lag:
            run.ahead = newest
            self._order(Ticket(run.iteration + 1, run.iteration + 1 < self.warmup), newest)
        return rollout

    def _accept(self, hand: Hand) -> Given:
        """The next rollout of a worker: from here on it is part of the run."""
        given = hand.given.popleft()
        assert given.ticket.number == hand.next
        hand.next, hand.failures = hand.next + 1, 0
        self.ledger.accepted += 1
        action = given.rollout.rows[len(jax.tree.leaves(self.spec.obs))]
        self.carries.follow(hand.place.worker, given.rollout, action)
        self.notes = given.rollout.notes | self.notes
        return given

    def _remember(self, run: HostRun, extras: Sequence[np.ndarray]) -> None:
        """Put what `act` remembered where `learn` finds it."""
        act_state = run.act_state.tree
        extras = jax.tree.unflatten(jax.tree.structure(act_state.extras), extras)
        run.act_state.tree = act_state.replace(extras=extras)

    def _validate(self, run: HostRun, rollout: Transition) -> None:
        """Nothing: workers have."""

    def _episodes(self) -> HostEpisodes:
        return HostEpisodes(self.envs, self.all, self.seeds)

    def _carries(self) -> Carries:
        return Carries(self.all, len(self.seeds), self.places)

    def _all_there(self) -> bool:
        return not any(hand.calls for hand in self.hands)

    # ---- workers

    def _hire(self, carries: Carries, numbers: Sequence[int]) -> None:
        """Start all workers, each where its carry is before its rollout of this number."""
        if self.cluster is None:
            self.cluster = Cluster(self.workers, self.address)
        self.carries = carries
        for hand, number in zip(self.hands, numbers, strict=True):
            self._dismiss(hand)
            hand.next, hand.failures = number, 0
            hand.given.clear()
            self._begin_hand(hand)

    def _begin_hand(self, hand: Hand) -> None:
        import ray

        names = ("jax_cpu_enable_async_dispatch", "jax_compilation_cache_dir")
        names += ("jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes")
        modes = {"jax_platforms": "cpu"} | {name: jax.config.values[name] for name in names}
        spec = _of_lanes(self.all, hand.place)
        given = self.algorithm, self.cfg, self.world, spec, self.seeds, self.strict
        part = Part(*given, hand.place, modes, program.COMPILER_OPTIONS)
        made = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Worker)
        with undisturbed():
            hand.process, hand.pid = made.remote(), 0
            worker = hand.place.worker
            carry = self.carries.of(worker), self.carries.memory[worker]
            hand.process.look_in.remote(sys.path)
            ref = hand.process.go_on.remote(part, hand.next, *carry)
        hand.calls.append(Call(ref, START_SECONDS + self.deadline))
        hand.since = monotonic()

    def _order(self, ticket: Ticket, actor: Tree) -> None:
        """Give every worker this ticket that does not have it."""
        waiting = [hand for hand in self.hands if not hand.calls and not hand.given]
        if not waiting:
            return
        where = self._send(actor)
        for hand in waiting:
            self._call(hand, ticket, where)

    def _send(self, actor: Tree) -> Any:
        """What a ticket says of an actor: its arrays if these are few bytes, or where workers find them."""
        import ray
        from ray.exceptions import RayError

        assert self.cluster is not None
        leaves = tuple(np.asarray(x) for x in flat(actor))
        if sum(x.nbytes for x in leaves) < self.cluster.in_call:
            return leaves
        try:
            return ray.put(leaves)
        except RayError as error:  # its store is full, and so is the disk that it spills to
            raise EnvironmentFault(
                f"Ray takes no more actors for workers: {said_by(error)}; what was saved stays"
            ) from error

    def _call(self, hand: Hand, ticket: Ticket, actor: Any) -> None:
        self.ledger.issued += 1
        if not hand.calls:
            hand.since = monotonic()
        hand.calls.append(Call(hand.process.play.remote(ticket, actor), self.deadline, ticket, actor))

    def _until(self, run: WorkersRun, done: Callable[[], bool]) -> None:
        """Wait until this is so, and replace workers that are lost. Raises Left."""
        import ray

        due = monotonic() + LOOK_SECONDS
        while not done():
            waiting = [hand for hand in self.hands if hand.calls and not hand.given]
            waiting.sort(key=lambda hand: hand.next)  # who has given least is heard first
            first = {hand.calls[0].ref: hand for hand in waiting}
            ready, _ = ray.wait(list(first), timeout=LOOK_SECONDS)
            for ref in ready:
                self._settle(run, first[ref])
            now = monotonic()
            for hand in waiting:
                if hand.calls and now - hand.since > hand.calls[0].seconds and hand.calls[0].ref not in ready:
                    seconds = f"{hand.calls[0].seconds:g} s"
                    self._replace(hand, TimeoutError(f"no answer for {seconds} (--deadline)"))
            if now > due and self.watch:
                due = now + LOOK_SECONDS
                if self.watch(0):
                    raise Left(run, 0)

    def _settle(self, run: WorkersRun, hand: Hand) -> None:
        """Take what the first call of a worker came to."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        call = hand.calls[0]
        try:
            given: Any = ray.get(call.ref)
        except RayTaskError as error:
            self._replace(hand, error.cause if isinstance(error.cause, Exception) else error)
            return
        except RayError as error:
            self._replace(hand, error)
            return
        hand.calls.popleft()
        hand.since = monotonic()
        if call.ticket is not None:
            hand.given.append(Given(call.ticket, given))
            return
        pid, begun = given
        hand.pid = pid if self.address is None else 0
        self.carries.begin(hand.place.worker, begun)
        self.notes = begun.notes | self.notes
        if begun.inexact:
            slots = self.carries.slots[hand.place.worker][begun.inexact].tolist()
            self.inexact = sorted({*self.inexact, *slots})
            self._cut(run, slots)

    def _replace(self, hand: Hand, error: Exception) -> None:
        """Another worker in the place of one that is lost, with the same carry and the same tickets."""
        hand.failures += 1
        worker = hand.place.worker
        if isinstance(error, UserError) and not isinstance(error, EnvironmentFault):
            raise error
        if hand.failures > REPLACEMENTS:
            if isinstance(error, EnvironmentFault):
                raise EnvironmentFault(str(error)) from error
            raise EnvironmentFault(
                f"worker {worker} was lost {hand.failures} times in a row: {said_by(error)}"
            ) from error
        self.notes["lost"] = (
            f"worker {worker} was lost, and another is in its place: {said_by(error)}. The next are not told"
        )
        again = [call for call in hand.calls if call.ticket is not None]
        self._dismiss(hand)
        self._begin_hand(hand)
        for call in again:
            self.ledger.void += 1
            assert call.ticket is not None
            self._call(hand, call.ticket, call.actor)

    def _dismiss(self, hand: Hand) -> None:
        """End a worker, whatever it does."""
        import ray

        if hand.process is None:
            return
        with contextlib.suppress(Exception):
            ray.kill(hand.process, no_restart=True)
        if hand.pid:  # one that is stopped does not hear it
            with contextlib.suppress(OSError):
                os.kill(hand.pid, signal.SIGKILL)
        hand.process, hand.pid = None, 0
        hand.calls.clear()


def _of_lanes(spec: Spec, place: Place) -> Spec:
    """The spec of one worker's environments. Its rules and goal are asked by who learns; functions do not travel."""
    return dataclasses.replace(spec, num_envs=place.lanes, model=None, goal=None)

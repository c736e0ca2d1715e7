"""Playing on the host: the running episodes of L environments, for training, evaluation, videos and resume alike.

An environment cannot be saved. What can be saved is the seed and the actions of its running episode, and a CRC of
all that it gave: playing the actions again brings it back, and the CRC tells whether it really did. Of an episode
that is longer than KEPT steps no actions are kept, and what is brought back is a new episode in its place.
"""

import copy
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.keys import Keys
from polyak.drivers.measures import gather
from polyak.drivers.program import Program, over_seeds
from polyak.envs.environment import HostEnvs, HostStep, to_bounds
from polyak.errors import EnvironmentFault
from polyak.interface import Algorithm, Array, Discrete, Spec, Tree
from polyak.pytree import select, strip_weak_types

TOGETHER = 32  # steps that are added up at once
KEPT = 65_536  # steps of a running episode whose actions are kept; a longer one cannot be brought back


class Ended(NamedTuple):
    """Episodes that ended in one step: arrays [K]."""

    slot: np.ndarray  # which of the L environments
    number: np.ndarray  # of the episode
    total: np.ndarray
    length: np.ndarray
    measures: dict[str, np.ndarray]

    def only(self, which: np.ndarray) -> "Ended":
        """Those where `which` [K] is set."""
        return jax.tree.map(lambda x: x[which], self)


class HostEpisodes:
    """The episodes of L = S x N environments; slot s N + n is environment n of seed s.

    An episode's seed is a function of (seed, environment, number of the episode).

    stream  None in training: environment n plays episodes 0, 1, ... of its own. A number: all N environments of a
            seed are called by this number and share its episodes out, n, n + N, ...
    limit   steps after which an episode is truncated, where the environment itself has no limit
    common  c: episode e is that of environment 0 which has the number e mod c; 0: each its own
    first   number of a seed's first environment, where others have those before
    """

    def __init__(
        self,
        envs: HostEnvs,
        spec: Spec,
        seeds: Sequence[int],
        stream: int | None = None,
        limit: int | None = None,
        common: int = 0,
        first: int = 0,
    ):
        self.envs, self.spec, self.seeds, self.limit, self.common = envs, spec, tuple(seeds), limit, common
        count = len(self.seeds) * spec.num_envs
        self.first, own = first, np.tile(first + np.arange(spec.num_envs), len(self.seeds))
        self.env = own if stream is None else np.full(count, stream)  # its number
        self.number = np.zeros(count, np.int64) if stream is None else own.copy()  # of the episode
        self.stride = 1 if stream is None else spec.num_envs
        self.obs: Tree = None  # [L, ...]
        self.clock = 0  # steps that were played
        self.begun = np.zeros(count, np.int64)  # the clock when the running episode began
        self.total = np.zeros(count)  # reward so far, but for the steps in `recent`
        self.measures = {name: np.zeros(count) for name in spec.measures}
        self.check = np.zeros((count, len(jax.tree.leaves(spec.obs)) + 2), np.uint32)  # CRCs, likewise
        self.recent: list[HostStep] = []  # steps that are not yet in `total` and `check`
        self.acted: list[np.ndarray] = []  # actions [L, ...] of the steps in `recent`
        self.actions = KeptActions(count, spec)  # of those before

    def copied(self) -> "HostEpisodes":
        """The episodes as they are; the environments, which both would step, go on with these."""
        other = copy.copy(self)
        for name in ("number", "begun", "total", "check", "recent", "acted", "actions"):
            setattr(other, name, getattr(self, name).copy())
        other.measures = {name: value.copy() for name, value in self.measures.items()}
        return other

    @property
    def count(self) -> int:
        """L."""
        return len(self.number)

    @property
    def length(self) -> np.ndarray:
        """[L] steps of the running episodes so far."""
        return self.clock - self.begun

    # ---- playing

    def begin(self) -> None:
        """Begin the first episode in every slot."""
        self._reset(np.arange(self.count))

    def step(self, action: np.ndarray) -> HostStep:
        """One step of every environment with actions [L, ...] as an algorithm gives them."""
        try:
            stepped = self.envs.step(to_bounds(self.envs.spec.action, action))
        except EnvironmentFault as fault:
            raise self._located(fault) from fault
        self.obs = stepped.obs
        self.clock += 1
        if self.limit is not None:
            late = (self.length >= self.limit) & ~stepped.terminated
            stepped = stepped._replace(truncated=stepped.truncated | late)
        self.acted.append(action)
        self.recent.append(stepped)
        if len(self.recent) == TOGETHER:
            self._add_up()
        if self.measures:
            self.measures = gather(self.spec, self.measures, stepped.measures, self.length, np)
        return stepped

    def reset_ended(self, slots: np.ndarray) -> Ended:
        """Begin the next episode in these slots; what the ended ones came to."""
        self._add_up()
        measures = {name: value[slots] for name, value in self.measures.items()}
        ended = Ended(slots, self.number[slots], self.total[slots], self.length[slots], measures)
        self.next_episode(slots)
        return ended

    def next_episode(self, slots: np.ndarray) -> None:
        """Begin the next episode in these slots, whatever became of the last."""
        self.number[slots] += self.stride
        self._reset(slots)

    def begin_at(self, number: int) -> None:
        """Be at the start of the episode of this number in every slot, whatever was played since."""
        slots = np.flatnonzero((self.number != number) | (self.length > 0))
        if len(slots):
            self.number[slots] = number
            self._reset(slots)

    def _reset(self, slots: np.ndarray) -> None:
        """Begin the episodes whose numbers stand, in these slots."""
        self._add_up()
        self.begun[slots] = self.clock
        self.total[slots] = 0.0
        for value in self.measures.values():
            value[slots] = 0.0
        try:
            self.obs = self.envs.reset(slots.tolist(), self._seeds(slots))
        except EnvironmentFault as fault:
            raise self._located(fault) from fault
        for slot in slots:
            self.check[slot] = first_checksums(self.obs, slot)

    def _located(self, fault: EnvironmentFault) -> EnvironmentFault:
        """A fault of a lane as one of an environment and its seed."""
        seed, env = divmod(fault.lane or 0, self.spec.num_envs)
        return fault.at(self.seeds[seed], self.first + env)

    def _add_up(self) -> None:
        """Bring `total` and `check` up to date; how many steps are added up at once changes no bit."""
        if not self.recent:
            return
        reward = np.array([step.reward for step in self.recent])
        self.total = np.cumsum(np.concatenate([self.total[None], reward]), axis=0)[-1]
        given = GivenSteps.of(self.recent)
        for slot in range(self.count):
            self.check[slot] = given.checksums(slot, self.check[slot])
        self.actions.add(self.acted, int(self.length.max()))
        self.recent, self.acted = [], []

    def _seeds(self, slots: Iterable[int]) -> list[int]:
        """The seed of each slot's episode."""
        per_seed, c = self.spec.num_envs, self.common
        return [
            episode_seed(
                self.seeds[slot // per_seed],
                0 if c else int(self.env[slot]),
                int(self.number[slot]) % c if c else int(self.number[slot]),
            )
            for slot in slots
        ]

    # ---- kept and brought back

    def pack(self) -> dict[str, Any]:
        """Everything a checkpoint holds of the episodes."""
        packed = self.pack_without_actions()
        return {**packed, "actions": self.actions.of_running(self.kept)}

    def pack_without_actions(self) -> dict[str, Any]:
        """The same for someone who has seen every action."""
        self._add_up()
        return {
            "obs": self.obs,
            "number": self.number,
            "length": self.length,
            "total": self.total,
            "measures": self.measures,
            "check": self.check,
        }

    def template(self, steps: int) -> dict[str, Any]:
        """Arrays in the shapes of `pack`'s, for running episodes of so many steps together."""
        packed = HostEpisodes(self.envs, self.spec, self.seeds).pack()
        packed["obs"] = jax.tree.map(lambda s: np.empty((self.count, *s.shape), s.dtype), self.spec.obs)
        packed["actions"] = np.zeros((steps, *packed["actions"].shape[1:]), packed["actions"].dtype)
        return packed

    def unpack(self, saved: dict[str, Any]) -> list[int]:
        """Play the episodes that were packed again, in place of those that had begun.

        Returns the slots whose environment did not give the same again. All environments step all the time, since
        processes cannot be stepped one by one: a slot's own episode begins when as many steps are left as it has,
        and what it does before does not matter.
        """
        actions, length = np.asarray(saved["actions"]), kept(np.asarray(saved["length"]))
        if (np.asarray(saved["length"]) < 0).any() or (np.asarray(saved["number"]) < 0).any():
            raise ValueError("an episode has a negative length or number")
        if length.sum() != len(actions):
            raise ValueError(
                f"{length.sum()} actions belong to the running episodes, but {len(actions)} are there"
            )
        starts = np.concatenate([[0], np.cumsum(length)])
        self.number = np.array(saved["number"])
        self.begin()
        for left in range(int(length.max()), -1, -1):
            beginning = np.flatnonzero(length == left)
            if len(beginning):
                self._reset(beginning)
            if left == 0:
                break
            running = length >= left
            stepped = self.step(actions[np.where(running, starts[1:] - left, 0)])
            idle = np.flatnonzero((stepped.terminated | stepped.truncated) & ~running)
            if len(idle):
                self._reset(idle)
        self._add_up()
        inexact = (self.check != np.asarray(saved["check"])).any(axis=1) | (self.length != saved["length"])
        self.total = np.array(saved["total"])
        self.measures = {name: np.array(value) for name, value in saved["measures"].items()}
        return np.flatnonzero(inexact).tolist()

    @property
    def kept(self) -> np.ndarray:
        """[L] steps of the running episodes whose actions are kept: all, or none of one that is too long."""
        return kept(self.length)


def kept(length: np.ndarray) -> np.ndarray:
    """How many actions are kept of running episodes that have these lengths."""
    return np.where(length <= KEPT, length, 0)


class KeptActions:
    """The last actions [L, ...] of all slots, in a ring that grows to KEPT rows at most."""

    def __init__(self, count: int, spec: Spec):
        dtype = np.int32 if isinstance(spec.action, Discrete) else np.float32  # as algorithms give them
        self.ring = np.zeros((2 * TOGETHER, count, *spec.action.shape), dtype)
        self.at = 0  # rows that were ever added

    def add(self, steps: list[np.ndarray], longest: int) -> None:
        """Add the actions of at most TOGETHER steps; the `longest` running episode ends with them."""
        size, count = len(self.ring), len(steps)
        if longest > size and size < KEPT:
            self._grow()
            size = len(self.ring)
        start = self.at % size
        where = (
            slice(start, start + count) if start + count <= size else np.arange(start, start + count) % size
        )
        self.ring[where] = np.concatenate(steps).reshape(count, *self.ring.shape[1:])
        self.at += count

    def copy(self) -> "KeptActions":
        """All that is held, in a ring of its own."""
        other = copy.copy(self)
        other.ring = self.ring.copy()
        return other

    def _grow(self) -> None:
        """Twice the room, with all that is held."""
        size = len(self.ring)
        held = np.arange(self.at - size, self.at)
        grown = np.zeros((2 * size, *self.ring.shape[1:]), self.ring.dtype)
        grown[held % len(grown)] = self.ring[held % size]
        self.ring = grown

    def of_running(self, kept: np.ndarray) -> np.ndarray:
        """The last `kept` [L] actions of each slot, one slot after the other."""
        return np.concatenate([self.last(slot, steps) for slot, steps in enumerate(kept)])

    def last(self, slot: int, steps: int) -> np.ndarray:
        """A slot's last actions [steps, ...]."""
        return self.ring[np.arange(self.at - steps, self.at) % len(self.ring), slot]


def episode_seed(run: int, env: int, episode: int) -> int:
    """An environment's seed: a function of (run, environment, episode) below 2^31."""
    return int(np.random.SeedSequence([run, env, episode]).generate_state(1)[0]) >> 1


def word(count: int) -> np.uint32:
    """A count as the word of 32 bits that keys are folded with."""
    return np.uint32(count % 2**32)


def first_checksums(obs: Tree, slot: Any) -> list[int]:
    """Where the CRCs of a slot begin: its first observation, no reward, no end."""
    return [zlib.crc32(np.ascontiguousarray(leaf[slot]).data) for leaf in jax.tree.leaves(obs)] + [0, 0]


class GivenSteps(NamedTuple):
    """Everything that all environments gave in K steps, in streams that are checked one by one: [K, L, ...] each."""

    streams: list[np.ndarray]

    @classmethod
    def of(cls, steps: list[HostStep]) -> "GivenSteps":
        """Each leaf of the observations; the rewards; the ends of both kinds."""
        leaves = zip(*(jax.tree.leaves(step.obs) for step in steps), strict=True)
        ends = np.array([(step.terminated, step.truncated) for step in steps])  # [K, 2, L]
        return cls(
            [*map(np.stack, leaves), np.array([step.reward for step in steps]), np.moveaxis(ends, 1, 2)]
        )

    def checksums(self, slot: Any, before: np.ndarray) -> list[int]:
        """One slot's CRC-32 of each stream, which does not depend on how the steps are cut into K."""
        return [
            zlib.crc32(np.ascontiguousarray(stream[:, slot]).data, int(crc))
            for stream, crc in zip(self.streams, before, strict=True)
        ]


class HostMemory:
    """Memory [S, N, ...] of the environments on the host, made afresh with each episode.

    worker, first  number of the process, and of its first environment, where others have those before
    """

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        spec: Spec,
        seeds: Sequence[int],
        worker: int = 0,
        first: int = 0,
    ):
        self.algorithm, self.cfg, self.spec, self.worker, self.first = algorithm, cfg, spec, worker, first
        self.seed_array = np.asarray(seeds, np.uint32)
        self.program = Program(self._reset)

    def begin(self, key: Array, number: Array) -> Tree:
        """Memory [N, ...] of one seed before its first step, whose episodes have these numbers [N]."""
        ids = jnp.arange(self.first, self.first + self.spec.num_envs)
        return self.algorithm.memory(self.cfg, self.spec, ids, number, key)

    def reset_ended(self, memory: Tree, slots: Any, number: np.ndarray, row: int) -> Tree:
        """Fresh memory in these slots, whose episodes [L] have just begun after row `row` of the run."""
        if not jax.tree.leaves(memory):
            return memory
        shape = len(self.seed_array), self.spec.num_envs
        mask = np.isin(np.arange(number.size), slots).reshape(shape)
        return self.program(memory, mask, number.astype(np.int32).reshape(shape), self.seed_array, word(row))

    def _reset(self, memory: Tree, mask: Array, number: Array, seeds: Array, row: Array) -> Tree:
        def one(memory: Tree, mask: Array, number: Array, seed: Array) -> Tree:
            key = jax.random.fold_in(Keys.of(seed, self.worker).memory, row + 1)
            fresh = self.begin(key, number)
            return strip_weak_types(select(mask, fresh, memory))

        return over_seeds(one, memory, mask, number, seeds)

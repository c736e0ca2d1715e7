"""Workers' parts of a run: rollouts of some of its environments, and all that another worker needs to go on.

A worker plays lanes: environments of a run that others learn from. For a ticket it gives one rollout, which is a
function of its carry, of what acting needs, and of the ticket; so a worker that is lost is replaced by one that
begins with the carry and gets the same ticket. Nothing here knows how tickets travel.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.act import row_shape
from polyak.drivers.episodes_host import TOGETHER, Ended, KeptActions, kept, word
from polyak.drivers.host import ActInput, ActState, Host, HostRun, OnDevice
from polyak.drivers.keys import Keys, RowKeys
from polyak.drivers.program import Program, over_seeds, zeros
from polyak.interface import Array, Spec, Transition, Tree
from polyak.pytree import Counter, Flattened, Leaves, flat, strip_weak_types


class Place(NamedTuple):
    """A worker, and its environments of each seed: so many lanes from number `first` on."""

    worker: int
    first: int
    lanes: int


def places(num_envs: int, workers: int) -> list[Place]:
    """The parts that N environments have, all of one size."""
    lanes = num_envs // workers
    return [Place(worker, worker * lanes, lanes) for worker in range(workers)]


class Ticket(NamedTuple):
    """An order for one rollout."""

    number: int  # of the rollout, as this worker's are counted
    warm: bool  # it belongs to the warm-up
    version: int = 0  # of the actor: rollouts that were learned from before


class Rollout(NamedTuple):
    """A worker's answer to a ticket, and its carry from there on; NumPy arrays."""

    rows: Leaves  # [T, S n, ...] of a Transition without extras
    extras: Leaves  # [S, T, n, ...], likewise
    when: np.ndarray  # [K] rows of this rollout after which an episode ended
    ended: Ended  # [K]
    episodes: dict[str, Any]  # the running ones, but for the actions that `rows` have
    memory: Leaves  # [S, n, ...]
    notes: dict[str, str]


class Begun(NamedTuple):
    """A worker that has begun: where its episodes are."""

    inexact: list[int]  # slots that did not give the same again, and begin anew
    episodes: dict[str, Any]
    memory: Leaves
    notes: dict[str, str]


class Lanes(Host):
    """Plays the environments of one worker, and learns nothing."""

    def go_on(self, number: int, episodes: dict[str, Any] | None, memory: Leaves) -> Begun:
        """Be where a carry is, before the rollout of this number; without episodes begin the first ones."""
        shapes = self._shapes.act_state
        act_state = ActState(shapes.memory, *zeros((shapes.extras, shapes.row)))
        none = Flattened(())
        self.played = HostRun(none, none, Flattened(act_state), self._episodes(), {}, number, number)
        if episodes is None:
            self.played.episodes.begin()
            begun = Program(self._begin_memory)(self.seed_array)
        else:
            begun = jax.tree.unflatten(jax.tree.structure(shapes.memory), map(jnp.array, memory))
        self.played.act_state.tree = act_state.replace(memory=begun)
        if episodes is not None:
            self._play_again(self.played, episodes)
        self._note_mask()
        return Begun(self.inexact, *self._carry(), self.notes)

    def play(self, ticket: Ticket, actor: Leaves) -> Rollout:
        """The rollout that a ticket asks for, with this actor [S, ...]."""
        run = self.played
        run.iteration = ticket.number
        keys = self.row_keys(self.seed_array, word(ticket.number))
        run.act_input.leaves = (*map(jnp.asarray, actor), *flat(keys))
        self.before, self.ended = run.episodes.clock, []
        rollout = self._collect(run, ticket.warm)
        self._validate(run, rollout)
        act_state = run.act_state.tree
        run.act_state.tree = act_state.replace(row=Counter(jnp.zeros((), jnp.int32)))
        when = [np.full(len(ended.slot), row) for row, ended in self.ended]
        none = np.zeros(0)
        nobody = Ended(
            none.astype(int), none.astype(int), none, none, dict.fromkeys(self.spec.measures, none)
        )
        ended = jax.tree.map(lambda *xs: np.concatenate(xs), nobody, *(ended for _, ended in self.ended))
        return Rollout(
            flat(rollout),
            tuple(np.array(x) for x in flat(act_state.extras)),
            np.concatenate([none.astype(int), *when]),
            ended,
            *self._carry(),
            self.notes,
        )

    def _carry(self) -> tuple[dict[str, Any], Leaves]:
        memory = self.played.act_state.tree.memory
        return self.played.episodes.pack_without_actions(), tuple(np.array(x) for x in flat(memory))

    def _add_ended(self, run: HostRun, ended: Ended) -> None:
        """Keep the episodes that ended for the one who adds them up."""
        self.ended.append((run.episodes.clock - self.before, ended))

    def _cut(self, run: HostRun, slots: list[int]) -> None:
        """Nothing: the replay is elsewhere."""

    # ---- what is compiled

    def _begin_memory(self, seeds: Array) -> Tree:
        def one(seed: Array) -> Tree:
            key = Keys.of(seed, self.worker).memory
            return strip_weak_types(self.memory.begin(key, jnp.zeros(self.spec.num_envs, jnp.int32)))

        return over_seeds(one, seeds)

    def _begin(self, state: Tree, seeds: Array) -> OnDevice:
        """All that there is where nothing is learned."""

        def one(state: Tree, seed: Array) -> OnDevice:
            keys, zero = Keys.of(seed, self.worker), jnp.zeros((), jnp.int32)
            memory = self.memory.begin(keys.memory, jnp.zeros(self.spec.num_envs, jnp.int32))
            row = row_shape(self.algorithm, self.cfg, self.spec, state)
            extras = jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape), x.dtype), row.extras)
            row_keys = RowKeys.of_rollout(keys, zero, self.rows)
            act_input = ActInput(self.algorithm.actor(state), row_keys)
            return strip_weak_types(OnDevice((), act_input, ActState(memory, extras, Counter(zero))))

        return over_seeds(one, state, seeds)


# ---- what the one who learns keeps of them


def joined(parts: Sequence[np.ndarray], seeds: int, axis: int) -> np.ndarray:
    """Lanes [..., S n, ...] of each worker along this axis as those of all, [..., S N, ...]; always a fresh array."""
    if seeds == 1:
        return np.concatenate(parts, axis)
    each = [x.reshape(*x.shape[:axis], seeds, x.shape[axis] // seeds, *x.shape[axis + 1 :]) for x in parts]
    whole = np.concatenate(each, axis + 1)
    return whole.reshape(*whole.shape[:axis], seeds * whole.shape[axis + 1], *whole.shape[axis + 2 :])


def slots_of(place: Place, seeds: int, num_envs: int) -> np.ndarray:
    """Numbers [S n] that the lanes of a worker have among those of all."""
    return (np.arange(seeds)[:, None] * num_envs + place.first + np.arange(place.lanes)).ravel()


class Carries:
    """Carry of each worker as of its last accepted rollout: what a checkpoint holds, and what a replacement gets."""

    def __init__(self, spec: Spec, seeds: int, places: Sequence[Place]):
        self.spec, self.seeds, self.places = spec, seeds, places
        self.slots = [slots_of(place, seeds, spec.num_envs) for place in places]
        self.episodes: list[Any] = [None] * len(places)
        self.memory: list[Leaves] = [()] * len(places)
        self.actions = [KeptActions(seeds * place.lanes, spec) for place in places]

    def begin(self, worker: int, begun: Begun) -> None:
        """A worker is where it begins; the actions of an episode that began anew are forgotten with its length."""
        self.episodes[worker], self.memory[worker] = begun.episodes, begun.memory

    def follow(self, worker: int, rollout: Rollout, action: np.ndarray) -> None:
        """One accepted rollout on, whose actions were [T, S n, ...]."""
        self.episodes[worker], self.memory[worker] = rollout.episodes, rollout.memory
        longest = int(rollout.episodes["length"].max())
        for start in range(0, len(action), TOGETHER) if longest else ():
            self.actions[worker].add(list(action[start : start + TOGETHER]), longest)

    def of(self, worker: int) -> dict[str, Any] | None:
        """The running episodes of one worker, as `HostEpisodes.pack` gives them; None before the first ones."""
        episodes = self.episodes[worker]
        if episodes is None:
            return None
        return {**episodes, "actions": self.actions[worker].of_running(kept(episodes["length"]))}

    @property
    def kept(self) -> np.ndarray:
        """[S N] steps of the running episodes whose actions are kept."""
        return kept(joined([episodes["length"] for episodes in self.episodes], self.seeds, 0))

    def pack(self) -> dict[str, Any]:
        """The running episodes of all workers, as `HostEpisodes.pack` gives them."""
        packed = jax.tree.map(lambda *xs: joined(xs, self.seeds, 0), *self.episodes)
        of_slot = {}
        for slots, actions, episodes in zip(self.slots, self.actions, self.episodes, strict=True):
            steps = kept(episodes["length"])
            of_slot |= {slot: actions.last(lane, steps[lane]) for lane, slot in enumerate(slots)}
        return {**packed, "actions": np.concatenate([of_slot[slot] for slot in sorted(of_slot)])}

    def pack_memory(self) -> Leaves:
        """The memory [S, N, ...] of all workers."""
        return tuple(np.concatenate(xs, axis=1) for xs in zip(*self.memory, strict=True))

    def unpack(self, saved: dict[str, Any], memory: Leaves) -> None:
        """Be where all workers were that were packed."""
        saved = dict(saved)
        actions, length = np.asarray(saved.pop("actions")), kept(np.asarray(saved["length"]))
        starts = np.concatenate([[0], np.cumsum(length)])
        if (length < 0).any() or (np.asarray(saved["number"]) < 0).any():
            raise ValueError("an episode has a negative length or number")
        if starts[-1] != len(actions):
            raise ValueError(
                f"{starts[-1]} actions belong to the running episodes, but {len(actions)} are there"
            )
        for worker, (place, slots) in enumerate(zip(self.places, self.slots, strict=True)):
            own = slice(place.first, place.first + place.lanes)
            self.memory[worker] = tuple(np.array(x)[:, own] for x in memory)
            self.episodes[worker] = jax.tree.map(lambda x, slots=slots: np.array(x)[slots], saved)
            longest = int(length[slots].max())
            rows = np.zeros((longest, len(slots), *actions.shape[1:]), actions.dtype)
            for lane, slot in enumerate(slots):
                rows[longest - length[slot] :, lane] = actions[starts[slot] : starts[slot] + length[slot]]
            for start in range(0, longest, TOGETHER):
                self.actions[worker].add(list(rows[start : start + TOGETHER]), longest)


def joined_rollout(structure: Any, given: Sequence[Rollout], seeds: int) -> Transition:
    """The rollouts of all workers as one [T, S N, ...]."""
    leaves = [joined(xs, seeds, 1) for xs in zip(*(rollout.rows for rollout in given), strict=True)]
    return jax.tree.unflatten(structure, leaves)


def joined_ended(given: Sequence[Rollout], slots: Sequence[np.ndarray]) -> Ended:
    """The episodes that ended in rollouts that were played at the same time, in the order of time and environment."""
    own = [
        rollout.ended._replace(slot=at[rollout.ended.slot]) for rollout, at in zip(given, slots, strict=True)
    ]
    ended: Ended = jax.tree.map(lambda *xs: np.concatenate(xs), *own)
    return ended.only(np.lexsort((ended.slot, np.concatenate([rollout.when for rollout in given]))))

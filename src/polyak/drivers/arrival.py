"""The driver that learns from each worker's rollout as it arrives: for replay, where no worker waits for another.

A rollout has as many transitions as one of all workers together would have, as W times as many rows of the N / W
environments of one worker. So what a run counts and how often it learns are as in lock-step, exactly; what
depends on timing is only in which order rollouts arrive. Each worker has two tickets, and plays with an actor that is
a few rollouts old: `actor/version_lag` says how many.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.act import row_shape
from polyak.drivers.distributed import Distributed, Hand, WorkersRun
from polyak.drivers.host import HostRun, OnDevice
from polyak.drivers.lanes import Ticket
from polyak.drivers.learn import Metrics, observe_valid, one_step, update_valid
from polyak.drivers.program import WITH_RING, Program, over_seeds
from polyak.errors import UserError
from polyak.interface import Algorithm, Array, Spec, Transition, Tree
from polyak.parts.replay import index, turns
from polyak.pytree import Counter

IN_FLIGHT = 2  # tickets of each worker


def check_arrival(data: Any, wrap: tuple[str, ...]) -> None:
    """UserError where rollouts of single workers are not enough."""
    if not data.replays:
        raise UserError(
            "--no-lockstep is for algorithms with a replay: on policy a rollout is of all workers"
        )
    if data.ended or data.hindsight is not None:
        raise UserError("--no-lockstep does not serve data.ended and hindsight: leave it out")
    if "normalize_reward" in wrap:
        raise UserError(
            "--no-lockstep does not serve normalize_reward, which follows all environments at once"
        )


def learn_in_turn(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    ring: turns.Turns,
    rollout: Transition,
    key: Array,
    warm: bool = False,
) -> tuple[Tree, turns.Turns, Metrics]:
    """`learn` from the rollout of the worker whose turn it is."""
    data = cfg.data
    ring = turns.add(ring, rollout, data)
    state = observe_valid(algorithm, cfg, spec, state, rollout, True)
    if warm:
        return state, ring, {}

    def once(both: tuple[Tree, Any], key_draw: Array, key: Array) -> tuple[tuple[Tree, Any], Metrics]:
        state, kept = both
        seen = partial(algorithm.reward, cfg, spec, algorithm.actor(state))
        batch, leaf = turns.sample(ring, kept, key_draw, data, one_step(cfg, spec), seen)
        made = algorithm.update(cfg, spec, state, batch, key)
        kept = index.write_back(kept, leaf, made.priority, data) if data.priority > 0 else kept
        return (made.state, kept), made.metrics

    (state, kept), sums = update_valid(once, data.updates, (state, ring.ring.index), key, True)
    return state, ring.replace(ring=ring.ring.replace(index=kept)), sums


class Arrival(Distributed):
    """Advances S runs together: each iteration learns from the rollout of one worker. See `Driver`."""

    learn_from = staticmethod(learn_in_turn)

    @staticmethod
    def of_rollout(cfg: Any, spec: Spec, workers: int, elsewhere: Any) -> tuple[Any, Any, Spec]:
        """Settings, environments and spec as what is learned from at once has them: of one worker."""
        data = dataclasses.replace(cfg.data, steps=cfg.data.steps * workers)
        own = dataclasses.replace(spec, num_envs=spec.num_envs // workers)
        return dataclasses.replace(cfg, data=data), elsewhere, own

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape."""
        super().refit(self.of_rollout(cfg, self.all, self.workers, None)[0])

    def start(self, states: Tree | None = None) -> WorkersRun:
        """A run that has not stepped."""
        self.versions = np.zeros(len(self.seeds))  # sum of lags since the last report
        return super().start(states)

    def report(self, run: HostRun) -> tuple[HostRun, dict[str, np.ndarray]]:
        """The run with empty sums, and the sums since the last report."""
        run, sums = super().report(run)
        versions, self.versions = self.versions, np.zeros(len(self.seeds))
        return run, sums | {"actor/version_lag": versions}

    def pack(self, run: HostRun) -> tuple[Tree, dict]:
        """Everything a checkpoint holds; the ring is written whole, since its rows are of several clocks."""
        tree, extra = super().pack(run)
        tickets = np.array([hand.next for hand in self.hands], np.int64)
        return tree | {"buffer": (), "ring": tree["buffer"], "tickets": tickets}, extra

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        tree = super().template(extra)
        lanes = self.all.num_envs
        memory = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], lanes, *x.shape[2:]), x.dtype), tree["memory"]
        )
        tickets = np.zeros(self.workers, np.int64)
        return tree | {"buffer": (), "ring": tree["buffer"], "tickets": tickets, "memory": memory}

    def buffer_shape(self) -> Any:
        """Nothing that is kept in segments."""
        return ()

    def unpack(self, tree: Tree, extra: dict) -> WorkersRun:
        """The run that was packed; rollouts that had not arrived are played again."""
        tree = dict(tree)
        self.versions = np.zeros(len(self.seeds))
        return super().unpack(tree | {"buffer": tree.pop("ring")}, extra)

    # ---- one rollout

    def _collect(self, run: HostRun, warm: bool) -> Transition:
        """The next rollout that arrives."""
        assert isinstance(run, WorkersRun)
        self._keep_busy(run)
        self._until(run, lambda: any(hand.given for hand in self.hands))
        hand = next(hand for hand in self.hands if hand.given)
        ticket, given = self._accept(hand)
        self._add_ended(run, given.ended)
        self._remember(run, given.extras)
        if not warm:
            self.versions += (run.iteration - ticket.version) * self.cfg.data.updates
        learner, worker = run.learner.tree, Counter(jnp.int32(hand.place.worker))
        run.learner.tree = learner.replace(buffer=learner.buffer.replace(worker=worker))
        return jax.tree.unflatten(self._rollout.structure, given.rows)

    def _cut(self, run: HostRun, slots: list[int]) -> None:
        """End what the replay has of the running episodes in these slots."""
        seeds, learner = len(self.seeds), run.learner.tree
        mask = np.isin(np.arange(seeds * self.all.num_envs), slots).reshape(seeds, -1)
        cut = Program(lambda ring, mask: over_seeds(turns.cut, ring, mask), donate=(0,), options=WITH_RING)
        run.learner.tree = learner.replace(buffer=cut(learner.buffer, mask))

    def _keep_busy(self, run: HostRun) -> None:
        """Give tickets to workers that have not enough, those with the fewest first."""
        where = None
        out = sum(len(hand.calls) for hand in self.hands)
        while hand := min(filter(self._idle, self.hands), key=lambda hand: len(hand.calls), default=None):
            if where is None:
                where = self._send(run.act_input.tree.actor)
            ticket = Ticket(hand.next + len(hand.calls), run.iteration + out < self.warmup, run.iteration)
            self._call(hand, ticket, where)
            out += 1

    @staticmethod
    def _idle(hand: Hand) -> bool:
        return len(hand.calls) < IN_FLIGHT and not hand.given

    # ---- what is compiled

    def _begin(self, state: Tree, seeds: Array) -> OnDevice:
        def empty(state: Tree) -> turns.Turns:
            row = row_shape(self.algorithm, self.cfg, self.all, state)
            count = self.cfg.data.slots(self.all.num_envs)
            return turns.empty(row, count, self.cfg.data, self.workers)

        made = super()._begin(state, seeds)
        return made._replace(learner=made.learner.replace(buffer=over_seeds(empty, state)))

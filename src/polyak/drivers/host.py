"""The driver for environments on the host: a Python loop around compiled `act` and `learn`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from time import monotonic
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import validate
from polyak.drivers.act import act_or_warm_up, actors
from polyak.drivers.devices import Devices, Where
from polyak.drivers.driver import Left
from polyak.drivers.episodes_host import Ended, HostEpisodes, HostMemory, word
from polyak.drivers.inspection import Inspection
from polyak.drivers.keys import Keys, RowKeys
from polyak.drivers.learn import initial_row, initializer, learn
from polyak.drivers.measures import metric_name
from polyak.drivers.padding import padded
from polyak.drivers.program import (
    ONE_BY_ONE,
    WITH_RING,
    Program,
    at_step_zero,
    options_for,
    over_seeds,
    zeros,
)
from polyak.envs.environment import HostEnvs
from polyak.errors import EnvironmentFault, UserError
from polyak.interface import Algorithm, Array, Spec, Transition, Tree, rows_of
from polyak.parts import replay
from polyak.pytree import Counter, Flattened, Leaves, Record, copy, flat, pytree, strip_weak_types

LOOK_SECONDS = 0.25  # between two looks at Ctrl-C during a rollout
SLOW_SECONDS = 0.5  # a rollout that takes longer may have to be left
FINISH_SECONDS = 1.0  # what is left of a rollout is finished if it takes no longer


@pytree
class Learner(Record):
    """Everything on the device that is donated to every `learn`: [S, ...], but for what all seeds share."""

    state: Tree
    buffer: Any
    updates: Array  # made since the last report
    metrics: dict[str, Array]  # their sums
    iteration: Counter  # rollouts since the run began


@pytree
class ActState(Record):
    """State of acting, handed on from row to row: [S, ...], but for what all seeds share."""

    memory: Tree  # [S, N, ...]
    extras: Tree  # [S, T, N, ...] what `act` wants remembered of this rollout
    row: Counter  # rows of this rollout so far


@pytree
class ActInput(Record):
    """Input of acting, the same for all rows of a rollout: [S, ...]."""

    actor: Tree  # of the newest state
    keys: RowKeys  # [S, T, ...]


class OnDevice(NamedTuple):
    """A Learner, an ActInput and an ActState, or something about each."""

    learner: Any
    act_input: Any
    act_state: Any


@dataclass
class HostRun:
    """The whole run; what is on the device is held in leaves, as which it crosses a program's border in less time."""

    learner: Flattened  # a Learner
    act_input: Flattened  # an ActInput
    act_state: Flattened  # an ActState
    episodes: HostEpisodes
    sums: dict[str, np.ndarray]  # [S] of the episodes that ended since the last report
    iteration: int
    began: int  # the iteration in which an episode last began
    left: bool = False  # a rollout was left: the environments are further on than `episodes`


class Host:
    """Advances S runs together: S x N environments on the host, parameters and replay on the device.

    See `Driver` for its promises. Where other processes have environments of the same run, this one is `worker` of
    them, and its first environment has the number `first`. Of several devices each learns from its share of a rollout
    or a batch; the first one acts.
    """

    learn_from: Callable = staticmethod(learn)  # a rollout is learned from in this way

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        envs: HostEnvs,
        spec: Spec,
        seeds: Sequence[int],
        strict: bool = False,
        worker: int = 0,
        first: int = 0,
        devices: Devices | None = None,
    ):
        self.devices = devices
        self.algorithm, self.cfg, self.envs, self.spec, self.seeds = algorithm, cfg, envs, spec, tuple(seeds)
        self.strict, self.worker, self.first = strict, worker, first
        if cfg.data.common and not envs.exact_reset:
            raise UserError(
                "data.common needs environments that can play an episode again, which these cannot: leave it at 0"
            )
        self.rows = rows_of(cfg.data, spec.time_limit)
        self.env_steps = self.rows * spec.num_envs  # of one seed in one iteration
        self.count = len(self.seeds) * spec.num_envs  # L, environments of all seeds
        self.warmup = cfg.data.warmup_rollouts(spec.num_envs)
        self.act = {warm: Program(self._act(warm), donate=(1,), options=ONE_BY_ONE) for warm in (True, False)}
        options, where = options_for(cfg.data), (lambda: self._places) if devices else None
        self.learn = {
            warm: Program(self._learn(warm), donate=(0, 2), options=options, where=where)
            for warm in (True, False)
        }
        self.begin = Program(self._begin, where=self._where_begun if devices else None)
        self.row_keys = Program(self._row_keys)
        self.read = actors(algorithm)
        self.initial = initializer(algorithm, cfg, spec)
        self.memory = HostMemory(algorithm, cfg, spec, seeds, worker, first)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.inexact: list[int] = []  # slots that a resume could not bring back
        self.watch: Callable[[int], bool] | None = None
        self.due = inf  # when it is asked next
        self.slow = True  # the last rollout took long, or there was none: the next may have to be left
        self.notes: dict[str, str] = {}

    def _episodes(self) -> HostEpisodes:
        """Episodes that have not begun."""
        limit = self.spec.time_limit if self.cfg.data.episodes else None
        common, first = self.cfg.data.common, self.first
        return HostEpisodes(self.envs, self.spec, self.seeds, limit=limit, common=common, first=first)

    def start(self, states: Tree | None = None) -> HostRun:
        """A run that has not stepped."""
        episodes = self._episodes()
        episodes.begin()
        self._note_mask()
        if states is None:
            states = self.initial(self.seed_array)
        return HostRun(*self._begun(states), episodes, self._no_sums(), 0, 0)

    def _begun(self, states: Tree) -> tuple[Flattened, Flattened, Flattened]:
        """What is on the device before the first step."""
        learner, *acting = self.begin(states, self.seed_array)
        learner, act_input, act_state = map(Flattened, (learner, *self._acting(acting)))
        return learner, act_input, act_state

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run in the warm-up or after it; only shapes are needed, no run."""
        learner, act_input, act_state = [flat(part) for part in self._shapes]
        self.act[warm].compile(act_input, act_state, self._slots_shape(self.spec.obs))
        self.learn[warm].compile(learner, act_input, act_state, self._rollout.tree, self.seed_array)

    def advance(self, run: HostRun, iterations: int) -> HostRun:
        """The run, `iterations` rollouts on."""
        if run.left:
            run.left = False
            self._play_again(run, run.episodes.pack())
        self.due = inf if self.watch is None else monotonic() + LOOK_SECONDS
        for passed in range(iterations):
            if passed and self.watch and monotonic() > self.due and self._look(0):
                raise Left(run, passed)
            warm = run.iteration < self.warmup
            try:
                rollout = self._collect(run, warm)
                self._validate(run, rollout)
            except EnvironmentFault as fault:
                fault.run = run
                raise
            except Left as left:
                raise Left(run, passed) from left
            run.learner.leaves, *acting = self.learn[warm](
                run.learner.leaves, run.act_input.leaves, run.act_state.leaves, rollout, self.seed_array
            )
            run.act_input.leaves, run.act_state.leaves = self._acting(acting)
            run.iteration += 1
        validate.check_metrics(run.learner.tree.metrics, run.iteration)
        return run

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape; `compile` compiles again what they change."""
        self.cfg = self.memory.cfg = cfg
        self.warmup = cfg.data.warmup_rollouts(self.spec.num_envs)
        self.initial = initializer(self.algorithm, cfg, self.spec)
        for warm in (True, False):
            self.act[warm].renew(self._act(warm))
            self.learn[warm].renew(self._learn(warm))

    def restart(self, run: HostRun) -> HostRun:
        """The run with every clock at environment step 0."""
        run.learner.tree = run.learner.tree.replace(state=at_step_zero(run.learner.tree.state))
        run.act_input.tree = run.act_input.tree.replace(actor=at_step_zero(run.act_input.tree.actor))
        return run

    def pack(self, run: HostRun) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays, and plain values."""
        tree = {
            **vars(run.learner.tree),
            "memory": run.act_state.tree.memory,
            "episodes": run.episodes.pack(),
            "sums": run.sums,
        }
        return tree, {"iteration": run.iteration, "steps": int(run.episodes.kept.sum())}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        shapes = self._shapes
        return {
            **vars(shapes.learner),
            "memory": shapes.act_state.memory,
            "episodes": self._episodes().template(int(extra["steps"])),
            "sums": self._no_sums(),
        }

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () where nothing is kept."""
        return self._shapes.learner.buffer

    def unpack(self, tree: Tree, extra: dict) -> HostRun:
        """The run that was packed, its environments brought back by playing their running episodes again.

        Where an environment does not give the same again (its CRC differs), its slot begins a new episode, the
        replay is cut there, and `inexact` names the slot: the run is consistent, but not exact.
        """
        host = ("episodes", "sums")
        device = {name: value for name, value in tree.items() if name not in host}
        shapes = self._shapes.act_state
        memory = jax.tree.map(jnp.array, device.pop("memory"))
        act_state = ActState(memory, *zeros((shapes.extras, shapes.row)))
        learner, iteration = self._unpacked(device), int(extra["iteration"])
        row_keys = self.row_keys(self.seed_array, word(iteration))
        act_input = ActInput(self.read(self._acting(learner.state)), row_keys)
        episodes = self._episodes()
        sums = {name: np.array(value) for name, value in tree["sums"].items()}
        parts = Flattened(learner), Flattened(act_input), Flattened(act_state)
        run = HostRun(*parts, episodes, sums, iteration, iteration)
        self._play_again(run, tree["episodes"])
        return run

    def _play_again(self, run: HostRun, saved: dict[str, Any]) -> None:
        """Bring the environments to where these packed episodes are, and cut those that do not come back."""
        run.episodes, run.began = self._episodes(), run.iteration
        self.inexact = run.episodes.unpack(saved)
        if not self.inexact:
            return
        if not self.cfg.data.episodes:  # where whole ones are counted, none has begun
            run.episodes.next_episode(np.asarray(self.inexact))
        self._reset_memory(run, self.inexact, -1)
        self._cut(run, self.inexact)

    def _cut(self, run: HostRun, slots: list[int]) -> None:
        """End what the replay has of the running episodes in these slots, which begin anew without an end."""
        if self.cfg.data.replays:
            mask, learner = np.isin(np.arange(self.count), slots), run.learner.tree
            cut = Program(
                lambda ring, mask: over_seeds(replay.index.cut, ring, mask), donate=(0,), options=WITH_RING
            )
            buffer = cut(learner.buffer, mask.reshape(-1, self.spec.num_envs))
            run.learner.tree = learner.replace(buffer=buffer)

    def report(self, run: HostRun) -> tuple[HostRun, dict[str, np.ndarray]]:
        """The run with empty sums, and the sums since the last report as NumPy arrays [S]."""
        learner = run.learner.tree
        sums, run.sums = run.sums, self._no_sums()
        sums = sums | {"updates": np.array(learner.updates)}
        sums |= {metric_name(name): np.array(value) for name, value in learner.metrics.items()}
        updates, metrics = zeros((learner.updates, learner.metrics))
        run.learner.tree = learner.replace(updates=updates, metrics=metrics)
        return run, sums

    def actor(self, run: HostRun) -> Tree:
        """The newest actor, [S, ...]."""
        return run.act_input.tree.actor

    def learned(self, run: HostRun) -> Tree:
        """The algorithm's state, [S, ...]."""
        return self._acting(run.learner.tree.state)

    def with_learned(self, run: HostRun, state: Tree) -> HostRun:
        """The run with another state, which its next rollout is acted with."""
        run.learner.tree = run.learner.tree.replace(state=state)
        run.act_input.tree = run.act_input.tree.replace(actor=self.read(state))
        return run

    def close(self) -> None:
        """Release the environments."""
        self.envs.close()

    # ---- one rollout

    def _collect(self, run: HostRun, warm: bool) -> Transition:
        """T steps of every environment, or whole episodes of each: a rollout [T, L, ...].

        It is without extras, which `run.act_state` holds.
        """
        episodes, act_input, act = run.episodes, run.act_input.leaves, self.act[warm]
        act = act.compiled or act  # without the frame of Program's call
        into = [np.empty(x.shape, x.dtype) for x in self._rollout.leaves]
        began, now = monotonic(), monotonic
        start = self._bookmark(run) if self.slow and self.watch and self.rows > 1 else None
        whole = self.cfg.data.episodes
        until = (run.iteration + 1) * whole  # the first episode that is none of this rollout's
        for t in range(self.rows):
            if now() > self.due and self._look(t) and start is not None:
                self._leave_long(run, start, (now() - began) / max(t, 1) * (self.rows - t))
            obs = episodes.obs
            run.act_state.leaves, action = act(act_input, run.act_state.leaves, obs)
            action = np.asarray(action)
            try:
                stepped = episodes.step(action)
            except EnvironmentFault as fault:
                raise EnvironmentFault(f"step {run.iteration * self.rows + t}, {fault}") from fault
            row = Transition(obs, action, stepped.reward, stepped.obs, stepped.terminated, stepped.truncated)
            for rows, x in zip(into, jax.tree.leaves(row), strict=True):
                rows[t] = x
            last = stepped.terminated | stepped.truncated
            if np.count_nonzero(last):
                slots = np.flatnonzero(last)
                ended = episodes.reset_ended(slots)
                self._add_ended(run, ended.only(ended.number < until) if whole else ended)
                self._reset_memory(run, slots, run.iteration * self.rows + t)
                run.began = run.iteration
                if whole and (episodes.number >= until).all():
                    break
        self.slow = now() - began > SLOW_SECONDS
        rollout = jax.tree.unflatten(self._rollout.structure, into)
        if whole:  # what an environment played after its last episode is forgotten: others were at theirs
            episodes.begin_at(until)
            self._reset_memory(run, np.arange(self.count), (run.iteration + 1) * self.rows - 1)
        return padded(self.cfg.data, rollout, np)

    def _look(self, rows: int) -> bool:
        """Tell `watch` how many rows the rollout has; whether it is to be left."""
        self.due = monotonic() + LOOK_SECONDS
        return self.watch is not None and self.watch(rows)

    def _bookmark(self, run: HostRun) -> tuple[HostEpisodes, Tree, dict[str, np.ndarray], int]:
        """All that a rollout changes, as it is before its first row."""
        sums = {name: value.copy() for name, value in run.sums.items()}
        return run.episodes.copied(), copy(run.act_state.tree.memory), sums, run.began

    def _leave_long(
        self, run: HostRun, start: tuple[HostEpisodes, Tree, dict[str, np.ndarray], int], seconds: float
    ) -> None:
        """Leave a rollout that would take so many seconds more, if these are many.

        The run is then what it was before, but for its environments, which are played again when it goes on.
        """
        if seconds <= FINISH_SECONDS:
            return
        run.episodes, memory, run.sums, run.began = start
        row = Counter(jnp.zeros((), jnp.int32))
        run.act_state.tree = run.act_state.tree.replace(memory=memory, row=row)
        run.left = True
        raise Left(run, 0)

    def _add_ended(self, run: HostRun, ended: Ended) -> None:
        """Add the episodes that ended to the sums of their seeds."""
        values = {"episodes": 1.0, "episode/return": ended.total, "episode/length": ended.length}
        values |= {f"episode/{name}": value for name, value in ended.measures.items()}
        for name, value in values.items():
            np.add.at(run.sums[name], ended.slot // self.spec.num_envs, value)

    def _no_sums(self) -> dict[str, np.ndarray]:
        """The sums before any episode ended."""
        names = [
            "episodes",
            "episode/return",
            "episode/length",
            *(f"episode/{m}" for m in self.spec.measures),
        ]
        return {name: np.zeros(len(self.seeds)) for name in names}

    def _reset_memory(self, run: HostRun, slots: Any, row: int) -> None:
        """Fresh memory in the slots whose episode begins."""
        if jax.tree.leaves(self._shapes.act_state.memory):
            act_state = run.act_state.tree
            memory = self.memory.reset_ended(act_state.memory, slots, run.episodes.number, row)
            run.act_state.tree = act_state.replace(memory=memory)

    def _validate(self, run: HostRun, rollout: Transition) -> None:
        """Raise EnvironmentFault where a rollout holds what no environment may give."""
        note = self._inspect(rollout, run.iteration, began=run.iteration <= run.began + 1)
        if note:
            self.notes.setdefault("outside", note)

    def _note_mask(self) -> None:
        """Note that nobody reads which actions are legal."""
        if self.envs.masked:
            self.notes["mask"] = (
                "this environment says in info['action_mask'] which actions are legal, which nothing reads yet: "
                "every action may be chosen"
            )

    # ---- what is compiled

    def _acting(self, tree: Tree) -> Tree:
        """What acting reads, on the device that acts."""
        return tree if self.devices is None else self.devices.first(tree)

    def _unpacked(self, device: dict[str, Any]) -> Learner:
        """The learner of a checkpoint, in fresh arrays, where it is learned from."""
        if self.devices is None:
            return Learner(**jax.tree.map(jnp.array, device))
        return jax.device_put(Learner(**device), self._where_begun().made.learner)

    def _where_begun(self) -> Where:
        devices = self._places.devices
        made = OnDevice(*map(self._tree, OnDevice._fields, self._places.made))
        return Where(devices, (made.learner.state, devices.along(None)), made)

    @cached_property
    def _places(self) -> Where:
        """Where what is learned from lies on several devices."""
        devices, shapes = self.devices, self._shapes
        assert devices is not None
        learner = devices.share_out(shapes.learner, None).replace(buffer=devices.ring(shapes.learner.buffer))
        acting = (devices.share_out(part, None) for part in (shapes.act_input, shapes.act_state))
        made = tuple(map(flat, (learner, *acting)))
        by_env = (
            1 if len(self.seeds) == 1 else None
        )  # [T, L, ...] has the seeds' environments one after another
        rollout = devices.share_out(self._rollout.tree, by_env)
        return Where(devices, (*made, rollout, devices.along(None)), made)

    @cached_property
    def _shapes(self) -> OnDevice:
        states = jax.eval_shape(lambda: self.initial(self.seed_array))
        return self.begin.shapes(states, self.seed_array)

    def _tree(self, part: str, leaves: Leaves) -> Any:
        return jax.tree.unflatten(jax.tree.structure(getattr(self._shapes, part)), leaves)

    def _begin(self, state: Tree, seeds: Array) -> OnDevice:
        def one(state: Tree, seed: Array) -> OnDevice:
            keys, zero = Keys.of(seed), jnp.zeros((), jnp.int32)
            memory = self.memory.begin(keys.memory, jnp.zeros(self.spec.num_envs, jnp.int32))
            row, buffer, metrics = initial_row(self.algorithm, self.cfg, self.spec, state)
            learner = Learner(state, buffer, zero, metrics, Counter(zero))
            extras = jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape), x.dtype), row.extras)
            row_keys = RowKeys.of_rollout(keys, zero, self.rows)
            act_input = ActInput(self.algorithm.actor(state), row_keys)
            return strip_weak_types(OnDevice(learner, act_input, ActState(memory, extras, Counter(zero))))

        return over_seeds(one, state, seeds)

    def _act(self, warm: bool):
        def act(act_input: Leaves, act_state: Leaves, obs: Tree) -> tuple[Leaves, Array]:
            """From observations [L, ...] to actions [L, ...]."""
            shape = len(self.seeds), self.spec.num_envs
            by_seed = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), obs)
            parts = self._tree("act_input", act_input), self._tree("act_state", act_state)
            after, action = over_seeds(one, *parts, by_seed)
            return flat(after), action.reshape(-1, *action.shape[2:])

        def one(act_input: ActInput, act_state: ActState, obs: Tree) -> tuple[ActState, Array]:
            row = act_state.row.value
            keys = jax.tree.map(lambda rows: rows[row], act_input.keys)
            action, memory, extras = act_or_warm_up(
                self.algorithm, self.cfg, self.spec, act_input.actor, act_state.memory, obs, keys, warm
            )
            written = jax.tree.map(lambda rows, x: rows.at[row].set(x), act_state.extras, extras)
            return strip_weak_types((ActState(memory, written, act_state.row.plus(1)), action))

        return act

    def _learn(self, warm: bool):
        def learned(
            learner: Leaves, act_input: Leaves, act_state: Leaves, rollout: Transition, seeds: Array
        ) -> tuple[Leaves, ...]:
            def by_seed(x: Array) -> Array:  # [T, L, ...] as [S, T, N, ...]
                x = x.reshape(self.rows, len(self.seeds), self.spec.num_envs, *x.shape[2:])
                return jnp.moveaxis(x, 1, 0)

            leaves = OnDevice(learner, act_input, act_state)
            before = [self._tree(part, getattr(leaves, part)) for part in OnDevice._fields]
            after = over_seeds(one, *before, jax.tree.map(by_seed, rollout), seeds)
            return tuple(map(flat, after))

        def one(
            learner: Learner, act_input: ActInput, act_state: ActState, rollout: Transition, seed: Array
        ) -> OnDevice:
            keys, iteration = Keys.of(seed), learner.iteration
            key = jax.random.fold_in(keys.learn, iteration.value)
            rollout = padded(self.cfg.data, rollout._replace(extras=act_state.extras), jnp)
            state, buffer, metrics = self.learn_from(
                self.algorithm, self.cfg, self.spec, learner.state, learner.buffer, rollout, key, warm
            )
            updates, sums = learner.updates, learner.metrics
            if not warm:
                updates, sums = updates + self.cfg.data.updates, jax.tree.map(jnp.add, sums, metrics)
            learner = Learner(state, buffer, updates, sums, iteration.plus(1))
            row_keys = RowKeys.of_rollout(keys, learner.iteration.value, self.rows)
            if not warm:
                row_keys = row_keys._replace(uniform=act_input.keys.uniform)  # never drawn from again
            act_input = ActInput(self.algorithm.actor(state), row_keys)
            act_state = act_state.replace(row=Counter(jnp.zeros((), jnp.int32)))
            return strip_weak_types(OnDevice(learner, act_input, act_state))

        return learned

    def _row_keys(self, seeds: Array, iteration: Array) -> RowKeys:
        """Of the rows of a rollout."""

        def one(seed: Array) -> RowKeys:
            return RowKeys.of_rollout(Keys.of(seed, self.worker), iteration.astype(jnp.int32), self.rows)

        return over_seeds(one, seeds)

    @cached_property
    def _rollout(self) -> Flattened:
        """The shapes of what `_collect` returns."""
        _, act_input, act_state = [flat(part) for part in self._shapes]
        obs = self._slots_shape(self.spec.obs)
        _, action = self.act[self.warmup > 0].shapes(act_input, act_state, obs)
        reward, flag = (jax.ShapeDtypeStruct((self.count,), kind) for kind in (np.float32, np.bool_))
        row = Transition(obs, action, reward, obs, flag, flag)
        return Flattened(jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.rows, *x.shape), x.dtype), row))

    @cached_property
    def _inspect(self) -> Inspection:
        return Inspection(self.spec, self.seeds, self._rollout.tree, self.strict, self.first)

    def _slots_shape(self, space: Tree) -> Tree:
        """The shapes [L, ...] of a point of this space from every slot."""
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct((self.count, *s.shape), s.dtype), space)

"""The driver for JAX environments: collect and learn in one compiled loop, for one seed or many."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import validate
from polyak.drivers.act import act_or_warm_up, actors, seen
from polyak.drivers.devices import Devices, Where
from polyak.drivers.episodes_graph import Episodes, Player, check_environment
from polyak.drivers.keys import Keys, RowKeys
from polyak.drivers.learn import initial_row, initializer, learn
from polyak.drivers.measures import metric_name
from polyak.drivers.padding import padded
from polyak.drivers.program import Program, anywhere, at_step_zero, options_for, over_seeds, zeros
from polyak.envs.environment import Environment
from polyak.errors import EnvironmentFault
from polyak.interface import Algorithm, Array, Spec, Transition, Tree, rows_of
from polyak.pytree import Counter, Record, pytree, strip_weak_types


@pytree
class LogSums(Record):
    """Sums that a log line is made of, since the last one."""

    episodes: Array  # how many ended
    total: Array  # of their returns
    length: Array  # of their lengths
    measures: dict[str, Array]  # of their measures
    updates: Array  # how many were made
    metrics: dict[str, Array]  # of their metrics

    def add_ended(self, episodes: Episodes, ended: Array) -> "LogSums":
        """With the episodes that ended in this step, where `ended` [N] is set."""

        def plus(sum: Array, each: Array) -> Array:
            return sum + jnp.where(ended, each, 0).sum(dtype=each.dtype)

        return self.replace(
            episodes=self.episodes + ended.sum(dtype=jnp.int32),
            total=plus(self.total, episodes.total),
            length=plus(self.length, episodes.length),
            measures=jax.tree.map(plus, self.measures, episodes.measures),
        )


@pytree
class GraphRun(Record):
    """The whole run: [S, ...], but for what all seeds share."""

    state: Tree
    buffer: Any
    episodes: Episodes
    sums: LogSums
    fault: Array  # (row, environment, field) of what no environment may give, else -1
    iteration: Counter  # rollouts since the run began
    outside: tuple[Array, Array, Array]  # count, place and value of `validate.Look`, since the last `advance`


def packed(run: GraphRun) -> dict[str, Any]:
    """What a checkpoint holds of a run, by field."""
    return {name: value for name, value in vars(run).items() if name != "outside"}


class InGraph:
    """Advances S runs together. See `Driver` for its promises.

    devices  several that the environments of each seed, and every batch, are shared out among
    """

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        env: Environment,
        spec: Spec,
        seeds: Sequence[int],
        strict: bool = False,
        devices: Devices | None = None,
    ):
        self.devices = devices
        self.algorithm, self.cfg, self.env, self.spec, self.seeds = algorithm, cfg, env, spec, tuple(seeds)
        self.strict = strict
        self.action = env.spec.action  # in the environment's own shape
        self.rows = rows_of(cfg.data, spec.time_limit)
        self.env_steps = self.rows * spec.num_envs  # of one seed in one iteration
        self.warmup = cfg.data.warmup_rollouts(spec.num_envs)
        options = options_for(cfg.data)
        where = (lambda: self._places) if devices else None
        self.program = {
            warm: Program(self._chunk(warm), donate=(0,), options=options, where=where)
            for warm in (True, False)
        }
        self.begin = Program(self._begin, where=self._where_begun if devices else None)
        self.read = actors(algorithm)
        self.initial = initializer(algorithm, cfg, spec)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.inexact: list[int] = []  # a JAX environment always comes back exactly
        self.watch: Callable[[int], bool] | None = None  # never asked: a compiled rollout is not left
        self.notes: dict[str, str] = {}

    def of(self, seeds: Sequence[int]) -> "InGraph":
        """The same programs for other seeds, of which there must be as many."""
        if len(seeds) != len(self.seeds):
            raise ValueError(f"{len(seeds)} seeds, but these programs are for {len(self.seeds)}")
        other = copy.copy(self)
        other.seeds, other.seed_array = tuple(seeds), np.asarray(seeds, np.uint32)
        other.notes = {}
        return other

    def start(self, states: Tree | None = None) -> GraphRun:
        """A run that has not stepped. Raises EnvironmentFault where shapes or dtypes are not the spec's."""
        check_environment(self.env, self.spec)
        if states is None:
            states = self.initial(self.seed_array)
        return self.begin(states, self.seed_array)

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run in the warm-up or after it; only shapes are needed, no run."""
        if self.program[warm].compiled is None:
            self.program[warm].compile(self._shapes, self.seed_array, 0)

    def advance(self, run: GraphRun, iterations: int) -> GraphRun:
        """The run, `iterations` rollouts on."""
        warm = min(max(self.warmup - int(run.iteration), 0), iterations)
        for is_warm, count in ((True, warm), (False, iterations - warm)):
            if count:
                run = self.program[is_warm](run, self.seed_array, count)
        try:
            self._check(run)
        except EnvironmentFault as fault:
            fault.run = run
            raise
        return self._note_outside(run) if np.asarray(run.outside[0]).any() else run

    def _check(self, run: GraphRun) -> None:
        """Raise EnvironmentFault for what the programs found."""
        fault = np.asarray(run.fault)
        for seed, (row, env, field) in zip(self.seeds, fault.tolist(), strict=True):
            if row != validate.NOTHING:
                raise validate.error_for(self.spec, row % 2**32, env, field, seed, strict=self.strict)
        validate.check_metrics(run.sums.metrics, int(run.iteration))

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape; `compile` compiles again what they change."""
        self.cfg, self.warmup = cfg, cfg.data.warmup_rollouts(self.spec.num_envs)
        self.initial = initializer(self.algorithm, cfg, self.spec)
        for warm, program in self.program.items():
            program.renew(self._chunk(warm))

    def restart(self, run: GraphRun) -> GraphRun:
        """The run with every clock at environment step 0."""
        return run.replace(state=at_step_zero(run.state))

    def pack(self, run: GraphRun) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays by field, and plain values."""
        return packed(run), {}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        return packed(self._shapes)

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () where nothing is kept."""
        return self._shapes.buffer

    def unpack(self, tree: Tree, extra: dict) -> GraphRun:
        """The run that was packed."""
        if self.devices is None:
            arrays = jax.tree.map(jnp.array, tree)
        else:
            arrays = jax.device_put(tree, packed(self._places.made))
        return GraphRun(**arrays, outside=zeros(self._shapes.outside))

    def report(self, run: GraphRun) -> tuple[GraphRun, dict[str, np.ndarray]]:
        """The run with empty sums, and the sums since the last report as NumPy arrays [S]."""
        sums = jax.tree.map(np.array, run.sums)
        flat = {
            "episodes": sums.episodes,
            "episode/return": sums.total,
            "episode/length": sums.length,
            "updates": sums.updates,
        }
        flat |= {f"episode/{name}": value for name, value in sums.measures.items()}
        flat |= {metric_name(name): value for name, value in sums.metrics.items()}
        return run.replace(sums=zeros(run.sums)), flat

    def actor(self, run: GraphRun) -> Tree:
        """The newest actor, [S, ...]."""
        return self.read(self.learned(run))

    def learned(self, run: GraphRun) -> Tree:
        """The algorithm's state, [S, ...]."""
        return run.state if self.devices is None else self.devices.first(run.state)

    def with_learned(self, run: GraphRun, state: Tree) -> GraphRun:
        """The run with another state, which its next rollout is acted with."""
        return run.replace(state=state)

    def close(self) -> None:
        """Nothing to release."""

    def _note_outside(self, run: GraphRun) -> GraphRun:
        """Note the first observation outside its bounds; the run with none on its list."""
        count, place, value = map(np.asarray, run.outside)
        first = int(count.astype(bool).argmax())
        where = place[first].astype(np.int64)
        where[0] %= 2**32
        found = validate.nothing(np)._replace(count=count[first], place=where, value=value[first])
        rows = int(run.iteration) * self.env_steps
        note = validate.outside_note(self.spec, found, self.seeds[first], rows)
        self.notes.setdefault("outside", note)
        return run.replace(outside=zeros(run.outside))

    # ---- what is compiled

    def _where_begun(self) -> Where:
        where, _, everywhere = self._places.given
        return Where(self._places.devices, (where.state, everywhere), where)

    @cached_property
    def _places(self) -> Where:
        """Where a run lies on several devices."""
        assert self.devices is not None
        shapes, everywhere = self._shapes, self.devices.along(None)
        run = self.devices.share_out(shapes, None).replace(
            episodes=self.devices.share_out(shapes.episodes, 1), buffer=self.devices.ring(shapes.buffer)
        )
        return Where(self.devices, (run, everywhere, everywhere), run)

    @cached_property
    def _shapes(self) -> GraphRun:
        states = jax.eval_shape(lambda: self.initial(self.seed_array))
        return self.begin.shapes(states, self.seed_array)

    def _player(self, keys: Keys) -> Player:
        spec, ids = self.spec, jnp.arange(self.spec.num_envs)
        given = self.algorithm, self.cfg, self.env, spec, self.action, keys.env, ids
        return Player(*given, spec.time_limit, self.cfg.data.common)

    def _begin(self, state: Tree, seeds: Array) -> GraphRun:
        def one(state: Tree, seed: Array) -> GraphRun:
            keys = Keys.of(seed)
            zero = jnp.zeros((), jnp.int32)
            episodes = self._player(keys).begin(jnp.zeros(self.spec.num_envs, jnp.int32), keys.memory)
            _, buffer, metrics = initial_row(self.algorithm, self.cfg, self.spec, state)
            measures = {name: jnp.zeros(()) for name in self.spec.measures}
            sums = LogSums(zero, jnp.zeros(()), zero, measures, zero, metrics)
            fault, *outside = validate.nothing(jnp)
            run = GraphRun(state, buffer, episodes, sums, fault, Counter(zero), tuple(outside))
            return strip_weak_types(run)

        return over_seeds(one, state, seeds)

    def _chunk(self, warm: bool):
        def chunk(run: GraphRun, seeds: Array, count: Array) -> GraphRun:
            def one(run: GraphRun, seed: Array) -> GraphRun:
                keys = Keys.of(seed)

                def iterate(_: Array, run: GraphRun) -> GraphRun:
                    return strip_weak_types(self._iterate(run, keys, warm))

                return jax.lax.fori_loop(0, count, iterate, run)

            return over_seeds(one, run, seeds)

        return chunk

    def _iterate(self, run: GraphRun, keys: Keys, warm: bool) -> GraphRun:
        """One rollout, and what is learned from it."""
        iteration = run.iteration.value
        first = iteration * self.rows
        episodes, sums, rollout = self._collect(run, keys, warm)
        found = validate.look(self.spec, rollout, jnp, self.strict, self._where_any)
        of_run = [
            jnp.where(x[0] == validate.NOTHING, x, x.at[0].add(first)) for x in (found.fault, found.place)
        ]
        fault = jnp.where(run.fault[0] == validate.NOTHING, of_run[0], run.fault)
        count, place, value = run.outside
        fresh = count == 0
        outside = (
            count + found.count,
            jnp.where(fresh, of_run[1], place),
            jnp.where(fresh, found.value, value),
        )
        valid = ~anywhere(fault[0] != validate.NOTHING)
        key = jax.random.fold_in(keys.learn, iteration)
        state, buffer, metrics = learn(
            self.algorithm, self.cfg, self.spec, run.state, run.buffer, rollout, key, warm, valid
        )
        if not warm:
            sums = sums.replace(
                updates=sums.updates + self.cfg.data.updates,
                metrics=jax.tree.map(jnp.add, sums.metrics, metrics),
            )
        return GraphRun(state, buffer, episodes, sums, fault, run.iteration.plus(1), outside)

    @staticmethod
    def _where_any(found: Array, closely: Callable[[], validate.Look]) -> validate.Look:
        """Look closely where something was found in any seed."""
        return jax.lax.cond(anywhere(found), closely, lambda: validate.nothing(jnp))

    def _collect(self, run: GraphRun, keys: Keys, warm: bool) -> tuple[Episodes, LogSums, Transition]:
        """T steps of N environments, or whole episodes of each: a rollout [T, N, ...]."""
        player, actor = self._player(keys), self.algorithm.actor(run.state)

        iteration = run.iteration.value
        until = (iteration + 1) * self.cfg.data.episodes  # the first episode that is none of this rollout's

        def row(carry: tuple[Episodes, LogSums], which: tuple[Array, RowKeys]) -> tuple[tuple, Transition]:
            (episodes, sums), (number, row_keys) = carry, which
            asked = episodes.number < until if self.cfg.data.episodes else None
            action, memory, extras = act_or_warm_up(
                self.algorithm,
                self.cfg,
                self.spec,
                actor,
                episodes.memory,
                seen(self.cfg, episodes),
                row_keys,
                warm,
            )
            episodes, row = player.step(episodes, action, memory, extras)
            ended = row.last
            sums = sums.add_ended(episodes, ended if asked is None else ended & asked)

            def reset_ended() -> Episodes:
                return player.reset_ended(episodes, ended, jax.random.fold_in(keys.memory, number + 1))

            episodes = jax.lax.cond(anywhere(ended), reset_ended, lambda: strip_weak_types(episodes))
            return (episodes, sums), strip_weak_types(row)

        numbers = iteration * self.rows + jnp.arange(self.rows)
        rows = numbers, RowKeys.of_rollout(keys, iteration, self.rows)
        if not self.cfg.data.episodes:
            (episodes, sums), rollout = jax.lax.scan(row, (run.episodes, run.sums), rows)
            return episodes, sums, rollout

        def playing(carry: tuple[Array, tuple[Episodes, LogSums], Transition]) -> Array:
            t, (episodes, _), _ = carry
            return (t < self.rows) & anywhere(episodes.number < until)

        def next_row(carry: tuple[Array, tuple[Episodes, LogSums], Transition]) -> tuple:
            t, played, rollout = carry
            played, added = row(played, jax.tree.map(lambda x: x[t], rows))
            return t + 1, played, jax.tree.map(lambda x, new: x.at[t].set(new), rollout, added)

        shapes = jax.eval_shape(row, (run.episodes, run.sums), jax.tree.map(lambda x: x[0], rows))[1]
        empty = jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape), x.dtype), shapes)
        start = jnp.zeros((), jnp.int32), (run.episodes, run.sums), empty
        _, (_, sums), rollout = jax.lax.while_loop(playing, next_row, start)
        # What an environment played after its last episode, while others were at theirs, is forgotten.
        key_memory = jax.random.fold_in(keys.memory, (iteration + 1) * self.rows)
        episodes = player.begin(jnp.full_like(run.episodes.number, until), key_memory)
        return strip_weak_types(episodes), sums, padded(self.cfg.data, rollout, jnp)

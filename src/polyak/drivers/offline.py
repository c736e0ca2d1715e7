"""The driver of runs that take no environment step.

They learn from the rows that their replay was filled with, or plan by the environment's rules, which needs no rows.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import validate
from polyak.drivers.act import actors
from polyak.drivers.keys import Keys
from polyak.drivers.learn import initial_row, initializer, learn
from polyak.drivers.measures import metric_name
from polyak.drivers.program import Program, at_step_zero, options_for, over_seeds, zeros
from polyak.interface import Algorithm, Array, Spec, Tree
from polyak.pytree import Counter, Record, pytree, strip_weak_types


@pytree
class OfflineRun(Record):
    """The whole run: [S, ...], but for what all seeds share."""

    state: Tree
    buffer: Any
    episodes: dict[str, Array]  # length [S, N], 0: none has begun
    updates: Array  # made since the last report
    metrics: dict[str, Array]  # their sums
    iteration: Counter  # since the run began


class Offline:
    """Advances S runs together, in one program. See `Driver` for its promises.

    An iteration has no rows: it is the updates that follow a rollout elsewhere, on a ring that stays as it is, or
    without one.
    """

    def __init__(self, algorithm: Algorithm, cfg: Any, spec: Spec, seeds: Sequence[int]):
        self.algorithm, self.cfg, self.spec, self.seeds = algorithm, cfg, spec, tuple(seeds)
        self.rows = self.env_steps = self.warmup = 0
        self.program = Program(self._chunk, donate=(0,), options=options_for(cfg.data))
        self.begin = Program(self._begin)
        self.read = actors(algorithm)
        self.initial = initializer(algorithm, cfg, spec)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.inexact: list[int] = []
        self.watch: Callable[[int], bool] | None = None  # never asked: there is no rollout to leave
        self.notes: dict[str, str] = {}

    def start(self, states: Tree | None = None) -> OfflineRun:
        """A run that has not learned; its ring, if it has one, is empty."""
        if states is None:
            states = self.initial(self.seed_array)
        return self.begin(states, self.seed_array)

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run; there is no warm-up."""
        if self.program.compiled is None:
            self.program.compile(self._shapes, self.seed_array, 0)

    def advance(self, run: OfflineRun, iterations: int) -> OfflineRun:
        """The run, `iterations` times the updates of one iteration on."""
        run = self.program(run, self.seed_array, iterations)
        validate.check_metrics(run.metrics, int(run.iteration))
        return run

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape; `compile` compiles again what they change."""
        self.cfg, self.initial = cfg, initializer(self.algorithm, cfg, self.spec)
        self.program.renew(self._chunk)

    def restart(self, run: OfflineRun) -> OfflineRun:
        """The run with every clock at environment step 0, where they are anyway."""
        return run.replace(state=at_step_zero(run.state))

    def pack(self, run: OfflineRun) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays by field, and plain values."""
        return dict(vars(run)), {}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        return dict(vars(self._shapes))

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () where it plans."""
        return self._shapes.buffer

    def unpack(self, tree: Tree, extra: dict) -> OfflineRun:
        """The run that was packed."""
        return OfflineRun(**jax.tree.map(jnp.array, tree))

    def report(self, run: OfflineRun) -> tuple[OfflineRun, dict[str, np.ndarray]]:
        """The run with empty sums, and the sums since the last report as NumPy arrays [S]."""
        none = np.zeros(len(self.seeds), np.int32)
        flat = {"episodes": none, "updates": np.array(run.updates)}
        flat |= {metric_name(name): np.array(value) for name, value in run.metrics.items()}
        updates, metrics = zeros((run.updates, run.metrics))
        return run.replace(updates=updates, metrics=metrics), flat

    def actor(self, run: OfflineRun) -> Tree:
        """The newest actor, [S, ...]."""
        return self.read(run.state)

    def close(self) -> None:
        """Nothing to release."""

    # ---- what is compiled

    @cached_property
    def _shapes(self) -> OfflineRun:
        states = jax.eval_shape(lambda: self.initial(self.seed_array))
        return self.begin.shapes(states, self.seed_array)

    def _begin(self, state: Tree, seeds: Array) -> OfflineRun:
        def one(state: Tree, seed: Array) -> OfflineRun:
            _, buffer, metrics = initial_row(self.algorithm, self.cfg, self.spec, state)
            length, zero = jnp.zeros(self.spec.num_envs, jnp.int32), jnp.zeros((), jnp.int32)
            run = OfflineRun(state, buffer, {"length": length}, zero, metrics, Counter(zero))
            return strip_weak_types(run)

        return over_seeds(one, state, seeds)

    def _chunk(self, run: OfflineRun, seeds: Array, count: Array) -> OfflineRun:
        def one(run: OfflineRun, seed: Array) -> OfflineRun:
            keys = Keys.of(seed)

            def iterate(_: Array, run: OfflineRun) -> OfflineRun:
                key = jax.random.fold_in(keys.learn, run.iteration.value)
                state, buffer, metrics = learn(
                    self.algorithm, self.cfg, self.spec, run.state, run.buffer, None, key
                )
                return strip_weak_types(
                    run.replace(
                        state=state,
                        buffer=buffer,
                        updates=run.updates + self.cfg.data.updates,
                        metrics=jax.tree.map(jnp.add, run.metrics, metrics),
                        iteration=run.iteration.plus(1),
                    )
                )

            return jax.lax.fori_loop(0, count, iterate, run)

        return over_seeds(one, run, seeds)

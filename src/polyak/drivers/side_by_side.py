"""Seeds side by side on the cores of a CPU: one compiled program, run for each seed on its own.

A program that does S seeds at once, as an accelerator wants it, is slower on a CPU than S runs after one another:
what one update touches fits into a core's cache, what S updates touch does not; and small operations are cut
between threads at a cost that is higher than the operations. So every core advances a seed of its own.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any

import jax
import numpy as np

from polyak.drivers.episodes_graph import check_environment
from polyak.drivers.in_graph import GraphRun, InGraph, packed
from polyak.drivers.program import map_seeded
from polyak.envs.environment import Environment
from polyak.errors import EnvironmentFault
from polyak.interface import Algorithm, Spec, Tree
from polyak.pytree import Concatenated


class SideBySide:
    """Advances S runs, each bit for bit the run of its seed alone. See `Driver` for its promises."""

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        env: Environment,
        spec: Spec,
        seeds: Sequence[int],
        threads: int,
        strict: bool = False,
    ):
        first = InGraph(algorithm, cfg, env, spec, seeds[:1], strict)
        self.singles = [first.of((seed,)) for seed in seeds]
        self.one = first  # whose programs are those of all
        self.seeds, self.rows, self.env_steps, self.warmup = (
            tuple(seeds),
            first.rows,
            first.env_steps,
            first.warmup,
        )
        self.inexact: list[int] = []
        self.watch: Callable[[int], bool] | None = None  # never asked: a compiled rollout is not left
        self.notes: dict[str, str] = {}
        self.pool = ThreadPoolExecutor(threads, "polyak-seed")

    def start(self, states: Tree | None = None) -> list[GraphRun]:
        """Runs that have not stepped. Raises EnvironmentFault where shapes or dtypes are not the spec's."""
        check_environment(self.one.env, self.one.spec)
        if states is None:
            states = self.one.initial(np.asarray(self.seeds, np.uint32))
        states = jax.tree.map(np.asarray, states)
        return [
            single.begin(share(states, index), single.seed_array) for index, single in enumerate(self.singles)
        ]

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run in the warm-up or after it: once for all seeds."""
        self.one.compile(warm)

    def advance(self, run: list[GraphRun], iterations: int) -> list[GraphRun]:
        """`iterations` rollouts on in every run. Raises EnvironmentFault of the first seed that has one."""
        going = [
            self.pool.submit(single.advance, one, iterations)
            for single, one in zip(self.singles, run, strict=True)
        ]
        wait(going)
        for single in self.singles:
            self.notes = single.notes | self.notes
        faults = [one.exception() for one in going]
        first = next(filter(None, faults), None)
        if first is None:
            return [one.result() for one in going]
        if all(isinstance(fault, EnvironmentFault | None) for fault in faults):
            newest = [
                fault.run if isinstance(fault, EnvironmentFault) else one.result()
                for one, fault in zip(going, faults, strict=True)
            ]
            raise EnvironmentFault(str(first), newest) from first
        raise first

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape; `compile` compiles again what they change."""
        self.one.refit(cfg)
        self.warmup = self.one.warmup
        for single in self.singles:
            single.cfg, single.warmup = cfg, self.warmup

    def restart(self, run: list[GraphRun]) -> list[GraphRun]:
        """The runs with every clock at environment step 0."""
        return [single.restart(one) for single, one in zip(self.singles, run, strict=True)]

    def pack(self, run: list[GraphRun]) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays [S, ...] by field, and plain values."""
        return packed(joined(run)), {}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        return packed(self._shapes)

    def buffer_shape(self) -> Any:
        """The shapes of the replay rings [S, C, N, ...], or () on policy."""
        return self._shapes.buffer

    def unpack(self, tree: Tree, extra: dict) -> list[GraphRun]:
        """The runs that were packed."""
        return [single.unpack(share(tree, index), extra) for index, single in enumerate(self.singles)]

    def report(self, run: list[GraphRun]) -> tuple[list[GraphRun], dict[str, np.ndarray]]:
        """The sums since the last report as NumPy arrays [S], and the runs with empty ones."""
        reports = [single.report(one) for single, one in zip(self.singles, run, strict=True)]
        sums = [flat for _, flat in reports]
        return [one for one, _ in reports], {
            name: np.concatenate([flat[name] for flat in sums]) for name in sums[0]
        }

    def actor(self, run: list[GraphRun]) -> Tree:
        """The newest actor, [S, ...]."""
        parts = [single.actor(one) for single, one in zip(self.singles, run, strict=True)]
        return jax.tree.map(np.asarray, joined(parts))

    def close(self) -> None:
        """Let the threads go."""
        self.pool.shutdown()

    @cached_property
    def _shapes(self) -> GraphRun:
        """The shapes of all runs together, those of one seed for each of S."""
        several = len(self.seeds)
        shape = lambda x: jax.ShapeDtypeStruct((several, *x.shape[1:]), x.dtype)  # noqa: E731
        return map_seeded(shape, self.one._shapes)


def share(tree: Any, index: int) -> Any:
    """One seed's leaves [1, ...] of leaves [S, ...], and what seeds share."""
    return map_seeded(lambda x: x[index : index + 1], tree)


def joined(trees: list[Any]) -> Any:
    """One tree of leaves [S, ...] of S trees of leaves [1, ...]; what seeds share is the first one's."""
    return map_seeded(lambda *parts: Concatenated(parts), *trees)

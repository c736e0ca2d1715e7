"""The protocol of drivers: methods that the training loop calls, and their promises."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from polyak.interface import Tree


class Left(Exception):
    """The middle of a rollout was left, as `watch` asked: `run` is as it was after `iterations` whole ones."""

    def __init__(self, run: Any, iterations: int):
        super().__init__()
        self.run, self.iterations = run, iterations


class Driver(Protocol):
    """Advances the runs of S seeds together. A run is a value of the driver's own kind, which only it looks into.

    The order of events in one iteration: T times act on the newest parameters, step, and begin anew where an
    episode ended; then look at the rollout; then learn from it. How a run is cut into calls changes no bit of it.
    """

    seeds: tuple[int, ...]
    rows: int  # T, of every environment in one iteration
    env_steps: int  # of one seed in one iteration
    warmup: int  # iterations before the first update
    inexact: list[int]  # environments that the last `unpack` could not bring back exactly
    watch: (
        Callable[[int], bool] | None
    )  # told a few times a second how many rows a rollout has; true: leave it
    notes: dict[str, str]  # what a person should hear once, by a name that says what it is about

    def start(self, states: Tree | None = None) -> Any:
        """A run that has not stepped. Raises EnvironmentFault where shapes or dtypes are not the spec's.

        states  of the algorithm [S, ...] to begin with; None: those of its `init`
        """
        ...

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run in the warm-up or after it, from shapes alone; safe on another thread."""
        ...

    def advance(self, run: Any, iterations: int) -> Any:
        """The run, `iterations` rollouts on; the given one is used up. Compiles nothing that was compiled before.

        Raises EnvironmentFault before anything is learned from a rollout that holds what it must not; its `run` is
        the newest. Raises Left where `watch` asked for it and the rollout would have lasted.
        """
        ...

    def refit(self, cfg: Any) -> None:
        """Go on under other settings, which change no shape; `compile` compiles again what they change."""
        ...

    def restart(self, run: Any) -> Any:
        """The run with every clock at environment step 0: schedules begin anew, random numbers go on."""
        ...

    def pack(self, run: Any) -> tuple[Tree, dict]:
        """Everything that a checkpoint holds: arrays by name, with `state` and `buffer`, and plain values."""
        ...

    def template(self, extra: dict) -> Tree:
        """Shapes of the arrays that `pack` gave together with these plain values."""
        ...

    def buffer_shape(self) -> Any:
        """Shapes of the replay ring [S, C, N, ...], or () where nothing is kept."""
        ...

    def unpack(self, tree: Tree, extra: dict) -> Any:
        """The run that was packed, bit for bit, or consistent where `inexact` names environments."""
        ...

    def report(self, run: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """The run with empty sums, and the sums [S] since the last report by metric name.

        `episodes` and `updates` count what `episode/...` and `update/...` are sums over.
        """
        ...

    def actor(self, run: Any) -> Tree:
        """The newest actor, [S, ...]; `advance` does not change it."""
        ...

    def close(self) -> None:
        """Release environments, processes and threads."""
        ...

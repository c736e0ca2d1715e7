"""How every program that holds a ring is compiled, and how one function serves one seed or many."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import threefry
from polyak.drivers.devices import Where
from polyak.interface import Array, Clock, Tree
from polyak.pytree import Counter, copy

# Of every program that a driver compiles.
COMPILER_OPTIONS: dict[str, Any] = {}

# Of a program that holds a ring, and of no other: without it XLA's CPU backend copies the whole ring at every write
# (openxla #20440), but with it, it has left out a copy that was needed. OpenAI-ES's key was replaced before the loop
# that reads it, and its update was wrong.
WITH_RING = {"xla_cpu_copy_insertion_use_region_analysis": True}

# For a program of a few microseconds: its parts one after the other, since handing them to other threads takes
# longer than they do.
ONE_BY_ONE = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

SEED = "seed"  # the axis over seeds, known to drivers only


def options_for(data: Any) -> dict[str, Any]:
    """Options of a program that learns from this kind of data."""
    return WITH_RING if data.replays else {}


class Program:
    """A function compiled once, at its first call or by `compile`; other shapes are an error, never a new program.

    where  asked once it is compiled: where its arrays lie on several devices
    """

    def __init__(
        self,
        function: Callable,
        donate: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
        where: Callable[[], Where] | None = None,
    ):
        self.function, self.where = function, where
        self.options = {"donate_argnums": donate, "compiler_options": COMPILER_OPTIONS | (options or {})}
        self.jitted = jax.jit(function, **self.options)
        self.lowered: Any = None
        self.compiled: Any = None
        self.before: tuple[Any, Any] | None = None  # lowered and compiled, for the settings before
        self.compiling = threading.Lock()

    def renew(self, function: Callable) -> None:
        """Serve this function from here on, which is the old one under other settings.

        It is compiled again only if what is compiled differs.
        """
        if self.compiled is not None:
            self.before = self.lowered, self.compiled
        self.function = function
        self.jitted, self.lowered, self.compiled = jax.jit(function, **self.options), None, None

    def compile(self, *args: Any) -> Any:
        """Compile for arguments like these, arrays or shapes; if another thread is at it, wait."""
        with self.compiling:
            if self.compiled is None:
                with threefry.written_out():
                    self.lowered = self._lower(*args)
                if self.before and self.before[0].as_text() == self.lowered.as_text():
                    self.lowered, self.compiled = self.before
                else:
                    self.compiled = self.lowered.compile()
                self.before = None
        return self.compiled

    def _lower(self, *args: Any) -> Any:
        if self.where is None:
            return self.jitted.lower(*args)
        where = self.where()
        places = {"in_shardings": where.given, "out_shardings": where.made}
        with where.devices.in_use():
            return jax.jit(self.function, **places, **self.options).lower(*args)

    def shapes(self, *args: Any) -> Any:
        """The shapes of what it gives for arguments like these; what was traced for it serves `compile` too."""
        return self.jitted.eval_shape(*args)

    def __call__(self, *args: Any) -> Any:
        """Run it."""
        if self.where is not None:
            args = self.where().put(args)
        return (self.compiled or self.compile(*args))(*args)

    def text(self) -> str:
        """The compiled text, for tests that read it."""
        return self.compiled.as_text()


def zeros(tree: Tree) -> Tree:
    """Arrays like these that are zero, made without compiling anything."""
    return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree))


def is_shared(node: Any) -> bool:
    """Whether this part of a tree is one for all seeds: a counter that does not depend on data."""
    return isinstance(node, Clock | Counter)


def map_seeded(function: Callable, *trees: Tree) -> Tree:
    """Apply `function` to the leaves that each seed has of its own; what is shared is the first tree's."""
    return jax.tree.map(lambda x, *more: x if is_shared(x) else function(x, *more), *trees, is_leaf=is_shared)


def at_step_zero(tree: Tree) -> Tree:
    """A tree whose clocks have counted no environment step: schedules over them begin anew."""
    clock = lambda node: isinstance(node, Clock)  # noqa: E731
    return jax.tree.map(lambda x: x.at(0) if clock(x) else x, tree, is_leaf=clock)


def seed_axes(tree: Tree) -> Tree:
    """The axis of seeds of each leaf, as `vmap` wants it: 0, or None where it is shared."""

    def axis(part: Any) -> Any:
        return jax.tree.map(lambda _: None, part) if is_shared(part) else 0

    return jax.tree.map(axis, tree, is_leaf=is_shared)


def stack_seeds(trees: list[Tree]) -> Tree:
    """One tree [S, ...] of S trees of one seed each; what is shared is taken from the first."""
    first = jax.tree.map(lambda x: copy(x) if is_shared(x) else x, trees[0], is_leaf=is_shared)
    return map_seeded(lambda *leaves: jnp.stack(leaves), first, *trees[1:])


def over_seeds(function: Callable, *args: Tree) -> Tree:
    """Call `function`, written for one seed, on trees [S, ...] (what seeds share: [...]), as one program.

    One seed goes the same way: without the axis of seeds XLA's CPU backend copied the ring at every update.
    """
    structure, own = None, []

    def parted(*args: Tree) -> tuple[list[Any], list[Any]]:
        """The leaves that each seed has of its own, and those that are shared, told apart while they are traced."""
        nonlocal structure, own
        made = function(*args)
        leaves, structure = jax.tree.flatten(made)
        parts = jax.tree.leaves(made, is_leaf=is_shared)
        own = [not is_shared(part) for part in parts for _ in jax.tree.leaves(part)]
        both = list(zip(leaves, own, strict=True))
        return [x for x, mine in both if mine], [x for x, mine in both if not mine]

    in_axes = tuple(seed_axes(arg) for arg in args)
    each, shared = map(iter, jax.vmap(parted, in_axes, (0, None), axis_name=SEED)(*args))
    return jax.tree.unflatten(structure, [next(each if mine else shared) for mine in own])


def anywhere(flag: Array) -> Array:
    """Whether a flag is set in any environment of any seed: then `cond` stays one under vmap."""
    return jax.lax.pmax(jnp.any(flag).astype(jnp.int32), SEED) > 0

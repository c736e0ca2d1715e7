"""How every program that holds a ring is compiled, and how one function serves one seed or many."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import threefry
from polyak.interface import Array, Tree

# Without it XLA's CPU backend copies the whole ring at every write (openxla #20440).
COMPILER_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}

# For a program of a few microseconds: its parts one after the other, since handing them to other threads takes
# longer than they do.
ONE_BY_ONE = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

SHARED = frozenset({"clock", "iteration"})  # counters that do not depend on data: one for all seeds
SEED = "seed"  # the axis over seeds, known to drivers only


class Program:
    """A function compiled once, at its first call or by `compile`; other shapes are an error, never a new program."""

    def __init__(
        self, function: Callable, donate: tuple[int, ...] = (), options: dict[str, Any] | None = None
    ):
        options = COMPILER_OPTIONS | (options or {})
        self.jitted = jax.jit(function, donate_argnums=donate, compiler_options=options)
        self.compiled: Any = None
        self.compiling = threading.Lock()

    def compile(self, *args: Any) -> Any:
        """Compile for arguments like these, arrays or shapes; if another thread is at it, wait."""
        with self.compiling:
            if self.compiled is None:
                with threefry.written_out():
                    lowered = self.jitted.lower(*args)
                self.compiled = lowered.compile()
        return self.compiled

    def shapes(self, *args: Any) -> Any:
        """The shapes of what it gives for arguments like these; what was traced for it serves `compile` too."""
        return self.jitted.eval_shape(*args)

    def __call__(self, *args: Any) -> Any:
        """Run it."""
        return (self.compiled or self.compile(*args))(*args)

    def text(self) -> str:
        """The compiled text, for tests that read it."""
        return self.compiled.as_text()


def zeros(tree: Tree) -> Tree:
    """Arrays like these that are zero, made without compiling anything."""
    return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree))


def is_shared(path: tuple) -> bool:
    """A leaf below a field named in SHARED."""
    return any(getattr(key, "name", None) in SHARED for key in path)


def map_seeded(function: Callable, tree: Tree) -> Tree:
    """Apply `function` to the leaves that each seed has of its own."""
    return jax.tree_util.tree_map_with_path(lambda path, x: x if is_shared(path) else function(x), tree)


def seed_axes(tree: Tree) -> Tree:
    """The axis of seeds of each leaf, as `vmap` wants it: 0, or None where it is shared."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return jax.tree.unflatten(structure, [None if is_shared(path) else 0 for path, _ in leaves])


def stack_seeds(trees: list[Tree]) -> Tree:
    """One tree [S, ...] of S trees of one seed each; what is shared is taken from the first."""

    def join(path: tuple, *leaves: Array) -> Array:
        return jnp.array(leaves[0], copy=True) if is_shared(path) else jnp.stack(leaves)

    return jax.tree_util.tree_map_with_path(join, *trees)


def over_seeds(function: Callable, *args: Tree) -> Tree:
    """Call `function`, written for one seed, on trees [S, ...] (what seeds share: [...]), as one program.

    One seed goes the same way: without the axis of seeds XLA's CPU backend copied the ring at every update.
    """
    in_axes = tuple(seed_axes(arg) for arg in args)
    shapes = jax.eval_shape(jax.vmap(function, in_axes, axis_name=SEED), *args)
    return jax.vmap(function, in_axes, seed_axes(shapes), axis_name=SEED)(*args)


def anywhere(flag: Array) -> Array:
    """Whether a flag is set in any environment of any seed: then `cond` stays one under vmap."""
    return jax.lax.pmax(jnp.any(flag).astype(jnp.int32), SEED) > 0

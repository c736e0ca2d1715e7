"""JAX's random numbers on a CPU as straight code, in the programs that ask for it: the same bits without a loop.

JAX compiles its generator for a CPU as a loop over five groups of rounds, which XLA runs as some twenty small
programs for every draw. Written out, a draw is a single one, or part of what uses it; but there is more to compile.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from polyak.interface import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA

_written_out = ContextVar("written_out", default=False)


def threefry(key1: Array, key2: Array, x1: Array, x2: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds: two words of key and two of counter, uint32, to two random words.

    Source  Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC11)
    """
    keys = (key1, key2, key1 ^ key2 ^ jnp.uint32(PARITY))
    state = x1 + key1, x2 + key2, keys, ROTATIONS
    if _written_out.get():
        for group in range(5):
            state = four_rounds(group, state)
    else:
        state = jax.lax.fori_loop(0, 5, four_rounds, jax.tree.map(jnp.uint32, state))
    return state[0], state[1]


def four_rounds(group: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Four rounds, and the key's words added in; keys and rotations take turns from group to group."""
    x1, x2, (key1, key2, key3), (now, then) = state
    for i in range(4):
        x1 = x1 + x2
        x2 = (x2 << now[i] | x2 >> (32 - now[i])) ^ x1
    x1 = x1 + key2
    x2 = x2 + key3 + jnp.uint32(group + 1)
    return x1, x2, (key2, key3, key1), (then, now)


@contextlib.contextmanager
def written_out(wanted: bool = True) -> Iterator[None]:
    """Whether what is lowered here for a CPU draws its random numbers without a loop.

    JAX keeps what it has lowered for a function: one that was lowered outside stays as it is.
    """
    token = _written_out.set(wanted)
    try:
        yield
    finally:
        _written_out.reset(token)


mlir.register_lowering(threefry2x32_p, mlir.lower_fun(threefry, multiple_results=True), platform="cpu")

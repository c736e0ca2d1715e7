"""JAX's random numbers on a CPU as straight code: the same bits without a loop.

JAX compiles its generator for a CPU as a loop over five groups of rounds, which XLA runs as some twenty small
programs for every draw. Written out, a draw is a single one, or part of what uses it.
"""

import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from polyak.interface import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def threefry(key1: Array, key2: Array, x1: Array, x2: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds: two words of key and two of counter, uint32, to two random words.

    Source  Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC11)
    """
    keys = (key1, key2, key1 ^ key2 ^ jnp.uint32(PARITY))
    x1, x2 = x1 + key1, x2 + key2
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            x1 = x1 + x2
            x2 = (x2 << distance | x2 >> (32 - distance)) ^ x1
        x1 = x1 + keys[(group + 1) % 3]
        x2 = x2 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x1, x2


def write_out() -> None:
    """Let every program that is compiled for a CPU from now on draw its random numbers so."""
    mlir.register_lowering(threefry2x32_p, mlir.lower_fun(threefry, multiple_results=True), platform="cpu")

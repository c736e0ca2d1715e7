"""The one call of LAPACK that compiled programs make.

LAPACK is never given a batch: on a CPU JAX shares its matrices out among XLA's threads, and the one that shares them
out waits for the others. As many programs at once as there are threads, as seeds side by side are, then wait for ever.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from polyak.interface import Array


@jax.custom_batching.sequential_vmap
def eigh(matrix: Float[Array, "N N"]) -> tuple[Float[Array, " N"], Float[Array, "N N"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix; under `vmap` of one matrix after the other."""
    return jnp.linalg.eigh(matrix)

"""Natural gradients: products with the Fisher matrix and conjugate gradients, so that no matrix is ever made."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from polyak.interface import Array, Spec, Tree

Product = Callable[[Tree], Tree]  # from v to A v, trees of one structure


def inner(a: Tree, b: Tree) -> Array:
    """The inner product of two trees of arrays, a scalar."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def fisher_product(divergence: Callable[[Tree], Array], params: Tree, damping: ArrayLike = 0.0) -> Product:
    """V -> (F + damping I) v, with F the Hessian of a mean KL divergence at the parameters where it is 0.

    There the Hessian is the Fisher information matrix (Schulman et al. 2015, arXiv:1502.05477, appendix C).
    """

    def product(v: Tree) -> Tree:
        hessian = jax.jvp(jax.grad(divergence), (params,), (v,))[1]
        return jax.tree.map(lambda h, x: h + damping * x, hessian, v)

    return product


def once_differentiable(cfg: Any, spec: Spec) -> list[str]:
    """A line where the networks' gradient has no gradient of its own, which `fisher_product` asks for."""
    said = 'network = "batch_norm" cannot be differentiated twice, as a natural gradient needs: use mlp'
    return [said] if cfg.network == "batch_norm" else []


def conjugate_gradient(product: Product, b: Tree, iterations: int) -> tuple[Tree, Array]:
    """X with A x = b after some iterations from x = 0, and |b - A x| / |b| (Nocedal & Wright 2006, Alg. 5.2).

    product  A must be symmetric and positive definite
    """

    def add(x: Tree, scale: Array, y: Tree) -> Tree:
        return jax.tree.map(lambda x, y: x + scale * y, x, y)

    def iteration(_: Array, carry: tuple) -> tuple:
        x, residual, direction, square = carry
        along = product(direction)
        # once the residual is 0 there is nowhere to go
        step = jnp.where(square > 0, square / jnp.maximum(inner(direction, along), 1e-30), 0.0)
        x, residual = add(x, step, direction), add(residual, -step, along)
        after = inner(residual, residual)
        turn = jnp.where(square > 0, after / jnp.maximum(square, 1e-30), 0.0)
        return x, residual, add(residual, turn, direction), after

    zero = jax.tree.map(jnp.zeros_like, b)
    start = inner(b, b)
    x, _, _, square = jax.lax.fori_loop(0, iterations, iteration, (zero, b, b, start))
    return x, jnp.sqrt(square / jnp.maximum(start, 1e-30))

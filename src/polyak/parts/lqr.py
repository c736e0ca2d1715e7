"""Linear systems with quadratic costs, in a compiled graph: fits, Riccati's recursion, linear-Gaussian controllers.

z = (x, u) is a state and an action. Linear systems are solved without LAPACK; `eigen` says why.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from polyak.interface import Array
from polyak.parts.eigen import eigh

# ---- least squares


def eliminate(matrix: Float[Array, "N N"], right: Float[Array, "N M"]) -> tuple[Array, Array]:
    """X [N, M] with matrix X = right, and log det matrix, by Gauss-Jordan elimination (Golub & Van Loan, section 3.2).

    The matrix is symmetric and positive definite, so that no rows have to change places.
    """

    def column(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        table, log_det = carry
        row = table[i] / table[i, i]
        factor = jax.lax.dynamic_slice_in_dim(table, i, 1, axis=1)
        return (table - factor * row).at[i].set(row), log_det + jnp.log(table[i, i])

    size = len(matrix)
    table = jnp.concatenate([matrix, right], axis=1)
    table, log_det = jax.lax.fori_loop(0, size, column, (table, jnp.zeros((), table.dtype)))
    return table[:, size:], log_det


def solve(matrix: Float[Array, "N N"], right: Float[Array, "N M"]) -> Float[Array, "N M"]:
    """The X of matrix X = right; the matrix is symmetric and positive definite."""
    return eliminate(matrix, right)[0]


def products(z: Array) -> Array:
    """The products z_i z_j, i <= j, and 1: what a quadratic form is linear in; [..., Q] for z [..., Z]."""
    row, column = jnp.triu_indices(z.shape[-1])
    return jnp.concatenate([z[..., row] * z[..., column], jnp.ones((*z.shape[:-1], 1))], axis=-1)


def form(weights: Array, size: int) -> Array:
    """The symmetric matrix [..., Z, Z] of the quadratic form that has these weights [..., Z (Z + 1) / 2]."""
    row, column = jnp.triu_indices(size)
    upper = jnp.zeros((*weights.shape[:-1], size, size)).at[..., row, column].set(weights)
    return (upper + jnp.swapaxes(upper, -1, -2)) / 2


# ---- Riccati


def riccati_step(G: Float[Array, "Z Z"], states: int) -> tuple[Array, Array]:
    """The gain K [A, D] of the best u = K x, and the matrix P [D, D] of what it leaves, for the cost z^T G z."""
    # u = K x is where the slope in u is 0: K = -G_uu^-1 G_ux
    K = -solve(G[states:, states:], G[states:, :states])
    # P = G_xx + G_xu K
    P = G[:states, :states] + G[:states, states:] @ K
    return K, (P + P.T) / 2


class Model(NamedTuple):
    """A time-varying linear model x' = F z + f, with costs 1/2 z^T H z + h^T z; [T, ...] each."""

    F: Array  # [T, D, Z]
    f: Array  # [T, D]
    noise: Array  # [T, D, D] covariance of x' - F z - f
    H: Array  # [T, Z, Z]
    h: Array  # [T, Z]


def fit(
    x: Float[Array, "R D"],
    u: Float[Array, "R A"],
    after: Float[Array, "R D"],
    cost: Float[Array, " R"],
    weight: Float[Array, " R"],
    cell: Int[Array, " R"],
    cells: int,
    prior: float,
) -> tuple[Model, Array]:
    """A model [cells, ...] of the samples of each cell, by least squares, and the mean states [cells, D].

    What one model of all samples leaves over is fitted in each cell, around its mean; `prior` samples that leave
    nothing over are added there. H is made convex, with the slope at the mean kept as it is.
    """
    z = jnp.concatenate([x, u], axis=1)
    both, size, one = z.shape[1], x.shape[1], jnp.ones((len(z), 1))

    def quadratic(z: Array) -> Array:
        return jnp.concatenate([products(z), z], axis=1)

    def add_up(y: Array) -> Array:
        """Weighted sums over the samples of each cell."""
        return jnp.zeros((cells, *y.shape[1:])).at[cell].add(weight.reshape(-1, *[1] * (y.ndim - 1)) * y)

    def everywhere(phi: Array, y: Array) -> Array:
        ridge = 1e-4 * weight.sum() * jnp.eye(phi.shape[1])
        return solve(phi.T @ (weight[:, None] * phi) + ridge, phi.T @ (weight[:, None] * y))

    def locally(phi: Array, y: Array) -> Array:
        spread = phi.T @ (weight[:, None] * phi) / jnp.maximum(weight.sum(), 1) + 1e-6 * jnp.eye(phi.shape[1])
        gram = add_up(phi[:, :, None] * phi[:, None])
        return jax.vmap(solve)(gram + prior * spread, add_up(phi[:, :, None] * y[:, None]))

    count = jnp.maximum(add_up(one[:, 0]), 1)
    centre = add_up(z) / count[:, None]
    away = z - centre[cell]

    line = jnp.concatenate([z, one], axis=1)
    move = everywhere(line, after)
    local = locally(jnp.concatenate([away, one], axis=1), after - line @ move)
    F = jnp.swapaxes(move[:both] + local[:, :both], 1, 2)
    f = move[both] + local[:, both] - jnp.einsum("cz,czd->cd", centre, local[:, :both])
    error = after - jnp.einsum("rdz,rz->rd", F[cell], z) - f[cell]
    noise = add_up(error[:, :, None] * error[:, None]) / count[:, None, None]

    price = everywhere(quadratic(z), cost[:, None])[:, 0]
    local = locally(quadratic(away), (cost - quadratic(z) @ price)[:, None])[..., 0]
    bend, slope = 2 * form(price[: -both - 1], both), price[-both:]
    values, vectors = jax.vmap(eigh)(bend + 2 * form(local[:, : -both - 1], both))
    H = (vectors * jnp.maximum(values, 1e-4)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)
    h = slope + local[:, -both:] + centre @ bend - jnp.einsum("czy,cy->cz", H, centre)
    return Model(F, f, noise, H, h), centre[:, :size]


class Controller(NamedTuple):
    """Linear-Gaussian controllers p(u_t|x_t) = N(K_t x_t + k_t, C_t); [T, ...] each."""

    K: Array  # [T, A, D]
    k: Array  # [T, A]
    precision: Array  # [T, A, A] C^-1
    root: Array  # [T, A, A] the symmetric root of C

    @classmethod
    def of(cls, K: Array, k: Array, precision: Array) -> "Controller":
        """With the root that belongs to the precision."""
        values, vectors = jax.vmap(eigh)(precision)
        scaled = vectors / jnp.sqrt(jnp.maximum(values, 1e-12))[..., None, :]
        return cls(K, k, precision, scaled @ jnp.swapaxes(vectors, -1, -2))

    def mean(self, x: Array) -> Array:
        """The mean action [T, A] in states x [T, D]."""
        return (self.K * x[..., None, :]).sum(axis=-1) + self.k


def towards(model: Model, controller: Controller, weight: Array) -> Model:
    """The model whose costs have -weight log p(u|x) of a controller added; weight is [T], or one number."""
    both = jnp.concatenate(
        [-controller.K, jnp.broadcast_to(jnp.eye(controller.k.shape[-1]), controller.precision.shape)],
        axis=-1,
    )
    pull = jnp.swapaxes(both, -1, -2) @ controller.precision * jnp.reshape(weight, (-1, 1, 1))
    return model._replace(H=model.H + pull @ both, h=model.h - jnp.einsum("tza,ta->tz", pull, controller.k))


def backward(model: Model) -> tuple[Array, Array, Array]:
    """Gains K [T, A, D], offsets k [T, A] and curvatures Q_uu [T, A, A] (Tassa et al. 2012, eq. 5 and 6)."""
    states = model.F.shape[1]

    def step(carry: tuple[Array, Array], now: tuple) -> tuple[tuple[Array, Array], tuple]:
        V, v = carry
        F, f, H, h = now
        G = H + F.T @ V @ F
        g = h + F.T @ (V @ f + v)
        K, V = riccati_step(G, states)
        k = -solve(G[states:, states:], g[states:, None])[:, 0]
        return (V, g[:states] + G[:states, states:] @ k), (K, k, G[states:, states:])

    end = jnp.zeros((states, states)), jnp.zeros(states)
    return jax.lax.scan(step, end, (model.F, model.f, model.H, model.h), reverse=True)[1]


def forward(model: Model, controller: Controller, mean: Array, cov: Array) -> tuple[Array, Array]:
    """Mean [T, D] and covariance [T, D, D] of the states, from those of the first one."""

    def step(carry: tuple[Array, Array], now: tuple) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        x, S = carry
        F, f, noise, K, k, root = now
        size = len(x)
        closed = F[:, :size] + F[:, size:] @ K
        shake = F[:, size:] @ root
        S_after = closed @ S @ closed.T + shake @ shake.T + noise
        return (closed @ x + F[:, size:] @ k + f, (S_after + S_after.T) / 2), (x, S)

    moves = model.F, model.f, model.noise, controller.K, controller.k, controller.root
    return jax.lax.scan(step, (mean, cov), moves)[1]


def divergence(new: Controller, old: Controller, mean: Array, cov: Array) -> Float[Array, " T"]:
    """E[KL(new(.|x_t) || old(.|x_t))] where x_t has these means [T, D] and covariances [T, D, D]."""

    def one(new: Controller, old: Controller, mean: Array, cov: Array) -> Array:
        turn, size = new.K - old.K, len(new.k)
        apart = turn @ mean + new.k - old.k
        spread = new.root @ new.root.T + turn @ cov @ turn.T
        log_det = lambda matrix: eliminate(matrix, jnp.eye(size))[1]  # noqa: E731
        trace = (old.precision * spread).sum() + apart @ old.precision @ apart
        return 0.5 * (trace - size + log_det(new.precision) - log_det(old.precision))

    return jax.vmap(one)(new, old, mean, cov)

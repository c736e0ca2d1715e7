"""Distributions over actions, as pytrees: sample, log_prob, entropy, mode, kl.

A continuous event lies on the last axis, and its log-probability is summed over it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, digamma
from jaxtyping import Float, Int

from polyak.interface import Array
from polyak.pytree import Record, pytree


@pytree
class Categorical(Record):
    """One of A actions; a logit of -inf forbids one, and each row allows at least one."""

    logits: Array  # [..., A], not necessarily normalised

    def sample(self, key: jax.Array) -> Int[Array, "..."]:
        """An action for each row, [...] int32."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def log_prob(self, x: Int[Array, "..."]) -> Float[Array, "..."]:
        """The log-probability of actions 0 .. A-1, [...]; -inf for a forbidden one."""
        log_p = jax.nn.log_softmax(self.logits)
        chosen = jnp.arange(log_p.shape[-1]) == x[..., None]
        return jnp.where(chosen, log_p, 0.0).sum(-1)

    def entropy(self) -> Float[Array, "..."]:
        """-sum_a p(a) log p(a) in nats, [...]; a forbidden action adds nothing."""
        log_p = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_p) * jnp.where(jnp.isneginf(log_p), 0.0, log_p)).sum(-1)

    def mode(self) -> Int[Array, "..."]:
        """The most probable action, [...] int32."""
        return self.logits.argmax(-1).astype(jnp.int32)

    def kl(self, other: "Categorical") -> Float[Array, "..."]:
        """KL(self || other) in nats, [...]; inf where `other` forbids what this allows."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return (jnp.exp(log_p) * jnp.where(jnp.isneginf(log_p), 0.0, log_p - log_q)).sum(-1)


@pytree
class Normal(Record):
    """A Gaussian with diagonal covariance."""

    mean: Array  # [..., A]
    std: Array  # broadcasts with mean, positive

    def sample(self, key: jax.Array) -> Float[Array, "... A"]:
        """A draw mean + std * noise, [..., A]: differentiable in both."""
        return self.mean + self.std * jax.random.normal(key, self._shape, self.mean.dtype)

    def log_prob(self, x: Float[Array, "... A"]) -> Float[Array, "..."]:
        """The log-density at x [..., A], summed over the last axis."""
        z = (x - self.mean) / self.std
        return (-0.5 * z**2 - jnp.log(self.std) - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Float[Array, "..."]:
        """The sum of log(std sqrt(2 pi e)) in nats, [...]."""
        log_std = jnp.broadcast_to(jnp.log(self.std), self._shape)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def mode(self) -> Float[Array, "... A"]:
        """The mean."""
        return jnp.broadcast_to(self.mean, self._shape)

    def kl(self, other: "Normal") -> Float[Array, "..."]:
        """KL(self || other) in nats, [...]."""
        ratio = (self.std / other.std) ** 2
        z = (self.mean - other.mean) / other.std
        return 0.5 * (ratio + z**2 - 1 - jnp.log(ratio)).sum(-1)

    @property
    def _shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.mean.shape, self.std.shape)


@pytree
class MultivariateNormal(Record):
    """A Gaussian with covariance L L^T; everything about it is made of products with triangular matrices."""

    mean: Array  # [..., A]
    factor: Array  # L, [..., A, A] lower triangular with a positive diagonal

    def sample(self, key: jax.Array) -> Float[Array, "... A"]:
        """A draw mean + L noise, [..., A]: differentiable in both."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + (self.factor @ noise[..., None])[..., 0]

    def log_prob(self, x: Float[Array, "... A"]) -> Float[Array, "..."]:
        """The log-density at x [..., A]."""
        z = solve_lower(self.factor, x - self.mean)
        return (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1) - self._log_scale

    def entropy(self) -> Float[Array, "..."]:
        """Half of log det(2 pi e L L^T) in nats, [...]."""
        return self._log_scale + 0.5 * math.log(2 * math.pi * math.e) * self.mean.shape[-1]

    def mode(self) -> Float[Array, "... A"]:
        """The mean."""
        return self.mean

    def kl(self, other: "MultivariateNormal") -> Float[Array, "..."]:
        """KL(self || other) in nats, [...]."""
        columns = jnp.swapaxes(self.factor, -1, -2)
        ratio = solve_lower(
            other.factor[..., None, :, :], columns
        )  # of the two factors, a column in each row
        z = solve_lower(other.factor, self.mean - other.mean)
        spread = (ratio**2).sum((-1, -2)) + (z**2).sum(-1) - self.mean.shape[-1]
        return 0.5 * spread + other._log_scale - self._log_scale

    @property
    def _log_scale(self) -> Array:
        return jnp.log(jnp.diagonal(self.factor, axis1=-2, axis2=-1)).sum(-1)


def solve_lower(factor: Float[Array, "... A A"], x: Float[Array, "... A"]) -> Float[Array, "... A"]:
    """The z [..., A] with L z = x, by forward substitution: LAPACK, batched over seeds, could block for ever."""
    z = []
    for i in range(x.shape[-1]):
        z.append(x[..., i] / factor[..., i, i])
        x = x - factor[..., :, i] * z[i][..., None]
    return jnp.stack(z, axis=-1)


@pytree
class TanhNormal(Record):
    """The tanh of a diagonal Gaussian u, Haarnoja et al. 2018 (arXiv:1812.05905), appendix C."""

    mean: Array  # [..., A] of u
    std: Array  # of u

    def sample(self, key: jax.Array) -> Float[Array, "... A"]:
        """An action in [-1, 1], [..., A]; it can round to the bound itself."""
        return jnp.tanh(self._normal.sample(key))

    def sample_and_log_prob(self, key: jax.Array) -> tuple[Float[Array, "... A"], Float[Array, "..."]]:
        """An action and its log-probability, from u itself: exact also where tanh(u) rounds to 1."""
        u = self._normal.sample(key)
        return jnp.tanh(u), self._log_prob(u)

    def log_prob(self, x: Float[Array, "... A"]) -> Float[Array, "..."]:
        """The log-density at an action x [..., A] in [-1, 1].

        An x at a bound counts as its nearest neighbour inside: in float32 that is |u| = 8.7.
        """
        inside = 1 - jnp.finfo(x.dtype).epsneg
        return self._log_prob(jnp.arctanh(jnp.clip(x, -inside, inside)))

    def entropy(self) -> jax.Array:
        """NotImplementedError: there is no closed form."""
        raise NotImplementedError(
            "a tanh-squashed Gaussian has no closed entropy: average -log_prob from sample_and_log_prob"
        )

    def mode(self) -> Float[Array, "... A"]:
        """tanh(mean), [..., A]: the median, which is what is meant by acting without noise."""
        return jnp.tanh(self._normal.mode())

    def kl(self, other: "TanhNormal") -> Float[Array, "..."]:
        """KL(self || other) in nats, [...]: that of the two u, since tanh is one to one."""
        return self._normal.kl(other._normal)

    @property
    def _normal(self) -> Normal:
        return Normal(self.mean, self.std)

    def _log_prob(self, u: Array) -> Array:
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which neither overflows nor rounds to log 0
        log_slope = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
        return self._normal.log_prob(u) - log_slope.sum(-1)


@pytree
class Beta(Record):
    """Independent Betas with one peak each, stretched from [0, 1] to [-1, 1] (Chou et al. 2017, section 4)."""

    alpha: Array  # [..., A], above 1
    beta: Array  # [..., A], above 1

    def sample(self, key: jax.Array) -> Float[Array, "... A"]:
        """An action in [-1, 1], [..., A]; it can round to the bound itself."""
        return 2 * jax.random.beta(key, self.alpha, self.beta) - 1

    def log_prob(self, x: Float[Array, "... A"]) -> Float[Array, "..."]:
        """The log-density at an action x [..., A] in [-1, 1]; an x at a bound counts as its neighbour inside."""
        least = jnp.finfo(x.dtype).epsneg
        share = jnp.clip((x + 1) / 2, least, 1 - least)
        above, below = self.alpha - 1, self.beta - 1
        return (above * jnp.log(share) + below * jnp.log1p(-share) - self._log_scale).sum(-1)

    def entropy(self) -> Float[Array, "..."]:
        """The sum of log B(alpha, beta) - (alpha - 1) psi(alpha) - ... + log 2 in nats, [...]."""
        above, below = self.alpha - 1, self.beta - 1
        mean_log = above * digamma(self.alpha) + below * digamma(self.beta)
        return (self._log_scale - mean_log + (above + below) * digamma(self.alpha + self.beta)).sum(-1)

    def mode(self) -> Float[Array, "... A"]:
        """The mean, [..., A]: it stands for the peak, which leaps to a bound and back where a Beta is nearly flat."""
        return (self.alpha - self.beta) / (self.alpha + self.beta)

    def kl(self, other: "Beta") -> Float[Array, "..."]:
        """KL(self || other) in nats, [...]."""
        alpha, beta = self.alpha - other.alpha, self.beta - other.beta
        mean_log = alpha * digamma(self.alpha) + beta * digamma(self.beta)
        mean_log -= (alpha + beta) * digamma(self.alpha + self.beta)
        return (other._log_scale - self._log_scale + mean_log).sum(-1)

    @property
    def _log_scale(self) -> Array:
        return betaln(self.alpha, self.beta) + math.log(2)

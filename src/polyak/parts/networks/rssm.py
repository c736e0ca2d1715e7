"""The recurrent state-space model: a state that remembers exactly, and one that is uncertain.

Hafner, Lillicrap, Fischer, Villegas, Ha, Lee & Davidson 2019 (arXiv:1811.04551), section 3, equation 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from polyak.interface import Array, Box
from polyak.parts.distributions import Normal
from polyak.parts.networks.layers import INITS, Layer
from polyak.parts.networks.mlp import mlp
from polyak.pytree import Record, pytree

LEAST = 0.1  # standard deviation, of prior and posterior


class Latent(NamedTuple):
    """What is believed of the world."""

    h: Array  # [..., D], a function of all that was seen and done before
    s: Array  # [..., S], drawn

    @property
    def features(self) -> Float[Array, "*batch F"]:
        """Both, one after the other."""
        return jnp.concatenate([self.h, self.s], axis=-1)


@pytree
class GRU(Record):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078)."""

    gates: Layer  # of (x, h), to the logits of reset and update
    candidate: Layer  # of (x, reset h)

    def __call__(self, x: Float[Array, "*batch X"], h: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """The state after x."""
        reset, keep = jnp.split(jax.nn.sigmoid(self.gates(jnp.concatenate([x, h], axis=-1))), 2, axis=-1)
        new = jnp.tanh(self.candidate(jnp.concatenate([x, reset * h], axis=-1)))
        return keep * h + (1 - keep) * new


@pytree
class RSSM(Record):
    """h_t = f(h_{t-1}, s_{t-1}, a_{t-1}), a prior p(s_t | h_t) and a posterior q(s_t | h_t, o_t)."""

    inputs: Layer  # of (s, a), before the recurrent unit
    unit: Layer
    prior_net: Layer
    posterior_net: Layer

    def advance(self, latent: Latent, action: Float[Array, "*batch A"]) -> Float[Array, "*batch D"]:
        """The next h, after an action."""
        x = jax.nn.relu(self.inputs(jnp.concatenate([latent.s, action], axis=-1)))
        return self.unit(x, latent.h)

    def prior(self, h: Float[Array, "*batch D"]) -> Normal:
        """What is expected before the world is seen."""
        return _normal(self.prior_net(h))

    def posterior(self, h: Float[Array, "*batch D"], embedding: Float[Array, "*batch E"]) -> Normal:
        """What is believed once it is."""
        return _normal(self.posterior_net(jnp.concatenate([h, embedding], axis=-1)))


def _normal(out: Array) -> Normal:
    mean, std = jnp.split(out, 2, axis=-1)
    return Normal(mean, jax.nn.softplus(std) + LEAST)


def rssm(key: Array, deterministic: int, stochastic: int, actions: int, embedding: int, hidden: int) -> RSSM:
    """A model with h of `deterministic` and s of `stochastic` numbers, and layers of `hidden` units."""
    key_in, key_gates, key_new, key_prior, key_posterior = jax.random.split(key, 5)
    layer = INITS["uniform"]
    unit = GRU(
        gates=layer(key_gates, hidden + deterministic, 2 * deterministic, None),
        candidate=layer(key_new, hidden + deterministic, deterministic, None),
    )
    return RSSM(
        inputs=layer(key_in, stochastic + actions, hidden, None),
        unit=unit,
        prior_net=mlp(key_prior, Box((deterministic,)), 2 * stochastic, (hidden,)),
        posterior_net=mlp(key_posterior, Box((deterministic + embedding,)), 2 * stochastic, (hidden,)),
    )

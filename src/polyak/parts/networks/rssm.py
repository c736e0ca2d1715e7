"""The recurrent state-space model: a state that remembers exactly, and one that is uncertain.

Hafner, Lillicrap, Fischer, Villegas, Ha, Lee & Davidson 2019 (arXiv:1811.04551), section 3, equation 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from polyak.interface import Array, Box, Space, Tree
from polyak.parts.distributions import Normal
from polyak.parts.networks.images import decoder, dequantised, encoder, is_image
from polyak.parts.networks.layers import INITS, Layer, Layout, features_of, layout, num_features
from polyak.parts.networks.mlp import mlp
from polyak.pytree import Record, pytree, static

LEAST = 0.1  # standard deviation, of prior and posterior


class Latent(NamedTuple):
    """What is believed of the world."""

    h: Array  # [..., D], a function of all that was seen and done before
    s: Array  # [..., S], drawn

    @property
    def features(self) -> Float[Array, "*batch F"]:
        """Both, one after the other."""
        return jnp.concatenate([self.h, self.s], axis=-1)


def nothing(count: int, deterministic: int, stochastic: int) -> Latent:
    """The belief [count, ...] where nothing was seen."""
    return Latent(jnp.zeros((count, deterministic)), jnp.zeros((count, stochastic)))


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

    def overshoot(
        self, latent: Latent, before: Array, known: Array, steps: int, key: Array
    ) -> list[tuple[Normal, Array]]:
        """The prior of every row [L, B] from what was believed d rows before, for d = 2 .. `steps`, and whether it was.

        before  [L, B, A] action that led to the row
        known   [L, B] whether the row before belongs to the same episode
        """
        found, connected = [], known
        for d in range(1, steps + 1):
            latent = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), latent)
            h = self.advance(latent, before)
            prior = self.prior(h)
            latent = Latent(h, prior.sample(jax.random.fold_in(key, d)))
            if d > 1:
                found.append((prior, connected))
            connected = known & jnp.roll(connected, 1, axis=0)
        return found


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


@pytree
class WorldModel(Record):
    """What encodes observations, remembers them, and predicts them and rewards from what is believed."""

    encoder: Layer
    memory: Layer  # an RSSM
    decoder: Layer  # mean of p(o_t | h_t, s_t)
    reward: Layer  # mean of p(r_t | h_t, s_t)
    layout: Layout | None = static()  # of observations; None: they are images

    def seen(self, obs: Tree, key: Array, bits: int) -> Array:
        """What is encoded and predicted: an image in [-0.5, 0.5] by so many bits, or the numbers of anything else."""
        return dequantised(obs, key, bits) if self.layout is None else features_of(self.layout, obs)


def world_model(
    key: Array, obs: Space, actions: int, deterministic: int, stochastic: int, hidden: int, filters: int
) -> WorldModel:
    """A model of a world with such observations, and actions of so many numbers.

    filters  of the first layer on an image; where observations are none, two layers of `hidden` units stand in
    """
    key_encoder, key_memory, key_decoder, key_reward = jax.random.split(key, 4)
    size, layers = deterministic + stochastic, (hidden,)
    if is_image(obs):
        side, _, channels = obs.shape
        encode = encoder(key_encoder, side, channels, filters)
        decode = decoder(key_decoder, size, side, channels, filters)
        embedding, written = encode.size, None
    else:
        numbers = num_features(obs)
        encode = mlp(key_encoder, Box((numbers,)), hidden, layers)
        decode = mlp(key_decoder, Box((size,)), numbers, layers)
        embedding, written = hidden, layout(obs)
    memory = rssm(key_memory, deterministic, stochastic, actions, embedding, hidden)
    reward = mlp(key_reward, Box((size,)), 1, (hidden, hidden))
    return WorldModel(encode, memory, decode, reward, written)

"""A model of the world that says only what planning asks for: policy, value and reward.

Schrittwieser et al. 2020 (arXiv:1911.08265), section 3, and appendices F and G.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from polyak.interface import Array, Box, Discrete, Space, Tree
from polyak.parts import categorical
from polyak.parts.networks.layers import Layer
from polyak.parts.networks.mlp import mlp
from polyak.pytree import Record, pytree, static

EPS = 0.001  # of h


@pytree
class LatentModel(Record):
    """Three networks: a state from an observation, the next from an action, and what a state is worth."""

    representation: Layer  # h: o -> s^0
    dynamics: Layer  # g: s^k-1, a^k -> r^k, s^k
    prediction: Layer  # f: s^k -> p^k, v^k
    actions: int = static()
    width: int = static()  # numbers of a state
    low: float = static()  # value and reward of the first atom, after h
    high: float = static()  # of the last
    atoms: int = static()  # of value and reward; 1: they are the tanh of one number
    bounded: bool = static()  # values lie between -1 and 1, and h is left out

    def represent(self, obs: Tree) -> Float[Array, "*batch S"]:
        """s^0 = h(o), [..., width]."""
        return scaled(self.representation(obs))

    def imagine(self, hidden: Array, action: Array) -> tuple[Array, Array]:
        """s^k and what the reward's head says, from s^k-1 and a^k."""
        out = self.dynamics((hidden, action))
        return scaled(out[..., : self.width]), out[..., self.width :]

    def predict(self, hidden: Array) -> tuple[Array, Array]:
        """Logits of p^k [..., A] and what the value's head says of s^k."""
        out = self.prediction(hidden)
        return out[..., : self.actions], out[..., self.actions :]

    def number(self, out: Array) -> Array:
        """The value or reward that a head says, in the environment's units."""
        if self.atoms == 1:
            return jnp.tanh(out[..., 0])
        mean = categorical.mean(out, self.support)
        return mean if self.bounded else expanded(mean)

    def distance(self, target: Array, out: Array) -> Array:
        """l^v or l^r of what a head says: cross-entropy to h(target) on the two atoms beside it, or squared error."""
        if self.atoms == 1:
            return (self.number(out) - target) ** 2
        place = (target if self.bounded else compressed(target))[..., None]
        one = jnp.ones((*target.shape, 1))
        return categorical.log_loss(categorical.project(place, one, self.support), out)

    @property
    def support(self) -> Array:
        """The atoms, after h."""
        return categorical.support(self.low, self.high, self.atoms)


def latent_model(
    key: Array,
    builder: Any,
    obs: Space,
    action: Discrete,
    width: int,
    hidden: tuple[int, ...],
    critic: str,
    low: float,
    high: float,
    atoms: int,
) -> LatentModel:
    """A random model: orthogonal, and nearly indifferent between actions.

    builder  of the representation
    critic   what value and reward are: "categorical" on so many atoms of h from low to high; else between -1 and 1,
             "scalar" as a tanh, "outcome" on the atoms -1, 0 and 1
    """
    bounded = critic != "categorical"
    if bounded:
        low, high, atoms = -1.0, 1.0, {"scalar": 1, "outcome": 3}[critic]
    keys, state = jax.random.split(key, 3), Box((width,))
    return LatentModel(
        builder(keys[0], obs, width, hidden, init="orthogonal"),
        mlp(keys[1], (state, action), width + atoms, hidden, init="orthogonal"),
        mlp(keys[2], state, action.n + atoms, hidden, init="orthogonal", scale=0.01),
        *(action.n, width, low, high, atoms, bounded),
    )


def scaled(hidden: Array) -> Array:
    """State s with its least number moved to 0 and its largest to 1: appendix G."""
    low, high = hidden.min(axis=-1, keepdims=True), hidden.max(axis=-1, keepdims=True)
    return (hidden - low) / jnp.maximum(high - low, 1e-5)


def compressed(x: Array) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x: appendix F."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1) - 1) + EPS * x


def expanded(x: Array) -> Array:
    """The number of which h is x; written without a difference of numbers that are nearly the same."""
    big = jnp.abs(x) + 1 + EPS
    return jnp.sign(x) * ((2 * big / (jnp.sqrt(1 + 4 * EPS * big) + 1)) ** 2 - 1)

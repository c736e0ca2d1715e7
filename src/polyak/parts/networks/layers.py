"""Layers, and the numbers of an observation that the first one reads."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.interface import Array, Box, Discrete, Space, Tree
from polyak.pytree import Record, pytree

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "elu": jax.nn.elu, "swish": jax.nn.swish}

# a space in hashable form: ("box", rank), ("discrete", n), or ("tree", ((key or place, part), ...)) of a dict or tuple
Layout = tuple

Layer = Any  # a Linear or what stands in for one, as one that is `Frozen`


# ---- from a point of a space to the numbers that a network reads


def features(space: Space, point: Tree) -> Float[Array, "*batch D"]:
    """The numbers of a point, one after another: a Box flattened, a Discrete one-hot.

    space   Box, Discrete, or a dict or tuple of spaces; a dict is read in the order of its sorted keys
    point   of that structure, each array with any leading axes that broadcast with the others'
    Returns [..., D] float32. Raises TypeError where the space is none of these.
    """
    return features_of(layout(space), point)


def num_features(space: Space) -> int:
    """D, the length of `features`' last axis."""
    if isinstance(space, Box):
        return space.size
    if isinstance(space, Discrete):
        return space.n
    return sum(num_features(part) for _, part in _parts(space))


def layout(space: Space) -> Layout:
    """The structure of a space as nested tuples of str and int, fit for a static field."""
    if isinstance(space, Box):
        return ("box", len(space.shape))
    if isinstance(space, Discrete):
        return ("discrete", space.n)
    return ("tree", tuple((key, layout(part)) for key, part in _parts(space)))


def _parts(space: Space) -> list[tuple[Any, Space]]:
    """The parts of a dict or tuple of spaces, each with its key or its place."""
    if isinstance(space, Mapping):
        return sorted(space.items(), key=lambda item: item[0])
    if isinstance(space, tuple | list):
        return list(enumerate(space))
    raise TypeError(f"a space is a Box, a Discrete, or a dict or tuple of these; got {space!r}")


def features_of(layout: Layout, point: Tree) -> jax.Array:
    """`features` of a point, from the layout of its space."""
    kind, detail = layout
    if kind == "box":
        x = jnp.asarray(point, jnp.float32)
        return x.reshape(*x.shape[: x.ndim - detail], math.prod(x.shape[x.ndim - detail :]))
    if kind == "discrete":
        return jax.nn.one_hot(point, detail, dtype=jnp.float32)
    parts = [features_of(part, point[key]) for key, part in detail]
    lead = jnp.broadcast_shapes(*(x.shape[:-1] for x in parts))
    return jnp.concatenate([jnp.broadcast_to(x, (*lead, x.shape[-1])) for x in parts], axis=-1)


# ---- layers


@pytree
class Linear(Record):
    """y = x W + b."""

    weight: Array  # [in, out]
    bias: Array  # [out]

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """From [..., in] to [..., out]."""
        return x @ self.weight + self.bias


# ---- initial values


def _uniform(key: jax.Array, fan_in: int, fan_out: int, scale: ArrayLike | None) -> Linear:
    bound = (1.0 if scale is None else scale) / math.sqrt(max(fan_in, 1))
    key_weight, key_bias = jax.random.split(key)
    weight = jax.random.uniform(key_weight, (fan_in, fan_out), jnp.float32, -bound, bound)
    return Linear(weight, jax.random.uniform(key_bias, (fan_out,), jnp.float32, -bound, bound))


def _orthogonal(key: jax.Array, fan_in: int, fan_out: int, scale: ArrayLike | None) -> Linear:
    gain = math.sqrt(2) if scale is None else scale
    weight = jax.nn.initializers.orthogonal(gain)(key, (fan_in, fan_out), jnp.float32)
    return Linear(weight, jnp.zeros(fan_out, jnp.float32))


INITS = {"uniform": _uniform, "orthogonal": _orthogonal}

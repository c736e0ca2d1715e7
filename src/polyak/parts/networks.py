"""Networks: pytrees of arrays that can be called, acting on the last axis and broadcasting over the rest."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.errors import UserError, nearest
from polyak.interface import Array, Box, Discrete, Space, Tree
from polyak.pytree import Record, pytree, stack, static

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "swish": jax.nn.swish,
}

# a space in hashable form: ("box", rank), ("discrete", n), ("tuple", parts) or ("dict", ((key, part), ...))
Layout = tuple


# ---- from a point of a space to the numbers that a network reads


def features(space: Space, point: Tree) -> Float[Array, "*batch D"]:
    """The numbers of a point, one after another: a Box flattened, a Discrete one-hot.

    space   Box, Discrete, or a dict or tuple of spaces; a dict is read in the order of its sorted keys
    point   of that structure, each array with any leading axes that broadcast with the others'
    Returns [..., D] float32. Raises TypeError where the space is none of these.
    """
    return _features(layout(space), point)


def num_features(space: Space) -> int:
    """D, the length of `features`' last axis."""
    if isinstance(space, Box):
        return space.size
    if isinstance(space, Discrete):
        return space.n
    return sum(num_features(part) for part in _parts(space))


def layout(space: Space) -> Layout:
    """The structure of a space as nested tuples of str and int, fit for a static field."""
    if isinstance(space, Box):
        return ("box", len(space.shape))
    if isinstance(space, Discrete):
        return ("discrete", space.n)
    parts = tuple(layout(part) for part in _parts(space))
    return (
        ("dict", tuple(zip(sorted(space), parts, strict=True)))
        if isinstance(space, Mapping)
        else ("tuple", parts)
    )


def _parts(space: Space) -> list[Space]:
    if isinstance(space, Mapping):
        return [space[key] for key in sorted(space)]
    if isinstance(space, tuple | list):
        return list(space)
    raise TypeError(f"a space is a Box, a Discrete, or a dict or tuple of these; got {space!r}")


def _features(layout: Layout, point: Tree) -> jax.Array:
    kind, detail = layout
    if kind == "box":
        x = jnp.asarray(point, jnp.float32)
        return x.reshape(*x.shape[: x.ndim - detail], math.prod(x.shape[x.ndim - detail :]))
    if kind == "discrete":
        return jax.nn.one_hot(point, detail, dtype=jnp.float32)
    if kind == "dict":
        parts = [_features(part, point[key]) for key, part in detail]
    else:
        parts = [_features(part, p) for part, p in zip(detail, point, strict=True)]
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


@pytree
class MLP(Record):
    """Linear layers with an activation between each two, on the features of a raw observation."""

    layers: tuple[Linear, ...]
    layout: Layout = static()
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        x = _features(self.layout, point)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)


@pytree
class Ensemble(Record):
    """E networks of one structure, called on the same input."""

    member: Tree  # each leaf [E, ...]

    def __call__(self, x: Tree) -> jax.Array:
        """What each member says, [E, ...]."""
        return jax.vmap(lambda member: member(x))(self.member)

    def first(self, x: Tree) -> jax.Array:
        """What the first member says."""
        return jax.tree.map(lambda leaf: leaf[0], self.member)(x)


# ---- builders


def mlp(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> MLP:
    """A multi-layer perceptron from points of `space` to [..., out].

    space       what it is called with: `spec.obs`, or (spec.obs, spec.action) for a critic(obs, action) pair
    activation  one of ACTIVATIONS
    init        "uniform": U(-1/sqrt(in), 1/sqrt(in)) for weights and biases, PyTorch's default, which the
                published TD3 and SAC use; "orthogonal": gain sqrt(2) for hidden layers, `scale` for the last,
                biases 0 (Saxe et al. 2014, arXiv:1312.6120; so PPO's authors)
    scale       multiplies the last layer's initial values
    Raises UserError for an unknown activation or init.

    "orthogonal" runs one QR decomposition per layer: call it outside any vmap, since batched LAPACK kernels
    can block XLA's CPU threads for ever.
    """
    if activation not in ACTIVATIONS:
        raise UserError(f"unknown activation {activation!r}: {nearest(activation, ACTIVATIONS)}")
    if init not in INITS:
        raise UserError(f"unknown init {init!r}: {nearest(init, INITS)}")
    sizes = (num_features(space), *hidden, out)
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        INITS[init](keys[i], sizes[i], sizes[i + 1], scale if i == len(hidden) else None)
        for i in range(len(sizes) - 1)
    ]
    return MLP(tuple(layers), layout(space), activation)


def ensemble(build: Callable[[jax.Array], Tree], key: jax.Array, size: int) -> Ensemble:
    """Networks built one by one, each from its own key: nothing is initialised under vmap. E is `size`."""
    return Ensemble(stack([build(k) for k in jax.random.split(key, size)]))


def _uniform(key: jax.Array, fan_in: int, fan_out: int, scale: ArrayLike | None) -> Linear:
    bound = (1.0 if scale is None else scale) / math.sqrt(max(fan_in, 1))
    key_weight, key_bias = jax.random.split(key)
    return Linear(
        jax.random.uniform(key_weight, (fan_in, fan_out), jnp.float32, -bound, bound),
        jax.random.uniform(key_bias, (fan_out,), jnp.float32, -bound, bound),
    )


def _orthogonal(key: jax.Array, fan_in: int, fan_out: int, scale: ArrayLike | None) -> Linear:
    gain = math.sqrt(2) if scale is None else scale
    weight = jax.nn.initializers.orthogonal(gain)(key, (fan_in, fan_out), jnp.float32)
    return Linear(weight, jnp.zeros(fan_out, jnp.float32))


INITS: dict[str, Callable[[jax.Array, int, int, ArrayLike | None], Linear]] = {
    "uniform": _uniform,
    "orthogonal": _orthogonal,
}
BUILDERS: dict[str, Callable[..., Tree]] = {"mlp": mlp}


def build(name: str) -> Callable[..., Tree]:
    """The builder that `cfg.network` names; UserError for an unknown one."""
    if name not in BUILDERS:
        raise UserError(f"unknown network {name!r}: {nearest(name, BUILDERS)}")
    return BUILDERS[name]

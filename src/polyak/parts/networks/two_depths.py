"""A network whose senses enter at two depths: the terrain at the bottom, all else one layer above.

After the networks of Heess et al. 2017 (arXiv:1707.02286, section 3), where what is seen of the terrain passes layers
of its own before it meets the body's own senses.
"""

from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Float

from polyak.errors import UserError
from polyak.interface import Array, Box, Space, Tree
from polyak.parts.networks.cnn import at
from polyak.parts.networks.layers import ACTIVATIONS, Layer
from polyak.parts.networks.mlp import mlp
from polyak.pytree import Record, pytree, static

FAR = "terrain"  # the part of an observation that enters at the bottom


@pytree
class TwoDepths(Record):
    """A layer on the terrain, whose units take its place in what the layers above read."""

    below: Layer
    above: Layer
    place: tuple[Any, ...] = static()  # keys that lead to the terrain
    activation: str = static("relu")

    def __call__(self, point: Tree) -> Float[Array, "*batch out"]:
        """From a point of the space that it was built for, with any leading axes, to [..., out]."""
        return self.above(at(point, self.place, lambda seen: ACTIVATIONS[self.activation](self.below(seen))))


def place_of(space: Space, place: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
    """The keys that lead to the terrain in a space; None where there is none."""
    parts = {dict: lambda: space.items(), tuple: lambda: enumerate(space)}.get(type(space), tuple)()
    for key, part in parts:
        found = (*place, key) if key == FAR else place_of(part, (*place, key))
        if found:
            return found
    return None


def two_depths(
    key: jax.Array,
    space: Space,
    out: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    init: str = "uniform",
    scale: ArrayLike = 1.0,
) -> TwoDepths:
    """A network of these layers: the lowest reads the terrain alone, the next its units and all else.

    space   has a part `terrain`, a Box [D], in a dict, which may itself be in a tuple
    hidden  units of each layer, of which there are at least two
    init    and the rest as of `mlp`
    Raises UserError where the space has no such part, for fewer layers.
    """
    place = place_of(space)
    if place is None or len(hidden) < 2:
        raise UserError(
            f"network 'two_depths' needs a part {FAR!r} of the observation and two hidden layers or more, and has "
            f"{'none' if place is None else 'the part'} and {len(hidden)}: use 'mlp'"
        )
    key_below, key_above = jax.random.split(key)
    found: list[Space] = []
    rest = at(space, place, lambda part: found.append(part) or Box((hidden[0],)))
    below = mlp(key_below, found[0], hidden[0], (), activation, init, 1.0)
    return TwoDepths(below, mlp(key_above, rest, out, hidden[1:], activation, init, scale), place, activation)

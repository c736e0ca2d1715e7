"""Several networks as one, as twin critics are."""

from collections.abc import Callable

import jax

from polyak.interface import Tree
from polyak.pytree import Record, pytree, stack


@pytree
class Ensemble(Record):
    """E networks of one structure, called on the same input."""

    member: Tree  # each leaf [E, ...]

    def __call__(self, x: Tree) -> jax.Array:
        """Outputs of the members, [E, ...]."""
        return jax.vmap(lambda member: member(x))(self.member)

    def first(self, x: Tree) -> jax.Array:
        """Output of the first member."""
        return jax.tree.map(lambda leaf: leaf[0], self.member)(x)


def ensemble(build: Callable[[jax.Array], Tree], key: jax.Array, size: int) -> Ensemble:
    """Networks built one by one, each from its own key: nothing is initialised under vmap. E is `size`."""
    return Ensemble(stack([build(k) for k in jax.random.split(key, size)]))

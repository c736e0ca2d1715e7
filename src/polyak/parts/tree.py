"""A search tree in arrays, which grows by a node at a time and can be cut down to what is below one of them.

Nodes have numbers in the order in which they were made, so that a parent comes before its children. Every edge has a
count and a sum of returns (Kocsis & Szepesvari 2006); what is done with them is the search's own.
"""

import jax
import jax.numpy as jnp

from polyak.interface import Array, Tree
from polyak.pytree import Record, pytree, select


@pytree
class Search(Record):
    """A tree of C nodes; node 0 is the root, and parents come before their children."""

    world: Tree  # [C, ...] states of the environment
    legal: Array  # [C, A] bool
    over: Array  # [C] bool, the episode ended here
    parent: Array  # [C] int32
    move: Array  # [C] int32, that led here
    child: Array  # [C, A] int32, -1 where there is none
    reward: Array  # [C, A], of who moved
    visits: Array  # [C, A], N(s, a)
    total: Array  # [C, A], sum of the returns of who moves at s
    size: Array  # int32, nodes so far


def empty(world: Tree, room: int, actions: int) -> Search:
    """A tree with room for so many nodes, of which there is the root alone, in this state of the world."""
    table, number = jnp.zeros((room, actions)), jnp.zeros(room, jnp.int32)
    return Search(
        world=jax.tree.map(lambda x: jnp.zeros((room, *x.shape), x.dtype).at[0].set(x), world),
        legal=jnp.ones((room, actions), bool),
        over=jnp.zeros(room, bool),
        parent=number - 1,
        move=number,
        child=jnp.full((room, actions), -1, jnp.int32),
        reward=table,
        visits=table,
        total=table,
        size=jnp.int32(1),
    )


def expanded(
    search: Search, grows: Array, node: Array, action: Array, world: Tree, legal: Array, over: Array
) -> Search:
    """The tree with one node more, if it `grows`."""
    new = jnp.where(grows, search.size, len(search.over))  # beyond the end nothing is written
    put = lambda x, value: x.at[new].set(value, mode="drop")  # noqa: E731
    return search.replace(
        world=jax.tree.map(put, search.world, world),
        legal=put(search.legal, legal),
        over=put(search.over, over),
        parent=put(search.parent, node),
        move=put(search.move, action),
        child=search.child.at[jnp.where(grows, node, new), action].set(new, mode="drop"),
        size=search.size + grows,
    )


def rerooted(search: Search, world: Tree, fresh: Search) -> Search:
    """The part of the tree below the node whose state is `world`; `fresh` where there is none."""
    room = len(search.over)
    same = [
        (x == now).reshape(room, -1).all(axis=1)
        for x, now in zip(jax.tree.leaves(search.world), jax.tree.leaves(world), strict=True)
    ]
    found = jnp.stack(same).all(axis=0) & (jnp.arange(room) < search.size) & ~search.over
    root = found.argmax().astype(jnp.int32)

    def follow(node: Array, kept: Array) -> Array:  # a node is kept if its parent is, which comes before it
        return kept.at[node].set((node == root) | kept[jnp.maximum(search.parent[node], 0)] & (node > root))

    kept = jax.lax.fori_loop(0, search.size, follow, jnp.zeros(room, bool))
    place = jnp.where(
        kept, jnp.cumsum(kept) - 1, room
    )  # where each node goes; those that are dropped go nowhere

    def moved(x: Array, base: Array) -> Array:
        return base.at[place].set(x, mode="drop")

    def renamed(x: Array) -> Array:  # numbers of nodes
        return jnp.where(x >= 0, place[jnp.maximum(x, 0)], -1).astype(jnp.int32)

    parent = jnp.where(jnp.arange(room) == root, -1, renamed(search.parent))
    named = search.replace(parent=parent, child=renamed(search.child), size=fresh.size)
    shorter = jax.tree.map(lambda x, base: moved(x, base) if x.ndim else base, named, fresh)
    kept_tree = shorter.replace(size=kept.sum(dtype=jnp.int32))
    return select(found.any(), kept_tree, fresh)

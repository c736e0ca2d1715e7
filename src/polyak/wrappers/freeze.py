"""Parts of an algorithm's networks that stay as they begin.

A part is named by the path to it in the algorithm's state, as `actor` or `policy/net/layers/0`; what is named after it
as its target (`actor_target`) stays too. The part is marked where the state begins, and the parts that step and average
networks know the mark (`polyak.parts.optimize.Frozen`), so that no algorithm does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from polyak.errors import UserError, nearest
from polyak.interface import Algorithm, Array, Spec, Tree
from polyak.parts.optimize import Frozen

TARGET = "_target"  # what a target network's field ends with, after the name of what it follows


def freeze(algorithm: Algorithm, paths: Sequence[str]) -> Algorithm:
    """The algorithm with these parts of its networks frozen.

    Raises UserError, from `init`, for a path that is not there or leads to no part of a network.
    """

    def init(cfg: Any, spec: Spec, key: Array) -> Tree:
        state = algorithm.init(cfg, spec, key)
        for path in paths:
            field, *rest = path.split("/")
            for name in (field, field + TARGET):
                if name == field or name in children(state)[0]:
                    state = changed(state, [name, *rest], frozen(path))
        return state

    return algorithm._replace(init=init)


def frozen(path: str) -> Callable[[Tree], Frozen]:
    """From the part of a state at this path to the same, frozen; UserError where it is no part of a network."""

    def mark(part: Tree) -> Frozen:
        if not callable(part):
            known = ", ".join(children(part)[0]) or "none"
            raise UserError(
                f"--freeze {path}: this is no network and no layer of one, which alone can be frozen; parts: {known}"
            )
        return part if isinstance(part, Frozen) else Frozen(part)

    return mark


def children(tree: Tree) -> tuple[dict[str, Tree], Any]:
    """The parts of a record, dict or tuple by name or place, and how to put them together; no parts of an array."""
    parts, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    return {jax.tree_util.keystr(path, simple=True): part for path, part in parts if path}, structure


def changed(tree: Tree, path: Sequence[str], change: Callable[[Tree], Tree]) -> Tree:
    """A tree with the part at a path changed; UserError names what is there where the path leads nowhere."""
    if not path:
        return change(tree)
    parts, structure = children(tree)
    if path[0] not in parts:
        raise UserError(f"--freeze: there is no part {path[0]!r}: {nearest(path[0], parts)}")
    parts[path[0]] = changed(parts[path[0]], path[1:], change)
    return jax.tree.unflatten(structure, parts.values())

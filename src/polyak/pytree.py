"""Frozen dataclasses that JAX flattens in C++, what is done to trees of arrays, and two ways to keep them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING) -> Any:
    """A field that is part of the structure and not of the data: str, int, float, bool or tuples of them."""
    return dataclasses.field(default=default, metadata={"static": True})


class Record:
    """Base of `@pytree` classes: adds a copy with other values."""

    def replace(self, **values: Any) -> Self:
        """A copy with other values; TypeError names a field that does not exist."""
        return dataclasses.replace(self, **values)  # pyright: ignore[reportArgumentType]


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are leaves or subtrees, except those marked `static()`.

    >>> @pytree
    ... class Point(Record):
    ...     x: float
    ...     name: str = static("p")
    >>> jax.tree.map(lambda x: 2 * x, Point(1.0))
    Point(x=2.0, name='p')
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class Counter(Record):
    """A number that does not depend on data; seeds that run side by side share it, recognised by this type."""

    value: Any  # int32 scalar, read as a word of 32 bits without a sign: it goes round at 2^32

    def __int__(self) -> int:
        """The number, below 2^32."""
        return int(self.value) % 2**32

    def plus(self, number: Any) -> "Counter":
        """So many more."""
        return Counter(self.value + number)


def select(mask: Any, on_true: T, on_false: T) -> T:
    """Choose whole rows: `mask` [N] against trees of [N, ...]."""

    def rows(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a) - mask.ndim)), a, b)

    return jax.tree.map(rows, on_true, on_false)


def copy(tree: T) -> T:
    """Fresh arrays with the same values: a target network must not alias the one it follows."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def strip_weak_types(tree: T) -> T:
    """The same values with strong dtypes: a weakly typed leaf recompiles the program that it enters."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), tree)


def stack(trees: list[T]) -> T:
    """Trees of equal structure, one on another along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


Leaves = tuple[Any, ...]


def flat(tree: Any) -> Leaves:
    """The leaves of a tree."""
    return tuple(jax.tree.leaves(tree))


class Flattened:
    """Holds a tree in its leaves, as which it crosses the border of a program in less time; is no tree itself."""

    def __init__(self, tree: Any):
        self.tree = tree

    @property
    def tree(self) -> Any:
        """The leaves put together."""
        return jax.tree.unflatten(self.structure, self.leaves)

    @tree.setter
    def tree(self, tree: Any) -> None:
        self.leaves: Leaves = flat(tree)
        self.structure = jax.tree.structure(tree)


class Concatenated:
    """A leaf [S, ...] in parts, which are put together only where somebody asks for the whole: `np.asarray` does."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = tuple(parts)
        self.dtype = self.parts[0].dtype
        self.shape = (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole, freshly made."""
        return np.concatenate([np.asarray(part) for part in self.parts], dtype=dtype)

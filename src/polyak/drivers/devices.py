"""A run on several devices: each has some of the environments, and learns from its share of every batch.

Parameters are everywhere, so that a gradient is the mean of what the devices find, as XLA's partitioner arranges it
from where arrays lie (jax.sharding.NamedSharding). What is computed is what one device computes, in another order of
sums: equal to rounding, not bit for bit. The same number of devices gives the same bits.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from polyak.errors import UserError
from polyak.interface import Tree

AXIS = "devices"
ON_CPU = "--xla_force_host_platform_device_count"

_in_use: ContextVar["Devices | None"] = ContextVar("devices", default=None)


class Devices:
    """The first `count` of JAX's devices. UserError where there are fewer, or environments cannot be shared out."""

    def __init__(self, count: int, num_envs: int):
        there = jax.devices()
        if len(there) < count:
            on_cpu = (
                f"; a CPU is as many as XLA_FLAGS={ON_CPU}={count} says" if there[0].platform == "cpu" else ""
            )
            raise UserError(
                f"--devices is {count}, but JAX has {len(there)} ({there[0].device_kind}){on_cpu}"
            )
        if num_envs % count:
            raise UserError(
                f"--devices {count} cannot share out {num_envs} environments equally: give a multiple by --num-envs"
            )
        self.mesh = Mesh(np.array(there[:count]), (AXIS,))

    def check_batch(self, size: int) -> None:
        """UserError where a batch that is drawn from replay cannot be shared out."""
        if size % self.mesh.size:
            raise UserError(
                f"--devices {self.mesh.size} cannot share out batches of {size} equally: give a multiple by "
                "--config.data.batch_size"
            )

    def along(self, axis: int | None) -> NamedSharding:
        """Shared out along an axis; None: whole on every device."""
        spec = () if axis is None else (*[None] * axis, AXIS)
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def share_out(self, tree: Tree, axis: int | None) -> Tree:
        """Where the arrays of a tree lie, all along the same axis."""
        return jax.tree.map(lambda _: self.along(axis), tree)

    def ring(self, ring: Any) -> Any:
        """Where a replay ring [S, C, N, ...] and its frames lie, by environments; () where nothing is kept."""
        whole = self.share_out(ring, None)
        if not ring:
            return whole
        frames = whole.frames.replace(store=self.share_out(ring.frames.store, 2)) if ring.frames else ()
        return whole.replace(rows=self.share_out(ring.rows, 2), frames=frames)

    def share_out_traced(self, tree: Tree, axis: int) -> Tree:
        """Arrays of a program that is being traced, along an axis where that divides; what does not stays."""

        def shared(x: jax.Array) -> jax.Array:
            if x.ndim <= axis or x.shape[axis] % self.mesh.size:
                return x
            return jax.lax.with_sharding_constraint(x, self.along(axis))

        return jax.tree.map(shared, tree)

    def first(self, tree: Tree) -> Tree:
        """The arrays on the first device alone, where programs of one device find them."""
        return jax.device_put(tree, self.mesh.devices[0])

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Batches that are traced in the body are shared out."""
        token = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(token)


class Where(NamedTuple):
    """Where a program's arguments lie, and what it makes."""

    devices: Devices
    given: Tree
    made: Tree

    def put(self, args: tuple) -> tuple:
        """The arguments, each where it is to be; what is not JAX's yet is put there by the call."""

        def put(x: Any, where: NamedSharding) -> Any:
            return jax.device_put(x, where) if isinstance(x, jax.Array) and x.sharding != where else x

        return jax.tree.map(put, args, self.given)


def shared_out(tree: Tree, axis: int) -> Tree:
    """Arrays of the program that is being traced, shared out along an axis as far as it divides; else as they are."""
    devices = _in_use.get()
    return tree if devices is None else devices.share_out_traced(tree, axis)

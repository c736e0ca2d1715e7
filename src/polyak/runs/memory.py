"""Memory: what the arrays of a run will take, and what is free."""

import os
import shutil
from typing import Any

import jax
import numpy as np

from polyak.drivers.act import row_shape
from polyak.drivers.learn import initial_states
from polyak.errors import UserError
from polyak.interface import Algorithm, Box, Spec
from polyak.parts import replay


def check_memory(rollout: int, planned: int, data: Any) -> None:
    """UserError, one line, where a rollout or the replay, of so many bytes, does not fit into what is free."""
    free = free_memory()
    if rollout > free:
        raise UserError(
            f"one rollout would take {gigabytes(rollout)}, but {gigabytes(free)} of memory are free: lower "
            f"--config.data.steps (now {data.steps:,}), --num-envs or --seeds"
        )
    if planned > free:
        raise UserError(
            f"the replay would take {gigabytes(planned)}, but {gigabytes(free)} of memory are free: "
            f"lower --config.data.capacity (now {data.capacity:,}) or --seeds"
        )


def replay_bytes(algorithm: Algorithm, cfg: Any, spec: Spec) -> int:
    """Bytes that the replay of one seed will allocate."""
    data = cfg.data
    if not data.replays:
        return 0
    states = jax.eval_shape(lambda: initial_states(algorithm, cfg, spec, [0]))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), states)
    row, count = row_shape(algorithm, cfg, spec, state), data.slots(spec.num_envs)
    each = replay.planned_bytes(replay.frames.numbered(row, data.frames), count)
    return each + replay.index.planned_bytes(row, count, data) + replay.frames.planned_bytes(row, count, data)


def observation_bytes(data: Any, spec: Spec) -> int:
    """Bytes of the observations of one rollout of one seed, and of their rewards."""
    row = 4 + sum(
        x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(spec.obs) if isinstance(x, Box)
    )
    return spec.num_envs * data.steps * row


def free_memory() -> int:
    """Bytes that can be allocated: of the accelerator's memory, or of this machine's."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return shutil.disk_usage(".").free


def gigabytes(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

"""Does a large replay slow TD3 down, and do priorities? Steps per second with full rings, in turn.

10,000 rows, 1,000,000, and 1,000,000 that are drawn by priority.

    .venv/bin/python benchmarks/speed/ring.py [--steps 300] [--repeats 5]

The rings are filled by hand (the clock is set past their end, every priority is 1), so that every write lands over an
old row.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp

from polyak.algorithms import td3
from polyak.drivers.host import Host
from polyak.envs.find import find
from polyak.interface import Replay
from polyak.parts.replay import priority
from polyak.parts.replay.ring import Ring
from polyak.pytree import Counter

RINGS = {
    "10,000 rows": {"capacity": 10_000},
    "1,000,000 rows": {"capacity": 1_000_000},
    "1,000,000 rows by priority": {"capacity": 1_000_000, "priority": 0.6},
}


def filled(ring: Ring, capacity: int) -> Ring:
    """The ring of one seed, full of rows that are as likely as one another."""
    ring = dataclasses.replace(ring, clock=Counter(jnp.int32(3 * capacity)))
    if ring.index == ():
        return ring
    tree = ring.index.priorities
    levels = priority.put(tuple(level[0] for level in tree.levels), jnp.arange(capacity), jnp.ones(capacity))
    tree = tree.replace(levels=tuple(level[None] for level in levels))
    return ring.replace(index=ring.index.replace(priorities=tree))


def driver(asked: dict) -> tuple[Host, object]:
    """A TD3 run on HalfCheetah-v5 whose ring is full."""
    factory = find("HalfCheetah-v5")
    cfg = td3.Config(data=Replay(warmup=0, **asked))
    spec = dataclasses.replace(factory.spec, num_envs=1)
    host = Host(td3.algorithm, cfg, factory.make(1), spec, [0])
    carry = host.start()
    full = filled(carry.learner.tree.buffer, cfg.data.capacity)
    carry.learner.tree = carry.learner.tree.replace(buffer=full)
    return host, host.advance(carry, 50)


def rate(host: Host, carry, steps: int) -> float:
    """Steps per second over so many steps."""
    jax.block_until_ready(carry.learner.leaves)
    began = time.perf_counter()
    carry = host.advance(carry, steps)
    jax.block_until_ready(carry.learner.leaves)
    return steps / (time.perf_counter() - began)


def main() -> None:
    """Measure them in turn and print the ratios of the medians."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--repeats", type=int, default=5)
    said = options.parse_args()
    runs = {name: driver(asked) for name, asked in RINGS.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(said.repeats):
        for name, (host, carry) in runs.items():
            rates[name].append(rate(host, carry, said.steps))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        listed = " ".join(f"{value:.0f}" for value in values)
        print(f"{name:>26}: {medians[name]:.0f} steps/s  ({listed})")
    small, large, ordered = medians.values()
    print(f"ratio of the medians, 1,000,000 rows to 10,000: {large / small:.3f}")
    print(f"a step by priority costs {large / ordered:.3f} of a uniform one")


if __name__ == "__main__":
    main()

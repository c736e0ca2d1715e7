"""Does a large replay slow TD3 down? Steps per second with a full ring of 10,000 rows and of 1,000,000, in turn.

    .venv/bin/python benchmarks/speed/ring.py [--steps 300] [--repeats 5]

The rings are filled by hand (the clock is set past their end), so that every write lands over an old row.
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
from polyak.pytree import Counter


def driver(capacity: int) -> tuple[Host, object]:
    """A TD3 run on HalfCheetah-v5 whose ring is full."""
    factory = find("HalfCheetah-v5")
    cfg = td3.Config(data=Replay(capacity=capacity, warmup=0))
    spec = dataclasses.replace(factory.spec, num_envs=1)
    host = Host(td3.algorithm, cfg, factory.make(1), spec, [0])
    carry = host.start()
    full = dataclasses.replace(carry.learner.tree.buffer, clock=Counter(jnp.int32(3 * capacity)))
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
    """Measure both in turn and print the ratio of the medians."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--repeats", type=int, default=5)
    said = options.parse_args()
    runs = {capacity: driver(capacity) for capacity in (10_000, 1_000_000)}
    rates: dict[int, list[float]] = {capacity: [] for capacity in runs}
    for _ in range(said.repeats):
        for capacity, (host, carry) in runs.items():
            rates[capacity].append(rate(host, carry, said.steps))
    medians = {capacity: statistics.median(values) for capacity, values in rates.items()}
    for capacity, values in rates.items():
        listed = " ".join(f"{value:.0f}" for value in values)
        print(f"{capacity:>9,} rows: {medians[capacity]:.0f} steps/s  ({listed})")
    print(f"ratio of the medians, 1,000,000 to 10,000 rows: {medians[1_000_000] / medians[10_000]:.3f}")


if __name__ == "__main__":
    main()

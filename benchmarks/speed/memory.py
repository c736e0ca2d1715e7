"""What a replay of 1,000,000 HalfCheetah transitions takes, beside the bytes of its arrays.

    .venv/bin/python benchmarks/speed/memory.py

Two processes train TD3 for a hundred updates on a full ring, of 1,000,000 rows and of 10,000; the difference of
their peaks after compiling is what the larger ring took, a second copy during updates included.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
from measure import forget_peak, peak_memory
from ring import driver

LARGE, SMALL = 1_000_000, 10_000


def measure(capacity: int) -> dict[str, float]:
    """Peak memory of this process, and the bytes of the ring's arrays, in megabytes."""
    host, carry = driver(capacity)
    forget_peak()
    buffer = carry.learner.tree.buffer
    touch = jax.jit(lambda x: jnp.ones_like(x), donate_argnums=0, keep_unused=True)
    rows = jax.tree.map(touch, buffer.rows)  # every page, in place
    carry.learner.tree = carry.learner.tree.replace(buffer=buffer.replace(rows=rows))
    carry = host.advance(carry, 100)
    jax.block_until_ready(carry.learner.leaves)
    size = sum(x.nbytes for x in jax.tree.leaves(carry.learner.tree.buffer.rows))
    host.close()
    return {"peak_mb": peak_memory(), "ring_mb": size / 1e6}


def main() -> None:
    """Measure both and print what the difference is."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    found = {}
    for capacity in (SMALL, LARGE):
        said = subprocess.run(
            [sys.executable, __file__, str(capacity)], capture_output=True, text=True, check=True
        )
        found[capacity] = json.loads(said.stdout.splitlines()[-1])
        peak, arrays = found[capacity]["peak_mb"], found[capacity]["ring_mb"]
        print(f"{capacity:>9,} rows: peak {peak:.0f} MB, arrays {arrays:.1f} MB")
    taken = found[LARGE]["peak_mb"] - found[SMALL]["peak_mb"]
    arrays = found[LARGE]["ring_mb"] - found[SMALL]["ring_mb"]
    print(f"the larger ring took {taken:.0f} MB for {arrays:.0f} MB of arrays: {taken / arrays:.3f}")


if __name__ == "__main__":
    main()

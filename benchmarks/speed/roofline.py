"""Rates that this machine allows: of each algorithm's matrix products in XLA, its environment, dispatch.

    .venv/bin/python benchmarks/speed/roofline.py [WORKLOAD ...] [--seconds 0.3]

The products are those of the traced update, each alone in a compiled loop; their time together is the least that an
update can take with XLA's matrix products. A delayed branch counts as often as it is taken.
"""

import argparse
import functools
import json
import math
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from polyak_side import training_of
from workloads import WORKLOADS, Workload

from polyak.drivers.act import row_shape
from polyak.interface import Batch
from polyak.parts import replay
from polyak.runs.session import Session

BY_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}  # and not by YNNPACK, XLA's default

Product = tuple[tuple[int, ...], tuple[int, ...], tuple]  # shapes of both sides, dimension numbers


def update_of(session: Session) -> Any:
    """The jaxpr of one call of `update`."""
    algorithm, cfg, spec = session.algorithm, session.cfg, session.spec
    state = jax.eval_shape(lambda: algorithm.init(cfg, spec, jax.random.key(0)))
    row = row_shape(algorithm, cfg, spec, state)

    def batch() -> Batch:
        if not cfg.data.replays:
            rows = jax.tree.map(lambda x: jnp.zeros((cfg.data.steps, *x.shape), x.dtype), row)
            return Batch(*rows, discount=rows.reward, weight=rows.reward)
        ring = replay.empty(row, 1_000)
        return replay.sample(ring, jax.random.key(0), cfg.data, cfg.gamma)

    def update(state: Any, batch: Batch, key: jax.Array) -> Any:
        return algorithm.update(cfg, spec, state, batch, key)

    return jax.make_jaxpr(update)(state, jax.eval_shape(batch), jax.random.key(0))


def products(jaxpr: Any, times: float = 1.0, delay: int = 1) -> Counter:
    """How often each matrix product is made in one update."""
    found: Counter = Counter()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            left, right = (v.aval.shape for v in eqn.invars)
            found[of_matrices((left, right, eqn.params["dimension_numbers"]))] += times
        inner = times * eqn.params.get("length", 1) if eqn.primitive.name == "scan" else times
        if eqn.primitive.name == "cond":
            for branch in eqn.params["branches"]:
                found += products(branch.jaxpr, times / delay, delay)
            continue
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                found += products(value.jaxpr, inner, delay)
            elif hasattr(value, "eqns"):
                found += products(value, inner, delay)
    return found


def of_matrices(product: Product) -> Product:
    """The same product with each side's free and contracted axes joined, where they lie together, as XLA does it."""
    shapes, numbers = product[:2], product[2]
    joined, contracted = [], []
    for shape, contract, batch in zip(shapes, *numbers, strict=True):
        rest = [axis for axis in range(len(shape)) if axis not in batch]
        free = [axis for axis in rest if axis not in contract]
        if [*batch] != [*range(len(batch))] or rest not in ([*contract, *free], [*free, *contract]):
            return product
        first, second = (contract, free) if rest == [*contract, *free] else (free, contract)
        size = [math.prod(shape[axis] for axis in axes) for axes in (first, second)]
        joined.append((*shape[: len(batch)], *size))
        contracted.append((len(batch) + (first is not contract),))
    return joined[0], joined[1], (tuple(contracted), numbers[1])


def flops(product: Product) -> float:
    """Of one product."""
    left, right, ((_, contracted), (_, batch)) = product
    free = [n for axis, n in enumerate(right) if axis not in (*contracted, *batch)]
    return 2.0 * math.prod(left) * math.prod(free)


def seconds_of(product: Product, least: float) -> float:
    """One product alone, by whichever of XLA's libraries is faster here."""
    return min(seconds_by(options, product, least) for options in ({}, BY_EIGEN))


def seconds_by(options: dict[str, Any], product: Product, least: float) -> float:
    """One product alone, in a compiled loop that depends on its own result."""
    left, right, numbers = product
    a, b = (jnp.asarray(np.random.default_rng(0).normal(size=s), jnp.float32) for s in (left, right))
    out = jnp.zeros(jax.eval_shape(lambda: jax.lax.dot_general(a, b, numbers)).shape)

    @functools.partial(jax.jit, compiler_options=options)
    def loop(count: jax.Array, a: jax.Array, b: jax.Array, out: jax.Array) -> tuple:
        def one(_: jax.Array, carry: tuple) -> tuple:
            a, out = carry
            a = jax.lax.dynamic_update_slice(
                a, out.reshape(-1)[:1].reshape((1,) * a.ndim) * 1e-3, (0,) * a.ndim
            )
            return a, jax.lax.dot_general(a, b, numbers)

        return jax.lax.fori_loop(0, count, one, (a, out))

    count = 20
    jax.block_until_ready(loop(count, a, b, out))
    while True:
        began = time.perf_counter()
        jax.block_until_ready(loop(count, a, b, out))
        taken = time.perf_counter() - began
        if taken > least:
            return taken / count
        count = int(count * max(2.0, 1.2 * least / taken))


def environment_rate(session: Session, least: float) -> float:
    """Steps per second of one environment alone, with random actions and resets."""
    env = session.world.make_one()
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(1_000)]
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < least:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        steps += len(actions)
    rate = steps / (time.perf_counter() - began)
    env.close()
    return rate


def dispatch(least: float) -> dict[str, float]:
    """Microseconds of one call of a compiled program that does nothing, with and without fifty donated arrays."""
    found = {}
    for name, leaves in (("empty", 1), ("donated_50", 50)):
        program = jax.jit(lambda tree: tree, donate_argnums=0)
        tree = [jnp.zeros(1_000) + i for i in range(leaves)]
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < least:
            for _ in range(100):
                tree = program(tree)
            calls += 100
        jax.block_until_ready(tree)
        found[name] = 1e6 * (time.perf_counter() - began) / calls
    return found


def roofline(workload: Workload, least: float) -> dict[str, Any]:
    """Rates that no program of this workload can pass."""
    session = training_of(workload).session
    found = products(update_of(session).jaxpr, delay=getattr(session.cfg, "delay", 1))
    seconds = {product: seconds_of(product, least) for product in found}
    total = sum(seconds[product] * count for product, count in found.items())
    work_done = sum(flops(product) * count for product, count in found.items())
    per = session.cfg.data.steps * session.spec.num_envs / session.cfg.data.updates
    result = {
        "gflop_per_update": work_done / 1e9,
        "gflops": work_done / total / 1e9,
        "updates_per_s": 1 / total,
        "steps_per_s": per / total,
    }
    if not session.in_graph:
        result["environment_steps_per_s"] = environment_rate(session, 3 * least)
    return result


def main() -> None:
    """Read the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    options.add_argument("--seconds", type=float, default=0.3)
    said = options.parse_args()
    found: dict[str, Any] = {name: roofline(WORKLOADS[name], said.seconds) for name in said.workloads}
    found["dispatch_us"] = dispatch(said.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

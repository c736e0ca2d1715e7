"""One workload with polyak: `python benchmarks/speed/polyak_side.py WORKLOAD [--seeds K]` prints one line of JSON.

What interleave.py times lies between the lines "begin" and "end". The loop is the one of `polyak train` with its log
lines; evaluations and checkpoints, which the rivals do not make, are left out.
"""

import argparse
import json
import time

import jax
from measure import BEGIN, END, announce, peak_memory, versions
from workloads import SEEDS, WORKLOADS, Workload

from polyak.runs.decide import make_plan
from polyak.runs.loop import Training
from polyak.runs.plan import Settings
from polyak.runs.session import Session
from polyak.runs.setup import set_up_jax
from polyak.show.terminal import silent


class Lines(list):
    """A sink that keeps the log."""

    write = list.append

    def flush(self) -> None:
        """Nothing is held back."""


def training_of(workload: Workload, seeds: int = 1, seed: int = 0) -> Training:
    """A run that has not begun."""
    settings = Settings(
        steps=10 * workload.end,
        seed=seed,
        seeds=seeds,
        num_envs=workload.num_envs,
        eval_every=0,
        checkpoint_every=10 * workload.end,
        preset=False,
    )
    in_graph = workload.env.startswith(("jax:", "pgx:"))
    plan = make_plan(workload.algorithm, workload.env, settings, workload.config, in_graph=in_graph)
    return Training(Session(plan), silent())


def measure(workload: Workload, seeds: int = 1, seed: int = 0) -> dict[str, object]:
    """Seconds to compile, steps of all seeds together in what is timed, peak memory."""
    set_up_jax()
    training = training_of(workload, seeds, seed)
    per = training.session.driver.env_steps
    training.start()
    began = time.perf_counter()
    training.compile()
    compiled = time.perf_counter() - began
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **more: compilations.append(event) if "backend_compile" in event else None
    )
    lines = Lines()
    first = max(2, -(-workload.begin // per))
    training.run(lines, until=first)
    jax.block_until_ready(training.session.driver.pack(training.carry)[0])
    compilations.clear()
    before = training.env_steps
    announce(BEGIN)
    training.run(lines, until=first + -(-(workload.end - workload.begin) // per))
    jax.block_until_ready(training.session.driver.pack(training.carry)[0])
    announce(END)
    steps = (training.env_steps - before) * seeds
    training.session.close()
    return {
        "steps": steps,
        "compile_s": compiled,
        "compilations": len(compilations),  # while it was timed
        "peak_mb": peak_memory(),
        "versions": versions("polyak", "jax", "jaxlib", "gymnasium", "mujoco", "numpy"),
    }


def main() -> None:
    """Read the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("workload", choices=[*WORKLOADS, *SEEDS])
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    said = options.parse_args()
    print(json.dumps(measure({**WORKLOADS, **SEEDS}[said.workload], said.seeds, said.seed)))


if __name__ == "__main__":
    main()

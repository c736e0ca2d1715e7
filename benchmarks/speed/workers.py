"""Environments in workers, beside RLlib's and Sample Factory's PPO: `python benchmarks/speed/workers.py`.

Each training is a process of its own that begins a Ray, and whole trainings take turns: Ray's workers are not children
of who began them, so that they would go on while one side of interleave.py stands still. What is timed is environment
steps per second, learning included, after the first rollouts. Settings are the same, but that Sample Factory goes on
playing while it learns, which is what it is for. Each rival wants another Gymnasium than the others: install
"ray[rllib]" and torch into an environment of their own, whose Python `--rivals` names, and sample-factory into
another, which `--sample-factory` names.

`--task halfcheetah` and `--task lanes` are polyak's own: workers beside one process, where the environment is what
costs (TD3 on HalfCheetah, one update for 200 steps), and where there are many environments (one epoch of PPO on 64
CartPoles).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import versions

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

ENV, WORKERS, LANES, ROWS = "CartPole-v1", 2, 8, 512  # lanes of all workers together
FIRST, LAST = 2, 12  # rollouts: what is timed lies between the ends of these two
PPO = {
    **{"gamma": 0.99, "lam": 0.95, "lr": 3e-4, "clip": 0.2, "epochs": 10, "minibatch": 256, "entropy": 0.0},
    **{"hidden": [64, 64], "data": {"steps": ROWS}},
}
TASKS = {  # algorithm, environment, its settings, lanes, workers, the driver's settings, the two rollouts
    "ppo": ("ppo", ENV, PPO, LANES, WORKERS, {}, (FIRST, LAST)),
    "halfcheetah": (
        "td3",
        "HalfCheetah-v5",
        {"data": {"steps": 25, "warmup": 1_000}},
        8,
        2,
        {"lockstep": False},
        (20, 420),
    ),
    "lanes": (
        "ppo",
        ENV,
        {**PPO, "epochs": 1, "minibatch": 1_024, "data": {"steps": 128}},
        64,
        4,
        {},
        (5, 60),
    ),
}


def with_polyak(driver: str, task: str) -> dict[str, Any]:
    """A task of polyak's, with workers or ("host") in one process."""
    from polyak_side import Lines

    from polyak.runs.decide import make_plan
    from polyak.runs.loop import Training
    from polyak.runs.plan import Settings
    from polyak.runs.session import Session
    from polyak.runs.setup import set_up_jax
    from polyak.show.terminal import silent

    set_up_jax()
    algorithm, env, config, lanes, count, driven, (first, last) = TASKS[task]
    workers = {"driver": "ray", "workers": count, **driven} if driver == "polyak" else {}
    rollout = lanes * config["data"]["steps"]
    settings = Settings(steps=10 * last * rollout, num_envs=lanes, eval_every=0, preset=False, **workers)
    training = Training(Session(make_plan(algorithm, env, settings, config)), silent())
    training.start()
    training.compile()
    lines = Lines()
    training.run(lines, until=first)
    began = time.perf_counter()
    training.run(lines, until=last)
    seconds = time.perf_counter() - began
    training.session.close()
    return {
        "steps_per_s": (last - first) * rollout / seconds,
        "versions": versions("polyak", "jax", "ray"),
    }


def with_rllib() -> dict[str, Any]:
    """RLlib's PPO, its new API stack, with as many workers."""
    import logging

    import ray
    from ray.rllib.algorithms.ppo import PPOConfig  # pyright: ignore[reportMissingImports]

    logging.disable(logging.CRITICAL)
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, log_to_driver=False, logging_level="error")
    config = (
        PPOConfig()
        .environment(ENV)
        .env_runners(
            num_env_runners=WORKERS, num_envs_per_env_runner=LANES // WORKERS, rollout_fragment_length=ROWS
        )
        .training(
            train_batch_size_per_learner=LANES * ROWS,
            minibatch_size=PPO["minibatch"],
            num_epochs=PPO["epochs"],
            gamma=PPO["gamma"],
            lambda_=PPO["lam"],
            lr=PPO["lr"],
            clip_param=PPO["clip"],
            entropy_coeff=PPO["entropy"],
            use_kl_loss=False,
            grad_clip=0.5,
        )
        .rl_module(model_config={"fcnet_hiddens": PPO["hidden"], "fcnet_activation": "tanh"})
    )
    algorithm = config.build_algo()
    for _ in range(FIRST):
        found = algorithm.train()
    before, began = steps_of(found), time.perf_counter()
    for _ in range(LAST - FIRST):
        found = algorithm.train()
    rate = (steps_of(found) - before) / (time.perf_counter() - began)
    algorithm.stop()
    ray.shutdown()
    return {"steps_per_s": rate, "versions": versions("ray", "torch")}


def made(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> Any:
    """An environment for Sample Factory, whose processes find this function by its name."""
    import gymnasium

    return gymnasium.make(name)


def with_sample_factory() -> dict[str, Any]:
    """Sample Factory's PPO with as many workers; its iteration is a rollout of all lanes, as that of the others."""
    from sample_factory.algo.runners.runner import AlgoObserver  # pyright: ignore[reportMissingImports]
    from sample_factory.cfg import arguments  # pyright: ignore[reportMissingImports]
    from sample_factory.envs.env_utils import register_env  # pyright: ignore[reportMissingImports]
    from sample_factory.train import make_runner  # pyright: ignore[reportMissingImports]

    register_env(ENV, made)
    at: dict[int, float] = {}

    class Clock(AlgoObserver):
        def on_training_step(self, runner: Any, training_iteration_since_resume: int) -> None:
            at[training_iteration_since_resume] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        said = {
            **{"env": ENV, "experiment": "speed", "train_dir": folder, "device": "cpu", "algo": "APPO"},
            **{"num_workers": WORKERS, "num_envs_per_worker": LANES // WORKERS, "rollout": 32},
            **{"batch_size": PPO["minibatch"], "num_batches_per_epoch": LANES * ROWS // PPO["minibatch"]},
            **{"num_epochs": PPO["epochs"], "gamma": PPO["gamma"], "gae_lambda": PPO["lam"]},
            **{"learning_rate": PPO["lr"], "ppo_clip_ratio": PPO["clip"], "exploration_loss_coeff": 0.0},
            **{
                "max_grad_norm": 0.5,
                "max_policy_lag": 10_000,
                "with_vtrace": False,
                "use_rnn": False,
                "nonlinearity": "tanh",
            },
            **{"actor_critic_share_weights": False, "normalize_input": False, "normalize_returns": False},
            "train_for_env_steps": (LAST + 2) * LANES * ROWS,
        }
        words = [f"--{name}={value}" for name, value in said.items()]
        words += ["--encoder_mlp_layers", *map(str, PPO["hidden"])]
        parser, _ = arguments.parse_sf_args(argv=words)
        _, runner = make_runner(arguments.parse_full_cfg(parser, words))
        runner.register_observer(Clock())
        runner.init()
        runner.run()
    first, last = (min(number for number in at if number >= wanted) for wanted in (FIRST, LAST))
    return {
        "steps_per_s": (last - first) * LANES * ROWS / (at[last] - at[first]),
        "versions": versions("sample-factory", "torch"),
    }


def steps_of(found: dict[str, Any]) -> float:
    """Environment steps that RLlib has sampled."""
    return found["env_runners"]["num_env_steps_sampled_lifetime"]


RIVALS = {"rllib": with_rllib, "sample_factory": with_sample_factory}


def main() -> None:
    """One side, or all of them in turns."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--task", choices=TASKS, default="ppo")
    options.add_argument("--side", choices=["polyak", "host", *RIVALS])
    options.add_argument("--rivals", type=Path, help="Python that has RLlib; without it that is left out")
    options.add_argument("--sample-factory", type=Path, help="Python that has Sample Factory, likewise")
    said = options.parse_args()
    if said.side:
        print(json.dumps(RIVALS[said.side]() if said.side in RIVALS else with_polyak(said.side, said.task)))
        return
    if said.task != "ppo" and (said.rivals or said.sample_factory):
        sys.exit("rivals take part in --task ppo only")
    theirs = {"rllib": said.rivals, "sample_factory": said.sample_factory}
    found: dict[str, list[float]] = {side: [] for side in ("polyak", "host", *filter(theirs.get, theirs))}
    for _ in range(said.repeats):
        for side, rates in found.items():
            command = [str(theirs.get(side, sys.executable)), __file__, "--side", side, "--task", said.task]
            environment = {**os.environ, "POLYAK_CACHE": "off"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{side}: {done.stderr.strip().splitlines()[-1]}")
            rates.append(json.loads(done.stdout.splitlines()[-1])["steps_per_s"])
            print(f"{side}: {rates[-1]:,.0f} steps/s", flush=True)
    for side, rates in found.items():
        print(f"{side}: {statistics.median(rates):,.0f} steps/s ({min(rates):,.0f} to {max(rates):,.0f})")
    for side in list(found)[1:]:
        ratios = [ours / theirs for ours, theirs in zip(found["polyak"], found[side], strict=True)]
        print(f"polyak with {TASKS[said.task][4]} workers / {side}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

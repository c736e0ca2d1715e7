"""What polyak and a rival earn on the same task, with the same seeds, in turns: `python benchmarks/returns.py TASK`.

Each seed is trained in a process of its own, first by the rival and then by polyak, and its last policy plays 20
episodes without exploration. The rival runs in benchmarks/.venv, which `make bench-against` makes; to what that holds,
TRPO's rival adds sb3-contrib. benchmarks/returns.json keeps what came of it.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "returns.json"
RIVALS = ROOT / "benchmarks" / ".venv" / "bin" / "python"
EPISODES = 20


@dataclass(frozen=True)
class Task:
    """A training: polyak's preset, or `config` in its place, and the same for a rival in its words."""

    algorithm: str
    env: str
    steps: int
    rival: str  # a package
    theirs: dict[str, Any]
    num_envs: int = 1
    normalized: bool = False  # observations and rewards, by the rival's wrapper
    preset: bool = True


TASKS = {
    "trpo-hopper": Task(
        "trpo",
        "Hopper-v5",
        200_000,
        "sb3_contrib",
        # RL Baselines3 Zoo's of Hopper-v4, which polyak's preset has too
        {
            "n_steps": 1024,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "n_critic_updates": 20,
            "cg_max_steps": 25,
            "gae_lambda": 0.95,
        },
        num_envs=2,
        normalized=True,
    ),
    "sac-halfcheetah": Task(
        "sac",
        "HalfCheetah-v5",
        100_000,
        "sbx",
        {"learning_starts": 10_000, "policy_kwargs": {"net_arch": [256, 256]}},
    ),
}


def trained(task: Task, seed: int) -> dict[str, Any]:
    """polyak's part."""
    import polyak

    began = time.monotonic()
    run = polyak.train(
        task.algorithm, task.env, steps=task.steps, seed=seed, eval_every=0, verbose=False, out="runs/returns"
    )
    seconds = time.monotonic() - began
    return {"returns": run.evaluate(EPISODES).returns.ravel().tolist(), "seconds": seconds}


def rivalled(task: Task, seed: int) -> dict[str, Any]:
    """The rival's part."""
    import importlib

    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    library = importlib.import_module(task.rival)
    envs = make_vec_env(task.env, n_envs=task.num_envs, seed=seed)
    if task.normalized:
        envs = VecNormalize(envs)
    began = time.monotonic()
    model = getattr(library, task.algorithm.upper())("MlpPolicy", envs, seed=seed, **task.theirs)
    model.learn(task.steps)
    seconds = time.monotonic() - began
    played = make_vec_env(task.env, n_envs=1, seed=1_000 + seed)
    if task.normalized:
        played = VecNormalize(played, training=False, norm_reward=False)
        played.obs_rms = envs.obs_rms
    returns, _ = evaluate_policy(model, played, EPISODES, deterministic=True, return_episode_rewards=True)
    return {"returns": [float(x) for x in returns], "seconds": seconds}


def beside(name: str, seeds: int) -> dict[str, Any]:
    """Both, in turns, and what is to be said of them."""
    from polyak.show.curve import interquartile_mean, iqm_interval

    sides: dict[str, list[dict]] = {TASKS[name].rival: [], "polyak": []}
    for seed in range(seeds):
        for side, parts in sides.items():
            python = sys.executable if side == "polyak" else str(RIVALS)
            command = [python, __file__, name, "--seed", str(seed), "--side", side]
            said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
            parts.append(json.loads(said.splitlines()[-1]))
            mean = sum(parts[-1]["returns"]) / EPISODES
            print(f"{side}, seed {seed}: return {mean:.1f}, {parts[-1]['seconds']:.0f} s", flush=True)
    entry: dict[str, Any] = {}
    for side, parts in sides.items():
        means = [sum(part["returns"]) / EPISODES for part in parts]
        rate = TASKS[name].steps / sorted(part["seconds"] for part in parts)[len(parts) // 2]
        entry[side] = {
            "means": [round(x, 1) for x in means],
            "iqm": round(float(interquartile_mean(means)), 1),
            "interval": [round(float(x), 1) for x in iqm_interval(means)],
            "steps_per_s": round(rate, 1),
        }
    return entry


def main() -> None:
    """One task, or one side of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of one side")
    parser.add_argument("--side", choices=["polyak", *{task.rival for task in TASKS.values()}])
    chosen = parser.parse_args()
    task = TASKS[chosen.task]
    if chosen.side:
        print(json.dumps((trained if chosen.side == "polyak" else rivalled)(task, chosen.seed)))
        return
    entry = beside(chosen.task, chosen.seeds)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    KEPT.write_text(json.dumps(kept | {chosen.task: entry}, indent=2, sort_keys=True) + "\n")
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()

"""Goal-conditioned robot arms (H4): DDPG with hindsight on the tasks of Plappert et al. 2018 (arXiv:1802.09464)."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import polyak
from reproductions.finding import Finding, main, train

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "fetch.svg"
EPISODES = 100
WANTED = {"FetchReach-v4": 0.95, "FetchPush-v4": 0.8, "FetchPickAndPlace-v4": 0.5, "FetchSlide-v4": 0.3}


def name_of(task: str) -> str:
    """The task as it is named to polyak."""
    return f"gymnasium_robotics:{task}"


def success(run: polyak.Run) -> np.ndarray:
    """[S] share of a hundred new episodes of each seed that end at their goal, without exploration."""
    return run.evaluate(EPISODES, seed=1_000).measures["is_success"].mean(axis=-1)


def reaching() -> Finding:
    """FetchReach after 5,000 steps, three seeds."""
    run = train("ddpg", name_of("FetchReach-v4"), measures=("is_success",), seeds=3, eval_every=0)
    shares = success(run)
    listed = ", ".join(f"{share:.2f}" for share in shares)
    return Finding(
        {"each seed reaches in at least 95 of 100 episodes": bool((shares >= WANTED["FetchReach-v4"]).all())},
        f"success on FetchReach-v4 after 5,000 steps of DDPG with hindsight: {listed}, 3 seeds",
    )


def trained(task: str) -> polyak.Run:
    """A run by the task's preset in runs/, with a look at its success every 10,000 steps; one that is there goes on."""
    said: dict[str, Any] = {"name": f"H4-{task}", "out": "runs", "eval_every": 10_000, "eval_episodes": 20}
    return polyak.train("ddpg", name_of(task), measures=("is_success",), verbose=sys.stdout.isatty(), **said)


def curve(run: polyak.Run) -> np.ndarray:
    """[K, 2] environment steps, and success in the evaluations there."""
    return np.array(
        [(line["env_steps"], line["eval/is_success"]) for line in run.metrics if "eval/is_success" in line]
    )


def arms() -> Finding:
    """The four tasks, one seed of each, by their presets."""
    claims, said, curves = {}, [], {}
    for task, least in WANTED.items():
        run = trained(task)
        share, curves[task] = float(success(run).mean()), curve(run)
        claims[f"{task}: success of at least {least:.0%}"] = share >= least
        said.append(f"{task} {share:.2f} after {run.plan.steps:,} steps")
        looks = ", ".join(f"{x:.2f}" for x in curves[task][:, 1])
        print(f"{said[-1]}; on the way, of 20 episodes each: {looks}", flush=True)
    draw(curves)
    return Finding(claims, f"success in {EPISODES} episodes, 1 seed: {'; '.join(said)}")


def draw(curves: dict[str, np.ndarray]) -> None:
    """Success against environment steps, of each task in its own run."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "fetch"
    figure, axes = plt.subplots(figsize=(7.6, 3.4), layout="constrained")
    for task, points in curves.items():
        axes.plot(points[:, 0] / 1000, points[:, 1], marker=".", label=task)
    axes.set(xlabel="thousand environment steps", ylabel="success in 20 episodes", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main({"H4": reaching}, long={"H4": arms})

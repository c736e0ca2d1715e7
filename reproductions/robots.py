"""Goal-conditioned robot arms (H4): DDPG with hindsight on the tasks of Plappert et al. 2018 (arXiv:1802.09464)."""

import numpy as np

from reproductions.finding import Finding, main, train

FETCH = {
    "gamma": 0.95,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "tau": 0.05,
    "noise": "gaussian",
    "sigma": 0.2,
    "hidden": (256, 256),
    "data.capacity": 200_000,
    "data.batch_size": 256,
    "data.warmup": 500,
    "data.steps": 2,
    "data.updates": 2,
}


def arm(task: str, steps: int, seeds: int) -> np.ndarray:
    """[S] success of DDPG with hindsight after so many steps, over 100 episodes each."""
    run = train(
        "ddpg",
        f"gymnasium_robotics:{task}",
        steps=steps,
        seeds=seeds,
        her="future",
        measures=("is_success",),
        config=FETCH,
        preset=False,
        eval_episodes=100,
    )
    newest = {
        line["seed"]: float(line["eval/is_success"]) for line in run.metrics if "eval/is_success" in line
    }
    return np.array([newest[seed] for seed in sorted(newest)])


def reaching() -> Finding:
    """FetchReach in under 5,000 steps."""
    success = arm("FetchReach-v4", 5_000, 1)
    return Finding(
        {"it reaches in at least 95 of 100 episodes": bool((success >= 0.95).all())},
        f"success on FetchReach-v4 after 5,000 steps of DDPG with hindsight: {success.round(2).tolist()}",
    )


def four_arms() -> Finding:
    """The four Fetch tasks, 5 seeds of reach and 3 of the others."""
    wanted = {"FetchReach-v4": (5_000, 5, 0.95), "FetchPush-v4": (1_000_000, 3, 0.8)}
    wanted |= {"FetchSlide-v4": (1_000_000, 3, 0.3), "FetchPickAndPlace-v4": (1_000_000, 3, 0.5)}
    claims, said = {}, []
    for task, (steps, seeds, least) in wanted.items():
        success = arm(task, steps, seeds)
        claims[f"{task}: mean success of at least {least:.0%} after {steps:,} steps"] = (
            success.mean() >= least
        )
        said.append(f"{task} {success.mean():.2f} {success.round(2).tolist()}")
    return Finding(claims, "; ".join(said))


if __name__ == "__main__":
    main({"H4": reaching}, long={"H4": four_arms})

"""TD3 without each of its three tricks (D11), as in Table 2 of Fujimoto et al. 2018 (arXiv:1802.09477).

The paper ablates them on four tasks over a million steps. Here it is MuJoCo's inverted double pendulum over 200,000,
with small networks; five seeds learn together. How far the critic is off is measured where the policy goes without
exploration: Q_1(s, mu(s)) beside the discounted rewards that follow. Runs are kept in runs/, and go on if stopped.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from scipy.stats import trim_mean

import polyak
from polyak.runs.policy import Policy
from polyak.show.curve import interquartile_mean, iqm_interval
from reproductions.finding import Finding, main

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "td3_parts.svg"
TASK, STEPS, SEEDS = "InvertedDoublePendulum-v5", 200_000, 5
EPISODES, TAIL = 4, 500  # of each seed; steps that a value needs after its state: 0.99^500 is under 1 %
SMALL = {"hidden": (64, 64), "data.batch_size": 100}
VARIANTS: dict[str, dict[str, Any]] = {  # as the paper calls them
    "TD3": {},
    "TD3 - TPS": {"smoothing": 0.0},
    "TD3 - DP": {"delay": 1},
    "TD3 - CDQ": {"twin": False},
    "AHE": {"twin": False, "delay": 1, "smoothing": 0.0},
}


class Score(NamedTuple):
    """What a variant came to."""

    curve: np.ndarray  # [S, K] return of the evaluations on the way
    last: np.ndarray  # [S] mean return at the end
    off: np.ndarray  # [S] mean of Q minus the discounted return


def trained(name: str, steps: int = STEPS) -> polyak.Run:
    """The run of a variant, kept in runs/."""
    said: dict[str, Any] = {"config": SMALL | VARIANTS[name], "name": f"D11-{name.replace(' ', '')}-{steps}"}
    said |= {"eval_every": steps // 20, "eval_episodes": 5, "out": "runs"}
    return polyak.train("td3", TASK, steps=steps, seeds=SEEDS, verbose=sys.stdout.isatty(), **said)


def score(run: polyak.Run) -> Score:
    """Its curve, its return in new episodes, and how far its critic is off in these."""
    curve = np.array(
        [[line["eval/return"] for line in run.metrics if line["seed"] == seed and "eval/return" in line]
         for seed in range(SEEDS)]
    )  # fmt: skip
    found = [played(run.policy(seed)) for seed in range(SEEDS)]
    return Score(curve, *np.array(found).T)


def played(policy: Policy) -> tuple[float, float]:
    """The mean return of some episodes, and the mean over their states of Q minus the discounted return from there."""
    world, totals, off = gymnasium.make(TASK), [], []
    for episode in range(EPISODES):
        obs, ended = world.reset(seed=10_000 + episode)[0], False
        seen, rewards, terminated = [], [], False
        while not ended:
            action, _ = policy(obs)
            seen.append(obs)
            obs, reward, terminated, truncated, _ = world.step(action)
            rewards.append(float(reward))
            ended = terminated or truncated
        value, values = 0.0, []
        for reward in reversed(rewards):
            value = reward + policy.cfg.gamma * value
            values.append(value)
        known = len(seen) - (0 if terminated else TAIL)  # what follows the time limit is not seen
        states = np.asarray(seen[:known], np.float32)
        estimates = policy.value(states, policy.act(states)[0])
        off.append(estimates - np.array(values[::-1][:known]))
        totals.append(sum(rewards))
    world.close()
    return float(np.mean(totals)), float(np.concatenate(off).mean())


def table(steps: int = STEPS) -> Finding:
    """All variants beside each other."""
    found = {}
    for name in VARIANTS:
        found[name] = score(trained(name, steps))
        print(f"  {name}: {told(found[name])}", flush=True)
    draw(found, steps)
    td3, plain = found["TD3"], found["AHE"]
    least = iqm_interval(plain.last)[0]
    claims = {
        f"with all tricks Q is less above the return than with none ({td3.off.mean():+.1f} beside "
        f"{plain.off.mean():+.1f})": td3.off.mean() < plain.off.mean(),
        f"with all tricks the return is not below the interval of that with none ({middle(td3):,.0f}, the interval "
        f"from {least:,.0f})": middle(td3) >= least,
    }
    order = sorted(found, key=lambda name: -middle(found[name]))
    said = "; ".join(f"{name} {told(found[name])}" for name in order)
    return Finding(claims, f"{TASK}, {steps:,} steps, {SEEDS} seeds, IQM of returns (Q minus return): {said}")


def middle(each: Score) -> float:
    """The interquartile mean of the returns at the end."""
    return float(trim_mean(each.last, 0.25))


def told(each: Score) -> str:
    """A variant's figures."""
    seeds = ", ".join(f"{x:,.0f}" for x in np.sort(each.last))
    return f"{middle(each):,.0f} of {seeds} ({each.off.mean():+.1f})"


def draw(found: dict[str, Score], steps: int) -> None:
    """Returns over environment steps, and how far the critics are off at the end."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "td3_parts"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    for number, (name, each) in enumerate(found.items()):
        across = np.linspace(0, steps, each.curve.shape[1]) / 1000
        left.plot(across, interquartile_mean(each.curve), label=name)
        right.bar(number, each.off.mean(), color=f"C{number}", alpha=0.6)
        right.plot([number] * SEEDS, each.off, "k.", markersize=4)
    left.set(xlabel="thousand environment steps", ylabel=f"return, interquartile mean of {SEEDS} seeds")
    left.legend(frameon=False, fontsize=8)
    right.set(xticks=range(len(found)), ylabel="Q minus the discounted return")
    right.set_xticklabels(found, fontsize=8)
    right.axhline(0, color="k", linewidth=0.8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main({}, long={"D11": table})

"""Estimators of a policy's gradient beside the exact one: likelihood ratio (A1), pathwise (A2), less variance (A3),
finite differences (B7).

The exact gradients: of a linear-quadratic regulator in closed form, of a bandit in closed form, of a small MDP by
enumeration of all its paths. Every estimator sees the episodes of the same seed.
"""

import functools

import numpy as np

from polyak.lab import estimators as lab
from polyak.lab.estimators import EVERY, Bandit, Estimate, Finite, FiniteDifference, Regulator, estimate
from polyak.lab.linear import double_integrator
from polyak.lab.mdp import random_mdp
from polyak.lab.tasks import Policy, Task
from reproductions.finding import Finding, main

SAMPLES = 100_000
REPEATS = (1, 10, 100, 1000)  # episodes that a gradient is averaged over


def cases() -> dict[str, tuple[Task, Policy]]:
    """A task and a policy of it, by name: three with a Gaussian, one with a softmax policy."""
    logits = np.random.default_rng(1).normal(size=(3, 2))
    return {
        "regulator": (
            Regulator(double_integrator(gamma=0.95), horizon=10),
            lab.gaussian([[-0.5, -0.9]], 0.4),
        ),
        "quadratic reward": (Bandit("quadratic", at=0.7), lab.gaussian([[0.0]], 1.0)),
        "step reward": (Bandit("step", at=0.7), lab.gaussian([[0.0]], 1.0)),
        "small MDP": (Finite(random_mdp(3, 2, seed=0), horizon=4), lab.softmax(logits)),
    }


@functools.cache
def found(case: str, name: str) -> Estimate:
    """The samples of an estimator in a case."""
    task, policy = cases()[case]
    return estimate(EVERY[name], task, policy, SAMPLES)


def deviation(case: str, name: str) -> float:
    """The largest error of the mean, in standard errors."""
    task, policy = cases()[case]
    return float(np.abs(found(case, name).deviation(task.exact(policy))).max())


def likelihood() -> Finding:
    """The mean of many samples is the exact gradient, for a Gaussian and for a softmax policy."""
    off = {case: deviation(case, "likelihood ratio") for case in cases()}
    claims = {
        f"{case}: the mean of {SAMPLES:,} samples is within 3 standard errors (found {error:.2f})": error < 3
        for case, error in off.items()
    }
    return Finding(claims, f"largest deviation {max(off.values()):.2f} standard errors over {len(off)} tasks")


def reparameterised() -> Finding:
    """Less variance where the reward is smooth, and a wrong answer where it is a step."""
    claims, ratios = {}, []
    for case in ("regulator", "quadratic reward"):
        error = deviation(case, "pathwise")
        claims[f"{case}: the pathwise mean is within 3 standard errors (found {error:.2f})"] = error < 3
        ratio = found(case, "likelihood ratio").variance / found(case, "pathwise").variance
        claims[f"{case}: its variance is below the likelihood ratio's (by a factor of {ratio:.0f})"] = (
            ratio > 1
        )
        ratios.append(ratio)
    task, policy = cases()["step reward"]
    truth, pathwise = lab.flatten(task.exact(policy)), found("step reward", "pathwise").mean
    claims[f"step reward: the pathwise mean is {pathwise[0]:.3f}, the truth {truth[0]:.3f}: biased"] = (
        deviation("step reward", "pathwise") > 10
    )
    error = deviation("step reward", "likelihood ratio")
    claims[f"step reward: the likelihood ratio is not (deviation {error:.2f})"] = error < 3
    return Finding(
        claims,
        f"variance {ratios[0]:.0f} and {ratios[1]:.0f} times below; on a step it says {pathwise[0]:.3f} for "
        f"{truth[0]:.3f}",
    )


def variance_reduced() -> Finding:
    """On the same episodes: likelihood ratio > reward-to-go > baseline > advantage in variance, all with one mean."""
    order = ("likelihood ratio", "reward-to-go", "baseline", "advantage")
    claims, figures = {}, []
    for case in ("regulator", "small MDP"):
        variances = [found(case, name).variance for name in order]
        shown = " > ".join(f"{v:.3g}" for v in variances)
        claims[f"{case}: {' > '.join(order)} in variance (found {shown})"] = bool(
            (np.diff(variances) < 0).all()
        )
        off = max(deviation(case, name) for name in order)
        claims[f"{case}: all four means are within 3 standard errors (found {off:.2f})"] = off < 3
        figures.append(f"{case} {shown}")
    return Finding(claims, "variance of a sample: " + ", ".join(figures))


def errors_by_repeats(common: bool) -> np.ndarray:
    """Root-mean-square error on the regulator, relative to the gradient's length, of means over each of REPEATS."""
    task, policy = cases()["regulator"]
    exact = lab.flatten(task.exact(policy))
    samples = estimate(FiniteDifference(common=common), task, policy, SAMPLES).samples
    errors = []
    for repeats in REPEATS:
        means = samples.reshape(-1, repeats, samples.shape[1]).mean(1)
        errors.append(np.sqrt(np.square(means - exact).sum(1).mean()) / np.linalg.norm(exact))
    return np.array(errors)


def finite_differences() -> Finding:
    """The right direction, an error that averaging halves at four times the episodes, and common random numbers."""
    task, policy = cases()["regulator"]
    exact = lab.flatten(task.exact(policy))
    few = FiniteDifference()
    mean = estimate(few, task, policy, REPEATS[-1], seed=1).mean
    cosine = float(mean @ exact / np.linalg.norm(mean) / np.linalg.norm(exact))
    errors = {common: errors_by_repeats(common) for common in (True, False)}
    slope = {c: np.polyfit(np.log(REPEATS), np.log(e), 1)[0] for c, e in errors.items()}
    helps = errors[False][0] / errors[True][0]
    forward = estimate(FiniteDifference(central=False), task, policy, REPEATS[-1], seed=1).mean
    ahead = float(forward @ exact / np.linalg.norm(forward) / np.linalg.norm(exact))
    claims = {
        f"the cosine with the closed form over {REPEATS[-1]:,} repeats is above 0.99 (found {cosine:.4f})": (
            cosine > 0.99
        ),
        f"so it is with the slides' one-sided form, n + 1 evaluations (found {ahead:.4f})": ahead > 0.99,
        f"the error falls as repeats^-0.5 within 0.05, common numbers (exponent {slope[True]:.3f})": abs(
            slope[True] + 0.5
        )
        < 0.05,
        f"and with numbers of their own (exponent {slope[False]:.3f})": abs(slope[False] + 0.5) < 0.05,
        f"common random numbers make the error smaller (by a factor of {helps:.0f})": helps > 2,
    }
    return Finding(
        claims,
        f"cosine {cosine:.4f}; error as repeats^{slope[True]:.2f}; common random numbers: error {helps:.0f} times less",
    )


if __name__ == "__main__":
    main({"A1": likelihood, "A2": reparameterised, "A3": variance_reduced, "B7": finite_differences})

"""Models and plans: fitting (G1), exact plans (G2), LQR (G3), the simulation lemma (G4), Q-planning (G7)."""

import functools

import numpy as np
from scipy.linalg import solve_discrete_are

from polyak.lab import linear, models, planning
from polyak.lab.mdp import MDP, random_mdp, random_policy
from reproductions.finding import Finding, main

SIZES = (100, 1_000, 10_000, 100_000)  # transitions that a model is fitted to


# ---- G1


def fitted(mdp: MDP, samples: int, seed: int) -> models.Counts:
    """The count model of transitions whose pairs are uniform."""
    data = models.sample_transitions(mdp, samples, seed)
    return models.fit_counts(*data, mdp.start, mdp.actions, mdp.gamma)


@functools.cache
def count_errors() -> np.ndarray:
    """Mean total variation over pairs [sizes, MDPs]."""
    worlds = [random_mdp(5, 2, seed) for seed in range(20)]
    return np.array(
        [
            [
                models.total_variation(fitted(mdp, n, seed).mdp.transition, mdp.transition).mean()
                for seed, mdp in enumerate(worlds)
            ]
            for n in SIZES
        ]
    )


def fitting() -> Finding:
    """Counts converge as n^-1/2 and are defined everywhere; least squares is exact where nothing is noisy."""
    errors = count_errors().mean(1)
    slope = np.polyfit(np.log(SIZES[1:]), np.log(errors[1:]), 1)[0]
    mdp = random_mdp(5, 2, 0)
    few = fitted(mdp, 4, 0)
    never = few.visits == 0
    uniform = np.abs(few.mdp.transition[never] - 1 / mdp.states).max()
    random = np.random.default_rng(0)
    lqr = linear.double_integrator()
    state, action = random.normal(size=(50, 2)), random.normal(size=(50, 1))
    A, B, _ = models.fit_linear(state, action, state @ lqr.A.T + action @ lqr.B.T)
    off = max(np.abs(A - lqr.A).max(), np.abs(B - lqr.B).max())
    claims = {
        f"total variation falls as n^-1/2 within 0.05 (exponent {slope:.3f})": abs(slope + 0.5) < 0.05,
        f"after 4 samples {never.sum()} pairs were never visited; they lead anywhere alike": never.sum() >= 6
        and uniform < 1e-12,
        f"least squares without noise is exact to 1e-6 (found {off:.1e})": off < 1e-6,
    }
    return Finding(
        claims,
        f"total variation as n^{slope:.3f}, {errors[-1]:.4f} at {SIZES[-1]:,} samples; least squares to {off:.0e}",
    )


# ---- G2


def plans() -> Finding:
    """Value and policy iteration against the linear solve of what they found, and against every policy there is."""
    solve, agree, better = [], [], []
    for seed in range(100):
        mdp = random_mdp(20, 4, seed, branches=3)
        by_value, by_policy = planning.value_iteration(mdp), planning.policy_iteration(mdp)
        solve.append(np.abs(by_value.value - mdp.values(by_value.policy)).max())
        agree.append(np.abs(by_value.value - by_policy.value).max())
        small = random_mdp(4, 2, seed)
        every = [small.values(np.array([k >> s & 1 for s in range(4)])) for k in range(16)]
        better.append(np.abs(np.max(every, axis=0) - planning.policy_iteration(small).value).max())
    claims = {
        f"value iteration's V is its policy's linear solve to 1e-8 (found {max(solve):.1e})": max(solve)
        < 1e-8,
        f"policy iteration's V is the same to 1e-8 (found {max(agree):.1e})": max(agree) < 1e-8,
        f"it is the best over all 16 policies of 100 small MDPs to 1e-8 (found {max(better):.1e})": max(
            better
        )
        < 1e-8,
    }
    return Finding(claims, f"within {max(max(solve), max(agree)):.0e} of the linear solve on 100 random MDPs")


# ---- G3


@functools.cache
def learned_costs(transitions: int, seeds: int = 20) -> np.ndarray:
    """Average cost of the true system under the gain of a fitted model, relative to the best [seeds]."""
    lqr = linear.double_integrator()
    best = linear.infinite_cost(lqr, linear.stationary_riccati(lqr)[1])
    ratios = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        state, action = random.normal(size=(transitions, 2)), random.normal(size=(transitions, 1))
        noise = 0.1 * random.normal(size=(transitions, 2))
        A, B, _ = models.fit_linear(state, action, state @ lqr.A.T + action @ lqr.B.T + noise)
        _, K = linear.stationary_riccati(lqr.replace(A=A, B=B))
        ratios.append(linear.infinite_cost(lqr, K) / best)
    return np.array(ratios)


def regulators() -> Finding:
    """The gain beside SciPy's, on systems drawn at random; the gain of a learned system on the true one."""
    off = []
    for seed in range(50):
        random = np.random.default_rng(seed)
        A, B = random.normal(size=(4, 4)) / 2, random.normal(size=(4, 2))
        Q, R = np.diag(random.uniform(0.1, 1, 4)), np.diag(random.uniform(0.1, 1, 2))
        P = solve_discrete_are(A, B, Q, R)
        K = -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        off.append(np.abs(linear.stationary_riccati(linear.LQR(A, B, Q, R))[1] - K).max())
    ratios = learned_costs(1_000)
    claims = {
        f"K is SciPy's solution of the Riccati equation on 50 systems to 1e-8 (found {max(off):.1e})": max(
            off
        )
        < 1e-8,
        f"learned from 1,000 noisy transitions it costs at most 1 % more, 20 seeds (most {ratios.max() - 1:.3%})": (
            ratios.max() < 1.01
        ),
        "and never less than the best": ratios.min() >= 1 - 1e-9,
    }
    return Finding(
        claims, f"K within {max(off):.0e} of SciPy's; learned LQR costs {ratios.max() - 1:.3%} more at most"
    )


# ---- G4


@functools.cache
def gaps() -> np.ndarray:
    """Gap, lemma, bound and number of samples [300, 4] of 100 MDPs, policies and models fitted at three sizes."""
    found = []
    for seed in range(100):
        mdp = random_mdp(6, 3, seed)
        policy = random_policy(mdp, seed)
        for samples in SIZES[:3]:
            found.append((*models.simulation_gap(mdp, fitted(mdp, samples, seed).mdp, policy), samples))
    return np.array(found)


def simulation() -> Finding:
    """The lemma is an equality, and the slides' bound holds where rewards lie in [0, 1] or it is scaled."""
    gap, lemma, bound, _ = gaps().T
    off = np.abs(gap - lemma).max()
    mdp, policy = random_mdp(6, 3, 0), random_policy(random_mdp(6, 3, 0), 0)
    model = fitted(mdp, 100, 0).mdp
    wide = mdp.replace(reward=1000 * mdp.reward - 300)
    scaled, unscaled = models.simulation_gap(wide, model, policy), models.simulation_gap(mdp, model, policy)
    span = np.ptp(mdp.reward)
    claims = {
        f"gap and lemma are equal to 1e-9 on 100 MDPs and policies, 3 models each (found {off:.1e})": off
        < 1e-9,
        f"the bound is never violated (the gap is at most {np.abs(gap / bound).max():.3f} of it)": bool(
            (np.abs(gap) <= bound).all()
        ),
        "it falls as the model gets better": bool((np.diff(bound.reshape(100, 3).mean(0)) < 0).all()),
        "with rewards in [-300, 700] the slides' bound, made for [0, 1], fails; scaled by their range it holds": (
            abs(scaled.gap) > unscaled.bound / span and abs(scaled.gap) <= scaled.bound
        ),
    }
    return Finding(
        claims,
        f"equal to {off:.0e} on {len(gap)} cases; gap at most {np.abs(gap / bound).max():.3f} of its bound",
    )


# ---- G7


@functools.cache
def q_errors(steps: tuple[int, ...] = (3_000, 30_000, 300_000)) -> np.ndarray:
    """Largest error of Q against that of value iteration, relative to the largest Q [steps, seeds]."""
    errors = []
    for seed in range(5):
        model = fitted(random_mdp(5, 2, seed, gamma=0.8), 2_000, seed).mdp
        best = model.backup(planning.value_iteration(model).value)
        errors.append(
            [np.abs(planning.q_planning(model, n, seed) - best).max() / np.abs(best).max() for n in steps]
        )
    return np.array(errors).T


def q_planning() -> Finding:
    """It converges to Q* of the model that was learned, not to that of the world."""
    errors = q_errors()
    world = random_mdp(5, 2, 0, gamma=0.8)
    model = fitted(world, 100, 0).mdp
    of_model, of_world = (m.backup(planning.value_iteration(m).value) for m in (model, world))
    found = planning.q_planning(model, 300_000)
    near, far = np.abs(found - of_model).max(), np.abs(found - of_world).max()
    sure = np.eye(6)[np.random.default_rng(0).integers(6, size=(6, 2))]
    deterministic = random_mdp(6, 2, 0).replace(transition=sure)
    exact = deterministic.backup(planning.value_iteration(deterministic, 1e-12).value)
    off = np.abs(planning.q_planning(deterministic, 20_000, power=0) - exact).max()
    claims = {
        f"the largest error falls at each tenfold of steps with every seed (means {errors.mean(1).round(4)})": bool(
            (np.diff(errors, axis=0) < 0).all()
        ),
        f"it ends below 1 % of the largest Q (found {errors[-1].max():.2%})": errors[-1].max() < 0.01,
        f"of a model from 100 samples it finds the model's Q (off by {near:.3f}), not the world's ({far:.3f})": (
            near < far / 5
        ),
        f"of a deterministic model with alpha = 1 it is exact to 1e-8 (found {off:.1e})": off < 1e-8,
    }
    return Finding(
        claims, f"largest error {errors[-1].max():.2%} of the largest Q after 300,000 steps, 5 learned models"
    )


if __name__ == "__main__":
    main({"G1": fitting, "G2": plans, "G3": regulators, "G4": simulation, "G7": q_planning})

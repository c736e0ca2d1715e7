"""How far a policy may move: a step too large (F1), and what data of the old policy say of the new one (F12)."""

import functools

import numpy as np

from polyak.lab import estimators as lab
from polyak.lab import worlds
from polyak.lab.mdp import random_mdp, random_policy
from polyak.lab.tasks import probabilities
from reproductions.finding import Finding, main

# ---- F1

LRS = (0.1, 1.0, 3.0, 10.0, 30.0)
SEEDS, STEPS = 10, 200
CHAIN = worlds.chain(4)
TASK = lab.Finite(CHAIN, horizon=30)


@functools.cache
def climbed(lr: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Discounted value before and after each step of REINFORCE [T + 1], and the last logits."""
    uniform = lab.softmax(np.zeros((4, 2)))
    course = lab.ascend(lab.reward_to_go, TASK, uniform, lr, STEPS, episodes=8, seed=seed)
    values = np.array([CHAIN.discounted_value(probabilities(policy)) for policy in course])
    return values, np.asarray(course[-1].net.weight)


def step_size() -> Finding:
    """Small steps climb, large ones collapse to a bad policy, and from there small ones do not come back."""
    best = CHAIN.discounted_value(np.zeros(4, int))
    poor = CHAIN.discounted_value(np.ones(4, int))
    reached = {lr: np.array([climbed(lr, seed)[0][-1] for seed in range(SEEDS)]) for lr in LRS}
    solved = {lr: int((values > 0.95 * best).sum()) for lr, values in reached.items()}
    fallen = [seed for seed in range(SEEDS) if reached[LRS[-1]][seed] < 1.1 * poor]
    again = []
    for seed in fallen:  # the good step size, from where the large one ended
        there = lab.softmax(climbed(LRS[-1], seed)[1])
        course = lab.ascend(lab.reward_to_go, TASK, there, 1.0, STEPS, episodes=8, seed=100 + seed)
        again.append(CHAIN.discounted_value(probabilities(course[-1])))
    back = int(np.sum(np.array(again) > 0.95 * best))
    claims = {
        f"step size 1 comes within 5 % of the best value {best:.2f} with every seed (found {solved[1.0]})": (
            solved[1.0] == SEEDS
        ),
        f"step size 30 ends at the worst habit, {poor:.2f}, with most seeds (found {len(fallen)} of {SEEDS})": (
            len(fallen) > SEEDS / 2
        ),
        f"from there step size 1 never comes back in as many steps (found {back} of {len(fallen)})": len(
            fallen
        )
        > 0
        and back == 0,
    }
    counts = ", ".join(f"{lr:g}: {n}" for lr, n in solved.items())
    return Finding(claims, f"seeds of {SEEDS} that solve a chain, by step size: {counts}; recovered {back}")


# ---- F12


@functools.cache
def surrogate_errors() -> tuple[np.ndarray, ...]:
    """Divergence, error of the surrogate, its bound, and the variance of a sample, on 100 MDPs towards 12 policies.

    The bound is that of Schulman et al. 2015, theorem 1, with the divergence as large as in the worst state:
    |eta(new) - eta(old) - L| <= 4 epsilon gamma / (1 - gamma)^2 max_s KL, epsilon = max |A|.
    """
    found = []
    for seed in range(100):
        mdp = random_mdp(8, 3, seed, branches=3)
        old, other = random_policy(mdp, seed), random_policy(mdp, 1000 + seed)
        eta, epsilon = mdp.discounted_value(old), np.abs(mdp.advantages(old)).max()
        for share in 2.0 ** -np.arange(12):
            new = (1 - share) * old + share * other
            kl = mdp.kl(old, new).max()
            error = abs(mdp.discounted_value(new) - eta - mdp.surrogate(new, old))
            bound = 4 * epsilon * mdp.gamma / (1 - mdp.gamma) ** 2 * kl
            found.append((seed, share, kl, error, bound, mdp.surrogate_variance(new, old)))
    return tuple(np.array(found).reshape(100, 12, 6).transpose(2, 0, 1))


def sampled_variance(seed: int, samples: int) -> tuple[float, float]:
    """Variance of the importance-weighted advantage from draws, and its exact value."""
    mdp = random_mdp(8, 3, seed, branches=3)
    old, new = random_policy(mdp, seed), random_policy(mdp, 1000 + seed)
    old = 0.5 * old + 0.5 / mdp.actions  # so that no ratio is extreme
    random = np.random.default_rng(seed)
    visits = mdp.occupancy(old)
    state = random.choice(mdp.states, p=visits / visits.sum(), size=samples)
    action = (old.cumsum(1)[state] < random.uniform(size=(samples, 1))).sum(1)
    weighed = (new / old * mdp.advantages(old))[state, action]
    return float(weighed.var()), mdp.surrogate_variance(new, old)


def difference() -> Finding:
    """The identity, the surrogate's error against the divergence, and the variance of importance ratios."""
    off = []
    for seed in range(100):
        mdp = random_mdp(8, 3, seed)
        new, old = random_policy(mdp, seed), random_policy(mdp, 1000 + seed)
        gain = mdp.discounted_value(new) - mdp.discounted_value(old)
        off.append(abs(mdp.difference(new, old) - gain))
    _, _, kl, error, bound, variance = surrogate_errors()
    slopes = [np.polyfit(np.log(k[-6:]), np.log(e[-6:]), 1)[0] for k, e in zip(kl, error, strict=True)]
    pairs = np.array([sampled_variance(seed, 200_000) for seed in range(5)])
    variance_off = np.abs(pairs[:, 0] / pairs[:, 1] - 1).max()
    grows = np.mean(variance[:, 0] > variance[:, -1])
    claims = {
        f"eta(new) - eta(old) is the identity's to 1e-8 on 100 random MDPs (found {max(off):.1e})": max(off)
        < 1e-8,
        f"the surrogate's error is within Schulman's bound, 1,200 times (most {(error / bound).max():.1e} of it)": bool(
            (error <= bound).all()
        ),
        f"for small steps it falls as the divergence: median exponent 1 within 0.1 (found {np.median(slopes):.3f})": (
            abs(np.median(slopes) - 1) < 0.1
        ),
        f"the variance of ratio times advantage is that of 200,000 draws within 5 % (off by {variance_off:.1%})": (
            variance_off < 0.05
        ),
        f"a far policy has more of it than a near one on at least 90 of 100 MDPs (found {grows:.0%})": grows
        >= 0.9,
    }
    return Finding(
        claims,
        f"identity to {max(off):.0e} on 100 MDPs; surrogate error as KL^{np.median(slopes):.2f}, at most "
        f"{(error / bound).max():.1e} of its bound",
    )


if __name__ == "__main__":
    main({"F1": step_size, "F12": difference})

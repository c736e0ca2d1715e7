"""What a policy maximises (A9), and two ways in which a greedy policy fails where states look alike (A11, A12)."""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from polyak.lab import estimators as lab
from polyak.lab import planning, worlds
from polyak.lab.mdp import MDP, random_mdp, random_policy, reaches
from polyak.lab.tasks import probabilities
from reproductions.finding import Finding, main

# ---- A9


def simulate(mdp: MDP, policy: np.ndarray, steps: int, runs: int, seed: int) -> np.ndarray:
    """Rewards [runs, steps] of a policy, from its own draws: an answer that no linear algebra went into."""
    random = np.random.default_rng(seed)
    below, chosen = mdp.transition.cumsum(-1), policy.cumsum(-1)
    state = random.choice(mdp.states, p=mdp.start, size=runs)
    rewards = np.empty((runs, steps))
    for t in range(steps):
        action = (chosen[state] < random.uniform(size=(runs, 1))).sum(1)
        rewards[:, t] = mdp.reward[state, action]
        state = (below[state, action] < random.uniform(size=(runs, 1))).sum(1)
    return rewards


def objectives() -> Finding:
    """All three on random MDPs: closed forms against each other, and against simulation."""
    off, identity = [], []
    for seed in range(100):
        mdp, policy = random_mdp(6, 3, seed), random_policy(random_mdp(6, 3, seed), seed)
        _, reward = mdp.chain(policy)
        gain = mdp.average_reward(policy)
        off.append(abs(gain - mdp.stationary(policy) @ reward))
        # Sutton & Barto, section 10.4: averaged over the visits, discounting changes nothing but the scale
        identity.append(abs(mdp.stationary(policy) @ mdp.values(policy) - gain / (1 - mdp.gamma)))
    mdp, policy = random_mdp(6, 3, 0), random_policy(random_mdp(6, 3, 0), 0)
    rewards = simulate(mdp, policy, 400, 4_000, seed=1)
    discounts = mdp.gamma ** np.arange(400)
    found = {
        "start-state value over 20 steps": (rewards[:, :20].sum(1), mdp.objective(policy, "start", 20)),
        "discounted value": (rewards @ discounts, mdp.objective(policy, "discounted")),
        "average reward": (rewards[:, 50:].mean(1), mdp.objective(policy, "average")),
    }
    claims = {
        f"the gain is the stationary distribution's on 100 random MDPs to 1e-10 (found {max(off):.1e})": max(
            off
        )
        < 1e-10,
        f"sum_s d(s) V(s) = gain / (1 - gamma) to 1e-9 (found {max(identity):.1e})": max(identity) < 1e-9,
    }
    for name, (samples, exact) in found.items():
        error = (samples.mean() - exact) / (samples.std() / np.sqrt(len(samples)))
        claims[f"{name} {exact:.4f} is a simulation's within 3 standard errors (found {error:+.2f})"] = (
            abs(error) < 3
        )
    # they can disagree: exercise 3.22, where the discount decides and the average does not know it
    choice = {g: [worlds.two_loops(g).objective(a, "discounted") for a in loops()] for g in (0.4, 0.6)}
    left = {g: values[0] > values[1] for g, values in choice.items()}
    average = [worlds.two_loops().objective(a, "average") for a in loops()]
    claims["two loops: gamma 0.4 goes left, gamma 0.6 right; the average is 0.5 left and 1 right"] = left == {
        0.4: True,
        0.6: False,
    } and np.allclose(average, [0.5, 1.0])
    return Finding(claims, f"gain within {max(off):.0e} of the stationary distribution's on 100 MDPs")


def loops() -> tuple[np.ndarray, np.ndarray]:
    """Left and right in `two_loops`."""
    return np.array([0, 0, 0]), np.array([1, 0, 0])


# ---- A11


def reaches_goal(world: worlds.Aliased, by_sight: np.ndarray) -> np.ndarray:
    """Probability [5] that the goal, state 6, is reached from each cell."""
    policy = world.policy(by_sight)
    chain, _ = world.mdp.chain(policy)
    can = reaches(chain, np.arange(7) == 6)
    live = can & (np.arange(7) < 5)
    found = np.zeros(7)
    found[live] = np.linalg.solve(np.eye(live.sum()) - chain[np.ix_(live, live)], chain[live, 6])
    return found[:5]


class Best(NamedTuple):
    """The best deterministic policy of what is seen, and how often each of all reaches the goal from everywhere."""

    policy: np.ndarray
    value: float
    from_all: int


@functools.cache
def best_deterministic() -> Best:
    """By trying all 256."""
    world, best, from_all = worlds.aliased_gridworld(), Best(np.zeros(5, int), -np.inf, 0), 0
    for actions in itertools.product(range(4), repeat=4):
        by_sight = np.array([*actions, 0])
        value = world.mdp.discounted_value(world.policy(by_sight))
        from_all += reaches_goal(world, np.eye(4)[by_sight]).min() > 0
        best = Best(by_sight, value, 0) if value > best.value else best
    return best._replace(from_all=int(from_all))


@functools.cache
def learned(seed: int) -> np.ndarray:
    """The policy over what is seen [O, A] that REINFORCE finds from a uniform one."""
    world = worlds.aliased_gridworld()
    policy = lab.softmax(np.zeros((5, 4)), world.sees)
    task = aliased_task()
    last = lab.ascend(lab.reward_to_go, task, policy, lr=0.5, steps=600, episodes=32, seed=seed)[-1]
    return probabilities(last)[[0, 1, 2, 4, 5]]


@functools.cache
def aliased_task() -> lab.Finite:
    """Episodes of 40 steps."""
    return lab.Finite(worlds.aliased_gridworld().mdp, horizon=40)


def aliased() -> Finding:
    """No deterministic policy reaches the goal from every cell; the learned stochastic one does."""
    world, best = worlds.aliased_gridworld(), best_deterministic()
    stuck = [cell for cell, p in enumerate(reaches_goal(world, np.eye(4)[best.policy])) if p == 0]
    found = [learned(seed) for seed in range(5)]
    least = min(reaches_goal(world, policy).min() for policy in found)
    values = [world.mdp.discounted_value(world.policy(policy)) for policy in found]
    spread = [min(policy[1, worlds.EAST], policy[1, worlds.WEST]) for policy in found]
    claims = {
        f"the best of 256 deterministic policies never reaches the goal from cells {stuck}": len(stuck) > 0,
        f"none of them reaches it from every cell (found {best.from_all})": best.from_all == 0,
        f"5 learned policies reach it from every cell with probability above 0.95 (least {least:.3f})": least
        > 0.95,
        f"their discounted value is above the best deterministic {best.value:.3f} (least {min(values):.3f})": (
            min(values) > best.value
        ),
        f"in the cells that look alike they go both ways (least probability {min(spread):.2f})": min(spread)
        > 0.2,
    }
    return Finding(
        claims,
        f"value {np.mean(values):.3f} learned, {best.value:.3f} best deterministic; goal from all cells with "
        f"probability {least:.3f}",
    )


# ---- A12

DELTA = 0.01


class Course(NamedTuple):
    """A course of approximate policy iteration, by iteration.

    flips   actions that the greedy policy changed
    moved   largest total variation between the old and the new policy over states
    change  largest change of the true value over states
    kl      mean KL divergence over visited states
    value   discounted value of the start
    first   probability of door 0 in room 0
    """

    flips: np.ndarray
    moved: np.ndarray
    change: np.ndarray
    kl: np.ndarray
    value: np.ndarray
    first: np.ndarray


@functools.cache
def course(greedy: bool, iterations: int = 60) -> Course:
    """Greedy steps, or steps within a trust region, both from values that are equal where states look alike."""
    world = worlds.two_doors()
    mdp, policy, lines = world.mdp, np.full((world.mdp.states, 2), [0.9, 0.1]), []
    for _ in range(iterations):
        found = worlds.aggregated_action_values(world, policy)
        better = found - (policy * found).sum(1, keepdims=True)
        if greedy:
            new = mdp.probabilities(planning.greedy(found))
        else:
            new = planning.trust_region_step(mdp, policy, better, DELTA)
        visits = mdp.occupancy(policy)
        lines.append(
            (
                (planning.greedy(new) != planning.greedy(policy)).sum(),
                np.abs(new - policy).sum(1).max() / 2,
                np.abs(mdp.values(new) - mdp.values(policy)).max(),
                visits @ mdp.kl(policy, new) / visits.sum(),
                mdp.discounted_value(policy),
                policy[0, 0],
            )
        )
        policy = new
    return Course(*np.array(lines).T)


def oscillation() -> Finding:
    """Greedy steps swing all rooms back and forth while values hardly change; steps within a trust region do not."""
    greedy, bounded, epsilon = course(True), course(False), 1e-3
    claims = {
        f"each greedy step after the first flips at least 10 actions (least {greedy.flips[1:].min():.0f})": bool(
            (greedy.flips[1:] >= 10).all()
        ),
        f"while no state's value changes by {epsilon:g} (most {greedy.change.max():.1e})": bool(
            (greedy.change < epsilon).all()
        ),
        f"the bounded steps have KL <= {DELTA} (most {bounded.kl.max():.5f})": bool(
            (bounded.kl <= DELTA).all()
        ),
        f"they move no state's policy by more than 0.1 in total variation (most {bounded.moved.max():.3f})": (
            bounded.moved.max() < 0.1
        ),
        f"greedy moves it by 1, every time (least {greedy.moved[1:].min():.0f})": greedy.moved[1:].min() == 1,
    }
    return Finding(
        claims,
        f"greedy flips {greedy.flips[1:].min():.0f} actions a step for a value change of {greedy.change.max():.0e}; "
        f"with KL <= {DELTA} a step moves the policy by {bounded.moved.max():.3f} at most",
    )


if __name__ == "__main__":
    main({"A9": objectives, "A11": aliased, "A12": oscillation})

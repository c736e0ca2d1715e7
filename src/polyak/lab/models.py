"""Models fitted to data, and what a wrong model costs: counts, least squares, the simulation lemma.

Lecture 1, "model fitting" and "simulation lemma"; Kearns & Singh 2002; Agarwal, Jiang, Kakade & Sun 2022,
*Reinforcement Learning: Theory and Algorithms*, lemma 2.2.
"""

from typing import NamedTuple

import numpy as np

from polyak.lab.mdp import MDP


class Counts(NamedTuple):
    """A model by counting.

    mdp     P^(s'|s, a) = n(s, a, s') / n(s, a), r^(s, a) the mean reward, mu^ as it was given
    visits  [S, A] n(s, a)
    """

    mdp: MDP
    visits: np.ndarray


def fit_counts(
    state: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    next_state: np.ndarray,
    start: np.ndarray,
    actions: int,
    gamma: float,
) -> Counts:
    """The maximum-likelihood model of transitions [N].

    n(s, a) is the number of samples of *that* pair. A pair that was never visited is defined, too: uniform over next
    states, with the mean of all rewards.
    """
    states = len(start)
    count = np.zeros((states, actions, states))
    total = np.zeros((states, actions))
    np.add.at(count, (state, action, next_state), 1)
    np.add.at(total, (state, action), reward)
    visits = count.sum(-1)
    never = visits == 0
    transition = np.where(never[..., None], 1 / states, count / np.maximum(visits, 1)[..., None])
    mean = np.where(never, np.mean(reward) if len(reward) else 0.0, total / np.maximum(visits, 1))
    return Counts(MDP(transition, mean, start, gamma), visits)


def sample_transitions(
    mdp: MDP, steps: int, seed: int, policy: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """State, action, reward and next state, each [N]; pairs (s, a) uniform, or as one long run of a policy goes."""
    random = np.random.default_rng(seed)
    below, point = mdp.transition.cumsum(-1), random.uniform(size=steps)
    if policy is None:
        state, action = random.integers(mdp.states, size=steps), random.integers(mdp.actions, size=steps)
        after = (below[state, action] <= point[:, None]).sum(1).clip(max=mdp.states - 1)
        return state, action, mdp.reward[state, action], after
    state, action, after = np.zeros((3, steps), int)
    chance, s = mdp.probabilities(policy).cumsum(1), random.choice(mdp.states, p=mdp.start)
    for t, drawn in enumerate(random.uniform(size=steps)):
        a = min(int(chance[s].searchsorted(drawn, side="right")), mdp.actions - 1)
        state[t], action[t] = s, a
        s = after[t] = min(int(below[s, a].searchsorted(point[t], side="right")), mdp.states - 1)
    return state, action, mdp.reward[state, action], after


def total_variation(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Half of the L1 distance over the last axis."""
    return np.abs(np.asarray(P) - np.asarray(Q)).sum(-1) / 2


def fit_linear(
    state: np.ndarray, action: np.ndarray, next_state: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [D, D], B [D, M] and the noise's covariance [D, D] of s' = A s + B a + w, by least squares over [N, ...]."""
    given = np.concatenate([state, action], axis=1)
    found = np.linalg.lstsq(given, next_state, rcond=None)[0].T
    residual = next_state - given @ found.T
    size = state.shape[1]
    freedom = max(len(state) - given.shape[1], 1)
    return found[:, :size], found[:, size:], residual.T @ residual / freedom


class Gap(NamedTuple):
    """How wrong a policy's value in a model is.

    gap    V^_pi(mu) - V_pi(mu), from two linear solves
    lemma  gamma / (1 - gamma) E_{s, a ~ d}[E_{s' ~ P^} V^(s') - E_{s' ~ P} V^(s')]: the same number
    bound  range / (1 - gamma)^2 E_{s, a ~ d} |P^(.|s, a) - P(.|s, a)|_1, never below |gap|
    """

    gap: float
    lemma: float
    bound: float


def simulation_gap(mdp: MDP, model: MDP, policy: np.ndarray) -> Gap:
    """The simulation lemma for a policy, the true MDP and a model with the same rewards; d is of the true one.

    The slides' bound, 1 / (1 - gamma)^2 E|P^ - P|_1, holds for rewards in [0, 1]. Others scale it by their range,
    max r - min r: adding a constant to all rewards changes both values alike.
    """
    policy, gamma = mdp.probabilities(policy), mdp.gamma
    inside = model.replace(reward=mdp.reward, start=mdp.start, gamma=gamma)
    value = inside.values(policy)
    visited = (1 - gamma) * mdp.occupancy(policy)[:, None] * policy  # d(s, a), sums to 1
    off = inside.transition - mdp.transition
    lemma = gamma / (1 - gamma) * (visited * (off @ value)).sum()
    span = mdp.reward.max() - mdp.reward.min()
    bound = span / (1 - gamma) ** 2 * (visited * np.abs(off).sum(-1)).sum()
    gap = mdp.start @ value - mdp.start @ mdp.values(policy)
    return Gap(float(gap), float(lemma), float(bound))

"""Planning in a known or a fitted finite MDP: value iteration, policy iteration, Q-planning, and a trust-region step.

Sutton & Barto 2018, sections 4.3, 4.4 and 8.1; Puterman 1994, chapter 6. Lecture 1, "planning with a model".
"""

from typing import NamedTuple

import numpy as np

from polyak.errors import UserError
from polyak.lab.mdp import MDP


class Plan(NamedTuple):
    """A solution.

    value       [S] V
    policy      [S] integers, greedy with respect to V
    iterations  sweeps of value iteration, or improvements of policy iteration
    """

    value: np.ndarray
    policy: np.ndarray
    iterations: int


def value_iteration(mdp: MDP, tolerance: float = 1e-9, iterations: int = 1_000_000) -> Plan:
    """V <- max_a r + gamma P V, until V is within `tolerance` of V* in every state; gamma has to be below 1.

    The stop: |V_{k+1} - V*| <= gamma / (1 - gamma) |V_{k+1} - V_k|, Puterman's theorem 6.3.1.
    """
    if mdp.gamma >= 1:
        raise UserError(f"value iteration's stop needs gamma below 1, not {mdp.gamma}")
    value = np.zeros(mdp.states)
    for iteration in range(1, iterations + 1):
        after = mdp.backup(value).max(1)
        change, value = np.abs(after - value).max(), after
        if mdp.gamma * change <= tolerance * (1 - mdp.gamma):
            return Plan(value, greedy(mdp.backup(value)), iteration)
    raise UserError(f"value iteration has not come within {tolerance:g} in {iterations:,} sweeps")


def policy_iteration(mdp: MDP, policy: np.ndarray | None = None) -> Plan:
    """Evaluate by a linear solve and improve greedily, until no action is better by more than rounding."""
    policy = np.zeros(mdp.states, int) if policy is None else np.array(policy)
    for iteration in range(1, mdp.actions**mdp.states + 2):
        value = mdp.values(policy)
        better = mdp.backup(value)
        now = better[np.arange(mdp.states), policy]
        moves = better.max(1) > now + 1e-12 * (
            1 + np.abs(now)
        )  # ties keep their action, or it would never end
        if not moves.any():
            return Plan(value, policy, iteration)
        policy = np.where(moves, better.argmax(1), policy)
    raise AssertionError("policy iteration visited a policy twice")


def greedy(action_value: np.ndarray) -> np.ndarray:
    """The best action [S] of Q [S, A], the first of equal ones."""
    return action_value.argmax(1)


def q_planning(
    model: MDP, steps: int, seed: int = 0, power: float = 0.8, action_value: np.ndarray | None = None
) -> np.ndarray:
    """Random-sample one-step tabular Q-planning (Sutton & Barto, section 8.1): Q [S, A] after so many steps.

    Loop: S and A at random; R and S' from the model; Q(S, A) += alpha [R + gamma max_a Q(S', a) - Q(S, A)]

    power  alpha is n^-power at the n-th visit of (S, A); 0 is alpha = 1, right where the model is deterministic
    """
    random = np.random.default_rng(seed)
    q = np.zeros((model.states, model.actions)) if action_value is None else np.array(action_value)
    visits = np.zeros_like(q)
    below = model.transition.cumsum(-1)
    pairs = random.integers(model.states * model.actions, size=steps)
    for pair, point in zip(pairs.tolist(), random.uniform(size=steps).tolist(), strict=True):
        s, a = divmod(pair, model.actions)
        after = min(int(below[s, a].searchsorted(point, side="right")), model.states - 1)
        visits[s, a] += 1
        target = model.reward[s, a] + model.gamma * q[after].max()
        q[s, a] += visits[s, a] ** -power * (target - q[s, a])
    return q


def trust_region_step(
    mdp: MDP, policy: np.ndarray, advantage: np.ndarray, delta: float, backtrack: float = 0.8
) -> np.ndarray:
    """TRPO's step for a table of logits: the largest tried along the natural gradient with KL(old || new) <= delta.

    Of a softmax table the natural direction is the advantage itself, new(a|s) ~ old(a|s) exp(t A(s, a)) (Agarwal et
    al. 2021, arXiv:1908.00261, lemma 5.1). t begins where the quadratic model of the divergence says delta and
    shrinks until the mean divergence over the old policy's states, itself, is at most delta and the surrogate rose.
    """
    policy = mdp.probabilities(policy)
    weight = mdp.occupancy(policy)
    weight = weight / weight.sum()
    centred = advantage - (policy * advantage).sum(1, keepdims=True)
    curvature = weight @ (policy * centred**2).sum(1)  # x^T F x with x = A
    if curvature <= 0:
        return policy
    t = np.sqrt(2 * delta / curvature)
    for _ in range(100):
        new = policy * np.exp(t * (centred - centred.max(1, keepdims=True)))
        new /= new.sum(1, keepdims=True)
        gain = weight @ ((new - policy) * advantage).sum(1)
        if weight @ mdp.kl(policy, new) <= delta and gain > 0:
            return new
        t *= backtrack
    return policy

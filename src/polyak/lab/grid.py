"""Control of a few continuous variables, solved on a grid: value iteration with interpolation between the nodes.

Munos & Moore 2002, "Variable Resolution Discretization in Optimal Control", Machine Learning 49, section 2: between
its nodes V is multilinear, so that a step leads to the corners of a cell with its barycentric weights. Deterministic.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from polyak.errors import UserError

# (states [n, D], action) -> next states [n, D], rewards [n], whether they terminated [n]
Rules = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class GridValues:
    """A solution.

    axes        the nodes along each of D variables, in equal steps
    value       [nodes] V, one number for each node, the last axis fastest
    rules       of the problem
    actions     how many there are
    gamma       discount of one step
    iterations  sweeps of value iteration
    """

    axes: tuple[np.ndarray, ...]
    value: np.ndarray
    rules: Rules
    actions: int
    gamma: float
    iterations: int

    def action_values(self, states: np.ndarray) -> np.ndarray:
        """Q [n, A] of states [n, D] by one exact step: r + gamma V(s')."""
        columns = []
        for action in range(self.actions):
            after, reward, ended = self.rules(states, action)
            node, weight = corners(self.axes, after)
            columns.append(reward + self.gamma * ~ended * (weight * self.value[node]).sum(1))
        return np.stack(columns, axis=1)


def corners(axes: Sequence[np.ndarray], states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [n, 2^D] around each state [n, D] and their weights, which sum to 1; outside, the nearest point inside."""
    states = np.asarray(states, np.float64)
    below, above = [], []
    for axis, x in zip(axes, states.T, strict=True):
        place = np.clip((x - axis[0]) / (axis[1] - axis[0]), 0, len(axis) - 1)
        cell = np.minimum(place.astype(np.int64), len(axis) - 2)
        below.append(cell)
        above.append(place - cell)
    shape = tuple(len(axis) for axis in axes)
    nodes, weights = [], []
    for corner in itertools.product((0, 1), repeat=len(axes)):
        nodes.append(np.ravel_multi_index([b + c for b, c in zip(below, corner, strict=True)], shape))
        weights.append(np.prod([a if c else 1 - a for a, c in zip(above, corner, strict=True)], axis=0))
    return np.stack(nodes, axis=1), np.stack(weights, axis=1)


def value_iteration(
    rules: Rules,
    axes: Sequence[np.ndarray],
    actions: int,
    gamma: float,
    tolerance: float = 1e-6,
    iterations: int = 10_000,
) -> GridValues:
    """V <- max_a r + gamma V(s') on all nodes, until V is within `tolerance` of the grid's own fixed point."""
    if not 0 <= gamma < 1:
        raise UserError(f"gamma must lie in [0, 1), not {gamma}")
    states = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=1)
    moves = []
    for action in range(actions):
        after, reward, ended = rules(states, action)
        node, weight = corners(axes, after)
        moves.append((reward.astype(np.float64), node, gamma * weight * ~ended[:, None]))
    value = np.zeros(len(states))
    for iteration in range(1, iterations + 1):
        after = np.max([reward + (weight * value[node]).sum(1) for reward, node, weight in moves], axis=0)
        change, value = np.abs(after - value).max(), after
        if gamma * change <= tolerance * (1 - gamma):
            return GridValues(tuple(axes), value, rules, actions, gamma, iteration)
    raise UserError(f"value iteration has not come within {tolerance:g} in {iterations:,} sweeps")

"""Small MDPs with names, each made to show one thing."""

import itertools
from typing import NamedTuple

import numpy as np

from polyak.lab.mdp import MDP

NORTH, EAST, SOUTH, WEST = range(4)


class Aliased(NamedTuple):
    """An MDP whose policies see a picture of the state.

    sees  [S] the number of what each state looks like
    """

    mdp: MDP
    sees: np.ndarray

    def policy(self, by_sight: np.ndarray) -> np.ndarray:
        """The policy over states of one over what is seen: probabilities [O, A], or integers [O]."""
        return np.asarray(by_sight)[self.sees]


def two_loops(gamma: float = 0.9) -> MDP:
    """Sutton & Barto, exercise 3.22: left pays 1 now, right pays 2 one step later; both lead back.

    States: 0 is the choice, 1 after left, 2 after right. Right is better from gamma 0.5 on.
    """
    transition, reward = np.zeros((3, 2, 3)), np.zeros((3, 2))
    transition[0, 0, 1] = transition[0, 1, 2] = 1
    transition[1:, :, 0] = 1
    reward[0, 0], reward[2] = 1, 2
    return MDP(transition, reward, np.array([1.0, 0, 0]), gamma)


def aliased_gridworld(gamma: float = 0.95) -> Aliased:
    """A corridor of five cells whose second and fourth look alike (Silver's lecture 7; lecture 1 here).

        0 1 2 3 4      south of 2 is the goal (+1), south of 0 and of 4 a trap (-1); each ends the episode
        x   G   x      a policy sees the walls around it, which are the same in 1 and 3

    Actions: north, east, south, west; into a wall nothing moves. It begins in any of the five cells.
    """
    trap, goal, states = 5, 6, 7
    transition, reward = np.zeros((states, 4, states)), np.zeros((states, 4))
    for cell, action in itertools.product(range(5), range(4)):
        after = cell
        if action == EAST:
            after = min(cell + 1, 4)
        elif action == WEST:
            after = max(cell - 1, 0)
        elif action == SOUTH and cell % 2 == 0:
            after = goal if cell == 2 else trap
            reward[cell, action] = 1 if cell == 2 else -1
        transition[cell, action, after] = 1
    transition[5:, :, 5:] = np.eye(2)[:, None]
    start = np.array([0.2] * 5 + [0, 0])
    return Aliased(MDP(transition, reward, start, gamma), np.array([0, 1, 2, 1, 3, 4, 4]))


def two_doors(rooms: int = 16, tilt: float = 1e-4, apart: float = 0.05, gamma: float = 0.9) -> Aliased:
    """Rooms with two doors each, behind which it is nearly the same.

    Door 0 leads into a hall, door 1 into another; from a hall one comes into a room at random. Each hall has a front,
    which pays 0.5 + tilt and where a few episodes begin (a share of `apart`), and a back, which pays 0.5 - tilt and to
    which the doors lead. Front and back of a hall look alike. So a hall that is used looks worse by 2 tilt than one
    that is not, and the greedy policy leaves it, in all rooms at once, for the other: for ever.
    """
    front, back = rooms, rooms + 2  # of hall 0; hall 1 is next to it
    states = rooms + 4
    transition, reward = np.zeros((states, 2, states)), np.zeros((states, 2))
    for hall in (0, 1):
        transition[:rooms, hall, back + hall] = 1
        transition[[front + hall, back + hall], :, :rooms] = 1 / rooms
        reward[front + hall], reward[back + hall] = 0.5 + tilt, 0.5 - tilt
    start = np.full(states, 0.0)
    start[:rooms] = (1 - apart) / rooms
    start[front : front + 2] = apart / 2
    sees = np.array([*range(rooms), rooms, rooms + 1, rooms, rooms + 1])
    return Aliased(MDP(transition, reward, start, gamma), sees)


def aggregated_action_values(world: Aliased, policy: np.ndarray) -> np.ndarray:
    """Q [S, A] from the best V that is equal wherever states look alike.

    The projection weighs states by how often the policy visits them, as Monte-Carlo regression on its episodes does:
    v(o) = sum_{s looks like o} rho(s) V(s) / sum rho(s).
    """
    mdp, sees = world
    weight = mdp.occupancy(policy)
    total, share = np.zeros((2, sees.max() + 1))
    np.add.at(total, sees, weight * mdp.values(policy))
    np.add.at(share, sees, weight)
    return mdp.backup((total / np.maximum(share, 1e-300))[sees])


def chain(length: int = 8, small: float = 0.2, large: float = 1.0, gamma: float = 0.9) -> MDP:
    """A chain whose far end pays most: forward pays nothing until the end, back pays a little and begins anew.

    Actions: 0 forward, 1 back. It goes on for ever; in the last state forward stays there and pays `large`.
    """
    transition, reward = np.zeros((length, 2, length)), np.zeros((length, 2))
    for state in range(length):
        transition[state, 0, min(state + 1, length - 1)] = 1
        transition[state, 1, 0] = 1
    reward[:, 1], reward[-1, 0] = small, large
    return MDP(transition, reward, np.eye(length)[0], gamma)

"""Tables of Gymnasium's toy texts, which list every move of every state: FrozenLake, CliffWalking, Taxi."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from polyak.envs.adapters.gymnasium import GymnasiumFactory, OneGymnasium
from polyak.envs.environment import Rules, Table
from polyak.errors import UserError

CHANGE_NOTHING = (OrderEnforcing, PassiveEnvChecker, TimeLimit)  # wrappers under which the moves are the same


def listed(world: Any) -> Rules | None:
    """What a planner may know of an environment on the host: its table, where it lists its moves; else None."""
    if isinstance(world, OneGymnasium):
        table = table_of(world.env)
    elif isinstance(world, GymnasiumFactory):
        env = world.make_one()
        table = table_of(env)
        env.close()
    else:
        return None
    return None if table is None else Rules(unknown, unknown, lambda: table)


def table_of(env: gymnasium.Env) -> Table | None:
    """The table of an environment whose `P[s][a]` lists (probability, next state, reward, ended) of every move."""
    while isinstance(env, CHANGE_NOTHING):
        env = env.env
    moves, states, actions = getattr(env, "P", None), env.observation_space, env.action_space
    if not (
        isinstance(env, gymnasium.Env)
        and not isinstance(env, gymnasium.Wrapper)
        and isinstance(moves, dict)
        and isinstance(states, gymnasium.spaces.Discrete)
        and isinstance(actions, gymnasium.spaces.Discrete)
    ):
        return None
    transition = np.zeros((states.n, actions.n, states.n), np.float32)
    reward = np.zeros((states.n, actions.n), np.float32)
    for s, a in np.ndindex(reward.shape):
        for probability, after, earned, ended in moves[s][a]:
            reward[s, a] += probability * earned
            transition[s, a, after] += 0 if ended else probability
    return Table(transition, reward)


def unknown(*_: Any) -> Any:
    """What of a world that is listed is not known: how to play it."""
    raise UserError("of this environment only the table of its moves is known")

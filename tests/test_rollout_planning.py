"""Rollout planning against slow loops, and against exact policy improvement in a small maze."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from auditing import QUICK

from polyak.algorithms import rollout_planning
from polyak.envs.environment import rules
from polyak.envs.worlds.classic_control import CartPole
from polyak.envs.worlds.mazes import Maze, successors
from polyak.interface import Shown

SMALL = ("S  ", " # ", "  G")
ENV = Maze(first=SMALL, then=SMALL)
SPEC = dataclasses.replace(ENV.spec, model=rules(ENV))
GOAL = 8


def test_values_are_the_means_of_rollouts_one_by_one():
    cfg = rollout_planning.Config(gamma=0.9, rollouts=4, lookahead=6)
    world, key = (jnp.int32(3), jnp.int32(0)), jax.random.key(1)
    values = jax.jit(
        lambda key: rollout_planning.action_values(cfg, SPEC, (), (), world, key), compiler_options=QUICK
    )
    got = values(jax.random.clone(key))
    after = successors(SMALL)
    keys = jax.random.split(key, cfg.rollouts)
    for action in range(4):
        totals = []
        for each in keys:
            cell, move, total = 3, action, 0.0
            for t in range(cfg.lookahead):
                _, key_next = jax.random.split(jax.random.fold_in(jax.random.clone(each), t))
                cell = int(after[cell, move])
                if cell == GOAL:
                    total += cfg.gamma**t
                    break
                move = int(jax.random.categorical(key_next, jnp.zeros(4)))
            totals.append(total)
        np.testing.assert_allclose(got[action], np.mean(totals), rtol=1e-5)


def exact(policy, gamma=0.9):
    """V of a policy [cells, 4] in the small maze, by the linear system."""
    after, cells = successors(SMALL), np.arange(9)
    P, r = np.zeros((9, 9)), np.zeros(9)
    for s in cells:
        for a in range(4):
            if s != GOAL:
                to = after[s, a]
                r[s] += policy[s, a] * (to == GOAL)
                P[s, to] += policy[s, a] * (to != GOAL)
    return np.linalg.solve(np.eye(9) - gamma * P, r)


def test_many_rollouts_choose_what_exact_improvement_chooses_which_is_nowhere_worse():
    cfg = rollout_planning.Config(gamma=0.9, rollouts=400, lookahead=60)
    uniform = np.full((9, 4), 0.25)
    v, after = exact(uniform), successors(SMALL)
    cells = jnp.asarray([s for s in range(9) if s not in (4, GOAL)], jnp.int32)
    seen = Shown(cells, (cells, jnp.zeros_like(cells)))
    chosen = np.asarray(rollout_planning.act(cfg, SPEC, (), (), seen, jax.random.key(0), False)[0])
    improved = uniform.copy()
    for s, a in zip(cells.tolist(), chosen.tolist(), strict=True):
        q = [(after[s, b] == GOAL) + 0.9 * (after[s, b] != GOAL) * v[after[s, b]] for b in range(4)]
        assert q[a] >= max(q) - 0.05
        improved[s] = np.eye(4)[a]
    assert (exact(improved) >= v - 1e-12).all()
    assert exact(improved)[0] > 2 * v[0]


def test_the_base_policy_is_uniform_or_one_action_and_can_act_itself():
    obs = Shown(jnp.zeros(4000, jnp.int32), (jnp.zeros(4000, jnp.int32), jnp.zeros(4000, jnp.int32)))
    plain = rollout_planning.Config(improve=False)
    action = rollout_planning.act(plain, SPEC, (), (), obs, jax.random.key(0), True)[0]
    np.testing.assert_allclose(np.bincount(action, minlength=4) / 4000, 0.25, atol=0.03)
    same = rollout_planning.Config(improve=False, base=2)
    assert (rollout_planning.act(same, SPEC, (), (), obs, jax.random.key(0), True)[0] == 2).all()


def test_what_is_not_legal_is_never_chosen():
    obs = {"legal": jnp.asarray([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])}
    cells = jnp.asarray([0, 5], jnp.int32)  # from 5 moving down wins, which is not allowed here
    seen = Shown(obs, (cells, jnp.zeros_like(cells)))
    cfg = rollout_planning.Config(rollouts=4, lookahead=5)
    assert rollout_planning.act(cfg, SPEC, (), (), seen, jax.random.key(0), False)[0].tolist() == [1, 3]


def test_a_falling_pole_is_caught():
    env = CartPole()
    spec = dataclasses.replace(env.spec, model=rules(env))
    state = jnp.asarray([[0.0, 0.0, 0.1, 0.8], [0.0, 0.0, -0.1, -0.8]])
    move = rollout_planning.act(
        rollout_planning.Config(), spec, (), (), Shown(state, state), jax.random.key(0), False
    )[0]
    assert move.tolist() == [1, 0]

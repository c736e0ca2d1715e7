"""Rollout planning against slow loops, and against exact policy improvement in a small maze."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from small_runs import small_ppo

from polyak.algorithms import rollout_planning
from polyak.envs.environment import rules
from polyak.envs.worlds.classic_control import CartPole
from polyak.envs.worlds.mazes import Maze, successors
from polyak.errors import UserError
from polyak.interface import Shown
from polyak.runs import inputs
from polyak.runs.agent import Agent
from polyak.runs.decide import make_plan
from polyak.runs.plan import Settings
from polyak.runs.run import load
from polyak.runs.session import Session

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


# ---- the policy of another run as the base

PPO = small_ppo(hidden=[8, 8])

ROLLOUTS = {"rollouts": 4, "lookahead": 5, "improve": False}


def session(algorithm, env, config, **settings):
    plan = make_plan(algorithm, env, Settings(preset=False, **settings), config, in_graph=True)
    made = Session(inputs.recorded(plan))
    inputs.check(made)
    return made


@pytest.fixture(scope="module")
def balancing(tmp_path_factory):
    """A run of PPO on the pole that has not learned, with a policy of its own all the same."""
    agent = Agent("ppo", "jax:CartPole-v1", config=PPO, preset=False, seed=3)
    return agent.save(tmp_path_factory.mktemp("runs") / "balancing")


def test_a_planner_acts_as_the_policy_that_it_is_given(balancing, tmp_path):
    given = {"use": (f"base={balancing}",), "preset": False, "config": ROLLOUTS, "seed": 3}
    agent = Agent("rollout_planning", "jax:CartPole-v1", **given)
    policy, theirs = agent.policy(), load(balancing).policy()
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    state = {"obs": obs, "state": obs}
    key = jax.random.key(0)
    action, _, _ = policy.algorithm.act(policy.cfg, policy.flat, policy.actor, (), Shown(**state), key, False)
    want = theirs(obs)[0]
    np.testing.assert_array_equal(action, want)
    assert 0 < np.mean(want) < 1
    assert all(np.isnan(x).all() for x in jax.tree.leaves(policy.flat.given["base"].actor))
    saved = load(agent.save(tmp_path / "planner"))
    shutil.move(balancing, tmp_path / "gone")  # all that is needed is in the run by now
    try:
        np.testing.assert_array_equal(saved.evaluate(2).returns, load(tmp_path / "gone").evaluate(2).returns)
    finally:
        shutil.move(tmp_path / "gone", balancing)


def test_rollouts_go_on_as_the_given_policy_does(balancing):
    made = session(
        "rollout_planning", "jax:CartPole-v1", ROLLOUTS | {"improve": True}, use=(f"base={balancing}",)
    )
    state = inputs.states(made)
    assert state is not None
    base = jax.tree.map(lambda x: x[0], state.base)
    world, key = jnp.asarray([0.0, 0.0, 0.1, 0.8]), jax.random.key(1)
    values = rollout_planning.action_values(made.cfg, made.spec, base, (), world, key)
    theirs, model = load(balancing).policy(), made.spec.model
    for action in range(2):
        at, move, total = world, action, 0.0
        for _ in range(5):  # nothing is drawn: one rollout is all of them
            step = model.step(at, jnp.int32(move), jax.random.key(0))
            at, total = step.state, total + float(step.reward)
            if step.terminated:
                break
            move = int(theirs(np.asarray(step.obs))[0])
        np.testing.assert_allclose(values[action], total, rtol=1e-6)


@pytest.mark.parametrize(
    ("said", "env", "message"),
    [
        ("teacher={run}", "jax:CartPole-v1", "does not ask for a policy 'teacher': Valid: base"),
        ("base={run}", "jax:Acrobot-v1", r"its observations are Box\[4\], and here they are Box\[6\]"),
        ("base={run}/none", "jax:CartPole-v1", "is not a run folder: it has no config.json"),
        ("base", "jax:CartPole-v1", "must be NAME=RUN"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_in_one_line(balancing, said, env, message):
    with pytest.raises(UserError, match=message) as error:
        session("rollout_planning", env, ROLLOUTS, use=(said.format(run=balancing),))
    assert "\n" not in str(error.value)


def test_an_algorithm_that_uses_no_policy_is_given_none(balancing):
    with pytest.raises(UserError, match="ppo does not ask for a policy 'base': it uses none"):
        session("ppo", "jax:CartPole-v1", PPO, use=(f"base={balancing}",))

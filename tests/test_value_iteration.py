"""Value iteration against float64 loops over states, actions and successors, and against what stepping a maze gives."""

import gymnasium
import jax
import numpy as np
import oracles
import pytest
from auditing import QUICK

import polyak
from polyak.algorithms import value_iteration
from polyak.envs.adapters.toy_text import table_of
from polyak.envs.environment import Rules, Table
from polyak.envs.worlds import mazes
from polyak.interface import Discrete, Spec

S, A = 6, 3
CFG = value_iteration.Config(gamma=0.8)


def world(seed=0):
    """A random world, in which some moves may end the episode."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(S), size=(S, A)) * rng.choice([0.3, 1.0], size=(S, A, 1))
    return Table(transition.astype(np.float32), rng.normal(size=(S, A)).astype(np.float32))


def spec_of(table):
    states, actions = table.reward.shape
    return Spec(Discrete(states), Discrete(actions), model=Rules(print, print, lambda: table))


class Slow:
    """Sweeps as a loop over all states, actions and successors."""

    def __init__(self, table):
        self.transition, self.reward = (x.tolist() for x in table)
        self.q = np.zeros((S, A))

    def update(self, batch, key):
        v = [max(values) for values in self.q]
        for s in range(S):
            for a in range(A):
                self.q[s, a] = self.reward[s][a] + sum(
                    CFG.gamma * self.transition[s][a][after] * v[after] for after in range(S)
                )


def test_four_sweeps_are_those_of_a_loop_over_all_states_actions_and_successors():
    spec, slow = spec_of(world()), Slow(world())
    update = jax.jit(lambda *args: value_iteration.update(CFG, spec, *args), compiler_options=QUICK)
    start = value_iteration.init(CFG, spec, jax.random.key(0))
    oracles.assert_follows(update, start, slow, [None] * 4, atol=1e-5)


def test_what_is_logged_is_what_a_sweep_changed():
    spec, slow = spec_of(world()), Slow(world())
    state = value_iteration.init(CFG, spec, jax.random.key(0))
    for _ in range(4):
        before = [max(values) for values in slow.q]
        state, metrics, _ = value_iteration.update(CFG, spec, state, None, jax.random.key(0))
        slow.update(None, None)
        after = [max(values) for values in slow.q]
        delta = max(abs(new - old) for new, old in zip(after, before, strict=True))
        np.testing.assert_allclose(metrics["delta"], delta, rtol=1e-4)
        np.testing.assert_allclose(metrics["v"], np.mean(after), rtol=1e-4)


def test_no_value_is_further_from_the_optimum_than_the_bound_says():
    """The optimum by linear solves for all policies, of which there are few."""
    table = world(3)
    P, r = (x.astype(np.float64) for x in table)
    best = np.full(S, -np.inf)
    for policy in np.ndindex(*[A] * S):
        rows = np.arange(S), np.array(policy)
        best = np.maximum(best, np.linalg.solve(np.eye(S) - CFG.gamma * P[rows], r[rows]))
    spec = spec_of(table)
    state = value_iteration.init(CFG, spec, jax.random.key(0))
    for sweep in range(60):
        state, metrics, _ = value_iteration.update(CFG, spec, state, None, jax.random.key(0))
        away = np.abs(np.asarray(state.q).max(axis=1) - best).max()
        assert away <= metrics["bound"] + 1e-5
        assert sweep > 3 or away > 0.01
    assert away < 1e-4


@pytest.mark.parametrize("endless", [False, True])
def test_the_table_of_a_maze_is_what_its_steps_do(endless):
    maze = mazes.DynaMaze(endless=endless)
    table, key = maze.table(), jax.random.key(0)
    step = jax.jit(lambda cell, action: maze.step((cell, 0), action, key))
    for cell, action in np.ndindex(table.reward.shape):
        if "".join(maze.first)[cell] in "#G":
            continue
        there = step(cell, action)
        assert table.reward[cell, action] == there.reward
        want = np.eye(len(table.reward))[int(there.obs)] * (not there.terminated)
        np.testing.assert_array_equal(table.transition[cell, action], want)


def test_the_dyna_maze_is_solved_without_a_step_in_it(tmp_path):
    run = polyak.train(
        "value_iteration", "jax:DynaMaze-v0", updates=20, eval_every=0, out=str(tmp_path), verbose=False
    )
    assert run.evaluate(episodes=1, limit=50).summary()["mean_length"] == 14
    assert {line["env_steps"] for line in run.metrics} == {0}
    assert run.metrics[-1]["update/delta"] == 0


def test_a_maze_that_changes_has_no_table():
    with pytest.raises(
        polyak.UserError, match="sweeps over all states, which this environment does not list"
    ):
        polyak.Agent("value_iteration", "jax:ShortcutMaze-v0")


# ---- tables of Gymnasium's toy texts


def succeeds(moves, choose, steps=100):
    """Probability that FrozenLake's goal is reached in so many steps, in float64, forwards from its first state."""
    at, reached = {0: 1.0}, 0.0
    for _ in range(steps):
        now: dict[int, float] = {}
        for s, weight in at.items():
            for probability, after, reward, ended in moves[s][choose[s]]:
                reached += weight * probability * reward
                if not ended:
                    now[after] = now.get(after, 0.0) + weight * probability
        at = now
    return reached


def test_the_frozen_lake_is_crossed_as_often_as_its_moves_allow(tmp_path):
    given = {"out": str(tmp_path), "verbose": False, "eval_every": 0, "config": {"gamma": 0.999}}
    run = polyak.train("value_iteration", "FrozenLake-v1", updates=2000, **given)
    moves = gymnasium.make("FrozenLake-v1").unwrapped.P
    q = run._raw[0]["state/q"][0]
    allowed = succeeds(moves, q.argmax(axis=1))
    assert allowed > 0.73
    worse = {s: (q[s].argmax() + 1) % 4 for s in range(16)}
    assert succeeds(moves, worse) < 0.5
    played = run.evaluate(episodes=400).returns.mean()
    assert abs(played - allowed) < 4 * (allowed * (1 - allowed) / 400) ** 0.5


@pytest.mark.parametrize("name", ["CliffWalking-v1", "Taxi-v4"])
def test_a_table_is_what_the_steps_of_a_world_without_chance_do(name):
    env = gymnasium.make(name)
    table, rng = table_of(env), np.random.default_rng(0)
    s, _ = env.reset(seed=1)
    for t in range(300):
        a = int(rng.integers(env.action_space.n))
        after, reward, ended, cut, _ = env.step(a)
        want = np.zeros(len(table.reward))
        want[after] = not ended
        np.testing.assert_array_equal(table.transition[s, a], want)
        assert table.reward[s, a] == reward
        s = env.reset(seed=t)[0] if ended or cut else after


def test_what_a_wrapper_may_change_is_not_read_from_the_table():
    env = gymnasium.make("CliffWalking-v1")
    assert table_of(env) is not None
    assert table_of(gymnasium.wrappers.TransformReward(env, lambda reward: 0.0)) is None

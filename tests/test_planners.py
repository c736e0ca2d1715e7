"""What drivers give to planners and to games of two, and what is refused in one line."""

import dataclasses
import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASE, CASES

import polyak
from polyak import Agent, cli
from polyak.algorithms import find, names
from polyak.drivers.episodes_graph import first_players
from polyak.drivers.evaluate import Evaluator
from polyak.drivers.in_graph import InGraph
from polyak.drivers.learn import on_policy_batch, one_step
from polyak.envs.environment import rules
from polyak.envs.worlds.classic_control import Pendulum
from polyak.envs.worlds.games import TicTacToe
from polyak.errors import UserError
from polyak.interface import Algorithm, Box, OnPolicy, Shown, Spec, Transition, Update


@dataclasses.dataclass(frozen=True)
class Config:
    gamma: float = 0.9
    data: OnPolicy = dataclasses.field(
        default_factory=lambda: OnPolicy(steps=6, simulator=True, self_play=True)
    )


def act_and_remember(cfg, spec, actor, memory, obs, key, explore):
    """What was shown goes into the extras, with what the rules say comes next."""
    assert isinstance(obs, Shown)
    board = obs.state if spec.players == 2 else obs.state[..., 0]
    if spec.players == 2:
        action = (obs.obs["legal"] > 0).argmax(axis=-1).astype(jnp.int32)
    else:
        action = jnp.full((len(obs.obs), 1), 0.5)
    after = jax.vmap(spec.model.step, (0, 0, None))(obs.state, action, jax.random.key(0))
    return action, memory, {"state": board, "after": after.obs, "reward": after.reward}


remembering = Algorithm(
    Config=Config,
    actions=("discrete", "continuous"),
    simulates=True,
    init=lambda cfg, spec, key: jnp.zeros((cfg.data.steps, spec.num_envs)),
    actor=lambda state: (),
    act=act_and_remember,
    update=lambda cfg, spec, state, batch, key: Update(
        batch.discount,
        {
            "far": sum(
                jnp.abs(a - b).max()
                for a, b in zip(
                    jax.tree.leaves(batch.extras["after"]), jax.tree.leaves(batch.next_obs), strict=True
                )
            ),
            "reward": jnp.abs(batch.extras["reward"] - batch.reward).max(),
        },
    ),
)


def driver_of(env):
    spec = dataclasses.replace(env.spec, num_envs=3, model=rules(env))
    return InGraph(remembering, Config(), env, spec, (0,))


@pytest.mark.parametrize("env", [Pendulum(), TicTacToe()], ids=["Pendulum", "TicTacToe"])
def test_act_is_shown_the_state_that_the_rules_go_on_from_and_only_obs_is_recorded(env):
    driver = driver_of(env)
    run = driver.advance(driver.start(), 4)
    _, sums = driver.report(run)
    assert float(sums["update/far"][0]) < 1e-4
    assert float(sums["update/reward"][0]) < 1e-4
    if env.spec.players == 2:
        discount = np.asarray(run.state)
        assert set(np.unique(discount)) <= {np.float32(-0.9), np.float32(0)}
        assert (discount < 0).any()


def test_an_evaluation_shows_the_state_too_and_counts_for_who_moves_first():
    """Who takes the first free field moves first and wins with 0, 2, 4, 6: the seventh mark."""
    driver = driver_of(TicTacToe())
    evaluator = Evaluator(remembering, Config(), driver.spec, (0,), 2, driver.env)
    played = evaluator(driver.actor(driver.start()))
    assert played is not None
    np.testing.assert_array_equal(played.total, [[1, 1]])
    np.testing.assert_array_equal(played.length, [[7, 7]])


def test_rewards_are_the_movers_and_returns_the_first_players():
    spec = Spec(Box((1,)), Box((1,)), players=2)
    got = first_players(spec, jnp.ones(4), jnp.arange(4))
    assert got.tolist() == [1, -1, 1, -1]
    assert first_players(dataclasses.replace(spec, players=1), jnp.ones(2), jnp.arange(2)).tolist() == [1, 1]


def test_the_discount_is_negative_where_the_other_player_moves_next():
    no, row = np.zeros((2, 1), bool), np.ones((2, 1), np.float32)
    rollout = Transition(row, row, row, row, np.array([[False], [True]]), no)
    spec = Spec(Box((1,)), Box((1,)), players=2)
    batch = on_policy_batch(rollout, one_step(Config(), spec), None)
    np.testing.assert_allclose(batch.discount, [[-0.9], [0]])


def those(declared):
    """The first algorithm of which this is so."""
    return next(name for name in names() if declared(find(name)))


PLANNER = those(lambda each: not each.learns)


@pytest.mark.parametrize(
    ("algorithm", "env", "says"),
    [
        ("ppo", "jax:TicTacToe", "2 players"),
        (PLANNER, "CartPole-v1", "rules"),
        (those(lambda each: each.observes == "discrete"), "jax:CartPole-v1", "one integer"),
        (those(lambda each: each.observes == "vector"), "jax:TicTacToe-vs-random", "one vector"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(algorithm, env, says):
    with pytest.raises(UserError, match=says) as error:
        Agent(algorithm, env)
    assert "\n" not in str(error.value)


class Unlisted(gymnasium.Env):
    """Two states, of which it says nothing."""

    observation_space = action_space = gymnasium.spaces.Discrete(2)


OTHER = {"discrete": Unlisted, "continuous": "Pendulum-v1"}  # worlds whose rules nobody knows
PLANNING = [(case.name, case.task("graph")) for case in CASES if not case.places]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 100}, "--steps is 100, but {} plans by the environment's rules and takes no step in it"),
        ({"wrap": ("normalize_obs",)}, "--wrap is normalize_obs, but {} plans"),
        ({"data": "runs/first"}, "--data is runs/first, but {} plans"),
        ({"her": "future"}, "but {} has none: choose an algorithm with a replay"),
        ({"driver": "ray"}, "--updates learns in one process"),
        ({"sync": "async"}, "--updates learns in one process"),
    ],
)
@pytest.mark.parametrize(("name", "env"), PLANNING)
def test_settings_of_what_is_collected_are_refused_where_nothing_is(name, env, settings, says, tmp_path):
    with pytest.raises(UserError, match=says.format(name)) as error:
        polyak.train(name, env, out=str(tmp_path), **settings)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "env"), PLANNING)
def test_a_planner_needs_the_rules_and_its_policy_does_not(name, env, tmp_path):
    with pytest.raises(UserError, match="plans with the environment's rules, which this one does not offer"):
        polyak.Agent(name, OTHER[CASE[name].kinds[0]])
    run = polyak.train(name, env, updates=2, eval_every=0, out=str(tmp_path), verbose=False)
    saved = polyak.load(run.path)
    action, _ = saved.policy()(np.zeros(saved.spec.obs.shape, saved.spec.obs.dtype))
    assert np.shape(action) == saved.spec.action.shape
    config = json.loads((run.path / "config.json").read_text())
    config["plan"]["config"]["data"]["steps"] = 1
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(polyak.CheckpointError, match="updates"):
        polyak.load(run.path)


SIMULATING = {name: find(name).Config().data for name in names() if find(name).Config().data.simulator}


@pytest.mark.parametrize("algorithm", SIMULATING)
def test_rules_that_know_nothing_of_normalised_observations_are_refused_with_them(algorithm):
    env = "jax:TicTacToe" if SIMULATING[algorithm].self_play else "jax:CartPole-v1"
    Agent(algorithm, env, wrap=("normalize_reward",))
    with pytest.raises(UserError, match=f"{algorithm}: it plans .* leave --wrap normalize_obs out") as error:
        Agent(algorithm, env, wrap=("normalize_reward", "normalize_obs"))
    assert "\n" not in str(error.value)


def test_legal_actions_are_not_normalised():
    name = those(lambda each: each.plays)
    Agent(name, "jax:TicTacToe")
    with pytest.raises(UserError, match=r"legal is a part .* leave --wrap normalize_obs out"):
        Agent(name, "jax:TicTacToe", wrap=("normalize_obs",))


def test_a_policy_that_plans_cannot_be_asked_with_an_observation_alone():
    agent = Agent(PLANNER, "jax:CartPole-v1", config=CASE[PLANNER].small)
    with pytest.raises(UserError, match="evaluate or watch"):
        agent.predict(np.zeros(4, np.float32))


def test_a_planner_is_evaluated_without_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", PLANNER, "jax:DynaMaze-v0", "--episodes", "1", "--limit", "3"]) == 0
    said = capsys.readouterr()
    assert f"{PLANNER} on jax:DynaMaze-v0: 1 episodes" in said.out
    assert "polyak: 1 episodes were cut at 3 steps" in said.err
    assert cli.main(["evaluate", PLANNER, "jax:DynaMaze-v0", "--best"]) == 2
    assert list(tmp_path.iterdir()) == []

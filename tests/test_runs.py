"""Runs as people begin, stop, lengthen and share them: horizons, locks, counters, evaluation and Ctrl-C."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import assert_same_bits
from small_runs import small_ppo

from polyak.drivers import host, program
from polyak.drivers.keys import Keys, RowKeys
from polyak.envs.environment import Environment, Step
from polyak.errors import EnvironmentFault, UserError
from polyak.interface import WORD, Box, Discrete, Spec, Transition
from polyak.parts import replay
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Counter, pytree
from polyak.runs import loop
from polyak.runs.agent import Agent
from polyak.runs.decide import make_plan
from polyak.runs.folder import Lock, RunFolder, claimed, name_run
from polyak.runs.plan import Settings
from polyak.runs.run import Run, load, train
from polyak.runs.session import Session
from polyak.show.terminal import WARM_UP, Progress, silent
from polyak.store import checkpoint

PPO = small_ppo(hidden=[4], lr=1e-3)
SMALL = {"preset": False, "verbose": False, "config": PPO, "eval_episodes": 2}


class Walk(gymnasium.Env):
    """Random steps without an end; slow, failing, or one of a kind where a test says so."""

    observation_space = gymnasium.spaces.Box(-1e6, 1e6, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    seconds, limit, bad_at, raises_in_close = 0.0, 0, -1, False
    alive = made = 0

    def __init__(self):
        if Walk.limit and Walk.alive >= Walk.limit:
            raise RuntimeError("one simulator is enough")
        Walk.alive += 1
        Walk.made += 1

    def close(self):
        Walk.alive -= 1
        if Walk.raises_in_close:
            raise OSError("the simulator is gone")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, np.zeros(1, np.float32)
        return self.x, {}

    def step(self, action):
        if Walk.seconds:
            time.sleep(Walk.seconds)
        self.t += 1
        self.x = self.x + self.np_random.normal(size=1).astype(np.float32)
        return self.x, (np.nan if self.t == Walk.bad_at else float(action)), self.t % 37 == 36, False, {}


class Endless(Walk):
    """The same, without any end."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


@pytree
class Sour(Environment):
    """A count in JAX that goes wrong at its twentieth step."""

    @property
    def spec(self):
        return Spec(Box((1,), 0.0, 100.0), Discrete(2))

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, state, action, key):
        reward = jnp.where(state == 19, jnp.nan, action.astype(jnp.float32))
        return Step(state + 1, jnp.full(1, state + 1), reward, jnp.array(False), jnp.array(False))


@pytest.fixture(autouse=True)
def walk():
    """The class as it was."""
    kept = {name: getattr(Walk, name) for name in ("seconds", "limit", "bad_at", "raises_in_close")}
    Walk.alive = Walk.made = 0
    yield Walk
    for name, value in kept.items():
        setattr(Walk, name, value)


def rates(lines):
    return [round(line["update/lr"] / 1e-3, 4) for line in lines if "update/lr" in line]


# ---- the horizon belongs to the budget


def test_predict_and_save_before_learn_choose_nothing(tmp_path):
    settings = {"preset": False, "config": {**PPO, "lr_end": 0.0}, "num_envs": 1, "eval_every": 0}
    plain, asked = (Agent("ppo", "jax:CartPole-v1", **settings) for _ in range(2))
    asked.predict(np.zeros(4, np.float32))
    asked.save(tmp_path / "early")
    for agent in (plain, asked):
        agent.learn(32, verbose=False)
    assert rates(plain.metrics) == rates(asked.metrics) == [1.0, 0.75, 0.5, 0.25]
    assert_same_bits(*({"w": np.asarray(a.policy().actor.net.layers[0].weight)} for a in (plain, asked)))
    # a second call goes on over all steps so far and these: of 64 the next are from the 33rd on
    plain.learn(32, verbose=False)
    assert rates(plain.metrics)[4:] == [0.5, 0.375, 0.25, 0.125]
    plain.learn(16, verbose=False, reset_num_timesteps=True)
    assert plain.env_steps == 16
    assert rates(plain.metrics) == [1.0, 0.5]
    # a horizon that is given stays, however often one learns
    given = Agent("ppo", "jax:CartPole-v1", **{**settings, "config": {**settings["config"], "horizon": 64}})
    for _ in range(4):
        given.learn(16, verbose=False)
    assert rates(given.metrics) == [1 - i / 8 for i in range(8)]
    # a saved agent keeps its lines and goes on
    path = given.save(tmp_path / "later")
    assert (path / "curve.png").exists()
    assert load(path).metrics == given.metrics
    assert len(Agent.load(path).metrics) == len(given.metrics)


def test_another_horizon_compiles_again_only_where_it_changes_a_program():
    class Constant:
        value = 1.0

    made = program.Program(lambda x: x * Constant.value)
    compiled = made.compile(jnp.ones(3))
    made.renew(lambda x: x * Constant.value)
    assert made.compile(jnp.ones(3)) is compiled
    Constant.value = 2.0
    made.renew(lambda x: x * Constant.value)
    assert made.compile(jnp.ones(3)) is not compiled
    assert made(jnp.ones(3)).tolist() == [2.0] * 3


def test_a_finished_run_is_lengthened_with_its_curve_and_a_horizon_that_fits(tmp_path):
    chosen = {**SMALL, "config": {**PPO, "lr_end": 0.0}, "out": str(tmp_path), "eval_every": 16}
    run = train("ppo", "jax:CartPole-v1", name="one", steps=32, **chosen)
    assert run.finished
    before = run.metrics
    with pytest.raises(UserError, match=r"steps is 16, but .* has made 32"):
        load(run.path).resume(steps=16)
    longer = load(run.path).resume(steps=64)
    assert longer.finished
    assert load(run.path).plan.steps == 64
    assert longer.metrics[: len(before)] == before
    assert rates(longer.metrics) == [1.0, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125]
    assert longer.config["changed"][0]["differences"] == "steps is 32 there, 64 here"
    with pytest.raises(UserError, match=r"\(steps is 64 there, 96 here\).*polyak resume .*one --steps 96"):
        train("ppo", "jax:CartPole-v1", name="one", steps=96, **chosen)
    # and a checkpoint is chosen by its step, or as the best of those kept
    assert list(longer.kept) == [32, 48, 64]
    arrays = checkpoint.read(longer.kept[48])[0]
    name = "policy/net/layers/0/weight"
    np.testing.assert_array_equal(longer.at(48).state().policy.net.layers[0].weight, arrays["state/" + name])
    with pytest.raises(UserError, match="no checkpoint at step 1: kept are 32, 48, 64"):
        longer.at(1)
    returns = {line["env_steps"]: line["eval/return"] for line in longer.metrics if "eval/return" in line}
    assert returns[longer.best().step] == max(returns[step] for step in longer.kept)


def test_a_run_that_goes_on_forgets_what_it_had_read(tmp_path):
    chosen = {**SMALL, "config": PPO, "out": str(tmp_path), "eval_every": 0}
    run = train("ppo", "jax:CartPole-v1", name="one", steps=32, **chosen)
    before = run.state().policy.net.layers[0].weight
    run.resume(steps=64)
    assert run.plan.steps == 64
    after = run.state().policy.net.layers[0].weight
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(after, load(run.path).state().policy.net.layers[0].weight)


# ---- one writer


def test_a_folder_has_one_writer_and_a_killed_one_lets_go(tmp_path):
    code = (
        "import sys, time, pathlib; from polyak.runs.folder import Lock; "
        "lock = Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written by process {other.pid}: wait for it"):
            Lock(tmp_path)
        with pytest.raises(UserError, match=str(other.pid)):
            train("ppo", "jax:CartPole-v1", steps=8, out=str(tmp_path.parent), name=tmp_path.name, **SMALL)
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    Lock(tmp_path).release()
    held, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with held.held(), held.held(), pytest.raises(UserError, match=str(os.getpid())), second.held():
        pass


def test_names_that_are_made_in_one_second_differ(tmp_path):
    names = []
    for _ in range(3):
        names.append(name_run("ppo", "X", str(tmp_path)))
        assert claimed(tmp_path / names[-1])
        assert not claimed(tmp_path / names[-1])
    assert len(set(names)) == 3


# ---- counters


@pytest.mark.parametrize("env_steps", [0, 2**30 - 8, 2**30, 2**31 - 8, 2**31, 2**32 - 8, 2**32, 10**12])
def test_a_clock_counts_beyond_32_bits(env_steps):
    rollout = Transition(*(jnp.zeros((2, 4)) for _ in range(6)))
    before = start_clock()._replace(low=jnp.int32(env_steps % WORD), high=jnp.int32(env_steps // WORD))
    after = jax.jit(lambda clock: clock.observed(rollout))(before)
    assert int(after.high) * WORD + int(after.low) == env_steps + 8
    assert 0 <= int(after.low) < WORD
    share = linear_schedule(after.env_steps, 1.0, 0.0, 2.0 * (env_steps + 8))
    assert float(share) == pytest.approx(0.5, abs=1e-6)
    late = start_clock()._replace(updates=jnp.uint32(min(env_steps, 2**32 - 2)))
    assert int(late.updated().updates) == min(env_steps, 2**32 - 2) + 1


@pytest.mark.parametrize("row", [0, 2**31 - 4, 2**31, 2**32 - 8])
def test_keys_of_rows_are_those_of_their_numbers_up_to_2_to_the_32(row):
    keys = Keys.of(jnp.uint32(3))
    got = RowKeys.of_rollout(keys, jnp.asarray(np.uint32(row // 4), jnp.int32), 4).act
    want = [jax.random.key_data(jax.random.fold_in(keys.act, np.uint32(row + i))) for i in range(4)]
    np.testing.assert_array_equal(got, want)
    assert int(Counter(jnp.asarray(np.uint32(row), jnp.int32)).plus(3)) == row + 3


@pytest.mark.parametrize("slots", [8, 24, 1000, 2**20 + 8])
def test_a_rings_clock_takes_off_whole_turns_and_nothing_else(slots):
    limit = 2 * replay.ring.MOST_SLOTS
    for clock in (limit - 8, limit - 1):
        got = int(replay.ring.folded(Counter(jnp.int32(clock)).plus(8), slots).value)
        assert got % slots == (clock + 8) % slots
        assert slots <= got < limit + 8
        assert replay.clock_at(clock + 8, slots) % slots == got % slots
    assert int(replay.ring.folded(Counter(jnp.int32(limit - 9)).plus(8), slots).value) == limit - 1
    assert replay.clock_at(10**12, slots) % slots == 10**12 % slots


def test_so_many_steps_are_begun_or_refused_in_one_line(tmp_path):
    for steps in ("3e9", "4e9"):
        Session(make_plan("ppo", "jax:CartPole-v1", Settings(steps=int(float(steps))), in_graph=True)).check()
    plan = make_plan("ppo", "jax:CartPole-v1", Settings(steps=10**12, num_envs=1), in_graph=True)
    with pytest.raises(UserError, match=r"a run counts 4,294,967,295: raise --num-envs .* at least 233"):
        Session(plan).check()
    config = {**PPO, "minibatch": 256}
    agent = Agent("ppo", "jax:CartPole-v1", preset=False, config=config, num_envs=256, eval_every=0)
    agent.predict(np.zeros(4, np.float32))

    def stop() -> None:
        while not agent.env_steps:
            time.sleep(0.05)
        agent.training.stop.set()

    threading.Thread(target=stop, daemon=True).start()
    agent.learn(10**12, verbose=False)
    assert 0 < agent.env_steps < 10**12


# ---- evaluation


def test_evaluation_can_be_turned_off_and_then_makes_nothing(tmp_path, walk):
    walk.limit = 1
    run = train("ppo", "test_runs:Walk", steps=32, eval_every=0, out=str(tmp_path), name="none", **SMALL)
    assert run.finished
    assert not any(name.startswith("eval/") for line in run.metrics for name in line)


def test_an_evaluation_that_fails_loses_nothing(tmp_path, walk, capsys):
    walk.limit = 1
    run = train("ppo", "test_runs:Walk", steps=32, eval_every=16, out=str(tmp_path), name="one", **SMALL)
    assert list(run.kept) == [16, 32]
    assert run.finished
    said = capsys.readouterr().err
    assert said.count("evaluation failed, and training goes on without") == 1
    assert "one simulator is enough" in said


def test_an_endless_episode_is_cut_where_it_is_said_and_stops_when_asked(tmp_path, walk, recwarn):
    run = train(
        "ppo",
        "test_runs:Endless",
        steps=16,
        eval_every=16,
        eval_limit=50,
        out=str(tmp_path),
        name="e",
        **SMALL,
    )
    assert [line["eval/length"] for line in run.metrics if "eval/length" in line] == [50.0]
    trusted = Run(run.path, env="test_runs:Endless")
    assert trusted.evaluate(2, limit=20).lengths.tolist() == [[20, 20]]
    assert any("2 episodes were cut at 20 steps" in str(warning.message) for warning in recwarn)
    session = trusted.trust()
    evaluator = session.make_evaluator(1, limit=10**9)
    walk.seconds = 0.01
    began, actor = time.monotonic(), session.algorithm.actor(trusted.state())
    assert evaluator(actor, lambda: time.monotonic() - began > 0.5) is None
    assert time.monotonic() - began < 20
    evaluator.close()


def test_an_evaluation_in_graph_stops_when_asked_and_plays_the_same_in_parts():
    plan = make_plan("ppo", "jax:Pendulum-v1", Settings(steps=8, preset=False), PPO, in_graph=True)
    session = Session(plan)
    actor = session.driver.actor(session.driver.start())
    evaluator = session.make_evaluator(3)
    whole, looks = evaluator(actor), itertools.count()
    assert whole.length.tolist() == [[200, 200, 200]]
    assert whole.cut == 0
    assert evaluator(actor, lambda: next(looks) == 0) is None
    evaluator_of_parts = session.make_evaluator(3, limit=190)
    from polyak.drivers import evaluate

    steps, evaluate.FIRST_STEPS = evaluate.FIRST_STEPS, 7
    try:
        parts = evaluator(actor)
        assert evaluator_of_parts(actor).cut == 3
    finally:
        evaluate.FIRST_STEPS = steps
    np.testing.assert_array_equal(parts.total, whole.total)


def test_a_wrong_environment_of_evaluation_is_refused_at_the_start(tmp_path):
    given = {"eval_env_fields": {"gravty": 1.0}, "out": str(tmp_path), "name": "no"}
    with pytest.raises(UserError, match="gravity"):
        train("ppo", "jax:CartPole-v1", steps=8, **given, **SMALL)
    assert not (tmp_path / "no").exists()


def test_evaluations_count_in_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(silent(), 1000)
    for steps in (0, 100, 200):
        progress.update(steps)
        now[0] += 10.0
        if steps:
            now[0] += 5.0  # an evaluation
            progress.log_pause(5.0, (1000 - steps) // 100)
    progress.update(300)
    assert progress.rate == pytest.approx(10.0)
    assert progress.seconds_left == pytest.approx(70.0 + 8 * 5.0)


def test_the_warm_up_says_nothing_of_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(silent(), 1000)
    for steps, phase in ((0, WARM_UP), (100, WARM_UP), (200, WARM_UP), (210, ""), (220, ""), (230, "")):
        progress.update(steps, phase=phase)
        if phase or steps == 210:
            assert progress.seconds_left is None
        now[0] += 1.0
    assert progress.rate == pytest.approx(10.0)  # of the steps that learn
    assert progress.seconds_left == pytest.approx(77.0)


# ---- leaving early


def test_a_long_rollout_is_left_at_once_and_the_run_keeps_every_bit(tmp_path, walk, monkeypatch):
    monkeypatch.setattr(host, "FINISH_SECONDS", 0.2)
    chosen = {**SMALL, "config": {**PPO, "data.steps": 64, "minibatch": 64}, "num_envs": 2, "eval_every": 0}
    whole = train("ppo", "test_runs:Walk", steps=512, out=str(tmp_path), name="whole", **chosen)
    seen = []
    plain = loop.Training._watch

    def watch(self, rows):
        seen.append(rows)
        if rows and self.iteration == 1:
            self.stop.set()
        return plain(self, rows)

    monkeypatch.setattr(loop.Training, "_watch", watch)
    walk.seconds = 0.02
    began = time.monotonic()
    with pytest.raises(loop.Interrupted):
        train("ppo", "test_runs:Walk", steps=512, out=str(tmp_path), name="parts", **chosen)
    assert time.monotonic() - began < 60
    assert seen
    assert list(load(tmp_path / "parts").kept)[-1] == 128  # the last whole iteration
    monkeypatch.undo()
    walk.seconds = 0.0
    parts = train("ppo", "test_runs:Walk", steps=512, out=str(tmp_path), name="parts", **chosen)
    assert parts.digest() == whole.digest()


def stops_in_the_third(training, rows):
    """As if by Ctrl-C in the middle of the third rollout."""
    if rows and training.iteration == 2:
        training.stop.set()
    return training.stop.is_set()


def test_an_agent_whose_rollout_was_left_goes_on_to_the_same_bits(walk, monkeypatch):
    monkeypatch.setattr(host, "FINISH_SECONDS", 0.2)
    chosen = {
        "preset": False,
        "config": {**PPO, "data.steps": 64, "minibatch": 64},
        "num_envs": 1,
        "eval_every": 0,
    }
    whole, parts = (Agent("ppo", "test_runs:Walk", **chosen) for _ in range(2))
    whole.learn(256, verbose=False)
    untrained = (
        parts.predict(np.ones(1, np.float32))[1],
        np.asarray(parts.policy().actor.net.layers[0].weight),
    )
    walk.seconds = 0.02
    parts.training.session.driver.watch = lambda rows: stops_in_the_third(parts.training, rows)
    assert parts.learn(256, verbose=False) is parts  # as its docstring says
    assert parts.env_steps == 128  # whole rollouts
    parts.training.session.driver.watch = None
    newest = np.asarray(parts.policy().actor.net.layers[0].weight)
    assert (newest != untrained[1]).any()
    walk.seconds = 0.0
    parts.learn(256 - parts.env_steps, verbose=False)
    weights = [np.asarray(agent.policy().actor.net.layers[0].weight) for agent in (whole, parts)]
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("env", ["test_runs:Walk", "test_runs:Sour"])
def test_a_fault_leaves_the_newest_policy(env, walk):
    walk.bad_at = 20
    agent = Agent("ppo", env, preset=False, config=PPO, num_envs=2, eval_every=0)
    before = np.asarray(agent.policy().actor.net.layers[0].weight)
    with pytest.raises(EnvironmentFault):
        agent.learn(160, verbose=False)
    assert (np.asarray(agent.policy().actor.net.layers[0].weight) != before).any()


def test_an_environment_that_does_not_close_is_a_warning(tmp_path, walk, capsys):
    walk.raises_in_close = True
    session = Session(
        make_plan("ppo", "jax:CartPole-v1", Settings(steps=8, preset=False), PPO, in_graph=True)
    )
    session.__dict__["driver"] = Walk()
    said = []
    session.close(said.append)
    (line,) = said
    assert line.startswith(
        "environments were not closed: OSError: the simulator is gone at tests/test_runs.py:"
    )


SCRIPT = """
import polyak
polyak.train("ppo", "CartPole-v1", steps=64, vectorization="async", num_envs=2, name="x", verbose=False,
             preset=False, config={"data.steps": 8, "minibatch": 16, "hidden": [4]})
"""


def test_an_asynchronous_script_without_a_main_guard_is_told_so_and_leaves_nothing(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs" / "x").exists()
    assert list(tmp_path.glob("runs/*")) == []

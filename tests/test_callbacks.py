"""Callbacks, and what else ends a run early: it is saved, resumed to the same bits, and its best is kept."""

import json
import shutil

import jax
import numpy as np
import pytest
from small_runs import small_ppo

import polyak
from polyak.drivers import evaluate
from polyak.errors import UserError
from polyak.runs.decide import make_plan
from polyak.runs.plan import Plan, Settings
from polyak.store import checkpoint

SMALL = {
    "config": small_ppo(),
    "preset": False,
    "num_envs": 1,
    "eval_every": 16,
    "eval_episodes": 2,
}
RUN = {**SMALL, "steps": 64, "verbose": False}
ENV = "jax:ShortCorridor"
pytestmark = pytest.mark.usefixtures("draws_nothing")


def weights_of(holder):
    """The weights that a run's or an agent's policy acts with, in one vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(holder.policy().actor)])


@pytest.fixture
def returns(monkeypatch):
    """Make the evaluations of a run earn what a test says, one after the other."""

    def earn(*means):
        to_come = iter(means)

        def play(self, actor, watch=lambda: False):
            shape = len(self.seeds), self.episodes
            played = np.full(shape, float(next(to_come))), np.ones(shape, np.int64)
            return evaluate.Played(*played, {})

        monkeypatch.setattr(evaluate.Evaluator, "__call__", play)

    return earn


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody ended."""
    out = tmp_path_factory.mktemp("whole")
    seen = []
    run = polyak.train(
        "ppo", ENV, **RUN, out=out, name="whole", on_log=seen.append, on_checkpoint=seen.append
    )
    logs, checkpoints = ([e for e in seen if bool(e.lines) is kind] for kind in (True, False))
    assert [e.env_steps for e in logs] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert [e.env_steps for e in checkpoints] == [16, 32, 48, 64]
    assert all(e.path == run.path for e in seen)
    assert [e.lines[0]["time/unix_s"] for e in logs] == [
        line["time/unix_s"] for line in run.metrics if "time/unix_s" in line
    ]
    return run


def test_a_callback_that_returns_false_ends_the_run_which_goes_on_to_the_same_bits(tmp_path, whole, capsys):
    seen = []

    def on_evaluation(event):
        seen.append((event.env_steps, event.mean("eval/return")))
        return event.mean("eval/return") > 0  # a bool of NumPy's or of Python's

    run = polyak.train("ppo", ENV, **{**RUN, "verbose": True}, out=tmp_path, on_evaluation=on_evaluation)
    assert "stopped at step 16: on_evaluation returned False" in capsys.readouterr().out
    assert [step for step, _ in seen] == [16]
    assert seen[0][1] == run.metrics[-1]["eval/return"]
    assert not run.finished
    assert list(run.kept) == [16]
    # between two checkpoints it is saved too, and what is asked of the one that goes on is asked of that one
    run.resume(on_log=lambda event: event.env_steps < 24)
    assert list(run.kept) == [16, 24]
    assert run.resume(on_checkpoint=lambda event: None).finished
    assert run.digest() == whole.digest()


@pytest.mark.parametrize("name", ["on_log", "on_evaluation", "on_checkpoint"])
def test_what_a_callback_raises_is_raised_with_its_place_and_nothing_is_lost(tmp_path, whole, name):
    class Pruned(Exception):
        pass

    def prune(event):
        if event.env_steps >= 16:
            raise Pruned("it is hopeless")

    with pytest.raises(Pruned, match="it is hopeless") as caught:
        polyak.train("ppo", ENV, **RUN, out=tmp_path, name="run", **{name: prune})
    notes = caught.value.__notes__
    line = prune.__code__.co_firstlineno + 2
    assert notes[0].startswith(f"polyak: {name} raised this at step 16 at ")
    assert notes[0].endswith(f"test_callbacks.py:{line}")
    assert notes[1] == f"polyak: the run is saved; go on with: polyak resume {tmp_path / 'run'}"
    run = polyak.load(tmp_path / "run")
    assert list(run.kept) == [16]
    if name == "on_evaluation":
        assert run.resume().digest() == whole.digest()


def test_what_cannot_be_called_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="on_log is 'print', but must be a function of one event"):
        polyak.train("ppo", ENV, out=tmp_path, on_log="print")
    assert not list(tmp_path.iterdir())


def test_an_agent_is_told_too_and_acts_as_it_is_by_then(tmp_path):
    agent = polyak.Agent("ppo", ENV, **SMALL)
    seen, weights = [], []

    def on_checkpoint(event):
        seen.append((event.env_steps, event.path))
        weights.append(weights_of(agent))
        return len(seen) < 2

    agent.learn(64, verbose=False, on_checkpoint=on_checkpoint)
    assert seen == [(16, None), (32, None)]
    assert agent.env_steps == 32
    assert (weights[0] != weights[1]).any()
    with pytest.raises(ZeroDivisionError) as caught:
        agent.learn(64, verbose=False, on_log=lambda event: 1 / 0)
    assert len(caught.value.__notes__) == 1  # it has no folder that it could be resumed from
    assert agent.env_steps == 40
    assert (weights_of(agent) != weights[1]).any()
    agent.close()


# ---- stop at a return


def test_a_run_ends_where_its_evaluation_reaches_a_return_and_a_resumed_one_too(tmp_path, whole, returns):
    settings = {**RUN, "out": tmp_path, "name": "run", "stop_at": 30.0}
    returns(10, 29.9, 30, 50)
    run = polyak.train("ppo", ENV, **settings)
    assert run.finished
    assert run.reached == 48
    with pytest.raises(UserError, match=r"stop_at is 30.0 there, 9.0 here.*polyak resume .* --stop-at 9.0"):
        polyak.train("ppo", ENV, **{**settings, "stop_at": 9})
    with pytest.raises(UserError, match="stop_at is 'high', but must be a number"):
        run.resume(stop_at="high")
    returns()
    assert (
        polyak.train("ppo", ENV, **settings).resume().digest() == run.digest()
    )  # nothing is played any more
    # one that was killed before, in the middle of an evaluation, ends at the same one
    again = tmp_path / "again"
    shutil.copytree(run.path, again)
    checkpoint.rewind(again / "checkpoints", 32)
    polyak.load(again).folder.keep([line for line in run.metrics if line["env_steps"] <= 32][:-1])
    returns(29.9, 30)
    assert polyak.load(again).resume().digest() == run.digest()
    # what ended it changed no bit: without it the run goes on to what it would have become
    returns(50)
    run.resume(stop_at=float("inf"))
    assert run.finished
    assert run.plan.stop_at is None
    arrays, others = (checkpoint.read(each.folder.checkpoints)[0] for each in (run, whole))
    assert arrays.keys() == others.keys()
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_a_run_without_environment_steps_is_told_of_and_ended_at_its_updates(tmp_path, returns):
    config = {"hidden": [8, 8], "data.warmup": 20, "data.capacity": 100, "data.batch_size": 4}
    given = {"config": config, "preset": False, "verbose": False, "out": tmp_path, "eval_episodes": 2}
    first = polyak.train("td3", "jax:Pendulum-v1", steps=24, eval_every=0, name="first", **given)
    given |= {"updates": 8, "data": str(first.path), "eval_every": 2, "stop_at": 25.0}
    told = []
    returns(10, 30)
    run = polyak.train("td3", "jax:Pendulum-v1", name="rows", on_evaluation=told.append, **given)
    assert [(event.env_steps, event.updates) for event in told] == [(0, 2), (0, 4)]
    assert run.finished
    assert run.reached == 4
    assert run.evaluated_best() == (4, 30.0)
    returns(20, 10)
    run.resume(stop_at=float("inf"))
    assert run.finished
    assert run.metrics[-1]["updates"] == 8
    assert run.best().step == 4


def test_a_folder_from_before_there_was_stop_at_is_the_run_without_it(tmp_path):
    plan = make_plan("ppo", ENV, Settings(steps=64), in_graph=True)
    old = {name: value for name, value in json.loads(json.dumps(plan.__dict__)).items() if name != "stop_at"}
    assert Plan.read(old, "here") == plan


def test_a_return_that_no_evaluation_can_reach_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="--stop-at 30 waits for an evaluation to reach it, but there is none"
    ):
        polyak.train("ppo", ENV, **{**RUN, "eval_every": 0}, out=tmp_path, stop_at=30)


# ---- the best checkpoint


def test_the_checkpoint_that_evaluated_best_stays_beside_the_newest(tmp_path, returns):
    settings = {**RUN, "out": tmp_path, "name": "run", "steps": 112}
    returns(5, 9, 9, 8, 1, 2, 3)
    run = polyak.train("ppo", ENV, **settings)
    assert list(run.kept) == [48, 80, 96, 112]
    assert run.best().step == 48  # the later of equals
    weights = weights_of(run.best())
    # a resumed run knows what was best before
    returns(3, 4, 3, 3)
    run.resume(steps=176)
    assert list(run.kept) == [48, 144, 160, 176]
    assert np.array_equal(weights_of(run.best()), weights)

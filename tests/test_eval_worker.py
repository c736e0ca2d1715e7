"""Evaluation in a worker of its own: the record of one in process, whatever befalls it, and training goes on."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_ppo
from troubled_evaluator import TroubledEvaluator

import polyak
from polyak.drivers import eval_worker
from polyak.drivers.eval_worker import EvalWorker
from polyak.errors import EnvironmentFault, UserError
from polyak.runs import session as sessions
from polyak.runs.decide import make_plan
from polyak.runs.loop import Interrupted
from polyak.runs.plan import Plan, Settings
from polyak.runs.session import Session
from polyak.runs.values import plain

RUN = {
    "config": small_ppo(),
    "preset": False,
    "num_envs": 1,
    "steps": 96,
    "eval_every": 32,
    "eval_episodes": 2,
    "verbose": False,
}
ENV = "jax:ShortCorridor"
LONG = pytest.mark.long
pytestmark = pytest.mark.usefixtures("draws_nothing")


def record(run):
    """What a run wrote, in its order, but for the time."""
    return [{name: value for name, value in line.items() if "time/" not in name} for line in run.metrics]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that is evaluated in process."""
    run = polyak.train("ppo", ENV, **RUN, out=tmp_path_factory.mktemp("whole"), name="whole")
    assert [(line["env_steps"], "eval/return" in line) for line in run.metrics][3:6] == [
        (32, False),
        (32, True),
        (40, False),
    ]
    return run


# ---- the order of things, with a worker that plays here, and as late as it may


class Late(EvalWorker):
    """Says what it was asked, and has nothing ready before it is waited for."""

    said: list[str]
    ready = False

    def begin(self, actor):
        self.said.append("begun")
        self.actor = actor

    def answer(self, watch=lambda: False):
        if watch():
            self.said.append("left")
            return None
        self.said.append("asked")
        evaluator = self.make()
        self.limit = evaluator.limit
        return evaluator(self.actor, watch)


class Soon(Late):
    """Is ready before the next slice of training."""

    ready = True


@pytest.fixture(params=[Late, pytest.param(Soon, marks=LONG)])
def played(request, monkeypatch):
    """What was asked of a worker that plays here, in its order, and what a test adds."""
    monkeypatch.setattr(sessions, "EvalWorker", request.param)
    monkeypatch.setattr(request.param, "said", [], raising=False)
    return request.param.said


def with_worker(out, **more):
    return polyak.train("ppo", ENV, **RUN, out=out, name="run", eval_worker=True, **more)


def test_training_goes_on_while_it_is_played_and_the_record_is_the_same(tmp_path, whole, played):
    run = with_worker(tmp_path, on_log=lambda event: played.append(event.env_steps))
    assert record(run) == record(whole)
    assert run.digest() == whole.digest()
    late = [
        8,
        16,
        24,
        32,
        "begun",
        40,
        48,
        56,
        64,
        "asked",
        "begun",
        72,
        80,
        88,
        96,
        "asked",
        "begun",
        "asked",
    ]
    soon = [
        8,
        16,
        24,
        32,
        "begun",
        "asked",
        40,
        48,
        56,
        64,
        "begun",
        "asked",
        72,
        80,
        88,
        96,
        "begun",
        "asked",
    ]
    assert played in (late, soon)


@pytest.mark.parametrize(
    ("how", "at"),
    [
        *(("Ctrl-C", 56), ("raised", 48)),
        *(pytest.param(how, at, marks=LONG) for how in ("False", "raised", "Ctrl-C") for at in (32, 64, 96)),
    ],
)
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_record(tmp_path, whole, played, how, at):
    class Pruned(Exception):
        pass

    def on_log(event):
        if event.env_steps < at:
            return None
        if how == "raised":
            raise Pruned
        if how == "Ctrl-C":
            signal.raise_signal(signal.SIGINT)
            return None
        return False

    with contextlib.suppress(Pruned, Interrupted):
        with_worker(tmp_path, on_log=on_log)
    run = polyak.load(tmp_path / "run")
    assert max(run.kept) == at
    if not run.finished:
        run.resume()
    assert record(run) == record(whole)
    assert run.digest() == whole.digest()


def test_a_run_that_is_killed_while_it_is_played_goes_on_to_the_same_record(
    tmp_path, whole, played, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Late, "answer", killed)
        with pytest.raises(Killed):
            with_worker(tmp_path)
    run = polyak.load(tmp_path / "run")
    assert max(run.kept) == 32
    assert not any("eval/episodes" in line for line in run.metrics)
    assert run.resume().digest() == whole.digest()
    assert record(run) == record(whole)


@pytest.mark.parametrize("how", ["stop_at", "on_evaluation"])
def test_what_may_end_the_run_is_waited_for(tmp_path, whole, played, how):
    first = next(line["eval/return"] for line in whole.metrics if "eval/return" in line)
    ends = {"stop_at": first} if how == "stop_at" else {"on_evaluation": lambda event: False}
    run = with_worker(tmp_path, on_log=lambda event: played.append(event.env_steps), **ends)
    assert played == [8, 16, 24, 32, "begun", "asked"]
    assert max(run.kept) == 32
    assert record(run) == record(whole)[: len(run.metrics)]


def test_an_evaluation_that_fails_is_said_and_training_goes_on_in_the_same_order(
    tmp_path, whole, played, monkeypatch, capsys
):
    def fails(*_):
        raise EnvironmentFault("in evaluation, the plug was pulled")

    monkeypatch.setattr(Late, "answer", fails)
    run = polyak.train("ppo", ENV, **{**RUN, "verbose": True}, out=tmp_path, name="run", eval_worker=True)
    assert capsys.readouterr().err.count("training goes on without") == 1
    none = [
        {"env_steps": line["env_steps"], "updates": line["updates"], "seed": 0, "eval/episodes": 0}
        if "eval/return" in line
        else line
        for line in record(whole)
    ]
    assert record(run) == none


@pytest.mark.long
def test_an_agent_learns_with_one_too(played):
    settings = {name: value for name, value in RUN.items() if name not in ("steps", "verbose")}
    agents = [polyak.Agent("ppo", ENV, eval_worker=worker, **settings) for worker in (False, True)]
    for agent in agents:
        agent.learn(48)
        agent.learn(48)
        agent.close()
    assert [line.get("eval/return") for line in agents[0].metrics] == [
        line.get("eval/return") for line in agents[1].metrics
    ]
    assert played.count("asked") == sum("eval/return" in line for line in agents[0].metrics) > 1


# ---- the process


@pytest.fixture
def worker(tmp_path):
    """Workers whose evaluators are in trouble."""
    made = []

    def make(how="", folder=tmp_path, **when):
        made.append(EvalWorker(partial(TroubledEvaluator, str(folder), how, **when), 1.0))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert [p for p in multiprocessing.active_children() if p.name == "polyak-evaluation"] == []


def processes(folder):
    return len(list(folder.glob("process *")))


ACTOR = {"w": np.arange(3.0)}


@pytest.mark.parametrize("how", ["killed", "leaving"])
def test_a_process_that_dies_is_replaced_and_plays_the_same_actor(tmp_path, worker, how):
    mine, actor = worker(how), {"w": np.arange(3.0)}
    mine.begin(actor)
    actor["w"] += 1  # training goes on, in the same memory
    assert mine.answer()["w"].tolist() == [0, 1, 2]
    assert mine.limit == 7
    assert processes(tmp_path) == 2
    assert mine(actor)["w"].tolist() == [1, 2, 3]
    assert processes(tmp_path) == 2


def test_one_that_dies_while_nothing_is_played_is_replaced(tmp_path, worker):
    mine = worker()
    assert mine(ACTOR)["w"].tolist() == [0, 1, 2]
    mine.process.kill()
    mine.process.join()
    assert mine(ACTOR)["w"].tolist() == [0, 1, 2]
    assert processes(tmp_path) == 2


def test_one_that_dies_for_ever_is_an_error_of_one_line(tmp_path, worker, monkeypatch):
    monkeypatch.setattr(eval_worker, "REPLACEMENTS", 1)
    with pytest.raises(EnvironmentFault, match=r"its process was lost 2 times in a row: exit code 3$"):
        worker("leaving", times=9)(ACTOR)
    assert processes(tmp_path) == 2


def test_one_that_cannot_begin_is_an_error_of_one_line(worker, monkeypatch):
    def none(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(EvalWorker, "_begin_process", none)
    mine = worker()
    mine.begin(ACTOR)
    assert mine.ready
    with pytest.raises(EnvironmentFault, match="lost 4 times in a row: it did not begin"):
        mine.answer()


def test_what_its_environments_raise_is_said_and_it_plays_on(tmp_path, worker):
    mine = worker("raising")
    with pytest.raises(EnvironmentFault, match=r"^ValueError: the plug was pulled"):
        mine(ACTOR)
    assert mine(ACTOR)["w"].tolist() == [0, 1, 2]
    assert processes(tmp_path) == 1


def test_one_that_hangs_is_replaced_and_one_that_only_takes_long_is_not(tmp_path, worker):
    """What counts is when it last looked up, once it has begun and answered."""
    for how, count in (("long", 1), ("hanging", 2)):
        (tmp_path / how).mkdir()
        mine = worker(how, first=1, folder=tmp_path / how)
        assert mine(ACTOR)["w"].tolist() == mine(ACTOR)["w"].tolist() == [0, 1, 2]
        assert processes(tmp_path / how) == count


def test_waiting_ends_where_it_is_asked_to(tmp_path, worker):
    mine = worker("hanging")
    mine.begin(ACTOR)
    began = time.monotonic()
    assert mine.answer(lambda: True) is None
    assert time.monotonic() - began < 5
    assert mine.process is None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
def test_nothing_is_left_of_it_when_the_process_that_trains_is_killed(tmp_path):
    """Also while its environment hangs."""
    said = f"""
from functools import partial
from polyak.drivers.eval_worker import EvalWorker
from troubled_evaluator import TroubledEvaluator
if __name__ == "__main__":
    EvalWorker(partial(TroubledEvaluator, {str(tmp_path)!r}, "hanging"), 1.0)({{}})
"""
    script = tmp_path / "train.py"
    script.write_text(said)
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_for(lambda: list(tmp_path.glob("call *")), 60)
    finally:
        process.kill()
        process.wait()
    (theirs,) = [path.name.split()[1] for path in tmp_path.glob("process *")]
    wait_for(lambda: not alive(theirs), 10)


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for(what, seconds):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)


# ---- a run with a process


def killing_once(event):
    """At the second log line after an evaluation has begun, kill the worker."""
    if event.env_steps == 48:
        (process,) = [p for p in multiprocessing.active_children() if p.name == "polyak-evaluation"]
        process.kill()


@pytest.mark.parametrize(
    ("env", "more"),
    [
        (ENV, {"on_log": killing_once}),
        pytest.param("CartPole-v1", {"seeds": 2}, marks=LONG),
        pytest.param("CartPole-v1", {"wrap": ("normalize_obs",)}, marks=LONG),
    ],
)
def test_the_record_is_that_of_an_evaluation_in_process(tmp_path, env, more):
    settings = {name: value for name, value in more.items() if name != "on_log"}
    plain = polyak.train("ppo", env, **RUN, **settings, out=tmp_path, name="plain")
    run = polyak.train("ppo", env, **RUN, **more, out=tmp_path, name="run", eval_worker=True)
    assert record(run) == record(plain)
    assert run.digest() == plain.digest()
    assert any("eval/return" in line for line in run.metrics)
    assert [p for p in multiprocessing.active_children() if p.name == "polyak-evaluation"] == []


# ---- what a person is told


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"eval_every": 0}, "--eval-worker plays evaluations, but there is none: give --eval-every"),
        ({"vectorization": "async"}, "--vectorization async begins processes, which --eval-worker cannot"),
    ],
)
def test_a_mistake_is_one_line(said, expected):
    settings = Settings(**{"eval_every": 10, "eval_worker": True, **said})
    with pytest.raises(UserError, match=expected):
        make_plan("ppo", "CartPole-v1", settings)


def test_an_environment_that_was_given_as_an_object_is_refused(tmp_path):
    import gymnasium

    with pytest.raises(UserError, match="--eval-worker makes its environments in another process"):
        polyak.train("ppo", lambda: gymnasium.make("CartPole-v1"), **RUN, out=tmp_path, eval_worker=True)


def test_a_plan_of_before_is_evaluated_in_process():
    values = plain(make_plan("ppo", "CartPole-v1", Settings()))
    del values["eval_worker"]
    plan = Plan.read(values, "config.json")
    assert plan.eval_worker is False
    assert isinstance(Session(dataclasses.replace(plan, eval_worker=True)).evaluator, EvalWorker)

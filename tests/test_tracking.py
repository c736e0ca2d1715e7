"""Trackers: what is sent, that training never waits for them, and the one line where they fail. No network: modules
that stand in for the real ones."""

import importlib.machinery
import sys
import threading
import time
import types

import pytest

from polyak.runs import tracking as module
from polyak.runs.decide import make_plan
from polyak.runs.plan import Settings
from polyak.runs.tracking import SERVICES, tracking


class Kept:
    """A sink that keeps its lines."""

    def __init__(self):
        self.lines, self.flushed, self.closed = [], 0, 0

    def write(self, line):
        self.lines.append(line)

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1


LINES = [
    {
        "env_steps": 8,
        "updates": 2,
        "seed": 3,
        "episode/count": 4,
        "update/loss": float("nan"),
        "time/unix_s": 9.0,
    },
    {"env_steps": 16, "updates": 4, "seed": 3, "eval/return": 1.5, "eval/episodes": 2},
]
SENT = [({"episode/count": 4}, 8), ({"eval/return": 1.5, "eval/episodes": 2}, 16)]


def plan(**settings):
    return make_plan("ppo", "jax:CartPole-v1", Settings(steps=64, seed=3, **settings), in_graph=True)


@pytest.fixture
def services(monkeypatch):
    """Modules called wandb, mlflow and trackio that write down what they are told; never the real ones."""
    heard = types.SimpleNamespace(begun={}, sent=[], ended=[], mode="-")
    for name in SERVICES:
        fake = types.ModuleType(name)
        fake.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, fake)
    wandb, mlflow, trackio = (sys.modules[name] for name in SERVICES)

    class Run:
        dir = "here"

        def define_metric(self, name, step_metric=None):
            heard.begun.setdefault("metrics", []).append((name, step_metric))

        def log(self, values):
            assert values["env_steps"] > 0
            heard.sent.append(({n: v for n, v in values.items() if n != "env_steps"}, values["env_steps"]))

        def finish(self):
            heard.ended.append("wandb")

    def init(**given):
        heard.begun |= given
        return Run()

    wandb.init, wandb.Settings = init, lambda **given: given
    mlflow.get_tracking_uri = lambda: "sqlite:///here"
    mlflow.set_experiment = lambda name: heard.begun.update(project=name)
    mlflow.start_run = lambda run_name: heard.begun.update(name=run_name)
    mlflow.log_params = lambda params: heard.begun.update(config=params)
    mlflow.log_metrics = lambda values, step: heard.sent.append((values, step))
    mlflow.end_run = lambda: heard.ended.append("mlflow")
    trackio.init = lambda **given: heard.begun.update(given)
    trackio.log = lambda values, step: heard.sent.append((values, step))
    trackio.finish = lambda: heard.ended.append("trackio")
    monkeypatch.setattr(module, "reachable", lambda url: False)
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(module, "has_login", lambda url: False)
    return heard


@pytest.mark.parametrize("service", SERVICES)
def test_every_line_is_sent_under_its_name_and_step_and_what_is_no_number_is_not(service, services, tmp_path):
    said, sink = [], Kept()
    with tracking(service, sink, plan(), tmp_path / "run", said.append) as told:
        for line in LINES:
            told.write(line)
        told.flush()
    assert services.sent == SENT
    assert services.ended == [service]
    assert sink.lines == LINES
    assert sink.flushed == 1
    assert services.begun["project"] == "polyak"
    assert services.begun["name"] == "run"
    assert services.begun["config"]["algorithm"] == "ppo"
    assert str(services.begun["config"]["config.lr"]) == str(plan().config["lr"])
    assert len(said) == (service == "wandb")  # where nobody is logged in it is kept on disk


def test_seeds_have_names_of_their_own(services):
    with tracking("trackio", Kept(), plan(seeds=2), None, print) as told:
        told.write({"env_steps": 8, "updates": 2, "seed": 4, "eval/return": 2.0})
    assert services.sent == [({"eval/return/seed_4": 2.0}, 8)]
    assert services.begun["name"] == "ppo-jax:CartPole-v1"


def test_wandb_is_asked_for_no_login_and_waits_for_no_network(services, tmp_path, monkeypatch):
    said = []
    with tracking("wandb", Kept(), plan(), tmp_path, said.append):
        pass
    assert services.begun["mode"] == "offline"
    assert "nobody is logged in" in said[0]
    monkeypatch.setenv("WANDB_API_KEY", "a-key")
    with tracking("wandb", Kept(), plan(), tmp_path, said.append):
        pass
    assert services.begun["mode"] == "offline"
    assert "https://api.wandb.ai cannot be reached" in said[1]
    monkeypatch.setattr(module, "reachable", lambda url: True)
    with tracking("wandb", Kept(), plan(), tmp_path, said.append):
        pass
    assert services.begun["mode"] is None
    assert services.begun["resume"] == "allow"  # the same run goes on
    assert services.begun["id"] == tmp_path.name
    assert len(said) == 2


def test_one_that_is_not_installed_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    said, sink = [], Kept()
    with tracking("wandb", sink, plan(), None, said.append) as told:
        assert told is sink
    assert said == ["--track wandb: it is not installed, and training goes on without: pip install wandb"]


@pytest.mark.parametrize("place", ["init", "log", "finish"])
@pytest.mark.parametrize("error", [ConnectionError("the service\nis gone"), SystemExit(3)])
def test_one_that_fails_is_one_line_and_training_goes_on(services, monkeypatch, place, error):
    def fail(*args, **given):
        raise error

    monkeypatch.setattr(sys.modules["trackio"], place, fail)
    said, sink = [], Kept()
    with tracking("trackio", sink, plan(), None, said.append) as told:
        for line in LINES * 3:
            told.write(line)
    assert sink.lines == LINES * 3
    assert len(said) == 1
    assert said[0].startswith(
        f"--track trackio: nothing is sent any more, training goes on: {type(error).__name__}"
    )
    assert "\n" not in said[0]


def test_an_mlflow_server_that_does_not_answer_is_not_waited_for(services, monkeypatch):
    monkeypatch.setattr(sys.modules["mlflow"], "get_tracking_uri", lambda: "http://nowhere:5000")
    said = []
    with tracking("mlflow", Kept(), plan(), None, said.append):
        pass
    assert "http://nowhere:5000 cannot be reached" in said[0]


def test_training_waits_neither_for_a_slow_service_nor_for_one_that_hangs(services, monkeypatch):
    hanging = threading.Event()
    monkeypatch.setattr(sys.modules["trackio"], "init", lambda **given: hanging.wait(60))
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "MOST_WAITING", 4)
    said, sink, began = [], Kept(), time.monotonic()
    try:
        with tracking("trackio", sink, plan(), None, said.append) as told:
            for _ in range(10):
                told.write(LINES[0])
        assert time.monotonic() - began < 10
        assert len(sink.lines) == 10
        assert said == ["--track trackio: 10 lines were not sent in time; the run's folder has them"]
    finally:
        hanging.set()


def test_an_address_that_nobody_answers_at_is_out_of_reach():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert module.reachable(url)
    assert not module.reachable(url)


def test_a_folder_does_not_say_that_it_is_tracked():
    assert "track" not in plan(track="wandb").__dict__

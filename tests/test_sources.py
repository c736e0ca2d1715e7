"""A run and the file its environment is written in: what was trained with one is not taken for the other's."""

import re
import sys

import pytest

import polyak
from polyak.cli import main
from polyak.runs import sources
from polyak.runs.report import look, told_apart
from polyak.show.groups import Trace

WORLD = """
import gymnasium
import numpy as np


class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), float(action), False, self.time == 8, {}
"""
TRAIN = (
    "train ppo line_world:Line --name a --no-preset --eval-every 0 --config.data.steps 16 --config.epochs 1"
)
TRAIN += " --config.hidden 8"


@pytest.fixture
def world(tmp_path, monkeypatch):
    path = tmp_path / "line_world.py"
    path.write_text(WORLD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("line_world", None)


def test_a_run_of_an_environment_that_changed_is_neither_shown_as_this_ones_nor_gone_on_with_silently(
    world, capsys
):
    train = [*TRAIN.split(), "--steps", "32"]
    assert main(train) == 0
    capsys.readouterr()
    assert main(train) == 0
    assert "already finished" in capsys.readouterr().out
    world.write_text(WORLD.replace("float(action)", "-float(action)"))
    assert main(train) == 2
    said = capsys.readouterr().err
    assert "line_world.py changed since runs/a was begun: choose another --name" in said
    assert main(["resume", "runs/a", "--steps", "64", "--trust", "line_world:Line"]) == 0
    assert "note: line_world.py changed since this run was begun" in capsys.readouterr().err
    assert main([word if word != "a" else "b" for word in train]) == 0
    assert "changed" not in capsys.readouterr().err


def test_what_is_kept_are_files_of_the_persons_own_by_name(world):
    run = polyak.train(
        "ppo", "line_world:Line", steps=16, eval_every=0, verbose=False, config={"data.steps": 16}
    )
    kept = run.config["sources"]
    assert list(kept) == ["line_world.py"]
    assert len(kept["line_world.py"]) == 64
    assert sources.changed(kept, run.plan) == []
    assert sources.changed({"line_world.py": "0"}, run.plan) == ["line_world.py"]
    assert sources.changed(None, run.plan) == []  # folders of before have none
    stock = polyak.train(
        "ppo", "CartPole-v1", steps=16, eval_every=0, verbose=False, config={"data.steps": 16}
    )
    assert stock.config["sources"] == {}


def test_what_has_no_file_is_left_out():
    assert sources.source(sys.modules["__main__"]) is None
    assert sources.source(sys) is None


def test_a_report_keeps_an_environment_and_the_one_it_was_before_apart(world):
    for name, text in (("a", WORLD), ("b", WORLD.replace("float(action)", "-float(action)"))):
        world.write_text(text)
        assert main([word if word != "a" else name for word in TRAIN.split()] + ["--steps", "16"]) == 0
    together = look(["runs/a", "runs/b"]).comparison
    assert len({world.name for world in together.worlds}) == 2
    assert all(
        re.fullmatch(r"line_world:Line \(line_world.py [0-9a-f]{7}\)", w.name) for w in together.worlds
    )
    assert [world.name for world in look(["runs/a"]).comparison.worlds] == ["line_world:Line"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("line_world", "line_world.py is here, and its class is named with it, as in line_world:MyEnv"),
        ("line_wrld:Line", "no module 'line_wrld' here or installed; did you mean 'line_world'?"),
        ("line_world:Lime", "line_world has no 'Lime'; did you mean 'Line'? Valid: Line"),
    ],
)
def test_a_file_that_is_here_is_what_was_meant(world, capsys, name, said):
    assert main(["train", "ppo", name, "--steps", "16"]) == 2
    assert said in capsys.readouterr().err


def test_two_algorithms_of_ones_own_are_compared_in_one_environment(world):
    def trace(name, sources):
        return Trace(name, f"{name}:x", "line_world:Line", 10, range(1), [], facts={"sources": sources})

    two = [
        trace("mine", "mine.py 1234567, line_world.py 7654321"),
        trace("other", "other.py 0, line_world.py 7654321"),
    ]
    assert [each.source for each in told_apart(two)] == ["", ""]
    changed = [two[0], trace("other", "other.py 0, line_world.py 1111111")]
    assert [each.source for each in told_apart(changed)] == ["line_world.py 7654321", "line_world.py 1111111"]

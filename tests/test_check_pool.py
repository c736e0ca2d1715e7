"""`polyak check-env envpool:NAME`: what can be found where no episode can be seeded, and what is left out."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from polyak.cli import main
from polyak.envs import spaces
from polyak.envs.environment import HostStep
from polyak.errors import EnvironmentFault
from polyak.health import environment
from polyak.health.environment import check_env
from polyak.health.pool import LEFT_OUT
from polyak.interface import Spec

OBS = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)
ACTION = gymnasium.spaces.Discrete(2, start=3)


class Pool:
    """One lane as EnvPool has it: a walk whose noise is of the pool's seed and goes on with the next episode."""

    made = 0

    def __init__(self, fault):
        Pool.made += 1
        self.fault, self.rng = fault, None

    def reset(self, lanes, seeds):
        if self.rng is None:
            self.rng = np.random.default_rng(Pool.made if self.fault == "unseeded" else seeds[0])
        self.x, self.t = self.rng.uniform(-1, 1, 2), 0
        return self.x[None].astype(np.float32)

    def step(self, action):
        assert action[0] in (0, 1)  # as an algorithm gives it: from 0
        self.t += 1
        if self.fault == "raises" and self.t == 5:
            raise EnvironmentFault("rows came in the order [1]")
        push = 0.0 if self.fault == "deaf" else action[0] - 0.5
        self.x = np.clip(self.x + 0.1 * push + self.rng.normal(0, 0.01, 2), -10, 10)
        obs = self.x[None].astype(np.float32)
        if self.fault == "nan" and self.t == 7:
            obs[:] = np.nan
        reward = np.inf if self.fault == "infinite" and self.t == 3 else -abs(self.x[0]) - 0.5
        over = self.t == 20 + (self.t * 7 + int(self.rng.integers(5))) % 5
        ended = np.array([self.t >= 20 and (over or self.t > 24)])
        return HostStep(obs, np.array([reward]), ended, np.zeros(1, bool), {})

    def close(self):
        self.rng = None


@pytest.fixture
def report(monkeypatch):
    """What is found in a pool with a fault."""

    def look(fault):
        spec = Spec(spaces.from_gymnasium(OBS), spaces.action_from_gymnasium(ACTION), 50)
        factory = SimpleNamespace(
            spec=spec, border=SimpleNamespace(action=ACTION), make=lambda lanes: Pool(fault)
        )
        monkeypatch.setattr(environment, "find", lambda name, fields: factory)
        return check_env("envpool:Walk-v0", steps=1000)

    return look


@pytest.mark.parametrize(
    ("fault", "name", "level"),
    [
        ("unseeded", "determinism", "warning"),
        ("deaf", "action-ignored", "warning"),
        ("nan", "nan", "error"),
        ("infinite", "nan-reward", "error"),
        ("raises", "step-raises", "error"),
    ],
)
def test_a_fault_of_a_pool_is_found(report, fault, name, level):
    assert [(f.name, f.level) for f in report(fault).findings] == [(name, level)]


def test_nothing_is_found_in_a_sound_pool_and_it_says_what_is_left_out(report):
    said = report("")
    assert said.findings == []
    assert said.facts["left out"] == LEFT_OUT
    assert "reseeds" in LEFT_OUT


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_nothing_false_is_said_of_envpools_own(name):
    pytest.importorskip("envpool")
    report = check_env(f"envpool:{name}", steps=800)
    assert report.findings == []
    assert report.facts["played"].startswith("800 random steps")


def test_the_command_takes_envpools_names_and_fields(capsys):
    pytest.importorskip("envpool")
    assert main(["check-env", "envpool:CartPole-v1", "--steps", "300", "--env.max_episode_steps", "9"]) == 0
    said = capsys.readouterr().out
    assert "time limit  9 steps" in said
    assert "EnvPool seeds a pool when it is made" in said
    assert main(["check-env", "envpool:CartPole-v1", "--steps", "300", "--env.sizes", "9"]) in (0, 2)
    said = "".join(capsys.readouterr())
    assert "has no field 'sizes'" in said


@pytest.mark.long
def test_nothing_false_is_said_of_more_of_envpools():
    pytest.importorskip("envpool")
    names = ["Blackjack-v1", "HalfCheetah-v4", "LunarLander-v3", "Pong-v5", "Taxi-v3", "WalkerWalk-v1"]
    found = {name: check_env(f"envpool:{name}", steps=3000).findings for name in names}
    assert {name: said for name in names if (said := [f for f in found[name] if f.name != "memory"])} == {}

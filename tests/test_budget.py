"""A run that cannot learn says so before it starts, and an environment without a preset gets settings that can."""

import dataclasses

import pytest
from cases import CASE, FEW

from polyak import algorithms
from polyak.cli import main
from polyak.drivers.check import check_data, notes, wrong_budget
from polyak.interface import Box, Discrete, OnPolicy, Replay, Spec
from polyak.runs.decide import make_plan
from polyak.runs.plan import Settings
from polyak.runs.presets import preset
from polyak.runs.values import amend

SPEC = Spec(obs=Box((3,)), action=Discrete(2))


@pytest.mark.parametrize(
    ("data", "num_envs", "steps", "learns"),
    [
        (Replay(warmup=1_000), 1, 1_000, False),
        (Replay(warmup=1_000), 1, 1_001, True),
        (Replay(warmup=1_001, steps=4), 1, 1_002, False),  # both are rounded up to 251 rollouts
        (Replay(warmup=1_000, steps=4), 1, 1_001, True),
        (Replay(warmup=1_000), 3, 1_002, False),
        (Replay(warmup=0), 1, 1, True),
        (OnPolicy(steps=2048), 1, 100, True),
    ],
)
def test_a_warm_up_that_fills_the_run_is_said_with_its_flag(data, num_envs, steps, learns):
    spec = dataclasses.replace(SPEC, num_envs=num_envs)
    said = wrong_budget(data, spec, steps)
    assert bool(said) != learns
    assert data.warmup_rollouts(num_envs) * data.steps * num_envs < steps if learns else True
    assert all("--config.data.warmup" in line and "--steps" in line and f"{steps:,}" in line for line in said)


def test_a_run_that_would_learn_nothing_is_refused_in_one_line_and_leaves_no_folder(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    line = "train dqn jax:CartPole-v1 --steps 20000 --config.data.warmup 20000 --name here"
    assert main(line.split()) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "the warm-up takes 20,000 steps" in said
    assert "--config.data.warmup" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("data", "steps", "flag"),
    [
        (Replay(capacity=100, batch_size=256, warmup=10), 10_000, "--config.data.batch_size"),
        (Replay(batch_size=256, warmup=10), 200, "--config.data.batch_size"),
        (Replay(batch_size=32, warmup=10, clip=1.0), 10_000, "--config.data.clip None"),
        (Replay(batch_size=32, warmup=10), 10_000, None),
        (Replay(capacity=256, batch_size=256, warmup=10), 10_000, None),
    ],
)
def test_what_is_not_as_it_seems_is_noted_in_one_line_with_the_flag(data, steps, flag):
    algorithm = algorithms.find("dqn")
    said = notes(algorithm, dataclasses.replace(algorithm.Config(), data=data), SPEC, steps)
    assert len(said) == (flag is not None)
    assert all(flag in line and "\n" not in line for line in said)


def test_notes_are_said_before_the_run(capsys, tmp_path):
    line = "train ppo jax:CartPole-v1 --no-preset --num-envs 3 --steps 24 --eval-episodes 1 --name here"
    sizes = "--config.hidden 4 --config.epochs 1 --config.data.steps 4 --config.minibatch 8"
    assert main([*line.split(), *sizes.split(), "--out", str(tmp_path)]) == 0
    assert "note: a gradient step takes 9 rows, not the 8 of --config.minibatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [name for name in algorithms.names() if "continuous" in algorithms.find(name).actions]
)
@pytest.mark.parametrize("num_envs", [1, 3, 5, 6, 10, 12, 24, 100])
def test_any_number_of_environments_is_taken_with_the_papers_settings(name, num_envs):
    spec = CASE[name].spec("continuous", num_envs=num_envs, time_limit=200)
    check_data(name, algorithms.find(name), algorithms.find(name).Config(), spec)


# ---- settings for environments that have none of their own


@pytest.mark.parametrize("name", algorithms.names())
@pytest.mark.parametrize("steps", [20_000, 100_000, 1_000_000])
@pytest.mark.parametrize("num_envs", [1, 8, 64])
def test_the_default_preset_learns_within_the_budget_and_clips_no_reward(name, steps, num_envs):
    algorithm = algorithms.find(name)
    budget = {"updates" if algorithm.Config().data.plans else "steps": steps}
    plan = make_plan(name, "somewhere:Else-v0", Settings(num_envs=num_envs, **budget))
    cfg = amend(algorithm.Config(), plan.config, "config.")
    longest = (
        9 if cfg.data.replays and cfg.data.ended else 200
    )  # games that are drawn from when they are over
    spec = CASE[name].spec(num_envs=num_envs, time_limit=longest)
    check_data(name, algorithm, cfg, spec)
    assert wrong_budget(cfg.data, spec, steps) == []
    assert cfg.data.clip is None
    if isinstance(cfg.data, Replay):
        assert 0 < cfg.data.warmup <= min(0.05 * steps, algorithm.Config().data.warmup)
    assert notes(algorithm, cfg, spec, steps) == []


@pytest.mark.parametrize("name", FEW)
def test_the_default_preset_is_of_environments_without_one_and_no_preset_is_the_papers(name):
    tuned = preset(name, "somewhere:Else-v0")
    assert tuned["source"].startswith("of every other environment")
    assert preset(name, "Pendulum-v1" if name != "dqn" else "CartPole-v1") != tuned
    assert preset("my_module:algorithm", "Else-v0") == {}
    plan = make_plan(name, "Else-v0", Settings(preset=False, steps=1000))
    paper = algorithms.find(name).Config()
    same = {"horizon": paper.horizon} if hasattr(paper, "horizon") else {}
    assert amend(paper, plan.config | same) == paper


def test_a_share_of_the_steps_is_at_most_the_algorithms_own_and_a_flag_wins():
    def warmup(steps, **config):
        return make_plan("td3", "Else-v0", Settings(steps=steps), config).config["data"]["warmup"]

    assert [warmup(steps) for steps in (20_000, 100_000, 1_000_000, 9_000_000)] == [
        500,
        2_500,
        25_000,
        25_000,
    ]
    assert warmup(None) == 2_500
    assert warmup(20_000, **{"data.warmup": 7}) == 7

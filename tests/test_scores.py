"""Scores are data: what `make score` writes, keeps and says."""

import json
import signal
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import polyak
from polyak import algorithms
from polyak.errors import EnvironmentFault, UserError
from polyak.runs.loop import Interrupted
from polyak.show.curve import interquartile_mean, iqm_interval
from polyak.store import checkpoint

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import scores

COMMITTED = scores.SCORES


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Scores and runs of a test, beside the anchors that are published."""
    anchors = (COMMITTED / "anchors.toml").read_text(encoding="utf-8")
    monkeypatch.setattr(scores, "SCORES", tmp_path / "scores")
    monkeypatch.setattr(scores, "RUNS", tmp_path / "runs")
    scores.SCORES.mkdir()
    (scores.SCORES / "anchors.toml").write_text(anchors, encoding="utf-8")


def training(monkeypatch, result):
    """Stand in for `polyak.train`; `result` gives the return [E] of a seed's episodes, or raises. Returns the calls."""
    calls = []

    def train(algorithm, env, *, steps, seed, seeds, out, name):
        calls.append(SimpleNamespace(env=env, steps=steps, seed=seed, seeds=seeds, out=out, name=name))
        which = range(seed, seed + seeds)
        returns = np.array([result(s) for s in which], float)
        evaluation = SimpleNamespace(seeds=list(which), returns=returns)
        return SimpleNamespace(
            plan=SimpleNamespace(steps=steps or 20_000),
            evaluate=lambda episodes: calls[-1].__dict__.update(episodes=episodes) or evaluation,
        )

    monkeypatch.setattr(polyak, "train", train)
    return calls


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["scores.py", *words])
    return scores.main()


def test_an_entry_sums_up_the_last_policies_of_all_seeds(monkeypatch):
    calls = training(monkeypatch, lambda seed: [-100.0 - seed, -200.0 - seed])
    assert run(monkeypatch, "td3", "Pendulum-v1", "--seeds", "5") == 0
    assert [(call.seed, call.seeds, call.steps, call.episodes) for call in calls] == [(0, 5, None, 100)]
    entry = json.loads(scores.file_of("td3").read_text(encoding="utf-8"))["Pendulum-v1"]
    means = np.array([-150.0, -151.0, -152.0, -153.0, -154.0])
    assert entry["per_seed"] == means.tolist()
    assert entry["iqm"] == pytest.approx(interquartile_mean(means), abs=1e-4)
    assert entry["interval"] == pytest.approx(np.array(iqm_interval(means)), abs=1e-4)
    assert entry["mean"] == -152.0
    assert (entry["seeds"], entry["episodes"], entry["steps"]) == (5, 100, 20_000)
    assert entry["env"] == "Pendulum-v1"
    assert entry["anchor"]["value"] == -151.86
    assert entry["anchor"]["source"]
    assert entry["commit"]
    assert entry["date"].count("-") == 2
    assert "failed" not in entry


def test_a_jax_environment_has_the_entry_of_its_preset_and_says_what_was_played(monkeypatch):
    training(monkeypatch, lambda seed: [-80.0])
    assert run(monkeypatch, "dqn", "jax:Acrobot-v1", "--seeds", "3", "--steps", "500") == 0
    found = scores.read("dqn")
    assert list(found) == ["Acrobot-v1"]
    assert (found["Acrobot-v1"]["env"], found["Acrobot-v1"]["steps"]) == ("jax:Acrobot-v1", 500)


def test_the_other_entries_of_a_file_stay_and_the_text_is_stable(monkeypatch):
    training(monkeypatch, lambda seed: [1.0])
    for env in ("Reacher-v5", "Ant-v5"):
        run(monkeypatch, "td3", env, "--seeds", "3")
    path = scores.file_of("td3")
    first = path.read_text(encoding="utf-8")
    assert list(json.loads(first)) == ["Ant-v5", "Reacher-v5"]
    run(monkeypatch, "td3", "Reacher-v5", "--seeds", "3")
    assert path.read_text(encoding="utf-8") == first
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_a_write_that_fails_leaves_the_file_as_it_was():
    path = scores.write("td3", "Ant-v5", {"mean": 1.0})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Out of range float"):
        scores.write("td3", "Ant-v5", {"mean": float("nan")})
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["anchors.toml", "td3.json"]


def test_a_damaged_file_is_refused_before_anything_is_trained(monkeypatch, capsys):
    calls = training(monkeypatch, lambda seed: [1.0])
    scores.file_of("td3").write_text('{"Ant-v5": {', encoding="utf-8")
    assert run(monkeypatch, "td3", "Pendulum-v1") == 2
    assert "is not JSON" in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize(
    "error", [FloatingPointError("overflow"), EnvironmentFault("step 7: reward is nan"), "not finite"]
)
def test_a_seed_that_fails_loses_nothing_of_the_others(error, monkeypatch):
    def result(seed):
        if seed != 1:
            return [10.0 * seed]
        if isinstance(error, str):
            return [float("nan")]
        raise error

    calls = training(monkeypatch, result)
    assert run(monkeypatch, "td3", "Ant-v5", "--seeds", "4") == 0
    assert [(call.seed, call.seeds) for call in calls] == [(0, 4), (0, 1), (1, 1), (2, 1), (3, 1)]
    assert len({call.name for call in calls}) == 5
    entry = scores.read("td3")["Ant-v5"]
    assert entry["per_seed"] == [0.0, 20.0, 30.0]
    assert entry["seeds"] == 3
    assert list(entry["failed"]) == ["1"]
    assert str(error).rpartition(":")[2] in entry["failed"]["1"]
    assert "1 seeds failed" in scores.describe(entry, "Ant-v5", 20_000)


def test_where_all_seeds_fail_nothing_is_written(monkeypatch, capsys):
    def result(seed):
        raise FloatingPointError("overflow")

    training(monkeypatch, result)
    assert run(monkeypatch, "td3", "Ant-v5", "--seeds", "2") == 2
    assert "all 2 seeds failed: FloatingPointError: overflow" in capsys.readouterr().err
    assert not scores.file_of("td3").exists()


@pytest.mark.parametrize(("error", "code"), [(UserError("no such environment"), 2), (Interrupted(), 130)])
def test_a_mistake_or_ctrl_c_ends_it_at_once_and_writes_nothing(error, code, monkeypatch, capsys):
    def result(seed):
        raise error

    calls = training(monkeypatch, result)
    assert run(monkeypatch, "td3", "Ant-v5", "--seeds", "3") == code
    assert len(calls) == 1
    assert not scores.file_of("td3").exists()
    assert "the same command goes on" in capsys.readouterr().err or code == 2


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on_from_the_checkpoint(monkeypatch):
    """With real training, which is interrupted at its second checkpoint."""
    monkeypatch.setattr(scores, "EPISODES", 3)
    words = ("ppo", "jax:CartPole-v1", "--seeds", "1", "--steps", "2048")
    save, saved = checkpoint.save, []

    def save_and_interrupt(folder, env_steps, *rest, **more):
        save(folder, env_steps, *rest, **more)
        saved.append(env_steps)
        if len(saved) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint, "save", save_and_interrupt)
    assert run(monkeypatch, *words) == 130
    assert not scores.file_of("ppo").exists()
    stopped = len(saved)
    assert 0 < saved[-1] < 2048
    assert run(monkeypatch, *words) == 0
    assert min(saved[stopped:]) > saved[stopped - 1]
    assert scores.read("ppo")["CartPole-v1"]["steps"] == 2048


def test_the_published_result_of_the_same_number_of_steps_stands_beside_a_score():
    curves = scores.anchor_of("td3", "HalfCheetah-v5", 100_000)
    table = scores.anchor_of("td3", "HalfCheetah-v5", 1_000_000)
    assert (curves["value"], table["value"]) == (5513.5, 9636.95)
    assert scores.anchor_of("td3", "HalfCheetah-v5", 7) == table
    assert scores.anchor_of("td3", "NoSuch-v0", 7) is None
    assert scores.anchor_of("no_such", "HalfCheetah-v5", 7) is None


def test_words_repeat_nothing_that_the_preset_says():
    entry = {
        "env": "Ant-v5",
        "steps": 1_000,
        "episodes": 100,
        "seeds": 3,
        "iqm": 12.34,
        "interval": [1.0, 2.0],
    }
    assert scores.describe(entry, "Ant-v5", 1_000) == "IQM 12.3 [1.00, 2.00] over 3 seeds"
    other = entry | {
        "env": "jax:Ant-v5",
        "episodes": 5,
        "anchor": {"value": 9637.0, "steps": 5, "source": "the paper"},
    }
    assert scores.describe(other, "Ant-v5", 10) == (
        "IQM 12.3 [1.00, 2.00] over 3 seeds after 1,000 steps, on jax:Ant-v5, 5 episodes each; "
        "published: 9,637 after 5 steps (the paper)"
    )
    assert scores.describe(None, "Ant-v5", 10) == "not measured"


def test_every_score_and_anchor_belongs_to_a_preset(monkeypatch):
    monkeypatch.setattr(scores, "SCORES", COMMITTED)
    anchors = tomllib.loads((COMMITTED / "anchors.toml").read_text(encoding="utf-8"))
    for name in algorithms.names():
        path = ROOT / "src" / "polyak" / "presets" / f"{name}.toml"
        presets = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for found in (scores.read(name), anchors.get(name, {})):
            assert found.keys() <= presets.keys()
        for entry in scores.read(name).values():
            assert {"commit", "env", "episodes", "seeds", "steps"} <= entry.keys()
            assert "iqm" in entry or "mean" in entry
    assert {file.stem for file in COMMITTED.glob("*.json")} | anchors.keys() <= set(algorithms.names())

"""`polyak doctor` names why a run does not learn, blames nothing that is sound, and says what a machine lacks."""

import dataclasses
import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import sick_runs
from cases import CASES
from sick_runs import HEALTHY, SICK, Sick

import polyak
from polyak.algorithms import find
from polyak.cli import main
from polyak.errors import UserError
from polyak.health import behaviour, machine, symptoms
from polyak.health.case import Case, Played
from polyak.health.finding import Finding, Report
from polyak.health.run import doctor, facts
from polyak.interface import Box, Discrete, Replay, Spec
from polyak.runs.decide import make_plan
from polyak.runs.folder import STOPPED
from polyak.runs.plan import Settings

# ---- on whole runs


def first_two(name, told, out):
    """Names of the first two findings on a run, and the whole report."""
    report = doctor(sick_runs.train(told, out, name.replace(" ", "-").replace(",", "")))
    return [finding.name for finding in report.findings[:2]], report


@pytest.mark.long
def test_the_cause_is_within_the_first_two_sentences_of_17_of_20_sick_runs(tmp_path):
    missed = {}
    for name, told in SICK.items():
        names, report = first_two(name, told, tmp_path)
        if not told.cause & set(names):
            missed[name] = [finding.name for finding in report.findings]
    print(f"{len(SICK) - len(missed)} of {len(SICK)} causes named; missed: {missed}")
    assert len(SICK) >= 20
    assert len(missed) <= len(SICK) * 3 / 20


@pytest.mark.long
def test_nothing_is_blamed_in_10_healthy_runs(tmp_path):
    assert len(HEALTHY) >= 10
    blamed = {
        name: report.findings
        for name, told in HEALTHY.items()
        if not (report := first_two(name, told, tmp_path)[1]).sound
    }
    assert blamed == {}


def test_a_run_that_an_environment_ended_says_so_first(tmp_path):
    told = sick_runs.told("stopped", "ppo", Sick(how="NaN"), 4_096, data_steps=512, epochs=1)
    names, report = first_two("nan", told, tmp_path)
    assert names[0] == "stopped"
    assert "not finite" in report.findings[0].says
    assert (tmp_path / "nan" / STOPPED).is_file()
    assert report.errors
    alone = doctor(polyak.load(tmp_path / "nan"))  # code that only a folder names is not run
    assert alone.findings[0].name == "stopped"
    assert "its environment was not looked at" in " ".join(finding.says for finding in alone.findings)


def test_a_run_that_stands_still_is_named_from_its_folder_alone(tmp_path, capsys):
    words = (
        "train ppo jax:CartPole-v1 --steps 2048 --name still --no-preset --eval-episodes 2 --config.lr 1e-9"
    )
    words += " --config.data.steps 64 --config.epochs 1 --config.hidden 8 --eval-every 1024"
    assert main([*words.split(), "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "still"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"learning-rate", "stands-still"} & {finding["name"] for finding in said["findings"][:2]}
    assert "--config.lr, now 1e-09" in said["findings"][1]["fix"]
    assert said["facts"]["verdict"].startswith("it does not learn")


# ---- symptom by symptom, on what was made up


def case(
    tmp_path,
    lines=(),
    algorithm="ppo",
    env="jax:CartPole-v1",
    config=None,
    played=None,
    chance=20.0,
    reached=None,
    **settings,
):
    """A case of a run that never was."""
    plan = make_plan(
        algorithm, env, Settings(preset=False, steps=10_000, **settings), config, {}, in_graph=True
    )
    box, discrete = Box((2,), -1.0, 1.0), Discrete(3)
    spec = Spec(Box((4,)), discrete if "discrete" in find(algorithm).actions else box, 200)
    run = SimpleNamespace(plan=plan, path=tmp_path, finished=False, spec=spec, reached=reached)
    by_chance = Played(np.zeros((4, 4)), np.zeros(4), np.zeros(4), [np.full(20, chance / 20)] * 4, [True] * 4)
    return Case(run, list(lines), played=played, random=by_chance)


def log(**metrics):
    """Ten log lines of metrics, each a number or a function of the line's place."""
    return [
        {"env_steps": 1000 * (i + 1), "seed": 0, "updates": 100 * i}
        | {name.replace("__", "/"): value(i) if callable(value) else value for name, value in metrics.items()}
        for i in range(10)
    ]


def seeds(*returns):
    """The last evaluation of each seed."""
    return [{"env_steps": 10_000, "seed": seed, "eval/return": value} for seed, value in enumerate(returns)]


def said_by(symptom, made):
    return [finding.name for _, finding in symptom(made)]


@pytest.mark.parametrize(
    ("symptom", "made", "names"),
    [
        (behaviour.moved, {"lines": log(update__kl=0.3)}, ["large-steps"]),
        (behaviour.moved, {"lines": log(update__kl=0.01)}, []),
        (behaviour.values, {"lines": log(update__explained_variance=-0.4)}, ["value-function"]),
        (behaviour.values, {"lines": log(update__explained_variance=0.6)}, []),
        (symptoms.no_episode, {"lines": log(episode__count=0)}, ["no-end"]),
        (symptoms.no_episode, {"lines": log(episode__count=lambda i: i == 5)}, []),
        (symptoms.grown, {"lines": log(update__value_loss=lambda i: 10.0 ** (2 * i))}, ["diverged"]),
        (symptoms.grown, {"lines": log(update__value_loss=lambda i: 1.0 + i)}, []),
        (symptoms.stopped, {"lines": log(update__kl=lambda i: None if i > 6 else 0.1)}, ["not-finite"]),
        (behaviour.unreached, {"lines": log(episode__return=20.0)}, ["unreached"]),
        (behaviour.unreached, {"lines": log(episode__return=lambda i: 20.0 + i)}, []),
        (symptoms.settings, {"lines": log(eval__length=150.0), "config": {"gamma": 0.5}}, ["short-sighted"]),
        (symptoms.settings, {"lines": log(eval__length=150.0)}, []),
        (behaviour.learning_rate, {"config": {"lr": 0.5}}, ["learning-rate"]),
        (behaviour.learning_rate, {}, []),
        (
            behaviour.without_exploring,
            {"lines": log(eval__return=10.0, episode__return=180.0)},
            ["evaluation"],
        ),
        (behaviour.without_exploring, {"lines": log(eval__return=170.0, episode__return=180.0)}, []),
        (behaviour.improving, {"lines": log(eval__return=lambda i: 20.0 + i)}, ["improving"]),
        (behaviour.improving, {"lines": log(eval__return=lambda i: min(20.0 + 9 * i, 56 + i / 9))}, []),
        (behaviour.uneven, {"lines": seeds(20.0, 150.0, 160.0), "seeds": 3}, ["uneven"]),
        (behaviour.uneven, {"lines": seeds(140.0, 150.0, 160.0), "seeds": 3}, []),
        (behaviour.uneven, {"lines": seeds(10.0, 15.0, 20.0), "seeds": 3}, []),
    ],
)
def test_a_symptom_is_named_and_its_absence_is_not(symptom, made, names, tmp_path):
    assert said_by(symptom, case(tmp_path, **made)) == names


def playing(action, other, reward=1.0):
    count = len(action)
    return Played(
        np.zeros((count, 4), np.float32),
        np.asarray(action),
        np.asarray(other),
        [np.full(count, reward)],
        [True],
    )


def test_what_the_policy_does_is_read_from_its_actions(tmp_path):
    rng = np.random.default_rng(0)
    calm = rng.uniform(-0.5, 0.5, (100, 2))
    bound = np.ones((100, 2))
    td3 = {"algorithm": "td3", "env": "jax:Pendulum-v1"}
    assert said_by(behaviour.exploration, case(tmp_path, played=playing(calm, calm + 1e-3), **td3)) == [
        "no-exploration"
    ]
    assert said_by(behaviour.exploration, case(tmp_path, played=playing(calm, calm + 0.1), **td3)) == []
    assert said_by(behaviour.one_answer, case(tmp_path, played=playing(bound, bound), **td3)) == ["saturated"]
    assert said_by(behaviour.one_answer, case(tmp_path, played=playing(0.3 * bound, bound), **td3)) == [
        "one-action"
    ]
    assert said_by(behaviour.one_answer, case(tmp_path, played=playing(calm, calm), **td3)) == []
    whole = rng.integers(0, 3, 300)
    dqn = {"algorithm": "dqn", "config": {"epsilon_end": 1.0}}
    assert said_by(
        behaviour.exploration, case(tmp_path, played=playing(whole, rng.integers(0, 3, 300)), **dqn)
    ) == ["random"]
    assert said_by(behaviour.exploration, case(tmp_path, played=playing(whole, whole), **dqn)) == [
        "no-exploration"
    ]
    entropies = {"lines": log(update__entropy=1.098), "config": {"entropy": 3.0}}
    assert said_by(behaviour.exploration, case(tmp_path, played=playing(whole, whole), **entropies)) == [
        "uniform"
    ]
    soft = next(c.name for c in CASES if c.squashed and hasattr(find(c.name).Config(), "alpha"))
    hot = {"algorithm": soft, "env": "jax:Pendulum-v1", "played": playing(calm, calm + 0.5)}
    logged = log(update__entropy=1.3, update__alpha=0.2)
    (finding,) = [found for _, found in behaviour.exploration(case(tmp_path, logged, **hot))]
    assert finding.name == "uniform"
    assert finding.fix.startswith("lower --config.alpha")
    assert said_by(behaviour.exploration, case(tmp_path, log(update__entropy=1.3), **hot)) == []
    low = {"lines": log(update__entropy=1e-3)}
    assert said_by(behaviour.exploration, case(tmp_path, played=playing(whole, whole), **low)) == [
        "collapsed"
    ]


def test_a_setting_called_alpha_is_a_temperature_only_where_one_is_logged(tmp_path):
    other = [c.name for c in CASES if hasattr(find(c.name).Config(), "alpha") and not c.squashed]
    assert other
    for name in other:
        made = case(tmp_path, log(update__entropy=1.0), name)
        assert made.temperature == ""
        assert "alpha" not in behaviour.noise_fields(made)


def test_a_run_that_its_evaluation_ended_is_not_told_to_take_more_steps(tmp_path):
    rising = {"lines": log(eval__return=lambda i: 20.0 + i), "stop_at": 28.0}
    (finding,) = [found for _, found in behaviour.improving(case(tmp_path, **rising, reached=9000))]
    assert finding.fix.endswith("--stop-at R, above 28")
    (finding,) = [found for _, found in behaviour.improving(case(tmp_path, **rising))]
    assert finding.fix.endswith("--steps 20000")
    few = [line | {"updates": 3} for line in log()]
    (finding,) = [found for _, found in symptoms.few_updates(case(tmp_path, few, stop_at=28.0, reached=9000))]
    assert finding.fix.endswith(", or raise --stop-at (now 28, which ended the run)")
    (finding,) = [found for _, found in symptoms.few_updates(case(tmp_path, few))]
    assert finding.fix == "lower --config.data.steps (now 2,048), or raise --steps (now 10,000)"


def test_returns_that_are_never_positive_can_be_learned(tmp_path):
    """Random starts spread what chance returns more than a perfect policy can gain."""
    chance = [np.array([r]) for r in (-20.0, -160, -60, -130, -10, -120, -40, -45)]  # -73 +- 51
    made = case(tmp_path, log(eval__return=lambda i: -90.0 + 8.8 * i))
    made.random = dataclasses.replace(made.random, reward=chance, ended=[True] * 8)
    assert made.learned
    made.lines = log(eval__return=-60.0)
    assert not made.learned


def test_whatever_check_env_warns_of_is_named_but_what_no_policy_feels(tmp_path):
    found = [
        Finding("warning", "alias", "says", "fix"),
        Finding("warning", "speed", "says", "fix"),
        Finding("note", "dtype", "says", "fix"),
        Finding("error", "bounds", "says", "fix"),
    ]
    made = dataclasses.replace(case(tmp_path), report=Report("an environment", found))
    assert said_by(behaviour.environment, made) == ["alias", "bounds"]


def test_of_a_run_that_learns_the_faults_of_its_environment_are_named_too(tmp_path):
    made = case(tmp_path, log(eval__return=lambda i: 20.0 + 10 * i))
    assert "environment" not in facts(made, True)
    found = [Finding("warning", "limit-as-end", "says", "fix"), Finding("note", "speed", "says", "fix")]
    made = dataclasses.replace(made, report=Report("an environment", found))
    assert facts(made, True)["environment"] == "limit-as-end: see polyak check-env jax:CartPole-v1"
    assert "environment" not in facts(made, False)  # there it is among the causes


def test_q_far_above_all_returns_is_overestimation(tmp_path):
    calm = np.zeros((50, 2))
    made = {
        "algorithm": "td3",
        "env": "jax:Pendulum-v1",
        "played": playing(calm, calm, -1.0),
        "chance": -20.0,
    }
    assert said_by(behaviour.values, case(tmp_path, lines=log(update__q=300.0), **made)) == ["overestimation"]
    assert said_by(behaviour.values, case(tmp_path, lines=log(update__q=-20.0), **made)) == []


def test_a_run_has_learned_where_it_is_far_above_chance_and_near_its_best(tmp_path):
    assert case(tmp_path, log(eval__return=lambda i: 20.0 + 40 * i)).learned
    assert not case(tmp_path, log(eval__return=21.0)).learned
    assert not case(tmp_path, log(eval__return=lambda i: 200.0 if i == 4 else 20.0)).learned


def test_a_game_and_a_world_that_was_not_made_are_not_held_against_chance(tmp_path):
    made = case(tmp_path, log(eval__return=lambda i: 20.0 + 40 * i))
    assert made.judged
    made.players = 2
    assert not made.judged
    made.players, made.random = 1, None
    assert not made.judged


def test_discounted_returns_are_the_sums_from_each_step():
    one = playing([0, 0, 0], [0, 0, 0])
    assert one.discounted(0.5).tolist() == [1.75, 1.5, 1.0]


def test_settings_of_a_replay_that_cannot_work_are_named(tmp_path):
    small = case(tmp_path, log(eval__length=100.0), "dqn", config={"data.capacity": 64, "data.clip": None})
    assert said_by(symptoms.settings, small)[0] == "small-replay"
    clipped = case(
        tmp_path,
        log(),
        "td3",
        "jax:Pendulum-v1",
        {"data.clip": 0.01},
        playing(np.zeros((9, 2)), np.zeros((9, 2)), -3.0),
    )
    clipped.random.reward[:] = [np.linspace(-9, -1, 20)] * 4
    assert "clipped-reward" in said_by(symptoms.settings, clipped)
    assert isinstance(clipped.cfg.data, Replay)


# ---- the machine


def test_the_machine_is_described_without_drawing(capsys):
    assert main(["doctor", "--no-render", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert {"versions", "driver sees", "JAX sees", "memory", "disk", "programs", "extras"} <= set(facts)
    assert "jax" in facts["versions"]


def test_a_gpu_that_only_the_driver_sees_is_a_warning(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (finding,) = machine.unseen(["NVIDIA H100, 570.1, 80 GB"], "cpu")
    assert finding.level == "warning"
    assert "unset JAX_PLATFORMS" in finding.fix
    assert list(machine.unseen(["NVIDIA H100"], "gpu")) == list(machine.unseen([], "cpu")) == []


def test_what_the_driver_says_is_read_line_by_line(monkeypatch):
    said = SimpleNamespace(stdout="NVIDIA H100, 570.1, 81559 MiB\n\n")
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **how: said)
    assert machine.driver_gpus() == ["NVIDIA H100, 570.1, 81559 MiB"]
    monkeypatch.setattr(
        machine.subprocess,
        "run",
        lambda *args, **how: (_ for _ in ()).throw(subprocess.TimeoutExpired("x", 1)),
    )
    assert machine.driver_gpus() == []


def test_room_cache_modes_and_pictures_that_fail_are_findings(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "free_memory", lambda: 10_000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    assert [finding.name for finding in machine.room()] == ["memory", "disk"]

    def refuse():
        raise UserError("jax_enable_x64 is True")

    monkeypatch.setattr(machine, "check_modes", refuse)
    assert [finding.level for finding in machine.modes()] == ["error"]
    monkeypatch.setattr(machine, "DRAWN", "")
    assert machine.drawn("pygame", "raise ImportError(\"No module named 'pygame'\")")[1][0].fix.startswith(
        "pip install"
    )
    assert machine.drawn("none", "print('(1, 2)')") == ("yes, (1, 2)", [])
    monkeypatch.setenv("POLYAK_CACHE", "off")
    assert "POLYAK_CACHE" in machine.cached()[0]


def test_a_report_says_what_was_found_in_lines_of_a_terminals_width():
    report = Report("run", [Finding("warning", "a", "word " * 60, "do it")], {"fact": "f"})
    assert max(map(len, report.text(70).splitlines())) <= 70
    assert report.text(70).splitlines()[-1] == "1 warning"

"""Stop a run anywhere, kill it at any moment: what comes of it is, bit for bit, the run that was never stopped."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from auditing import QUICK, as_flags, assert_same_bits
from cases import CASE, CASES, FEW, marked

from polyak.errors import CheckpointError, UserError
from polyak.runs import execute, loop
from polyak.runs.run import Run, load, train
from polyak.show.terminal import Terminal
from polyak.store import checkpoint

KILLS = int(os.environ.get("POLYAK_KILLS", "3"))
REPLAY = {"capacity": 90, "batch_size": 8, "warmup": 30, "steps": 2}  # 15 rows of 3 environments, so 14
ROLLOUT = {"steps": 8}
TASKS = [(case.name, case.task(place)) for case in CASES for place in case.places]
N = 3
WEIGHT = "state/inner/inner/policy/net/layers/0/weight"


def config_of(name):
    """What a user would give: small networks, and whatever else makes a run short."""
    small = {
        key: list(value) if isinstance(value, tuple) else value for key, value in CASE[name].small.items()
    }
    cut = {"minibatch": 6} if hasattr(CASE[name].config(), "minibatch") else {}
    windows = {"n_step": 3} if CASE[name].continuous else {}
    return {**small, **cut, "data": CASE[name].data(ROLLOUT, {**REPLAY, **windows})}


def replays(name):
    """Whether a run has a ring."""
    return "capacity" in config_of(name)["data"]


def rows_of(name):
    """Rows of a rollout."""
    return config_of(name)["data"]["steps"]


def stops_of(name):
    """Iterations after which a run stops, and how many it has: in the warm-up, in the middle of episodes, and when
    the ring has wrapped."""
    return ((3, 20, 41), 50) if replays(name) else ((1, 4, 7), 10)


def settings(name, out, run, **more):
    """Three environments, two seeds, both normalisers; log lines and checkpoints at intervals of their own."""
    per = N * rows_of(name)
    return {
        **{"steps": stops_of(name)[1] * per, "seeds": 2, "num_envs": N, "preset": False, "verbose": False},
        **{"eval_every": 5 * per, "eval_episodes": 2, "checkpoint_every": 4 * per},
        **{
            "wrap": ("normalize_reward", "normalize_obs"),
            "out": str(out),
            "name": run,
            "config": config_of(name),
        },
        **more,
    }


@pytest.fixture
def stops(monkeypatch):
    """Iterations after which a run stops as if by Ctrl-C."""
    chosen = set()
    plain = loop.Training._advance

    def advance(self, iterations):
        ahead = [stop - self.iteration for stop in chosen if stop > self.iteration]
        plain(self, min([iterations, *ahead]))
        if self.iteration in chosen:
            self.stop.set()

    monkeypatch.setattr(loop.Training, "_advance", advance)
    return chosen


# ---- in one process


def three_first(name, env):
    """Each of the few in one place in `make check`, in the other in `make test`; of the others see test_drivers.py."""
    if name not in FEW:
        return "long"
    return None if env.startswith("jax:") != CASE[name].continuous else "slow"


@pytest.mark.parametrize(("name", "env"), marked(TASKS, three_first))
def test_a_stopped_and_resumed_run_is_the_run_that_never_stopped(name, env, tmp_path, stops):
    whole = train(name, env, **settings(name, tmp_path, "whole"))
    stops |= set(stops_of(name)[0])
    lengths = []
    for stop in stops_of(name)[0]:
        with pytest.raises(loop.Interrupted):
            train(name, env, **settings(name, tmp_path, "parts"))
        arrays, manifest = checkpoint.read(tmp_path / "parts" / "checkpoints")
        assert manifest["extra"]["iteration"] == stop
        lengths.append(arrays["episodes/length"])
        if replays(name):
            assert manifest["clock"] == stop * rows_of(name)
    assert (np.concatenate(lengths) > 0).any()  # in the middle of episodes
    parts = train(name, env, **settings(name, tmp_path, "parts"))
    assert parts.finished
    assert_same_bits(parts._raw[0], whole._raw[0])
    assert parts._raw[1] == whole._raw[1]
    assert not parts._raw[1].get("inexact")
    assert untimed(parts) == untimed(whole)
    assert parts.digest() == whole.digest()
    if replays(name):
        manifest = checkpoint.read(parts.folder.checkpoints)[1]
        assert manifest["clock"] > 2 * manifest["capacity"]  # the ring has wrapped


PLANNING = [(case.name, case.task("graph")) for case in CASES if not case.places]


@pytest.mark.parametrize(("name", "env"), PLANNING)
def test_a_planner_that_was_stopped_and_resumed_is_the_one_that_never_stopped(name, env, tmp_path, stops):
    config = {**CASE[name].small, "data.updates": 3}
    given = {"seeds": 2, "updates": 60, "eval_every": 30, "eval_episodes": 1, "eval_limit": 20}
    given |= {
        "checkpoint_every": 15,
        "config": config,
        "preset": False,
        "verbose": False,
        "out": str(tmp_path),
    }
    whole = train(name, env, name="whole", **given)
    stops |= {3, 7}
    for stop in (3, 7):
        with pytest.raises(loop.Interrupted):
            train(name, env, name="parts", **given)
        assert checkpoint.read(tmp_path / "parts" / "checkpoints")[1]["extra"]["iteration"] == stop
    parts = train(name, env, name="parts", **given)
    assert parts.finished
    assert_same_bits(parts._raw[0], whole._raw[0])
    assert untimed(parts) == untimed(whole)
    assert parts.digest() == whole.digest()
    assert {(line["env_steps"], line["updates"] % 3) for line in whole.metrics} == {(0, 0)}
    stops.clear()
    half = train(name, env, name="half", **{**given, "updates": 30})
    assert half.resume(updates=60).digest() == whole.digest()


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("dqn", "jax:CartPole-v1"),
        pytest.param("td3", "Pendulum-v1", marks=pytest.mark.slow),
    ],
)
def test_priorities_are_resumed_bit_for_bit(name, env, tmp_path, stops):
    """All levels of the tree, the largest priority and the annealed correction are in the checkpoint."""
    given = config_of(name)
    prioritised = {"priority": 0.6, "correction": [0.4, 1.0, 40], "updates": 2, "n_step": 2}
    config = {**given, "data": {**given["data"], **prioritised}}
    whole = train(name, env, **settings(name, tmp_path, "whole", config=config))
    stops |= set(stops_of(name)[0])
    levels = []
    for _ in stops_of(name)[0]:
        with pytest.raises(loop.Interrupted):
            train(name, env, **settings(name, tmp_path, "parts", config=config))
        arrays = checkpoint.read(tmp_path / "parts" / "checkpoints")[0]
        levels.append([arrays[f"index/priorities/levels/{level}"] for level in range(3)])
    parts = train(name, env, **settings(name, tmp_path, "parts", config=config))
    assert_same_bits(parts._raw[0], whole._raw[0])
    assert parts.digest() == whole.digest()
    newest = levels[-1][0]  # [S, leaves]
    assert len(np.unique(newest)) > 20
    assert (newest[0] != newest[1]).any()  # each seed has its own


@pytest.mark.parametrize(
    ("name", "env"), [("dqn", "jax:CartPole-v1"), pytest.param("td3", "Pendulum-v1", marks=pytest.mark.slow)]
)
def test_frames_are_resumed_bit_for_bit(name, env, tmp_path, stops):
    """The store is in the checkpoint as a stream, whose length is declared."""
    given = config_of(name)
    config = {**given, "data": {**given["data"], "frames": 1}}
    whole = train(name, env, **settings(name, tmp_path, "whole", config=config))
    stops |= set(stops_of(name)[0])
    for _ in stops_of(name)[0]:
        with pytest.raises(loop.Interrupted):
            train(name, env, **settings(name, tmp_path, "parts", config=config))
    parts = train(name, env, **settings(name, tmp_path, "parts", config=config))
    arrays, manifest = checkpoint.read(parts.folder.checkpoints)
    assert [arrays["frames/store/0"].size] == manifest["extra"]["frames"]
    assert_same_bits(parts._raw[0], whole._raw[0])
    assert untimed(parts) == untimed(whole)
    assert parts.digest() == whole.digest()


def untimed(run):
    """The metric lines without what a clock says."""
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in run.metrics]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run that is finished."""
    return train("ppo", "jax:CartPole-v1", **settings("ppo", tmp_path_factory.mktemp("runs"), "one"))


def files_of(path):
    return {p.relative_to(path): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


def test_resuming_a_finished_run_changes_nothing(finished):
    before = files_of(finished.path)
    assert load(finished.path).resume().finished
    assert files_of(finished.path) == before


def test_a_name_that_is_used_again_is_the_same_run_and_with_other_settings_an_error(finished):
    before = files_of(finished.path)
    out = finished.path.parent
    again = train("ppo", "jax:CartPole-v1", **settings("ppo", out, "one"))
    assert again.path == finished.path
    assert files_of(finished.path) == before
    for other in ({"seed": 1}, {"steps": 24}, {"config": {**config_of("ppo"), "gamma": 0.9}}):
        with pytest.raises(UserError, match="choose another --name"):
            train("ppo", "jax:CartPole-v1", **settings("ppo", out, "one", **other))
    assert files_of(finished.path) == before


def test_an_older_checkpoint_is_evaluated_where_the_newest_is_damaged_and_it_says_so(finished, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(finished.path, copied)
    older, newest = checkpoint.complete(copied / "checkpoints")[-2:]
    arrays = newest / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:100])
    run = load(copied)
    with pytest.warns(UserWarning, match=f"{newest.name}.*using the older checkpoint {older.name}"):
        state = run.state()
    want = checkpoint.read(older)[0]
    np.testing.assert_array_equal(state.inner.inner.policy.net.layers[0].weight, want[WEIGHT])
    with pytest.raises(CheckpointError, match=newest.name):
        run.digest()


def test_a_program_of_two_stages_that_stopped_in_the_second_goes_on_there(tmp_path, stops):
    def stages():
        first = train("ppo", "jax:CartPole-v1", **settings("ppo", tmp_path, "first"))
        second = train("ppo", "jax:CartPole-v1", **settings("ppo", tmp_path, "second", seed=7))
        return first.digest(), second.digest()

    want = stages()
    for name in ("first", "second"):
        (tmp_path / name).rename(tmp_path / f"whole-{name}")
    stops |= {13}  # never
    train("ppo", "jax:CartPole-v1", **settings("ppo", tmp_path, "first"))
    before = files_of(tmp_path / "first")
    stops |= {3}
    with pytest.raises(loop.Interrupted):
        stages()
    stops.clear()
    assert stages() == want
    assert files_of(tmp_path / "first") == before


def test_a_run_without_a_checkpoint_begins_at_zero(tmp_path, monkeypatch, finished):
    monkeypatch.setattr(execute, "save_checkpoint", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("ppo", "jax:CartPole-v1", **settings("ppo", tmp_path, "one"))
    monkeypatch.undo()
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    assert lines
    assert checkpoint.latest(tmp_path / "one" / "checkpoints") is None
    assert load(tmp_path / "one").resume().digest() == finished.digest()


def test_a_checkpoint_never_knows_more_than_the_log(tmp_path, stops, monkeypatch):
    seen = []
    plain = execute.save_checkpoint

    def save(folder, training):
        seen.append([line["env_steps"] for line in folder.metrics()][-1:])
        plain(folder, training)

    monkeypatch.setattr(execute, "save_checkpoint", save)
    stops |= {7}
    with pytest.raises(loop.Interrupted):
        train("ppo", "jax:CartPole-v1", **settings("ppo", tmp_path, "one"))
    assert seen[-1] == [7 * 24]


# ---- an environment that cannot be brought back


class Listener(Terminal):
    """A terminal that keeps its warnings."""

    def __init__(self):
        super().__init__(io.StringIO(), live=False)
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_an_environment_that_forgets_is_found_out_and_its_episodes_are_cut(name, tmp_path, stops):
    env = "counting_gym:ForgetfulGym"
    stop = stops_of(name)[0][1]
    stops |= {stop}
    random.seed(3)
    chosen = settings(name, tmp_path, "one", wrap=())
    with pytest.raises(loop.Interrupted):
        train(name, env, **chosen)
    arrays, manifest = checkpoint.read(tmp_path / "one" / "checkpoints")
    running = arrays["episodes/length"].copy()
    episodes = arrays["episodes/number"].copy()
    assert (running > 0).any()
    stops.clear()

    run = Run(tmp_path / "one", env, name)
    session, listener = run.trust(), Listener()
    training = loop.Training(session, listener)
    training.resume(run.folder.checkpoints)
    assert not training.exact
    assert len(listener.warnings) == 1
    assert "consistent, not exact" in listener.warnings[0]
    lanes = training.carry.episodes
    inexact = session.driver.inexact
    assert set(inexact) >= set(np.flatnonzero(running > 0))
    np.testing.assert_array_equal(lanes.length[inexact], 0)
    np.testing.assert_array_equal(lanes.number[inexact], episodes[inexact] + 1)
    if replays(name):
        newest = (manifest["clock"] - 1) % manifest["capacity"]
        rows = training.carry.learner.tree.buffer.rows
        last = np.asarray(rows.truncated | rows.terminated)[:, newest].reshape(-1)
        assert last[inexact].all()
        assert not np.asarray(rows.truncated & rows.terminated).any()
    session.close()

    random.seed(4)
    done = Run(tmp_path / "one", env, name).resume()
    assert done.finished
    assert done._raw[1]["inexact"]
    if replays(name):
        audit_joins(done)


def audit_joins(run):
    """No row of the replay is followed by another episode's, unless it ended there."""
    ring = run.trust().driver.buffer_shape()
    loaded = checkpoint.load(run.folder.checkpoints, None, ring.rows)
    rows, clock, count = loaded.rows, loaded.clock, ring.slots
    slots = np.arange(clock - count, clock) % count
    for seed in range(2):
        obs, next_obs = rows.obs[seed][slots], rows.next_obs[seed][slots]
        last = (rows.terminated | rows.truncated)[seed][slots]
        broken = (obs[1:] != next_obs[:-1]).any(-1) & ~last[:-1]
        assert not broken.any()


# ---- with real processes


def command(*words, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "polyak", *words],
        cwd=cwd,
        env={
            **os.environ,
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {as_flags(QUICK)}",
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def line_of(name, env, iterations, **more):
    """The command line of a small run that saves at every iteration."""
    per = N * rows_of(name)
    words = ["train", name, env, "--no-preset", "--num-envs", str(N), "--seeds", "2"]
    words += ["--steps", str(iterations * per), "--eval-every", str(50 * per), "--eval-episodes", "1"]
    words += ["--checkpoint-every", str(per), "--wrap", "normalize_reward,normalize_obs"]
    for field, value in config_of(name).items():
        for inner, v in value.items() if isinstance(value, dict) else [("", value)]:
            flag = f"--config.{field}" + (f".{inner}" if inner else "")
            words += [flag, *map(str, v if isinstance(v, list) else [v])]
    return words


def wait_for(condition, process, seconds=60.0):
    """Until something is so, or the process has ended."""
    until = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)


def newest(folder):
    path = checkpoint.latest(folder / "checkpoints") if (folder / "checkpoints").is_dir() else None
    return -1 if path is None else int(path.name)


def kill_at_random(process, folder, rng, spread):
    """SIGKILL, at a random moment after the first new checkpoint, or sometimes before; whether it was in time."""
    before = newest(folder)
    if rng.random() < 0.8:
        wait_for(lambda: newest(folder) > before, process)
    time.sleep(rng.random() * spread)
    in_time = process.poll() is None
    process.kill()
    process.communicate()
    return in_time


def two_killed(name, env):
    """Two in `make test`, the others in `make test-long`; POLYAK_KILLS says how often."""
    return "slow" if (name, env) in (("td3", "jax:Pendulum-v1"), ("dqn", "CartPole-v1")) else "long"


@pytest.mark.parametrize(("name", "env"), marked(TASKS, two_killed))
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_never_was(name, env, tmp_path):
    iterations = 400
    words = line_of(name, env, iterations)
    whole = command(*words, "--name", "whole", cwd=tmp_path)
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    rng, killed, writing = random.Random(f"{name} {env}"), 0, 0
    folder = tmp_path / "runs" / "parts"
    process = command(*words, "--name", "parts", cwd=tmp_path)
    while killed < KILLS:
        assert kill_at_random(process, folder, rng, 0.2), "the run is too short for so many kills"
        killed += 1
        writing += any(p.name.startswith(".tmp") for p in folder.glob("checkpoints/**/*"))
        go_on = (
            ["resume", "runs/parts"] if (folder / "config.json").is_file() else [*words, "--name", "parts"]
        )
        process = command(*go_on, cwd=tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "consistent, not exact" not in errors
    print(f"{name} {env}: {killed} kills, {writing} of them while a checkpoint was written")
    ends = [load(tmp_path / "runs" / which) for which in ("whole", "parts")]
    assert_same_bits(ends[1]._raw[0], ends[0]._raw[0])
    assert untimed(ends[1]) == untimed(ends[0])
    assert ends[1].digest() == ends[0].digest()


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on_and_a_finished_run_is_left_alone(tmp_path):
    words = line_of("ppo", "jax:CartPole-v1", 3000)
    process = command(*words, "--name", "one", cwd=tmp_path)
    folder = tmp_path / "runs" / "one"
    wait_for(lambda: newest(folder) > 0, process)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert said.rstrip().endswith("go on with: polyak resume runs/one")
    assert "Traceback" not in errors
    steps = newest(folder)
    assert 0 < steps < 3000 * 24
    manifest = json.loads((checkpoint.latest(folder / "checkpoints") / "manifest.json").read_text())
    assert manifest["env_steps"] == steps

    again = command("resume", "runs/one", cwd=tmp_path)
    wait_for(lambda: newest(folder) > steps, again)
    again.send_signal(signal.SIGINT)
    said, _ = again.communicate(timeout=60)
    assert f"resumed at step {steps:,}" in said
    assert again.returncode == 130


@pytest.mark.slow
def test_resuming_a_finished_run_from_the_command_line_exits_0_and_changes_nothing(tmp_path, finished):
    before = files_of(finished.path)
    process = command("resume", str(finished.path), cwd=tmp_path)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "already finished: 240 steps" in said
    assert files_of(finished.path) == before

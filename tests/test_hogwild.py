"""Workers that are processes: one is a sequential run bit for bit, two share what they learn, none outlives its run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import polyak
from polyak.algorithms import find, names
from polyak.drivers.finding import own_seed
from polyak.drivers.shared import Shared
from polyak.errors import CheckpointError, EnvironmentFault, UserError
from polyak.interface import Clock
from polyak.runs.reading import read_counts

NAME = next(name for name in names() if find(name).gradient)
SMALL = {"hidden": (8,), "data": {"steps": 4}}


@pytest.fixture
def shared():
    """Memory for one seed's weights [1, 3], a count and a clock; two workers, four rows an update."""
    number = np.zeros((), np.int32)
    states = {
        "w": np.zeros((1, 3), np.float32),
        "n": np.zeros(1, np.int32),
        "clock": Clock(np.uint32(0), number, number),
    }
    made = Shared(jax.eval_shape(lambda: states), 2, 4)
    yield made
    made.close(forget=True)


def test_an_update_alone_leaves_its_own_bits_and_two_at_once_add_up(shared):
    """0.1 + (0.7 - 0.1) is not 0.7 in float32: what nobody else moved is the update's own number."""
    old = np.array([[0.1, 0.2, 0.3]], np.float32)
    states = shared.tree([np.zeros(1, np.int32), old], 0)
    assert states["w"] is old
    shared.write(states)
    before = shared.read()
    new = [np.ones(1, np.int32), np.array([[0.7, 0.2, 0.9]], np.float32)]
    shared.add(before, new)
    assert [x.tobytes() for x in shared.read()] == [x.tobytes() for x in new]
    shared.add(
        before, [np.ones(1, np.int32), np.array([[0.2, 0.2, 0.3]], np.float32)]
    )  # it read the old ones too
    np.testing.assert_allclose(shared.read()[1], [[0.8, 0.2, 0.9]], rtol=1e-6)
    assert shared.read()[0] == 2


def test_another_process_would_see_the_same_memory(shared):
    other = Shared(
        {"w": shared.parts[1], "n": shared.parts[0], "clock": Clock(0, 0, 0)}, 2, 4, shared.block.name
    )
    shared.views[1][...] = 5
    other.count[0] = 7
    assert (other.read()[1] == 5).all()
    assert shared.count[0] == 7
    other.close()


def test_the_clock_is_that_of_the_number_of_updates(shared):
    assert shared.clock(0) == Clock(0, 0, 0)
    assert shared.clock(5) == Clock(5, 20, 0)
    shared.count[1] = 3  # set back after three
    assert shared.clock(5) == Clock(5, 8, 0)
    assert shared.clock(2**30) == Clock(2**30, (2**30 - 3) * 4 % 2**30, 3)


def test_workers_have_seeds_of_their_own_and_the_first_the_runs():
    assert own_seed(7, 0) == 7
    assert len({own_seed(seed, worker) for seed in range(50) for worker in range(50)}) == 2500


def trained(folder, name, env="CartPole-v1", **said):
    """A small run."""
    usual = {"steps": 240, "eval_every": 0, "checkpoint_every": 120, "config": SMALL, "preset": False}
    return polyak.train(NAME, env, out=str(folder), name=name, verbose=False, **{**usual, **said})


def arrays(run):
    """All that was learned, by name."""
    from safetensors.numpy import load_file

    last = max((run.path / "checkpoints").glob("[0-9]*"))
    found = {}
    for file in last.glob("*.safetensors"):
        found |= {name: x for name, x in load_file(file).items() if name.startswith("state")}
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_as_used")  # as in the process that is started
def test_one_process_learns_what_no_process_would_bit_for_bit(tmp_path):
    """In its own process, over a checkpoint, and with two environments."""
    want = arrays(trained(tmp_path, "plain", num_envs=2))
    got = arrays(trained(tmp_path, "one", num_envs=2, sync="hogwild", workers=1))
    assert want.keys() == got.keys()
    assert want
    for name, value in want.items():
        assert got[name].tobytes() == value.tobytes(), name


@pytest.mark.long
def test_two_processes_share_the_work_are_saved_and_resumed(tmp_path):
    run = trained(tmp_path, "two", num_envs=2, sync="hogwild", workers=2)
    lines = [line for line in run.metrics if "actor/staleness" in line]
    assert sum(line["episode/count"] for line in lines) > 0
    assert lines[-1]["env_steps"] == 240
    np.testing.assert_allclose(sum(lines[-1].get(f"actor/staleness_{b}", 0) for b in range(32)), 1)
    clock = {name: int(x) for name, x in arrays(run).items() if "clock" in name}
    assert sorted(clock.values()) == [0, 60, 240]  # updates of both, and steps in two words
    heard = subprocess.run(
        [sys.executable, "-m", "polyak", "resume", str(run.path), "--steps", "480"],
        capture_output=True,
        text=True,
    )
    assert heard.returncode == 0, heard.stderr
    assert "consistent, not exact" in heard.stdout + heard.stderr
    again = polyak.load(run.path)
    assert sorted(int(x) for name, x in arrays(again).items() if "clock" in name) == [0, 120, 480]


LONG = [
    "--steps",
    "100000000",
    "--eval-every",
    "0",
    "--checkpoint-every",
    "1000",
    "--no-preset",
    "--name",
    "run",
]
WILD = ["--sync", "hogwild", "--workers", "2", "--num-envs", "2", "--config.hidden", "8"]


def children(pid):
    """Processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def going(tmp_path):
    """A run in its own process that has written a checkpoint, and the processes of its workers."""
    command = [
        sys.executable,
        "-m",
        "polyak",
        "train",
        NAME,
        "CartPole-v1",
        *LONG,
        *WILD,
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/*/COMPLETE")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    workers = [pid for pid in children(process.pid) if b"resource_tracker" not in cmdline(pid)]
    yield process, workers
    if process.poll() is None:
        process.kill()
    process.wait()


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def gone(pids, seconds=10.0):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_run(going, how):
    process, workers = going
    assert len(workers) == 2
    os.kill(process.pid, how)
    said = process.communicate(timeout=60)[0]
    assert gone(workers)
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert "polyak resume" in said


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_a_worker_that_is_killed_ends_the_run_in_one_line(going):
    process, workers = going
    os.kill(workers[0], signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "its process was killed by SIGKILL; what was saved stays" in said.splitlines()[-1]
    assert gone(workers)


@pytest.mark.parametrize(
    ("algorithm", "said", "wanted"),
    [
        (NAME, {"sync": "hogwild", "wrap": ("normalize_obs",)}, "leave --wrap normalize_obs out"),
        (NAME, {"sync": "hogwild", "vectorization": "async"}, "leave --vectorization at sync"),
        (NAME, {"sync": "hogwild", "config": {"network": "noisy"}}, "choose another --config.network"),
        (NAME, {"sync": "async", "workers": 3, "num_envs": 4}, "give a multiple of --workers"),
        (NAME, {"workers": 3}, "by --sync lockstep"),
        ("dqn", {"sync": "async", "workers": 2}, "has no gradient that workers could send: " + NAME),
    ],
)
def test_what_cannot_be_is_said_in_one_line(algorithm, said, wanted, tmp_path):
    with pytest.raises(UserError, match=wanted) as error:
        polyak.train(
            algorithm, "CartPole-v1", steps=100, out=str(tmp_path), verbose=False, preset=False, **said
        )
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, EnvironmentFault)
    assert not list(tmp_path.glob("*/config.json"))


@pytest.mark.parametrize(
    "driver",
    [
        {"workers": 3},
        {"workers": [3]},
        {"workers": [{"iteration": 2, "steps": 1, "more": 1}]},
        {"workers": [{"iteration": 1, "steps": 1}]},
        {"workers": [{"iteration": 2, "steps": 10**12}]},
    ],
)
def test_counts_of_workers_that_do_not_fit_are_damage(driver):
    arrays = {"workers/0/episodes/actions": np.zeros((1, 2))}
    said = {"iteration": 2, "base": 0, "said": [], "inexact": False}
    fine = {"workers": [{"iteration": 2, "steps": 1}, {}]}
    assert read_counts({**said, "driver": fine}, 20, arrays, 10, Path("x")).driver == fine
    with pytest.raises(CheckpointError, match="field 'driver' is missing or wrong"):
        read_counts({**said, "driver": driver}, 20, arrays, 10, Path("x"))


def test_a_plan_keeps_how_workers_meet(tmp_path):
    run = trained(tmp_path, "step", num_envs=4, sync="lockstep", workers=2, steps=64)
    assert json.loads((run.path / "config.json").read_text())["plan"]["workers"] == 2
    assert run.metrics[-1]["actor/staleness"] == 0
    assert len(run.evaluate(2).returns) == 1

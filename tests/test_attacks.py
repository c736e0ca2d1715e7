"""What a run folder from a stranger, a bad moment or an environment that misbehaves can do: nothing but an error.

The seven kinds in short; `make torture` is their long form. What else is held elsewhere is named where its kind is.
"""

import contextlib
import errno
import functools
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from attacks import Watch, canary, copied, edit_config, edit_manifest, in_graph, on_host
from misbehaving import GIVES, RAISES, Bad
from small_runs import small_ppo

from polyak import cli, files
from polyak.cli import main
from polyak.envs.adapters.in_process import GymnasiumSync
from polyak.envs.adapters.processes import GymnasiumAsync
from polyak.envs.find import find
from polyak.envs.trust import harmless, names_to_trust
from polyak.errors import CheckpointError, EnvironmentFault, UserError, brief, printable
from polyak.runs import execute, guards
from polyak.runs.folder import Metrics, RunFolder, read_line
from polyak.runs.run import load, train
from polyak.show.terminal import silent
from polyak.signals import listening
from polyak.store import checkpoint, storage

WATCH = Watch()
CODE = "import pathlib; pathlib.Path('EXECUTED').touch()\n"


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return in_graph(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return on_host(tmp_path_factory.mktemp("host"))


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run a command that must be refused in one short, printable line; the line."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        with WATCH.over(tmp_path):
            code = main([str(word) for word in words])
        said = capsys.readouterr().err
        assert code == 2, said
        line = said.splitlines()[-1]
        assert line.startswith("polyak: ")
        assert line.isprintable()
        assert len(line) < 1500
        assert "Traceback" not in said
        assert WATCH.executed == []
        assert WATCH.outside == []
        return line

    return run


# ---- 1: no string of a file is code


@pytest.mark.parametrize("name", ["pgx:x", "brax:x", "jax:x", "hostile:x", "object:x"])
@pytest.mark.parametrize("command", ["evaluate", "resume", "watch"])
def test_an_algorithm_with_a_colon_is_code_whatever_stands_before_it(name, command, graph, tmp_path, refused):
    module = name.partition(":")[0]
    if module != "jax":
        (tmp_path / f"{module}.py").write_text(CODE)
    folder = copied(graph, tmp_path / "run")
    edit_config(folder, ["plan", "algorithm"], name)
    assert f"--trust {name}" in refused(command, folder) or command == "evaluate"
    assert "names code to import" in refused(
        command, folder, *(["--steps", 960] if command == "resume" else [])
    )
    assert not (tmp_path / "EXECUTED").exists()


def test_an_environment_of_a_module_is_imported_only_if_trusted(graph, tmp_path, refused):
    (tmp_path / "hostile.py").write_text(CODE)
    folder = copied(graph, tmp_path / "run")
    edit_config(folder, ["plan", "env"], "hostile:x")
    assert "--trust hostile:x" in refused("resume", folder, "--steps", 960)
    edit_config(folder, ["plan", "env"], "GymV26Environment-v0")
    assert "--trust GymV26Environment-v0" in refused("evaluate", folder)
    assert not (tmp_path / "EXECUTED").exists()


def test_settings_of_an_environment_from_a_file_are_numbers_or_words_of_a_list(graph, tmp_path, refused):
    folder = copied(graph, tmp_path / "run")
    edit_config(folder, ["plan", "env"], "envpool:D1Basic-v1")
    edit_config(folder, ["plan", "env_fields"], {"vzd_path": "/bin/touch", "frame_skip": 4})
    line = refused("evaluate", folder)
    assert "--trust env.vzd_path" in line
    assert "frame_skip" not in line
    edit_config(folder, ["plan", "env_fields"], {})
    edit_config(folder, ["plan", "eval_env_fields"], {"game_args": "+exec x", "a; rm -rf ~": "b"})
    line = refused("watch", folder)
    assert "--trust eval-env.game_args" in line
    assert "--trust 'eval-env.a; rm -rf ~'" in line
    assert names_to_trust("gymnax:MNISTBandit-bsuite", {}) == ["gymnax:MNISTBandit-bsuite"]


@pytest.mark.parametrize(
    ("name", "value", "fine"),
    [
        ("gravity", 9.81, True),
        ("is_slippery", True, True),
        ("map_name", "8x8", True),
        ("desc", ["SFFF", "FHFG"], True),
        ("max_episode_steps", 1_000_000, True),
        ("limit", None, True),
        ("xml_file", "ant.xml", False),
        ("map_name", "../x", False),
        ("task_name", "/etc/passwd", False),
        ("task_name", "-x", False),
        ("frame_skip", 2**31, False),
        ("gravity", 1e300, False),
        ("maze_map", [[[[[1]]]]], False),
        ("sizes", [1] * 100_000, False),
        ("kwargs", {"a": 1}, False),
    ],
)
def test_harmless_settings_choose_or_measure(name, value, fine):
    assert harmless(name, value) is fine


def test_a_trusted_setting_is_followed_and_the_command_to_go_on_trusts_it(tmp_path):
    settings = {"steps": 16, "config": {"data.steps": 8, "minibatch": 8, "hidden": (4,)}, "eval_every": 0}
    made = train(
        "ppo", "FrozenLake-v1", env_fields={"map_name": "4x4", "max_episode_steps": 20_000_000_000 // 10},
        verbose=False, preset=False, out=str(tmp_path), name="one", **settings,
    )  # fmt: skip
    assert made.plan.to_trust == []
    edit_config(made.path, ["plan", "env_fields"], {"map_name": "4x4", "success_rate": 1e12})
    with pytest.raises(UserError, match=r"--trust env\.success_rate"):
        load(made.path).trust()
    load(made.path, trust=["env.success_rate"]).trust()


# ---- 2: no file leads out of the folder

PLACES = [".metrics.jsonl", ".config.json", ".curve.png", "lock", "metrics.jsonl", "curve.png", "videos"]


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_written_through_what_stands_in_a_files_place(
    place, kind, graph, tmp_path, capsys, monkeypatch
):
    folder, mine = copied(graph, tmp_path / "run"), canary(tmp_path)
    monkeypatch.chdir(tmp_path)
    target = folder / place
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    match kind:
        case "link":
            target.symlink_to(tmp_path if place == "videos" else mine)
        case "hard link":
            os.link(mine, target)
        case "pipe":
            os.mkfifo(target)
        case "folder":
            target.mkdir()
    said = []
    with WATCH.over(folder):
        run = load(folder)
        for write in (
            lambda: run.folder.replan(run.plan, 0),
            lambda: run.folder.keep(run.metrics),
            lambda: add_line(run.folder),
            lambda: draw_quietly(run.folder),
            lambda: files.make_folder(folder / "videos"),
        ):
            try:
                with run.folder.held():
                    write()
            except UserError as error:
                said.append(str(error))
    assert all(len(line.splitlines()) == 1 for line in said)
    assert WATCH.outside == []
    assert mine.read_text() == "mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious.txt", "run"]
    left = {path.name for path in folder.iterdir() if path.name.startswith(files.TEMPORARY)}
    assert not left


def add_line(folder):
    metrics = Metrics(folder, 16)
    metrics.write({"env_steps": 16, "seed": 0, "eval/return": 1.0})
    metrics.close()


def draw_quietly(folder):
    execute.draw(folder, silent())


def test_temporaries_have_names_that_nobody_guesses_and_go_where_writing_fails(tmp_path):
    seen = set()
    for _ in range(20):
        with contextlib.suppress(RuntimeError), files.replacing(tmp_path / "curve.png") as temporary:
            seen.add(temporary.name)
            assert stat.S_ISREG(temporary.lstat().st_mode)
            raise RuntimeError
    assert len(seen) == 20
    assert all(len(name) > 20 and name.endswith(".png") for name in seen)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_swept_by_the_next_writer(graph, tmp_path):
    folder = copied(graph, tmp_path / "run")
    (folder / ".tmp-0123.png").write_text("half")
    (folder / ".tmp-link").symlink_to(canary(tmp_path))
    with RunFolder(folder).held():
        pass
    assert not [path for path in folder.iterdir() if path.name.startswith(".tmp-")]
    assert (tmp_path / "precious.txt").read_text() == "mine\n"


def test_tensorboard_reads_what_is_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    folder = RunFolder(tmp_path)
    add_line(folder)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        body = data[12 : 12 + length]
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        assert int.from_bytes(data[12 + length : 16 + length], "little") == masked_crc32c(body)
        events.append(Event.FromString(body))
        data = data[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert events[1].session_log.status == 1
    assert events[-1].summary.value[0].tag == "eval/return/seed_0"
    assert events[-1].summary.value[0].simple_value == 1.0


# ---- 3: bounded by what the arrays declare

TOO_MUCH = {
    "layers": (["plan", "config", "hidden"], [8] * 40_000),
    "width": (["plan", "config", "hidden"], [2**40]),
    "rows": (["plan", "config", "data", "steps"], 10**15),
    "seeds": (["plan", "seeds"], 10_000),
    "environments": (["plan", "num_envs"], 500_000),
    "episodes": (["plan", "eval_episodes"], 10**12),
    "wrappers": (["plan", "wrap"], ["normalize_obs"] * 5_000),
    "measures": (["plan", "measures"], ["x"] * 5_000),
    "steps": (["plan", "steps"], 10**400),
    "nested": (["plan", "config", "data"], {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}),
}


@pytest.mark.parametrize("what", TOO_MUCH)
@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_plan_that_asks_for_more_than_its_arrays_is_refused_at_once(
    what, command, graph, tmp_path, refused, monkeypatch
):
    from polyak.drivers import in_graph as driver

    folder = copied(graph, tmp_path / "run")
    edit_config(folder, *TOO_MUCH[what])
    if what != "steps" and command == "resume":
        edit_config(folder, ["plan", "steps"], 960)
    if (what, command) == ("rows", "evaluate"):
        return  # which makes no rollout
    made = []
    monkeypatch.setattr(driver.InGraph, "compile", lambda *_: made.append("compiled"))
    refused(command, folder)
    assert made == []


def test_metrics_are_read_line_by_line_and_refused_above_a_size_that_is_said(graph, tmp_path):
    folder = copied(graph, tmp_path / "run")
    with open(folder / "metrics.jsonl", "ab") as file:
        file.truncate(200 << 20)  # of which the disk holds nothing
    with pytest.raises(CheckpointError, match=r"has 209,715,200 bytes, at most 134,217,728 are read"):
        _ = load(folder).metrics
    assert RunFolder(folder).evaluated(48, 2)


# ---- 4: a wrong value is a CheckpointError

WRONG = [
    *(
        (["extra", name], value)
        for name in ("iteration", "base")
        for value in (None, "3", -1, 2**31, 10**400, 2.5)
    ),
    (["extra", "driver"], None),
    (["extra", "driver"], {"iteration": 12, "steps": -1}),
    (["extra", "driver", "steps"], 10**9),
    (["extra", "driver", "iteration"], "12"),
    (["extra", "said"], "abc"),
    (["extra", "inexact"], None),
    (["extra", "spec"], None),
    (["extra", "spec", "num_envs"], 0),
    (["extra", "spec", "time_limit"], 20.5),
    (["extra", "spec", "measures"], {"a": "worst"}),
    (["extra", "spec", "obs", "box", "shape"], [-4]),
    (["extra", "spec", "obs", "box", "shape"], [10**12]),
    (["extra", "spec", "obs", "box", "low"], 10**400),
    (["extra", "spec", "obs", "box", "dtype"], "object"),
    (["extra", "spec", "action"], {"box": {"shape": [1], "low": -1.0, "high": 1.0, "dtype": "float32"}}),
    (["extra", "border"], None),
    (["env_steps"], "48"),
    (["clock"], 2**62),
]


@pytest.mark.parametrize(
    ("way", "value"), WRONG, ids=lambda x: "-".join(map(str, x)) if isinstance(x, list) else brief(x, 12)
)
def test_a_wrong_value_in_a_manifest_is_one_line(way, value, host, tmp_path, refused):
    folder = copied(host, tmp_path / "run")
    edit_config(folder, ["plan", "steps"], 96)
    edit_manifest(folder, way, value)
    if way[-1] != "border":  # a resume asks the environment for its own
        refused("resume", folder)
    if way[0] == "env_steps" or way[1:2] in (["spec"], ["border"]):
        run = load(folder)
        with pytest.raises(CheckpointError):
            run.policy()


def test_running_episodes_that_do_not_fit_their_actions_are_refused(host, tmp_path, refused):
    folder = copied(host, tmp_path / "run")
    edit_config(folder, ["plan", "steps"], 96)
    newest = checkpoint.latest(folder / "checkpoints")
    arrays = storage.read_arrays(newest / "arrays.safetensors")
    for wrong in (
        arrays["episodes/length"] + 5,
        arrays["episodes/length"] * 0 - 1,
        arrays["episodes/length"] * 0 + 2**60,
    ):
        sha256 = storage.write_arrays(newest / "arrays.safetensors", {**arrays, "episodes/length": wrong})
        edit_manifest(folder, ["sha256"], sha256)
        assert "episode" in refused("resume", folder)


PLANS = [
    *(
        (name, value)
        for name in ("steps", "seed", "seeds", "num_envs")
        for value in (None, "x", -1, 2.5, 2**70, [], {})
    ),
    ("algorithm", "nothing"),
    ("algorithm", 3),
    ("algorithm", "../../x"),
    ("env", "jax:nothing"),
    ("env", "\x1b[31mred"),
    ("driver", "spark"),
    ("workers", 10**9),
    ("lag", 7),
    ("lockstep", "x"),
    ("driver", []),
    ("deadline", 10**400),
    ("wrap", ["\x1b]0;title\x07"]),
    ("measures", [None]),
    ("config", []),
    ("config", {"\x1b[2J": 1}),
    ("config", {"lr": "nan"}),
    ("config", {"lr": 10**400}),
    ("config", {"hidden": "a"}),
    ("config", {"data": {"steps": -1}}),
    ("env_fields", []),
    ("eval_env_fields", 3),
    ("strict_spaces", 10**100),
]


@pytest.mark.parametrize(("name", "value"), PLANS, ids=lambda x: brief(x, 16))
def test_a_wrong_value_in_a_plan_is_one_line(name, value, graph, tmp_path, refused):
    folder = copied(graph, tmp_path / "run")
    edit_config(folder, ["plan", name], value)
    refused("evaluate", folder)


def test_lines_of_metrics_that_are_no_metrics_are_left_out(graph, tmp_path):
    folder = copied(graph, tmp_path / "run")
    sound = load(folder).metrics
    hostile = [
        "null", "[]", "{", "1" * 5000, "[" * 100_000, '{"env_steps": 3}', '{"env_steps": -1, "seed": 0}',
        '{"env_steps": 1, "seed": true}', '{"env_steps": 1e400, "seed": 0}', "\x1b[31m", '"x"' * 9,
    ]  # fmt: skip
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("\n".join(hostile) + "\n")
    assert load(folder).metrics == sound
    assert read_line(
        b'{"env_steps": 1, "seed": 0, "a/b": NaN, "c/d": "x", "e/f": 1' + b"0" * 400 + b', "g/h": 2}'
    ) == {
        "env_steps": 1,
        "seed": 0,
        "g/h": 2,
    }
    draw_quietly(RunFolder(folder))
    assert (folder / "curve.png").stat().st_size > 1000


def test_a_finished_run_whose_newest_checkpoint_is_damaged_is_repaired(host, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = copied(host, tmp_path / "run")
    arrays = checkpoint.latest(folder / "checkpoints") / "arrays.safetensors"
    whole, data = load(folder).digest(), bytearray(arrays.read_bytes())
    data[-10] ^= 1
    arrays.write_bytes(data)
    assert not load(folder).finished
    assert main(["resume", str(folder)]) == 0
    said = capsys.readouterr()
    assert "using the older checkpoint" in said.err
    assert load(folder).finished
    assert load(folder).digest() == whole


def test_lines_for_people_are_short_and_printable():
    text = printable("a\x1b[31mb\n\tc\u202ed" + "x" * 10_000)
    assert text.startswith("a\\x1b[31mb c\\u202ed")
    assert len(text) == 1000
    assert text.isprintable()
    assert brief([1] * 1000, 20).endswith("...")


# ---- 5: signals and pipes. One writer: test_runs.py, `test_a_folder_has_one_writer...`; SIGKILL at random moments:
# test_resume.py, `test_a_run_that_is_killed_at_random_moments...`; Ctrl-C: there and in test_cli.py.

LONG = ["train", "ppo", "jax:CartPole-v1", "--steps", "1e6", "--eval-every", "0", "--checkpoint-every", "16"]
LONG += ["--no-preset", "--config.data.steps", "8", "--config.minibatch", "8", "--config.epochs", "1"]
LONG += ["--config.hidden", "4", "--name", "run"]


def at_first_save(monkeypatch, happens):
    """Let something happen when a run saves for the first time."""
    save = execute.save_checkpoint

    def saving(*args):
        monkeypatch.setattr(execute, "save_checkpoint", save)
        happens()
        save(*args)

    monkeypatch.setattr(execute, "save_checkpoint", saving)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_says_how_to_go_on(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(getattr(signal, name))
    at_first_save(monkeypatch, lambda: os.kill(os.getpid(), getattr(signal, name)))
    assert main(LONG) == 130
    said = capsys.readouterr()
    assert said.out.rstrip().endswith("saved; go on with: polyak resume runs/run")
    assert said.err.count("\n") <= 1
    assert checkpoint.is_sound(checkpoint.latest(tmp_path / "runs" / "run" / "checkpoints"))
    assert signal.getsignal(getattr(signal, name)) is before


class Pipe(io.StringIO):
    """A stdout whose reader leaves, or whose disk is full, after so many lines."""

    def __init__(self, lines, code):
        super().__init__()
        self.left, self.code = lines, code

    def write(self, text):
        self.left -= text.count("\n")
        if self.left < 0:
            raise OSError(self.code, os.strerror(self.code))
        return super().write(text)


@pytest.mark.parametrize("code", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_run_whose_reader_leaves_saves_and_ends_honestly(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", Pipe(6, code))
    assert main(LONG) == 130
    said = capsys.readouterr().err
    assert "nobody reads the output: saved; go on with: polyak resume runs/run" in said
    assert "Traceback" not in said
    assert checkpoint.is_sound(checkpoint.latest(tmp_path / "runs" / "run" / "checkpoints"))


def test_a_command_that_did_not_do_its_work_does_not_exit_0(graph, tmp_path, monkeypatch, capsys):
    for words, code, expected in (
        (["digest", str(graph.path)], errno.EPIPE, 141),
        (["list"], errno.EPIPE, 0),
        (["list"], errno.ENOSPC, 2),
    ):
        monkeypatch.setattr(sys, "stdout", Pipe(0, code))
        assert main(words) == expected
        monkeypatch.undo()
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_is_heard_where_it_is_swallowed(monkeypatch, capsys):
    def swallows(said, options):
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return 0

    def breaks(said, options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except BaseException:
            raise SystemError("initialization failed") from None

    for call in (swallows, breaks):
        monkeypatch.setitem(cli.COMMANDS, "list", cli.COMMANDS["list"]._replace(call=call))
        assert main(["list"]) == 130
        assert capsys.readouterr().err == "polyak: stopped\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def command(*words, cwd, **more):
    """The command line in a process group of its own."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-m", "polyak", *words], cwd=cwd, env=env, **pipes, **more)


def test_sigterm_to_all_processes_of_a_run_saves_it(tmp_path):
    words = ["CartPole-v1" if word == "jax:CartPole-v1" else word for word in LONG]
    process = command(*words, "--vectorization", "async", "--num-envs", "2", cwd=tmp_path)
    kept = tmp_path / "runs" / "run" / "checkpoints"
    until = time.monotonic() + 60
    while (
        not (kept.is_dir() and checkpoint.latest(kept))
        and process.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "saved; go on with: polyak resume runs/run" in said
    assert "fault" not in errors
    assert checkpoint.is_sound(checkpoint.latest(kept))
    until = time.monotonic() + 10
    while is_there(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_there(process.pid)


ORPHANS = """
import functools, sys
from misbehaving import Bad
from polyak.envs.adapters.processes import GymnasiumAsync
if __name__ == "__main__":
    hows = [functools.partial(Bad, sys.argv[1], at=1)] * 2
    envs = GymnasiumAsync(hows, deadline=60.0)
    print(*(process.pid for process in envs._vector.processes), flush=True)
    envs.reset([0, 1], [0, 1])
    envs.step([0, 0])
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a worker that holds Python's lock outlives its parent"
)
def test_workers_that_hang_die_with_their_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))),
    }
    parent = subprocess.Popen(
        [sys.executable, script, "hang in C"], stdout=subprocess.PIPE, text=True, env=env
    )
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(1.0)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def is_there(group):
    """Whether any process of a group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- 6: disks


def test_a_disk_that_is_full_or_read_only_is_one_line_wherever_it_is_met(
    graph, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder, places = copied(graph, tmp_path / "run"), set()
    edit_config(folder, ["plan", "steps"], 96)
    for words, function, code in (
        (["resume", "run"], "fsync", errno.ENOSPC),
        (["resume", "run"], "replace", errno.EROFS),
        (["resume", "run"], "write", errno.EDQUOT),
        (["resume", "run"], "mkdir", errno.ENOSPC),
        (["watch", "run"], "mkdir", errno.EROFS),
        (["watch", "run", "--out", "a.gif"], "replace", errno.ENOSPC),
        ([*LONG, "--out", "other"], "mkdir", errno.EACCES),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing(getattr(os, function), tmp_path, code, places))
            assert main(words) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("polyak:")]
        assert len(said) == 1, said
        assert os.strerror(code) in said[0]
    assert len(places) >= 5


def failing(function, folder, code, places):
    """A call of the system that fails below a folder, whatever it is given."""

    def call(what, *args, **options):
        path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.path.abspath(what)
        if path.startswith(str(folder)):
            places.add((function.__name__, os.path.basename(path)[:8]))
            raise OSError(code, os.strerror(code))
        return function(what, *args, **options)

    return call


# ---- 7: environments. In workers: test_adapters.py; bad values in training: test_faults.py


@pytest.mark.parametrize("where", ["reset", "step", "close"])
@pytest.mark.parametrize("how", RAISES)
def test_whatever_an_environment_raises_is_its_fault_in_one_line(how, where):
    envs = GymnasiumSync(functools.partial(Bad, how, where, 2 if where == "reset" else 1), 2)
    calls = [lambda: envs.reset([0, 1], [7, 8])]
    calls += [] if where == "close" else [lambda: envs.step(np.zeros(2, int)), *calls]
    said = []
    with listening():
        for call in [*calls, envs.close]:
            try:
                call()
            except EnvironmentFault as fault:
                said.append(str(fault))
    (line,) = said
    assert line.startswith(f"environment 0: {where} ")
    assert line.isprintable()


def test_a_persons_ctrl_c_in_an_environment_stays_theirs():
    envs = GymnasiumSync(functools.partial(Bad, "interrupt", at=1), 1)
    envs.reset([0], [0])
    with pytest.raises(KeyboardInterrupt):  # Python's own handler: it may well have been a person
        envs.step(np.zeros(1, int))


def test_workers_say_what_was_raised_and_the_others_are_closed():
    how = {lane: functools.partial(Bad, "not to send" if lane else "nothing", at=1) for lane in range(2)}
    envs = GymnasiumAsync([how[0], how[1]], deadline=30.0)
    envs.reset([0, 1], [0, 1])
    with pytest.raises(EnvironmentFault, match="environment 1: step with action 0 raised NotToSend"):
        envs.step(np.zeros(2, int))
    assert [process.exitcode for process in envs._vector.processes] == [0, 0]  # closed, not killed


def test_a_reward_that_no_float_can_be_is_a_workers_fault_too():
    envs = GymnasiumAsync([functools.partial(Bad, "reward of 10^400", at=1)], deadline=30.0)
    envs.reset([0], [0])
    with pytest.raises(EnvironmentFault, match=r"environment 0: reward is 1000.*, which no float64 can be"):
        envs.step(np.zeros(1, int))


LATER = ("NaN reward", "NaN observation")  # which is seen when a rollout is looked at
UNREAD = ("info is no mapping",)  # where no measure asks for it


@pytest.mark.parametrize("how", sorted(GIVES.keys() - {*LATER, *UNREAD}))
def test_a_step_that_gives_what_it_must_not_is_a_fault_that_names_it(how):
    envs = GymnasiumSync(functools.partial(Bad, how, at=1), 1)
    envs.reset([0], [0])
    with pytest.raises(EnvironmentFault, match="environment 0: "):
        envs.step(np.zeros(1, int))


@pytest.mark.parametrize(
    ("what", "fields", "says"),
    [
        ("upside down", {}, "upside down"),
        ("NaN", {}, "upside down, or not numbers"),
        ("system exit", {}, "cannot be made: SystemExit"),
        ("fine", {"max_episode_steps": 0}, "time limit is 0"),
        ("fine", {"max_episode_steps": 20.5}, r"time limit is 20\.5"),
    ],
)
def test_spaces_and_limits_that_cannot_be_meant_are_refused(what, fields, says):
    with listening(), pytest.raises(UserError, match=says):
        find("misbehaving:Spaces", {"what": what, **fields})


@pytest.mark.parametrize("how", RAISES)
def test_what_the_first_look_at_an_environment_raises_is_one_line(how):
    """Its spaces are read from one that is made and closed."""
    with listening(), pytest.raises(UserError, match="misbehaving:Bad cannot be made: ") as said:
        _ = find("misbehaving:Bad", {"how": how, "where": "close", "at": 1}).spec
    assert str(said.value).isprintable()


def test_evaluation_is_looked_at_like_training(tmp_path):
    config = small_ppo(hidden=(4,))
    made = train(
        "ppo",
        functools.partial(Bad, length=10),
        steps=16,
        config=config,
        eval_every=0,
        verbose=False,
        preset=False,
        out=str(tmp_path),
        name="one",
    )
    fault = r"in evaluation, step 6, environment 0, seed 0: reward is not finite"
    how = functools.partial(Bad, "NaN reward", at=7, length=10)
    with pytest.raises(EnvironmentFault, match=fault):
        load(made.path, env=how).evaluate(5)
    quits = functools.partial(Bad, "system exit", at=7, length=10)
    with (
        listening(),
        pytest.raises(EnvironmentFault, match=r"in evaluation, environment 0, seed 0: step .* SystemExit"),
    ):
        load(made.path, env=quits).evaluate(5)


def test_a_hang_in_this_process_is_said_with_what_would_end_it(capsys):
    session = SimpleNamespace(plan=SimpleNamespace(deadline=0.02))
    session.driver = SimpleNamespace(envs=SimpleNamespace(asked=time.monotonic()))
    with guards.watched(session, silent()):
        time.sleep(0.3)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has not answered for 0.02 s" in said
    assert "--vectorization async" in said

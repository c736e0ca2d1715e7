"""What a run folder from a stranger, a bad moment or an environment that misbehaves can do: nothing but an error.

The seven kinds in short; `make torture` is their long form. What else is held elsewhere is named where its kind is.
"""

import contextlib
import os
import shutil
import stat

import pytest
from attacks import Watch, canary, copied, edit_config, edit_manifest, in_graph, on_host

from polyak import files
from polyak.cli import main
from polyak.envs.trust import harmless, names_to_trust
from polyak.errors import CheckpointError, UserError, brief, printable
from polyak.runs.folder import RunFolder, read_line
from polyak.runs.run import load
from polyak.store import checkpoint

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
    from polyak.runs.run import train

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
    from polyak.runs.folder import Metrics

    metrics = Metrics(folder, 16)
    metrics.write({"env_steps": 16, "seed": 0, "eval/return": 1.0})
    metrics.close()


def draw_quietly(folder):
    from polyak.runs.loop import draw
    from polyak.runs.run import silent

    draw(folder, silent())


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
    from polyak.store import storage

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
    ("driver", "ray"),
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

"""What a user types, and that each of their mistakes is one line and exit code 2."""

import base64
import dataclasses
import importlib
import json
import re
import resource
import subprocess
import sys
import textwrap

import imageio.v3 as imageio
import pytest

import polyak
from polyak import algorithms, flags
from polyak.cli import COMMANDS, main
from polyak.errors import UserError
from polyak.interface import Replay
from polyak.runs.plan import Settings
from polyak.show.panel import WIDTH

HEAVY = ("jax", "numpy", "gymnasium", "rich", "tyro", "matplotlib")
TINY = [
    *[
        "ppo",
        "jax:CartPole-v1",
        "--steps",
        "5_12",
        "--seeds",
        "2",
        "--eval-every",
        "256",
        "--eval-episodes",
        "2",
    ],
    *["--config.data.steps", "1.28e2", "--config.epochs", "1", "--config.hidden", "8", "8"],
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder of runs with one in it, named `tiny`, of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *TINY, "--out", str(folder), "--name", "tiny"]) == 0
    return folder


@pytest.fixture
def mistake(capsys, tmp_path, monkeypatch):
    """Run a command line that is wrong; what it says, which is one line."""

    def run(*words):
        monkeypatch.chdir(tmp_path)
        assert main(list(words)) == 2
        said = capsys.readouterr().err
        assert said.startswith("polyak: ")
        assert said.endswith("\n")
        assert said.count("\n") == 1
        return said

    return run


# ---- speed and help


def test_help_and_mistakes_in_names_import_nothing_heavy():
    program = (
        "import sys; from polyak.cli import main; main(sys.argv[1:]); "
        f"print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    for words in (
        ["--help"],
        ["trian"],  # codespell:ignore trian
        ["train", "tdd3", "X"],
        ["train", "td3", "X", "--steps", "-1"],
        ["list", "x"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "[]", words


def test_help_is_on_the_screen_at_once():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "polyak", "--help"], capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5  # of a core; 0.1 was seen
    assert all(name in done.stdout for name in COMMANDS)
    assert "polyak train td3 Pendulum-v1" in done.stdout


def test_a_run_shows_its_name_and_folder_before_jax_is_imported():
    program = (
        "import sys, polyak.cli as cli, polyak.commands.training as training, polyak.runs.plan\n"
        "shown = training.say_header\n"
        "training.say_header = lambda path: (shown(path), print([m for m in ('jax', 'rich') if m in sys.modules]))\n"
        "cli.main(['train', 'ppo', 'Nowhere-v0', '--name', 'here'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["here", "runs/here", "[]"]


def test_every_command_has_a_page_of_help(capsys):
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"polyak {name}" in capsys.readouterr().out


def test_help_of_an_algorithm_shows_each_setting_with_its_comment_and_default(capsys):
    assert main(["train", "td3", "Pendulum-v1", "--no-preset", "--help"]) == 0
    page = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    said = flags.comments(algorithms.find("td3").Config)["tau"]
    assert f"--config.tau X {said} (default: 0.005)" in page
    said = flags.comments(Replay)["batch_size"]
    assert f"--config.data.batch-size N {said} (default: 256)" in page
    assert "--no-preset" in page
    assert "--config.data.hindsight" not in page
    assert "--her future|final|episode|random hindsight" in page
    assert "--config.data.priority X alpha of prioritised replay" in page


@pytest.mark.parametrize("name", algorithms.names())
def test_help_says_something_of_every_setting(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # one panel below the other
    assert main(["train", name, "Pendulum-v1", "--no-preset", "--help"]) == 0
    page = capsys.readouterr().out.replace("│", " ")
    helped = {}
    for flag, text in re.findall(r"^  (--[a-z]\S+)(.*\n(?: {5,}.*\n)*)", page, re.MULTILINE):
        takes_value = not flag.startswith("--no-") or "." in flag
        words = " ".join(text.split()).partition("(default:")[0].split()
        helped[flag] = words[1:] if takes_value else words
    cfg = algorithms.find(name).Config()
    wanted = {entry.name for entry in dataclasses.fields(cfg)} - {"data"}
    wanted |= {f"data.{entry.name}" for entry in dataclasses.fields(cfg.data)} - {"data.hindsight"}
    wanted = {f"--config.{field}".replace("_", "-") for field in wanted}
    assert wanted | {"--steps", "--no-preset"} <= helped.keys()
    assert [flag for flag, words in helped.items() if len(words) < 2] == []


def test_comments_are_those_beside_the_fields(tmp_path, monkeypatch):
    source = """
        from dataclasses import dataclass, field

        @dataclass
        class Base:
            first: int = 1  # of the base
            changed: int = 1  # in the base

        @dataclass
        class Made(Base):
            changed: int = 2  # here
            text: str = "a # b"
            several: list = field(  # of several lines
                default_factory=list
            )
            alone: int = 3

            # of nothing
            @property
            def given(self):
                local: int = 4  # no field
                return local
    """
    (tmp_path / "made_for_comments.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("made_for_comments").Made
    assert flags.comments(made) == {
        "first": "of the base",
        "changed": "here",
        "several": "of several lines",
    }
    assert flags.comments(dataclasses.make_dataclass("Bare", [("x", int)])) == {}


def test_help_shows_tuned_values_beside_the_untuned(capsys, monkeypatch):
    tuned = {"steps": 7_000, "config": {"data": {"warmup": 321}}}
    monkeypatch.setattr(flags, "preset", lambda algorithm, env: tuned)
    assert main(["train", "td3", "Pendulum-v1", "--help"]) == 0
    page = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "(tuned: 321; --no-preset: 25000)" in page
    assert "(tuned: 7000; --no-preset: 100000)" in page


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"polyak \d+\.\d+\.\d+\n", capsys.readouterr().out)


# ---- words to values


@pytest.mark.parametrize("steps", ["100000", "1e5", "100_000"])
def test_whole_numbers_may_be_written_in_three_ways(steps):
    said = flags.read(["td3", "X", "--steps", steps], Settings(), 2)
    assert flags.typed(Settings(), said).steps == 100_000


def test_flags_become_settings_and_groups():
    line = "td3 X --num-envs=4 --no-preset --wrap a,b --config.data.batch-size 64 --env.gravity 9 --config.hidden 8 16"
    said = flags.read(line.split(), Settings(), 2, ("config", "env"))
    settings = flags.typed(Settings(), said)
    assert said.words == ["td3", "X"]
    assert (settings.num_envs, settings.preset, settings.wrap) == (4, False, ("a", "b"))
    assert said.groups == {"config": {"data.batch_size": "64", "hidden": "8 16"}, "env": {"gravity": "9"}}


def test_flags_may_stand_before_the_names():
    said = flags.read(["--steps", "5", "td3", "--seed", "1", "X"], Settings(), 2)
    assert (said.words, said.values) == (["td3", "X"], {"steps": "5", "seed": "1"})


def test_a_list_may_be_given_in_parts():
    said = flags.read(["a", "--trust", "x:Y", "--trust", "z:W"], COMMANDS["resume"].options, 1)
    assert flags.typed(COMMANDS["resume"].options, said).trust == ("x:Y", "z:W")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("3", 3), ("-1", -1), ("1e3", 1000), ("1_000", 1000), ("2.0", 2.0), ("0.5", 0.5), ("NaN", "NaN")],
        *[("true", True), ("False", False), ("None", None), ("null", None), ("dense", "dense")],
        *[("[1, 2.5]", [1, 2.5]), ("1,2,3", [1, 2, 3]), ("(0.5, 1e3)", [0.5, 1000]), ("7,", [7])],
        *[("a,b", "a,b"), ("[1, a]", "[1, a]")],
    ],
)
def test_values_of_an_environment_are_what_they_look_like(text, value):
    assert flags.literal(text) == value
    assert type(flags.literal(text)) is type(value)


# ---- mistakes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trian td3 X", "did you mean 'train'?"),  # codespell:ignore trian
        ("train tdd3 Pendulum-v1", "did you mean 'td3'?"),
        ("train td3", "polyak train td3 Pendulum-v1"),
        ("train td3 X Y", "unexpected 'Y'"),
        ("train td3 X --stepz 5", "did you mean --steps?"),
        ("train ppo X --lr 5", "did you mean --config.lr?"),
        ("train td3 X --lr 5", "did you mean --config.actor-lr or --config.critic-lr?"),
        ("train td3 X --steps", "--steps needs a value"),
        ("train td3 X --steps --seed 1", "--steps needs a value"),
        ("train td3 X --steps -5", "--steps is -5, but must be at least 0"),
        ("train td3 X --steps abc", "--steps is 'abc', but must be"),
        ("train td3 X --steps 1.5", "--steps is '1.5', but must be"),
        ("train td3 X --steps 5 --steps 6", "--steps is given twice"),
        ("train td3 X --no-preset=1", "--no-preset takes no value"),
        ("train td3 X --driver host2", "one of auto, graph, host"),
        ("train td3 X --name a/b", "must be a folder name"),
        (f"train td3 X --name {'x' * 300}", "--name has 300 bytes"),
        ("list envs nosuchworld", "none of the envs has 'nosuchworld'"),
        ("watch td3", "polyak watch td3 ENV"),
        ("evaluate runs/x --episodes 0", "--episodes is 0, but must be at least 1"),
        ("evaluate td3", "polyak evaluate td3 ENV"),
        ("evaluate td3 Pendulum-v1", "no run of td3 on Pendulum-v1"),
        ("resume", "no run folder in 'runs'"),
        ("resume nowhere", "nowhere is not a run folder"),
        ("watch nowhere", "nowhere is not a run folder"),
        ("digest nowhere", "nowhere is not a run folder"),
        ("list algoritms", "did you mean 'algorithms'?"),  # codespell:ignore algoritms
    ],
)
def test_a_mistake_in_the_words_is_one_line(mistake, line, says):
    assert says in mistake(*line.split())


def test_the_name_of_a_run_without_its_folder_is_told_where_it_is(mistake, tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.json").write_text("{}")
    assert mistake("resume", "first").rstrip().endswith("did you mean runs/first?")
    assert "did you mean" not in mistake("resume", "second")


def fitting(kind):
    """The advice for a task whose actions are of this kind."""
    records = {name: algorithms.find(name) for name in algorithms.names()}
    fit = [
        name
        for name, each in records.items()
        if kind in each.actions and each.observes == "any" and each.learns
    ]
    return f"this task's are {kind}: {', '.join(fit)} would fit"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train ppo jax:CartPol-v1", "CartPole-v1"),
        ("train ppo CartPol-v1", "CartPole-v1"),
        ("train ppo jax:CartPole-v1 --config.lrr 1e-3", "did you mean 'lr'?"),
        ("train ppo jax:CartPole-v1 --config.lr fast", "must be a number"),
        ("train ppo jax:CartPole-v1 --config.lr inf", "lr is inf, but must be finite"),
        ("train ppo jax:CartPole-v1 --config.hidden 0", "hidden is (0,), but must be at least 1"),
        ("train dqn jax:CartPole-v1 --config.hidden 8,-4", "hidden is (8, -4), but must be at least 1"),
        ("train ppo jax:CartPole-v1 --env.gravity inf", "gravity must be a number"),
        ("train ppo jax:CartPole-v1 --config.lr -1", "lr is -1.0, but must be at least 0"),
        ("train ppo jax:CartPole-v1 --env.gravty 1", "did you mean 'gravity'?"),
        ("train ppo jax:CartPole-v1 --driver host", "--driver host"),
        ("train ppo jax:CartPole-v1 --wrap normalise_obs", "did you mean 'normalize_obs'?"),
        ("train dqn jax:Pendulum-v1", fitting("continuous")),
        ("train td3 jax:CartPole-v1", fitting("discrete")),
    ],
)
def test_a_mistake_in_what_they_mean_is_one_line_and_leaves_nothing(mistake, tmp_path, line, says):
    assert says in mistake(*line.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "plan": {"algorithm": "ppo"}}']
)
@pytest.mark.parametrize("command", ["resume", "evaluate", "watch", "digest"])
def test_a_damaged_run_folder_is_one_line(mistake, tmp_path, command, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    mistake(command, "run")


def test_a_run_that_names_code_is_not_followed_without_trust(mistake, out, tmp_path):
    config = json.loads((out / "tiny" / "config.json").read_text())
    config["plan"]["env"] = "my_package.module:MyEnv"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(config))
    assert "--trust my_package.module:MyEnv" in mistake("resume", "foreign")
    assert "no module" in mistake("resume", "foreign", "--trust", "my_package.module:MyEnv")


def test_our_own_bug_shows_its_traceback(capsys, monkeypatch):
    monkeypatch.setattr("polyak.cli.dispatch", lambda argv: 1 / 0)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "bug in polyak" in said.splitlines()[-1]


def test_an_error_of_several_lines_is_said_in_one(capsys, monkeypatch):
    def fail(argv):
        raise UserError("one\n  two")

    monkeypatch.setattr("polyak.cli.dispatch", fail)
    assert main([]) == 2
    assert capsys.readouterr().err == "polyak: one two\n"


def test_a_closed_pipe_is_no_error():
    line = f"{sys.executable} -m polyak list algorithms | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- commands


def test_train_says_what_came_of_it_and_what_to_do_next(out, capsys):
    assert main(["train", *TINY, "--out", str(out), "--name", "tiny"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"tiny\n{out / 'tiny'}\nalready finished: 512 steps\n")
    assert re.search(r"seed 0 .*\(2 episodes\)", said)
    assert "IQM of 2 seeds" in said
    assert f"polyak watch {out / 'tiny'}" in said
    assert f"polyak evaluate {out / 'tiny'}" in said


def test_a_name_with_other_settings_is_refused(out, mistake):
    said = mistake("train", *TINY, "--config.gamma", "0.5", "--out", str(out), "--name", "tiny")
    assert "choose another --name" in said


def test_the_newest_run_is_resumed_and_says_that_it_is_finished(out, capsys):
    assert main(["resume", "--out", str(out)]) == 0
    assert "already finished: 512 steps" in capsys.readouterr().out


def test_quiet_says_name_and_folder_only(out, capsys):
    assert main(["resume", str(out / "tiny"), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == ["tiny", str(out / "tiny")]


def test_ctrl_c_says_how_to_go_on(out, capsys, monkeypatch):
    from polyak.runs import execute, loop
    from polyak.runs.run import Run

    def interrupted(*args, **kwargs):
        raise loop.Interrupted

    monkeypatch.setattr(execute, "train", interrupted)
    monkeypatch.setattr(Run, "finished", False)
    assert main(["resume", str(out / "tiny")]) == 130
    assert capsys.readouterr().out.endswith(f"saved; go on with: polyak resume {out / 'tiny'}\n")


def test_evaluate_ends_with_one_line_of_json(out, capsys):
    assert main(["evaluate", str(out / "tiny"), "--episodes", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"mean_return", "std_return", "iqm_return", "episodes", "env_steps", "per_seed"} <= said.keys()
    assert said["episodes"] == 6
    assert [seed["seed"] for seed in said["per_seed"]] == [0, 1]
    means = [seed["mean_return"] for seed in said["per_seed"]]
    assert said["mean_return"] == pytest.approx(sum(means) / 2)


def test_evaluate_finds_the_newest_run_of_a_pair(out, capsys):
    assert main(["evaluate", "ppo", "jax:CartPole-v1", "--episodes", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out / 'tiny'}: 2 episodes of each seed\n")
    assert re.search(r"^ +all +\d", said, re.MULTILINE)


def test_watch_films_the_episodes_that_evaluate_plays(out, capsys, tmp_path):
    from polyak.runs.run import load

    video = tmp_path / "x.gif"
    assert main(["watch", str(out / "tiny"), "--policy", "1", "--episodes", "2", "--out", str(video)]) == 0
    said = capsys.readouterr().out
    seen = [float(x) for x in re.findall(r"^episode \d: return (\S+)$", said, re.MULTILINE)]
    played = load(out / "tiny").evaluate(2).returns[1]
    assert seen == played.tolist()
    assert said.splitlines()[-1] == str(video)
    assert video.read_bytes()[:4] == b"GIF8"
    # in a notebook a film shows itself, here without what stands beside the picture
    film = polyak.watch(out / "tiny", out=tmp_path / "y.gif", policy=1, panel=False, verbose=False)
    assert film.returns == seen[:1]
    assert base64.b64encode(film.path.read_bytes()).decode() in film._repr_html_()
    sizes = [imageio.immeta(path)["shape"] for path in (video, film.path)]
    assert sizes[0][0] - sizes[1][0] == WIDTH or sizes[0][1] - sizes[1][1] == WIDTH


def test_watch_shows_the_same_episodes_in_a_window(out, capsys):
    from polyak.runs.run import load

    assert main(["watch", str(out / "tiny"), "--window", "--episodes", "2"]) == 0
    said = capsys.readouterr().out
    assert "space pauses" in said
    seen = [float(x) for x in re.findall(r"^episode \d: return (\S+)$", said, re.MULTILINE)]
    assert seen == load(out / "tiny").evaluate(2).returns[0].tolist()


def test_digest_is_one_line_and_the_same_again(out, capsys):
    assert main(["digest", str(out / "tiny")]) == main(["digest", str(out / "tiny")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert first == second


def test_list_shows_every_algorithm_of_the_folder(capsys):
    assert main(["list", "algorithms"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == algorithms.names()


def test_list_shows_environments_as_they_are_typed(capsys):
    assert main(["list", "envs"]) == 0
    assert {"jax:CartPole-v1", "Pendulum-v1"} <= set(capsys.readouterr().out.split())


def test_a_list_of_environments_may_be_narrowed(capsys):
    assert main(["list", "envs", "cartpole"]) == 0
    said = capsys.readouterr().out.split()
    assert {"jax:CartPole-v1", "CartPole-v1"} <= set(said)
    assert "Pendulum-v1" not in said
    assert main(["list", "envs", "jax:*Car-v?"]) == 0
    assert capsys.readouterr().out.split() == ["jax", "jax:MountainCar-v0"]
    assert main(["list", "algorithms", "TD"]) == 0
    assert capsys.readouterr().out.startswith("td3 ")


def test_the_columns_of_evaluations_stand_below_one_another(out, capsys):
    assert main(["resume", str(out / "tiny")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "±" in line]
    assert len(lines) == 2
    assert len({line.index("±") for line in lines}) == len({line.index("(") for line in lines}) == 1


def test_a_gymnasium_run_is_trained_and_its_evaluation_filmed(capsys, tmp_path, monkeypatch):
    from polyak.runs.run import load

    monkeypatch.chdir(tmp_path)
    line = "ppo CartPole-v1 --steps 128 --config.data.steps 64 --config.epochs 1 --config.hidden 8 --eval-episodes 2"
    assert main(["train", *line.split(), "--no-preset", "--eval-every", "128", "--name", "gym"]) == 0
    assert main(["watch", "ppo", "CartPole-v1", "--episodes", "2"]) == 0
    said = capsys.readouterr().out
    seen = [float(x) for x in re.findall(r"^episode \d: return (\S+)$", said, re.MULTILINE)]
    assert said.splitlines()[-1] == "runs/gym/videos/128.mp4"
    assert seen == load("runs/gym").evaluate(2).returns[0].tolist()

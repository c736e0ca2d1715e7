"""The command line. Importing this imports no JAX; a command imports what it needs once its words are right."""

import contextlib
import errno
import fnmatch
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from polyak import __version__, algorithms, flags
from polyak.errors import CheckpointError, UserError, nearest, printable, visible
from polyak.files import silence
from polyak.interface import within
from polyak.runs.folder import RunFolder, check_name, name_run
from polyak.runs.plan import Plan, Settings
from polyak.signals import listening

if TYPE_CHECKING:
    from polyak.runs.run import Run

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended, as in every shell
BROKEN_PIPE = 141  # and of one whose reader went away before it was done
REFUSED = {  # what a disk says
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
}
GROUPS = {  # --config.FIELD, --env.FIELD, --eval-env.FIELD, of the commands that take them
    "train": ("config", "env", "eval_env"),
    "check-env": ("env",),
}

HELP = """\
usage: polyak COMMAND ...

Policy search: one readable file per algorithm, resumed exactly.

commands:
  train ALGO ENV             train a policy
  resume [RUN]               go on with a run; the newest when none is named
  evaluate RUN | ALGO ENV    play episodes with a trained policy
  watch RUN | ALGO ENV       make a video of a trained policy
  play RUN | ALGO ENV        play a board game against a trained policy
  report RUN...              one page about runs: curves, how they compare, settings
  digest RUN                 one hash of all that a run learned: equal runs, equal lines
  list [WHAT [PATTERN]]      algorithms and envs that there are
  check-env ENV              all that is wrong with an environment, and what to do about it
  doctor [RUN]               why a run does not learn; without one, what this machine has

example:
  polyak train td3 Pendulum-v1 --steps 20000
  polyak evaluate td3 Pendulum-v1 --episodes 100
  polyak train ppo jax:CartPole-v1 --seeds 10 --config.lr 1e-3

`polyak COMMAND --help` tells more; `polyak train ALGO ENV --help` shows every setting and its tuned value.
Exit codes: 0 done, 2 your mistake (one line says which), 1 ours, 130 stopped by Ctrl-C.
"""


@dataclass(frozen=True)
class ResumeOptions:
    """Where the run is, how far it goes, and what it may import."""

    steps: int | None = within(
        None, 1
    )  # another budget, all steps of each seed counted; lengthens a finished run
    updates: int | None = within(None, 1, 2**32 - 1)  # the same of a run that takes no environment step
    stop_at: float | None = None  # another return whose evaluation ends the run; None: none any more
    address: str | None = None  # HOST:PORT of a Ray cluster that is there; for --driver ray
    track: Literal["wandb", "mlflow", "trackio"] | None = None  # send metrics there too
    quiet: bool = False  # say nothing but the run's name and folder, and warnings
    out: str = "runs"  # folder in which the newest run is looked for
    trust: tuple[str, ...] = ()  # what you trust: code (my_package.module:MyEnv), a setting (env.xml_file)


@dataclass(frozen=True)
class EvaluateOptions:
    """How episodes are played."""

    episodes: int = within(20, 1)  # number of episodes of each seed
    seed: int | None = within(None, 0, 2**31 - 1)  # number that chooses other episodes
    sample: bool = False  # act with exploration
    on: str | None = None  # another environment that it plays in, with the same spaces
    at: int | None = within(None, 0)  # steps of the checkpoint that is played; usually those of the newest
    best: bool = False  # play the checkpoint that evaluated best, of those that are kept
    limit: int | None = within(None, 1)  # steps where an episode is cut; usually the run's --eval-limit
    json: bool = False  # print one line of JSON, the last on stdout
    out: str = "runs"  # folder in which the newest run of ALGO ENV is looked for
    trust: tuple[str, ...] = ()  # what you trust: code (my_package.module:MyEnv), a setting (env.xml_file)


@dataclass(frozen=True)
class WatchOptions:
    """What is filmed, and where to."""

    episodes: int = within(1, 1)  # number of episodes, one after the other
    out: str | None = None  # file, .mp4 or .gif; usually videos/STEPS.mp4 in the run folder
    seed: int | None = within(None, 0, 2**31 - 1)  # number that chooses other episodes
    policy: int | None = within(
        None, 0, 2**31 - 1
    )  # seed whose policy acts, of a run with several; usually the first
    panel: bool = True  # show rewards, the expected return and the action beside the picture
    on: str | None = None  # another environment that is filmed, with the same spaces
    best: bool = False  # film the checkpoint that evaluated best, of those that are kept
    folder: str = "runs"  # folder in which the newest run of ALGO ENV is looked for
    trust: tuple[str, ...] = ()  # what you trust: code (my_package.module:MyEnv), a setting (env.xml_file)


@dataclass(frozen=True)
class PlayOptions:
    """Who begins, and how strong the other is."""

    first: Literal["you", "agent"] = "you"  # who moves first
    simulations: int | None = within(None, 1)  # of its search before every move; usually as it was trained
    moves: int = within(3, 0)  # of those that it thought of most, how many are shown
    policy: int | None = within(
        None, 0, 2**31 - 1
    )  # seed whose policy plays, of a run with several; usually the first
    at: int | None = within(None, 0)  # steps of the checkpoint that plays; usually those of the newest
    best: bool = False  # play against the checkpoint that evaluated best, of those that are kept
    out: str = "runs"  # folder in which the newest run of ALGO ENV is looked for
    trust: tuple[str, ...] = ()  # what you trust: code (my_package.module:MyEnv), a setting (env.xml_file)


@dataclass(frozen=True)
class ReportOptions:
    """Where the page goes, and what is written beside it."""

    out: str | None = None  # file, .html; usually report.html: in the folder of the only run, else here
    png: bool = False  # write a picture too, report.png
    csv: bool = False  # write every line of metrics too, report.csv


@dataclass(frozen=True)
class CheckOptions:
    """How long an environment is looked at."""

    steps: int = within(10_000, 1)  # random steps
    seconds: float = within(20.0, 0.1)  # that they may take
    seed: int = within(0, 0, 2**31 - 1)  # of the first episode
    json: bool = False  # print one line of JSON


@dataclass(frozen=True)
class DoctorOptions:
    """What is looked at."""

    render: bool = True  # draw pictures, in processes of their own
    json: bool = False  # print one line of JSON
    out: str = "runs"  # folder in which the newest run of ALGO ENV is looked for
    trust: tuple[str, ...] = ()  # what you trust: code (my_package.module:MyEnv), a setting (env.xml_file)


@dataclass(frozen=True)
class NoOptions:
    """None but --help."""


class Command(NamedTuple):
    """One word after `polyak`."""

    call: Callable[[flags.Said, Any], int]
    options: Any
    usage: str
    about: str
    least: int  # words
    most: int


def program() -> None:
    """Run the command line of this process and end it; at once where it was stopped, whatever still compiles."""
    code = main()
    if code == INTERRUPTED:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    with listening() as listener:
        try:
            code = dispatch(words)
            sys.stdout.flush()
            listener.check()
        except UserError as error:
            return fail(printable(error))
        except KeyboardInterrupt:
            return fail("stopped", INTERRUPTED)
        except OSError as error:
            return explain(error, words)
        except Exception:
            if listener.heard:  # which broke something on its way
                return fail("stopped", INTERRUPTED)
            traceback.print_exc()
            return fail("this is a bug in polyak; please report the lines above", 1)
    return code


def fail(text: str, code: int = 2) -> int:
    """Say why a command ends, in one line, and return its exit code."""
    with contextlib.suppress(OSError):
        print("polyak:", text, file=sys.stderr, flush=True)
    return code


def explain(error: OSError, words: list[str]) -> int:
    """The exit code where the system refused something; a full disk is one line, and no reader is enough for a list."""
    if isinstance(error, BrokenPipeError):
        silence(sys.stdout)
        works = (
            words[:1] != ["list"] and words[:1] and not {"-h", "--help"} & set(words) and words[0] in COMMANDS
        )
        return BROKEN_PIPE if works else 0
    if error.errno not in REFUSED:
        traceback.print_exc()
        return fail("this is a bug in polyak; please report the lines above", 1)
    where = error.filename or "the output"
    silence(sys.stdout)
    return fail(printable(f"cannot write or read {where}: {error.strerror}"))


def dispatch(argv: list[str]) -> int:
    """Find the command, read its words, do it."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"polyak {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        hint = f"did you mean {OTHERS[name]!r}?" if name in OTHERS else nearest(name, COMMANDS)
        raise UserError(f"unknown command {name!r}: {hint}")
    command = COMMANDS[name]
    if "-h" in rest or "--help" in rest:
        return show_help(name, command, rest)
    grouped = GROUPS.get(name, ())
    said = flags.read(rest, command.options, command.most, grouped, flags.of_config)
    if len(said.words) < command.least:
        raise UserError(f"{name} needs {command.usage}, as in: polyak {name} {EXAMPLES[name]}")
    return command.call(said, flags.typed(command.options, said))


def show_help(name: str, command: Command, rest: list[str]) -> int:
    """The page of one command; of `train ALGO [ENV]` with that algorithm's settings and their tuned values."""
    about = f"{command.about}\n\nexample: polyak {name} {EXAMPLES[name]}"
    first = next(i for i, word in enumerate(rest) if word.startswith("-"))
    if name == "train" and first:
        algorithms.check(rest[0])
        flags.show_train_page(rest[0], rest[1] if first > 1 else "ENV", about, "--no-preset" not in rest)
    else:
        flags.show_page(name, command.usage, about, (command.options, command.options))
    return 0


# ---- train and resume


def train(said: flags.Said, settings: Settings) -> int:
    """Train: name and folder at once, everything heavy after that."""
    algorithm, env = said.words
    if env in algorithms.names() and algorithm not in algorithms.names():
        raise UserError(f"the algorithm comes first: polyak train {env} {algorithm}")
    algorithms.check(algorithm)
    name = check_name(settings.name) if settings.name is not None else name_run(algorithm, env, settings.out)
    path = Path(settings.out) / name
    say_header(path)
    from polyak.runs.run import Run, facts, placed, plan_run
    from polyak.runs.setup import set_up_jax

    set_up_jax()
    fields = flags.literals(said.groups.get("env", {}))
    own = flags.literals(said.groups["eval_env"]) if "eval_env" in said.groups else None
    config = said.groups.get("config", {})
    session, note = plan_run(algorithm, env, settings, config, fields, own)
    with placed(path, settings.name is not None, session, note) as (folder, there):
        if folder.path != path:
            say_header(folder.path)
        run = Run(folder.path, env, algorithm)
        run.folder, run.trusted = folder, {*run.trusted, *session.plan.to_trust}  # the folder is held
        return go_on(run, session, facts(session, note), there, settings.quiet)


def resume(said: flags.Said, options: ResumeOptions) -> int:
    """Go on with a run; of a finished one say so."""
    folder = RunFolder(Path(said.words[0]) if said.words else newest(options.out))
    folder.config()
    say_header(folder.path)
    from polyak.runs.run import facts, silent
    from polyak.runs.setup import set_up_jax
    from polyak.show.terminal import Terminal

    set_up_jax()
    run = open_trusted(folder.path, options.trust)
    said_more = {"steps": options.steps, "updates": options.updates}
    more = {unit: value for unit, value in said_more.items() if value is not None}
    changed = more or "stop_at" in said.values
    with run.folder.held() if changed or not run.finished else contextlib.nullcontext():
        if "stop_at" in said.values:
            run.stop_at(float("inf") if options.stop_at is None else options.stop_at)
        run.lengthen(more, silent() if options.quiet else Terminal())
        session = run.trust()
        session.address, session.track = options.address, options.track
        return go_on(run, session, facts(session, run.config.get("preset", "")), True, options.quiet)


def go_on(run: "Run", session: Any, facts: dict[str, str], there: bool, quiet: bool) -> int:
    """Run to the end unless it is there, and say what came of it."""
    from polyak.results import say_results, shown
    from polyak.runs import loop
    from polyak.runs.run import silent
    from polyak.show.terminal import Terminal

    terminal = silent() if quiet else Terminal()
    if there and run.finished:
        spent, unit = f"{run.plan.budget:,} {run.plan.unit}", run.plan.unit[:-1]
        reached = run.reached and f"--stop-at {run.plan.stop_at:g} was reached at {unit} {run.reached:,}"
        terminal.say(f"already finished: {reached or spent}")
    else:
        try:
            loop.train(session, run.folder, terminal, resume=there, facts=facts)
        except loop.Interrupted:
            said = f"saved; go on with: polyak resume {shown(run)}"
            if terminal.stream.lost or quiet:
                terminal.warn(f"polyak: {'' if quiet else 'nobody reads the output: '}{said}")
            else:
                terminal.say(said)
            return INTERRUPTED
    try:
        say_results(run, terminal)
    except CheckpointError as error:  # metrics that are damaged, or too many to be summed up
        terminal.warn(f"polyak: {printable(error)}")
    return 0


def say_header(path: Path) -> None:
    """Name and folder of a run."""
    print(f"{visible(path.name)}\n{visible(str(path))}", flush=True)


# ---- what is done with runs


def open_trusted(path: Path, names: Sequence[str]) -> "Run":
    """A run that may import what the user trusts."""
    from polyak.runs.run import Run

    run = Run(path)
    run.trusted |= set(names)
    run.warn = lambda text: fail(printable(text))
    return run


def named_run(command: str, words: list[str], out: str) -> tuple[Path, list[str]]:
    """The run folder that RUN, or ALGO ENV, means, and the names of code that were typed: those are trusted."""
    if len(words) == 2:
        algorithms.check(words[0])
        return newest(out, *words), words
    path = Path(words[0])
    if path.suffix == ".zip":
        raise UserError(
            f"{path} is a file, but a run is a folder of polyak's, as polyak train and Agent.save make it"
        )
    if path.name in algorithms.names() and not path.exists():
        raise UserError(f"{command} {path.name} needs its environment too: polyak {command} {path.name} ENV")
    RunFolder(path).config()
    return path, []


def newest(out: str, algorithm: str | None = None, env: str | None = None) -> Path:
    """The run folder in `out` that was touched last, of this algorithm and environment if they are given."""
    found = []
    for config in Path(out).glob("*/config.json"):
        plan = readable_plan(config.parent)
        if plan and (algorithm is None or (plan.algorithm, plan.env) == (algorithm, env)):
            metrics = config.with_name("metrics.jsonl")
            found.append(((metrics if metrics.exists() else config).stat().st_mtime, config.parent))
    if not found:
        what = "run folder" if algorithm is None else f"run of {algorithm} on {env}"
        raise CheckpointError(f"there is no {what} in {out!r}: name one, train first, or say --out")
    return max(found)[1]


def readable_plan(path: Path) -> Plan | None:
    """The plan of a run folder, None where it is damaged."""
    try:
        return RunFolder(path).plan()
    except CheckpointError:
        return None


def evaluate(said: flags.Said, options: EvaluateOptions) -> int:
    """Play episodes with a policy and say how it did."""
    if len(said.words) == 2 and not learns(said.words[0]):
        return evaluate_planner(said.words[0], said.words[1], options)
    path, trusted = named_run("evaluate", said.words, options.out)
    from polyak.results import as_json, say_evaluation
    from polyak.runs.run import silent
    from polyak.runs.setup import set_up_jax
    from polyak.show.terminal import Terminal

    set_up_jax()
    run = chosen_checkpoint(open_trusted(path, [*options.trust, *trusted]), options)
    run = run if options.on is None else run.on(options.on)
    waiting = Terminal(sys.stderr) if sys.stderr.isatty() else silent()
    with waiting.status(f"playing {options.episodes} episodes of each seed"):
        evaluation = run.evaluate(options.episodes, options.seed, options.sample, options.limit)
    if options.json:
        print(as_json(evaluation))
    else:
        say_evaluation(run.path, evaluation)
    return 0


def chosen_checkpoint(run: "Run", options: EvaluateOptions | PlayOptions) -> "Run":
    """The run as the checkpoint has it that a person asks for."""
    if options.best and options.at is not None:
        raise UserError("--at and --best each choose a checkpoint: give one of them")
    if options.best or options.at is not None:
        run = run.best() if options.best else run.at(options.at or 0)
        print(f"the checkpoint after {run.step:,} steps", file=sys.stderr)
    return run


def learns(name: str) -> bool:
    """Whether an algorithm has to be trained before it is worth looking at."""
    return algorithms.find(name).learns


def check_planner(algorithm: str, options: EvaluateOptions | PlayOptions) -> None:
    """UserError where a checkpoint is asked for of what has none."""
    if options.best or options.at is not None:
        raise UserError(
            f"{algorithm} learns nothing, so that it has no checkpoints: leave --at and --best out"
        )


def evaluate_planner(algorithm: str, env: str, options: EvaluateOptions) -> int:
    """Play episodes with an algorithm that plans afresh at every decision: no run is needed."""
    check_planner(algorithm, options)
    from polyak.results import as_json, say_evaluation
    from polyak.runs.agent import Agent
    from polyak.runs.setup import set_up_jax

    set_up_jax()
    agent = Agent(algorithm, env, seed=options.seed or 0)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        evaluation = agent.evaluate(options.episodes, options.seed, options.sample, options.limit)
    for each in heard:
        print("polyak:", each.message, file=sys.stderr)
    if options.json:
        print(as_json(evaluation))
    else:
        say_evaluation(f"{algorithm} on {env}", evaluation)
    agent.close()
    return 0


def watch(said: flags.Said, options: WatchOptions) -> int:
    """Film a policy."""
    path, trusted = named_run("watch", said.words, options.folder)
    from polyak.runs.setup import set_up_jax
    from polyak.runs.watch import film
    from polyak.show.terminal import Terminal, number

    set_up_jax()
    run = open_trusted(path, [*options.trust, *trusted])
    run = run.best() if options.best else run
    run = run if options.on is None else run.on(options.on)
    shown = options.episodes, options.out, options.seed, options.policy
    filmed = film(run, *shown, Terminal(), options.panel)
    for episode, total in enumerate(filmed.returns):
        print(f"episode {episode + 1}: return {number(total)}")
    print(filmed.path)
    return 0


def play(said: flags.Said, options: PlayOptions) -> int:
    """Let a person play against a policy."""
    planner = len(said.words) == 2 and not learns(said.words[0])
    if planner:
        check_planner(said.words[0], options)
    path, trusted = (Path(), []) if planner else named_run("play", said.words, options.out)
    if not sys.stdin.isatty():
        raise UserError("play needs a terminal, for a person to type moves: without one, use polyak evaluate")
    from polyak.runs.play import play as begin
    from polyak.runs.setup import set_up_jax

    set_up_jax()
    if planner:
        from polyak.envs.find import find
        from polyak.runs.agent import Agent

        name = said.words[1]
        world, policy = find(name), Agent(*said.words).policy()
    else:
        run = chosen_checkpoint(open_trusted(path, [*options.trust, *trusted]), options)
        name, session = run.plan.env, run.trust()
        world, policy = session.find(session.eval_fields), run.policy(options.policy)
    begin(policy, world, name, options.first, options.simulations, options.moves)
    return 0


def report(said: flags.Said, options: ReportOptions) -> int:
    """Write a page about runs."""
    from polyak.runs.report import report as write

    written = write(said.words, options.out, options.png, options.csv)
    for line in written.left_out:
        fail(line)
    for line in written.verdict:
        print(printable(line))
    for path in written.files:
        print(visible(str(path)))
    return 0


def digest(said: flags.Said, options: NoOptions) -> int:
    """One line that equal runs share."""
    path = Path(said.words[0])
    RunFolder(path).config()
    from polyak.runs.run import Run

    print(Run(path).digest())
    return 0


def show_list(said: flags.Said, options: NoOptions) -> int:
    """Tables of what there is."""
    what = said.words[0] if said.words else None
    tables = {"algorithms": list_algorithms, "envs": list_envs}
    if what is not None and what not in tables:
        raise UserError(f"there is no list of {what!r}: {nearest(what, tables)}")
    pattern = said.words[1] if len(said.words) > 1 else ""
    for name in [what] if what else tables:
        if not tables[name](pattern):
            raise UserError(f"none of the {name} has {pattern!r} in its name")
    return 0


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """The names that a pattern fits: part of a name, or one with * and ?; upper and lower case are the same."""
    pattern = pattern.lower() if set(pattern) & set("*?") else f"*{pattern.lower()}*"
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern)]


def list_algorithms(pattern: str) -> bool:
    """A line for each algorithm that a pattern fits: its name and what it is; whether there is one."""
    names = matching(algorithms.names(), pattern)
    if not names:
        return False
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {algorithms.title(name)}")
    return True


def list_envs(pattern: str) -> bool:
    """The environments that a pattern fits by where they come from, as a user types them; whether there is one."""
    from polyak.envs.find import names

    some = False
    for source, known in names().items():
        prefix = "" if source == "gymnasium" else f"{source}:"
        fitting = matching([prefix + name for name in known], pattern)
        some = some or bool(fitting)
        if pattern and not fitting:
            continue
        print(f"\n{source}" if known else f"\n{source} (not installed)")
        text = "  ".join(fitting)
        print(
            textwrap.indent(
                textwrap.fill(
                    text,
                    shutil.get_terminal_size().columns - 4,
                    break_long_words=False,
                    break_on_hyphens=False,
                ),
                "  ",
            )
        )
    return some


def check_env(said: flags.Said, options: CheckOptions) -> int:
    """Everything that is wrong with an environment; exit code 2 where it breaks training."""
    from polyak.health.environment import check_env as look

    fields = flags.literals(said.groups.get("env", {}))
    report = look(
        said.words[0], steps=options.steps, seconds=options.seconds, seed=options.seed, fields=fields
    )
    if not report.facts:  # there is nothing to be looked at
        raise UserError(report.findings[0].says)
    print(report.as_json() if options.json else report)
    return 2 if report.errors else 0


def doctor(said: flags.Said, options: DoctorOptions) -> int:
    """What this machine lacks, or why a run does not learn."""
    if not said.words:
        from polyak.health.machine import check_machine

        report = check_machine(options.render)
    else:
        path, trusted = named_run("doctor", said.words, options.out)
        from polyak.health.run import doctor as diagnose
        from polyak.runs.setup import set_up_jax

        set_up_jax()
        report = diagnose(open_trusted(path, [*options.trust, *trusted]))
    print(report.as_json() if options.json else report)
    return 0


EXAMPLES = {
    "train": "td3 Pendulum-v1 --steps 20000",
    "resume": "runs/NAME",
    "evaluate": "td3 Pendulum-v1 --episodes 100",
    "watch": "runs/NAME --out policy.mp4",
    "play": "runs/NAME --first agent",
    "report": "runs/ppo runs/dqn --out ppo-or-dqn.html",
    "digest": "runs/NAME",
    "list": "envs cartpole",
    "check-env": "my_module:MyEnv",
    "doctor": "runs/NAME",
}
OTHERS = {
    "eval": "evaluate",
    "test": "evaluate",
    "enjoy": "watch",
    "render": "watch",
    "run": "train",
}
COMMANDS = {
    "train": Command(train, Settings(), "ALGO ENV", "Train a policy.", 2, 2),
    "resume": Command(resume, ResumeOptions(), "[RUN]", "Go on with a run, bit for bit.", 0, 1),
    "evaluate": Command(evaluate, EvaluateOptions(), "RUN|ALGO ENV", "Play with a trained policy.", 1, 2),
    "watch": Command(watch, WatchOptions(), "RUN|ALGO ENV", "Film a trained policy.", 1, 2),
    "play": Command(play, PlayOptions(), "RUN|ALGO ENV", "Play a board game against a trained policy.", 1, 2),
    "report": Command(report, ReportOptions(), "RUN...", "Show and compare runs on one page.", 1, 200),
    "digest": Command(digest, NoOptions(), "RUN", "One hash of all that a run learned.", 1, 1),
    "list": Command(
        show_list,
        NoOptions(),
        "[algorithms|envs [PATTERN]]",
        "List what there is, or what has PATTERN in its name.",
        0,
        2,
    ),
    "check-env": Command(
        check_env,
        CheckOptions(),
        "ENV",
        "Find all that is wrong with an environment; --env.FIELD VALUE sets a constant of it.",
        1,
        1,
    ),
    "doctor": Command(
        doctor,
        DoctorOptions(),
        "[RUN | ALGO ENV]",
        "Say why a run does not learn; without one, what this machine has and lacks.",
        0,
        2,
    ),
}

"""What is done with what was trained: `evaluate`, `watch`, `play`, `ladder`, `report`, `digest`."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from polyak import algorithms, flags
from polyak.commands.ending import fail
from polyak.commands.meant import named_run, open_trusted
from polyak.errors import UserError, printable, visible
from polyak.interface import within
from polyak.runs.folder import RunFolder

if TYPE_CHECKING:
    from polyak.runs.run import Run

MOST_NOTES = 5  # of a report, in the terminal


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

    episodes: int | None = within(
        None, 1
    )  # number of episodes; usually 1, and in a window as many as come until it is closed
    window: bool = False  # show them in a window, where space pauses, instead of writing a video
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
class LadderOptions:
    """Who else plays, and how."""

    games: int = within(100, 2)  # games of each two, half of them begun by each
    simulations: int | None = within(
        None, 1
    )  # before every move, of policies that search; usually as each was trained
    opening: int = within(4, 0)  # uniform moves that games begin with
    longest: int = within(1_000, 1)  # moves after which a game is drawn
    seed: int = within(0, 0, 2**31 - 1)  # number that chooses other openings
    out: str | None = None  # file, .png, for a picture of the ratings
    trust: tuple[str, ...] = ()  # what you trust: code (my_package.module:MyEnv), a setting (env.xml_file)


@dataclass(frozen=True)
class ReportOptions:
    """Where the page goes, and what is written beside it."""

    out: str | None = None  # file, .html; usually report.html: in the folder of the only run, else here
    png: bool = False  # write a picture too, report.png
    csv: bool = False  # write every line of metrics too, report.csv


def evaluate(said: flags.Said, options: EvaluateOptions) -> int:
    """Play episodes with a policy and say how it did."""
    if len(said.words) == 2 and not learns(said.words[0]):
        return evaluate_planner(said.words[0], said.words[1], options)
    path, trusted = named_run("evaluate", said.words, options.out)
    from polyak.commands.results import as_json, say_evaluation
    from polyak.runs.setup import set_up_jax
    from polyak.show.terminal import Terminal, silent

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
    from polyak.commands.results import as_json, say_evaluation
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
    if options.window and options.out is not None:
        raise UserError(
            f"--window shows a policy and writes no video: leave out --window or --out {options.out}"
        )
    path, trusted = named_run("watch", said.words, options.folder)
    from polyak.runs.setup import set_up_jax
    from polyak.runs.watch import film, show
    from polyak.show.terminal import Terminal, number
    from polyak.show.window import KEYS

    set_up_jax()
    run = open_trusted(path, [*options.trust, *trusted])
    run = run.best() if options.best else run
    run = run if options.on is None else run.on(options.on)
    whose = options.seed, options.policy
    if run.plan.seeds > 1 and options.policy is None:
        print(f"seed {run.plan.seed}, the first of {run.plan.seeds}: --policy N shows another's policy")
    if options.window:
        print(f"in the window {KEYS}")
        made, returns = None, show(run, options.episodes, *whose, options.panel)
    else:
        made, returns = film(run, options.episodes or 1, options.out, *whose, Terminal(), options.panel)
    for episode, total in enumerate(returns):
        print(f"episode {episode + 1}: return {number(total)}")
    if made is not None:
        print(made)
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


def ladder(said: flags.Said, options: LadderOptions) -> int:
    """Let policies of a game play all against all, and rate them."""
    picture = None if options.out is None else Path(options.out)
    if picture is not None and picture.suffix.lower() != ".png":
        raise UserError(f"--out is a picture, .png, not {picture.name!r}")
    from polyak.runs import ladder as rungs
    from polyak.runs.setup import set_up_jax
    from polyak.show.terminal import Terminal, silent

    set_up_jax()
    entries = [rungs.entry(word, lambda path: open_trusted(path, options.trust)) for word in said.words]
    game, players = rungs.entrants(entries, options.simulations)
    matches = len(players) * (len(players) + 1) // 2
    terminal = Terminal(sys.stderr) if sys.stderr.isatty() else silent()
    with terminal.progress(matches, "matches") as progress:
        played = options.games, options.opening, options.longest, options.seed
        found = rungs.ladder(game, players, *played, met=progress.update)
    wide = max(len(name) for name in found.rated.names)
    print(f"{'':<{wide}}       Elo          points")
    for name, elo, half, points in found.best_first():
        print(f"{printable(name):<{wide}}  {elo:+6.0f} ± {half:<4.0f}  {points:9.1%}")
    if picture is not None:
        from polyak.show.ladder import draw_ladder

        print(draw_ladder(picture, found.best_first(), f"{options.games} games of each two"))
    return 0


def report(said: flags.Said, options: ReportOptions) -> int:
    """Write a page about runs."""
    from polyak.runs.report import report as write

    written = write(said.words, options.out, options.png, options.csv)
    for line in written.left_out:
        fail(line)
    for line in written.verdict:
        print(printable(line))
    for line in written.notes[:MOST_NOTES]:
        print(printable(f"note: {line}"))
    if more := written.notes[MOST_NOTES:]:
        print(f"note: {len(more)} more are on the page")
    for path in written.files:
        print(visible(str(path)))
    return 0


def digest(said: flags.Said, options: flags.NoOptions) -> int:
    """One line that equal runs share."""
    path = Path(said.words[0])
    RunFolder(path).config()
    from polyak.runs.run import Run

    print(Run(path).digest())
    return 0

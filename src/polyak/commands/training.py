"""`train` and `resume`: name and folder at once, everything heavy after that."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polyak import algorithms, flags
from polyak.commands.ending import INTERRUPTED
from polyak.commands.meant import newest, open_trusted
from polyak.errors import CheckpointError, UserError, printable, visible
from polyak.interface import within
from polyak.runs.folder import RunFolder, check_name, name_run
from polyak.runs.plan import Settings

if TYPE_CHECKING:
    from polyak.runs.run import Run


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


def train(said: flags.Said, settings: Settings) -> int:
    """Train: name and folder at once, everything heavy after that."""
    algorithm, env = said.words
    if env in algorithms.names() and algorithm not in algorithms.names():
        raise UserError(f"the algorithm comes first: polyak train {env} {algorithm}")
    algorithms.check(algorithm)
    name = check_name(settings.name) if settings.name is not None else name_run(algorithm, env, settings.out)
    path = Path(settings.out) / name
    say_header(path)
    from polyak.runs.beginning import facts, placed, plan_run
    from polyak.runs.run import Run
    from polyak.runs.setup import set_up_jax

    set_up_jax(settings.devices)
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
    from polyak.runs.beginning import facts
    from polyak.runs.setup import set_up_jax
    from polyak.show.terminal import Terminal, silent

    set_up_jax(folder.plan().devices)
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
    from polyak.commands.results import say_results, shown
    from polyak.runs import execute, loop
    from polyak.show.terminal import Terminal, silent

    terminal = silent() if quiet else Terminal()
    if there and run.finished:
        spent, unit = f"{run.plan.budget:,} {run.plan.unit}", run.plan.unit[:-1]
        reached = run.reached and f"--stop-at {run.plan.stop_at:g} was reached at {unit} {run.reached:,}"
        terminal.say(f"already finished: {reached or spent}")
    else:
        try:
            execute.train(session, run.folder, terminal, resume=there, facts=facts)
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

"""`check-env` and `doctor`: what is wrong with an environment, a machine or a run."""

from dataclasses import dataclass

from polyak import flags
from polyak.commands.meant import named_run, open_trusted
from polyak.errors import UserError
from polyak.interface import within


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

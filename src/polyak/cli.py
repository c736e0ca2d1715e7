"""The command line. Importing this imports no JAX; a command imports what it needs once its words are right."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from polyak import __version__, algorithms, flags
from polyak.commands.ending import BROKEN_PIPE, INTERRUPTED, REFUSED, fail
from polyak.commands.health import CheckOptions, DoctorOptions, check_env, doctor
from polyak.commands.lists import show_list
from polyak.commands.trained import (
    EvaluateOptions,
    LadderOptions,
    PlayOptions,
    ReportOptions,
    WatchOptions,
    digest,
    evaluate,
    ladder,
    play,
    report,
    watch,
)
from polyak.commands.training import ResumeOptions, resume, train
from polyak.errors import UserError, nearest, printable
from polyak.files import silence
from polyak.runs.plan import Settings
from polyak.signals import listening

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
  watch RUN | ALGO ENV       make a video of a trained policy, or show it
  play RUN | ALGO ENV        play a board game against a trained policy
  ladder RUN...              let policies of a board game meet, and rate them
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


EXAMPLES = {
    "train": "td3 Pendulum-v1 --steps 20000",
    "resume": "runs/NAME",
    "evaluate": "td3 Pendulum-v1 --episodes 100",
    "watch": "runs/NAME --out policy.mp4",
    "play": "runs/NAME --first agent",
    "ladder": "runs/small runs/large runs/large@100000 --out elo.png",
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
    "watch": Command(
        watch, WatchOptions(), "RUN|ALGO ENV", "Film a trained policy, or show it in a window.", 1, 2
    ),
    "play": Command(play, PlayOptions(), "RUN|ALGO ENV", "Play a board game against a trained policy.", 1, 2),
    "ladder": Command(
        ladder,
        LadderOptions(),
        "RUN[@STEPS]|PLANNER:SIMULATIONS...",
        "Rate policies of a board game.",
        1,
        200,
    ),
    "report": Command(report, ReportOptions(), "RUN...", "Show and compare runs on one page.", 1, 200),
    "digest": Command(digest, flags.NoOptions(), "RUN", "One hash of all that a run learned.", 1, 1),
    "list": Command(
        show_list,
        flags.NoOptions(),
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

"""Runs, for Python and the command line: train, resume, load, evaluate."""

import dataclasses
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from polyak.drivers.act import actors
from polyak.envs.adapters.processes import check_main_guard
from polyak.envs.border import Border
from polyak.envs.find import name_of
from polyak.errors import CheckpointError, UserError, brief
from polyak.interface import Algorithm, Spec
from polyak.runs.algorithm import wrapped
from polyak.runs.beginning import facts, placed, plan_run
from polyak.runs.decide import settings_of
from polyak.runs.evaluation import Evaluation, play
from polyak.runs.events import Callback, callbacks
from polyak.runs.execute import best_kept
from polyak.runs.execute import train as run_loop
from polyak.runs.folder import RunFolder, check_name, name_run
from polyak.runs.plan import Plan, Settings, check_stop
from polyak.runs.policy import Policy
from polyak.runs.reading import STATE, state_shapes
from polyak.runs.session import Session
from polyak.runs.setup import set_up_jax
from polyak.runs.spec import read_border, read_spec
from polyak.runs.values import amend, convert, whole
from polyak.show.curve import curve_of, save
from polyak.show.terminal import Terminal, silent
from polyak.store import checkpoint, storage


class Run:
    """A run on disk. `load` makes one without making an environment or running any code from the folder."""

    def __init__(
        self, path: str | Path, env: Any = None, algorithm: str | None = None, trust: Iterable[str] = ()
    ):
        self.folder = RunFolder(Path(path))
        self.config = self.folder.config()
        self.plan = self.folder.plan()
        self.trusted = {name for name in (env if env is None else name_of(env), algorithm, *trust) if name}
        self.given = None if isinstance(env, str) else env
        if self.given is not None and not self.plan.is_object and name_of(env) != self.plan.env:
            raise UserError(f"{self.path} was trained on {self.plan.env}, not on {name_of(env)}")
        self.step: int | None = None  # of the checkpoint that is looked at; None: the newest
        self.elsewhere: str | None = None  # environment that its policy plays in; None: the run's own
        self.warn: Callable[[str], Any] = warnings.warn  # told where an older checkpoint had to be used

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every line logged so far."""
        return self.folder.metrics()

    @property
    def finished(self) -> bool:
        """Whether the whole budget is spent, or `stop_at` reached, what came of it kept whole, and evaluated."""
        newest = checkpoint.latest(self.folder.checkpoints)
        if newest is None or not (int(newest.name) >= self.plan.budget or self.reached is not None):
            return False
        if not checkpoint.is_sound(newest):
            return False
        return not self.plan.eval_every or self.folder.evaluated(int(newest.name), self.plan.seeds)

    @property
    def reached(self) -> int | None:
        """Place of the newest checkpoint where its evaluation reached the plan's `stop_at`, else None."""
        newest = checkpoint.latest(self.folder.checkpoints)
        if self.plan.stop_at is None or newest is None:
            return None
        returns = self.folder.evaluations(self.plan.seeds).get(int(newest.name))
        return int(newest.name) if returns and np.mean(returns) >= self.plan.stop_at else None

    def trust(self) -> Session:
        """The session of this run; UserError where that would import code which only the folder names."""
        if self.plan.is_object and self.given is None:
            what = self.plan.env.partition(":")[2]
            raise UserError(
                f"{self.path} was trained on an environment that was given as an object ({what}): give it again, "
                f"in Python, as in polyak.load({str(self.path)!r}, env=...)"
            )
        self.check_trust()
        if self.elsewhere is None:
            return Session(self.plan, self.given)
        session = Session(dataclasses.replace(self.plan, env=self.elsewhere))
        session.check_spaces(self.spec)
        return session

    def check_trust(self) -> None:
        """UserError where the run asks for what is not followed from a file alone, and how to allow it."""
        unknown = [name for name in self.plan.to_trust if name not in self.trusted]
        begins = checkpoint.latest(self.folder.checkpoints) is None
        runs = [name for name in self.plan.begins_with if begins and name not in self.trusted]
        if runs:
            flags = " ".join(f"--trust {shlex.quote(name)}" for name in runs)
            raise UserError(
                f"{self.path} has no checkpoint yet and begins with what other runs learned ({', '.join(runs)}); "
                f"if you trust it, add {flags}, or give the command that made it again"
            )
        if not unknown:
            return
        settings = [name for name in unknown if name.startswith(("env.", "eval-env.")) and ":" not in name]
        code = [name for name in unknown if name not in settings]
        asks = [f"names code to import or data to fetch ({', '.join(code)})"] * bool(code)
        asks += [f"gives an environment more than numbers ({', '.join(settings)})"] * bool(settings)
        flags = " ".join(f"--trust {shlex.quote(name)}" for name in unknown)
        raise UserError(f"{self.path} {' and '.join(asks)}; if you trust it, add {flags}")

    @cached_property
    def spec(self) -> Spec:
        """The spaces that the policy was trained on, as the checkpoint describes them."""
        return read_spec(self._raw[1], self.path)

    @cached_property
    def border(self) -> Border:
        """The environment's own spaces, as the checkpoint describes them."""
        return read_border(self._raw[1], self.spec, self.path)

    @cached_property
    def _raw(self) -> tuple[dict[str, np.ndarray], dict]:
        if checkpoint.latest(self.folder.checkpoints) is None:
            raise CheckpointError(f"{self.path} has no complete checkpoint yet")
        if self.step is not None:
            arrays, manifest = checkpoint.read(self.kept[self.step])
        else:
            arrays, manifest = checkpoint.read_whole(self.folder.checkpoints, self.warn)
        return arrays, manifest["extra"]

    @property
    def kept(self) -> dict[int, Path]:
        """The checkpoints that are kept, by their steps."""
        return {int(path.name): path for path in checkpoint.complete(self.folder.checkpoints)}

    def at(self, step: int) -> "Run":
        """The same run as its checkpoint after so many steps has it; UserError names those that are kept."""
        if step not in self.kept:
            raise UserError(
                f"{self.path} has no checkpoint at step {step}: kept are {', '.join(map(str, self.kept)) or 'none'}"
            )
        return self._like(step=step)

    def on(self, env: str) -> "Run":
        """The same run, whose policy is evaluated and filmed in another environment that has the same spaces.

        It has the fields of the run's evaluation. UserError, when it is made, where its spaces are others.
        """
        return self._like(elsewhere=env)

    def _like(self, **changed: Any) -> "Run":
        other = Run(self.path)
        for name in ("trusted", "given", "warn", "step", "elsewhere"):
            setattr(other, name, changed.get(name, getattr(self, name)))
        return other

    def best(self) -> "Run":
        """The run as the checkpoint has it that evaluated best, mean over seeds, of those that are kept."""
        found = self.evaluated_best()
        if found is None:
            raise UserError(f"{self.path} has no checkpoint that was evaluated: name one with --at STEP")
        return self.at(found[0])

    def evaluated_best(self) -> tuple[int, float] | None:
        """Place of the checkpoint that evaluated best of those that are kept, and how well; None without any."""
        evaluations = self.folder.evaluations(self.plan.seeds)
        steps = best_kept(self.folder, evaluations)
        return (steps[0], float(np.mean(evaluations[steps[0]]))) if steps else None

    def state(self) -> Any:
        """The algorithm's state [S, ...] of the last checkpoint."""
        name = self.plan.algorithm
        if ":" in name and name not in self.trusted:
            raise UserError(
                f"{self.path} names code to import: if you trust it, load it with algorithm={brief(name)}"
            )
        arrays, _ = self._raw
        template = state_shapes(self.plan, self.spec, storage.fields(arrays), self.path)
        own = {name.removeprefix(STATE): value for name, value in arrays.items() if name.startswith(STATE)}
        return jax.tree.map(jnp.array, storage.unflatten(template, own, self.path))

    def policy(self, seed: int | None = None) -> Policy:
        """The policy of one seed (the first, unless said), for one observation or a batch of them."""
        seed = self.plan.seed if seed is None else whole("seed", seed, 0)
        if seed not in self.plan.all_seeds:
            raise UserError(f"seed {seed} was not trained; this run has {list(self.plan.all_seeds)}")
        from polyak.drivers.program import map_seeded

        index = seed - self.plan.seed
        return Policy(self.plan, self.spec, self.border, map_seeded(lambda x: x[index], self.state()))

    def evaluate(
        self, episodes: int = 20, seed: int | None = None, sample: bool = False, limit: int | None = None
    ) -> Evaluation:
        """Play so many episodes of each seed; `seed` chooses other episodes, `sample` explores.

        limit  steps where an episode is cut, instead of the run's `eval_limit`
        """
        session = self.trust()
        actor = actors(session.algorithm)(self.state())
        return play(session, actor, episodes, seed, sample, limit, self.warn)

    def plot(self, out: str | Path | None = None) -> Figure:
        """The learning curve, as a figure that a notebook shows; written as a PNG too where `out` names a file."""
        figure = curve_of(self.metrics, f"{self.plan.algorithm} on {self.plan.env}")
        if out is not None:
            save(figure, Path(out))
        return figure

    def to_dataframe(self) -> Any:
        """Every line logged so far as a pandas DataFrame, a column for each metric; UserError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                "to_dataframe needs pandas, which is not installed: pip install pandas, or use run.metrics, a list "
                "of the same lines"
            ) from error
        lines = self.metrics
        first = ["env_steps", "updates", "seed"]
        names = sorted({name for line in lines for name in line} - set(first))
        return pandas.DataFrame(lines, columns=[*first, *names])

    def digest(self) -> str:
        """One SHA-256 over every array of the last checkpoint and the metrics without time."""
        return checkpoint.digest(self.path)

    def resume(
        self,
        terminal: Terminal | None = None,
        steps: int | None = None,
        address: str | None = None,
        updates: int | None = None,
        stop_at: float | None = None,
        track: str | None = None,
        on_log: Callback | None = None,
        on_evaluation: Callback | None = None,
        on_checkpoint: Callback | None = None,
    ) -> "Run":
        """Go on to the end of its budget, bit for bit as if it had never stopped.

        steps    another budget: schedules over the whole run are stretched to it
        updates  the same of a run that takes no environment step
        address  HOST:PORT of a Ray cluster that is there
        stop_at  another return whose evaluation ends it; infinity: none
        track    wandb, mlflow or trackio: send metrics there too
        on_...   functions of an `Event`, as of `polyak.train`
        """
        if self.elsewhere is not None:
            raise UserError(
                f"{self.path} was trained on {self.plan.env}, and goes on there alone: leave out on()"
            )
        told = callbacks(on_log=on_log, on_evaluation=on_evaluation, on_checkpoint=on_checkpoint)
        more = {unit: value for unit, value in (("steps", steps), ("updates", updates)) if value is not None}
        with self.folder.held() if more or stop_at is not None else nullcontext():
            terminal = terminal or silent()
            if stop_at is not None:
                self.stop_at(stop_at)
            self.lengthen(more, terminal)
            session = self.trust()
            session.address = address
            session.track = amend(Settings(), {"track": track}).track
            if not self.finished:
                set_up_jax(session.plan.devices)
                try:
                    run_loop(
                        session, self.folder, terminal, resume=True, facts=facts(session, ""), callbacks=told
                    )
                finally:
                    self.__dict__.pop("_raw", None)  # there is a newer checkpoint
        return self

    def stop_at(self, wanted: float) -> None:
        """Let another return of an evaluation end the run; infinity: none does."""
        self.check_trust()
        try:
            kept = None if wanted == float("inf") else convert(wanted, float)
        except ValueError as error:
            raise UserError(f"stop_at is {brief(wanted)}, but must be {error}") from None
        check_stop(kept, self.plan.eval_every)
        if kept != self.plan.stop_at:
            plan = dataclasses.replace(self.plan, stop_at=kept)
            newest = checkpoint.latest(self.folder.checkpoints)
            self.folder.replan(plan, 0 if newest is None else int(newest.name))
            self.plan, self.config = plan, self.folder.config()

    def lengthen(self, more: Mapping[str, int], terminal: Terminal) -> None:
        """Give the run another budget, and say what becomes of its schedules. UserError where it went further.

        more  the budget by its unit, "steps" or "updates"; nothing: it stays
        """
        if not more:
            return
        self.check_trust()
        unit = self.plan.unit
        if other := more.keys() - {unit}:
            raise UserError(f"--{other.pop()}: the budget of {self.path} is counted in {unit}: say --{unit}")
        if more[unit] == self.plan.budget:
            return
        newest = checkpoint.latest(self.folder.checkpoints)
        made, budget = 0 if newest is None else int(newest.name), more[unit]
        if budget <= made:
            raise UserError(f"--{unit} is {budget:,}, but {self.path} has made {made:,}: give more")
        plan = dataclasses.replace(self.plan, **more)
        terminal.say(f"the budget is now {budget:,} {unit}, it was {self.plan.budget:,}")
        say_horizon(self.plan, plan, wrapped(plan), terminal)
        self.folder.replan(plan, made)
        self.plan, self.config = plan, self.folder.config()


def say_horizon(before: Plan, plan: Plan, algorithm: Algorithm, terminal: Terminal) -> None:
    """Say how far schedules run under a new plan, where there are any."""
    old, new = (getattr(each.settle(algorithm.Config()), "horizon", None) for each in (before, plan))
    if old is None or new is None:
        return
    if old != new:
        terminal.say(f"schedules run to step {new:,}, before to step {old:,}")
    elif new < plan.budget:
        terminal.say(f"config.horizon is {new:,}: from that step on schedules stand at their end")


def train(
    algorithm: str,
    env: Any,
    *,
    steps: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    config: Any = None,
    env_fields: Mapping[str, Any] | None = None,
    eval_env_fields: Mapping[str, Any] | None = None,
    verbose: bool = True,
    on_log: Callback | None = None,
    on_evaluation: Callback | None = None,
    on_checkpoint: Callback | None = None,
    **settings: Any,
) -> Run:
    """Train, and return the finished run.

    env       a name; or an environment itself, its class, a function that makes one, or Gymnasium's EnvSpec.
              What no name brings back is asked for again by `load`. One instance is not evaluated on the way.
    config    values of the algorithm's Config by name ({"data.batch_size": 64}), or a whole Config
    settings  what else `Settings` has: num_envs, eval_every, checkpoint_every, out, name, wrap, preset, ...
    on_...    functions of an `Event`, called after each log line, evaluation and checkpoint. One that returns False
              ends the run, saved and resumable; what one raises is raised here, once the run is saved
    Raises UserError for a mistake, EnvironmentFault where the environment breaks its contract.
    """
    check_main_guard()
    told = callbacks(on_log=on_log, on_evaluation=on_evaluation, on_checkpoint=on_checkpoint)
    said = settings_of(algorithm, {**settings, "steps": steps, "seed": seed, "seeds": seeds})
    set_up_jax(said.devices)
    session, note = plan_run(algorithm, env, said, config, env_fields, eval_env_fields)
    trusted = {
        "env": env,
        "algorithm": algorithm,
        "trust": [*session.plan.to_trust, *session.plan.begins_with],
    }
    name = name_run(algorithm, name_of(env), said.out) if said.name is None else check_name(said.name)
    with placed(Path(said.out) / name, said.name is not None, session, note) as (folder, there):
        terminal = Terminal() if verbose and not said.quiet else silent()
        terminal.header(f"{folder.path.name}\n{folder.path}")
        run = Run(folder.path, **trusted)
        if not (there and run.finished):
            run_loop(session, folder, terminal, resume=there, facts=facts(session, note), callbacks=told)
    return Run(folder.path, **trusted)


def load(
    path: str | Path, *, env: Any = None, algorithm: str | None = None, trust: Iterable[str] = ()
) -> Run:
    """A run from disk; makes no environment and runs no code from the folder.

    env, algorithm  repeat a name of your own code (`my_module:MyEnv`) to say that you trust it; `env` may also
                    be what was trained on, and must where that has no name
    trust           what else of the folder you trust, as `--trust` takes it: ["env.xml_file"]
    """
    return Run(path, env, algorithm, trust)

"""Runs, for Python and the command line: train, resume, load, evaluate."""

import copy
import dataclasses
import io
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from polyak.drivers.act import actors
from polyak.envs.adapters.gymnasium import OneGymnasium, check_main_guard
from polyak.envs.border import Border
from polyak.envs.environment import Environment, flat_actions
from polyak.envs.find import find, name_of
from polyak.errors import CheckpointError, UserError, brief
from polyak.interface import Algorithm, Spec, rows_of
from polyak.runs import inputs
from polyak.runs.events import Callback, callbacks
from polyak.runs.folder import RunFolder, check_name, claimed, name_run, versions
from polyak.runs.loop import best_kept
from polyak.runs.loop import train as run_loop
from polyak.runs.plan import (
    Plan,
    Settings,
    check_stop,
    make_plan,
    note_of,
    plain_fields,
    preset,
    preset_fields,
    settings_of,
)
from polyak.runs.reading import STATE, state_shapes
from polyak.runs.session import Session, close, gigabytes, with_given, wrapped
from polyak.runs.setup import set_up_jax
from polyak.runs.spec import read_border, read_spec, show_space
from polyak.runs.values import amend, convert, whole
from polyak.show.curve import curve_of, interquartile_mean, save
from polyak.show.terminal import Terminal
from polyak.store import checkpoint, storage


@dataclass(frozen=True)
class Evaluation:
    """Returns [S, E] of E episodes for each of S seeds."""

    returns: np.ndarray
    lengths: np.ndarray
    measures: dict[str, np.ndarray]
    seeds: list[int]
    ratios: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)  # as of `Spec`

    def ratio(self, name: str) -> tuple[float, float, float]:
        """A ratio over all episodes, NaN where it is one by nothing; the sum above, the sum below."""
        above, below = (float(self.measures[part].sum()) for part in self.ratios[name])
        return above / below if below else float("nan"), above, below

    def summary(self) -> dict[str, Any]:
        """One JSON object: over all episodes, and for each seed."""
        per_seed = [
            {"seed": seed, "mean_return": float(row.mean()), "std_return": float(row.std())}
            for seed, row in zip(self.seeds, self.returns, strict=True)
        ]
        return {
            "mean_return": float(self.returns.mean()),
            "std_return": float(self.returns.std()),
            "iqm_return": float(interquartile_mean(self.returns.mean(axis=1))),
            "min_return": float(self.returns.min()),
            "max_return": float(self.returns.max()),
            "mean_length": float(self.lengths.mean()),
            "episodes": int(self.returns.size),
            "env_steps": int(self.lengths.sum()),
            **{name: float(value.mean()) for name, value in self.measures.items()},
            **{name: self.ratio(name)[0] for name in self.ratios},
            "per_seed": per_seed,
        }


class Policy:
    """A trained policy as a function of observations in the environment's own terms; needs no environment.

    With `explore` it draws from a stream of random numbers that moves from call to call.
    """

    def __init__(self, plan: Plan, spec: Spec, border: Border, state: Any):
        self.algorithm, self.spec, self.border = wrapped(plan), spec, border
        self.flat = with_given(plan, flat_actions(spec))
        self.cfg = plan.settle(self.algorithm.Config())
        self.actor = self.algorithm.actor(state)
        self.state = state if self.algorithm.value else None
        self.seed, self.draws = plan.seed, 0
        self._valuing = jax.jit(self._value)
        self._acting = jax.jit(self._act, static_argnames="explore")
        self._beginning = jax.jit(self._begin, static_argnames="count")

    def of_state(self, state: Any) -> "Policy":
        """The same policy with a newer state of its algorithm; what was compiled stays, and its stream goes on."""
        newer = copy.copy(self)
        newer.actor = self.algorithm.actor(state)
        newer.state = state if self.algorithm.value else None
        return newer

    def initial(self, count: int = 1) -> Any:
        """The memory of `count` environments at the start of an episode."""
        return self._beginning(np.uint32(0), np.uint32(0), count=whole("count", count, 0))

    def __call__(
        self, obs: Any, memory: Any = None, explore: bool = False, seed: int | None = None
    ) -> tuple[Any, Any]:
        """From one observation, or a batch of them [N, ...], to an action, or actions [N, ...], and memory.

        memory   what the last call gave, in the same episode; None where one begins
        explore  act as in training; else as in evaluation
        seed     begin the stream of random numbers anew: the same seed, the same stream
        UserError, one line, where an observation does not lie in its space.
        """
        if self.cfg.data.simulator:
            raise UserError(
                "this policy plans with the environment's own state, which an observation is not: use evaluate or watch"
            )
        rows, single = self.border.observe(obs)
        action, memory = self.act(rows, memory, explore, seed)
        return self.border.act(action, single), memory

    def act(
        self, obs: Any, memory: Any = None, explore: bool = False, seed: int | None = None
    ) -> tuple[np.ndarray, Any]:
        """From observations [N, ...] as the drivers give them to actions [N, ...] as the algorithm gives them."""
        if seed is not None:
            self.seed, self.draws = whole("seed", seed, 0), 0
        draw = np.uint32(self.seed), np.uint32(self.draws if explore else 0)
        self.draws += explore
        if memory is None:
            begin = draw if explore else (np.uint32(0), np.uint32(0))
            memory = self._beginning(*begin, count=len(jax.tree.leaves(obs)[0]))
        action, memory = self._acting(self.actor, memory, obs, *draw, explore=explore)
        return np.asarray(action), memory

    def value(self, obs: Any, action: Any) -> np.ndarray | None:
        """Returns [N] that its algorithm expects from observations [N, ...] on, as `act` has them; None of others."""
        return None if self.state is None else np.asarray(self._valuing(self.state, obs, action))

    def _value(self, state: Any, obs: Any, action: Any) -> Any:
        assert self.algorithm.value is not None
        return self.algorithm.value(self.cfg, self.flat, state, obs, action)

    def _act(self, actor: Any, memory: Any, obs: Any, seed: Any, draw: Any, explore: bool) -> tuple:
        key, _ = _draw_keys(seed, draw)
        action, memory, _ = self.algorithm.act(self.cfg, self.flat, actor, memory, obs, key, explore)
        return action, memory

    def _begin(self, seed: Any, draw: Any, count: int) -> Any:
        _, key = _draw_keys(seed, draw)
        ids = jnp.arange(count)
        return self.algorithm.memory(self.cfg, self.flat, ids, jnp.zeros_like(ids), key)


def _draw_keys(seed: Any, draw: Any) -> tuple[jax.Array, jax.Array]:
    """Keys of one draw from a stream: for the action, and for a memory that begins with it."""
    key_act, key_memory = jax.random.split(jax.random.fold_in(jax.random.key(seed), draw))
    return key_act, key_memory


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
                set_up_jax()
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


def play(
    session: Session,
    actor: Any,
    episodes: int,
    seed: int | None,
    sample: bool,
    limit: int | None = None,
    warn: Callable[[str], Any] = warnings.warn,
) -> Evaluation:
    """Play so many episodes with an actor [S, ...] on environments that are made for this."""
    first = None if seed is None else whole("seed", seed, 0)
    limit = None if limit is None else whole("limit", limit, 1)
    evaluator = session.make_evaluator(whole("episodes", episodes, 1), first, sample, limit)
    try:
        played = evaluator(actor)
    finally:
        close(evaluator, warn)
    assert played is not None  # nobody stops it
    if played.cut:
        warn(f"{played.cut} episodes were cut at {evaluator.limit:,} steps (--limit)")
    seeds, ratios = list(session.plan.all_seeds), session.env_spec.ratios
    return Evaluation(played.total, played.length, played.measures, seeds, ratios)


def facts(session: Session, note: str) -> dict[str, str]:
    """Facts that a person wants to know before a run begins."""
    plan, spec, data = session.plan, session.env_spec, session.cfg.data
    found = versions()
    shown = {
        "versions": " ".join(
            f"{name} {found[name]}" for name in ("polyak", "python", "jax") if name in found
        ),
        "device": device(),
        "spaces": f"{show_space(spec.obs)} -> {show_space(spec.action)}",
    }
    per = data.updates if plan.updates else rows_of(data, spec.time_limit) * spec.num_envs
    total = -(-plan.budget // per) * per
    rounded = (
        f" (rounded up from {plan.budget:,} to whole iterations of {per:,})" if total != plan.budget else ""
    )
    seeds = f" x {plan.seeds} seeds" if plan.seeds > 1 else ""
    envs = f", {spec.num_envs} environments" if spec.num_envs > 1 else ""
    shown["budget"] = f"{total:,} {plan.unit}{seeds}{envs}{rounded}"
    if data.replays:
        shown["replay"] = f"{gigabytes(session.planned_bytes)} for {data.capacity:,} transitions{seeds}"
    if note:
        shown["preset"] = note
    if plan.wrap:
        shown["wrap"] = ", ".join(plan.wrap)
    return shown


def device() -> str:
    """Name of the device that computes."""
    devices = jax.devices()
    kind = devices[0].device_kind
    return kind if devices[0].platform == "cpu" else f"{len(devices)} x {kind}"


def silent() -> Terminal:
    """A terminal that nobody reads."""
    return Terminal(io.StringIO(), live=False)


def plan_run(
    algorithm: str,
    env: Any,
    settings: Settings,
    config: Any = None,
    env_fields: Mapping[str, Any] | None = None,
    eval_env_fields: Mapping[str, Any] | None = None,
) -> tuple[Session, str]:
    """The session of a run that is to begin, checked, and a note on its preset; nothing is written yet."""
    given, env = (None if isinstance(env, str) else env), name_of(env)
    tuned = preset(algorithm, env) if settings.preset else {}
    plain_fields(env_fields, "env")  # what no file can keep is said before it reaches the environment
    env_fields, eval_env_fields = preset_fields(tuned, env_fields, eval_env_fields)
    world = find(env if given is None else given, env_fields, settings.measures)
    kind = {"in_graph": isinstance(world, Environment), "alone": isinstance(world, OneGymnasium)}
    plan = make_plan(algorithm, env, settings, config, env_fields, eval_env_fields, **kind)
    session = Session(inputs.recorded(plan), given, settings.address, settings.track)
    session.check()
    session.check_budget()
    inputs.check(session)
    return session, note_of(tuned)


@contextmanager
def placed(path: Path, chosen: bool, session: Session, note: str) -> Iterator[tuple[RunFolder, bool]]:
    """The folder of a run, held for it, and whether the same run is there already.

    chosen  by the user; if not, another run that took the name in the meantime keeps it
    """
    plan, name, count = session.plan, path.name, 1
    while not chosen and not claimed(path):
        count += 1
        path = path.with_name(f"{name}-{count}")
    folder = RunFolder(path)
    with folder.held():
        if not folder.begun:
            folder.create(plan, note, device())
            yield folder, False
            return
        if (there := folder.plan()) != plan:
            instead = "resume it as it is"
            same = dataclasses.replace(there, **{plan.unit: plan.budget}) == plan
            if same and plan.budget > there.budget:
                instead = f"polyak resume {folder.path} --{plan.unit} {plan.budget}"
            if dataclasses.replace(there, stop_at=plan.stop_at) == plan:
                instead = f"polyak resume {folder.path} --stop-at {plan.stop_at}"
            raise UserError(
                f"{folder.path} is a run with other settings ({there.differences(plan)}): "
                f"choose another --name, or {instead}"
            )
        yield folder, True


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
    set_up_jax()
    said = settings_of(algorithm, {**settings, "steps": steps, "seed": seed, "seeds": seeds})
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

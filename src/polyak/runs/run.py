"""Runs, for Python and the command line: train, resume, load, evaluate."""

import dataclasses
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.act import actors
from polyak.drivers.learn import initial_states
from polyak.envs.adapters.gymnasium import check_main_guard
from polyak.envs.environment import Environment, flat_actions, to_bounds
from polyak.envs.find import find
from polyak.errors import CheckpointError, UserError
from polyak.interface import Algorithm, Spec
from polyak.runs.folder import RunFolder, check_name, claimed, name_run, versions
from polyak.runs.loop import train as run_loop
from polyak.runs.plan import Plan, Settings, is_code, make_plan, preset
from polyak.runs.session import Session, close, gigabytes, wrapped
from polyak.runs.setup import set_up_jax
from polyak.runs.spec import read_spec, show_space
from polyak.runs.values import amend
from polyak.show.curve import interquartile_mean
from polyak.show.terminal import Terminal
from polyak.store import checkpoint, storage


@dataclass(frozen=True)
class Evaluation:
    """Returns [S, E] of E episodes for each of S seeds."""

    returns: np.ndarray
    lengths: np.ndarray
    measures: dict[str, np.ndarray]
    seeds: list[int]

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
            "per_seed": per_seed,
        }


class Policy:
    """A trained policy as a function of observations; needs no environment."""

    def __init__(self, plan: Plan, spec: Spec, state: Any):
        self.algorithm, self.spec, self.flat = wrapped(plan), spec, flat_actions(spec)
        self.cfg = plan.settle(self.algorithm.Config())
        self.actor = self.algorithm.actor(state)
        self.programs = {explore: jax.jit(self._act, static_argnums=3) for explore in (True, False)}

    def _act(self, memory: Any, obs: Any, key: jax.Array, explore: bool) -> tuple:
        action, memory, _ = self.algorithm.act(self.cfg, self.flat, self.actor, memory, obs, key, explore)
        return action, memory

    def initial(self, count: int = 1) -> Any:
        """The memory of `count` environments at the start of an episode."""
        ids = jnp.arange(count)
        return self.algorithm.memory(self.cfg, self.flat, ids, jnp.zeros_like(ids), jax.random.key(0))

    def __call__(self, obs: Any, memory: Any = None, explore: bool = False, seed: int = 0) -> tuple[Any, Any]:
        """From observations [N, ...] to actions [N, ...] in the environment's own bounds, and memory."""
        action, memory = self.act(obs, memory, explore, seed)
        return to_bounds(self.spec.action, action), memory

    def act(self, obs: Any, memory: Any = None, explore: bool = False, seed: int = 0) -> tuple[Any, Any]:
        """From observations [N, ...] to actions [N, ...] as the algorithm gives them, and memory."""
        if memory is None:
            memory = self.initial(len(jax.tree.leaves(obs)[0]))
        action, memory = self.programs[explore](memory, obs, jax.random.key(seed), explore)
        return np.asarray(action), memory


class Run:
    """A run on disk. `load` makes one without making an environment or running any code from the folder."""

    def __init__(self, path: str | Path, env: str | None = None, algorithm: str | None = None):
        self.folder = RunFolder(Path(path))
        self.config = self.folder.config()
        self.plan = self.folder.plan()
        self.trusted = {name for name in (env, algorithm) if name}
        self.step: int | None = None  # of the checkpoint that is looked at; None: the newest
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
        """Whether the whole budget is spent, and what came of it evaluated."""
        newest = checkpoint.latest(self.folder.checkpoints)
        if newest is None or int(newest.name) < self.plan.steps:
            return False
        return not self.plan.eval_every or self.folder.evaluated(int(newest.name), self.plan.seeds)

    def trust(self) -> Session:
        """The session of this run; UserError where that would import code which only the folder names."""
        unknown = [name for name in self.plan.imports if name not in self.trusted]
        if unknown:
            flag = "--trust " + " --trust ".join(unknown)
            raise UserError(
                f"{self.path} names code to import ({', '.join(unknown)}); if you trust it, add {flag}"
            )
        return Session(self.plan)

    @cached_property
    def spec(self) -> Spec:
        """The spaces that the policy was trained on, as the checkpoint describes them."""
        return read_spec(self._raw[1], self.path)

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
        other = Run(self.path)
        other.trusted, other.warn, other.step = self.trusted, self.warn, step
        return other

    def best(self) -> "Run":
        """The run as the checkpoint has it that evaluated best, mean over seeds, of those that are kept."""
        totals: dict[int, list[float]] = {}
        for line in self.metrics:
            if line["env_steps"] in self.kept and line.get("eval/return") is not None:
                totals.setdefault(line["env_steps"], []).append(line["eval/return"])
        if not totals:
            raise UserError(f"{self.path} has no checkpoint that was evaluated: name one with --at STEP")
        return self.at(max(totals, key=lambda step: (float(np.mean(totals[step])), step)))

    def state(self) -> Any:
        """The algorithm's state [S, ...] of the last checkpoint."""
        name = self.plan.algorithm
        if is_code(name) and name not in self.trusted:
            raise UserError(
                f"{self.path} names code to import: if you trust it, load it with algorithm={name!r}"
            )
        algorithm = wrapped(self.plan)
        cfg = self.plan.settle(algorithm.Config())
        seeds = list(self.plan.all_seeds)
        template = jax.eval_shape(lambda: initial_states(algorithm, cfg, flat_actions(self.spec), seeds))
        prefix = "state/"
        arrays = {
            name[len(prefix) :]: value for name, value in self._raw[0].items() if name.startswith(prefix)
        }
        return jax.tree.map(jnp.array, storage.unflatten(template, arrays, self.path))

    def policy(self, seed: int | None = None) -> Policy:
        """The policy of one seed (the first, unless said), for observations [N, ...]."""
        seed = self.plan.seed if seed is None else seed
        if seed not in self.plan.all_seeds:
            raise UserError(f"seed {seed} was not trained; this run has {list(self.plan.all_seeds)}")
        from polyak.drivers.program import map_seeded

        index = seed - self.plan.seed
        return Policy(self.plan, self.spec, map_seeded(lambda x: x[index], self.state()))

    def evaluate(
        self, episodes: int = 20, seed: int | None = None, sample: bool = False, limit: int | None = None
    ) -> Evaluation:
        """Play so many episodes of each seed; `seed` chooses other episodes, `sample` explores.

        limit  steps where an episode is cut, instead of the run's `eval_limit`
        """
        session = self.trust()
        evaluator = session.make_evaluator(episodes, seed, sample, limit)
        try:
            played = evaluator(actors(session.algorithm)(self.state()))
        finally:
            close(evaluator, self.warn)
        assert played is not None  # nobody stops it
        if played.cut:
            self.warn(f"{played.cut} episodes were cut at {evaluator.limit:,} steps (--limit)")
        return Evaluation(played.total, played.length, played.measures, list(self.plan.all_seeds))

    def digest(self) -> str:
        """One SHA-256 over every array of the last checkpoint and the metrics without time."""
        return checkpoint.digest(self.path)

    def resume(self, terminal: Terminal | None = None, steps: int | None = None) -> "Run":
        """Go on to the end of its budget, bit for bit as if it had never stopped.

        steps  another budget: schedules over the whole run are stretched to it
        """
        with self.folder.held() if steps is not None else nullcontext():
            terminal = terminal or silent()
            if steps is not None:
                self.lengthen(steps, terminal)
            session = self.trust()
            if not self.finished:
                set_up_jax()
                run_loop(session, self.folder, terminal, resume=True, facts=facts(session, ""))
        return self

    def lengthen(self, steps: int, terminal: Terminal) -> None:
        """Give the run another budget, and say what becomes of its schedules. UserError where it went further."""
        newest = checkpoint.latest(self.folder.checkpoints)
        done = 0 if newest is None else int(newest.name)
        if steps == self.plan.steps:
            return
        if steps <= done:
            raise UserError(f"--steps is {steps:,}, but {self.path} has made {done:,}: give more")
        plan = dataclasses.replace(self.plan, steps=steps)
        terminal.say(f"the budget is now {steps:,} steps, it was {self.plan.steps:,}")
        say_horizon(self.plan, plan, wrapped(plan), terminal) if not is_code(plan.algorithm) else None
        self.folder.replan(plan, done)
        self.plan, self.config = plan, self.folder.config()


def say_horizon(before: Plan, plan: Plan, algorithm: Algorithm, terminal: Terminal) -> None:
    """Say how far schedules run under a new plan, where there are any."""
    old, new = (getattr(each.settle(algorithm.Config()), "horizon", None) for each in (before, plan))
    if old is None or new is None:
        return
    if old != new:
        terminal.say(f"schedules run to step {new:,}, before to step {old:,}")
    elif new < plan.steps:
        terminal.say(f"config.horizon is {new:,}: from that step on schedules stand at their end")


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
    per = data.steps * spec.num_envs
    total = -(-plan.steps // per) * per
    rounded = (
        f" (rounded up from {plan.steps:,} to whole iterations of {per:,})" if total != plan.steps else ""
    )
    seeds = f" x {plan.seeds} seeds" if plan.seeds > 1 else ""
    envs = f", {spec.num_envs} environments" if spec.num_envs > 1 else ""
    shown["budget"] = f"{total:,} steps{seeds}{envs}{rounded}"
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
    env: str,
    settings: Settings,
    config: Any = None,
    env_fields: Mapping[str, Any] | None = None,
    eval_env_fields: Mapping[str, Any] | None = None,
) -> tuple[Session, str]:
    """The session of a run that is to begin, checked, and a note on its preset; nothing is written yet."""
    tuned = preset(algorithm, env) if settings.preset else {}
    world = find(env, env_fields or {}, settings.measures)
    in_graph = isinstance(world, Environment)
    session = Session(make_plan(algorithm, env, settings, config, env_fields, eval_env_fields, in_graph))
    session.check()
    return session, f"{tuned['source']} (--no-preset turns it off)" if tuned else ""


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
            longer = dataclasses.replace(there, steps=plan.steps) == plan and plan.steps > there.steps
            instead = f"polyak resume {folder.path} --steps {plan.steps}" if longer else "resume it as it is"
            raise UserError(
                f"{folder.path} is a run with other settings ({there.differences(plan)}): "
                f"choose another --name, or {instead}"
            )
        yield folder, True


def train(
    algorithm: str,
    env: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    config: Any = None,
    env_fields: Mapping[str, Any] | None = None,
    eval_env_fields: Mapping[str, Any] | None = None,
    verbose: bool = True,
    **settings: Any,
) -> Run:
    """Train, and return the finished run.

    config    values of the algorithm's Config by name ({"data.batch_size": 64}), or a whole Config
    settings  what else `Settings` has: num_envs, eval_every, checkpoint_every, out, name, wrap, preset, ...
    Raises UserError for a mistake, EnvironmentFault where the environment breaks its contract.
    """
    check_main_guard()
    set_up_jax()
    said = amend(Settings(), {**settings, "steps": steps, "seed": seed, "seeds": seeds})
    trusted = {"env": env, "algorithm": algorithm}
    session, note = plan_run(algorithm, env, said, config, env_fields, eval_env_fields)
    name = name_run(algorithm, env, said.out) if said.name is None else check_name(said.name)
    with placed(Path(said.out) / name, said.name is not None, session, note) as (folder, there):
        terminal = Terminal() if verbose else silent()
        terminal.header(f"{folder.path.name}\n{folder.path}")
        run = Run(folder.path, **trusted)
        if not (there and run.finished):
            run_loop(session, folder, terminal, resume=there, facts=facts(session, note))
    return Run(folder.path, **trusted)


def load(path: str | Path, *, env: str | None = None, algorithm: str | None = None) -> Run:
    """A run from disk; makes no environment and runs no code from the folder.

    env, algorithm  repeat a name of your own code (`my_module:MyEnv`) to say that you trust it
    """
    return Run(path, env, algorithm)

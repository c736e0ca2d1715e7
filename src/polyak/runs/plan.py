"""Plans, decided before a run begins: settings, presets, and the plan that config.json keeps."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polyak import algorithms, files
from polyak.envs.trust import names_to_trust
from polyak.errors import CheckpointError, UserError, brief, out_of_range
from polyak.interface import within
from polyak.runs.values import amend, plain


@dataclass(frozen=True)
class Settings:
    """Settings of a training run; what is not given is left to the preset, or to what is usual."""

    steps: int | None = within(None, 0)  # environment steps that each seed takes
    updates: int | None = within(
        None, 1, 2**32 - 1
    )  # updates without an environment step, from the rows of --data or by planning: instead of --steps
    seed: int = within(0, 0, 2**31 - 1)  # the first seed
    seeds: int = within(1, 1, 10_000)  # number of seeds, which run side by side: seed, seed + 1, ...
    num_envs: int | None = within(None, 1)  # number of environments of each seed
    driver: Literal["auto", "graph", "host", "ray"] = (
        "auto"  # where environments step: in one program with JAX ones, else on the host; ray: in workers
    )
    workers: int | None = within(
        None, 1
    )  # number of workers that share out the environments, with --driver ray or --sync
    actors: int | None = within(
        None, 1
    )  # the same as --num-envs: lanes of a seed, which --driver ray shares out among its workers
    lockstep: bool = True  # wait for a rollout of every worker before learning; a replay can do without
    lag: int = within(0, 0, 1)  # rollouts that workers play ahead of what is learned: 0 waits for it
    address: str | None = None  # HOST:PORT of a Ray cluster that is there; usually one is begun for the run
    devices: int = within(
        1, 1
    )  # accelerators that share out every seed's environments and batches: parameters are on each
    vectorization: Literal["sync", "async"] = (
        "sync"  # step host environments in this process, or each in its own
    )
    sync: Literal["lockstep", "async", "hogwild"] | None = (
        None  # how workers send gradients: all together, with delays that are simulated, or as processes without locks
    )
    eval_every: int | None = within(
        None, 0
    )  # environment steps between evaluations; usually a twentieth of the run; 0: none
    eval_episodes: int = within(10, 1)  # number of episodes of an evaluation, for each seed
    eval_limit: int | None = within(
        None, 1
    )  # steps where evaluation cuts an episode; 10,000 if it has no end
    eval_worker: bool = False  # evaluate in a process of its own, while training goes on
    checkpoint_every: int | None = within(
        None, 1
    )  # environment steps between checkpoints; usually eval_every
    stop_at: float | None = None  # end where an evaluation reaches this return, mean over seeds
    deadline: float = within(60.0, 0.001)  # seconds that a step of an asynchronous environment may take
    track: Literal["wandb", "mlflow", "trackio"] | None = (
        None  # send metrics there too, from a thread of its own: it need not be installed or online
    )
    quiet: bool = False  # say nothing but the run's name and folder, and warnings
    out: str = "runs"  # folder that run folders are made in
    name: str | None = None  # name of the run folder; one that exists with the same settings is resumed
    preset: bool = True  # use tuned settings where there are any
    wrap: tuple[str, ...] | None = (
        None  # wrappers around the algorithm: normalize_obs, normalize_reward, normalize_goals
    )
    her: Literal["future", "final", "episode", "random"] | None = (
        None  # hindsight: replace goals of replayed rows by achieved ones, chosen in this way
    )
    measures: tuple[str, ...] = ()  # what else to report of an episode, from Gymnasium's `info`
    init: tuple[str, ...] = ()  # begin with another run's weights: RUN, RUN:FIELD or RUN:FIELD=FIELD
    use: tuple[str, ...] = ()  # give the algorithm another run's policy: NAME=RUN, as base=runs/first
    data: str | None = None  # fill the replay with what this run's replay holds, before anything is collected
    freeze: tuple[str, ...] = ()  # parts of networks that stay as they begin: paths, as actor/layers/0
    strict_spaces: bool = (
        False  # stop at an observation outside its declared bounds, of which else one warning is said
    )


@dataclass(frozen=True)
class Plan:
    """Everything that a run depends on, as plain values: the same plan, the same run."""

    algorithm: str
    env: str
    steps: int = within(100_000, 0)
    updates: int = within(0, 0, 2**32 - 1)  # of a run that takes no environment step
    seed: int = within(0, 0, 2**31 - 1)
    seeds: int = within(1, 1, 10_000)
    num_envs: int = within(1, 1)
    driver: Literal["graph", "host", "ray"] = "host"
    workers: int = within(1, 1)
    lockstep: bool = True
    lag: int = within(0, 0, 1)
    devices: int = within(1, 1)
    vectorization: Literal["sync", "async"] = "sync"
    sync: Literal["lockstep", "async", "hogwild"] | None = None
    eval_every: int = within(5_000, 0)
    eval_episodes: int = within(10, 1)
    eval_limit: int | None = within(None, 1)
    eval_worker: bool = False
    checkpoint_every: int = within(5_000, 1)
    stop_at: float | None = None
    deadline: float = within(60.0, 0.001)
    wrap: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    strict_spaces: bool = False
    init: dict = field(
        default_factory=dict
    )  # what was said of another run -> its digest, "" until it is looked up
    use: dict = field(default_factory=dict)  # name -> run, its digest, and the plan that says how it acts
    data: dict = field(
        default_factory=dict
    )  # run, its digest, and how many rows of time it fills the ring with
    freeze: tuple[str, ...] = ()
    config: dict = field(default_factory=dict)
    env_fields: dict = field(default_factory=dict)
    eval_env_fields: dict | None = None  # None: as in training

    @property
    def all_seeds(self) -> range:
        """The seeds that run side by side."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def budget(self) -> int:
        """Environment steps of each seed, or updates where it takes none."""
        return self.steps or self.updates

    @property
    def collects(self) -> bool:
        """Whether its data is of rollouts, as the settings tell that it has: planning has no length of any."""
        return "steps" in self.config.get("data", {"steps": 0})

    @property
    def unit(self) -> str:
        """The budget's, as its flag is named."""
        return "updates" if self.updates else "steps"

    def settle(self, config: Any) -> Any:
        """The Config of this run: one with the plan's values, whose horizon, where it is 0, is the budget."""
        config = amend(config, self.config, "config.")
        check_budget(self.steps, self.updates, self.data or config.data.plans)
        if getattr(config, "horizon", None) == 0:
            return dataclasses.replace(config, horizon=self.budget)
        return config

    def differences(self, other: "Plan") -> str:
        """What other settings there are, by name: "steps is 2000 there, 3000 here"."""
        mine, theirs = flattened(plain(self)), flattened(plain(other))
        names = [name for name in mine | theirs if mine.get(name) != theirs.get(name)]
        return ", ".join(f"{name} is {mine.get(name)} there, {theirs.get(name)} here" for name in names)

    @property
    def is_object(self) -> bool:
        """Whether the environment was given as an object that no name brings back."""
        return self.env.startswith("object:")

    @property
    def to_trust(self) -> list[str]:
        """Names of code, and settings of an environment that can do more than choose: never followed from a file."""
        code = [self.algorithm] if ":" in self.algorithm else []
        own = names_to_trust(self.env, self.eval_env_fields or {}, "eval-env")
        return [*code, *dict.fromkeys(names_to_trust(self.env, self.env_fields) + own)]

    @property
    def begins_with(self) -> list[str]:
        """What was said of the runs that it reads before its first checkpoint."""
        used = (f"{name}={said['run']}" for name, said in self.use.items())
        return [*self.init, *used, *([self.data["run"]] if self.data else [])]

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> "Plan":
        """The plan of a config.json; CheckpointError names what is damaged."""
        names = {f.name for f in dataclasses.fields(cls)}
        for name in sorted(names - LATER - values.keys()):
            raise CheckpointError(f"{where}: plan has no {name!r}")
        for name in ("algorithm", "env"):
            if not isinstance(values[name], str):
                raise CheckpointError(f"{where}: plan.{name} is {brief(values[name])}, but must be a name")
        with files.guarded(Path(where)):
            if not all(isinstance(said, str) for said in dict(values.get("init") or {}).values()):
                raise CheckpointError(f"{where}: plan.init has no digest of each run")
            if not all(map(is_use, dict(values.get("use") or {}).values())):
                raise CheckpointError(f"{where}: plan.use does not say run, digest and plan of each name")
            if not is_data(values.get("data") or {}):
                raise CheckpointError(f"{where}: plan.data does not say run, digest and rows")
            try:
                plan = amend(cls("", ""), values)
                check_ranges(plan)
                check_budget(plan.steps, plan.updates, plan.data or not plan.collects)
                check_devices(plan)
                algorithms.check(plan.algorithm)
            except UserError as error:
                raise CheckpointError(f"{where}: {error}") from error
        return plan


def check_budget(steps: int, updates: int, without: Any) -> None:
    """UserError unless there are environment steps, or updates without one.

    without  whether there is something to learn from without a step: rows of another run, or rules to plan by
    """
    if steps and updates:
        raise UserError(
            f"--updates {updates:,} is learning without an environment step, and --steps is {steps:,}: say one"
        )
    if not steps and not updates:
        raise UserError("--steps is 0: say by --updates how often to learn from --data RUN, or take a step")
    if updates and not without:
        raise UserError(
            f"--updates {updates:,} is learning from rows that are there: say whose by --data RUN"
        )


def is_use(said: Any) -> bool:
    """Whether a value is what a plan keeps of a run whose policy it uses."""
    kinds = {"run": str, "digest": str, "plan": dict}
    return isinstance(said, dict) and {name: type(value) for name, value in said.items()} == kinds


def is_data(said: Any) -> bool:
    """Whether a value is what a plan keeps of a run whose replay it begins with, or that there is none."""
    kinds = {"run": str, "digest": str, "rows": int}
    fits = isinstance(said, dict) and {name: type(value) for name, value in said.items()} in ({}, kinds)
    return fits and said.get("rows", 0) >= 0


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names like config.data.steps."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


LATER = {
    "init",
    "use",
    "data",
    "freeze",
    "updates",
    "stop_at",
    "eval_worker",
    "devices",
}  # settings that a plan may be without, from before there were such

# The most that makes sense, so that a settings file from a stranger cannot ask for all of a machine.
MOST_ENTRIES = 64  # of a list: layers, wrappers, measures
MOST_NAMES = 256  # of a mapping
MOST_NESTED = 8
MOST_TEXT = 4_096  # characters
MOST_COUNT = 2**62
MOST = {
    "num_envs": 1_000_000,
    "workers": 4_096,
    "devices": 1_024,
    "eval_episodes": 100_000,
    "eval_limit": 2**31 - 1,
    "config.data.n_step": 10_000,
    "config.data.length": 100_000,
    "config.data.batch_size": 2**28,
    "config.data.updates": 1_000_000,
}


def check_stop(stop_at: float | None, eval_every: int) -> None:
    """UserError where a run waits for an evaluation that never comes."""
    if stop_at is not None and not eval_every:
        raise UserError(
            f"--stop-at {stop_at:g} waits for an evaluation to reach it, but there is none: give --eval-every"
        )


def check_devices(plan: Plan) -> None:
    """UserError for what several devices cannot do."""
    alone = {
        "--updates": bool(plan.updates),
        "--sync hogwild": plan.sync == "hogwild",
        "--no-lockstep": not plan.lockstep,
    }
    if plan.devices > 1 and any(alone.values()):
        said = next(name for name, chosen in alone.items() if chosen)
        raise UserError(
            f"--devices {plan.devices} is not for {said}, which learns on one: leave one of them out"
        )


def check_eval_worker(eval_every: int, vectorization: str) -> None:
    """UserError where a process of its own has no evaluation to play, or would begin others."""
    if not eval_every:
        raise UserError("--eval-worker plays evaluations, but there is none: give --eval-every")
    if vectorization != "sync":
        raise UserError(
            f"--vectorization {vectorization} begins processes, which --eval-worker cannot: leave one out"
        )


def check_ranges(record: Any) -> None:
    """UserError, one line, where values lie outside their `within(...)` or are larger than any run needs."""
    if wrong := out_of_range(record) or too_large(plain(record)):
        raise UserError("; ".join(wrong))


def too_large(value: Any, name: str = "", depth: int = 0) -> list[str]:
    """A line for each value of a plan that is too long, too large or nested too deeply to be meant."""
    if depth > MOST_NESTED:
        return [f"{name} is nested too deeply"]
    if isinstance(value, Mapping | list | tuple) and not name.startswith(("env_fields.", "eval_env_fields.")):
        most = MOST_NAMES if isinstance(value, Mapping) else MOST_ENTRIES
        if len(value) > most:
            return [f"{name} has {len(value):,} entries, but at most {most} make sense"]
        parts = value.items() if isinstance(value, Mapping) else ((str(i), x) for i, x in enumerate(value))
        deeper = (too_large(x, f"{name}.{key}" if name else key, depth + 1) for key, x in parts)
        return [line for lines in deeper for line in lines]
    if isinstance(value, str) and len(value) > MOST_TEXT:
        return [f"{name} has {len(value):,} characters, but at most {MOST_TEXT} make sense"]
    most = MOST.get(name, MOST_COUNT)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > most:
        return [f"{name} is {brief(value, 30)}, but at most {most:,} makes sense"]
    return []

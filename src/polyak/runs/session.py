"""From a plan to what runs: algorithm, environment, driver and evaluator, checked before anything is allocated."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax

from polyak import algorithms
from polyak.drivers import check
from polyak.drivers.check import check_data, ignored
from polyak.drivers.devices import Devices
from polyak.drivers.driver import Driver
from polyak.drivers.eval_worker import EvalWorker
from polyak.drivers.evaluate import Evaluator, width_for
from polyak.drivers.finding import finder, own_seed
from polyak.drivers.hogwild import Hogwild
from polyak.drivers.host import Host
from polyak.drivers.in_graph import InGraph
from polyak.drivers.learn import check_priority, initial_states
from polyak.drivers.offline import Offline
from polyak.drivers.side_by_side import SideBySide
from polyak.envs.adapters.gymnasium import OneGymnasium
from polyak.envs.adapters.toy_text import listed
from polyak.envs.border import Border
from polyak.envs.calling import calling
from polyak.envs.environment import Environment, HostEnvs, Rules, flat_actions, rules
from polyak.envs.find import find
from polyak.envs.on_host import OnHost
from polyak.errors import UserError, brief, printable, said_by
from polyak.interface import Algorithm, Spec, rows_of
from polyak.parts.networks.noisy import is_noisy
from polyak.runs.algorithm import with_given, wrapped
from polyak.runs.decide import cores
from polyak.runs.memory import check_memory, observation_bytes, replay_bytes
from polyak.runs.plan import Plan
from polyak.runs.setup import check_modes, set_up_jax
from polyak.runs.spec import show_space


@dataclass
class Session:
    """Everything that a plan stands for. Making one allocates nothing; it closes what it opened.

    given    the environment itself, where it was not given by name
    address  of a Ray cluster that is there; never read from a file
    track    the service that metrics are sent to; never read from a file
    """

    plan: Plan
    given: Any = None
    address: str | None = None
    track: str | None = None

    def __post_init__(self) -> None:
        check_modes()

    @cached_property
    def world(self) -> Any:
        """The training environment: an Environment in JAX, or a factory of environments on the host."""
        return self.find(self.plan.env_fields)

    def find(self, fields: Mapping[str, Any]) -> Any:
        """The environment with these fields."""
        return find(self.plan.env if self.given is None else self.given, fields, self.plan.measures)

    @property
    def eval_fields(self) -> Mapping[str, Any]:
        """The fields of the environment that evaluation plays."""
        return self.plan.env_fields if self.plan.eval_env_fields is None else self.plan.eval_env_fields

    @cached_property
    def env_spec(self) -> Spec:
        """The environment's own spaces."""
        return dataclasses.replace(self.world.spec, num_envs=self.plan.num_envs, model=self.rules)

    @cached_property
    def rules(self) -> Rules | None:
        """The environment's rules, as far as a planner may know them."""
        if self.in_graph:
            return rules(self.world) if self.plan.driver != "ray" else None
        return listed(self.world) if self.cfg.data.plans else None

    @cached_property
    def spec(self) -> Spec:
        """The world as the algorithm may know it."""
        return with_given(self.plan, flat_actions(self.env_spec))

    @cached_property
    def border(self) -> Border:
        """Where observations come in and actions go out in the environment's own terms."""
        return Border.of(self.env_spec) if self.in_graph else self.world.border

    @cached_property
    def algorithm(self) -> Algorithm:
        """The algorithm in its wrappers, the first named outermost."""
        return wrapped(self.plan)

    @cached_property
    def cfg(self) -> Any:
        """The algorithm's Config."""
        return self.plan.settle(self.algorithm.Config())

    @property
    def in_graph(self) -> bool:
        """Whether the environment is written in JAX."""
        return isinstance(self.world, Environment)

    @cached_property
    def notes(self) -> dict[str, str]:
        """What a person should hear before the run begins."""
        return ignored(self.spec, self.cfg)

    def check(self) -> None:
        """UserError, one line, for what cannot run or does not fit into memory."""
        check_data(self.plan.algorithm, self.algorithm, self.cfg, self.spec, algorithms.fitting)
        check_priority(self.plan.algorithm, self.algorithm, self.cfg, self.spec)
        check_counts(self.plan.steps, self.spec, self.cfg.data)
        if self.devices is not None and self.cfg.data.replays:
            self.devices.check_batch(self.cfg.data.batch_size)
        if self.plan.driver == "ray":
            from polyak.drivers.cluster import check_ray

            check_ray(self.address)
        if not self.plan.lockstep:
            from polyak.drivers.arrival import check_arrival

            check_arrival(self.cfg.data, self.plan.wrap)
        if self.plan.eval_worker and self.given is not None:
            raise UserError(
                "--eval-worker makes its environments in another process: give the environment by name, not as an "
                "object"
            )
        if isinstance(self.world, OneGymnasium):
            self._check_one()
        if self.plan.eval_every and self.plan.eval_env_fields is not None:
            self.check_eval_env()
        check_memory(self.rollout_bytes, self.planned_bytes, self.cfg.data)

    def check_eval_env(self) -> None:
        """UserError where the evaluation's own environment cannot be made or has other spaces."""
        check_alike("--eval-env", self.eval_world.spec, self.world.spec)

    def check_spaces(self, trained: Spec) -> None:
        """UserError where this environment has other spaces than a policy was trained on."""
        check_alike(self.plan.env, self.eval_world.spec, trained)

    def _check_one(self) -> None:
        """UserError where one instance is not enough."""
        name, slots = self.plan.env.partition(":")[2], self.plan.seeds * self.plan.num_envs
        asked = f"{slots} environments are asked for" if slots > 1 else ""
        asked = asked or (
            "an evaluation during training needs a second (eval_every=0 turns it off)"
            if self.plan.eval_every
            else ""
        )
        if asked:
            raise UserError(
                f"{name} is one instance, which plays one episode at a time, but {asked}: give its class, or a "
                "function that makes one"
            )

    def check_budget(self) -> None:
        """UserError, one line, where the run would end before its first update."""
        if self.plan.updates and check.wrong_budget(self.cfg.data, self.spec, self.seen):
            raise UserError(
                f"{self.plan.algorithm}: the warm-up takes {self.cfg.data.warmup:,} rows, of which --data has "
                f"{self.seen:,}: lower --config.data.warmup, or give more rows"
            )
        if wrong := check.wrong_budget(self.cfg.data, self.spec, self.seen):
            raise UserError(f"{self.plan.algorithm}: {wrong[0]}")

    @property
    def seen(self) -> int:
        """Steps of each seed in the end, those that another run made for it included."""
        return self.plan.steps + self.plan.data.get("rows", 0) * self.plan.num_envs

    def cautions(self) -> list[str]:
        """Lines that a person should read before the run begins."""
        budget = check.wrong_budget(self.cfg.data, self.spec, self.seen)
        return budget + check.notes(self.algorithm, self.cfg, self.spec, self.seen)

    @cached_property
    def eval_world(self) -> Any:
        """The evaluation's environment, or a factory of environments on the host: of training, if not its own."""
        return self.world if self.eval_fields == self.plan.env_fields else self.find(self.eval_fields)

    @cached_property
    def planned_bytes(self) -> int:
        """Bytes that the replay will allocate, for all seeds."""
        return self.plan.seeds * replay_bytes(self.algorithm, self.cfg, self.spec)

    @property
    def rollout_bytes(self) -> int:
        """Bytes of the observations of one rollout, for all seeds: less than it will allocate."""
        return self.plan.seeds * observation_bytes(self.cfg.data, self.spec)

    @cached_property
    def devices(self) -> Devices | None:
        """Those that learning is shared out among; None for one."""
        return Devices(self.plan.devices, self.plan.num_envs) if self.plan.devices > 1 else None

    @cached_property
    def driver(self) -> Driver:
        """The driver that advances the run."""
        if self.plan.updates:
            return Offline(self.algorithm, self.cfg, self.spec, self.plan.all_seeds)
        if self.plan.sync == "hogwild":
            self._check_processes()
            given = self.algorithm, self.cfg, self.spec, self.plan.all_seeds, self.plan.workers
            return Hogwild(*given, partial(worker_driver, self.plan), self.plan.deadline)
        if self.plan.driver == "ray":
            return self._distributed()
        if self.in_graph:
            given = self.algorithm, self.cfg, self.world, self.spec, self.plan.all_seeds
            strict = self.plan.strict_spaces
            if self.devices is not None:
                return InGraph(*given, strict, self.devices)
            if self.plan.seeds == 1 or jax.default_backend() != "cpu":
                return InGraph(*given, strict)
            return SideBySide(*given, min(self.plan.seeds, cores()), strict)
        slots = self.plan.seeds * self.plan.num_envs
        envs = self.make_envs(self.world, slots)
        given = self.algorithm, self.cfg, envs, self.spec, self.plan.all_seeds
        return Host(*given, self.plan.strict_spaces, devices=self.devices)

    def _distributed(self) -> Driver:
        from polyak.drivers.arrival import Arrival
        from polyak.drivers.distributed import Distributed

        world = OnHost(self.world) if self.in_graph else self.world
        plan, given = self.plan, (self.algorithm, self.cfg, world, self.spec, self.plan.all_seeds)
        driver = Distributed if self.plan.lockstep else Arrival
        how = plan.strict_spaces, plan.workers, plan.lag, plan.deadline, self.address
        return driver(*given, *how, devices=self.devices)

    def _check_processes(self) -> None:
        """UserError for what workers that are processes cannot do."""
        states = jax.eval_shape(lambda: initial_states(self.algorithm, self.cfg, self.spec, [0]))
        wrong = {
            "makes its environments in other processes: give the environment by name, not as an object": self.given
            is not None,
            f"shares no statistics of observations and rewards: leave --wrap {' '.join(self.plan.wrap)} out": bool(
                self.plan.wrap
            ),
            "has a process for each worker already: leave --vectorization at sync": self.plan.vectorization
            != "sync",
            "draws no noise for noisy networks: choose another --config.network": is_noisy(states),
        }
        for line, found in wrong.items():
            if found:
                raise UserError(f"--sync hogwild {line} (or --sync async)")

    def make_envs(self, world: Any, slots: int) -> HostEnvs:
        """So many environments on the host, in this process or, where the run is asynchronous, in others."""
        if self.plan.vectorization == "async":
            return world.make(slots, True, deadline=self.plan.deadline)
        return world.make(slots, False)

    def replan(self, plan: Plan) -> None:
        """Go on under another plan of the same shapes: another budget, and the horizon that follows from it."""
        before, self.plan = self.cfg, plan
        self.__dict__.pop("cfg")
        if "driver" in self.__dict__ and self.cfg != before:
            self.driver.refit(self.cfg)

    @cached_property
    def evaluator(self) -> Evaluator | EvalWorker:
        """The evaluator that measures it, here or in a process of its own."""
        if self.plan.eval_worker:
            return EvalWorker(partial(worker_evaluator, self.plan), self.plan.deadline)
        return self.make_evaluator(self.plan.eval_episodes)

    def make_evaluator(
        self, episodes: int, first_seed: int | None = None, explore: bool = False, limit: int | None = None
    ) -> Evaluator:
        """Plays so many episodes of each seed on environments of its own; `first_seed` chooses other episodes.

        limit  steps at which an episode is cut, instead of the plan's
        """
        world = self.eval_world
        spec = dataclasses.replace(self.spec, time_limit=world.spec.time_limit)
        if not isinstance(world, Environment):
            width = 1 if isinstance(world, OneGymnasium) else width_for(self.plan.seeds, episodes)
            if self.plan.vectorization == "async":  # a process each: no more than training has
                width = min(width, self.plan.num_envs)
            world = self.make_envs(world, self.plan.seeds * width)
        seeds = self.plan.all_seeds
        if first_seed is not None:
            seeds = range(first_seed, first_seed + self.plan.seeds)
        limit = self.plan.eval_limit if limit is None else limit
        return Evaluator(self.algorithm, self.cfg, spec, seeds, episodes, world, explore, limit)

    def close(self, warn: Callable[[str], Any] = warnings.warn) -> None:
        """Release the environments that were made; `warn` is told of one that does not close: all is done by then."""
        for name in ("driver", "evaluator"):
            if name in self.__dict__:
                close(self.__dict__[name], warn)


def close(holder: Any, warn: Callable[[str], Any] = warnings.warn) -> None:
    """Close what holds environments; one that raises is a warning."""
    try:
        with calling(lambda error: UserError(said_by(error))):
            holder.close()
    except UserError as error:
        warn(f"environments were not closed: {printable(error, 300)}")


def check_alike(what: str, spec: Spec, trained: Spec) -> None:
    """UserError where an environment's spaces are not those of training's."""
    for name, its, mine in (
        ("observations", spec.obs, trained.obs),
        ("actions", flat_actions(spec).action, flat_actions(trained).action),
    ):
        if its != mine:
            told, wanted = show_space(its), show_space(mine)
            if told == wanted:  # of one shape: bounds or the type of numbers differ
                told, wanted = brief(its, 200), brief(mine, 200)
            raise UserError(f"{what}: its {name} are {told}, but in training they are {wanted}")


def check_counts(steps: int, spec: Spec, data: Any) -> None:
    """UserError where a run has more rows or updates than its counters and keys have numbers for."""
    rows, num_envs = rows_of(data, spec.time_limit), spec.num_envs
    iterations = -(-steps // max(1, rows * num_envs))
    for what, count in (("rows", iterations * rows), ("updates", iterations * data.updates)):
        if count >= 2**32:
            raise UserError(
                f"--steps is {steps:,}, which is {count:,} {what}, but a run counts {2**32 - 1:,}: "
                f"raise --num-envs (now {num_envs}) to at least {-(-num_envs * count // (2**32 - 1)):,}"
            )


def worker_driver(plan: Plan, cfg: Any, worker: int) -> tuple[Algorithm, Driver]:
    """The algorithm and the driver of one worker of a plan, in the process of its own that this is called in."""
    set_up_jax()
    session = Session(dataclasses.replace(plan, sync=None, workers=1, num_envs=plan.num_envs // plan.workers))
    algorithm = finder(session.algorithm, worker * session.plan.num_envs)
    seeds = [own_seed(seed, worker) for seed in plan.all_seeds]
    if session.in_graph:
        return session.algorithm, InGraph(
            algorithm, cfg, session.world, session.spec, seeds, plan.strict_spaces
        )
    envs = session.make_envs(session.world, len(seeds) * session.plan.num_envs)
    return session.algorithm, Host(algorithm, cfg, envs, session.spec, seeds, plan.strict_spaces)


def worker_evaluator(plan: Plan) -> Evaluator:
    """The evaluator of a plan, in the process of its own that this is called in."""
    set_up_jax()
    session = Session(plan)
    return session.make_evaluator(plan.eval_episodes)

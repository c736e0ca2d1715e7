"""Gymnasium environments on the host: our own thin loop over them, their processes, and what makes them."""

import contextlib
import functools
import importlib
import multiprocessing
import os
import queue
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from polyak.envs import constructors, spaces
from polyak.envs.border import Border
from polyak.envs.calling import RETURNED, called, calling, fault, passes
from polyak.envs.decisions import UNCHANGED, Frames, framed, split_frames
from polyak.envs.environment import Environment, HostEnvs, HostStep
from polyak.errors import EnvironmentFault, UserError, nearest, place_in, printable, said_by
from polyak.interface import Box, Spec, Tree

Measures = Mapping[str, str] | Iterable[str]

PACKAGES = {  # module that is missing -> what to install
    "mujoco": "polyak[mujoco]",
    "pygame": "polyak[classic-control]",
    "Box2D": "polyak[box2d]",
    "ale_py": "polyak[atari]",
    "cv2": "polyak[atari]",
    "gymnasium_robotics": "polyak[robotics]",
    "shimmy": "shimmy",
}
PYGAME = tuple(
    f"gymnasium.envs.{group}" for group in ("classic_control", "toy_text", "box2d")
)  # draw with it
GOAL = {"observation", "achieved_goal", "desired_goal"}  # parts of what an environment with goals shows
MASK = "action_mask"  # in `info`: which actions are legal
NAMESPACES = {"ALE": "ale_py"}  # of ids that a package registers


def spec_of(env: gymnasium.Env, lanes: int, measures: Mapping[str, str]) -> Spec:
    """Spec of L copies of an environment; UserError where it has no spaces."""
    for name in ("observation_space", "action_space"):
        if not hasattr(env, name):
            raise UserError(f"{type(env.unwrapped).__name__} has no {name}: set it in __init__")
    goal = None
    if isinstance(env.observation_space, gymnasium.spaces.Dict) and set(env.observation_space) == GOAL:
        from polyak.envs.adapters.goals import goal_of  # JAX is imported where it is needed

        goal = goal_of(env)
    return Spec(
        obs=spaces.from_gymnasium(env.observation_space),
        action=spaces.action_from_gymnasium(env.action_space),
        time_limit=spaces.check_limit(env.spec.max_episode_steps if env.spec else None),
        num_envs=lanes,
        goal=goal,
        measures=measures,
    )


# ---- in this process


class GymnasiumSync:
    """L environments stepped one after the other in this process; 2 to 3 us a step beside their own.

    measures: names in `info`, each with how an episode is summed up (without: its last value)
    """

    exact_reset = True  # an episode is a function of its seed and actions
    masked = False

    def __init__(self, make: Callable[[], gymnasium.Env], lanes: int, measures: Measures = ()):
        measures = spaces.as_measures(measures)
        self._envs = [make() for _ in range(lanes)]
        self.asked = 0.0  # when the call began that has not returned; 0 between calls
        self._space: Any = self._envs[0].observation_space
        self.spec = spec_of(self._envs[0], lanes, measures)
        self._names = tuple(measures)
        self._actions = spaces.Actions(self._envs[0].action_space)
        self._obs = spaces.zeros(self.spec.obs, lanes)
        flat = isinstance(self.spec.obs, Box) and isinstance(self._space, gymnasium.spaces.Box)
        self._rows = self._box_rows if flat else self._tree_rows
        self._declared = (
            self._space.shape,
            self._space.dtype,
            np.dtype(self.spec.obs.dtype) if flat else None,
        )
        self._narrows = flat and spaces.narrows(self._space)

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes, each from its own seed; observations [L, ...] of all lanes."""
        given, self.asked = [], time.monotonic()
        try:
            for lane, seed in zip(lanes, seeds, strict=True):
                with called(lane, "reset", f"with seed {seed}"):
                    obs, info = self._envs[lane].reset(seed=int(seed))
                    given.append(obs)
                    self.masked = self.masked or MASK in info
        finally:
            self.asked = 0.0
        if given:
            self._obs = spaces.scatter(self._obs, list(lanes), self._rows(given, lanes))
            spaces.check_begun(self._obs, lanes, seeds)
        return self._obs

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        actions = self._actions(action)
        lanes = len(self._envs)
        reward, given = np.empty(lanes), []
        terminated, truncated = np.empty(lanes, bool), np.empty(lanes, bool)
        measures = {name: np.empty(lanes) for name in self._names}
        lane, self.asked = 0, time.monotonic()
        try:
            for lane, env in enumerate(self._envs):
                obs, r, ended, cut, info = env.step(actions[lane])
                if type(r) is not float:
                    spaces.check_reward(r, lane)
                if type(ended) is not bool or type(cut) is not bool:
                    spaces.check_ends(ended, cut, lane)
                given.append(obs)
                reward[lane] = r
                terminated[lane] = ended
                truncated[lane] = cut and not ended
                for name in self._names:
                    measures[name][lane] = spaces.number(info.get(name))
        except BaseException as error:
            if passes(error):
                raise
            raise fault(lane, "step", f"with action {actions[lane]}", error) from error
        finally:
            self.asked = 0.0
        self._obs = self._rows(given)
        return HostStep(self._obs, reward, terminated, truncated, measures)

    def close(self) -> None:
        """Close every environment, whatever the others do."""
        faults = []
        for lane, env in enumerate(self._envs):
            try:
                with called(lane, "close"):
                    env.close()
            except EnvironmentFault as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def _box_rows(self, given: list[np.ndarray], lanes: Sequence[int] | None = None) -> np.ndarray:
        """Observations of a Box as rows of a fresh array, checked where they are not just as declared."""
        shape, dtype, ours = self._declared
        rows = np.empty((len(given), *shape), ours)
        for i, obs in enumerate(given):
            if type(obs) is not np.ndarray or obs.shape != shape or obs.dtype != dtype or self._narrows:
                spaces.check(self._space, obs, lanes[i] if lanes is not None else i)
            rows[i] = obs
        return rows

    def _tree_rows(self, given: list[Any], lanes: Sequence[int] | None = None) -> Tree:
        """Observations of any space as trees of rows."""
        for i, obs in enumerate(given):
            spaces.check(self._space, obs, lanes[i] if lanes is not None else i)
        return spaces.stack([spaces.convert(self._space, obs) for obs in given])


# ---- in processes of their own


NO_GUARD = 86  # the exit code of a process that was to make an environment and would have trained
GUARD = """put what the script does under `if __name__ == "__main__":`"""


def check_main_guard() -> None:
    """End a process that was started for one environment and, without a main guard in the script, begins to train."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(NO_GUARD)


class _Raised(Exception):
    """Error of an environment in its process: lane, type and message, where."""


class _Vector(AsyncVectorEnv):
    """Gymnasium's vector without its waits that have no end and without its prints."""

    starting = 60.0  # seconds until every process has made its environment

    def _check_spaces(self) -> None:
        """Wait until all are there; copies of one environment agree on spaces."""
        try:
            self.call_async("render_mode")
            self.call_wait(timeout=self.starting)
        except (multiprocessing.TimeoutError, EOFError, OSError) as error:
            lane, what = self.guilty(error, self.starting)
            self.end(at_once=True)
            raise EnvironmentFault(f"its process {what} while it was made", lane=lane) from None

    def _add_info(self, vector_infos: dict[Any, Any], env_info: dict[str, Any], env_num: int) -> dict:
        """Infos by number of the environment, each as it was given: Gymnasium types all by the first one's."""
        vector_infos[env_num] = env_info
        return vector_infos

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End every process, when Gymnasium closes or forgets the vector."""
        self.end(at_once=terminate)

    def _raise_if_errors(self, successes: Sequence[bool]) -> None:
        if all(successes):
            return
        try:
            lane, kind, value, trace = self.error_queue.get(timeout=5)
        except queue.Empty:  # what was raised cannot be pickled
            raise _Raised(list(successes).index(False), "an exception that cannot be sent", "") from None
        if issubclass(kind, EnvironmentFault):
            raise EnvironmentFault(value.text, lane=value.lane)
        raise _Raised(
            lane, f"{kind.__name__}: {value}", place_in(re.findall(r'File "(.+?)", line (\d+)', trace))
        )

    def guilty(self, error: BaseException, seconds: float) -> tuple[int, str]:
        """Name the environment that is late or dead, and how it ended."""
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [lane for lane, pipe in enumerate(self.parent_pipes) if not pipe.poll(0)]
            return silent[0] if silent else 0, f"did not answer within {seconds:g} s"
        until = time.monotonic() + 3.0
        while time.monotonic() < until:  # a pipe closes a little before its process has an exit code
            for lane, process in enumerate(self.processes):
                code = process.exitcode
                if code is not None:
                    killed = code < 0 and f"was killed by {signal.Signals(-code).name}"
                    if code == NO_GUARD:
                        return lane, f"began the whole script again: {GUARD}"
                    return lane, killed or f"exited with code {code}"
            time.sleep(0.01)
        return 0, "or another closed its pipe"

    def end(self, at_once: bool = False) -> None:
        """End every process: asked, so that its environment is closed, then killed; waits a few seconds at most."""
        if self.closed:
            return
        for pipe, process in zip(self.parent_pipes, self.processes, strict=True):
            with contextlib.suppress(OSError):
                process.kill() if at_once else pipe.send(("close", None))
        self._join(3.0)
        for process in self.processes:
            if process.is_alive():  # it ignores SIGTERM, which is for the process that trains
                process.kill()
        self._join(1.0)
        for pipe in self.parent_pipes:
            pipe.close()
        self.error_queue.close()
        self.closed = True

    def _join(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))


class GymnasiumAsync:
    """L environments, each in a process of its own, on Gymnasium's `AsyncVectorEnv` without autoreset.

    deadline  seconds that a step or reset may take; a dead, stuck or failing environment is an
              EnvironmentFault that names it, and ends the others
    context   how processes start: "spawn" or "forkserver", never "fork", whose children share pipes
    """

    exact_reset = True
    masked = False

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env]],
        measures: Measures = (),
        deadline: float = 60.0,
        context: str = "spawn",
    ):
        if context not in ("spawn", "forkserver"):
            raise UserError(f"processes start by 'spawn' or 'forkserver', not by {context!r}")
        measures = spaces.as_measures(measures)
        self.deadline = deadline
        with calling(lambda error: UserError(f"an environment cannot be made: {said_by(error)}")):
            env = env_fns[0]()
            self._space = env.observation_space
            self.spec = spec_of(env, len(env_fns), measures)
            self._actions = spaces.Actions(env.action_space)
            env.close()
        self._obs = spaces.zeros(self.spec.obs, len(env_fns))
        self._last = [None] * len(env_fns)
        main = threading.current_thread() is threading.main_thread()
        checked: Any = [
            functools.partial(spaces.Checked, make, lane, main) for lane, make in enumerate(env_fns)
        ]
        self._vector = _Vector(
            checked,
            context=context,
            copy=True,
            autoreset_mode=AutoresetMode.DISABLED,
        )

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes, each from its own seed; observations [L, ...] of all lanes."""
        if not len(lanes):
            return self._obs
        seed: list[int | None] = [None] * self.spec.num_envs
        mask = np.zeros(self.spec.num_envs, bool)
        for lane, s in zip(lanes, seeds, strict=True):
            seed[lane], mask[lane] = int(s), True

        def ask() -> None:
            self._vector.reset_async(seed=seed, options={"reset_mask": mask})

        obs, infos = self._answer("reset", ask, self._vector.reset_wait)
        self.masked = self.masked or any(MASK in info for info in infos.values())
        rows = spaces.over(lambda part: part[list(lanes)], spaces.convert(self._space, obs))
        self._obs = spaces.scatter(self._obs, list(lanes), rows)
        spaces.check_begun(self._obs, lanes, seeds)
        return self._obs

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        actions = self._actions(action)
        self._last = list(actions)
        answer = self._answer("step", lambda: self._vector.step_async(actions), self._vector.step_wait)
        obs, reward, terminated, truncated, infos = answer
        self._obs = spaces.convert(self._space, obs)
        measures = {name: self._measure(infos, name) for name in self.spec.measures}
        reward = np.asarray(reward, np.float64)
        return HostStep(self._obs, reward, terminated, truncated & ~terminated, measures)

    def close(self) -> None:
        """End every process, within a few seconds whatever they do."""
        self._vector.end()

    def _measure(self, infos: dict[int, dict[str, Any]], name: str) -> np.ndarray:
        """[L] float64 of what each environment said in this step."""
        said = (infos.get(lane, {}).get(name) for lane in range(self.spec.num_envs))
        return np.array([spaces.number(value) for value in said])

    def _answer(self, call: str, ask: Callable[[], None], wait: Callable[..., Any]) -> Any:
        """Ask every process and wait; on any trouble end them all and name the one to blame."""
        if self._vector.closed:
            raise EnvironmentFault(f"{call} of environments that were closed, or ended after a fault")
        try:
            ask()
            return wait(timeout=self.deadline)
        except EnvironmentFault as error:
            found = error
        except _Raised as error:
            lane, what, where = error.args
            where = where or f"; {call} must return {RETURNED[call]}"
            found = self._blame(lane, f"raised {what}{where}", call)
        except (multiprocessing.TimeoutError, EOFError, OSError) as error:
            found = self._blame(*self._vector.guilty(error, self.deadline), call)
        except BaseException:
            self._vector.end(at_once=True)
            raise
        self._vector.end()
        raise found

    def _blame(self, lane: int, what: str, call: str) -> EnvironmentFault:
        pid, action = self._vector.processes[lane].pid, self._last[lane]
        line = f"its process (worker {lane}, pid {pid}) {what} in {call}; last action {action}"
        return EnvironmentFault(printable(line), lane=lane)


# ---- by name


@dataclass(frozen=True)
class GymnasiumFactory:
    """Makes copies of one Gymnasium environment.

    name      an id in Gymnasium's registry, or any name where there is an entry
    fields    keyword arguments of its constructor, `max_episode_steps`, or settings of its `Frames`
    measures  names in `info`, each with how an episode is summed up
    entry     a class or function that makes a `gymnasium.Env`; None looks the name up
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    measures: Measures = ()
    entry: Callable[..., gymnasium.Env] | None = None

    kind = "host"

    @property
    def spec(self) -> Spec:
        """Of one environment, made and closed for this."""
        return self._seen[0]

    @property
    def border(self) -> Border:
        """The environment's own spaces."""
        return self._seen[1]

    @functools.cached_property
    def _seen(self) -> tuple[Spec, Border]:
        env = self.make_one()
        with calling(self._explained):
            try:
                spec = spec_of(env, 1, spaces.as_measures(self.measures))
                return spec, Border(env.observation_space, env.action_space)
            except UserError as error:
                raise UserError(f"environment {self.name}: {error}") from None
            finally:
                env.close()

    def make(self, lanes: int, asynchronous: bool = False, deadline: float = 60.0) -> HostEnvs:
        """L environments, in this process or each in its own, where a step may take `deadline` seconds."""
        _ = self.spec  # what a person did wrong is said here, in one line
        if not asynchronous:
            return GymnasiumSync(self.make_one, lanes, self.measures)
        return GymnasiumAsync([self._maker(self._checked_fields)] * lanes, self.measures, deadline)

    def make_one(self, render_mode: str | None = None) -> gymnasium.Env:
        """One environment, to look at; UserError in one line where it cannot be made."""
        if render_mode != "human":  # pygame without a display or a sound card
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
            os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        shown = {} if render_mode is None else {"render_mode": render_mode}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with calling(self._explained):
                env = self._maker({**self._checked_fields, **shown})()
        if isinstance(env, Environment):
            raise WrittenInJax(env)
        if env is None:
            raise UserError(
                f"environment {self.name}: its function gave None: return the environment that it makes"
            )
        if isinstance(env, gymnasium.vector.VectorEnv):
            raise UserError(
                f"environment {self.name}: {type(env).__name__} is many environments: give one, and --num-envs "
                "makes more"
            )
        if not isinstance(env, gymnasium.Env):
            raise UserError(
                f"environment {self.name}: {type(env).__name__} is neither a gymnasium.Env nor a "
                "polyak.envs.environment.Environment (a class with @pytree)"
            )
        if render_mode and type(env.unwrapped).__module__.startswith(PYGAME) and not find_spec("pygame"):
            raise missing(self.name, "pygame")
        return env

    def _maker(self, fields: Mapping[str, Any]) -> Callable[[], gymnasium.Env]:
        """Function that makes one, and can be sent to a process that then imports no JAX."""
        make = self._bare(constructors.with_tuples(self._creator(), fields))
        return make if self._split[1] == UNCHANGED else functools.partial(framed, make, self._split[1])

    def _bare(self, fields: Mapping[str, Any]) -> Callable[[], gymnasium.Env]:
        if self.entry is None:
            return functools.partial(gymnasium.make, self._registered(), disable_env_checker=True, **fields)
        if "max_episode_steps" not in fields or "max_episode_steps" in constructors.parameters(self.entry):
            return functools.partial(self.entry, **fields)
        ident = re.sub(r"\W", "", self.name) or "Env"
        spec = EnvSpec(ident, entry_point=self.entry, order_enforce=False)
        return functools.partial(gymnasium.make, spec, disable_env_checker=True, **fields)

    @functools.cached_property
    def _split(self) -> tuple[dict[str, Any], Frames]:
        """The constructor's own fields, and what is said of frames."""
        return split_frames(self.name, self.fields, constructors.parameters(self._creator()))

    @functools.cached_property
    def _checked_fields(self) -> dict[str, Any]:
        """The constructor's own fields as its annotations and defaults want them; UserError for what it cannot take."""
        creator, fields = self._creator(), dict(self._split[0])
        valid = constructors.parameters(creator)
        usual = self._registered().kwargs if self.entry is None else {}
        if "max_episode_steps" not in valid:
            try:
                spaces.check_limit(fields.get("max_episode_steps"))
            except UserError as error:
                raise UserError(f"environment {self.name}: {error}") from None
        if fields.get("render_mode") == "human":
            raise UserError(
                f"environment {self.name}: render_mode 'human' would draw every step of training in a window: leave "
                "it out, and polyak watch RUN makes a video"
            )
        for name in fields:
            if "**" not in valid and name not in {*valid, "max_episode_steps"}:
                raise self._no_field(name)
        return constructors.as_annotated(self.name, creator, fields, usual)

    def _creator(self) -> Callable[..., Any]:
        """Class or function that the name stands for."""
        if self.entry is not None:
            return self.entry
        entry: Any = self._registered().entry_point
        return load_env_creator(entry) if isinstance(entry, str) else entry

    def _registered(self) -> EnvSpec:
        """Its entry in the registry; UserError names the nearest ids."""
        package = NAMESPACES.get(self.name.split("/")[0])
        if package:
            importlib.import_module(package)
        ident = self.name.split(":")[-1]
        if ident != self.name:
            importlib.import_module(self.name.split(":")[0])
        if ident not in gymnasium.registry:
            for each in filter(find_spec, NAMESPACES.values()):
                importlib.import_module(each)  # so that its ids are among those that are compared
            atari = f"ALE/{ident}" in gymnasium.registry
            close = nearest(ident, gymnasium.registry, 0.75).partition("Valid:")[0]
            hint = f"Atari's are atari:{ident} and envpool:{ident}; " if atari else close
            raise UserError(
                f"there is no environment {self.name!r} in Gymnasium's registry; {hint}polyak list envs has all; one "
                f"that a module of yours registers is named with it, as in my_module:{ident}"
            )
        return gymnasium.registry[ident]

    def _no_field(self, name: str) -> UserError:
        valid = constructors.all_parameters(self._creator()) - {"**", "render_mode"} | {"max_episode_steps"}
        return UserError(
            f"environment {self.name} has no field {name!r}; {nearest(name, valid)}".rstrip("; ")
        )

    def _explained(self, error: BaseException) -> UserError:
        """One line about what went wrong in the making."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ImportError) and (cause.name or "").split(".")[0] in PACKAGES:
                return missing(self.name, (cause.name or "").split(".")[0])
            cause = cause.__cause__
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and unknown and unknown[1] in self.fields:
            return self._no_field(unknown[1])
        base, _, version = self.name.rpartition("-v")
        newer = [
            name for name in gymnasium.registry if base and name.startswith(f"{base}-v") and name != self.name
        ]
        newer.sort(
            key=lambda name: int(name.rpartition("-v")[2]) if name.rpartition("-v")[2].isdigit() else 0
        )
        old = newer and version.isdigit() and newer[-1] > self.name
        hint = f"; did you mean {newer[-1]!r}?" if old and self.entry is None else ""
        return UserError(f"environment {self.name} cannot be made: {said_by(error, 300)}{hint}")


class WrittenInJax(Exception):
    """A function that was taken for one of Gymnasium's made an environment in JAX."""

    def __init__(self, env: Environment):
        super().__init__("an environment in JAX")
        self.env = env


class Borrowed(GymnasiumSync):
    """One environment that belongs to somebody else, who closes it."""

    def close(self) -> None:
        """Nothing: its owner does."""


@dataclass(frozen=True)
class OneGymnasium:
    """An environment that was given as it is: it plays one episode at a time.

    name      as it is shown
    env       the environment
    measures  names in `info`, each with how an episode is summed up
    """

    name: str
    env: gymnasium.Env
    measures: Measures = ()

    kind = "host"

    @functools.cached_property
    def spec(self) -> Spec:
        """Of the environment."""
        try:
            return spec_of(self.env, 1, spaces.as_measures(self.measures))
        except UserError as error:
            raise UserError(f"environment {self.name}: {error}") from None

    @property
    def border(self) -> Border:
        """The environment's own spaces."""
        return Border(self.env.observation_space, self.env.action_space)

    def make(self, lanes: int, asynchronous: bool = False, deadline: float = 60.0) -> HostEnvs:
        """The environment; UserError where more than one is needed."""
        if lanes > 1 or asynchronous:
            raise UserError(
                f"{self.name} is one instance, which plays one episode at a time in this process: for "
                f"{lanes} give its class, or a function that makes one"
            )
        return Borrowed(lambda: self.env, 1, self.measures)


def missing(name: str, package: str) -> UserError:
    """A package that an environment needs, and how to get it."""
    return UserError(f'environment {name} needs {package}: pip install "{PACKAGES[package]}"')

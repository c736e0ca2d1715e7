"""Gymnasium environments by name, by class or as they are given: what makes them, and what can be wrong with that."""

import functools
import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from polyak.envs import constructors, spaces
from polyak.envs.adapters.in_process import Borrowed, GymnasiumSync, Measures, spec_of
from polyak.envs.adapters.processes import GymnasiumAsync
from polyak.envs.border import Border
from polyak.envs.calling import calling
from polyak.envs.decisions import UNCHANGED, Frames, framed, split_frames
from polyak.envs.environment import Environment, HostEnvs
from polyak.envs.unseen import hide_windows
from polyak.errors import UserError, nearest, said_by
from polyak.interface import Spec

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
NAMESPACES = {"ALE": "ale_py"}  # of ids that a package registers


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
        if render_mode != "human":
            hide_windows()
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
            if Path(f"{ident}.py").is_file():
                raise UserError(
                    f"there is no environment {self.name!r}: {ident}.py is here, and its class is named with it, as in "
                    f"{ident}:MyEnv"
                )
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
        unknown = re.search(r"unexpected keyword argument '(\w+)'", said_by(error, 1000))
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

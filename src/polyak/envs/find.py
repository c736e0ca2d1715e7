"""Environments by the names that a person types; other people's libraries are imported only when asked for."""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from polyak.envs import spaces
from polyak.envs.calling import calling, passes
from polyak.envs.constructors import as_annotated
from polyak.envs.fields import refuse_on_host, split_fields
from polyak.envs.kept import kept
from polyak.envs.randomized import pushed, randomized
from polyak.errors import UserError, nearest, said_by
from polyak.interface import Box, Discrete, Spec

RESERVED = ("brax", "playground")  # prefixes that will mean something
EXTRAS = {
    "gymnax": "polyak[gymnax]",
    "envpool": "polyak[envpool]",
    "pgx": "polyak[games]",
    "ale_py": "polyak[atari]",
    "cv2": "polyak[atari]",
}


OBJECT = "object:"  # before what a run calls an environment that no name brings back


# modules of polyak.envs.worlds
WORLDS = (
    "classic_control",
    "corridor",
    "car_on_hill",
    "arm",
    "gait",
    "games",
    "lane",
    "goals",
    "linear",
    "mazes",
    "parkour",
    "pixels",
    "probes",
    "sparse",
    "counting",
)


def find(
    name: Any, fields: Mapping[str, object] | None = None, measures: Mapping[str, str] | Iterable[str] = ()
) -> Any:
    """The environment of this name: an `Environment` in JAX, or a factory of host environments.

    name      CartPole-v1 (Gymnasium), jax:CartPole-v1 (ours), gymnax:Breakout-MinAtar, pgx:go_9x9, envpool:Pong-v5,
              atari:Pong-v5, my_package.module:MyEnv (a class, instance or function of your own); or such a thing
              itself, a `functools.partial` of it, or Gymnasium's EnvSpec
    fields    its constants or its constructor's keyword arguments
    measures  names in `info`, each with how an episode is summed up; a JAX environment has its own
    UserError says in one line what is wrong and the nearest valid name.

    >>> find("jax:Pendulum-v1", {"gravity": 1.62}).gravity
    1.62
    """
    fields = dict(fields or {})
    if not isinstance(name, str):
        return _made(name_of(name), name, fields, measures)
    if name.startswith(OBJECT):
        raise UserError(
            f"{name.removeprefix(OBJECT)} was given as an object, which no name brings back: give it again"
        )
    prefix, colon, rest = name.partition(":")
    if prefix.endswith(".py") or ("/" in prefix and colon):
        module = re.sub(r"[/\\]+", ".", prefix.removesuffix(".py").lstrip("./\\"))
        raise UserError(
            f"environment {name}: name its module, not its file: {module}:{rest or 'CLASS'}, from the folder that "
            "has it"
        )
    if not colon:
        return _gymnasium(name, fields, measures)
    if prefix == "jax":
        table = _ours()
        if rest not in table:
            hint = nearest(rest, table)
            raise UserError(f"there is no environment {name!r}; {hint}; Gymnasium's need no prefix")
        return _with(name, table[rest](), fields, measures)
    if prefix == "gymnax":
        return _gymnax(rest, fields, measures)
    if prefix == "atari":
        _needs("ale_py", name)
        _needs("cv2", name)
        from polyak.envs.adapters import atari

        refuse_on_host(name, fields)
        return _looked_at(atari.factory(rest, fields, measures))
    if prefix == "pgx":
        _needs("pgx", name)
        from polyak.envs.adapters import pgx

        return _with(name, pgx.make(rest), fields, measures)
    if prefix == "envpool":
        _needs("envpool", name)
        from polyak.envs.adapters.envpool import EnvPoolFactory

        refuse_on_host(name, fields)
        return _looked_at(EnvPoolFactory(rest, fields, measures))
    if prefix in RESERVED:
        raise UserError(f"environments of {prefix} are not served yet: {name!r}; served: {_prefixes()}")
    return _own(name, fields, measures)


def name_of(env: Any) -> str:
    """What a run calls an environment: the name itself, one that finds it again, or object:WHAT.

    >>> import polyak.envs.worlds.classic_control as worlds
    >>> name_of(worlds.Pendulum), name_of(worlds.Pendulum())
    ('polyak.envs.worlds.classic_control:Pendulum', 'object:Pendulum')
    """
    if isinstance(env, str):
        return env
    if env is None:
        raise UserError(
            "the environment is None: give its name, an environment, its class, or a function that makes one"
        )
    if type(env).__name__ == "EnvSpec":
        import gymnasium

        return env.id if gymnasium.registry.get(env.id) == env else OBJECT + env.id
    if isinstance(env, functools.partial):
        return OBJECT + name_of(env.func).rpartition(":")[2]
    module, word = getattr(env, "__module__", ""), getattr(env, "__qualname__", "")
    if word and module != "__main__" and getattr(sys.modules.get(module), word, None) is env:
        return f"{module}:{word}"
    return OBJECT + _word(env)


def _word(env: Any) -> str:
    """A word for people: the name of a class or function, or of an instance's class."""
    named = env if hasattr(env, "__qualname__") else type(env)
    return re.sub(r"\W+", "-", named.__qualname__.rpartition("<locals>.")[2]).strip("-") or "Env"


def names() -> dict[str, list[str]]:
    """All that can be named, by where it comes from; a library that is not installed has none."""
    import gymnasium

    found = {"jax": sorted(_ours()), "gymnasium": sorted(gymnasium.registry)}
    found |= {"gymnax": [], "pgx": [], "envpool": [], "atari": []}
    with contextlib.suppress(ImportError):
        from polyak.envs.adapters import atari

        found["atari"] = atari.names()
    with contextlib.suppress(ImportError):
        from polyak.envs.adapters import gymnax

        found["gymnax"] = gymnax.names()
    with contextlib.suppress(ImportError):
        from polyak.envs.adapters import pgx

        found["pgx"] = pgx.names()
    with contextlib.suppress(ImportError):
        import envpool

        found["envpool"] = sorted(envpool.list_all_envs())
    return found


def _prefixes() -> str:
    return "jax:, gymnax:, pgx:, envpool:, atari:, my_package.module:, or none for Gymnasium"


def _ours() -> dict[str, type]:
    """Our JAX environments by name."""
    worlds = [importlib.import_module(f"polyak.envs.worlds.{name}") for name in WORLDS]
    return {name: made for world in worlds for name, made in world.ENVIRONMENTS.items()}


def _gymnasium(name: str, fields: dict, measures: Any, entry: Any = None) -> Any:
    from polyak.envs.adapters.gymnasium import GymnasiumFactory

    refuse_on_host(name, fields)
    return _looked_at(GymnasiumFactory(name, fields, measures, entry))


def _looked_at(factory: Any) -> Any:
    """The factory, once its spec could be made."""
    _ = factory.spec
    return factory


def _gymnax(name: str, fields: dict, measures: Any) -> Any:
    _needs("gymnax", f"gymnax:{name}")
    from polyak.envs.adapters import gymnax

    known = gymnax.options(name)
    options = {
        key: _fitting(f"gymnax:{name}: {key}", known[key], value, "")
        for key, value in fields.items()
        if key in known
    }
    constants = {key: value for key, value in fields.items() if key not in known}
    env = gymnax.make(name, options)
    return _with(f"gymnax:{name}", env, constants, measures, env.params, known)


def _needs(package: str, name: str) -> None:
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise UserError(f'environment {name} needs {package}: pip install "{EXTRAS[package]}"')


def _own(name: str, fields: dict, measures: Any) -> Any:
    """A class, instance or function in a module of the person's own, or an id that it registers."""
    module, attribute = module_of(name), name.partition(":")[2]
    if not hasattr(module, attribute):
        import gymnasium

        if attribute in gymnasium.registry:
            return _gymnasium(name, fields, measures)
        public = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, ModuleType)
        ]
        raise UserError(f"{module.__name__} has no {attribute!r}; {nearest(attribute, public)}")
    return _made(name, getattr(module, attribute), fields, measures)


def _made(name: str, thing: Any, fields: dict, measures: Any) -> Any:
    """The environment of a class, function, instance or EnvSpec."""
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from polyak.envs.adapters.gymnasium import OneGymnasium, WrittenInJax
    from polyak.envs.environment import Environment

    if isinstance(thing, type) and issubclass(thing, Environment):
        with calling(lambda error: UserError(f"environment {name} cannot be made: {said_by(error)}")):
            thing = thing()
    if isinstance(thing, Environment):
        return _with(name, thing, fields, measures)
    if isinstance(thing, EnvSpec):
        made: Any = thing
        thing = functools.partial(gymnasium.make, made, disable_env_checker=True)
    if isinstance(thing, gymnasium.Env):
        if fields:
            raise UserError(
                f"environment {name} is one instance, whose fields cannot be set: {', '.join(fields)}"
            )
        return _looked_at(OneGymnasium(name, thing, measures))
    if not callable(thing):
        raise UserError(
            f"{name} is a {type(thing).__name__}; an environment, its class, or a function that makes one is needed"
        )
    try:
        return _gymnasium(name, fields, measures, thing)
    except WrittenInJax as made:
        return _with(name, made.env, {}, measures)


def module_of(name: str) -> Any:
    """The module before the colon, from the current folder too."""
    path = name.partition(":")[0]
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(error.name + ".")):
            raise UserError(f"importing {path} failed: {said_by(error)}") from error
        hint = nearest(path, (*modules_here(), "jax", "gymnax", "pgx", "envpool", "atari"))
        hint = "Gymnasium's need no prefix" if path in ("gym", "gymnasium") else hint
        raise UserError(
            f"there is no environment {name!r}: no module {error.name!r} here or installed; {hint}"
        ) from None
    except BaseException as error:
        if passes(error):
            raise
        raise UserError(f"importing {path} failed: {said_by(error)}") from error


def modules_here() -> list[str]:
    """Names of the Python files in the current folder."""
    return sorted(path.stem for path in Path.cwd().glob("*.py"))


def _with(
    name: str, env: Any, fields: dict, measures: Any, constants: Any = None, also: Iterable[str] = ()
) -> Any:
    """A JAX environment with other values of its constants, which are its own fields unless given.

    `randomize.X` draws constant X for each episode, `push.size` and `push.chance` push it at random, and
    `action_repeat` keeps an action for so many steps.
    """
    fields, ranges, pushes = split_fields(fields)
    if jax.tree_util.all_leaves([env]):
        raise UserError(f"environment {name}: put @pytree (polyak.pytree) above class {type(env).__name__}")
    constants = env if constants is None else constants
    valid = {f.name: f for f in dataclasses.fields(constants)}
    times = fields.pop("action_repeat", 1) if "action_repeat" not in valid else 1
    values = {}
    for key, value in fields.items():
        if key not in valid:
            raise UserError(f"environment {name} has no field {key!r}; {nearest(key, [*valid, *also])}")
        old, declared = getattr(constants, key), str(valid[key].type)
        if old is None:
            values |= as_annotated(name, type(constants), {key: value})
        else:
            values[key] = _fitting(f"{name}: {key}", old, value, declared)
    try:
        env = env.replace(**values) if values else env
        spec = env.spec
    except NotImplementedError:
        raise UserError(
            f"environment {name} has no spec: give it a property `spec` that returns a Spec"
        ) from None
    except BaseException as error:
        if passes(error):
            raise
        raise UserError(f"environment {name} cannot be made: {said_by(error)}") from error
    if not isinstance(spec, Spec):
        raise UserError(f"environment {name}: spec is a {type(spec).__name__}, but must be a Spec")
    for what, space in (("obs", spec.obs), ("action", spec.action)):
        wrong = [leaf for leaf in jax.tree.leaves(space) if not isinstance(leaf, Box | Discrete)]
        if wrong or not jax.tree.leaves(space):
            given = type(wrong[0]).__name__ if wrong else space
            raise UserError(
                f"environment {name}: spec.{what} is {given}, but must be a Box or Discrete of polyak's"
            )
        for leaf in jax.tree.leaves(space):
            if isinstance(leaf, Box) and not _are_numbers(leaf.low, leaf.high):
                raise UserError(
                    f"environment {name}: a bound in spec.{what} is an array or a list: give one number, or a tuple "
                    "of numbers, as in tuple(low.tolist())"
                )
    try:
        spaces.check_limit(spec.time_limit)
    except UserError as error:
        raise UserError(f"environment {name}: {error}") from None
    own = spec.measures
    for measure in measures:
        if measure not in own:
            hint = nearest(measure, own) or "it has none"
            raise UserError(f"environment {name} has no measure {measure!r}; {hint}")
    return kept(name, pushed(name, randomized(name, env, constants, ranges), pushes), times)


def _fitting(what: str, old: Any, new: Any, declared: str) -> Any:
    """The new value, if it is of the old one's kind; an integer is a real number too."""
    if old is None:
        return new
    if isinstance(old, str):
        fits, kind = isinstance(new, str), "text"
    elif isinstance(old, bool) or np.asarray(old).dtype.kind == "b":
        new = spaces.like_bool(what, bool(old), new)
        fits, kind = new is not None, "true or false"
    elif np.ndim(old):
        shape = np.shape(old)
        fits, kind = _is_numeric(new) and np.shape(new) == shape, f"numbers of shape {shape}"
        new = tuple(new) if fits and isinstance(old, tuple) else new
    elif np.asarray(old).dtype.kind in "iu":
        fits, kind = isinstance(new, int | np.integer) and not isinstance(new, bool), "an integer"
    else:
        fits, kind = isinstance(new, int | float | np.number) and not isinstance(new, bool), "a number"
        new = float(new) if fits and isinstance(new, int) else new
    if new is None and "None" in declared:
        return None
    if not fits:
        raise UserError(f"environment {what} must be {kind}, not {new!r}")
    return new


def _are_numbers(*bounds: Any) -> bool:
    """Whether each bound is a number or a tuple of numbers, and no array, which cannot be compared."""
    each = [part for bound in bounds for part in (bound if isinstance(bound, tuple) else (bound,))]
    return all(isinstance(part, int | float | np.number) for part in each)


def _is_numeric(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "iuf"
    except ValueError:
        return False

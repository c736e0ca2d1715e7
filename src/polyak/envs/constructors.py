"""Arguments of a constructor, its own and those that it hands on, and values as its annotations want them."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from polyak.errors import UserError, boolean, brief

ABSENT = inspect.Parameter.empty


def parameters(creator: Callable[..., Any]) -> set[str]:
    """Names of the keyword arguments; "**" where any is taken."""
    names = set()
    for name, p in inspect.signature(creator).parameters.items():
        if p.kind is not p.VAR_POSITIONAL:
            names.add("**" if p.kind is p.VAR_KEYWORD else name)
    return names


def all_parameters(creator: Callable[..., Any]) -> set[str]:
    """Also those of the classes that a constructor hands its own on to."""
    return set().union(*map(parameters, _constructors(creator))) - {"self"}


def with_tuples(creator: Callable[..., Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, a list made a tuple where the creator's own value is one: no flag and no file can say a tuple."""
    usual = inspect.signature(creator).parameters
    tuples = {name for name, parameter in usual.items() if isinstance(parameter.default, tuple)}
    return {
        name: tuple(value) if name in tuples and isinstance(value, list) else value
        for name, value in fields.items()
    }


def as_annotated(
    what: str, creator: Callable[..., Any], fields: Mapping[str, Any], usual: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields as the annotations of a constructor want them; UserError names all that do not fit.

    what   the environment's name
    usual  defaults that stand in for the constructor's own

    A field without an annotation passes as it is, but where its default is a bool a word for one is needed. An
    annotation that is a class of somebody's own, or that the default itself breaks, says nothing.
    """
    defaults = _defaults(creator) | dict(usual or {})
    annotations, given, wrong = hints(creator), {}, []
    for name, value in fields.items():
        default = defaults.get(name, ABSENT)
        hint = annotations.get(name, Any)
        try:
            hint = hint if default is ABSENT or default is None else _kept(default, hint)
            if value is None and default is None:
                given[name] = None
            else:
                given[name] = fitted(
                    value, bool if isinstance(default, bool | np.bool_) and hint is Any else hint
                )
        except ValueError as error:
            wrong.append(f"{name} must be {error}, not {brief(value)}")
    if wrong:
        raise UserError(f"environment {what}: {'; '.join(wrong)}")
    return given


def _kept(default: Any, hint: Any) -> Any:
    """An annotation, where its own default keeps to it; else `Any`."""
    try:
        fitted(default, hint)
    except ValueError:
        return Any
    return hint


def fitted(value: Any, hint: Any) -> Any:
    """A value as a type hint wants it; ValueError says what would be right. A hint that says nothing takes any.

    >>> fitted(3, float), fitted("yes", bool), fitted([1, 2], tuple[float, ...]), fitted(None, int | None)
    (3.0, True, (1.0, 2.0), None)
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fitted(value, args[0])
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, args)
    if origin is typing.Literal:
        if not any(value == choice and type(value) is type(choice) for choice in args):
            raise ValueError(f"one of {', '.join(map(str, args))}")
        return value
    if (origin or hint) in (list, tuple):
        return _several(value, origin or hint, args)
    if hint in (None, type(None)) and value is not None:
        raise ValueError("None")
    if hint is bool:
        return boolean(bool(value) if isinstance(value, np.bool_) else value)
    if hint is int and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise ValueError("a whole number")
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError("a number")
        return float(value)
    if hint is str and not isinstance(value, str):
        raise ValueError(
            "text" if value is None else """text, with "quotes" around it where it looks like more"""
        )
    return value


def _one_of(value: Any, hints: tuple) -> Any:
    """The value as the first hint that takes it as it is wants it, else as the first that takes it at all."""
    exact = [hint for hint in hints if hint is type(value)]
    says = []
    for hint in [*exact, *sorted(hints, key=lambda hint: hint is type(None))]:
        try:
            return fitted(value, hint)
        except ValueError as error:
            says.append(str(error))
    raise ValueError(" or ".join(dict.fromkeys(says)))


def _several(value: Any, kind: type, args: tuple) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("a list, as in 1,2")
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise ValueError(f"a list of {len(args)}")
        return tuple(fitted(item, hint) for item, hint in zip(value, args, strict=True))
    try:
        return kind(fitted(item, args[0]) if args else item for item in value)
    except ValueError as error:
        raise ValueError(f"a list, each of whose entries is {error}") from None


def hints(creator: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of all constructors, the nearer one's where there are two; without those that cannot be resolved."""
    found: dict[str, Any] = {}
    while isinstance(creator, functools.partial):
        creator = creator.func
    for function in reversed(_constructors(creator)):
        own: Any = function.__init__ if inspect.isclass(function) else function
        for name, hint in getattr(own, "__annotations__", {}).items():
            alone: Any = types.SimpleNamespace(__annotations__={name: hint})
            try:
                found |= typing.get_type_hints(alone, getattr(own, "__globals__", {}))
            except Exception:  # a name that only a type checker imports
                found.pop(name, None)
    return found


def _defaults(creator: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of all of these; where there are two of one name, the nearer one's."""
    found: dict[str, Any] = {}
    for function in reversed(_constructors(creator)):
        found |= {name: p.default for name, p in inspect.signature(function).parameters.items()}
    return found


def _constructors(creator: Callable[..., Any]) -> list[Callable[..., Any]]:
    classes = creator.__mro__ if inspect.isclass(creator) else ()
    inherited = [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)]
    return [creator, *(init for init in inherited if inspect.isfunction(init))]

"""From what a person or a file says to typed values, each mistake one line: flags, TOML, JSON and Python alike."""

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from polyak.errors import UserError, boolean, brief, nearest, printable

T = TypeVar("T")


def amend(record: T, values: Mapping[str, Any], prefix: str = "") -> T:
    """A copy of a dataclass with other values, given flat ("data.steps") or nested; strings are parsed.

    Raises UserError, one line for all that is wrong: unknown names with the nearest valid one, wrong types.
    """
    hints = typing.get_type_hints(type(record))
    nested: dict[str, dict[str, Any]] = {}
    changed, wrong = {}, []
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if head not in hints:
            wrong.append(f"unknown setting {brief(prefix + head)}: {nearest(head, hints)}")
        elif rest:
            nested.setdefault(head, {})[rest] = value
        elif dataclasses.is_dataclass(getattr(record, head)) and isinstance(value, Mapping):
            nested.setdefault(head, {}).update(value)
        else:
            try:
                changed[head] = convert(value, hints[head])
            except ValueError as error:
                typed = head.replace("_", "-") if prefix == "--" else head
                wrong.append(f"{prefix}{typed} is {brief(value)}, but must be {error}")
    for head, inner in nested.items():
        try:
            changed[head] = amend(getattr(record, head), inner, f"{prefix}{head}.")
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError("; ".join(wrong))
    return dataclasses.replace(record, **changed)  # pyright: ignore[reportArgumentType]


def check_settable(cls: Any, what: str) -> None:
    """UserError, one line for all that is wrong, unless a class is a frozen dataclass whose fields have values that a
    command line and a config.json can say, and a default each.
    """
    given = cls if isinstance(cls, type) else type(cls)
    if not (dataclasses.is_dataclass(given) and given.__dataclass_params__.frozen):  # pyright: ignore
        raise UserError(f"{what} is {brief(cls)}, but must be a dataclass with @dataclass(frozen=True)")
    try:
        hints = typing.get_type_hints(given)
    except Exception as error:
        raise UserError(f"{what}: an annotation cannot be resolved: {printable(error)}") from None
    wrong = [
        f"{field.name} has no default"
        for field in dataclasses.fields(given)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    wrong += [
        f"{field.name} is annotated with {_written(hints[field.name])}, but must be {SETTABLE}"
        for field in dataclasses.fields(given)
        if not _is_settable(hints[field.name])
    ]
    if wrong:
        raise UserError(f"{what}: {'; '.join(wrong)}")


SETTABLE = "int, float, bool, str, a Literal, a tuple of these, or one of these | None"


def _is_settable(hint: Any) -> bool:
    """Whether `convert` knows what a hint wants."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, tuple):
        return all(arg is Ellipsis or _is_settable(arg) for arg in args)
    return hint in (int, float, bool, str, type(None)) or dataclasses.is_dataclass(hint)


def _written(hint: Any) -> str:
    return hint.__name__ if type(hint) is type else str(hint).removeprefix("typing.")


def convert(value: Any, hint: Any) -> Any:
    """A value as its type hint wants it; ValueError says what would be right."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, args)
    if origin is typing.Literal:
        if not isinstance(value, str | int) or value not in args:
            raise ValueError(f"one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _tuple(value, args)
    if hint is type(None):
        if value is None or value == "None":
            return None
        raise ValueError("None")
    if hint is bool:
        return boolean(value)
    if hint is int:
        return integer(value)
    if hint is float:
        return _float(value)
    if hint is str and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return amend(typing.cast(type, hint)(), value)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ValueError(f"of type {getattr(hint, '__name__', hint)}")


def integer(value: Any) -> int:
    """A whole number: 100000, "100_000" and "1e5" are the same."""
    if isinstance(value, bool):
        raise ValueError("a whole number")
    try:
        return int(value) if isinstance(value, str) else _whole(float(value), value)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return _whole(float(value), value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a whole number, like 100000 or 1e5") from None


def whole(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """A whole number between two ends, or UserError that names it."""
    try:
        number = integer(value)
    except ValueError as error:
        raise UserError(f"{name} is {value!r}, but must be {error}") from None
    if not low <= number <= high:
        raise UserError(f"{name} is {value!r}, but must be between {low} and {high}")
    return number


def _whole(number: float, value: Any) -> int:
    if number != int(number):
        raise ValueError
    return int(value) if isinstance(value, int) else int(number)


def _float(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a number") from None
    if isinstance(value, bool) or math.isnan(number):
        raise ValueError("a number")
    return number


def _one_of(value: Any, hints: tuple) -> Any:
    says = []
    for hint in sorted(hints, key=lambda hint: hint is type(None)):
        try:
            return convert(value, hint)
        except ValueError as error:
            says.append(str(error))
    raise ValueError(" or ".join(says[:-1] if type(None) in hints else says))


def _tuple(value: Any, args: tuple) -> tuple:
    if isinstance(value, str):
        value = [word for word in value.replace("(", "").replace(")", "").replace(",", " ").split() if word]
    if not isinstance(value, list | tuple):
        raise ValueError("a list")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(convert(item, args[0]) for item in value)
    if len(args) != len(value):
        raise ValueError(f"a list of {len(args)}")
    return tuple(convert(item, arg) for item, arg in zip(value, args, strict=True))


def plain(value: Any) -> Any:
    """A dataclass, tuple or mapping as what JSON can say."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value

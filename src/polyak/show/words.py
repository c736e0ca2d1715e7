"""Numbers, lists and settings in a sentence."""

from collections.abc import Iterable
from typing import Any

from polyak.errors import brief, printable


def figure(x: float) -> str:
    """A return in few characters."""
    if abs(x) >= 1e7:
        return f"{x:.3g}"
    return f"{x:,.1f}" if abs(x) >= 100 else f"{x:.3g}"


def listed(words: Iterable[str], most: int = 6) -> str:
    """A list in a sentence, of bounded length."""
    words = list(words)
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return ", ".join([*words[:most], *more])


def shown(value: Any, most: int = 160) -> str:
    """A setting for a person."""
    return printable(value, most) if isinstance(value, str) else brief(value, most)

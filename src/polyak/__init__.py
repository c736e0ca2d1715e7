"""Policy search, from the lecture slide to the cluster."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from polyak.errors import CheckpointError, EnvironmentFault, UserError
    from polyak.health.environment import check_env
    from polyak.health.run import doctor
    from polyak.runs.agent import Agent
    from polyak.runs.events import Event
    from polyak.runs.run import Run, load, train
    from polyak.runs.watch import watch

_HOMES = {
    "Agent": "polyak.runs.agent",
    "CheckpointError": "polyak.errors",
    "EnvironmentFault": "polyak.errors",
    "Event": "polyak.runs.events",
    "Run": "polyak.runs.run",
    "UserError": "polyak.errors",
    "check_env": "polyak.health.environment",
    "doctor": "polyak.health.run",
    "load": "polyak.runs.run",
    "train": "polyak.runs.run",
    "watch": "polyak.runs.watch",
}
__all__ = [
    "Agent",
    "CheckpointError",
    "EnvironmentFault",
    "Event",
    "Run",
    "UserError",
    "__version__",
    "check_env",
    "doctor",
    "load",
    "train",
    "watch",
]


def __getattr__(name: str) -> Any:
    """The public names, each imported when it is first asked for: `import polyak` costs nothing."""
    if name not in _HOMES:
        from polyak.algorithms import names

        hint = f": polyak.Agent({name.lower()!r}, env)" if name.lower() in names() else ""
        raise AttributeError(f"module 'polyak' has no attribute {name!r}{hint}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__

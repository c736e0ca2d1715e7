"""The files that a person's own environment and algorithm are written in, and whether they are what they were."""

import hashlib
import inspect
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from polyak.runs.plan import Plan


def digests(plan: Plan) -> dict[str, str]:
    """SHA-256 of each file that a plan names by a module of the person's own, by the file's name.

    What has no file, as a class of a notebook, and what is not imported yet is left out.
    """
    modules = (sys.modules.get(name.partition(":")[0]) for name in plan.to_trust if ":" in name)
    paths = filter(None, map(source, filter(None, modules)))
    found = {}
    for path in paths:
        with suppress(OSError):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def source(module: ModuleType) -> Path | None:
    """Where a module is written; None where that is not known, or is the program that runs."""
    if module.__name__ == "__main__":
        return None
    with suppress(TypeError, OSError):
        if found := inspect.getsourcefile(module):
            return Path(found)
    return None


def changed(kept: object, plan: Plan) -> list[str]:
    """Names of the files that are not what they were when `kept`, of a config.json, was written."""
    if not isinstance(kept, dict):
        return []
    return [name for name, digest in digests(plan).items() if kept.get(name, digest) != digest]

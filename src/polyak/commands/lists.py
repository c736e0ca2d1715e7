"""`list`: the algorithms and the environments that there are."""

import fnmatch
import shutil
import textwrap
from collections.abc import Sequence

from polyak import algorithms, flags
from polyak.errors import UserError, nearest


def show_list(said: flags.Said, options: flags.NoOptions) -> int:
    """Tables of what there is."""
    what = said.words[0] if said.words else None
    tables = {"algorithms": list_algorithms, "envs": list_envs}
    if what is not None and what not in tables:
        raise UserError(f"there is no list of {what!r}: {nearest(what, tables)}")
    pattern = said.words[1] if len(said.words) > 1 else ""
    for name in [what] if what else tables:
        if not tables[name](pattern):
            raise UserError(f"none of the {name} has {pattern!r} in its name")
    return 0


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """The names that a pattern fits: part of a name, or one with * and ?; upper and lower case are the same."""
    pattern = pattern.lower() if set(pattern) & set("*?") else f"*{pattern.lower()}*"
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern)]


def list_algorithms(pattern: str) -> bool:
    """A line for each algorithm that a pattern fits: its name and what it is; whether there is one."""
    names = matching(algorithms.names(), pattern)
    if not names:
        return False
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {algorithms.title(name)}")
    return True


def list_envs(pattern: str) -> bool:
    """The environments that a pattern fits by where they come from, as a user types them; whether there is one."""
    from polyak.envs.find import names

    some = False
    for source, known in names().items():
        prefix = "" if source == "gymnasium" else f"{source}:"
        fitting = matching([prefix + name for name in known], pattern)
        some = some or bool(fitting)
        if pattern and not fitting:
            continue
        print(f"\n{source}" if known else f"\n{source} (not installed)")
        text = "  ".join(fitting)
        print(
            textwrap.indent(
                textwrap.fill(
                    text,
                    shutil.get_terminal_size().columns - 4,
                    break_long_words=False,
                    break_on_hyphens=False,
                ),
                "  ",
            )
        )
    return some

"""Which names and settings of an environment do more than choose it, and so are followed from a file only if trusted.

A name with a colon is code unless what stands before it is in SOURCES. A setting is passed to a constructor of other
people's, which may open, run or download what it says: from a file it is a number, true, false, or, where WORDS says
so, a short word.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

SOURCES = (
    "jax",
    "gymnax",
    "envpool",
    "atari",
    "brax",
    "playground",
    "pgx",
    "object",
)  # none of them imports by a name
FOREIGN = re.compile(r"GymV\d+Environment-v0")  # Gymnasium's doors to code that a setting names
DOWNLOADS = ("gymnax:MNISTBandit-bsuite",)  # what fetches its data when it is made
WORDS = (  # settings that choose from a list of words in the environment's own code; none is a path
    "control_mode",
    "desc",
    "map_name",
    "maze_map",
    "obs_type",
    "render_mode",
    "reward_type",
    "target_position",
    "target_rotation",
    "task_name",
    "tasks_to_complete",
    "touch_get_obs",
    "wfc_preset",
)
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+ -]{0,63}")
MOST = 10_000  # of a whole number, which may be a count of what is made or of steps in one
MOST_STEPS = 2**31 - 1
FARTHEST = 1e9  # of a real number
LONGEST = 10_000  # numbers and words of one setting


def is_code(name: str) -> bool:
    """Whether finding an environment of this name imports a module that it names."""
    return ":" in name and name.partition(":")[0] not in SOURCES


def names_to_trust(env: str, fields: Mapping[str, Any], flag: str = "env") -> list[str]:
    """What a person must say of an environment and its settings before they are taken from a file.

    >>> names_to_trust("envpool:D1Basic-v1", {"vzd_path": "/bin/sh", "frame_skip": 4})
    ['env.vzd_path']
    """
    asked = is_code(env) or FOREIGN.fullmatch(env) or env in DOWNLOADS
    return [env] * bool(asked) + [
        f"{flag}.{name}" for name, value in fields.items() if not harmless(name, value)
    ]


def harmless(name: str, value: Any) -> bool:
    """Whether a setting of this name can do no more with this value than choose or measure."""
    if isinstance(value, list):
        each = list(_flat(value, 0))
        return len(each) <= LONGEST and all(not isinstance(x, list) and harmless(name, x) for x in each)
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return abs(value) <= (MOST_STEPS if name == "max_episode_steps" else MOST)
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) <= FARTHEST
    return isinstance(value, str) and name in WORDS and WORD.fullmatch(value) is not None


def _flat(value: list, depth: int) -> Any:
    """The entries of lists of lists of lists; a list for what is deeper."""
    for x in value:
        if isinstance(x, list) and depth < 3:
            yield from _flat(x, depth + 1)
        else:
            yield x

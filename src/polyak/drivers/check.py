"""Settings that cannot work, refused in one line before anything is traced or allocated."""

from collections.abc import Callable, Mapping
from typing import Any

from polyak.errors import UserError, nearest, out_of_range
from polyak.interface import Algorithm, Box, Discrete, Space, Spec, rows_of
from polyak.parts.networks import BUILDERS
from polyak.parts.networks.layers import ACTIVATIONS
from polyak.parts.replay.ring import MOST_SLOTS

# settings of the data that only some are asked about, and who may be given them
ASKED = {
    "simulator": ("is for planners, and this is none", lambda algorithm: algorithm.simulates),
    "self_play": (
        "is for what can play both sides of a game, and this cannot",
        lambda algorithm: algorithm.simulates or algorithm.plays,
    ),
}
NAMED = {
    "network": BUILDERS,
    "activation": ACTIVATIONS,
}  # settings that name something of ours, and what there is
PICTURE = 500  # numbers from which on an array of two or three axes is taken for a picture
TAKEN = {"return", "return_std", "length", "count", "episodes"}  # names of polyak's own measures


def check_data(
    name: str,
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    fitting: Callable[[str], list[str]] = lambda kind: [],
) -> None:
    """UserError for what no driver serves yet, and for settings that contradict each other.

    fitting  from a kind of actions to the names of algorithms that take it, for the line that says so
    """
    if unnamed := unsavable(spec.obs):
        raise UserError(
            f"observations have keys that cannot be saved ({', '.join(unnamed)}): make them plain text"
        )
    seen = observation_kind(spec)
    if algorithm.observes not in ("any", seen):
        takes = {"vector": "one vector of real numbers (Box)", "discrete": "one integer (Discrete)"}
        raise UserError(
            f"{name} takes observations that are {takes[algorithm.observes]}, but this task's are "
            f"{takes.get(seen, 'of another kind')}"
        )
    kind = action_kind(spec)
    if kind not in algorithm.actions:
        taken, fit = " and ".join(algorithm.actions), ", ".join(fitting(kind))
        advice = f": {fit} would fit" if fit else ""
        raise UserError(f"{name} takes {taken} actions, but this task's are {kind}{advice}")
    data = cfg.data
    wrong = wrong_names(cfg) + out_of_range(cfg) + out_of_range(data, "data.") + wrong_frames(data, spec)
    wrong = wrong or wrong_rollout(algorithm, data, spec)
    wrong = wrong or wrong_sizes(data, spec) + wrong_index(data, spec)
    refused = [
        f"data.{field} {reason} (given True, leave it at False)"
        for field, (reason, may) in ASKED.items()
        if getattr(data, field, False) and not may(algorithm)
    ]
    if not refused and (data.plans or data.simulator) and spec.model is None:
        wrong.append(
            "it plans with the environment's rules, which this one does not offer: those in JAX do (jax:...)"
        )
    wrong = wrong or list(algorithm.wrong(cfg, spec))
    if taken := sorted(TAKEN & set(spec.measures)):
        wrong.append(f"measures named {', '.join(taken)} would hide polyak's own: choose other names")
    wrong += refused
    if spec.players > 1 and not getattr(data, "self_play", False):
        wrong.append(
            f"this game has {spec.players} players: choose one that plays against itself (data.self_play), "
            "or give it an opponent (polyak.envs.worlds.games.versus)"
        )
    if wrong:
        raise UserError(f"{name}: " + "; ".join(wrong))


def wrong_names(cfg: Any) -> list[str]:
    """A line for each network or activation that there is none of by this name."""
    said = {field: getattr(cfg, field, None) for field in NAMED}
    return [
        f"unknown {field} {name!r}: {nearest(name, NAMED[field])}"
        for field, name in said.items()
        if isinstance(name, str) and name not in NAMED[field]
    ]


def unsavable(space: Space) -> list[str]:
    """Keys in a space of observations that are no text that a file can hold."""
    if isinstance(space, tuple):
        return [key for part in space for key in unsavable(part)]
    if not isinstance(space, Mapping):
        return []
    own = [
        repr(key)
        for key in space
        if not isinstance(key, str) or key.encode("utf-8", "replace").decode() != key
    ]
    return own + [key for part in space.values() for key in unsavable(part)]


def wrong_rollout(algorithm: Algorithm, data: Any, spec: Spec) -> list[str]:
    """A line where an on-policy rollout has no length, two lengths, or one that the algorithm does not learn from."""
    if data.common < 0:
        return [f"data.common is {data.common}, but must be at least 0"]
    if data.replays or data.plans:
        return []
    if not data.steps and not data.episodes:
        return [
            "data.steps is 0, but must be at least 1 (or data.episodes, where whole episodes are learned from)"
        ]
    if data.steps and data.episodes:
        return [f"data.steps is {data.steps} and data.episodes {data.episodes}: set one of them to 0"]
    if data.episodes and not algorithm.Config().data.episodes:
        return [
            "data.episodes is not for this algorithm, which learns from rows and would learn from padding too"
        ]
    if data.episodes and not spec.time_limit:
        return [
            "data.episodes needs a time limit, which this environment has not: give it one (of Gymnasium's, "
            "--env.max_episode_steps)"
        ]
    return []


def wrong_sizes(data: Any, spec: Spec) -> list[str]:
    """A line for each size of the replay that does not fit the others."""
    if not data.replays:
        return []
    held = data.slots(spec.num_envs)
    if held < 1:
        return [
            f"data.capacity is {data.capacity}, which does not hold one rollout of {data.steps} steps x "
            f"{spec.num_envs} environments: give at least {data.steps * spec.num_envs}"
        ]
    wrong = []
    if held > MOST_SLOTS:
        wrong.append(
            f"data.capacity is {data.capacity}: at most {MOST_SLOTS} rows of each environment are held"
        )
    if data.warmup > data.capacity:
        wrong.append(f"data.warmup ({data.warmup}) is more than data.capacity ({data.capacity}) holds")
    rows = min(held, (data.warmup_rollouts(spec.num_envs) + 1) * data.steps)  # before the first update
    if rows < data.length:
        wrong.append(
            f"data.length is {data.length}, but at the first update the replay holds {rows} rows of each "
            "environment: raise data.warmup or data.capacity"
        )
    if held < data.n_step:
        enough = -(-data.n_step // data.steps) * data.steps * spec.num_envs  # in whole rollouts
        wrong.append(
            f"data.n_step is {data.n_step}, but the replay holds {held} rows of each environment: raise "
            f"data.capacity to {enough} or more"
        )
    return wrong


def wrong_index(data: Any, spec: Spec) -> list[str]:
    """A line for each setting of drawing by priorities, from finished episodes or with other goals that cannot work."""
    if not data.replays:
        return []
    wrong = []
    given = data.correction
    *ends, duration = given if isinstance(given, tuple) else (given, 1)
    if not all(0 <= beta <= 1 for beta in ends) or duration < 1:
        wrong.append(
            f"data.correction is {given}, but must be a number between 0 and 1, or (start, end, updates) with two "
            "of these and at least 1 update"
        )
    if data.hindsight is not None:
        wrong += out_of_range(data.hindsight, "data.hindsight.")
        if spec.goal is None:
            wrong.append(
                "hindsight (--her) replaces goals, but this environment has none: it would need observations with "
                "observation, achieved_goal and desired_goal and a compute_reward, or in JAX a spec with goal"
            )
    finished = "hindsight" if data.hindsight is not None else "data.ended" if data.ended else ""
    if data.priority > 0:
        if data.ended:
            wrong.append("data.ended draws from finished episodes uniformly: leave data.priority at 0")
        finished = ""  # by priorities, rows of running episodes are drawn too
    limit, held = spec.time_limit, data.slots(spec.num_envs)
    first = min(held, (data.warmup_rollouts(spec.num_envs) + 1) * data.steps)
    if finished and limit is not None and first < limit:
        wrong.append(
            f"{finished} draws from finished episodes, of up to {limit} steps, but at the first update the replay "
            f"holds {first} rows of each environment: raise data.warmup to {limit * spec.num_envs} or more"
            + (f" and data.capacity to {(limit + data.steps) * spec.num_envs}" if held < limit else "")
        )
    return wrong


def wrong_frames(data: Any, spec: Spec) -> list[str]:
    """A line where observations are not the stacks of frames that `data.frames` says, or cannot be read as such."""
    if not data.replays or data.frames <= 0:
        return []
    if data.hindsight is not None:
        return [
            "hindsight (--her) reads goals of observations that are kept as frames: leave data.frames at 0"
        ]
    shapes = [space.shape for space in spaces_of(spec.obs)]
    if data.frames > 1 and any(len(shape) < 2 or shape[0] != data.frames for shape in shapes):
        said = ", ".join(map(str, shapes))
        return [
            f"data.frames is {data.frames}, but observations have the shape {said}, of which the first axis must be "
            "these frames: 1 stores any observation once, 0 stores both of each row"
        ]
    return []


def wrong_budget(data: Any, spec: Spec, steps: int) -> list[str]:
    """A line where a run of so many steps would end before its first update."""
    if data.plans or data.warmup_rollouts(spec.num_envs) < rollouts_of(data, spec, steps):
        return []
    return [
        f"the warm-up takes {data.warmup:,} steps and the run has {steps:,}, so that nothing would be learned: "
        "lower --config.data.warmup or raise --steps"
    ]


def notes(algorithm: Algorithm, cfg: Any, spec: Spec, steps: int) -> list[str]:
    """Lines that a person should read before a run of so many steps: what works, but perhaps not as they think."""
    data, found = cfg.data, list(algorithm.notes(cfg, spec))
    if data.replays:
        given = rollouts_of(data, spec, steps) * data.steps
        held = min(data.slots(spec.num_envs), given) * spec.num_envs
        if held < data.batch_size:
            found.append(
                f"the replay never holds more than {held:,} rows, which do not fill a batch of {data.batch_size:,}: "
                "lower --config.data.batch_size, or raise --config.data.capacity or --steps"
            )
    if data.clip is not None:
        found.append(
            f"rewards beyond -{data.clip:g} and {data.clip:g} are clipped before learning, so that it cannot tell "
            "them apart: --config.data.clip None leaves them as they are"
        )
    return found


def rollouts_of(data: Any, spec: Spec, steps: int) -> int:
    """Rollouts of a run of so many steps."""
    return -(-steps // max(1, rows_of(data, spec.time_limit) * spec.num_envs))


def action_kind(spec: Spec) -> str:
    """Kind of actions that a task takes: "discrete" or "continuous"."""
    return "discrete" if isinstance(spec.action, Discrete) else "continuous"


def observation_kind(spec: Spec) -> str:
    """Kind of observations that a task gives: "discrete", "vector", or "other"."""
    if isinstance(spec.obs, Discrete):
        return "discrete"
    return "vector" if isinstance(spec.obs, Box) and len(spec.obs.shape) == 1 else "other"


GOAL = {"observation", "achieved_goal", "desired_goal"}  # parts of what an environment with goals shows


def ignored(spec: Spec, cfg: Any) -> dict[str, str]:
    """Lines, by what they are about, on what a task offers, or settings say, and nothing here uses."""
    notes, usual = {}, type(cfg)()
    said = [name for name in ("sigma", "log_sigma") if getattr(cfg, name, None) != getattr(usual, name, None)]
    if getattr(cfg, "policy", None) == "beta" and said:
        notes["sigma"] = (
            f"{' and '.join(said)} of a Gaussian: not read with --config.policy beta, which has none"
        )
    if spec.goal is not None and cfg.data.replays and cfg.data.hindsight is not None and spec.goal.note:
        notes["goal"] = spec.goal.note
    elif isinstance(spec.obs, dict) and set(spec.obs) == GOAL and spec.goal is None:
        notes["goal"] = (
            "this environment has goals, which are read as part of one vector; hindsight (--her) needs its "
            "compute_reward too, which it has not"
        )
    network = getattr(cfg, "network", None)
    for space in spaces_of(spec.obs):
        if isinstance(space, Box) and len(space.shape) > 1 and space.size >= PICTURE and network == "mlp":
            notes["picture"] = (
                f"observations of shape {space.shape} are read as {space.size:,} numbers in a row by the network "
                "'mlp', which does not see that they are pictures: choose --config.network nature, residual or cnn"
            )
    return notes


def spaces_of(space: Any) -> list[Any]:
    """The simple spaces in a space."""
    if isinstance(space, dict):
        return [leaf for part in space.values() for leaf in spaces_of(part)]
    return [leaf for part in space for leaf in spaces_of(part)] if isinstance(space, tuple) else [space]

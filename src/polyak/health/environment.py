"""Everything that is wrong with an environment at once, each with what to do about it.

The environment is played with random actions, and with pairs of scripts that should or should not come to the same. An
*error* breaks training or makes its results wrong, a *warning* probably harms it, a *note* may be meant.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import jax
import numpy as np

from polyak.envs import spaces
from polyak.envs.adapters.gymnasium import GymnasiumFactory, OneGymnasium, WrittenInJax
from polyak.envs.environment import Environment
from polyak.envs.find import find, module_of, name_of
from polyak.envs.trust import is_code
from polyak.errors import UserError, printable, said_by
from polyak.health.episodes import Episode, World
from polyak.health.finding import Finding, Report, ranked
from polyak.health.graph import InGraph
from polyak.health.host import OnHost
from polyak.health.pairs import compared
from polyak.health.played import CHECKS, bounds, numbers
from polyak.health.pool import OnPool
from polyak.health.trials import try_all
from polyak.interface import Replay, Transition
from polyak.parts import replay
from polyak.runs.memory import free_memory, gigabytes
from polyak.runs.setup import set_up_jax

ORDER = [  # of findings of one level
    *["cannot-be-made", "refused", "spaces-change", "reset-arguments", "reset-returns", "step-returns"],
    *["reset-raises", "step-raises", "step", "observation", "nan", "nan-reward", "reward", "ends", "info"],
    *[
        "global-random",
        "leak",
        "shared",
        "determinism",
        "final-observation",
        "both-ends",
        "limit-as-end",
        "no-end",
    ],
    *["action-ignored", "exploding", "bounds", "scale", "reward-scale", "alias"],
]
FOLLOW = {  # from a finding to those that it brings with it
    "reset-arguments": ("determinism", "reseeds"),
    "observation": ("bounds", "dtype"),
    "nan": ("nan-reward", "bounds", "action-dead"),
    "reward": ("reward-zero", "reward-constant"),
    "ends": ("no-end",),
    "seeding": ("seed-ignored",),
    "reward-cumulative": ("reward-constant",),
}
LARGE = 1e3  # range of an action from which on it is wide
SLOWEST = 1e6 / (12 * 3600)  # steps per second with which a million take half a day


def check_env(
    env: Any,
    *,
    steps: int = 10_000,
    seconds: float = 20.0,
    seed: int = 0,
    fields: Mapping[str, object] | None = None,
) -> Report:
    """All that is wrong with an environment, the worst first.

    env      a name as `polyak train` takes it; or an environment itself, its class, or a function that makes one
    steps    of random play
    seconds  that random play may take
    fields   its constants or its constructor's keyword arguments

    >>> check_env("CartPole-v1", steps=500).sound
    True
    """
    set_up_jax()
    name, found = name_of(env), list[Finding]()
    world = opened(env, dict(fields or {}), found)
    if world is None:
        return Report(name, ranked(found, ORDER))
    began = time.monotonic()
    try:
        found += action_space(world.actions)
        episodes = world.explore(steps, seconds, seed)
        if episodes and not any(episode.raised for episode in episodes):
            found += closer(world, seed)
            found += [each for check in CHECKS for each in check(world, episodes)]
            found += compared(world, seed)
        elif episodes:
            found += closer(world, seed)
            found += [each for check in (numbers, bounds) for each in check(world, episodes)]
    finally:
        if isinstance(world, OnHost):
            world.close()
    found += memory(world) + speed(world)
    found += world.findings
    follows = {name for finding in found for name in FOLLOW.get(finding.name, ())}
    found = [finding for finding in found if finding.name not in follows]
    return Report(name, ranked(found, ORDER), facts(world, episodes, time.monotonic() - began))


def closer(world: World, seed: int) -> list[Finding]:
    """What only one kind of environment can get wrong."""
    if isinstance(world, OnHost):
        try_all(world, seed)  # it keeps what it finds
        return []
    if isinstance(world, OnPool):
        return world.repeated(seed)
    return list(world.traced(seed)) if isinstance(world, InGraph) else []


def opened(env: Any, fields: dict[str, object], found: list[Finding]) -> World | None:
    """The environment, to be played; None where that cannot be, with a finding that says why."""
    refused = None
    try:
        made = find(env, fields)
    except UserError as error:
        made, refused = factory(env, fields), error
    if refused is not None:
        fix = "mend what the line names; polyak list envs shows all names"
        found.append(Finding("error", "refused" if made else "cannot-be-made", printable(refused), fix))
    if isinstance(made, Environment):
        return InGraph(made)
    try:
        if isinstance(made, GymnasiumFactory):
            return OnHost(made.make_one(), made.make_one)
        if isinstance(made, OneGymnasium):
            return OnHost(made.env, None)
        if isinstance(env, str) and env.startswith("envpool:") and made is not None:
            return OnPool(made)
    except Exception as error:
        if not found:
            found.append(Finding("error", "cannot-be-made", said_by(error)))
        return None
    if refused is None:
        raise UserError(f"check-env looks at single environments, which {name_of(env)} does not give")
    return None


def factory(env: Any, fields: dict[str, object]) -> Any:
    """What would make an environment that polyak refuses, so that everything else is found too; None without."""
    try:
        if isinstance(env, str):
            if not is_code(env):
                return GymnasiumFactory(env, fields) if env in gymnasium.registry else None
            env = getattr(module_of(env), env.partition(":")[2])
        if isinstance(env, gymnasium.Env):
            return OneGymnasium(name_of(env), env)
        entry: Any = env if callable(env) else None
        made = GymnasiumFactory(name_of(env), fields, (), entry) if entry is not None else None
        if made is not None and all(
            hasattr(made.make_one(), s) for s in ("observation_space", "action_space")
        ):
            return made
    except (UserError, AttributeError, WrittenInJax):
        return None
    return None


# ---- what is declared


def action_space(space: Any) -> Iterator[Finding]:
    """Bounds that are missing, that leave no choice, or that are very wide."""
    if spaces.kind_of(space) == "Discrete" and space.n == 1:
        yield Finding(
            "warning", "one-action", "there is one action: nothing can be chosen", "give Discrete more than 1"
        )
    if spaces.kind_of(space) != "Box" or space.dtype.kind != "f":
        return
    low, high = (np.ravel(bound) for bound in spaces.bounds(space.low, space.high))
    if (free := ~(np.isfinite(low) & np.isfinite(high))).any():
        which = ", ".join(map(str, np.flatnonzero(free)[:6]))
        yield Finding(
            "warning",
            "action-bounds",
            f"{free.sum()} of {free.size} entries of the actions have no two finite bounds (entries "
            f"{which}): they are not "
            "rescaled, and a policy that squashes its actions reaches only [-1, 1] of them",
            "declare the bounds that the actuators have",
        )
    if (stuck := low == high).any():
        which = ", ".join(map(str, np.flatnonzero(stuck)[:6]))
        says = (
            f"entries {which} of the actions have the same lower and upper bound: nothing can be chosen there"
        )
        yield Finding("warning", "action-stuck", says, "leave these entries out")
    with np.errstate(invalid="ignore"):
        wide = np.isfinite(high - low) & (high - low > LARGE)
    if wide.any():
        which = int(np.flatnonzero(wide)[0])
        says = (
            f"entry {which} of the actions goes from {low[which]:g} to {high[which]:g}; random actions "
            f"use all of that"
        )
        yield Finding("note", "action-scale", says, "declare the bounds that the actuators have")


# ---- what it costs


def row_bytes(world: World) -> int:
    """Bytes of a million transitions in a replay, as a run of one environment allocates them."""
    leaves = [jax.ShapeDtypeStruct(leaf.shape, spaces._dtype(leaf) if spaces.kind_of(leaf) == "Box" else np.int32)
              for _, leaf in world.points.leaves]  # fmt: skip
    discrete = spaces.kind_of(world.actions) == "Discrete"
    action = jax.ShapeDtypeStruct(
        () if discrete else world.actions.shape or (), np.int32 if discrete else np.float32
    )
    number, flag = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((), np.bool_)
    row = Transition(leaves, action, number, leaves, flag, flag)
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), row)
    return replay.planned_bytes(row, Replay().capacity)


def memory(world: World) -> list[Finding]:
    """A replay of the usual size that does not fit."""
    planned, free = row_bytes(world), free_memory()
    if planned <= free:
        return []
    fits = int(Replay().capacity * free * 0.8 / planned)
    fix = (
        f"--config.data.capacity {fits}, smaller observations, uint8 pictures, or frames stored once "
        f"(--config.data.frames)"
    )
    says = (
        f"a replay of {Replay().capacity:,} transitions takes {gigabytes(planned)}, and {gigabytes(free)} "
        f"are free"
    )
    return [Finding("warning", "memory", says, fix)]


def speed(world: World) -> list[Finding]:
    """An environment that takes half a day for a million steps."""
    if not world.seconds or (rate := world.steps / world.seconds) >= SLOWEST or world.steps < 3:
        return []
    hours = 1e6 / rate / 3600
    says = f"it makes {rate:.3g} steps per second: a million take {hours:.0f} hours"
    return [
        Finding(
            "warning", "speed", says, "profile step; --num-envs 8 --vectorization async plays several at once"
        )
    ]


def facts(world: World, episodes: list[Episode], seconds: float) -> dict[str, str]:
    """What was played, how fast, and what a replay takes."""
    steps = sum(e.length for e in episodes)
    rate = f"{world.steps / world.seconds:,.0f} steps/s" if world.seconds and world.steps else "unknown"
    said = {
        "spaces": f"{_short(world.points.space)} -> {_short(world.actions)}",
        "time limit": f"{world.time_limit:,} steps" if world.time_limit else undeclared(episodes),
        "played": f"{steps:,} random steps, {len(episodes):,} episodes, {seconds:.1f} s in all",
        "speed": rate + (" in one batch" if isinstance(world, InGraph) else " of its own"),
        "replay": f"{gigabytes(row_bytes(world))} for {Replay().capacity:,} transitions, of {gigabytes(free_memory())}",
    }
    if isinstance(world, OnPool):
        said["left out"] = world.said
    if over := [e for e in episodes if e.end]:
        returns = np.array([e.reward.sum() for e in over])
        said["returns"] = (
            f"{returns.min():.4g} .. {returns.max():.4g} of random play, mean {returns.mean():.4g}"
        )
    return said


def undeclared(episodes: list[Episode]) -> str:
    """What is known of a time limit that the environment does not declare."""
    cut = {e.length for e in episodes if e.end == "truncated"}
    own = f": it truncates after {cut.pop():,} steps itself" if len(cut) == 1 else ""
    return f"none declared{own}"


def _short(space: Any) -> str:
    return printable(" ".join(repr(space).split()), 100)

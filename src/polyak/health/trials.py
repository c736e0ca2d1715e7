"""Trials that only an environment on the host can fail: determinism, what is shared, what Gymnasium checks."""

import contextlib
import inspect
import random
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import env_checker

from polyak.envs import spaces
from polyak.errors import brief, said_by
from polyak.health.episodes import Episode, Script, difference, random_actions
from polyak.health.host import OnHost

GOAL = {"observation", "achieved_goal", "desired_goal"}


def try_all(world: OnHost, seed: int) -> None:
    """Determinism, what is shared, what is printed, and what Gymnasium's own checks say."""
    rng = np.random.default_rng(seed)
    script = Script(seed, random_actions(world.actions, world.length, rng))
    first, again = world.play(script), world.play(script)
    if first.raised or again.raised:
        formal(world)
        return
    if said := difference(first, again, world.points):
        why_not_the_same(world, script, said)
    else:
        spoilt(world, script, first)
        if world.make is not None:
            other_instances(world, script, first)
    global_state(world, seed)
    beginnings(world, seed)
    extremes(world, seed)
    goals(world, seed)
    formal(world)
    printed(world)


def why_not_the_same(world: OnHost, script: Script, said: str) -> None:
    """Two episodes of one seed and the same actions differed."""
    if world.make is not None:
        with world.another() as a, world.another() as b:
            if not difference(world.play(script, env=a), world.play(script, env=b), world.points):
                world.find(
                    "error",
                    "leak",
                    "the same seed and actions gave other episodes, but not in new environments: "
                    f"reset leaves something of the last episode behind ({said})",
                    "set every attribute that step changes in reset",
                )
                return
    with seeded_globals():
        one = world.play(script)
    world.play(Script(script.seed + 1, script.actions))  # so that what it leaves behind is another
    with seeded_globals():
        two = world.play(script)
    if not difference(one, two, world.points):
        world.find(
            "error",
            "global-random",
            "the same seed and actions gave other episodes, but not where NumPy's and Python's "
            f"global generators were seeded: it draws from them ({said})",
            "draw from self.np_random, which super().reset(seed=seed) seeds",
        )
        return
    world.find(
        "error",
        "determinism",
        f"the same seed and actions gave other episodes ({said})",
        "call super().reset(seed=seed) in reset, draw from self.np_random only, and read no clock",
    )


def spoilt(world: OnHost, script: Script, first: Episode) -> None:
    """An episode whose observations were overwritten by their reader should go on as before."""
    if said := difference(first, world.play(script, spoil=True), world.points):
        world.find(
            "warning",
            "alias",
            "overwriting an observation that was returned changed what came next: it is the "
            f"environment's own state ({said})",
            "return a copy, self.state.copy(): polyak copies what it is given, others keep it",
        )


def other_instances(world: OnHost, script: Script, first: Episode) -> None:
    """Two new environments should play the same episode, and each its own."""
    with world.another() as a, world.another() as b:
        one, two = world.play(script, env=a), world.play(script, env=b)
        if one.raised or two.raised:
            return
        if said := difference(one, two, world.points):
            world.find(
                "warning",
                "instances",
                f"two new environments play other episodes for the same seed and actions ({said})",
                "draw nothing in __init__: a seed, given to reset, must say all",
            )
            return
        if said := difference(first, one, world.points):
            world.find(
                "error",
                "leak",
                f"an environment that was played before plays another episode than a new one ({said})",
                "set every attribute that step changes in reset",
            )
            return
        rng = np.random.default_rng(1)
        others = iter(list(random_actions(world.actions, world.length + 1, rng)))
        with contextlib.suppress(Exception):
            b.reset(seed=script.seed + 1)

        def step_other(t: int) -> None:
            with contextlib.suppress(Exception):
                b.step(next(others))

        both = world.play(script, env=a, beside=step_other)
        if not both.raised and (said := difference(one, both, world.points)):
            world.find(
                "error",
                "shared",
                f"stepping one environment changes another of the same class ({said})",
                "keep state in self, not in the class, a module or a mutable default",
            )


def global_state(world: OnHost, seed: int) -> None:
    """Whether reset seeds the generators that everybody shares."""
    left = []
    with seeded_globals():
        for number in (1, 2):
            np.random.seed(number)
            random.seed(number)
            world.play(Script(seed, []))
            left.append((np.random.get_state(legacy=False)["state"]["key"].tobytes(), random.getstate()))
    for library, one, other in zip(("NumPy's", "Python's"), *left, strict=True):
        if one == other:
            world.find(
                "warning",
                "global-seed",
                f"reset seeds {library} global generator, which everything else in this process "
                "draws from too",
                "seed self.np_random only: super().reset(seed=seed)",
            )


def beginnings(world: OnHost, seed: int) -> None:
    """Whether a seed, and no seed, do what they should."""
    seeds = [seed + i for i in range(6)]
    begun = [world.play(Script(s, [])) for s in seeds]
    if any(e.raised for e in begun):
        return
    world.play(Script(seed, []))
    free = [unseeded_start(world) for _ in range(3)]
    if any(row is None for row in free):
        return
    starts = {e.obs[0].tobytes() for e in begun}
    unseeded = {row.tobytes() for row in free if row is not None}
    if len(starts) > 2 and len(unseeded) == 1:
        world.find(
            "warning",
            "reseeds",
            "reset() without a seed begins the same episode each time, though seeds begin different ones",
            "seed only where a seed is given: the default of `seed` is None, and None must not seed",
        )
    if len(starts) == 1 and len(unseeded) > 1:
        world.find(
            "warning",
            "seeding",
            f"reset begins the same episode for each of {len(seeds)} seeds, and others without a seed: "
            "the number given is not used",
            "super().reset(seed=seed), and draw from self.np_random",
        )


def unseeded_start(world: OnHost) -> np.ndarray | None:
    """The first observation of an episode that is given no seed."""
    try:
        with contextlib.redirect_stdout(world.printed):
            obs, _ = world.begin(world.env, None)
    except Exception as error:
        world.find(
            "error",
            "reset-raises",
            f"reset() without a seed raised {said_by(error)}",
            "seed=None must be allowed",
        )
        return None
    row = world.points.row(obs)
    return None if row is None else world.points.see(row[None], 0, 0)[0]


def extremes(world: OnHost, seed: int) -> None:
    """Play the corners of the action space, and each of a few actions for a while."""
    kind, steps = spaces.kind_of(world.actions), min(world.length, 20)
    if kind == "Discrete":
        start, n = int(world.actions.start), int(world.actions.n)
        chosen: list[Any] = [np.int64(start + a) for a in range(min(n, 12))]
        chosen += [np.int64(start + n - 1)] * (n > 12)
    elif kind == "Box" and world.actions.dtype.kind == "f":
        low, high = spaces.bounds(world.actions.low, world.actions.high)
        chosen = [np.nan_to_num(b, neginf=-1, posinf=1).astype(world.actions.dtype) for b in (low, high)]
    else:
        return
    for action in chosen:
        world.play(Script(seed, [action] * steps))


def goals(world: OnHost, seed: int) -> None:
    """Whether the reward of an environment with goals is what compute_reward says."""
    env: Any = world.env.unwrapped
    space = world.env.observation_space
    if not (
        isinstance(space, gymnasium.spaces.Dict) and set(space) == GOAL and hasattr(env, "compute_reward")
    ):
        return
    with contextlib.suppress(Exception):
        world.env.reset(seed=seed)
        for action in random_actions(world.actions, min(world.length, 20), np.random.default_rng(seed)):
            obs, reward, terminated, truncated, info = world.env.step(action)
            asked = float(np.squeeze(env.compute_reward(obs["achieved_goal"], obs["desired_goal"], info)))
            if abs(asked - float(reward)) > 1e-4 * (1 + abs(asked)):
                world.find(
                    "error",
                    "goal-reward",
                    f"step gives the reward {float(reward):g}, compute_reward says {asked:g} for the "
                    f"same "
                    "goals: hindsight learns from the second",
                    "let step return self.compute_reward(achieved_goal, desired_goal, info)",
                )
                return
            if terminated or truncated:
                return


def formal(world: OnHost) -> None:
    """What Gymnasium's own checker says of signatures, and whether spaces stay and close works."""
    env = world.env
    parameter = inspect.signature(env.unwrapped.reset).parameters.get("seed")
    if parameter is not None and parameter.default is not None:
        world.find(
            "warning",
            "reseeds",
            f"the default of reset's `seed` is {brief(parameter.default)}: every episode without a "
            f"seed is "
            "the same",
            "def reset(self, *, seed=None, options=None)",
        )
    for check, about in (
        (env_checker.check_reset_options, env),
        (env_checker.check_seed_deprecation, env.unwrapped),
        (env_checker.check_reset_return_info_deprecation, env.unwrapped),
    ):
        try:
            with warnings.catch_warnings(record=True) as heard, contextlib.redirect_stdout(world.printed):
                warnings.simplefilter("always")
                check(about)
            said = [str(each.message) for each in heard if "gymnasium" in str(each.filename)]
        except Exception as error:
            said = [said_by(error)] if "reset-raises" not in world.said else []
        for text in said[:1]:
            world.find(
                "warning",
                "reset-arguments",
                _plain(text),
                "def reset(self, *, seed=None, options=None)",
            )
    for what in ("observation_space", "action_space"):
        now = getattr(env, what)
        if (
            now != getattr(env, what)
            or now != {"observation_space": world.points.space, "action_space": world.actions}[what]
        ):
            says = f"{what} is not what it was before the first reset"
            world.find("error", "spaces-change", says, "set it once, in __init__")


def printed(world: OnHost) -> None:
    """A note where it prints as it goes."""
    lines = world.printed.getvalue().count("\n")
    if lines > 10:
        first = world.printed.getvalue().splitlines()[0]
        says = f"it printed {lines:,} lines in {world.steps:,} steps, as {brief(first)}"
        world.find("note", "prints", says, "print nothing in reset and step")


def _plain(text: str) -> str:
    """A text of Gymnasium's without its colours."""
    return " ".join(text.replace("\x1b[33m", "").replace("\x1b[0m", "").removeprefix("WARN: ").split())


@contextlib.contextmanager
def seeded_globals() -> Iterator[None]:
    """Seed NumPy's and Python's global generators, and put them back afterwards."""
    numpys, pythons = np.random.get_state(), random.getstate()
    np.random.seed(12345)
    random.seed(12345)
    try:
        yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)

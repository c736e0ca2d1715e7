"""An environment on the host, played by scripts, with an eye on all that it returns."""

import contextlib
import copy
import inspect
import io
import itertools
import random
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import env_checker

from polyak.envs import spaces
from polyak.envs.calling import RETURNED, fault, passes
from polyak.errors import EnvironmentFault, brief, said_by
from polyak.health.episodes import Episode, Log, Script, difference, random_actions, stream
from polyak.health.finding import Finding
from polyak.health.points import Points, values

SHORT = 100  # steps of a short script at most
LONGEST = 1000  # of one episode of random play
PATIENCE = 0.15  # seconds that a short script should take
GOAL = {"observation", "achieved_goal", "desired_goal"}


class OnHost:
    """A world of one of Gymnasium's environments; see `World`.

    make  another one like it; None where there is only this one
    """

    players = 1

    def __init__(self, env: gymnasium.Env, make: Callable[[], gymnasium.Env] | None):
        self.env, self.make = env, make
        self.points, self.actions = Points(env.observation_space), env.action_space
        self.time_limit = env.spec.max_episode_steps if env.spec else None
        self.said: dict[str, Finding] = {}
        self.seconds, self.steps, self.length = 0.0, 0, SHORT
        self.printed = io.StringIO()
        self.resetting = 0  # calls of the environment's own reset
        self._count_resets()

    @property
    def findings(self) -> list[Finding]:
        """Everything that is wrong with what `reset` and `step` returned so far."""
        return list(self.said.values())

    def find(self, level: str, name: str, says: str, fix: str = "") -> None:
        """Note a finding, the first of its name."""
        self.said.setdefault(name, Finding(level, name, says, fix))

    def explore(self, steps: int, seconds: float, seed: int) -> list[Episode]:
        """Random play, for so many steps or seconds."""
        rng, episodes, began = np.random.default_rng(seed), [], time.monotonic()
        until = began + seconds
        left = steps
        while left > 0 and time.monotonic() < until and not (episodes and episodes[-1].raised):
            most = min(left, self.time_limit or LONGEST, LONGEST if episodes else left)
            actions = itertools.islice(stream(self.actions, rng), most)
            episodes.append(self.play(Script(seed + len(episodes), actions), until=until))
            left -= max(1, episodes[-1].length)
        if self.steps:
            rate = self.steps / (time.monotonic() - began)
            self.length = int(np.clip(PATIENCE * rate, 3, SHORT))
        return episodes

    def run(self, scripts: list[Script]) -> list[Episode]:
        """Play scripts."""
        return [self.play(script) for script in scripts]

    # ---- one episode

    def play(
        self, script: Script, spoil: bool = False, until: float = np.inf, env: Any = None, beside: Any = None
    ) -> Episode:
        """One episode.

        spoil   overwrite each observation once it is noted
        until   leave the episode at this time
        env     another environment than this world's
        beside  called before each step
        """
        log = Log(script.seed)
        with contextlib.redirect_stdout(self.printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._play(log, script, spoil, until, self.env if env is None else env, beside)
        return log.closed(self.points)

    def _play(self, log: Log, script: Script, spoil: bool, until: float, env: Any, beside: Any) -> None:
        """The same, while what it prints and warns of is heard."""
        obs, _ = self._call(log, "reset", 0, script.seed, lambda: self._begin(env, script.seed))
        self._note(log, obs, 0, spoil)
        kept = obs
        for t, action in enumerate(script.actions, 1):
            if log.raised or time.monotonic() > until:
                break
            if beside is not None:
                beside(t)
            given, before = copy.deepcopy(action), self._copied(kept)
            called = self.resetting
            result = self._call(log, "step", t, action, lambda a=given: env.step(a))
            if log.raised:
                break
            if self.resetting > called and env is self.env:
                self.find(
                    "error",
                    "final-observation",
                    f"step {t} called reset itself when the episode ended, so that the "
                    "observation it returned is of the next episode, and the last one of this episode is "
                    "lost",
                    "return the last observation from step, and leave reset to the caller",
                )
            if not spoil and before is not None and not self._equal(kept, before):
                self.find(
                    "warning",
                    "alias",
                    f"the observation returned before step {t} was changed by that step: all "
                    "observations are one array",
                    "return a copy, self.obs.copy(): polyak copies what it is given, others keep it",
                )
            if not self._equal_action(given, action):
                self.find(
                    "warning",
                    "action-changed",
                    f"step {t} changed the action that it was given from {brief(action)} to {brief(given)}",
                    "compute with a copy of the action",
                )
            kept = self._take(log, result, t, spoil)
            if log.end:
                break

    def _call(self, log: Log, call: str, t: int, given: Any, function: Callable[[], Any]) -> Any:
        """What the environment returns for a seed or an action at step t; (None, {}) where it raises."""
        began = time.monotonic()
        try:
            return function()
        except BaseException as error:
            if passes(error) and not isinstance(error, EnvironmentFault):
                raise
            log.raised = True
            what = f"{t} with action {given}" if t else f"with seed {given}"
            self.find(
                "error",
                f"{call}-raises",
                f"{fault(0, call, what, error).text} (seed {log.seed})",
                "mend what the line names; any action of the space must be taken",
            )
            return None, {}
        finally:
            self.seconds += time.monotonic() - began
            self.steps += call == "step"

    def _begin(self, env: Any, seed: int | None) -> tuple[Any, dict]:
        """What reset returns, as it should be, with a finding where it was not."""
        parameters = inspect.signature(env.unwrapped.reset).parameters
        takes = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if "seed" not in parameters and not takes:
            self.find(
                "error",
                "reset-arguments",
                "reset takes no `seed`, so that no episode can be played again",
                "def reset(self, *, seed=None, options=None): super().reset(seed=seed)",
            )
            result = env.unwrapped.reset()
        else:
            result = env.reset() if seed is None else env.reset(seed=seed)
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result
        if isinstance(result, tuple) and len(result) == 2:
            says = f"reset returned an info that is a {type(result[1]).__name__}"
            self.find("error", "reset-returns", says, "info must be a dict: return obs, {}")
            return result[0], {}
        says = f"reset returned a {type(result).__name__}, and must return (obs, info)"
        self.find("error", "reset-returns", says, "return obs, {}")
        return (result[0] if isinstance(result, tuple) and result else result), {}

    def _take(self, log: Log, result: Any, t: int, spoil: bool) -> Any:
        """Take note of what step returned; the observation."""
        if not isinstance(result, tuple) or len(result) not in (4, 5):
            given = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
            self.find(
                "error",
                "step-returns",
                f"step returned {given}, and must return {RETURNED['step']}",
                RETURNED["step"],
            )
            log.raised = True
            return None
        if len(result) == 4:
            self.find(
                "error",
                "step-returns",
                "step returned 4 values, as it did before Gymnasium: one `done` does not say "
                "whether the world ended or the time was up",
                f"return {RETURNED['step']}",
            )
            obs, reward, terminated, info = result
            truncated = False
        else:
            obs, reward, terminated, truncated, info = result
        if not isinstance(info, dict):
            says = f"step returned an info that is a {type(info).__name__}"
            self.find("error", "info", says, "info must be a dict, {} where there is nothing to say")
        log.reward.append(self._reward(reward, t, log.seed))
        ends = self._ends(terminated, truncated, t)
        self._note(log, obs, t, spoil)
        log.end = {(True, True): "both", (True, False): "terminated", (False, True): "truncated"}.get(
            ends, ""
        )
        return obs

    def _reward(self, reward: Any, t: int, seed: int) -> float:
        """A reward as a float."""
        try:
            spaces.check_reward(reward, 0)
            value = float(reward)
        except (EnvironmentFault, OverflowError) as error:
            text = error.text if isinstance(error, EnvironmentFault) else f"reward is {brief(reward)}"
            self.find("error", "reward", f"{text} (step {t})", "return float(reward)")
            return 0.0
        if not np.isfinite(value):
            says = f"the reward of step {t} (seed {seed}) is {value}"
            self.find("error", "nan-reward", says, "find the division, root or logarithm that makes it")
        return value

    def _ends(self, terminated: Any, truncated: Any, t: int) -> tuple[bool, bool]:
        """Both ends as bools."""
        try:
            spaces.check_ends(terminated, truncated, 0)
        except EnvironmentFault as error:
            self.find("error", "ends", f"{error.text} (step {t})", "return bool(terminated), bool(truncated)")
            return False, False
        return bool(terminated), bool(truncated)

    def _note(self, log: Log, obs: Any, t: int, spoil: bool) -> None:
        """Take note of an observation."""
        if log.raised:
            return
        try:
            spaces.check(self.env.observation_space, obs, 0)
        except EnvironmentFault as error:
            where = "reset" if t == 0 else f"step {t}"
            self.find(
                "error",
                "observation",
                f"{error.text} (after {where})",
                "declare the space that is meant, or return what it says",
            )
        row = self.points.row(obs)
        if row is None:
            log.raised = True
            return
        log.keep(self.points, row)
        for (path, leaf), value in zip(self.points.leaves, values(self.points.space, obs), strict=True):
            self._kind(path, leaf, value, spoil)

    def _kind(self, path: str, leaf: Any, value: Any, spoil: bool) -> None:
        """A note where a value has another type than its space says; overwrite it where it is to be spoilt."""
        array = isinstance(value, np.ndarray | np.generic)
        if spaces.kind_of(leaf) != "Discrete" and not array:
            says = f"{path} is a {type(value).__name__} and no array"
            self.find("warning", "dtype", says, f"return np.asarray(obs, np.{leaf.dtype})")
        elif array and spaces.kind_of(leaf) != "Discrete" and value.dtype != leaf.dtype:
            says = f"{path} is {value.dtype}, its space says {leaf.dtype}: it is converted at every step"
            self.find(
                "warning",
                "dtype",
                says,
                f"return obs.astype(np.{leaf.dtype}), or declare dtype=np.{value.dtype}",
            )
        if spoil and isinstance(value, np.ndarray) and value.flags.writeable and value.dtype.kind in "fiu":
            value[...] = value + 1 if value.dtype.kind != "f" else value * 0.5 + 0.25

    # ---- what only an environment on the host can get wrong

    def closer(self, seed: int) -> list[Finding]:
        """Determinism, what is shared, what is printed, and what Gymnasium's own checks say."""
        rng = np.random.default_rng(seed)
        script = Script(seed, random_actions(self.actions, self.length, rng))
        first, again = self.play(script), self.play(script)
        if first.raised or again.raised:
            self._formal()
            return []
        if said := difference(first, again, self.points):
            self._why_not_the_same(script, said)
        else:
            self._spoilt(script, first)
            if self.make is not None:
                self._other_instances(script, first)
        self._global_state(seed)
        self._starts(seed)
        self._extremes(seed)
        self._goals(seed)
        self._formal()
        self._printed()
        return []

    def _why_not_the_same(self, script: Script, said: str) -> None:
        """Two episodes of one seed and the same actions differed."""
        if self.make is not None:
            with self.another() as a, self.another() as b:
                if not difference(self.play(script, env=a), self.play(script, env=b), self.points):
                    self.find(
                        "error",
                        "leak",
                        "the same seed and actions gave other episodes, but not in new environments: "
                        f"reset leaves something of the last episode behind ({said})",
                        "set every attribute that step changes in reset",
                    )
                    return
        with seeded_globals():
            one = self.play(script)
        self.play(Script(script.seed + 1, script.actions))  # so that what it leaves behind is another
        with seeded_globals():
            two = self.play(script)
        if not difference(one, two, self.points):
            self.find(
                "error",
                "global-random",
                "the same seed and actions gave other episodes, but not where NumPy's and Python's "
                f"global generators were seeded: it draws from them ({said})",
                "draw from self.np_random, which super().reset(seed=seed) seeds",
            )
            return
        self.find(
            "error",
            "determinism",
            f"the same seed and actions gave other episodes ({said})",
            "call super().reset(seed=seed) in reset, draw from self.np_random only, and read no clock",
        )

    def _spoilt(self, script: Script, first: Episode) -> None:
        """An episode whose observations were overwritten by their reader should go on as before."""
        if said := difference(first, self.play(script, spoil=True), self.points):
            self.find(
                "warning",
                "alias",
                "overwriting an observation that was returned changed what came next: it is the "
                f"environment's own state ({said})",
                "return a copy, self.state.copy(): polyak copies what it is given, others keep it",
            )

    def _other_instances(self, script: Script, first: Episode) -> None:
        """Two new environments should play the same episode, and each its own."""
        with self.another() as a, self.another() as b:
            one, two = self.play(script, env=a), self.play(script, env=b)
            if one.raised or two.raised:
                return
            if said := difference(one, two, self.points):
                self.find(
                    "warning",
                    "instances",
                    f"two new environments play other episodes for the same seed and actions ({said})",
                    "draw nothing in __init__: a seed, given to reset, must say all",
                )
                return
            if said := difference(first, one, self.points):
                self.find(
                    "error",
                    "leak",
                    f"an environment that was played before plays another episode than a new one ({said})",
                    "set every attribute that step changes in reset",
                )
                return
            rng = np.random.default_rng(1)
            others = iter(list(random_actions(self.actions, self.length + 1, rng)))
            with contextlib.suppress(Exception):
                b.reset(seed=script.seed + 1)

            def step_other(t: int) -> None:
                with contextlib.suppress(Exception):
                    b.step(next(others))

            both = self.play(script, env=a, beside=step_other)
            if not both.raised and (said := difference(one, both, self.points)):
                self.find(
                    "error",
                    "shared",
                    f"stepping one environment changes another of the same class ({said})",
                    "keep state in self, not in the class, a module or a mutable default",
                )

    @contextlib.contextmanager
    def another(self) -> Iterator[Any]:
        """A new environment."""
        assert self.make is not None
        env = self.make()
        try:
            yield env
        finally:
            with contextlib.suppress(Exception):
                env.close()

    def _global_state(self, seed: int) -> None:
        """Whether reset seeds the generators that everybody shares."""
        left = []
        with seeded_globals():
            for number in (1, 2):
                np.random.seed(number)
                random.seed(number)
                self.play(Script(seed, []))
                left.append((np.random.get_state()[1].tobytes(), random.getstate()))
        for library, one, other in zip(("NumPy's", "Python's"), *left, strict=True):
            if one == other:
                self.find(
                    "warning",
                    "global-seed",
                    f"reset seeds {library} global generator, which everything else in this process "
                    "draws from too",
                    "seed self.np_random only: super().reset(seed=seed)",
                )

    def _starts(self, seed: int) -> None:
        """Whether a seed, and no seed, do what they should."""
        seeds = [seed + i for i in range(6)]
        begun = [self.play(Script(s, [])) for s in seeds]
        if any(e.raised for e in begun):
            return
        self.play(Script(seed, []))
        free = [self._free() for _ in range(3)]
        if any(row is None for row in free):
            return
        starts = {e.obs[0].tobytes() for e in begun}
        unseeded = {row.tobytes() for row in free if row is not None}
        if len(starts) > 2 and len(unseeded) == 1:
            self.find(
                "warning",
                "reseeds",
                "reset() without a seed begins the same episode each time, though seeds begin different ones",
                "seed only where a seed is given: the default of `seed` is None, and None must not seed",
            )
        if len(starts) == 1 and len(unseeded) > 1:
            self.find(
                "warning",
                "seeding",
                f"reset begins the same episode for each of {len(seeds)} seeds, and others without a seed: "
                "the number given is not used",
                "super().reset(seed=seed), and draw from self.np_random",
            )

    def _free(self) -> np.ndarray | None:
        """The first observation of an episode that is given no seed."""
        try:
            with contextlib.redirect_stdout(self.printed):
                obs, _ = self._begin(self.env, None)
        except Exception as error:
            self.find(
                "error",
                "reset-raises",
                f"reset() without a seed raised {said_by(error)}",
                "seed=None must be allowed",
            )
            return None
        row = self.points.row(obs)
        return None if row is None else self.points.see(row[None], 0, 0)[0]

    def _extremes(self, seed: int) -> None:
        """Play the corners of the action space, and each of a few actions for a while."""
        kind, steps = spaces.kind_of(self.actions), min(self.length, 20)
        if kind == "Discrete":
            start, n = int(self.actions.start), int(self.actions.n)
            chosen: list[Any] = [np.int64(start + a) for a in range(min(n, 12))]
            chosen += [np.int64(start + n - 1)] * (n > 12)
        elif kind == "Box" and self.actions.dtype.kind == "f":
            low, high = spaces.bounds(self.actions.low, self.actions.high)
            chosen = [np.nan_to_num(b, neginf=-1, posinf=1).astype(self.actions.dtype) for b in (low, high)]
        else:
            return
        for action in chosen:
            self.play(Script(seed, [action] * steps))

    def _goals(self, seed: int) -> None:
        """Whether the reward of an environment with goals is what compute_reward says."""
        env: Any = self.env.unwrapped
        space = self.env.observation_space
        if not (
            isinstance(space, gymnasium.spaces.Dict) and set(space) == GOAL and hasattr(env, "compute_reward")
        ):
            return
        with contextlib.suppress(Exception):
            self.env.reset(seed=seed)
            for action in random_actions(self.actions, min(self.length, 20), np.random.default_rng(seed)):
                obs, reward, terminated, truncated, info = self.env.step(action)
                asked = float(np.squeeze(env.compute_reward(obs["achieved_goal"], obs["desired_goal"], info)))
                if abs(asked - float(reward)) > 1e-4 * (1 + abs(asked)):
                    self.find(
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

    def _formal(self) -> None:
        """What Gymnasium's own checker says of signatures, and whether spaces stay and close works."""
        env = self.env
        parameter = inspect.signature(env.unwrapped.reset).parameters.get("seed")
        if parameter is not None and parameter.default is not None:
            self.find(
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
                with warnings.catch_warnings(record=True) as heard, contextlib.redirect_stdout(self.printed):
                    warnings.simplefilter("always")
                    check(about)
                said = [str(each.message) for each in heard if "gymnasium" in str(each.filename)]
            except Exception as error:
                said = [str(error)] if "reset-raises" not in self.said else []
            for text in said[:1]:
                self.find(
                    "warning", "reset-arguments", _plain(text), "def reset(self, *, seed=None, options=None)"
                )
        for what in ("observation_space", "action_space"):
            now = getattr(env, what)
            if (
                now != getattr(env, what)
                or now != {"observation_space": self.points.space, "action_space": self.actions}[what]
            ):
                says = f"{what} is not what it was before the first reset"
                self.find("error", "spaces-change", says, "set it once, in __init__")

    def _printed(self) -> None:
        lines = self.printed.getvalue().count("\n")
        if lines > 10:
            first = self.printed.getvalue().splitlines()[0]
            says = f"it printed {lines:,} lines in {self.steps:,} steps, as {brief(first)}"
            self.find("note", "prints", says, "print nothing in reset and step")

    def close(self) -> None:
        """Close the environment, if it is ours, and say where that raises; leave another's as it was."""
        with contextlib.suppress(AttributeError):
            del self.env.unwrapped.reset
        if self.make is None:
            return
        try:
            self.env.close()
        except Exception as error:
            self.find(
                "error",
                "close-raises",
                f"close raised {said_by(error)}",
                "close must be callable at any time",
            )

    # ---- helpers

    def _count_resets(self) -> None:
        """Count calls of the environment's own reset from inside."""
        env, world = self.env.unwrapped, self
        inner = env.reset

        def counted(*args: Any, **kwargs: Any) -> Any:
            world.resetting += 1
            return inner(*args, **kwargs)

        counted.__signature__ = inspect.signature(inner)  # pyright: ignore[reportFunctionMemberAccess]
        with contextlib.suppress(AttributeError, TypeError):
            env.reset = counted  # pyright: ignore[reportAttributeAccessIssue]

    def _copied(self, obs: Any) -> list[np.ndarray] | None:
        try:
            return [np.array(value) for value in values(self.points.space, obs)]
        except (TypeError, ValueError, KeyError, IndexError):
            return None

    def _equal(self, obs: Any, before: list[np.ndarray]) -> bool:
        try:
            now = list(values(self.points.space, obs))
        except (TypeError, ValueError, KeyError, IndexError):
            return True
        return all(_same(old, new) for old, new in zip(before, now, strict=True))

    def _equal_action(self, one: Any, other: Any) -> bool:
        try:
            return bool(np.array_equal(np.asarray(one), np.asarray(other)))
        except (TypeError, ValueError):
            return True


def _same(old: np.ndarray, new: Any) -> bool:
    new = np.asarray(new)
    if old.shape != new.shape:
        return False
    return bool(np.array_equal(old, new, equal_nan=old.dtype.kind == "f" and new.dtype.kind == "f"))


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

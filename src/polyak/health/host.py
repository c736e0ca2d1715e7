"""An environment on the host, played by scripts, with an eye on all that it returns."""

import contextlib
import copy
import inspect
import io
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from polyak.envs import spaces
from polyak.envs.calling import RETURNED, fault, passes
from polyak.errors import EnvironmentFault, brief, said_by
from polyak.health.episodes import SHORT, Episode, Log, Script, random_play, short_length
from polyak.health.finding import Finding
from polyak.health.points import Points, values


class OnHost:
    """A world of one of Gymnasium's environments; see `World`.

    make  another one like it; None where there is only this one
    """

    players = 1

    def __init__(self, env: gymnasium.Env, make: Callable[[], gymnasium.Env] | None):
        self.env, self.make = env, make
        self.points = Points(env.observation_space)
        self.actions: Any = env.action_space
        self.time_limit: int | None = env.spec.max_episode_steps if env.spec else None
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
        began = time.monotonic()
        until = began + seconds
        episodes = random_play(
            self,
            steps,
            until,
            seed,
            lambda number, actions: self.play(Script(seed + number, actions), until=until),
        )
        if self.steps:
            self.length = short_length(self.steps, time.monotonic() - began)
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
        obs, _ = self._call(log, "reset", 0, script.seed, lambda: self.begin(env, script.seed))
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

    def begin(self, env: Any, seed: int | None) -> tuple[Any, dict]:
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

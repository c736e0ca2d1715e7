"""Gymnasium environments in processes of their own, each of which may be late, fail or die."""

import contextlib
import functools
import multiprocessing
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from polyak.envs import spaces
from polyak.envs.adapters.in_process import MASK, Measures, spec_of
from polyak.envs.calling import RETURNED, calling
from polyak.envs.environment import HostStep
from polyak.errors import EnvironmentFault, UserError, place_in, printable, said_by
from polyak.interface import Tree

NO_GUARD = 86  # the exit code of a process that was to make an environment and would have trained
GUARD = """put what the script does under `if __name__ == "__main__":`"""


def check_main_guard() -> None:
    """End a process that was started for one environment and, without a main guard in the script, begins to train."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(NO_GUARD)


class _Raised(Exception):
    """Error of an environment in its process: lane, type and message, where."""


class _Vector(AsyncVectorEnv):
    """Gymnasium's vector without its waits that have no end and without its prints."""

    starting = 60.0  # seconds until every process has made its environment

    def _check_spaces(self) -> None:
        """Wait until all are there; copies of one environment agree on spaces."""
        try:
            self.call_async("render_mode")
            self.call_wait(timeout=self.starting)
        except (multiprocessing.TimeoutError, EOFError, OSError) as error:
            lane, what = self.guilty(error, self.starting)
            self.end(at_once=True)
            raise EnvironmentFault(f"its process {what} while it was made", lane=lane) from None

    def _add_info(self, vector_infos: dict[Any, Any], env_info: dict[str, Any], env_num: int) -> dict:
        """Infos by number of the environment, each as it was given: Gymnasium types all by the first one's."""
        vector_infos[env_num] = env_info
        return vector_infos

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End every process, when Gymnasium closes or forgets the vector."""
        self.end(at_once=terminate)

    def _raise_if_errors(self, successes: Sequence[bool]) -> None:
        if all(successes):
            return
        try:
            lane, kind, value, trace = self.error_queue.get(timeout=5)
        except queue.Empty:  # what was raised cannot be pickled
            raise _Raised(list(successes).index(False), "an exception that cannot be sent", "") from None
        if issubclass(kind, EnvironmentFault):
            raise EnvironmentFault(value.text, lane=value.lane)
        raise _Raised(
            lane, f"{kind.__name__}: {value}", place_in(re.findall(r'File "(.+?)", line (\d+)', trace))
        )

    def guilty(self, error: BaseException, seconds: float) -> tuple[int, str]:
        """Name the environment that is late or dead, and how it ended."""
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [lane for lane, pipe in enumerate(self.parent_pipes) if not pipe.poll(0)]
            return silent[0] if silent else 0, f"did not answer within {seconds:g} s"
        until = time.monotonic() + 3.0
        while time.monotonic() < until:  # a pipe closes a little before its process has an exit code
            for lane, process in enumerate(self.processes):
                code = process.exitcode
                if code is not None:
                    killed = code < 0 and f"was killed by {signal.Signals(-code).name}"
                    if code == NO_GUARD:
                        return lane, f"began the whole script again: {GUARD}"
                    return lane, killed or f"exited with code {code}"
            time.sleep(0.01)
        return 0, "or another closed its pipe"

    def end(self, at_once: bool = False) -> None:
        """End every process: asked, so that its environment is closed, then killed; waits a few seconds at most."""
        if self.closed:
            return
        for pipe, process in zip(self.parent_pipes, self.processes, strict=True):
            with contextlib.suppress(OSError):
                process.kill() if at_once else pipe.send(("close", None))
        self._join(3.0)
        for process in self.processes:
            if process.is_alive():  # it ignores SIGTERM, which is for the process that trains
                process.kill()
        self._join(1.0)
        for pipe in self.parent_pipes:
            pipe.close()
        self.error_queue.close()
        self.closed = True

    def _join(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))


class GymnasiumAsync:
    """L environments, each in a process of its own, on Gymnasium's `AsyncVectorEnv` without autoreset.

    deadline  seconds that a step or reset may take; a dead, stuck or failing environment is an
              EnvironmentFault that names it, and ends the others
    context   how processes start: "spawn" or "forkserver", never "fork", whose children share pipes
    """

    exact_reset = True
    masked = False

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env]],
        measures: Measures = (),
        deadline: float = 60.0,
        context: str = "spawn",
    ):
        if context not in ("spawn", "forkserver"):
            raise UserError(f"processes start by 'spawn' or 'forkserver', not by {context!r}")
        measures = spaces.as_measures(measures)
        self.deadline = deadline
        with calling(lambda error: UserError(f"an environment cannot be made: {said_by(error)}")):
            env = env_fns[0]()
            self._space = env.observation_space
            self.spec = spec_of(env, len(env_fns), measures)
            self._actions = spaces.Actions(env.action_space)
            env.close()
        self._obs = spaces.zeros(self.spec.obs, len(env_fns))
        self._last = [None] * len(env_fns)
        main = threading.current_thread() is threading.main_thread()
        checked: Any = [
            functools.partial(spaces.Checked, make, lane, main) for lane, make in enumerate(env_fns)
        ]
        self._vector = _Vector(
            checked,
            context=context,
            copy=True,
            autoreset_mode=AutoresetMode.DISABLED,
        )

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Tree:
        """Begin an episode in these lanes, each from its own seed; observations [L, ...] of all lanes."""
        if not len(lanes):
            return self._obs
        seed: list[int | None] = [None] * self.spec.num_envs
        mask = np.zeros(self.spec.num_envs, bool)
        for lane, s in zip(lanes, seeds, strict=True):
            seed[lane], mask[lane] = int(s), True

        def ask() -> None:
            self._vector.reset_async(seed=seed, options={"reset_mask": mask})

        obs, infos = self._answer("reset", ask, self._vector.reset_wait)
        self.masked = self.masked or any(MASK in info for info in infos.values())
        rows = spaces.over(lambda part: part[list(lanes)], spaces.convert(self._space, obs))
        self._obs = spaces.scatter(self._obs, list(lanes), rows)
        spaces.check_begun(self._obs, lanes, seeds)
        return self._obs

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane; `action` [L, ...] is in the environment's own bounds."""
        actions = self._actions(action)
        self._last = list(actions)
        answer = self._answer("step", lambda: self._vector.step_async(actions), self._vector.step_wait)
        obs, reward, terminated, truncated, infos = answer
        self._obs = spaces.convert(self._space, obs)
        measures = {name: self._measure(infos, name) for name in self.spec.measures}
        reward = np.asarray(reward, np.float64)
        return HostStep(self._obs, reward, terminated, truncated & ~terminated, measures)

    def close(self) -> None:
        """End every process, within a few seconds whatever they do."""
        self._vector.end()

    def _measure(self, infos: dict[int, dict[str, Any]], name: str) -> np.ndarray:
        """[L] float64 of what each environment said in this step."""
        said = (infos.get(lane, {}).get(name) for lane in range(self.spec.num_envs))
        return np.array([spaces.number(value) for value in said])

    def _answer(self, call: str, ask: Callable[[], None], wait: Callable[..., Any]) -> Any:
        """Ask every process and wait; on any trouble end them all and name the one to blame."""
        if self._vector.closed:
            raise EnvironmentFault(f"{call} of environments that were closed, or ended after a fault")
        try:
            ask()
            return wait(timeout=self.deadline)
        except EnvironmentFault as error:
            found = error
        except _Raised as error:
            lane, what, where = error.args
            where = where or f"; {call} must return {RETURNED[call]}"
            found = self._blame(lane, f"raised {what}{where}", call)
        except (multiprocessing.TimeoutError, EOFError, OSError) as error:
            found = self._blame(*self._vector.guilty(error, self.deadline), call)
        except BaseException:
            self._vector.end(at_once=True)
            raise
        self._vector.end()
        raise found

    def _blame(self, lane: int, what: str, call: str) -> EnvironmentFault:
        pid, action = self._vector.processes[lane].pid, self._last[lane]
        line = f"its process (worker {lane}, pid {pid}) {what} in {call}; last action {action}"
        return EnvironmentFault(printable(line), lane=lane)

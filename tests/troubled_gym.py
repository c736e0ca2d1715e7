"""Environments that are in trouble in workers, where they are imported: once, always, slow, large or never there."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from counting_gym import CountingGym
from gymnasium.spaces import Box

LARGE = 500_000  # entries of a large observation

TROUBLE = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raising": lambda: (_ for _ in ()).throw(ValueError("the plug was pulled")),
    "hanging": lambda: time.sleep(600),
}


class TroubledGym(CountingGym):
    """Counting; at the step that counts the `at`th in a folder it is in trouble, for each of `how` in turn.

    folder  where each process writes how many steps it has made; without troubles left nothing happens
    """

    def __init__(self, folder: str, how: str = "", at: int = 40, always: bool = False):
        super().__init__()
        self.folder, self.how, self.at, self.always = Path(folder), how.split(), at, always
        self.steps = 0

    def step(self, action: object) -> tuple:
        self.steps += 1
        if self.steps == self.at:
            if self.always:
                TROUBLE[self.how[0]]()
            for number, how in enumerate(self.how):
                try:
                    (self.folder / f"{number}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                TROUBLE[how]()
                break
        return super().step(action)


class SlowGym(CountingGym):
    """Counting; the first one that steps, of all in a folder, takes so many seconds for each step."""

    def __init__(self, folder: str, seconds: float):
        super().__init__()
        self.folder, self.seconds, self.slow = Path(folder), seconds, None

    def step(self, action: object) -> tuple:
        if self.slow is None:
            try:
                (self.folder / "slow").touch(exist_ok=False)
            except FileExistsError:
                self.slow = False
            else:
                self.slow = True
        if self.slow:
            time.sleep(self.seconds)
        return super().step(action)


class LargeGym(CountingGym):
    """Counting, in observations of two megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Box(0.0, 1e9, (LARGE,), np.float32)

    def reset(self, **given: Any) -> tuple:
        obs, info = super().reset(**given)
        return np.resize(obs, LARGE), info

    def step(self, action: object) -> tuple:
        obs, *rest = super().step(action)
        return np.resize(obs, LARGE), *rest


class AbsentGym(CountingGym):
    """Counting in one process, and in all others an environment that is never made."""

    def __init__(self, pid: int):
        super().__init__()
        if os.getpid() != pid:
            time.sleep(600)

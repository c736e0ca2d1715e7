"""Environments that break their contract in every way that was thought of; imported in workers, so it knows no JAX."""

import ctypes
import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
BYTES = spaces.Box(0, 255, (2,), np.uint8)
LARGE = spaces.Box(-(2**20), 2**20, (2,), np.int64)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Large:
    """What no process can send."""

    def __reduce__(self):
        raise TypeError("not to be sent")


class NotToSend(Exception):
    def __init__(self):
        super().__init__(Large())


def hang():
    time.sleep(3600)


def hang_in_c():
    """Without letting other threads of Python run."""
    ctypes.PyDLL(None).sleep(3600)


RAISES = {
    "system exit": lambda: (_ for _ in ()).throw(SystemExit(0)),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "error": lambda: (_ for _ in ()).throw(ValueError("gone\x1b[31m\nred")),
    "unprintable": lambda: (_ for _ in ()).throw(Unprintable()),
    "not to send": lambda: (_ for _ in ()).throw(NotToSend()),
}
ENDS = {
    "exit": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": hang,
    "hang in C": hang_in_c,
}
GIVES = {  # how -> (space, what one step gives of obs, reward, terminated, truncated, info)
    "NaN reward": (BOX, (None, float("nan"), False, False, {})),
    "NaN observation": (BOX, (np.full(2, np.nan, np.float32), 0.0, False, False, {})),
    "too large for its dtype": (BYTES, (np.array([300, 0]), 0.0, False, False, {})),
    "negative for its dtype": (BYTES, (np.array([-1, 0]), 0.0, False, False, {})),
    "too large for our dtype": (LARGE, (np.array([2**40, 0]), 0.0, False, False, {})),
    "word for false": (BOX, (None, 0.0, "False", False, {})),
    "number for true": (BOX, (None, 0.0, False, 7, {})),
    "array of ends": (BOX, (None, 0.0, np.zeros(2, bool), False, {})),
    "text reward": (BOX, (None, "1", False, False, {})),
    "reward of 10^400": (BOX, (None, 10**400, False, False, {})),
    "four values": (BOX, (None, 0.0, False, {})),
    "none": (BOX, None),
    "outside multi": (spaces.MultiDiscrete([3, 3]), (np.array([9, 0]), 0.0, False, False, {})),
    "info is no mapping": (BOX, (None, 0.0, False, False, None)),
}


class Bad(gymnasium.Env):
    """One environment that goes wrong in the way `how`, in the call `where`, at its `at`th call of it."""

    def __init__(self, how="nothing", where="step", at=3, length=20):
        self.how, self.where, self.at, self.length = how, where, at, length
        self.calls = {"reset": 0, "step": 0, "close": 0}
        self.action_space = spaces.Discrete(2)
        self.observation_space = GIVES[how][0] if how in GIVES else BOX
        if where == "make":
            self._go_wrong()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        given = self._now("reset")
        if given is not None:
            return given[0] if isinstance(given, tuple) else given, {}
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        given = self._now("step")
        if given == "nothing at all":
            return None
        if given is not None:
            obs, *rest = given
            return (self._obs() if obs is None else obs, *rest)
        return self._obs(), 1.0, False, self.t >= self.length, {}

    def close(self):
        self._now("close")

    def _obs(self):
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def _now(self, call):
        self.calls[call] += 1
        if call == self.where and self.calls[call] == self.at:
            return self._go_wrong()
        return None

    def _go_wrong(self):
        if self.how in GIVES:
            given = GIVES[self.how][1]
            return "nothing at all" if given is None else given
        {**RAISES, **ENDS, "nothing": lambda: None}[self.how]()
        return None


class Spaces(gymnasium.Env):
    """An environment whose spaces or limit cannot be meant."""

    def __init__(self, what="upside down"):
        low, high = np.zeros(2, np.float32), np.ones(2, np.float32)
        self.observation_space = spaces.Box(low, high)
        self.action_space = spaces.Discrete(2)
        match what:
            case "upside down":
                self.observation_space.low = high + 1
            case "NaN":
                self.observation_space.high = high * np.nan
            case "system exit":
                raise SystemExit(0)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}

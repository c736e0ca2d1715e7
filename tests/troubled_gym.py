"""An environment that is in trouble once, and a count of the processes that it was in; imported in workers."""

import os
import signal
import time
from pathlib import Path

from counting_gym import CountingGym

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

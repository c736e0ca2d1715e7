"""An evaluator that is in trouble, in a process that a test's evaluation worker begins; nothing here imports JAX."""

import os
import signal
import time
from pathlib import Path

TROUBLE = {
    "killed": lambda watch: os.kill(os.getpid(), signal.SIGKILL),
    "leaving": lambda watch: os._exit(3),
    "raising": lambda watch: (_ for _ in ()).throw(ValueError("the plug was pulled")),
    "hanging": lambda watch: time.sleep(600),
    "long": lambda watch: [(time.sleep(0.1), watch()) for _ in range(40)],
}


class TroubledEvaluator:
    """Gives the actor back. Of its calls, counted over all processes, `times` from number `first` on are in trouble."""

    limit = 7

    def __init__(self, folder: str, how: str = "", first: int = 0, times: int = 1):
        self.folder, self.how, self.troubled = Path(folder), how, range(first, first + times)
        (self.folder / f"process {os.getpid()}").touch()

    def __call__(self, actor: object, watch: object) -> object:
        count = len(list(self.folder.glob("call *")))
        (self.folder / f"call {count}").touch()
        if self.how and count in self.troubled:
            TROUBLE[self.how](watch)
        return actor

"""A task of EnvPool, played by scripts: each in a new pool, since no pool can be seeded for an episode."""

import time
from typing import Any

import numpy as np

from polyak.envs.border import to_gymnasium
from polyak.envs.spaces import kind_of
from polyak.errors import EnvironmentFault
from polyak.health.episodes import (
    SHORT,
    Episode,
    Log,
    Script,
    difference,
    random_actions,
    random_play,
    short_length,
)
from polyak.health.finding import Finding
from polyak.health.points import Points

LEFT_OUT = (
    "EnvPool seeds a pool when it is made, and no episode after that: whether reset takes a seed, leaves "
    "something behind or draws from elsewhere (reset-arguments, reseeds, seeding, global-seed, global-random, "
    "leak, shared) is not looked at, nor what its C++ does with arrays (alias, action-changed, dtype, info)"
)


class OnPool:
    """A world of one of EnvPool's tasks; see `World`."""

    players = 1
    said = LEFT_OUT

    def __init__(self, factory: Any):
        self.factory = factory
        spec = factory.spec
        self.points, self.actions = Points(to_gymnasium(spec.obs)), factory.border.action
        self.start = int(self.actions.start) if kind_of(self.actions) == "Discrete" else 0
        self.time_limit, self.length = spec.time_limit, SHORT
        self.seconds, self.steps = 0.0, 0
        self.findings: list[Finding] = []

    def explore(self, steps: int, seconds: float, seed: int) -> list[Episode]:
        """Random play in one pool, for so many steps or seconds; all episodes are of its seed."""
        began = time.monotonic()
        pool, until = self.factory.make(1), began + seconds
        try:
            episodes = random_play(
                self, steps, until, seed, lambda _, actions: self._play(pool, Script(seed, actions), until)
            )
        finally:
            pool.close()
        if self.steps:
            self.length = short_length(self.steps, time.monotonic() - began)
        return episodes

    def run(self, scripts: list[Script]) -> list[Episode]:
        """Play scripts, each in a pool that has its seed."""
        return [self._alone(script) for script in scripts]

    def repeated(self, seed: int) -> list[Finding]:
        """A finding where two pools of one seed do not play the same episode."""
        script = Script(seed, random_actions(self.actions, self.length, np.random.default_rng(seed)))
        first, again = self.run([script, script])
        if first.raised or again.raised or not (said := difference(first, again, self.points)):
            return []
        says = f"two pools with the same seed and actions played other episodes ({said})"
        return [
            Finding(
                "warning", "determinism", says, "no run on it comes to the same again; report it to EnvPool"
            )
        ]

    def _alone(self, script: Script) -> Episode:
        pool = self.factory.make(1)
        try:
            return self._play(pool, script)
        finally:
            pool.close()

    def _play(self, pool: Any, script: Script, until: float = np.inf) -> Episode:
        """The next episode of a pool."""
        log = Log(script.seed)
        try:
            self._note(log, pool.reset([0], [script.seed]))
            for action in script.actions:
                if time.monotonic() > until or log.raised:
                    break
                began = time.monotonic()
                step = pool.step(np.asarray(action)[None] - self.start)
                self.seconds += time.monotonic() - began
                self.steps += 1
                log.reward.append(float(step.reward[0]))
                if not np.isfinite(log.reward[-1]):
                    says = f"the reward of step {len(log.reward)} (seed {script.seed}) is {log.reward[-1]}"
                    self.findings.append(Finding("error", "nan-reward", says, "report it to EnvPool"))
                self._note(log, step.obs)
                if step.terminated[0] or step.truncated[0]:
                    log.end = "terminated" if step.terminated[0] else "truncated"
                    break
        except EnvironmentFault as fault:
            log.raised = True
            self.findings.append(Finding("error", "step-raises", fault.text, "report it to EnvPool"))
        return log.closed(self.points)

    def _note(self, log: Log, obs: Any) -> None:
        row = self.points.row(_first(obs))
        if row is None:
            raise EnvironmentFault("an observation has another shape than its space says")
        log.keep(self.points, row)


def _first(tree: Any) -> Any:
    """The only row of a tree of arrays [1, ...]."""
    if isinstance(tree, dict):
        return {name: _first(part) for name, part in tree.items()}
    return tuple(map(_first, tree)) if isinstance(tree, tuple) else tree[0]

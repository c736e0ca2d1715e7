"""An environment in JAX, played by scripts in one compiled program."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.episodes_graph import check_environment
from polyak.envs.border import to_gymnasium
from polyak.envs.calling import passes
from polyak.envs.environment import Environment
from polyak.errors import EnvironmentFault, said_by
from polyak.health.episodes import Episode, Script, random_actions
from polyak.health.finding import Finding
from polyak.health.points import Points
from polyak.interface import Array, Discrete, Space, Tree

LONGEST = 500  # steps of a script
NUMBERS = 20_000_000  # that one batch of episodes may observe


class InGraph:
    """A world of an environment in JAX; see `World`."""

    def __init__(self, env: Environment):
        self.env, spec = env, env.spec
        self.points, self.actions = Points(to_gymnasium(_sorted(spec.obs))), to_gymnasium(spec.action)
        self.discrete = isinstance(spec.action, Discrete)
        self.time_limit, self.players = spec.time_limit, spec.players
        self.findings: list[Finding] = []
        self.seconds, self.steps = 0.0, 0
        self.length = min(spec.time_limit or LONGEST, LONGEST)
        self.width = max(4, min(32, NUMBERS // (self.length * self.points.size)))
        self.length = max(20, min(self.length, NUMBERS // (self.width * self.points.size)))
        self._play = jax.jit(jax.vmap(self._one))

    def explore(self, steps: int, seconds: float, seed: int) -> list[Episode]:
        """Random play: batches until there are so many steps, or until the time is over."""
        try:
            check_environment(self.env, self.env.spec)
        except EnvironmentFault as fault:
            self.findings.append(Finding("error", "step", str(fault), "see the line that it names"))
            return []
        rng, episodes, until = np.random.default_rng(seed), [], 0.0
        while not episodes or (sum(e.length for e in episodes) < steps and time.monotonic() < until):
            seeds = range(seed + len(episodes), seed + len(episodes) + self.width)
            episodes += self.run([Script(s, random_actions(self.actions, self.length, rng)) for s in seeds])
            if not episodes:
                break
            until = until or time.monotonic() + seconds  # from here on: the first batch was compiled
        return episodes

    def run(self, scripts: list[Script]) -> list[Episode]:
        """Play scripts, so many at once as fit."""
        episodes: list[Episode] = []
        for first in range(0, len(scripts), self.width):
            some = scripts[first : first + self.width]
            filled = some + [some[-1]] * (self.width - len(some))
            seeds = np.array([script.seed for script in filled], np.uint32)
            actions = np.stack([np.asarray(script.actions)[: self.length] for script in filled])
            began = time.monotonic()
            try:
                played = jax.tree.map(np.asarray, self._play(seeds, self._inward(actions)))
            except BaseException as error:
                if passes(error):
                    raise
                says = f"a batch of episodes raised {said_by(error)}"
                self.findings.append(
                    Finding("error", "step", says, "reset and step must work under jax.vmap")
                )
                return []
            if self.steps:  # not the first time, which compiles
                self.seconds += time.monotonic() - began
            self.steps += actions.shape[0] * self.length if self.seconds or not self.steps else 0
            episodes += [self._cut(script, *(part[i] for part in played)) for i, script in enumerate(some)]
        return episodes

    def traced(self, seed: int) -> list[Finding]:
        """Randomness that is drawn while it is traced, and so is the same for ever."""
        scripts = [Script(seed, random_actions(self.actions, self.length, np.random.default_rng(seed)))]
        actions = self._inward(np.asarray(scripts[0].actions))
        traced = [jax.make_jaxpr(lambda s, a: self._one(s, a))(np.uint32(seed), actions) for _ in range(2)]
        texts = [re.sub("0x[0-9a-f]+", "", str(each)) for each in traced]
        constants = [[np.asarray(c).tobytes() for c in each.consts] for each in traced]
        if texts[0] == texts[1] and constants[0] == constants[1]:
            return []
        says = (
            "reset or step gives another program each time it is traced: something in it draws numbers "
            "or reads a clock "
            "in Python, which happens once, when it is compiled, and never again"
        )
        return [
            Finding(
                "error",
                "global-random",
                says,
                "draw with jax.random from the key that reset and step are given",
            )
        ]

    # ---- what is compiled

    def _inward(self, actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.int32 if self.discrete else np.float32)

    def _one(self, seed: Array, actions: Array) -> tuple[Array, ...]:
        """One episode: rows of numbers [T + 1, D], rewards [T], and both ends [T]."""
        state, begun = self.env.reset(key_of(seed, 0))

        def stepped(state: Tree, given: tuple[Array, Array]) -> tuple[Tree, tuple]:
            step = self.env.step(state, given[0], key_of(seed, given[1]))
            row = step.obs, jnp.float32(step.reward), step.terminated, step.truncated
            return step.state, row

        _, (obs, reward, terminated, truncated) = jax.lax.scan(
            stepped, state, (actions, jnp.arange(1, self.length + 1))
        )
        every = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), begun, obs)
        flat = [leaf.reshape(self.length + 1, -1).astype(jnp.float32) for leaf in jax.tree.leaves(every)]
        return jnp.concatenate(flat, axis=1), reward, terminated, truncated

    def _cut(
        self,
        script: Script,
        rows: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> Episode:
        """The episode up to its end."""
        last = terminated | truncated
        if self.time_limit is not None and self.time_limit <= self.length:
            last[self.time_limit - 1 :] = True
        length = int(last.argmax()) + 1 if last.any() else self.length
        end = ""
        if last.any():
            ends = bool(terminated[length - 1]), bool(truncated[length - 1])
            end = {(True, True): "both", (True, False): "terminated"}.get(ends, "truncated")
        obs = self.points.see(rows[: length + 1], script.seed, 0)
        return Episode(script.seed, obs, reward[:length].astype(np.float64), end)


def key_of(seed: Array, step: Array | int) -> Array:
    """Key of one step of the episode with this seed; step 0 is the reset."""
    return jax.random.fold_in(jax.random.key(seed), step)


def _sorted(space: Space) -> Space:
    """A space whose dicts are in the order of JAX's trees."""
    if isinstance(space, dict):
        return {name: _sorted(space[name]) for name in sorted(space)}
    return tuple(map(_sorted, space)) if isinstance(space, tuple) else space

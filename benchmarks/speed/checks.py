"""What the border's checks cost training: each run beside itself without them, in turns, in one process.

    python benchmarks/speed/checks.py [PAIRS]

Without checks, what an environment gives is taken as it is: its type, shape, finiteness and bounds are not looked at,
neither on the host nor in the compiled program. Both runs go on by equal pieces in turns, the first of each pair by
lot; what is compared is the time of their threads on the processor, which a busy machine changes little. A pair's ratio
minus one is what the checks cost; printed are the median over pairs and its 95 % interval by order statistics.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import numpy as np

from polyak.drivers import validate
from polyak.envs.adapters.in_process import GymnasiumSync
from polyak.envs.environment import HostStep
from polyak.runs.beginning import plan_run
from polyak.runs.plan import Settings
from polyak.runs.setup import set_up_jax

PAIRS = 30
SECONDS = 0.3  # of one piece
CASES = (
    ("ppo", "CartPole-v1"),
    ("td3", "Pendulum-v1"),
    ("ppo", "HalfCheetah-v5"),
    ("ppo", "jax:CartPole-v1"),
)


class Unchecked(GymnasiumSync):
    """The same loop over environments without a look at what they return."""

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane."""
        actions, lanes = self._actions(action), len(self._envs)
        reward, given = np.empty(lanes), []
        terminated, truncated = np.empty(lanes, bool), np.empty(lanes, bool)
        for lane, env in enumerate(self._envs):
            obs, reward[lane], terminated[lane], cut, _ = env.step(actions[lane])
            given.append(obs)
            truncated[lane] = cut and not terminated[lane]
        self._obs = self._rows(given)
        return HostStep(self._obs, reward, terminated, truncated, {})

    def _box_rows(self, given: list[np.ndarray], lanes: Any = None) -> np.ndarray:
        rows = np.empty((len(given), *self._declared[0]), self._declared[2])
        for i, obs in enumerate(given):
            rows[i] = obs
        return rows


@contextmanager
def blind() -> Iterator[None]:
    """No driver looks at a rollout while this lasts, nor while what is compiled in it runs."""
    look, metrics = validate.look, validate.check_metrics

    def see_nothing(spec: Any, rollout: Any, xp: Any, *more: Any) -> Any:
        return validate.nothing(xp)

    validate.look, validate.check_metrics = see_nothing, lambda *given: None
    try:
        yield
    finally:
        validate.look, validate.check_metrics = look, metrics


class Side:
    """One run, with checks or without."""

    def __init__(self, algorithm: str, env: str, checked: bool):
        self.place = nullcontext if checked else blind
        settings = Settings(steps=1_000_000, eval_every=0)
        with self.place():
            session, _ = plan_run(algorithm, env, settings)
            self.driver: Any = session.driver
            if not checked and not session.in_graph:
                world, lanes = session.world, session.plan.num_envs
                self.driver.envs.close()
                self.driver.envs = Unchecked(world.make_one, lanes)
            self.run = self.driver.start()
            while int(self.run.iteration) <= self.driver.warmup:
                self.run = self.driver.advance(self.run, 1)

    def advance(self, iterations: int) -> float:
        """Seconds that so many iterations take on the processor."""
        with self.place():
            began = time.process_time()
            self.run = self.driver.advance(self.run, iterations)
            jax.block_until_ready(jax.tree.leaves(self.run.sums))
            return time.process_time() - began


def measure(algorithm: str, env: str, pairs: int) -> np.ndarray:
    """[K] what the checks cost in each pair, as a share of the time without them."""
    sides = {checked: Side(algorithm, env, checked) for checked in (True, False)}
    spent, iterations = 0.0, 1
    while spent < SECONDS:  # and so everything is compiled
        iterations = max(iterations + 1, int(iterations * min(4.0, 1.1 * SECONDS / max(spent, 1e-9))))
        spent = min(side.advance(iterations) for side in sides.values())
    rng, costs = np.random.default_rng(0), []
    for _ in range(pairs):
        order = [True, False] if rng.random() < 0.5 else [False, True]
        seconds = {checked: sides[checked].advance(iterations) for checked in order}
        costs.append(seconds[True] / seconds[False] - 1)
    return np.sort(costs)


def main() -> int:
    """Measure every case and print a line for each."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    set_up_jax()
    for algorithm, env in CASES:
        costs = measure(algorithm, env, pairs)
        reach = max(1, round(pairs / 2 - 0.98 * pairs**0.5)) - 1  # order statistics around the median
        said = f"{np.median(costs):+.2%} [{costs[reach]:+.2%}, {costs[-1 - reach]:+.2%}]"
        print(f"{algorithm:6} {env:18} checks cost {said}, {pairs} pairs", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

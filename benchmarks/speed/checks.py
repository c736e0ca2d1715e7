"""What the border's checks cost training, each inside the very run that it looks at.

    python benchmarks/speed/checks.py [SECONDS] [ALGORITHM:ENVIRONMENT ...]

Two runs beside one another cannot tell one per cent: their programs lie differently in memory, and other work on the
machine moves both by more. Here one run is measured, by pieces of a second:

- on the host, the looks at a rollout, at a reset and at metrics are timed where they happen, with the caches as they
  find them; a step's own checks are part of its loop, so each step is made with them or without, by lot, and what they
  cost is the difference;
- in graph, one compiled program looks at its rollouts or does not, by lot; the cost is the difference of its iterations.

Of every duration the lower quartile of a piece is taken, which other work hardly moves. A piece gives one share, the
checks' time divided by the time of training without them; printed are the median over pieces and its 95 % interval by
order statistics. SECONDS (60) is the time of each case.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import validate
from polyak.envs import spaces
from polyak.envs.adapters.in_process import GymnasiumSync
from polyak.envs.environment import HostStep
from polyak.runs.beginning import plan_run
from polyak.runs.plan import Settings
from polyak.runs.setup import set_up_jax
from polyak.pytree import strip_weak_types

SECONDS = 60.0  # of one case
PIECE = 1.0  # seconds
LOOKS = 256
FEWEST = 4  # iterations of a piece
LOTS = np.random.default_rng(0).permuted(np.tile([True, False], (2**15, 1)), axis=1).ravel()  # pairs
CHECKS = LOTS.astype(int).tolist()
CASES = ("ppo:CartPole-v1", "td3:Pendulum-v1", "ppo:HalfCheetah-v5", "dqn:CartPole-v1", "ppo:jax:CartPole-v1")


class Timed:
    """A function that notes when each of its calls began and how long it took."""

    def __init__(self, function: Callable):
        self.function, self.began, self.seconds = function, [], []

    def __call__(self, *given: Any, **named: Any) -> Any:
        began = perf_counter()
        result = self.function(*given, **named)
        self.seconds.append(perf_counter() - began)
        self.began.append(began)
        return result

    def forget(self) -> None:
        """No call so far."""
        self.began, self.seconds = [], []


class Sometimes(GymnasiumSync):
    """The same loop over environments, each step with a look at what they return or without, by lot."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.lots, self.ways = 0, (Timed(self.blind_step), Timed(super().step))

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane."""
        self.lots += 1
        return self.ways[CHECKS[self.lots % len(LOTS)]](action)

    def blind_step(self, action: np.ndarray) -> HostStep:
        """Step every lane and take what it gives as it is."""
        actions = self._actions(action)
        lanes = len(self._envs)
        reward, given = np.empty(lanes), []
        terminated, truncated = np.empty(lanes, bool), np.empty(lanes, bool)
        measures = {name: np.empty(lanes) for name in self._names}
        for lane, env in enumerate(self._envs):
            obs, r, ended, cut, info = env.step(actions[lane])
            given.append(obs)
            reward[lane] = r
            terminated[lane] = ended
            truncated[lane] = cut and not ended
            for name in self._names:
                measures[name][lane] = spaces.number(info.get(name))
        self._obs = self._blind_rows(given)
        return HostStep(self._obs, reward, terminated, truncated, measures)

    def _blind_rows(self, given: list[np.ndarray]) -> np.ndarray:
        shape, _, ours = self._declared
        rows = np.empty((len(given), *shape), ours)
        for i, obs in enumerate(given):
            rows[i] = obs
        return rows


@contextmanager
def replaced(place: Any, name: str, instead: Any) -> Iterator[Any]:
    """Something else under a name while this lasts."""
    before = getattr(place, name)
    setattr(place, name, instead)
    try:
        yield instead
    finally:
        setattr(place, name, before)


def quartile(seconds: Any) -> float:
    """Duration that a quarter of them stay below; 0 of none."""
    return float(np.quantile(seconds, 0.25)) if len(seconds) else 0.0


def begun(driver: Any) -> Any:
    """A run of which everything is compiled and the warm-up is over."""
    run = driver.start()
    run = driver.advance(run, driver.warmup + FEWEST)
    return driver.advance(run, FEWEST)


def pieces(advance: Callable, run: Any, seconds: float, forget: Callable, share: Callable) -> list[float]:
    """The share of each piece of a run, pieces going on for so long."""
    iterations, spent, found = FEWEST, 0.0, []
    gc.collect()
    while spent < seconds:
        forget()
        began = perf_counter()
        run = advance(run, iterations)
        took = perf_counter() - began
        if took > PIECE / 2:
            found.append(share(iterations))
            spent += took
        iterations = max(FEWEST, int(iterations * min(4.0, PIECE / took)))
    return found


def on_host(session: Any, seconds: float) -> list[float]:
    """Shares of a run on the host."""
    driver: Any = session.driver
    driver.envs.close()
    driver.envs = envs = Sometimes(session.world.make_one, session.plan.num_envs)
    driver._validate = rollouts = Timed(driver._validate)
    metrics, resets = Timed(validate.check_metrics), Timed(spaces.check_begun)

    def share(iterations: int) -> float:
        blind, looked = (quartile(way.seconds) for way in envs.ways)
        steps = driver.rows * (looked - blind)
        others = sum(quartile(part.seconds) * len(part.seconds) for part in (resets, metrics)) / iterations
        cost = quartile(rollouts.seconds) + steps + others
        whole = quartile(np.diff(rollouts.began)) + steps / 2  # half of the steps were without
        parts.append((quartile(rollouts.seconds) / whole, steps / whole, others / whole, whole))
        return cost / (whole - cost)

    def forget() -> None:
        for part in (rollouts, metrics, resets, *envs.ways):
            part.forget()

    parts = []
    with replaced(validate, "check_metrics", metrics), replaced(spaces, "check_begun", resets):
        found = pieces(driver.advance, begun(driver), seconds, forget, share)
    print(np.median(parts, axis=0))
    return found


def in_graph(session: Any, seconds: float) -> list[float]:
    """Shares of a run in graph."""
    driver: Any = session.driver
    lots, look, iterate = jnp.asarray(LOTS), validate.look, driver._iterate

    def sometimes(run: Any, *given: Any) -> Any:
        """One iteration, of which the look is taken by lot."""
        looks = lots[run.iteration.value % len(LOTS)]

        def by_lot(spec: Any, rollout: Any, *more: Any) -> validate.Look:
            def again(_: Any, found: validate.Look) -> validate.Look:
                sound = found.fault[0] == validate.NOTHING  # as XLA cannot know, which else looks once
                seen = jax.tree.map(lambda x: jnp.where(sound, x, jnp.zeros_like(x)), rollout)
                return strip_weak_types(look(spec, seen, *more))

            return jax.lax.fori_loop(0, jnp.where(looks, LOOKS, 0), again, validate.nothing(jnp))

        with replaced(validate, "look", by_lot):
            return iterate(run, *given)

    driver._iterate = sometimes
    run = begun(driver)
    single = Timed(driver.advance)

    def advance(run: Any, iterations: int) -> Any:
        nonlocal first
        first = int(run.iteration)
        for _ in range(iterations):
            run = single(run, 1)
        return run

    def share(iterations: int) -> float:
        looked = LOTS[np.arange(first, first + iterations) % len(LOTS)]
        spent = np.asarray(single.seconds)
        parts.append(quartile(spent[~looked]))
        return (quartile(spent[looked]) / quartile(spent[~looked]) - 1) / LOOKS

    first, parts = 0, []
    found = pieces(advance, run, seconds, single.forget, share)
    print(np.median(parts))
    return found


def main() -> int:
    """Measure every case and print a line for each."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    set_up_jax()
    for case in sys.argv[2:] or CASES:
        algorithm, env = case.split(":", 1)
        session, _ = plan_run(algorithm, env, Settings(steps=10_000_000, eval_every=0))
        found = np.sort((in_graph if session.in_graph else on_host)(session, seconds))
        reach = max(1, round(len(found) / 2 - 0.98 * len(found) ** 0.5)) - 1  # order statistics around the median
        said = f"{np.median(found):+.2%} [{found[reach]:+.2%}, {found[-1 - reach]:+.2%}]"
        print(f"{algorithm:4} {env:16} checks cost {said}, {len(found)} pieces", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

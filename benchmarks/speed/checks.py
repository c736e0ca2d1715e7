"""What the border's checks cost training, measured inside the very run that they look at.

    python benchmarks/speed/checks.py [SECONDS] [ALGORITHM:ENVIRONMENT ...]

Two runs beside one another cannot tell one per cent: their programs lie differently in memory, and other work on the
machine moves both by more. So there is one run, and it is measured by pieces of half a second:

- on the host, the looks at a rollout, at a first observation and at metrics are timed where they happen, with the
  caches as they find them. A step's own checks are part of a loop: each step is made with them or without, by lot, and
  they cost the difference;
- in graph, the compiled program looks at its rollout LOOKS times or not at all, by lot, and one look costs the LOOKS-th
  part of the difference. That an update can be left out, which follows from a look, is in both.

Of all durations the lower quartile is taken, which other work moves little; of an iteration the time on the clock or
that of the processor, whichever is less. A piece gives the time of the checks divided by that of training without
them. Printed are the median over pieces, its 95 % interval by order statistics, and the medians of the parts. SECONDS
(30) are those of each case.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter, process_time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import validate
from polyak.envs import spaces
from polyak.envs.adapters.in_process import GymnasiumSync
from polyak.envs.environment import HostStep
from polyak.pytree import strip_weak_types
from polyak.runs.beginning import plan_run
from polyak.runs.plan import Settings
from polyak.runs.setup import set_up_jax

SECONDS = 30.0  # of one case
PIECE = 0.5  # seconds, after which a training run looks at the clock too
FEWEST = 4  # iterations of a piece
LOOKS = 256
LOTS = (
    np.random.default_rng(0).permuted(np.tile([0, 1], (2**15, 1)), axis=1).ravel()
)  # one of each in every pair
CASES = ("ppo:CartPole-v1", "td3:Pendulum-v1", "ppo:HalfCheetah-v5", "dqn:CartPole-v1", "ppo:jax:CartPole-v1")

Parts = dict[str, float]  # seconds of each kind of check in one iteration


class Timed:
    """A function that notes when each of its calls began and how long it took."""

    def __init__(self, function: Callable):
        self.function = function
        self.forget()

    def __call__(self, *given: Any) -> Any:
        began = perf_counter()
        result = self.function(*given)
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
        self.ways, self.lots = (Timed(self.blind_step), Timed(super().step)), iter([])

    def step(self, action: np.ndarray) -> HostStep:
        """Step every lane."""
        way = next(self.lots, None)
        if way is None:
            self.lots = iter(LOTS.tolist())
            way = next(self.lots)
        return self.ways[way](action)

    def blind_step(self, action: np.ndarray) -> HostStep:
        """Step every lane, and take what it gives as it is."""
        actions = self._actions(action)
        lanes = len(self._envs)
        reward, given = np.empty(lanes), []
        terminated, truncated = np.empty(lanes, bool), np.empty(lanes, bool)
        measures = {name: np.empty(lanes) for name in self._names}
        self.asked = monotonic()  # by which a hang is noticed
        try:
            for lane, env in enumerate(self._envs):
                obs, r, ended, cut, info = env.step(actions[lane])
                given.append(obs)
                reward[lane] = r
                terminated[lane] = ended
                truncated[lane] = cut and not ended
                for name in self._names:
                    measures[name][lane] = spaces.number(info.get(name))
        finally:
            self.asked = 0.0
        self._obs = self._blind_rows(given)
        return HostStep(self._obs, reward, terminated, truncated, measures)

    def _blind_rows(self, given: list[np.ndarray]) -> np.ndarray:
        rows = np.empty((len(given), *self._space.shape), self.spec.obs.dtype)
        for i, obs in enumerate(given):
            rows[i] = obs
        return rows


@contextmanager
def replaced(place: Any, name: str, instead: Any) -> Iterator[None]:
    """Something else under a name while this lasts."""
    before = getattr(place, name)
    setattr(place, name, instead)
    try:
        yield
    finally:
        setattr(place, name, before)


def quartile(seconds: Any) -> float:
    """Duration that a quarter of them stay below; 0 of none."""
    return float(np.quantile(seconds, 0.25)) if len(seconds) else 0.0


def pieces(
    driver: Any, advance: Callable, clocks: list[Timed], seconds: float
) -> Iterator[tuple[int, float]]:
    """Train after the warm-up, for so long; after each piece its iterations, and what one took of the processor."""
    run, iterations, spent = advance(driver.start(), driver.warmup + FEWEST), FEWEST, 0.0
    while spent < seconds:
        for clock in clocks:
            clock.forget()
        gc.collect()
        began, work = perf_counter(), process_time()
        run = advance(run, iterations)
        took, work = perf_counter() - began, process_time() - work
        if took > PIECE / 2:
            yield iterations, work / iterations
            spent += took
        iterations = max(FEWEST, int(min(4 * iterations, iterations * PIECE / took)))


def on_host(session: Any, seconds: float) -> Iterator[tuple[Parts, float]]:
    """The checks of each piece of a run on the host, and how long an iteration took without them."""
    driver: Any = session.driver
    driver.envs.close()
    driver.envs = envs = Sometimes(session.world.make_one, session.plan.num_envs)
    driver._validate = rollouts = Timed(driver._validate)
    metrics, begun = Timed(validate.check_metrics), Timed(spaces.check_begun)

    def check_metrics(given: Any, iteration: int) -> None:
        metrics(jax.block_until_ready(given), iteration)  # to wait for an update is no check

    clocks, rare, passed = [rollouts, metrics, begun, *envs.ways], {begun: [], metrics: []}, 0
    with replaced(validate, "check_metrics", check_metrics), replaced(spaces, "check_begun", begun):
        for iterations, work in pieces(driver, driver.advance, clocks, seconds):
            blind, looked = (quartile(way.seconds) for way in envs.ways)
            passed += iterations
            for clock, all_of_it in rare.items():  # a piece has few of these
                all_of_it += clock.seconds
            seldom = (quartile(all_of_it) * len(all_of_it) / passed for all_of_it in rare.values())
            parts = [quartile(rollouts.seconds), driver.rows * (looked - blind), *seldom]
            whole = min(quartile(np.diff(rollouts.began)), work) + parts[1] / 2  # half the steps were without
            yield (
                dict(zip(("rollouts", "steps", "resets", "metrics"), parts, strict=True)),
                whole - sum(parts),
            )


def in_graph(session: Any, seconds: float) -> Iterator[tuple[Parts, float]]:
    """The same of a run in graph."""
    driver: Any = session.driver
    lots, look, iterate, first = jnp.asarray(LOTS), validate.look, driver._iterate, 0

    def sometimes(run: Any, *given: Any) -> Any:
        """One iteration, which looks at its rollout often or not at all."""
        looks = LOOKS * lots[run.iteration.value % len(LOTS)]

        def often(spec: Any, rollout: Any, *more: Any) -> validate.Look:
            def again(_: Any, found: validate.Look) -> validate.Look:
                sound = (
                    found.fault[0] == validate.NOTHING
                )  # so it is, which XLA does not know: else it looks once
                seen = jax.tree.map(lambda x: jnp.where(sound, x, jnp.zeros_like(x)), rollout)
                return strip_weak_types(look(spec, seen, *more))

            return jax.lax.fori_loop(0, looks, again, validate.nothing(jnp))

        with replaced(validate, "look", often):
            return iterate(run, *given)

    def advance(run: Any, iterations: int) -> Any:
        nonlocal first
        first = int(run.iteration)
        for _ in range(iterations):
            run = single(run, 1)
        return run

    driver._iterate = sometimes
    driver._check = read = Timed(driver._check)
    single = Timed(driver.advance)
    for iterations, _ in pieces(driver, advance, [single, read], seconds):
        spent, looked = np.asarray(single.seconds), LOTS[np.arange(first, first + iterations) % len(LOTS)] > 0
        whole = quartile(spent[~looked])
        yield (
            {
                "looks": (quartile(spent[looked]) - whole) / LOOKS,
                "reading": quartile(read.seconds) * whole / PIECE,
            },
            whole,
        )


def main() -> int:
    """Measure every case and print a line for each."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    set_up_jax()
    for case in sys.argv[2:] or CASES:
        algorithm, env = case.split(":", 1)
        session, _ = plan_run(algorithm, env, Settings(steps=10_000_000, eval_every=0))
        measured = list((in_graph if session.in_graph else on_host)(session, seconds))
        shares = np.array([[x / whole for x in parts.values()] for parts, whole in measured])
        total, count = np.sort(shares.sum(axis=1)), len(shares)
        reach = max(1, round(count / 2 - 0.98 * count**0.5)) - 1  # order statistics around the median
        each = ", ".join(
            f"{name} {x:.2%}" for name, x in zip(measured[0][0], np.median(shares, axis=0), strict=True)
        )
        time = np.median([whole for _, whole in measured]) * 1e3
        said = f"{np.median(total):.2%} [{total[reach]:.2%}, {total[-1 - reach]:.2%}]"
        print(
            f"{algorithm:3} {env:15} checks cost {said}, {count} pieces of {time:.3g} ms ({each})", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

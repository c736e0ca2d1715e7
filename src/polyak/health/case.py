"""What there is to be known about a run: its settings, what it logged, what its policy does, and its environment."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from polyak.drivers.learn import initial_states
from polyak.drivers.program import map_seeded
from polyak.envs.environment import Environment, flat_actions, to_bounds
from polyak.envs.on_host import OnHost
from polyak.errors import UserError
from polyak.files import place
from polyak.health.environment import check_env
from polyak.health.finding import Report
from polyak.interface import Discrete, Spec, rows_of
from polyak.runs.algorithm import wrapped
from polyak.runs.policy import Policy
from polyak.runs.run import Run

LANES = 8  # episodes that are played side by side
LONGEST = 500  # steps of them
STEPS = 2_000  # random ones of the look at the environment


@dataclass
class Played:
    """Episodes of L lanes.

    obs      [M, ...] observations of running episodes
    action   [M, ...] actions on them, as the algorithm gives them
    other    [M, ...] what it does on them in training, with exploration
    reward   list of arrays, one for each episode
    ended    of each episode, whether it was over
    """

    obs: Any
    action: np.ndarray
    other: np.ndarray
    reward: list[np.ndarray]
    ended: list[bool]

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted returns."""
        return np.array([r.sum() for r in self.reward])

    @property
    def paid(self) -> np.ndarray:
        """All rewards."""
        return np.concatenate(self.reward)

    @property
    def length(self) -> float:
        """Steps of an episode, on average."""
        return float(np.mean([len(r) for r in self.reward]))

    def discounted(self, gamma: float) -> np.ndarray:
        """Discounted returns from every step of every episode, without what comes after a cut."""
        found = []
        for rewards in self.reward:
            total, values = 0.0, []
            for r in rewards[::-1]:
                total = float(r) + gamma * total
                values.append(total)
            found += values[::-1]
        return np.array(found)


@dataclass
class Case:
    """A run, as far as it can be looked at.

    lines     of metrics.jsonl
    played    by the policy of the first seed; None where there is none, or its environment may not be made
    random    by chance, in the same environment
    report    of `check_env` on the environment
    unseen    why something of this could not be looked at, "" where all was
    """

    run: Run
    lines: list[dict[str, Any]]
    played: Played | None = None
    random: Played | None = None
    report: Report | None = None
    state: Any = None
    first_state: Any = None
    policy: Policy | None = None
    players: int = 1
    unseen: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Any:
        """Its plan."""
        return self.run.plan

    @cached_property
    def algorithm(self) -> Any:
        """Its algorithm, in its wrappers."""
        return wrapped(self.plan)

    @cached_property
    def cfg(self) -> Any:
        """Its Config."""
        return self.plan.settle(self.algorithm.Config())

    @cached_property
    def spec(self) -> Spec | None:
        """Its spaces; None without a checkpoint."""
        try:
            return self.run.spec
        except UserError:
            return None

    @property
    def discrete(self) -> bool:
        """Whether its actions are integers."""
        return self.spec is not None and isinstance(self.spec.action, Discrete)

    def series(self, name: str) -> np.ndarray:
        """[K] values of a metric in the order of the log, mean over seeds; null is NaN."""
        by_step: dict[int, list[float]] = {}
        for line in self.lines:
            if name in line:
                value = line[name]
                by_step.setdefault(int(place(line)), []).append(np.nan if value is None else float(value))
        return np.array([np.mean(values) for _, values in sorted(by_step.items())])

    def steps_of(self, name: str) -> list[int]:
        """Places in the run at which a metric was logged."""
        return sorted({int(place(line)) for line in self.lines if name in line})

    def late(self, name: str) -> float | None:
        """Mean of the second half of a metric's log; None where there is none."""
        values = self.series(name)
        values = values[np.isfinite(values)]
        return float(values[len(values) // 2 :].mean()) if len(values) else None

    @property
    def done(self) -> int:
        """Environment steps so far."""
        return max((line["env_steps"] for line in self.lines), default=0)

    @property
    def longer(self) -> str:
        """The setting that ended the run, or would, as it is typed."""
        if self.run.reached is not None:
            return f"--stop-at (now {self.plan.stop_at:g}, which ended the run)"
        return f"--{self.plan.unit} (now {self.plan.budget:,})"

    @property
    def temperature(self) -> str:
        """The setting that weighs the entropy of a policy which its algorithm logs a temperature of; "" without."""
        return "alpha" if len(self.series("update/alpha")) and hasattr(self.cfg, "alpha") else ""

    @property
    def updates(self) -> int:
        """Updates so far."""
        return max((int(line.get("updates", 0)) for line in self.lines), default=0)

    @property
    def returns(self) -> np.ndarray:
        """Returns of evaluations, or where there is none those of training."""
        found = self.series("eval/return")
        return found if len(found) else self.series("episode/return")

    @property
    def judged(self) -> bool:
        """Whether returns can be held against chance."""
        return self.random is not None and self.players == 1 and len(self.returns) > 0

    @property
    def learned(self) -> bool:
        """Whether the last evaluations are far better than chance, and not far below the best one."""
        found = self.returns[np.isfinite(self.returns)]
        if not len(found):
            return False
        if self.random is not None and all(self.random.ended):
            returns = self.random.returns
            chance = float(returns.mean())
            spread = float(returns.std()) * (2 / len(returns)) ** 0.5  # of the difference of two such means
        else:
            chance, spread = float(found[0]), float(np.abs(found[0]) * 0.2)
        gain, best = found[-1] - chance, found.max() - chance
        return bool(gain > max(2 * spread, 0.2 * abs(chance)) and gain > 0.5 * best)

    @property
    def episode_length(self) -> float | None:
        """Steps of an episode, on average: of the evaluations, of training, or as it was played."""
        for name in ("eval/length", "episode/length"):
            if (found := self.late(name)) is not None:
                return found
        return self.played.length if self.played else None


def gather(run: Run) -> Case:
    """Everything that can be known about a run. What may not be followed from its folder is left out."""
    case = Case(run, run.metrics)
    try:
        session = run.trust()
        world = session.world
    except UserError as error:
        case.unseen.append(f"its environment was not looked at: {error}")
        return case
    try:
        given = session.given if session.given is not None else case.plan.env
        case.report = check_env(given, steps=STEPS, seconds=5.0, fields=case.plan.env_fields)
    except UserError as error:
        case.unseen.append(f"its environment could not be checked: {error}")
    try:
        case.players = session.env_spec.players
        envs = OnHost(world) if isinstance(world, Environment) else world
        case.random = play(envs, session.env_spec, None)
        case.state = map_seeded(lambda x: x[0], run.state())
        first = initial_states(session.algorithm, session.cfg, session.spec, [case.plan.seed])
        case.first_state = map_seeded(lambda x: x[0], first)
        if not session.cfg.data.simulator and session.algorithm.learns:
            case.policy = run.policy()
            case.played = play(envs, session.env_spec, case.policy.act)
    except UserError as error:
        case.unseen.append(f"its policy was not played: {error}")
    return case


def play(factory: Any, spec: Spec, act: Callable[..., tuple[np.ndarray, Any]] | None) -> Played:
    """A few episodes, side by side, of a policy without exploration, or of chance."""
    lanes = 1 if type(factory).__name__ == "OneGymnasium" else LANES
    envs, rng = factory.make(lanes), np.random.default_rng(0)
    flat = flat_actions(spec).action
    running, memory, limit = np.ones(lanes, bool), None, min(spec.time_limit or LONGEST, LONGEST)
    seen: list[tuple[Any, np.ndarray, np.ndarray]] = []
    reward: list[list[float]] = [[] for _ in range(lanes)]
    try:
        obs = envs.reset(range(lanes), [1_000_003 + i for i in range(lanes)])
        for _ in range(limit):
            if act is None:
                action = other = by_chance(flat, lanes, rng)
            else:
                other, _ = act(obs, memory, True)
                action, memory = act(obs, memory, False)
            own = jax.tree.map(lambda x: np.array(x)[running], obs)  # noqa: B023
            seen.append((own, np.asarray(action)[running], np.asarray(other)[running]))
            step = envs.step(to_bounds(spec.action, action))
            for lane in np.flatnonzero(running):
                reward[lane].append(float(step.reward[lane]))
            running = running & ~(step.terminated | step.truncated)
            obs = step.obs
            if not running.any():
                break
    finally:
        envs.close()
    every = [np.concatenate(parts) for parts in zip(*(each[1:] for each in seen), strict=True)]
    together = jax.tree.map(lambda *rows: np.concatenate(rows), *(each[0] for each in seen))
    return Played(together, every[0], every[1], [np.array(r) for r in reward], (~running).tolist())


def by_chance(space: Any, lanes: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform actions [L, ...] as an algorithm gives them."""
    if isinstance(space, Discrete):
        return rng.integers(0, space.n, lanes).astype(np.int32)
    return rng.uniform(-1, 1, (lanes, *space.shape)).astype(np.float32)


def rows_per_update(case: Case) -> float:
    """Environment steps of one seed for each update."""
    data = case.cfg.data
    limit = case.spec.time_limit if case.spec else None
    return rows_of(data, limit) * case.plan.num_envs / max(1, data.updates)

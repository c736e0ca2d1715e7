"""The whole contract on one screen: what an algorithm is, what a driver gives it, what it may know.

An algorithm may act and update. It never steps an environment, owns a buffer, logs, reads a clock or
names a device; everything that a driver does happens between those two calls.

Axes: T time, N environments, B batch, L sequence; time first. This file imports neither JAX nor NumPy,
so that a command line can read it at once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Array = Any
Tree = Any  # a pytree of arrays
Space = Any  # Box, Discrete, or a dict or tuple of spaces


# ---- what an algorithm may know of its world


@dataclass(frozen=True)
class Box:
    """Real vectors or arrays between two bounds; an infinite bound is none.

    low, high   one number for all entries, or one for each in C order
    """

    shape: tuple[int, ...]
    low: float | tuple[float, ...] = -float("inf")
    high: float | tuple[float, ...] = float("inf")
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """How many numbers a point of the space has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n-1."""

    n: int
    dtype: str = "int32"

    @property
    def shape(self) -> tuple[int, ...]:
        """A point is one integer."""
        return ()


class Goal(NamedTuple):
    """How hindsight asks again: pure functions of JAX on rows [M, ...], kept by an environment with goals."""

    achieved: Callable  # (obs) -> goal [M, ...] that this observation has reached
    relabel: Callable  # (obs, goal) -> obs that pursues this goal
    reward: Callable  # (obs, next_obs, terminated) -> reward [M], terminated [M] as `next_obs`'s goal says
    note: str = ""  # what a person should hear of its cost


class Given(NamedTuple):
    """The policy of another run, of `--use NAME=RUN`. Its actor is known in `init`, which copies it; else it is NaN."""

    actor: Tree
    memory: Callable  # (env_ids, episode, key) -> [N, ...] carried by environment
    act: Callable  # (actor, memory, obs, key, explore) -> action, memory; batched over N


@dataclass(frozen=True)
class Spec:
    """Everything that an algorithm may know of its world.

    time_limit  steps after which an episode is truncated, None where there is no limit
    num_envs    N, the environments of one seed
    players     1, or 2 for a game of alternating moves
    model       the rules as (reset, step) of a JAX environment, for planners; None where unknown
    goal        how hindsight asks again; None where there is no goal
    measures    what a person wants to know beside the return: name -> "last", "sum", "mean" or "max"
    ratios      and of all episodes together: name -> two measures, the sum of the one over the sum of the other
    given       policies of other runs, by the names of `Algorithm.uses`
    """

    obs: Space
    action: Space
    time_limit: int | None = None
    num_envs: int = 1
    players: int = 1
    model: Any = None
    goal: Goal | None = None
    measures: Mapping[str, str] = field(default_factory=dict)
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    given: Mapping[str, Given] = field(default_factory=dict)


# ---- the data that an algorithm asks for: values that a driver reads


def within(default: Any, low: float, high: float = float("inf")) -> Any:
    """A field of a Config with the values that make sense, both ends included; checked where a run begins."""
    return field(default=default, metadata={"within": (low, high)})


@dataclass(frozen=True)
class Hindsight:
    """Goals of replayed windows replaced by achieved ones (Andrychowicz et al. 2017)."""

    strategy: Literal["future", "final", "episode", "random"] = "future"  # which achieved goals stand in
    share: float = within(0.8, 0, 1)  # share of the drawn windows whose goal is replaced


@dataclass(frozen=True)
class OnPolicy:
    """One rollout of the current policy, used once: of so many steps, or of so many whole episodes."""

    steps: int = within(0, 0)  # T, steps of each environment in one rollout
    episodes: int = within(0, 0)  # k, whole episodes of each environment in one rollout, instead of steps
    clip: float | None = within(None, 1e-12)  # learning sees rewards in [-clip, clip]; None: as they are
    simulator: bool = False  # act sees the environment's state
    self_play: bool = False  # both players are this policy
    common: int = 0  # c, episode e draws what episode e mod c of environment 0 draws; 0: each its own

    updates = 1  # for every rollout
    plans = False
    replays = False  # the batch is the rollout itself, and `observe` comes after the update
    uniform = False

    def warmup_rollouts(self, num_envs: int) -> int:
        """Rollouts before the first update."""
        return 0

    def slots(self, num_envs: int) -> int:
        """Rows of every environment that are kept from rollout to rollout."""
        return 0


@dataclass(frozen=True)
class Replay:
    """A ring of past transitions, drawn from after every rollout. n-step sums read `Config.gamma`."""

    capacity: int = within(1_000_000, 1)  # transitions of one seed that are held, over all its environments
    batch_size: int = within(256, 1)  # B, rows or sequences of one update
    warmup: int = within(1_000, 0)  # transitions before the first update
    steps: int = within(1, 1)  # T, steps of each environment between updates
    updates: int = within(1, 1)  # updates after every T steps
    length: int = within(1, 1)  # L, rows of a drawn sequence; 1 draws single rows
    n_step: int = within(1, 1)  # n, steps that one drawn row spans, for n-step targets
    ended: bool = False  # draw from finished episodes only
    hindsight: Hindsight | None = None  # replace goals by achieved ones; None: never
    priority: float = within(0.0, 0, 1)  # alpha of prioritised replay; 0 draws uniformly
    correction: float | tuple[float, float, int] = 0.4  # beta of prioritised replay, or (start, end, updates)
    frames: int = within(0, 0)  # K, frames stacked into one observation, each stored once; 0: none
    uniform: bool = True  # the warm-up's actions are uniform; false: the policy's
    clip: float | None = within(None, 1e-12)  # learning sees rewards in [-clip, clip]; None: as they are
    simulator: bool = False  # act sees the environment's state
    self_play: bool = False  # both players are this policy
    common: int = 0  # c, episode e draws what episode e mod c of environment 0 draws; 0: each its own

    episodes = 0
    plans = False
    replays = True  # the batch is drawn, and `observe` comes before the update

    @property
    def indexed(self) -> bool:
        """Whether there is more to it than whole rows that are drawn uniformly."""
        return self.priority > 0 or self.ended or self.hindsight is not None or self.frames > 0

    def warmup_rollouts(self, num_envs: int) -> int:
        """Rollouts before the first update."""
        return -(-self.warmup // (self.steps * num_envs))

    def slots(self, num_envs: int) -> int:
        """C, rows of every environment that the ring holds: whole rollouts only, 0 where not even one fits.

        A write that does not fit before the end of the ring would be moved, not wrapped.
        """
        return self.capacity // num_envs // self.steps * self.steps


@dataclass(frozen=True)
class Planning:
    """No data at all: `update` is given None for a batch and reads `spec.model`; the budget is counted in updates."""

    updates: int = within(1, 1)  # updates between two looks at the budget

    steps = episodes = common = 0
    simulator = self_play = False
    clip = None
    plans = True  # nothing is collected, and nothing observed
    replays = False
    uniform = False

    def warmup_rollouts(self, num_envs: int) -> int:
        """Rollouts before the first update."""
        return 0

    def slots(self, num_envs: int) -> int:
        """Rows of every environment that are kept from rollout to rollout."""
        return 0


Data = OnPolicy | Replay | Planning


def rows_of(data: Any, time_limit: int | None) -> int:
    """T, rows of each environment in one rollout; one of whole episodes has room for the longest."""
    return data.steps or data.episodes * (time_limit or 0)


def played(data: Any, last: Array) -> Array | None:
    """Rows [T, N] up to the k-th end of each environment; what comes after is padding. None: all rows."""
    if not data.episodes:
        return None
    ends = last.astype("int32")
    return ends.cumsum(axis=0) - ends < data.episodes


# ---- what passes between a driver and an algorithm


class Transition(NamedTuple):
    """One row of experience: [T, N, ...] in a rollout, [C, N, ...] in a ring.

    `next_obs` is the true successor, never the observation after a reset.
    """

    obs: Tree
    action: Array
    reward: Array
    next_obs: Tree
    terminated: Array  # the world ended: there is no future
    truncated: Array  # the episode stopped here, its future is unknown; never together with terminated
    extras: Tree = ()  # what `act` wanted remembered

    @property
    def last(self) -> Array:
        """The episode ended here, for either reason: traces stop."""
        return self.terminated | self.truncated


class Batch(NamedTuple):
    """Input of `update`: a transition's fields and two that `learn` fills in.

    [T, N, ...] on policy, [B, ...] from replay, [B, L, ...] for sequences. A row may span k steps: then
    `reward` is their discounted sum and `next_obs`, `terminated`, `truncated` are the last step's.
    With `OnPolicy(episodes=k)` the rows of an environment after its k-th end are padding: weight, reward and
    discount 0, no end, and everything else as in the environment's first row.
    """

    obs: Tree
    action: Array
    reward: Array
    next_obs: Tree
    terminated: Array
    truncated: Array
    extras: Tree
    discount: Array  # multiplies everything after the row: gamma^k, and 0 where it terminated
    weight: Array  # 0 in padding; importance weight of prioritised replay; else 1

    @property
    def last(self) -> Array:
        """The episode ended here, for either reason: traces stop."""
        return self.terminated | self.truncated


class Shown(NamedTuple):
    """Input of `act` in place of the observations alone where `data.simulator` asks for it."""

    obs: Tree  # [N, ...]
    state: Tree  # [N, ...] the environments' own states, from which `spec.model.step` goes on


WORD = 2**30  # environment steps that the clock's lower word counts


class Clock(NamedTuple):
    """Counters that do not depend on data; seeds that run side by side share them, recognised by this type.

    Both mean the same in every algorithm: of one seed, since its run began. Environment steps are counted in two
    words, exactly and beyond 2^32.
    """

    updates: Array  # uint32 scalar, calls of `update`
    low: Array  # int32 scalar below WORD, environment steps that `observe` has seen, warm-up included
    high: Array  # int32 scalar, how often WORD of them were passed

    @property
    def env_steps(self) -> Array:
        """Environment steps as a float32 scalar, which is what schedules are drawn over."""
        return self.high.astype("float32") * float(WORD) + self.low.astype("float32")

    def at(self, env_steps: int) -> "Clock":
        """The same updates, at so many environment steps."""
        zero = self.low - self.low
        return self._replace(low=zero + env_steps % WORD, high=zero + env_steps // WORD)

    def updated(self) -> "Clock":
        """One update on."""
        return self._replace(updates=self.updates + 1)

    def observed(self, rollout: Transition) -> "Clock":
        """One rollout [T, N, ...] on."""
        low = self.low + rollout.reward.size
        return self._replace(low=low % WORD, high=self.high + low // WORD)


class Update(NamedTuple):
    """Result of `update`; `priority` [B] where replay is prioritised."""

    state: Tree
    metrics: dict[str, Array]
    priority: Array | None = None


def no_memory(cfg: Any, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """Nothing lives with an environment."""
    return ()


def observe_nothing(cfg: Any, spec: Spec, state: Tree, rollout: Transition) -> Tree:
    """Nothing is counted."""
    return state


def count_steps(cfg: Any, spec: Spec, state: Tree, rollout: Transition) -> Tree:
    """The state with the rollout's environment steps counted on its `clock`."""
    return state.replace(clock=state.clock.observed(rollout))


def nothing_to_say(cfg: Any, spec: Spec) -> list[str]:
    """Every setting, and every combination of settings, is what it seems to be."""
    return []


def reward_as_it_is(cfg: Any, spec: Spec, actor: Tree, reward: Array) -> Array:
    """Learning sees the environment's own rewards."""
    return reward


class Algorithm(NamedTuple):
    """A record of pure functions; `cfg` is a frozen dataclass, all else pytrees of arrays.

    Real actions are flat, [N, A] in [-1, 1]; integers are [N]. `explore` is a Python bool.
    """

    Config: type
    actions: tuple[str, ...]  # which it can take: "discrete", "continuous"
    init: Callable  # (cfg, spec, key) -> state
    actor: Callable  # (state) -> actor: all that acting needs, and all that is sent to workers
    act: Callable  # (cfg, spec, actor, memory, obs, key, explore) -> action, memory, extras; batched over N
    update: Callable  # (cfg, spec, state, batch, key) -> Update
    memory: Callable = no_memory  # (cfg, spec, env_ids, episode, key) -> [N, ...] carried by environment
    observe: Callable = observe_nothing  # (cfg, spec, state, rollout) -> state, once per new rollout
    gradient: Callable | None = None  # (cfg, spec, actor, batch, key) -> grads, metrics
    apply: Callable | None = None  # (cfg, spec, state, grads) -> state
    family: str = ""  # word that lists and pages group by: "value", "policy gradient", ...
    observes: Literal["any", "vector", "discrete"] = "any"  # which observations: one Box, one Discrete
    simulates: bool = False  # `act` can plan with the environment's rules, where `data.simulator` is set
    plays: bool = False  # one policy can play both sides of a game, whose rules it is not given
    learns: bool = True  # false: `update` changes nothing that acting needs, since it plans at every decision
    uses: tuple[str, ...] = ()  # names by which it can be given policies of other runs, as "base"
    wrong: Callable = nothing_to_say  # (cfg, spec) -> lines that the ranges of single fields cannot say
    notes: Callable = nothing_to_say  # (cfg, spec) -> lines that a person should read before a run begins
    reward: Callable = reward_as_it_is  # (cfg, spec, actor, reward) -> what learning sees, before any sum
    value: Callable | None = None  # (cfg, spec, state, obs, action) -> return expected [N], to show people
    thought: Callable | None = (
        None  # (memory, extras) -> shares of moves [N, A], return expected [N], to show
    )

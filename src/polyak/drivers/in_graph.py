"""The driver for JAX environments: collect and learn in one compiled loop, for one seed or many."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import inspect
from polyak.drivers.learn import (
    Keys,
    RowKeys,
    actors,
    batched,
    choose,
    initial_states,
    learn,
    row_shape,
    warmup_iterations,
)
from polyak.drivers.measures import gather
from polyak.drivers.program import Program, anywhere, over_seeds, zeros
from polyak.envs.environment import Environment, to_bounds
from polyak.errors import EnvironmentFault
from polyak.interface import Algorithm, Array, Discrete, OnPolicy, Spec, Transition, Tree
from polyak.parts import replay
from polyak.pytree import Record, pytree, select, strong


@pytree
class Lives(Record):
    """The running episodes of N environments."""

    env: Tree  # the environments' states
    obs: Tree
    memory: Tree
    episode: Array  # [N] int32, its number
    length: Array  # [N] int32, steps so far
    total: Array  # [N] float32, reward so far
    measures: dict[str, Array]  # each [N]


@pytree
class Sums(Record):
    """What a log line is made of, since the last one."""

    episodes: Array  # how many ended
    total: Array  # of their returns
    length: Array  # of their lengths
    measures: dict[str, Array]  # of their measures
    updates: Array  # how many were made
    metrics: dict[str, Array]  # of their metrics


@pytree
class Carry(Record):
    """The whole run: [S, ...], but for what all seeds share."""

    state: Tree
    buffer: Any
    lives: Lives
    sums: Sums
    fault: Array  # (row, environment, field) of what no environment may give, else -1
    iteration: Array  # rollouts since the run began, shared


class InGraph:
    """Advances S runs together. See `Host` for the same promises on the host."""

    def __init__(self, algorithm: Algorithm, cfg: Any, env: Environment, spec: Spec, seeds: Sequence[int]):
        self.algorithm, self.cfg, self.env, self.spec, self.seeds = algorithm, cfg, env, spec, tuple(seeds)
        self.rows = cfg.data.steps
        self.env_steps = self.rows * spec.num_envs  # of one seed in one iteration
        self.warmup = warmup_iterations(cfg, spec)
        self.program = {warm: Program(self._chunk(warm), donate=(0,)) for warm in (True, False)}
        self.begin = Program(self._begin)
        self.read = actors(algorithm)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.inexact: list[int] = []  # a JAX environment always comes back exactly

    def of(self, seeds: Sequence[int]) -> "InGraph":
        """The same programs for other seeds, of which there must be as many."""
        if len(seeds) != len(self.seeds):
            raise ValueError(f"{len(seeds)} seeds, but these programs are for {len(self.seeds)}")
        other = copy.copy(self)
        other.seeds, other.seed_array = tuple(seeds), np.asarray(seeds, np.uint32)
        return other

    # ---- the four things a driver offers

    def start(self) -> Carry:
        """A run that has not stepped. Raises EnvironmentFault where shapes or dtypes are not the spec's."""
        check_shapes(self.env, self.spec)
        return self._fresh()

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run in the warm-up or after it; only shapes are needed, no run."""
        if self.program[warm].compiled is None:
            self.program[warm].compile(self._shapes, self.seed_array, 0)

    def advance(self, carry: Carry, iterations: int) -> Carry:
        """`iterations` rollouts on; how a run is cut into calls does not change a bit of it.

        Raises EnvironmentFault before anything is learned from a rollout that holds what it must not.
        """
        warm = min(max(self.warmup - int(carry.iteration), 0), iterations)
        for is_warm, count in ((True, warm), (False, iterations - warm)):
            if count:
                carry = self.program[is_warm](carry, self.seed_array, count)
        fault = np.asarray(carry.fault)
        for seed, (row, env, field) in zip(self.seeds, fault.tolist(), strict=True):
            if row != inspect.NOTHING:
                raise inspect.explain(self.spec, row, env, field, seed)
        inspect.check_metrics(carry.sums.metrics, int(carry.iteration))
        return carry

    def pack(self, carry: Carry) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays by field, and plain values."""
        return vars(carry), {}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        return vars(self._shapes)

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () on policy."""
        return self._shapes.buffer

    def unpack(self, tree: Tree, extra: dict) -> Carry:
        """The run that was packed."""
        return Carry(**jax.tree.map(jnp.array, tree))

    # ---- what the loop reads

    def report(self, carry: Carry) -> tuple[Carry, dict[str, np.ndarray]]:
        """The sums since the last report as NumPy arrays [S], and the run with empty ones."""
        sums = jax.tree.map(np.array, carry.sums)
        empty = zeros(carry.sums)
        flat = {
            "episodes": sums.episodes,
            "episode/return": sums.total,
            "episode/length": sums.length,
            "updates": sums.updates,
        }
        flat |= {f"episode/{name}": value for name, value in sums.measures.items()}
        flat |= {f"update/{name}": value for name, value in sums.metrics.items()}
        return carry.replace(sums=empty), flat

    def actor(self, carry: Carry) -> Tree:
        """What acting needs, [S, ...]."""
        return self.read(carry.state)

    def close(self) -> None:
        """Nothing to release."""

    # ---- what is compiled

    def _fresh(self) -> Carry:
        states = initial_states(self.algorithm, self.cfg, self.spec, self.seed_array)
        return self.begin(states, self.seed_array)

    @cached_property
    def _shapes(self) -> Carry:
        states = jax.eval_shape(lambda: initial_states(self.algorithm, self.cfg, self.spec, self.seed_array))
        return self.begin.shapes(states, self.seed_array)

    def _begin(self, state: Tree, seeds: Array) -> Carry:
        def one(state: Tree, seed: Array) -> Carry:
            keys, spec = Keys.of(seed), self.spec
            ids = jnp.arange(spec.num_envs)
            zero = jnp.zeros(spec.num_envs, jnp.int32)
            env, obs = jax.vmap(self.env.reset)(batched(keys.env, spec.num_envs, zero, zero))
            memory = self.algorithm.memory(self.cfg, spec, ids, zero, keys.memory)
            measures = {name: jnp.zeros(spec.num_envs) for name in spec.measures}
            lives = Lives(env, obs, memory, zero, zero, jnp.zeros(spec.num_envs), measures)
            row = row_shape(self.algorithm, self.cfg, spec, state)
            buffer: Any = ()
            if not isinstance(self.cfg.data, OnPolicy):
                count = replay.slots(self.cfg.data.capacity, spec.num_envs, self.rows)
                buffer = replay.empty(row, count)
            metrics = metric_shapes(self.algorithm, self.cfg, spec, state, row)
            sums = Sums(
                episodes=jnp.zeros((), jnp.int32),
                total=jnp.zeros(()),
                length=jnp.zeros((), jnp.int32),
                measures={name: jnp.zeros(()) for name in spec.measures},
                updates=jnp.zeros((), jnp.int32),
                metrics=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics),
            )
            fault = jnp.full(3, inspect.NOTHING, jnp.int32)
            return strong(Carry(state, buffer, lives, sums, fault, jnp.zeros((), jnp.int32)))

        return over_seeds(one, state, seeds)

    def _chunk(self, warm: bool):
        def chunk(carry: Carry, seeds: Array, count: Array) -> Carry:
            def one(carry: Carry, seed: Array) -> Carry:
                keys = Keys.of(seed)

                def iterate(_: Array, carry: Carry) -> Carry:
                    return strong(self._iterate(carry, keys, warm))

                return jax.lax.fori_loop(0, count, iterate, carry)

            return over_seeds(one, carry, seeds)

        return chunk

    def _iterate(self, carry: Carry, keys: Keys, warm: bool) -> Carry:
        """One rollout, and what is learned from it."""
        actor = self.algorithm.actor(carry.state)
        collect = Collector(self.algorithm, self.cfg, self.env, self.spec, actor, keys, warm)
        first = carry.iteration * self.rows
        row_keys = RowKeys.of_rollout(keys, carry.iteration, self.rows)
        (lives, sums), rollout = jax.lax.scan(
            collect.step, (carry.lives, carry.sums), (first + jnp.arange(self.rows), row_keys)
        )
        found = inspect.first_fault(self.spec, rollout, jnp)
        found = jnp.where(found[0] == inspect.NOTHING, found, found.at[0].add(first))
        fault = jnp.where(carry.fault[0] == inspect.NOTHING, found, carry.fault)
        sound = ~anywhere(fault[0] != inspect.NOTHING)
        key = jax.random.fold_in(keys.learn, carry.iteration)
        state, buffer, metrics = learn(
            self.algorithm, self.cfg, self.spec, carry.state, carry.buffer, rollout, key, warm, sound
        )
        if not warm:
            made = getattr(self.cfg.data, "updates", 1)
            sums = sums.replace(
                updates=sums.updates + made, metrics=jax.tree.map(jnp.add, sums.metrics, metrics)
            )
        return Carry(state, buffer, lives, sums, fault, carry.iteration + 1)


def check_shapes(env: Environment, spec: Spec) -> None:
    """EnvironmentFault, one line, where `reset` or `step` does not give what the spec says."""
    key = jax.random.key(0)
    state, obs = jax.eval_shape(env.reset, key)
    kind = jnp.int32 if isinstance(spec.action, Discrete) else jnp.float32
    step = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct(spec.action.shape, kind), key)
    flag, number = ((), (jnp.dtype(bool),)), ((), (jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)))
    wanted = jax.tree.map(lambda s: (tuple(s.shape), (jnp.dtype(s.dtype),)), spec.obs)
    wanted = {"obs": wanted, "reward": number, "terminated": flag, "truncated": flag}
    for call, given in (("reset", {"obs": obs}), ("step", {name: getattr(step, name) for name in wanted})):
        for name, tree in given.items():
            compare_shapes(f"{type(env).__name__}.{call}: {name}", tree, wanted[name])
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, step.state))
    if before != after:
        raise EnvironmentFault(
            f"{type(env).__name__}.step: state has other shapes or dtypes than reset's; every step must keep them"
        )


def compare_shapes(what: str, given: Tree, wanted: Tree) -> None:
    """EnvironmentFault where arrays are not (shape, dtypes), leaf by leaf."""
    is_pair = lambda x: isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], tuple)  # noqa: E731
    leaves, structure = jax.tree_util.tree_flatten_with_path(wanted, is_leaf=is_pair)
    if jax.tree.structure(given) != structure:
        raise EnvironmentFault(f"{what} is {jax.tree.structure(given)}, but the space is {structure}")
    for (path, (shape, dtypes)), leaf in zip(leaves, jax.tree.leaves(given), strict=True):
        if leaf.shape != shape or leaf.dtype not in dtypes:
            name = what + jax.tree_util.keystr(path)
            raise EnvironmentFault(
                f"{name} is {leaf.dtype}{list(leaf.shape)}, but must be {dtypes[0]}{list(shape)}"
            )


def metric_shapes(algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, row: Transition) -> Tree:
    """The shapes of the metrics that an update gives, found by tracing `learn`."""
    rollout = jax.tree.map(lambda x: jax.ShapeDtypeStruct((cfg.data.steps, *x.shape), x.dtype), row)

    def updated(state: Tree, rollout: Transition) -> Tree:
        buffer = () if isinstance(cfg.data, OnPolicy) else replay.empty(row, cfg.data.steps)
        return learn(algorithm, cfg, spec, state, buffer, rollout, jax.random.key(0))[2]

    return jax.eval_shape(updated, state, rollout)


@dataclass(frozen=True, eq=False)
class Collector:
    """One step of N environments, as the body of a scan."""

    algorithm: Algorithm
    cfg: Any
    env: Environment
    spec: Spec
    actor: Tree
    keys: Keys
    warm: bool

    def step(
        self, carry: tuple[Lives, Sums], number_and_keys: tuple[Array, RowKeys]
    ) -> tuple[tuple[Lives, Sums], Transition]:
        """Act, step, count, and begin anew where an episode ended."""
        lives, sums = carry
        row, row_keys = number_and_keys
        spec, num_envs = self.spec, self.spec.num_envs
        action, memory, extras = choose(
            self.algorithm, self.cfg, spec, self.actor, lives.memory, lives.obs, row_keys, self.warm
        )
        length = lives.length + 1
        stepped = jax.vmap(self.env.step)(
            lives.env, to_bounds(spec.action, action), batched(self.keys.env, num_envs, lives.episode, length)
        )
        reward = stepped.reward.astype(jnp.float32)
        truncated = (
            stepped.truncated if spec.time_limit is None else stepped.truncated | (length >= spec.time_limit)
        )
        truncated = truncated & ~stepped.terminated
        transition = Transition(lives.obs, action, reward, stepped.obs, stepped.terminated, truncated, extras)
        lives = Lives(
            env=stepped.state,
            obs=stepped.obs,
            memory=memory,
            episode=lives.episode,
            length=length,
            total=lives.total + reward,
            measures=gather(spec, lives.measures, stepped.measures, length, jnp),
        )
        last = transition.last
        sums = sums.replace(
            episodes=sums.episodes + last.sum(dtype=jnp.int32),
            total=sums.total + jnp.where(last, lives.total, 0.0).sum(),
            length=sums.length + jnp.where(last, length, 0).sum(dtype=jnp.int32),
            measures={
                name: value + jnp.where(last, lives.measures[name], 0.0).sum()
                for name, value in sums.measures.items()
            },
        )
        lives = jax.lax.cond(anywhere(last), lambda: self.anew(lives, last, row), lambda: strong(lives))
        return (lives, sums), strong(transition)

    def anew(self, lives: Lives, last: Array, row: Array) -> Lives:
        """A fresh random start, and fresh memory, in the environments where `last` is set."""
        num_envs = self.spec.num_envs
        episode = lives.episode + last
        zero = jnp.zeros(num_envs, jnp.int32)
        env, obs = jax.vmap(self.env.reset)(batched(self.keys.env, num_envs, episode, zero))
        key = jax.random.fold_in(self.keys.memory, row + 1)
        memory = self.algorithm.memory(self.cfg, self.spec, jnp.arange(num_envs), episode, key)
        measures = jax.tree.map(jnp.zeros_like, lives.measures)
        fresh = Lives(env, obs, memory, episode, zero, jnp.zeros(num_envs), measures)
        return strong(select(last, fresh, lives.replace(episode=episode)))

"""The driver for environments on the host: a Python loop around compiled `act` and `learn`.

The order of events in one iteration, which is also the in-graph driver's: T times act on the newest parameters,
step, and begin anew where an episode ended; then look at the rollout, then learn from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import inspect
from polyak.drivers.in_graph import metric_shapes
from polyak.drivers.lanes import Lanes
from polyak.drivers.learn import (
    Keys,
    RowKeys,
    actors,
    choose,
    initial_states,
    learn,
    row_shape,
    warmup_iterations,
)
from polyak.drivers.program import ONE_BY_ONE, Program, over_seeds, zeros
from polyak.envs.environment import HostEnvs
from polyak.errors import EnvironmentFault
from polyak.interface import Algorithm, Array, OnPolicy, Spec, Transition, Tree
from polyak.parts import replay
from polyak.pytree import Record, pytree, select, strong


@pytree
class Learner(Record):
    """What is on the device and donated to every `learn`: [S, ...], but for what all seeds share."""

    state: Tree
    buffer: Any
    updates: Array  # made since the last report
    metrics: dict[str, Array]  # their sums
    iteration: Array  # rollouts since the run began, shared


@pytree
class Hand(Record):
    """What acting works with, handed on from row to row: [S, ...], but for what all seeds share."""

    memory: Tree  # [S, N, ...]
    keys: RowKeys  # [S, T, ...] of this rollout's rows
    extras: Tree  # [S, T, N, ...] what `act` wants remembered of this rollout
    clock: Array  # rows of this rollout so far, shared


@dataclass
class Carry:
    """The whole run."""

    learner: Learner
    actor: Tree  # [S, ...], of the newest state
    hand: Hand
    lanes: Lanes
    iteration: int
    began: int  # the iteration in which an episode last began


class Host:
    """Advances S runs together: S x N environments on the host, parameters and replay on the device."""

    def __init__(self, algorithm: Algorithm, cfg: Any, envs: HostEnvs, spec: Spec, seeds: Sequence[int]):
        self.algorithm, self.cfg, self.envs, self.spec, self.seeds = algorithm, cfg, envs, spec, tuple(seeds)
        self.rows = cfg.data.steps
        self.env_steps = self.rows * spec.num_envs  # of one seed in one iteration
        self.count = len(self.seeds) * spec.num_envs  # L, environments of all seeds
        self.warmup = warmup_iterations(cfg, spec)
        self.act = {warm: Program(self._act(warm), donate=(1,), options=ONE_BY_ONE) for warm in (True, False)}
        self.learn = {warm: Program(self._learn(warm), donate=(0, 1)) for warm in (True, False)}
        self.begin = Program(self._begin)
        self.renew = Program(self._renew)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.inexact: list[int] = []  # lanes that a resume could not bring back

    # ---- the four things a driver offers

    def start(self) -> Carry:
        """A run that has not stepped."""
        lanes = Lanes(self.envs, self.spec, self.seeds)
        lanes.begin()
        return Carry(*self._fresh(), lanes, 0, 0)

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run in the warm-up or after it; only shapes are needed, no run."""
        learner, actor, hand = self._shapes
        obs = self._lanes_shape(self.spec.obs)
        self.act[warm].compile(actor, hand, obs)
        _, action = self.act[warm].shapes(actor, hand, obs)
        self.learn[warm].compile(learner, hand, self._rollout_shape(action), self.seed_array)

    def advance(self, carry: Carry, iterations: int) -> Carry:
        """`iterations` rollouts on; how a run is cut into calls does not change a bit of it.

        Raises EnvironmentFault before anything is learned from a rollout that holds what it must not.
        """
        for _ in range(iterations):
            warm = carry.iteration < self.warmup
            rollout = self._collect(carry, warm)
            self._inspect(carry, rollout)
            carry.learner, carry.actor, carry.hand = self.learn[warm](
                carry.learner, carry.hand, rollout, self.seed_array
            )
            carry.iteration += 1
        inspect.check_metrics(carry.learner.metrics, carry.iteration)
        return carry

    def pack(self, carry: Carry) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays, and plain values."""
        tree = {**vars(carry.learner), "memory": carry.hand.memory, "lanes": carry.lanes.pack()}
        return tree, {"iteration": carry.iteration, "steps": int(carry.lanes.length.sum())}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        learner, _, hand = self._shapes
        lanes = Lanes(self.envs, self.spec, self.seeds).template(int(extra["steps"]))
        return {**vars(learner), "memory": hand.memory, "lanes": lanes}

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () on policy."""
        return self._shapes[0].buffer

    def unpack(self, tree: Tree, extra: dict) -> Carry:
        """The run that was packed, its environments brought back by playing their running episodes again.

        Where an environment does not give the same again (its CRC differs), its lane begins a new episode, the
        replay is cut there, and `inexact` names the lane: the run is consistent, but not exact.
        """
        device = jax.tree.map(jnp.array, {name: value for name, value in tree.items() if name != "lanes"})
        memory = device.pop("memory")
        learner, iteration = Learner(**device), int(extra["iteration"])
        hand = self._hand(memory, iteration)
        lanes = Lanes(self.envs, self.spec, self.seeds)
        self.inexact = lanes.unpack(tree["lanes"])
        if self.inexact:
            lanes.restart(np.asarray(self.inexact))
            hand = self._renewed(hand, lanes, self.inexact, -1)
            if not isinstance(self.cfg.data, OnPolicy):
                mask = self._mask(self.inexact)
                cut = Program(lambda ring, mask: over_seeds(replay.cut, ring, mask), donate=(0,))
                learner = learner.replace(buffer=cut(learner.buffer, mask))
        actor = actors(self.algorithm)(learner.state)
        return Carry(learner, actor, hand, lanes, iteration, iteration)

    # ---- what the loop reads

    def report(self, carry: Carry) -> tuple[Carry, dict[str, np.ndarray]]:
        """The sums since the last report as NumPy arrays [S], and the run with empty ones."""
        learner = carry.learner
        flat = carry.lanes.report()
        flat["updates"] = np.array(learner.updates)
        flat |= {f"update/{name}": np.array(value) for name, value in learner.metrics.items()}
        empty = zeros((learner.updates, learner.metrics))
        carry.learner = learner.replace(updates=empty[0], metrics=empty[1])
        return carry, flat

    def actor(self, carry: Carry) -> Tree:
        """What acting needs, [S, ...]."""
        return carry.actor

    def close(self) -> None:
        """Release the environments."""
        self.envs.close()

    # ---- one rollout

    def _collect(self, carry: Carry, warm: bool) -> Transition:
        """T steps of every lane: a rollout [T, L, ...] without extras, which `carry.hand` holds."""
        lanes, act = carry.lanes, self.act[warm]
        rollout, into = None, []
        for t in range(self.rows):
            obs = lanes.obs
            carry.hand, action = act(carry.actor, carry.hand, obs)
            action = np.asarray(action)
            try:
                stepped = lanes.step(action)
            except EnvironmentFault as fault:
                raise EnvironmentFault(f"step {carry.iteration * self.rows + t}: {fault}") from fault
            reward = stepped.reward.astype(np.float32)
            row = Transition(obs, action, reward, stepped.obs, stepped.terminated, stepped.truncated)
            if rollout is None:
                rollout = jax.tree.map(lambda x: np.empty((self.rows, *x.shape), x.dtype), row)
                into = jax.tree.leaves(rollout)
            for rows, x in zip(into, jax.tree.leaves(row), strict=True):
                rows[t] = x
            last = stepped.terminated | stepped.truncated
            if last.any():
                ended = np.flatnonzero(last)
                lanes.renew(ended)
                carry.began = carry.iteration
                carry.hand = self._renewed(carry.hand, lanes, ended, carry.iteration * self.rows + t)
        assert rollout is not None
        return rollout

    def _renewed(self, hand: Hand, lanes: Lanes, which: Any, row: int) -> Hand:
        """Fresh memory in the lanes whose episode begins."""
        if not jax.tree.leaves(hand.memory):
            return hand
        episode = self._by_seed(lanes.episode.astype(np.int32))
        mask = self._mask(which)
        return hand.replace(memory=self.renew(hand.memory, mask, episode, self.seed_array, row))

    def _inspect(self, carry: Carry, rollout: Transition) -> None:
        """Raise EnvironmentFault where a rollout holds what no environment may give."""
        seen = rollout
        if (
            carry.iteration > carry.began + 1
        ):  # then every observation was looked at as the next one of its row
            seen = rollout._replace(obs=rollout.next_obs)
        row, lane, field = inspect.first_fault(self.spec, seen, np).tolist()
        if row == inspect.NOTHING:
            return
        seed, env = divmod(lane, self.spec.num_envs)
        values = [rollout.action, rollout.reward, *jax.tree.leaves(rollout.next_obs)][field][row, lane]
        step, value = carry.iteration * self.rows + row, np.array2string(values, threshold=8)
        raise inspect.explain(self.spec, step, env, field, self.seeds[seed], value)

    # ---- small things

    def _mask(self, lanes: Any) -> np.ndarray:
        """[S, N]: these lanes."""
        return self._by_seed(np.isin(np.arange(self.count), lanes))

    def _by_seed(self, tree: Tree) -> Tree:
        """[L, ...] as [S, N, ...]."""
        shape = (len(self.seeds), self.spec.num_envs)
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)

    # ---- what is compiled

    def _fresh(self) -> tuple[Learner, Tree, Hand]:
        states = initial_states(self.algorithm, self.cfg, self.spec, self.seed_array)
        return self.begin(states, self.seed_array)

    @cached_property
    def _shapes(self) -> tuple[Learner, Tree, Hand]:
        states = jax.eval_shape(lambda: initial_states(self.algorithm, self.cfg, self.spec, self.seed_array))
        return self.begin.shapes(states, self.seed_array)

    def _begin(self, state: Tree, seeds: Array) -> tuple[Learner, Tree, Hand]:
        def one(state: Tree, seed: Array) -> tuple[Learner, Tree, Hand]:
            spec, cfg, keys = self.spec, self.cfg, Keys.of(seed)
            ids = jnp.arange(spec.num_envs)
            memory = self.algorithm.memory(cfg, spec, ids, jnp.zeros_like(ids), keys.memory)
            row = row_shape(self.algorithm, cfg, spec, state)
            buffer: Any = ()
            if not isinstance(cfg.data, OnPolicy):
                buffer = replay.empty(row, replay.slots(cfg.data.capacity, spec.num_envs, self.rows))
            shapes = metric_shapes(self.algorithm, cfg, spec, state, row)
            metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            zero = jnp.zeros((), jnp.int32)
            learner = Learner(state, buffer, zero, metrics, zero)
            extras = jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape), x.dtype), row.extras)
            hand = Hand(memory, RowKeys.of_rollout(keys, zero, self.rows), extras, zero)
            return strong((learner, self.algorithm.actor(state), hand))

        return over_seeds(one, state, seeds)

    def _act(self, warm: bool):
        def act(actor: Tree, hand: Hand, obs: Tree) -> tuple[Hand, Array]:
            """From observations [L, ...] to actions [L, ...]."""
            hand, action = over_seeds(one, actor, hand, self._by_seed(obs))
            return hand, action.reshape(-1, *action.shape[2:])

        def one(actor: Tree, hand: Hand, obs: Tree) -> tuple[Hand, Array]:
            keys = jax.tree.map(lambda rows: rows[hand.clock], hand.keys)
            action, memory, extras = choose(
                self.algorithm, self.cfg, self.spec, actor, hand.memory, obs, keys, warm
            )
            written = jax.tree.map(lambda rows, x: rows.at[hand.clock].set(x), hand.extras, extras)
            return strong((Hand(memory, hand.keys, written, hand.clock + 1), action))

        return act

    def _learn(self, warm: bool):
        def learned(
            learner: Learner, hand: Hand, rollout: Transition, seeds: Array
        ) -> tuple[Learner, Tree, Hand]:
            def by_seed(x: Array) -> Array:  # [T, L, ...] as [S, T, N, ...]
                x = x.reshape(self.rows, len(self.seeds), self.spec.num_envs, *x.shape[2:])
                return jnp.moveaxis(x, 1, 0)

            return over_seeds(one, learner, hand, jax.tree.map(by_seed, rollout), seeds)

        def one(learner: Learner, hand: Hand, rollout: Transition, seed: Array) -> tuple[Learner, Tree, Hand]:
            keys = Keys.of(seed)
            key = jax.random.fold_in(keys.learn, learner.iteration)
            rollout = rollout._replace(extras=hand.extras)
            state, buffer, metrics = learn(
                self.algorithm, self.cfg, self.spec, learner.state, learner.buffer, rollout, key, warm
            )
            made = 0 if warm else getattr(self.cfg.data, "updates", 1)
            sums = learner.metrics if warm else jax.tree.map(jnp.add, learner.metrics, metrics)
            learner = Learner(state, buffer, learner.updates + made, sums, learner.iteration + 1)
            row_keys = RowKeys.of_rollout(keys, learner.iteration, self.rows)
            if not warm:
                row_keys = row_keys._replace(uniform=hand.keys.uniform)  # never drawn from again
            hand = hand.replace(keys=row_keys, clock=jnp.zeros((), jnp.int32))
            return strong((learner, self.algorithm.actor(state), hand))

        return learned

    def _renew(self, memory: Tree, mask: Array, episode: Array, seeds: Array, row: Array) -> Tree:
        def one(memory: Tree, mask: Array, episode: Array, seed: Array) -> Tree:
            key = jax.random.fold_in(Keys.of(seed).memory, row + 1)
            ids = jnp.arange(self.spec.num_envs)
            return strong(select(mask, self.algorithm.memory(self.cfg, self.spec, ids, episode, key), memory))

        return over_seeds(one, memory, mask, episode, seeds)

    def _hand(self, memory: Tree, iteration: int) -> Hand:
        """A hand at the beginning of a rollout."""

        def one(memory: Tree, seed: Array) -> Hand:
            keys = RowKeys.of_rollout(Keys.of(seed), jnp.asarray(iteration, jnp.int32), self.rows)
            extras = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), shapes)
            return strong(Hand(memory, keys, extras, jnp.zeros((), jnp.int32)))

        shapes = self._shapes[2].extras
        return jax.jit(lambda memory, seeds: over_seeds(one, memory, seeds))(memory, self.seed_array)

    def _rollout_shape(self, action: Any) -> Transition:
        """The shapes of what `_collect` returns."""
        obs = self._lanes_shape(self.spec.obs)
        reward, flag = (jax.ShapeDtypeStruct((self.count,), kind) for kind in (np.float32, np.bool_))
        row = Transition(obs, action, reward, obs, flag, flag)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.rows, *x.shape), x.dtype), row)

    def _lanes_shape(self, space: Tree) -> Tree:
        """The shapes [L, ...] of a point of this space from every lane."""
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct((self.count, *s.shape), s.dtype), space)

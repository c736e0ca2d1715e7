"""The driver for environments on the host: a Python loop around compiled `act` and `learn`.

The order of events in one iteration, which is also the in-graph driver's: T times act on the newest parameters,
step, and begin anew where an episode ended; then look at the rollout, then learn from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

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
from polyak.pytree import Flat, Leaves, Record, flat, pytree, select, strong


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
    extras: Tree  # [S, T, N, ...] what `act` wants remembered of this rollout
    clock: Array  # rows of this rollout so far, shared


@pytree
class View(Record):
    """What acting looks at, the same for all rows of a rollout: [S, ...]."""

    actor: Tree  # of the newest state
    keys: RowKeys  # [S, T, ...]


class Parts(NamedTuple):
    """A Learner, a View and a Hand, or something about each."""

    learner: Any
    view: Any
    hand: Any


@dataclass
class Carry:
    """The whole run."""

    learner: Flat  # a Learner; in leaves, as which it crosses the border of a program in less time
    view: Flat  # a View
    hand: Flat  # a Hand
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
        self.learn = {warm: Program(self._learn(warm), donate=(0, 2)) for warm in (True, False)}
        self.begin = Program(self._begin)
        self.renew = Program(self._renew)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.inexact: list[int] = []  # lanes that a resume could not bring back

    # ---- the four things a driver offers

    def start(self) -> Carry:
        """A run that has not stepped."""
        lanes = Lanes(self.envs, self.spec, self.seeds)
        lanes.begin()
        learner, view, hand = map(Flat, self._fresh())
        return Carry(learner, view, hand, lanes, 0, 0)

    def compile(self, warm: bool) -> None:
        """Compile what `advance` will run in the warm-up or after it; only shapes are needed, no run."""
        learner, view, hand = [flat(part) for part in self._shapes]
        self.act[warm].compile(view, hand, self._lanes_shape(self.spec.obs))
        self.learn[warm].compile(learner, view, hand, self._rollout.tree, self.seed_array)

    def advance(self, carry: Carry, iterations: int) -> Carry:
        """`iterations` rollouts on; how a run is cut into calls does not change a bit of it.

        Raises EnvironmentFault before anything is learned from a rollout that holds what it must not.
        """
        for _ in range(iterations):
            warm = carry.iteration < self.warmup
            rollout = self._collect(carry, warm)
            self._inspect(carry, rollout)
            carry.learner.leaves, carry.view.leaves, carry.hand.leaves = self.learn[warm](
                carry.learner.leaves, carry.view.leaves, carry.hand.leaves, rollout, self.seed_array
            )
            carry.iteration += 1
        inspect.check_metrics(carry.learner.tree.metrics, carry.iteration)
        return carry

    def pack(self, carry: Carry) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays, and plain values."""
        tree = {
            **vars(carry.learner.tree),
            "memory": carry.hand.tree.memory,
            "lanes": carry.lanes.pack(),
        }
        return tree, {"iteration": carry.iteration, "steps": int(carry.lanes.length.sum())}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        shapes = self._shapes
        lanes = Lanes(self.envs, self.spec, self.seeds).template(int(extra["steps"]))
        return {**vars(shapes.learner), "memory": shapes.hand.memory, "lanes": lanes}

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () on policy."""
        return self._shapes.learner.buffer

    def unpack(self, tree: Tree, extra: dict) -> Carry:
        """The run that was packed, its environments brought back by playing their running episodes again.

        Where an environment does not give the same again (its CRC differs), its lane begins a new episode, the
        replay is cut there, and `inexact` names the lane: the run is consistent, but not exact.
        """
        device = jax.tree.map(jnp.array, {name: value for name, value in tree.items() if name != "lanes"})
        hand = self._shapes.hand
        hand = Hand(device.pop("memory"), *zeros((hand.extras, hand.clock)))
        learner, iteration = Learner(**device), int(extra["iteration"])
        view = View(actors(self.algorithm)(learner.state), self._row_keys(iteration))
        lanes = Lanes(self.envs, self.spec, self.seeds)
        self.inexact = lanes.unpack(tree["lanes"])
        carry = Carry(Flat(learner), Flat(view), Flat(hand), lanes, iteration, iteration)
        if self.inexact:
            lanes.restart(np.asarray(self.inexact))
            self._renew_memory(carry, self.inexact, -1)
            if not isinstance(self.cfg.data, OnPolicy):
                mask = self._mask(self.inexact)
                cut = Program(lambda ring, mask: over_seeds(replay.cut, ring, mask), donate=(0,))
                carry.learner.tree = learner.replace(buffer=cut(learner.buffer, mask))
        return carry

    # ---- what the loop reads

    def report(self, carry: Carry) -> tuple[Carry, dict[str, np.ndarray]]:
        """The sums since the last report as NumPy arrays [S], and the run with empty ones."""
        learner = carry.learner.tree
        sums = carry.lanes.report()
        sums["updates"] = np.array(learner.updates)
        sums |= {f"update/{name}": np.array(value) for name, value in learner.metrics.items()}
        empty = zeros((learner.updates, learner.metrics))
        carry.learner.tree = learner.replace(updates=empty[0], metrics=empty[1])
        return carry, sums

    def actor(self, carry: Carry) -> Tree:
        """What acting needs, [S, ...]."""
        return carry.view.tree.actor

    def close(self) -> None:
        """Release the environments."""
        self.envs.close()

    # ---- one rollout

    def _collect(self, carry: Carry, warm: bool) -> Transition:
        """T steps of every lane: a rollout [T, L, ...] without extras, which `carry.hand` holds."""
        lanes, view, act = carry.lanes, carry.view.leaves, self.act[warm]
        act = act.compiled or act  # without the frame of Program's call
        into = [np.empty(x.shape, x.dtype) for x in self._rollout.leaves]
        for t in range(self.rows):
            obs = lanes.obs
            carry.hand.leaves, action = act(view, carry.hand.leaves, obs)
            action = np.asarray(action)
            try:
                stepped = lanes.step(action)
            except EnvironmentFault as fault:
                raise EnvironmentFault(f"step {carry.iteration * self.rows + t}: {fault}") from fault
            row = Transition(obs, action, stepped.reward, stepped.obs, stepped.terminated, stepped.truncated)
            for rows, x in zip(into, jax.tree.leaves(row), strict=True):
                rows[t] = x
            last = stepped.terminated | stepped.truncated
            if np.count_nonzero(last):
                ended = np.flatnonzero(last)
                lanes.renew(ended)
                carry.began = carry.iteration
                self._renew_memory(carry, ended, carry.iteration * self.rows + t)
        return jax.tree.unflatten(self._rollout.structure, into)

    def _renew_memory(self, carry: Carry, which: Any, row: int) -> None:
        """Fresh memory in the lanes whose episode begins."""
        if not jax.tree.leaves(self._shapes.hand.memory):
            return
        hand, episode = carry.hand.tree, self._by_seed(carry.lanes.episode.astype(np.int32))
        memory = self.renew(hand.memory, self._mask(which), episode, self.seed_array, row)
        carry.hand.tree = hand.replace(memory=memory)

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

    def _fresh(self) -> Parts:
        states = initial_states(self.algorithm, self.cfg, self.spec, self.seed_array)
        return self.begin(states, self.seed_array)

    @cached_property
    def _shapes(self) -> Parts:
        states = jax.eval_shape(lambda: initial_states(self.algorithm, self.cfg, self.spec, self.seed_array))
        return self.begin.shapes(states, self.seed_array)

    def _tree(self, part: str, leaves: Leaves) -> Any:
        return jax.tree.unflatten(jax.tree.structure(getattr(self._shapes, part)), leaves)

    def _begin(self, state: Tree, seeds: Array) -> Parts:
        def one(state: Tree, seed: Array) -> Parts:
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
            view = View(self.algorithm.actor(state), RowKeys.of_rollout(keys, zero, self.rows))
            return strong(Parts(learner, view, Hand(memory, extras, zero)))

        return over_seeds(one, state, seeds)

    def _act(self, warm: bool):
        def act(view: Leaves, hand: Leaves, obs: Tree) -> tuple[Leaves, Array]:
            """From observations [L, ...] to actions [L, ...]."""
            parts = self._tree("view", view), self._tree("hand", hand)
            after, action = over_seeds(one, *parts, self._by_seed(obs))
            return flat(after), action.reshape(-1, *action.shape[2:])

        def one(view: View, hand: Hand, obs: Tree) -> tuple[Hand, Array]:
            keys = jax.tree.map(lambda rows: rows[hand.clock], view.keys)
            action, memory, extras = choose(
                self.algorithm, self.cfg, self.spec, view.actor, hand.memory, obs, keys, warm
            )
            written = jax.tree.map(lambda rows, x: rows.at[hand.clock].set(x), hand.extras, extras)
            return strong((Hand(memory, written, hand.clock + 1), action))

        return act

    def _learn(self, warm: bool):
        def learned(
            learner: Leaves, view: Leaves, hand: Leaves, rollout: Transition, seeds: Array
        ) -> tuple[Leaves, ...]:
            def by_seed(x: Array) -> Array:  # [T, L, ...] as [S, T, N, ...]
                x = x.reshape(self.rows, len(self.seeds), self.spec.num_envs, *x.shape[2:])
                return jnp.moveaxis(x, 1, 0)

            before = self._tree("learner", learner), self._tree("view", view), self._tree("hand", hand)
            after = over_seeds(one, *before, jax.tree.map(by_seed, rollout), seeds)
            return tuple(map(flat, after))

        def one(learner: Learner, view: View, hand: Hand, rollout: Transition, seed: Array) -> Parts:
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
                row_keys = row_keys._replace(uniform=view.keys.uniform)  # never drawn from again
            view = View(self.algorithm.actor(state), row_keys)
            return strong(Parts(learner, view, hand.replace(clock=jnp.zeros((), jnp.int32))))

        return learned

    def _renew(self, memory: Tree, mask: Array, episode: Array, seeds: Array, row: Array) -> Tree:
        def one(memory: Tree, mask: Array, episode: Array, seed: Array) -> Tree:
            key = jax.random.fold_in(Keys.of(seed).memory, row + 1)
            ids = jnp.arange(self.spec.num_envs)
            return strong(select(mask, self.algorithm.memory(self.cfg, self.spec, ids, episode, key), memory))

        return over_seeds(one, memory, mask, episode, seeds)

    def _row_keys(self, iteration: int) -> RowKeys:
        """Of the rows of a rollout."""

        def one(seed: Array) -> RowKeys:
            return RowKeys.of_rollout(Keys.of(seed), jnp.asarray(iteration, jnp.int32), self.rows)

        return jax.jit(lambda seeds: over_seeds(one, seeds))(self.seed_array)

    @cached_property
    def _rollout(self) -> Flat:
        """The shapes of what `_collect` returns."""
        _, view, hand = [flat(part) for part in self._shapes]
        obs = self._lanes_shape(self.spec.obs)
        _, action = self.act[self.warmup > 0].shapes(view, hand, obs)
        reward, flag = (jax.ShapeDtypeStruct((self.count,), kind) for kind in (np.float32, np.bool_))
        row = Transition(obs, action, reward, obs, flag, flag)
        return Flat(jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.rows, *x.shape), x.dtype), row))

    def _lanes_shape(self, space: Tree) -> Tree:
        """The shapes [L, ...] of a point of this space from every lane."""
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct((self.count, *s.shape), s.dtype), space)

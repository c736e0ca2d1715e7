"""The driver for environments on the host: a Python loop around compiled `act` and `learn`.

The order of events in one iteration, which is also the in-graph driver's: T times act on the newest parameters,
step, and begin anew where an episode ended; then look at the rollout, then learn from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import inspect
from polyak.drivers.in_graph import metric_shapes
from polyak.drivers.lanes import Lanes
from polyak.drivers.learn import Keys, actors, choose, initial_states, learn, row_shape, warmup_iterations
from polyak.drivers.program import Program, over_seeds
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


@dataclass
class Carry:
    """The whole run."""

    learner: Learner
    actor: Tree  # [S, ...], of the newest state
    memory: Tree  # [S, N, ...]
    lanes: Lanes
    iteration: int


class Host:
    """Advances S runs together: S x N environments on the host, parameters and replay on the device."""

    def __init__(self, algorithm: Algorithm, cfg: Any, envs: HostEnvs, spec: Spec, seeds: Sequence[int]):
        self.algorithm, self.cfg, self.envs, self.spec, self.seeds = algorithm, cfg, envs, spec, tuple(seeds)
        self.rows = cfg.data.steps
        self.env_steps = self.rows * spec.num_envs  # of one seed in one iteration
        self.warmup = warmup_iterations(cfg, spec)
        self.act = {warm: Program(self._act(warm)) for warm in (True, False)}
        self.learn = {warm: Program(self._learn(warm), donate=(0,)) for warm in (True, False)}
        self.begin = Program(self._begin)
        self.renew = Program(self._renew)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.inexact: list[int] = []  # lanes that a resume could not bring back

    # ---- the four things a driver offers

    def start(self) -> Carry:
        """A run that has not stepped."""
        lanes = Lanes(self.envs, self.spec, self.seeds)
        lanes.begin()
        return Carry(*self._fresh(), lanes, 0)

    def compile(self, carry: Carry) -> None:
        """Compile what `advance` will run."""
        obs = self._by_seed(carry.lanes.obs)
        for warm in (True, False) if self.warmup else (False,):
            self.act[warm].compile(carry.actor, carry.memory, obs, self.seed_array, 0)
            row = jax.eval_shape(self._act(warm), carry.actor, carry.memory, obs, self.seed_array, 0)
            rollout = self._rollout_shape(row, obs)
            self.learn[warm].compile(carry.learner, rollout, self.seed_array)

    def advance(self, carry: Carry, iterations: int) -> Carry:
        """`iterations` rollouts on; how a run is cut into calls does not change a bit of it.

        Raises EnvironmentFault before anything is learned from a rollout that holds what it must not.
        """
        for _ in range(iterations):
            warm = carry.iteration < self.warmup
            rollout = self._collect(carry, warm)
            self._inspect(carry, rollout)
            carry.learner, carry.actor = self.learn[warm](carry.learner, rollout, self.seed_array)
            carry.iteration += 1
        inspect.check_metrics(carry.learner.metrics, carry.iteration)
        return carry

    def pack(self, carry: Carry) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays, and plain values."""
        tree = {**vars(carry.learner), "memory": carry.memory, "lanes": carry.lanes.pack()}
        return tree, {"iteration": carry.iteration, "steps": int(carry.lanes.length.sum())}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        learner, _, memory = self._shapes()
        lanes = Lanes(self.envs, self.spec, self.seeds).template(int(extra["steps"]))
        return {**vars(learner), "memory": memory, "lanes": lanes}

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () on policy."""
        return self._shapes()[0].buffer

    def unpack(self, tree: Tree, extra: dict) -> Carry:
        """The run that was packed, its environments brought back by playing their running episodes again.

        Where an environment does not give the same again (its CRC differs), its lane begins a new episode, the
        replay is cut there, and `inexact` names the lane: the run is consistent, but not exact.
        """
        device = jax.tree.map(jnp.array, {name: value for name, value in tree.items() if name != "lanes"})
        memory = device.pop("memory")
        learner = Learner(**device)
        lanes = Lanes(self.envs, self.spec, self.seeds)
        self.inexact = lanes.unpack(tree["lanes"])
        if self.inexact:
            lanes.restart(np.asarray(self.inexact))
            memory = self._renewed(memory, lanes, self.inexact, -1)
            if not isinstance(self.cfg.data, OnPolicy):
                mask = self._mask(self.inexact)
                cut = Program(lambda ring, mask: over_seeds(replay.cut, ring, mask), donate=(0,))
                learner = learner.replace(buffer=cut(learner.buffer, mask))
        actor = actors(self.algorithm)(learner.state)
        return Carry(learner, actor, memory, lanes, int(extra["iteration"]))

    # ---- what the loop reads

    def report(self, carry: Carry) -> tuple[Carry, dict[str, np.ndarray]]:
        """The sums since the last report as NumPy arrays [S], and the run with empty ones."""
        learner = carry.learner
        flat = carry.lanes.report()
        flat["updates"] = np.array(learner.updates)
        flat |= {f"update/{name}": np.array(value) for name, value in learner.metrics.items()}
        empty = jax.tree.map(jnp.zeros_like, (learner.updates, learner.metrics))
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
        """T steps of every lane: a rollout [S, T, N, ...]."""
        lanes, act = carry.lanes, self.act[warm]
        rows = []
        for t in range(self.rows):
            row = carry.iteration * self.rows + t
            obs = self._by_seed(lanes.obs)
            action, memory, extras = act(carry.actor, carry.memory, obs, self.seed_array, row)
            action = np.asarray(action)
            try:
                stepped = lanes.step(action.reshape(lanes.count, *action.shape[2:]))
            except EnvironmentFault as fault:
                raise EnvironmentFault(f"step {row}: {fault}") from fault
            next_obs = self._by_seed(stepped.obs)
            rows.append(
                Transition(
                    obs,
                    action,
                    self._by_seed(stepped.reward.astype(np.float32)),
                    next_obs,
                    self._by_seed(stepped.terminated),
                    self._by_seed(stepped.truncated),
                    extras,
                )
            )
            carry.memory = memory
            ended = np.flatnonzero(stepped.terminated | stepped.truncated)
            if len(ended):
                lanes.renew(ended)
                carry.memory = self._renewed(carry.memory, lanes, ended, row)
        if self.rows == 1:
            return jax.tree.map(lambda x: x[:, None], rows[0])
        return jax.tree.map(lambda *steps: np.stack(steps, axis=1), *rows)

    def _renewed(self, memory: Tree, lanes: Lanes, which: Any, row: int) -> Tree:
        """Fresh memory in the lanes whose episode begins."""
        if not jax.tree.leaves(memory):
            return memory
        episode = self._by_seed(lanes.episode.astype(np.int32))
        return self.renew(memory, self._mask(which), episode, self.seed_array, row)

    def _inspect(self, carry: Carry, rollout: Transition) -> None:
        """Raise EnvironmentFault where a rollout holds what no environment may give."""
        for index, seed in enumerate(self.seeds):
            rows = jax.tree.map(lambda x, index=index: x[index], rollout._replace(extras=()))
            row, env, field = inspect.first_fault(self.spec, rows, np).tolist()
            if row != inspect.NOTHING:
                values = [rows.action, rows.reward, *jax.tree.leaves(rows.next_obs)][field][row, env]
                raise inspect.explain(
                    self.spec,
                    carry.iteration * self.rows + row,
                    env,
                    field,
                    seed,
                    np.array2string(values, threshold=8),
                )

    # ---- small things

    def _mask(self, lanes: Any) -> np.ndarray:
        """[S, N]: these lanes."""
        return self._by_seed(np.isin(np.arange(len(self.seeds) * self.spec.num_envs), lanes))

    def _by_seed(self, tree: Tree) -> Tree:
        """[L, ...] as [S, N, ...]."""
        shape = (len(self.seeds), self.spec.num_envs)
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)

    # ---- what is compiled

    def _fresh(self) -> tuple[Learner, Tree, Tree]:
        states = initial_states(self.algorithm, self.cfg, self.spec, self.seed_array)
        return self.begin(states, self.seed_array)

    def _shapes(self) -> tuple[Learner, Tree, Tree]:
        states = jax.eval_shape(lambda: initial_states(self.algorithm, self.cfg, self.spec, self.seed_array))
        return jax.eval_shape(self._begin, states, self.seed_array)

    def _begin(self, state: Tree, seeds: Array) -> tuple[Learner, Tree, Tree]:
        def one(state: Tree, seed: Array) -> tuple[Learner, Tree, Tree]:
            spec, cfg = self.spec, self.cfg
            ids = jnp.arange(spec.num_envs)
            memory = self.algorithm.memory(cfg, spec, ids, jnp.zeros_like(ids), Keys.of(seed).memory)
            row = row_shape(self.algorithm, cfg, spec, state)
            buffer: Any = ()
            if not isinstance(cfg.data, OnPolicy):
                buffer = replay.empty(row, replay.slots(cfg.data.capacity, spec.num_envs, self.rows))
            shapes = metric_shapes(self.algorithm, cfg, spec, state, row)
            metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            zero = jnp.zeros((), jnp.int32)
            learner = Learner(state, buffer, zero, metrics, zero)
            return strong((learner, self.algorithm.actor(state), memory))

        return over_seeds(one, state, seeds)

    def _act(self, warm: bool):
        def act(actor: Tree, memory: Tree, obs: Tree, seeds: Array, row: Array) -> tuple[Array, Tree, Tree]:
            def one(actor: Tree, memory: Tree, obs: Tree, seed: Array) -> tuple:
                keys = Keys.of(seed)
                return choose(self.algorithm, self.cfg, self.spec, actor, memory, obs, keys, row, warm)

            return over_seeds(one, actor, memory, obs, seeds)

        return act

    def _learn(self, warm: bool):
        def learned(learner: Learner, rollout: Transition, seeds: Array) -> tuple[Learner, Tree]:
            return over_seeds(one, learner, rollout, seeds)

        def one(learner: Learner, rollout: Transition, seed: Array) -> tuple[Learner, Tree]:
            key = jax.random.fold_in(Keys.of(seed).learn, learner.iteration)
            state, buffer, metrics = learn(
                self.algorithm, self.cfg, self.spec, learner.state, learner.buffer, rollout, key, warm
            )
            made = 0 if warm else getattr(self.cfg.data, "updates", 1)
            sums = learner.metrics if warm else jax.tree.map(jnp.add, learner.metrics, metrics)
            learner = Learner(state, buffer, learner.updates + made, sums, learner.iteration + 1)
            return strong((learner, self.algorithm.actor(state)))

        return learned

    def _renew(self, memory: Tree, mask: Array, episode: Array, seeds: Array, row: Array) -> Tree:
        def one(memory: Tree, mask: Array, episode: Array, seed: Array) -> Tree:
            key = jax.random.fold_in(Keys.of(seed).memory, row + 1)
            ids = jnp.arange(self.spec.num_envs)
            return strong(select(mask, self.algorithm.memory(self.cfg, self.spec, ids, episode, key), memory))

        return over_seeds(one, memory, mask, episode, seeds)

    def _rollout_shape(self, row: tuple, obs: Tree) -> Transition:
        action, _, extras = row
        seeds, num_envs = len(self.seeds), self.spec.num_envs
        reward = jax.ShapeDtypeStruct((seeds, num_envs), np.float32)
        flag = jax.ShapeDtypeStruct((seeds, num_envs), np.bool_)
        one = Transition(obs, action, reward, obs, flag, flag, extras)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], self.rows, *x.shape[1:]), x.dtype), one
        )

"""Evaluation: whole episodes without exploration, on environments and random numbers of their own."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.lanes import episode_seed
from polyak.drivers.learn import Keys, batched
from polyak.drivers.measures import gather
from polyak.drivers.program import Program, anywhere, over_seeds
from polyak.envs.environment import Environment, HostEnvs, to_bounds
from polyak.interface import Algorithm, Array, Spec, Tree
from polyak.pytree import select

LONGEST = 100_000  # steps of an episode in an environment without a time limit: there it is cut
STREAM = 1 << 30  # environments numbered from here belong to evaluation


class Episodes(NamedTuple):
    """What was seen: arrays [S, E] for S seeds and E episodes each."""

    total: np.ndarray  # undiscounted returns
    length: np.ndarray
    measures: dict[str, np.ndarray]


class Evaluator:
    """Plays E episodes for each of S seeds; the same episodes whenever it is called with the same `number`."""

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        spec: Spec,
        seeds: Sequence[int],
        episodes: int,
        env: Environment | HostEnvs,
        explore: bool = False,
    ):
        self.algorithm, self.cfg, self.episodes, self.explore = algorithm, cfg, episodes, explore
        self.env: Any = env
        self.seeds = tuple(seeds)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.in_graph = isinstance(env, Environment)
        width = episodes if self.in_graph else env.spec.num_envs // len(self.seeds)
        self.spec = dataclasses.replace(spec, num_envs=width)  # the episodes that are played side by side
        self.limit = spec.time_limit or LONGEST
        self.memory = Program(self._memory)
        self.program = Program(self._play_in_graph if self.in_graph else self._act)

    def __call__(self, actor: Tree) -> Episodes:
        """Play with an actor [S, ...]; it is not changed."""
        if not self.in_graph:
            return self._play_on_host(actor)
        total, length, measures = jax.tree.map(np.array, self.program(actor, self.seed_array))
        return Episodes(total, length, measures)

    def close(self) -> None:
        """Release the environments."""
        if not self.in_graph:
            self.env.close()

    # ---- in graph: all episodes side by side, in one program

    def _play_in_graph(self, actor: Tree, seeds: Array) -> tuple[Array, Array, dict]:
        return over_seeds(self._play_one_seed, actor, seeds)

    def _play_one_seed(self, actor: Tree, seed: Array) -> tuple[Array, Array, dict]:
        keys, spec, ids = Keys.of(seed), self.spec, jnp.arange(self.episodes)
        zero = jnp.zeros(self.episodes, jnp.int32)
        env, obs = jax.vmap(self.env.reset)(batched(keys.evaluate, self.episodes, ids, zero))
        memory = self.algorithm.memory(self.cfg, spec, ids, ids, keys.memory)
        measures = {name: jnp.zeros(self.episodes) for name in spec.measures}
        running = jnp.ones(self.episodes, bool)

        def go_on(carry: tuple) -> Array:
            return (carry[0] < self.limit) & anywhere(carry[-1])

        def step(carry: tuple) -> tuple:
            t, env, obs, memory, total, length, measures, running = carry
            key = jax.random.fold_in(keys.act, t + STREAM)
            action, memory, _ = self.algorithm.act(self.cfg, spec, actor, memory, obs, key, self.explore)
            keys_env = batched(keys.evaluate, self.episodes, ids, zero + t + 1)
            stepped = jax.vmap(self.env.step)(env, to_bounds(spec.action, action), keys_env)
            total = total + jnp.where(running, stepped.reward, 0.0)
            length = length + running
            gathered = gather(spec, measures, stepped.measures, length, jnp)
            measures = {name: jnp.where(running, gathered[name], measures[name]) for name in measures}
            running = running & ~stepped.terminated & ~stepped.truncated
            return t + 1, stepped.state, stepped.obs, memory, total, length, measures, running

        start = (jnp.int32(0), env, obs, memory, jnp.zeros(self.episodes), zero, measures, running)
        end = jax.lax.while_loop(go_on, step, start)
        return end[4], end[5], end[6]

    # ---- on the host: as many side by side as there are lanes

    def _act(self, actor: Tree, memory: Tree, obs: Tree, seeds: Array, row: Array) -> tuple[Array, Tree]:
        def one(actor: Tree, memory: Tree, obs: Tree, seed: Array) -> tuple[Array, Tree]:
            key = jax.random.fold_in(Keys.of(seed).act, row + STREAM)
            action, memory, _ = self.algorithm.act(self.cfg, self.spec, actor, memory, obs, key, self.explore)
            return action, memory

        return over_seeds(one, actor, memory, obs, seeds)

    def _memory(self, seeds: Array) -> Tree:
        def one(seed: Array) -> Tree:
            ids = jnp.arange(self.spec.num_envs)
            return self.algorithm.memory(self.cfg, self.spec, ids, ids, Keys.of(seed).memory)

        return over_seeds(one, seeds)

    def _play_on_host(self, actor: Tree) -> Episodes:
        envs, seeds, width = self.env, len(self.seeds), self.spec.num_envs
        lanes = seeds * width
        shape = (seeds, self.episodes)
        total, length = np.zeros(shape), np.zeros(shape, np.int64)
        measures = {name: np.zeros(shape) for name in self.spec.measures}
        seed = np.arange(lanes) // width
        episode = np.arange(lanes) % width  # what each lane plays: e, e + width, ...
        running = episode < self.episodes
        memory = fresh = self.memory(self.seed_array)
        obs = envs.reset(range(lanes), self._seeds(seed, episode))
        gathered = {name: np.zeros(lanes) for name in measures}
        steps = np.zeros(lanes, np.int64)
        row = 0
        while running.any():
            by_seed = jax.tree.map(lambda x: x.reshape(seeds, width, *x.shape[1:]), obs)
            action, memory = self.program(actor, memory, by_seed, self.seed_array, row)
            action = np.asarray(action)
            stepped = envs.step(to_bounds(self.spec.action, action.reshape(lanes, *action.shape[2:])))
            obs, row = stepped.obs, row + 1
            steps += 1
            gathered = gather(self.spec, gathered, stepped.measures, steps, np)
            where = seed[running], episode[running]
            total[where] += stepped.reward[running]
            length[where] += 1
            for name, value in gathered.items():
                measures[name][where] = value[running]
            ended = np.flatnonzero(stepped.terminated | stepped.truncated | (steps >= self.limit))
            if len(ended):
                episode[ended] += width
                steps[ended] = 0
                running = episode < self.episodes
                obs = envs.reset(ended.tolist(), self._seeds(seed[ended], episode[ended]))
                memory = select_lanes(np.isin(np.arange(lanes), ended).reshape(seeds, width), fresh, memory)
        return Episodes(total, length, measures)

    def _seeds(self, seed: np.ndarray, episode: np.ndarray) -> list[int]:
        return [
            episode_seed(self.seeds[s], STREAM, int(e))
            for s, e in zip(seed.tolist(), episode.tolist(), strict=True)
        ]


def select_lanes(mask: np.ndarray, on_true: Tree, on_false: Tree) -> Tree:
    """`select` for a mask [S, N], and nothing at all where there is no memory."""
    return jax.vmap(select)(mask, on_true, on_false) if jax.tree.leaves(on_true) else on_false


def lanes_for(seeds: int, episodes: int) -> int:
    """How many environments on the host play the episodes of one seed."""
    return max(1, min(episodes, 16 // seeds))

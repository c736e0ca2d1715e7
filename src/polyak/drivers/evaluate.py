"""Evaluation: whole episodes without exploration, on environments and random numbers of their own."""

import dataclasses
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import validate
from polyak.drivers.act import seen
from polyak.drivers.episodes_graph import Episodes, Player
from polyak.drivers.episodes_host import TOGETHER, HostEpisodes, HostMemory
from polyak.drivers.keys import Keys
from polyak.drivers.program import Program, anywhere, over_seeds
from polyak.envs.environment import Environment, HostEnvs
from polyak.errors import EnvironmentFault
from polyak.interface import Algorithm, Array, Spec, Transition, Tree
from polyak.pytree import Counter, Record, pytree, select, strip_weak_types

LONGEST = 10_000  # steps of an episode in an environment without a time limit: there it is cut, unless said
FIRST_STEPS = 256  # in graph, before the first look at whether to go on; more each time
LOOK_SECONDS = 0.25  # between two looks
STREAM = 1 << 30  # environments numbered from here belong to evaluation
SAMPLED = np.uint32(2**32 - 1)  # number that no environment has


class Played(NamedTuple):
    """Episodes that were played: arrays [S, E] for S seeds and E episodes each."""

    total: np.ndarray  # undiscounted returns
    length: np.ndarray
    measures: dict[str, np.ndarray]
    cut: int = 0  # how many of them the evaluation ended, and not the environment


@pytree
class Playing(Record):
    """Episodes in graph that are being played."""

    steps: Counter  # so far
    episodes: Episodes
    running: Array  # [E] which are not over


class Evaluator:
    """Plays E episodes for each of S seeds; the same episodes whenever it is called."""

    def __init__(
        self,
        algorithm: Algorithm,
        cfg: Any,
        spec: Spec,
        seeds: Sequence[int],
        episodes: int,
        env: Environment | HostEnvs,
        explore: bool = False,
        limit: int | None = None,
    ):
        self.algorithm, self.cfg, self.episodes, self.explore = algorithm, cfg, episodes, explore
        self.env: Any = env
        self.action = env.spec.action  # in the environment's own shape
        self.seeds = tuple(seeds)
        self.seed_array = np.asarray(self.seeds, np.uint32)
        self.in_graph = isinstance(env, Environment)
        width = episodes if self.in_graph else env.spec.num_envs // len(self.seeds)
        self.spec = dataclasses.replace(spec, num_envs=width)  # the episodes that are played side by side
        own, usual = spec.time_limit, spec.time_limit or LONGEST
        self.limit = usual if limit is None else min(limit, own or limit)  # steps of an episode
        self.cuts = own is None or self.limit < own
        self.memory = HostMemory(algorithm, cfg, self.spec, self.seeds)
        self.begin_memory = Program(self._begin_memory)
        self.begin = Program(lambda seeds: over_seeds(self._begin_one_seed, seeds))
        self.program = Program(self._go_on if self.in_graph else self._act)

    def __call__(self, actor: Tree, watch: Callable[[], bool] = lambda: False) -> Played | None:
        """Play with an actor [S, ...]; it is not changed. None where `watch`, asked now and then, says to stop."""
        try:
            played = (self._play_in_graph if self.in_graph else self._play_on_host)(actor, watch)
        except EnvironmentFault as fault:
            raise EnvironmentFault(f"in evaluation, {fault}") from fault
        if played is None or not self.cuts:
            return played
        return played._replace(cut=int((played.length >= self.limit).sum()))

    def close(self) -> None:
        """Release the environments."""
        if not self.in_graph:
            self.env.close()

    def _key(self, keys: Keys, row: Array) -> Array:
        """The key of `act` in a row. Sampled actions have a stream of their own, which training never reaches."""
        if self.explore:
            return jax.random.fold_in(jax.random.fold_in(keys.evaluate, SAMPLED), row)
        return jax.random.fold_in(keys.act, row + STREAM)

    # ---- in graph: all episodes side by side, in one program

    def _play_in_graph(self, actor: Tree, watch: Callable[[], bool]) -> Played | None:
        playing, until, steps = self.begin(self.seed_array), 0, FIRST_STEPS
        while np.asarray(playing.running).any():
            if watch():
                return None
            began, until = monotonic(), until + steps
            playing = self.program(actor, self.seed_array, playing, until)
            steps = 2 * steps if monotonic() - began < LOOK_SECONDS else steps
        played = playing.episodes
        if not (sound := np.isfinite(np.asarray(played.total))).all():
            seed, episode = np.argwhere(~sound)[0]
            raise EnvironmentFault(f"episode {episode}, seed {self.seeds[seed]}: the return is not finite")
        return Played(*jax.tree.map(np.array, (played.total, played.length, played.measures)))

    def _player(self, keys: Keys) -> Player:
        ids = jnp.arange(self.episodes)  # each environment plays one episode
        given = self.algorithm, self.cfg, self.env, self.spec, self.action
        return Player(*given, keys.evaluate, ids, self.limit)

    def _begin_one_seed(self, seed: Array) -> "Playing":
        keys, ids = Keys.of(seed), jnp.arange(self.episodes)
        start = self._player(keys).begin(ids, keys.memory)
        return Playing(Counter(jnp.int32(0)), strip_weak_types(start), jnp.ones(self.episodes, bool))

    def _go_on(self, actor: Tree, seeds: Array, playing: "Playing", until: Array) -> "Playing":
        return over_seeds(self._go_on_one_seed, actor, seeds, playing, Counter(until))

    def _go_on_one_seed(self, actor: Tree, seed: Array, playing: "Playing", until: Counter) -> "Playing":
        keys = Keys.of(seed)
        player = self._player(keys)

        def any_running(playing: Playing) -> Array:
            return anywhere(playing.running) & (playing.steps.value < until.value)

        def step(playing: Playing) -> Playing:
            t, episodes, running = playing.steps.value, playing.episodes, playing.running
            key = self._key(keys, t)
            action, memory, _ = self.algorithm.act(
                self.cfg, self.spec, actor, episodes.memory, seen(self.cfg, episodes), key, self.explore
            )
            after, row = player.step(episodes, action, memory)
            episodes = strip_weak_types(select(running, after, episodes))
            return Playing(playing.steps.plus(1), episodes, running & ~row.last)

        return jax.lax.while_loop(any_running, step, playing)

    # ---- on the host: as many side by side as there are environments

    def _act(self, actor: Tree, memory: Tree, obs: Tree, seeds: Array, row: Array) -> tuple[Array, Tree]:
        def one(actor: Tree, memory: Tree, obs: Tree, seed: Array) -> tuple[Array, Tree]:
            key = self._key(Keys.of(seed), row)
            action, memory, _ = self.algorithm.act(self.cfg, self.spec, actor, memory, obs, key, self.explore)
            return action, memory

        return over_seeds(one, actor, memory, obs, seeds)

    def _begin_memory(self, seeds: Array, number: Array) -> Tree:
        return over_seeds(lambda seed, number: self.memory.begin(Keys.of(seed).memory, number), seeds, number)

    def _play_on_host(self, actor: Tree, watch: Callable[[], bool]) -> Played | None:
        seeds, width = len(self.seeds), self.spec.num_envs
        shape = seeds, self.episodes
        measures = {name: np.zeros(shape) for name in self.spec.measures}
        played = Played(np.zeros(shape), np.zeros(shape, np.int64), measures)
        if not self.env.exact_reset:
            self.env.close()  # made again by the next reset, so that the same episodes begin
        episodes = HostEpisodes(self.env, self.spec, self.seeds, STREAM, self.limit)
        episodes.begin()
        memory = self.begin_memory(self.seed_array, episodes.number.astype(np.int32).reshape(seeds, width))
        row, due, seen = 0, monotonic() + LOOK_SECONDS, []
        while (episodes.number < self.episodes).any():
            if monotonic() > due:
                due = monotonic() + LOOK_SECONDS
                if watch():
                    return None
            obs = jax.tree.map(lambda x: x.reshape(seeds, width, *x.shape[1:]), episodes.obs)
            action, memory = self.program(actor, memory, obs, self.seed_array, row)
            action = np.asarray(action)
            before, action = episodes.obs, action.reshape(-1, *action.shape[2:])
            stepped = episodes.step(action)
            seen.append(Transition(before, action, stepped.reward, *stepped[:1], *stepped[2:4]))
            last = np.flatnonzero(stepped.terminated | stepped.truncated)
            if len(last):
                ended = episodes.reset_ended(last)
                counted = ended.number < self.episodes  # what idle environments play is not
                where = ended.slot[counted] // width, ended.number[counted]
                played.total[where], played.length[where] = ended.total[counted], ended.length[counted]
                for name, value in ended.measures.items():
                    measures[name][where] = value[counted]
                memory = self.memory.reset_ended(memory, last, episodes.number, STREAM + row)
            row += 1
            if len(seen) == TOGETHER:
                self._inspect(seen, row)
        self._inspect(seen, row)
        return played

    def _inspect(self, seen: list[Transition], row: int) -> None:
        """Look at the last steps as at a rollout of training, and forget them."""
        if not seen:
            return
        rollout = jax.tree.map(lambda *rows: np.stack(rows), *seen)
        at, slot, field = validate.look(self.spec, rollout, np).fault.tolist()
        if at != validate.NOTHING:
            seed, env = divmod(slot, self.spec.num_envs)
            raise validate.error_for(self.spec, row - len(seen) + at, env, field, self.seeds[seed])
        seen.clear()


def width_for(seeds: int, episodes: int) -> int:
    """How many environments on the host play the episodes of one seed."""
    return max(1, min(episodes, 16 // seeds))

"""The driver for environments on the host: a Python loop around compiled `act` and `learn`.

The order of events in one iteration, which is also the in-graph driver's: T times act on the newest parameters,
step, and begin anew where an episode ended; then look at the rollout, then learn from it.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers import inspect
from polyak.drivers.in_graph import metric_shapes
from polyak.drivers.learn import Keys, actors, choose, initial_states, learn, row_shape, warmup_iterations
from polyak.drivers.measures import gather
from polyak.drivers.program import Program, over_seeds
from polyak.envs.environment import HostEnvs, HostStep, to_bounds
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
class Lanes:
    """The running episodes of L = S x N environments; lane s N + n is environment n of seed s."""

    obs: Tree  # [L, ...]
    episode: np.ndarray  # [L] int64, its number
    length: np.ndarray  # [L] int64, steps so far
    total: np.ndarray  # [L] float64, reward so far
    measures: dict[str, np.ndarray]  # each [L] float64
    check: np.ndarray  # [L] uint32, CRC of all that the running episode gave
    actions: list[
        np.ndarray
    ]  # the last steps' actions [L, ...]; a lane's episode is the last `length` of them
    sums: dict[str, np.ndarray]  # [S] float64, of the episodes that ended since the last report


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
        learner, actor, memory = self._fresh()
        seeds, lanes = len(self.seeds), len(self.seeds) * self.spec.num_envs
        episode = np.zeros(lanes, np.int64)
        obs = self.envs.reset(range(lanes), self._episode_seeds(range(lanes), episode))
        measures = {name: np.zeros(lanes) for name in self.spec.measures}
        names = ["episodes", "episode/return", "episode/length", *(f"episode/{name}" for name in measures)]
        return Carry(
            learner=learner,
            actor=actor,
            memory=memory,
            lanes=Lanes(
                obs=obs,
                episode=episode,
                length=np.zeros(lanes, np.int64),
                total=np.zeros(lanes),
                measures=measures,
                check=np.array([checksum(obs, lane) for lane in range(lanes)], np.uint32),
                actions=[],
                sums={name: np.zeros(seeds) for name in names},
            ),
            iteration=0,
        )

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
        return carry

    def pack(self, carry: Carry) -> tuple[Tree, dict]:
        """Everything a checkpoint holds: arrays, and plain values."""
        lanes = carry.lanes
        running = [self._running(lanes, lane) for lane in range(len(lanes.length))]
        tree = {
            **vars(carry.learner),
            "memory": carry.memory,
            "lanes": {
                "obs": lanes.obs,
                "episode": lanes.episode,
                "length": lanes.length,
                "total": lanes.total,
                "measures": lanes.measures,
                "check": lanes.check,
                "actions": np.concatenate(running) if lanes.actions else self._no_actions(0),
                "sums": lanes.sums,
            },
        }
        return tree, {"iteration": carry.iteration, "steps": int(lanes.length.sum())}

    def template(self, extra: dict) -> Tree:
        """The shapes of `pack`'s arrays."""
        learner, _, memory = self._shapes()
        lanes, seeds = len(self.seeds) * self.spec.num_envs, len(self.seeds)

        def shape(dtype: Any, *dims: int) -> np.ndarray:
            return np.empty(dims, dtype)  # a ShapeDtypeStruct of float64 would need x64

        measures = {name: shape(np.float64, lanes) for name in self.spec.measures}
        names = ["episodes", "episode/return", "episode/length", *(f"episode/{name}" for name in measures)]
        return {
            **vars(learner),
            "memory": memory,
            "lanes": {
                "obs": jax.tree.map(lambda s: shape(s.dtype, lanes, *s.shape), self.spec.obs),
                "episode": shape(np.int64, lanes),
                "length": shape(np.int64, lanes),
                "total": shape(np.float64, lanes),
                "measures": measures,
                "check": shape(np.uint32, lanes),
                "actions": self._no_actions(int(extra["steps"])),
                "sums": {name: shape(np.float64, seeds) for name in names},
            },
        }

    def buffer_shape(self) -> Any:
        """The shapes of the replay ring [S, C, N, ...], or () on policy."""
        return self._shapes()[0].buffer

    def unpack(self, tree: Tree, extra: dict) -> Carry:
        """The run that was packed, its environments brought back by playing their running episodes again.

        Where an environment does not give the same again (its CRC differs), its lane begins a new episode, the
        replay is cut there, and `inexact` names the lane: the run is consistent, but not exact.
        """
        saved = tree["lanes"]
        lanes = Lanes(
            obs=saved["obs"],
            episode=np.array(saved["episode"]),
            length=np.array(saved["length"]),
            total=np.array(saved["total"]),
            measures={name: np.array(value) for name, value in saved["measures"].items()},
            check=np.array(saved["check"]),
            actions=[],
            sums={name: np.array(value) for name, value in saved["sums"].items()},
        )
        device = {name: value for name, value in tree.items() if name != "lanes"}
        device = jax.tree.map(jnp.array, device)
        memory = device.pop("memory")
        learner = Learner(**device)
        self._replay(lanes, np.asarray(saved["actions"]))
        mask = self._by_seed(np.isin(np.arange(len(lanes.length)), self.inexact))
        if self.inexact:
            self._abandon(lanes)
            memory = self.renew(
                memory, mask, self._by_seed(lanes.episode.astype(np.int32)), self.seed_array, -1
            )
            if not isinstance(self.cfg.data, OnPolicy):
                cut = Program(lambda ring, mask: over_seeds(_cut, ring, mask), donate=(0,))
                learner = learner.replace(buffer=cut(learner.buffer, mask))
        actor = actors(self.algorithm, learner.state)
        return Carry(learner, actor, memory, lanes, int(extra["iteration"]))

    # ---- what the loop reads

    def report(self, carry: Carry) -> tuple[Carry, dict[str, np.ndarray]]:
        """The sums since the last report as NumPy arrays [S], and the run with empty ones."""
        learner, lanes = carry.learner, carry.lanes
        flat = dict(lanes.sums)
        lanes.sums = {name: np.zeros_like(value) for name, value in lanes.sums.items()}
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
            flat = action.reshape(-1, *action.shape[2:])
            stepped = self.envs.step(to_bounds(self.spec.action, flat))
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
            last = self._count(lanes, flat, stepped)
            if last.any():
                self._anew(carry, np.flatnonzero(last), row)
        if self.rows == 1:
            return jax.tree.map(lambda x: x[:, None], rows[0])
        return jax.tree.map(lambda *steps: np.stack(steps, axis=1), *rows)

    def _count(self, lanes: Lanes, action: np.ndarray, stepped: HostStep) -> np.ndarray:
        """Lengths, returns, measures and checksums, one step on; [L] where the episode ended."""
        lanes.obs = stepped.obs
        lanes.length += 1
        lanes.total += stepped.reward
        lanes.actions.append(action)
        if self.spec.measures:
            lanes.measures = gather(self.spec, lanes.measures, stepped.measures, lanes.length, np)
        for lane in range(len(lanes.length)):
            lanes.check[lane] = checksum(stepped, lane, lanes.check[lane])
        return stepped.terminated | stepped.truncated

    def _anew(self, carry: Carry, ended: np.ndarray, row: int) -> None:
        """Report the episodes that ended and begin the next."""
        lanes = carry.lanes
        seed = ended // self.spec.num_envs
        values = {"episodes": np.ones(len(ended)), "episode/return": lanes.total[ended]}
        values["episode/length"] = lanes.length[ended].astype(np.float64)
        values |= {f"episode/{name}": value[ended] for name, value in lanes.measures.items()}
        for name, value in values.items():
            np.add.at(lanes.sums[name], seed, value)
        self._reset(lanes, ended)
        keep = int(lanes.length.max())
        if len(lanes.actions) > 2 * keep + 64:
            lanes.actions = lanes.actions[len(lanes.actions) - keep :]
        if jax.tree.leaves(carry.memory):
            mask = np.zeros(len(lanes.length), bool)
            mask[ended] = True
            episode = self._by_seed(lanes.episode.astype(np.int32))
            carry.memory = self.renew(carry.memory, self._by_seed(mask), episode, self.seed_array, row)

    def _reset(self, lanes: Lanes, which: np.ndarray) -> None:
        """Begin the next episode in these lanes."""
        lanes.episode[which] += 1
        lanes.length[which] = 0
        lanes.total[which] = 0.0
        for value in lanes.measures.values():
            value[which] = 0.0
        lanes.obs = self.envs.reset(which.tolist(), self._episode_seeds(which, lanes.episode[which]))
        for lane in which:
            lanes.check[lane] = checksum(lanes.obs, lane)

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

    # ---- resume

    def _replay(self, lanes: Lanes, actions: np.ndarray) -> None:
        """Play the running episodes again, and compare what they give with what they gave."""
        count = len(lanes.length)
        starts = np.concatenate([[0], np.cumsum(lanes.length)])
        longest = int(lanes.length.max())
        seeds = self._episode_seeds(range(count), lanes.episode)
        # every lane steps all the time; its own episode begins when as many steps are left as it has
        self.envs.reset(range(count), seeds)
        check = np.zeros(count, np.uint32)
        idle = actions[0] if len(actions) else None
        for left in range(longest, -1, -1):
            begin = np.flatnonzero(lanes.length == left)
            if len(begin):
                obs = self.envs.reset(begin.tolist(), [seeds[lane] for lane in begin])
                check[begin] = [checksum(obs, lane) for lane in begin]
                lanes_obs = obs
            if left == 0:
                break
            running = lanes.length >= left
            index = starts[1:] - left
            action = np.stack([actions[index[lane]] if running[lane] else idle for lane in range(count)])
            stepped = self.envs.step(to_bounds(self.spec.action, action))
            lanes.actions.append(action)
            for lane in np.flatnonzero(running):
                check[lane] = checksum(stepped, lane, check[lane])
            lanes_obs = stepped.obs
            idle_ended = np.flatnonzero((stepped.terminated | stepped.truncated) & ~running)
            if len(idle_ended):
                self.envs.reset(idle_ended.tolist(), [seeds[lane] for lane in idle_ended])
        self.inexact = np.flatnonzero(check != lanes.check).tolist()
        lanes.obs = lanes_obs

    def _abandon(self, lanes: Lanes) -> None:
        """Begin a new episode in the lanes that could not be brought back."""
        self._reset(lanes, np.asarray(self.inexact))

    def _running(self, lanes: Lanes, lane: int) -> np.ndarray:
        """The actions of a lane's running episode [length, ...]."""
        length = int(lanes.length[lane])
        steps = lanes.actions[len(lanes.actions) - length :]
        return np.stack([step[lane] for step in steps]) if steps else self._no_actions(0)

    def _no_actions(self, count: int) -> np.ndarray:
        return np.zeros((count, *self.spec.action.shape), self.spec.action.dtype)

    # ---- small things

    def _episode_seeds(self, lanes: Sequence[int], episodes: np.ndarray) -> list[int]:
        """The seed of each lane's episode, a function of (run, environment, episode)."""
        num_envs = self.spec.num_envs
        return [
            episode_seed(self.seeds[lane // num_envs], lane % num_envs, int(episode))
            for lane, episode in zip(lanes, episodes, strict=True)
        ]

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


def _cut(ring: replay.Ring, mask: Array) -> replay.Ring:
    return replay.cut(ring, mask)


def episode_seed(run: int, env: int, episode: int) -> int:
    """An environment's seed: a function of (run, environment, episode) below 2^31."""
    return int(np.random.SeedSequence([run, env, episode]).generate_state(1)[0]) >> 1


def checksum(given: Tree, lane: int, before: int = 0) -> int:
    """CRC-32 of what one lane gave (observations; and rewards and flags of a HostStep), after `before`."""
    if isinstance(given, HostStep):
        for part in (given.reward, given.terminated, given.truncated):
            before = zlib.crc32(part[lane : lane + 1], int(before))
        given = given.obs
    leaves = (given,) if isinstance(given, np.ndarray) else jax.tree.leaves(given)
    for leaf in leaves:
        before = zlib.crc32(np.ascontiguousarray(leaf[lane]), int(before))
    return before

"""An algorithm that learns nothing and checks all that a driver gives it, and small worlds to check it in."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.host import Host
from polyak.drivers.in_graph import InGraph
from polyak.envs.environment import Environment, rules
from polyak.interface import Algorithm, Batch, Discrete, OnPolicy, Replay, Spec, Transition, Update
from polyak.pytree import Counter, Record, pytree
from polyak.runs.packing import beside_rows
from polyak.store import checkpoint

# What XLA needs to compile in a fifth of the time, for tests in which speed and the last bit do not matter.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
AS_USED = {  # what XLA does where nobody says anything
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}
GAMMA = 0.5  # sums of small integers times its powers are exact in float32


@dataclass(frozen=True)
class Config:
    gamma: float = GAMMA
    data: OnPolicy | Replay = field(default_factory=lambda: OnPolicy(steps=7))


class World(NamedTuple):
    """What is known of an environment: functions of arrays [..., D]."""

    follows: Callable  # (obs, action, reward, next_obs, terminated, steps) -> [...] this is how it goes on
    is_start: Callable  # (obs) -> [...] an episode may begin like this


@pytree
class Running(Record):
    """The episodes that run in N environments, as the rollouts tell."""

    expected: jax.Array  # [N, D] the next row's observation
    fresh: jax.Array  # [N] the next row is an episode's first
    length: jax.Array  # [N]
    total: jax.Array  # [N]


@pytree
class Ledger(Record):
    """What was found: counts of rows, of rows that are wrong, and of episodes."""

    running: Running
    rows: jax.Array
    drawn: jax.Array
    gaps: jax.Array  # rows of rollouts that do not follow the row before
    wrong: jax.Array  # rows of batches that the world cannot have given
    episodes: jax.Array
    terminated: jax.Array
    length: jax.Array
    total: jax.Array


def auditor(world: World) -> Algorithm:
    """Random actions; `observe` follows every episode from row to row, `update` checks every row by itself."""

    def init(cfg: Config, spec: Spec, key: jax.Array) -> Ledger:
        def zero(*shape: int) -> jax.Array:
            return jnp.zeros(shape, jnp.int32)

        n = spec.num_envs
        running = Running(jnp.zeros((n, *spec.obs.shape)), jnp.ones(n, bool), zero(n), jnp.zeros(n))
        return Ledger(running, *(zero() for _ in range(8)))

    def act(cfg: Config, spec: Spec, actor: Any, memory: Any, obs: jax.Array, key: jax.Array, explore: bool):
        n = len(obs)
        if isinstance(spec.action, Discrete):
            return jax.random.randint(key, (n,), 0, spec.action.n), memory, ()
        return jax.random.uniform(key, (n, *spec.action.shape), minval=-1.0), memory, ()

    def observe(cfg: Config, spec: Spec, state: Ledger, rollout: Transition) -> Ledger:
        def follow(state: Ledger, row: Transition) -> tuple[Ledger, None]:
            old = state.running
            length, total = old.length + 1, old.total + row.reward
            same = (row.obs == old.expected).all(-1)
            sound = jnp.where(old.fresh, world.is_start(row.obs), same)
            sound &= ~(row.terminated & row.truncated)
            if spec.time_limit is not None:
                sound &= (length < spec.time_limit) | row.last
            running = Running(
                row.next_obs, row.last, jnp.where(row.last, 0, length), jnp.where(row.last, 0.0, total)
            )
            return state.replace(
                running=running,
                rows=state.rows + row.reward.size,
                gaps=state.gaps + (~sound).sum(),
                episodes=state.episodes + row.last.sum(),
                terminated=state.terminated + row.terminated.sum(),
                length=state.length + jnp.where(row.last, length, 0).sum(),
                total=state.total + jnp.where(row.last, total, 0).sum().astype(jnp.int32),
            ), None

        return jax.lax.scan(follow, state, rollout)[0]

    def update(cfg: Config, spec: Spec, state: Ledger, batch: Batch, key: jax.Array) -> Update:
        n_step = getattr(cfg.data, "n_step", 1)
        sound = row_is_sound(world, batch, n_step)
        state = state.replace(drawn=state.drawn + batch.reward.size, wrong=state.wrong + (~sound).sum())
        return Update(state, {"violations": (~sound).sum().astype(jnp.float32)})

    return Algorithm(
        Config, ("discrete", "continuous"), init, lambda state: state.rows, act, update, observe=observe
    )


def row_is_sound(world: World, batch: Batch, n_step: int) -> Any:
    """Each row [...] of a batch by itself: its flags, its discount, and that its successor is one."""
    steps = jnp.arange(1, n_step + 1)
    powers = GAMMA ** steps.astype(jnp.float32)
    follows = jnp.stack(
        [
            world.follows(batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminated, k)
            & (batch.discount == jnp.where(batch.terminated, 0.0, powers[k - 1]))
            for k in range(1, n_step + 1)
        ]
    )
    return follows.any(0) & ~(batch.terminated & batch.truncated)


# ---- worlds


def counts(obs: Any, action: Any, reward: Any, next_obs: Any, terminated: Any, steps: int) -> Any:
    """Counting: t goes on by `steps` in the same episode; the reward is the discounted sum of what it counts."""
    t = obs[..., 2]
    total = sum(GAMMA**i * (t + 1 + i) for i in range(steps))
    same = (obs[..., :2] == next_obs[..., :2]).all(-1)
    return same & (next_obs[..., 2] == t + steps) & (reward == total)


COUNTING = World(counts, lambda obs: (obs[..., 2] == 0) & (obs[..., :2] == obs[..., :2].round()).all(-1))


def swings(obs: Any, action: Any, reward: Any, next_obs: Any, terminated: Any, steps: int) -> Any:
    """CartPole's equations of motion, Euler steps of 0.02 s; beyond 2.4 or 12 degrees it has terminated."""
    x, speed, angle, turn = (obs[..., i] for i in range(4))
    force = jnp.where(action == 1, 10.0, -10.0)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    push = (force + 0.05 * turn**2 * sin) / 1.1
    turning = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    moving = push - 0.05 * turning * cos / 1.1
    want = jnp.stack(
        [x + 0.02 * speed, speed + 0.02 * moving, angle + 0.02 * turn, turn + 0.02 * turning], -1
    )
    over = jnp.maximum(jnp.abs(next_obs[..., 0]) / 2.4, jnp.abs(next_obs[..., 2]) / np.deg2rad(12))
    ended = jnp.where(terminated, over > 1 - 1e-5, over < 1 + 1e-5)
    return (jnp.abs(next_obs - want) < 1e-4).all(-1) & (reward == 1) & ended


CARTPOLE = World(swings, lambda obs: (jnp.abs(obs) <= 0.05).all(-1))


# ---- compiling


def as_flags(options: dict[str, Any]) -> str:
    """Options of the compiler as XLA_FLAGS has them."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


# ---- drivers


def drive(
    algorithm: Algorithm,
    cfg: Any,
    world: Any,
    seeds: Sequence[int] = (0,),
    num_envs: int = 2,
    asynchronous: bool = False,
    strict: bool = False,
) -> InGraph | Host:
    """The driver that a world asks for; `world` is what `polyak.envs.find.find` gives."""
    spec = dataclasses.replace(world.spec, num_envs=num_envs)
    if isinstance(world, Environment):
        spec = dataclasses.replace(spec, model=rules(world))
        return InGraph(algorithm, cfg, world, spec, seeds, strict)
    return Host(algorithm, cfg, world.make(len(seeds) * num_envs, asynchronous), spec, seeds, strict)


def ring_of(carry: Any) -> Any:
    """The replay ring of a driver's carry."""
    return carry.learner.tree.buffer if hasattr(carry, "learner") else carry.buffer


def state_of(carry: Any) -> Any:
    """The algorithm's state [S, ...] of a driver's carry."""
    return carry.learner.tree.state if hasattr(carry, "learner") else carry.state


def history(ring: Any, seed: int) -> Transition:
    """The rows [time, N, ...] of one seed's ring as NumPy arrays, oldest first."""
    clock, count = int(ring.clock.value), ring.rows.reward.shape[1]
    slots = np.arange(max(0, clock - count), clock) % count
    return jax.tree.map(lambda x: np.asarray(x[seed])[slots], ring.rows)


def arrays_of(driver: Any, carry: Any) -> dict[str, np.ndarray]:
    """Every array of a run by its path, copied."""
    leaves = jax.tree_util.tree_flatten_with_path(driver.pack(carry)[0])[0]
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def saved_and_loaded(driver: Any, carry: Any, folder: Path) -> Any:
    """The run after a checkpoint in a folder was written and read."""
    tree, extra = driver.pack(carry)
    rest = {name: value for name, value in tree.items() if name != "buffer"}
    ring, shape = tree["buffer"], driver.buffer_shape()
    kept = {"rows": ring.rows, "clock": int(ring.clock.value)} if jax.tree.leaves(shape) else {}
    rest |= beside_rows(ring)
    number = len(checkpoint.complete(folder)) if folder.is_dir() else 0
    checkpoint.save(folder, number, rest, {"driver": extra}, **kept)

    def template(extra: dict) -> Any:
        shapes = dict(driver.template(extra["driver"]))
        return beside_rows(shapes.pop("buffer")) | shapes

    loaded = checkpoint.load(folder, template, shape.rows if kept else None)
    clock = Counter(np.asarray(loaded.clock, np.int32))
    buffer = type(shape)(loaded.rows, clock, loaded.tree.pop("index", ())) if kept else ()
    return driver.unpack({**loaded.tree, "buffer": buffer}, loaded.extra["driver"])


def assert_same_bits(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """Equal names, shapes, dtypes and bytes."""
    assert got.keys() == want.keys()
    different = [
        name
        for name in want
        if (got[name].shape, got[name].dtype) != (want[name].shape, want[name].dtype)
        or got[name].tobytes() != want[name].tobytes()
    ]
    assert different == []

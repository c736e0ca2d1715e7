"""What every driver compiles: act, and learn from a rollout. A driver decides only where a rollout comes from."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polyak.drivers.program import Program, over_seeds, stack_seeds
from polyak.errors import UserError
from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Box,
    Discrete,
    OnPolicy,
    Replay,
    Spec,
    Transition,
    Tree,
    out_of_range,
)
from polyak.parts import replay
from polyak.pytree import strong


class Keys(NamedTuple):
    """Streams of random numbers, each a function of the run's seed; a place in a stream is reached by `fold_in`."""

    init: Array
    act: Array
    uniform: Array
    learn: Array
    env: Array
    memory: Array
    evaluate: Array

    @classmethod
    def of(cls, seed: Array) -> "Keys":
        """The streams of one seed (an integer, or a tracer of one)."""
        return cls(*jax.random.split(jax.random.key(seed), len(cls._fields)))


class RowKeys(NamedTuple):
    """What one row of a rollout draws from, a function of the row's number since the run began.

    Raw numbers, which cross the border of a program and of a loop like any others.
    """

    act: Array
    uniform: Array

    @classmethod
    def of(cls, keys: Keys, row: Array) -> "RowKeys":
        """Of one row."""
        return cls(*(jax.random.key_data(jax.random.fold_in(key, row)) for key in (keys.act, keys.uniform)))

    @classmethod
    def of_rollout(cls, keys: Keys, iteration: Array, steps: int) -> "RowKeys":
        """Of the T rows of a rollout, [T]: made at once, which is cheaper than one by one."""
        return jax.vmap(cls.of, (None, 0))(keys, iteration * steps + jnp.arange(steps))


def episode_key(key: Array, env: Array, episode: Array, step: Array) -> Array:
    """An environment's randomness is a function of (run, environment, episode, step); step 0 is the reset."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, env), episode), step)


def batched(key: Array, num_envs: int, episode: Array, step: Array) -> Array:
    """`episode_key` of each of N environments: [N] keys."""
    return jax.vmap(episode_key, (None, 0, 0, 0))(key, jnp.arange(num_envs), episode, step)


def initial_states(algorithm: Algorithm, cfg: Any, spec: Spec, seeds: Iterable[int]) -> Tree:
    """The algorithm's state [S, ...] for each seed, made one after another.

    Never under vmap: batched LAPACK kernels, as orthogonal layers would need, can block XLA's threads for ever.
    """
    init = jax.jit(lambda seed: strong(algorithm.init(cfg, spec, Keys.of(seed).init)))
    return jax.jit(stack_seeds)([init(seed) for seed in seeds])


def actors(algorithm: Algorithm) -> Program:
    """From the states [S, ...] of S seeds to what acting needs, [S, ...] in every leaf; fresh arrays."""
    return Program(lambda state: over_seeds(algorithm.actor, state))


def warmup_iterations(cfg: Any, spec: Spec) -> int:
    """Rollouts before the first update."""
    if isinstance(cfg.data, OnPolicy):
        return 0
    return -(-cfg.data.warmup // (cfg.data.steps * spec.num_envs))


def check_data(
    name: str,
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    fitting: Callable[[str], list[str]] = lambda kind: [],
) -> None:
    """Refuse in one line what no driver serves yet, and settings that contradict each other.

    fitting  from a kind of actions to the names of algorithms that take it, for the line that says so
    """
    data = cfg.data
    wrong = [
        f"data.{field} is not served yet (given {getattr(data, field)!r}, leave it at {unset!r})"
        for field, unset in UNSERVED.items()
        if getattr(data, field, unset) != unset
    ]
    wrong += out_of_range(cfg) + out_of_range(data, "data.")
    if isinstance(data, Replay) and not wrong:
        wrong += wrong_sizes(cfg, spec)
    if not wrong and hasattr(cfg, "wrong"):
        wrong += cfg.wrong(spec)
    if taken := sorted({"return", "return_std", "length", "count", "episodes"} & set(spec.measures)):
        wrong.append(f"measures named {', '.join(taken)} would hide polyak's own: choose other names")
    if spec.players > 1:
        wrong.append(f"this environment has {spec.players} players, which no driver serves yet")
    if wrong:
        raise UserError(f"{name}: " + "; ".join(wrong))
    kind = action_kind(spec)
    if kind not in algorithm.actions:
        taken, fit = " and ".join(algorithm.actions), ", ".join(fitting(kind))
        advice = f": {fit} would fit" if fit else ""
        raise UserError(f"{name} takes {taken} actions, but this task's are {kind}{advice}")


def wrong_sizes(cfg: Any, spec: Spec) -> list[str]:
    """A line for each size of the replay that does not fit the others."""
    data, wrong = cfg.data, []
    try:
        held = replay.slots(data.capacity, spec.num_envs, data.steps)
    except ValueError as error:
        return [str(error)]
    if data.warmup > data.capacity:
        wrong.append(f"data.warmup ({data.warmup}) is more than data.capacity ({data.capacity}) holds")
    rows = min(held, (warmup_iterations(cfg, spec) + 1) * data.steps)  # before the first update
    if rows < data.length:
        wrong.append(
            f"data.length is {data.length}, but at the first update the replay holds {rows} rows of each "
            "environment: raise data.warmup or data.capacity"
        )
    return wrong


UNSERVED = {
    "episodes": 0,
    "simulator": False,
    "self_play": False,
    "common": 0,
    "ended": False,
    "hindsight": None,
    "priority": 0.0,
    "correction": 0.4,
    "frames": 0,
}


def action_kind(spec: Spec) -> str:
    """Which kind of actions this task takes: "discrete" or "continuous"."""
    return "discrete" if isinstance(spec.action, Discrete) else "continuous"


def choose(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    actor: Tree,
    memory: Tree,
    obs: Tree,
    keys: RowKeys,
    warm: bool,
) -> tuple[Array, Tree, Tree]:
    """What to do in a row: `act`, whose action a warm-up may replace by a uniform one.

    obs  [N, ...].  Returns action, memory, extras of [N, ...].
    """
    action, memory, extras = algorithm.act(
        cfg, spec, actor, memory, obs, jax.random.wrap_key_data(keys.act), True
    )
    if warm and cfg.data.uniform:
        action = uniform_action(spec, action, jax.random.wrap_key_data(keys.uniform))
    return action, memory, extras


def uniform_action(spec: Spec, like: Array, key: Array) -> Array:
    """Uniform legal actions in the shape of `like`: integers, or reals in [-1, 1]."""
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, like.shape, 0, spec.action.n, like.dtype)
    assert isinstance(spec.action, Box)
    return jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)


def row_shape(algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree) -> Transition:
    """The shapes [N, ...] of one row of a rollout, extras included: found by tracing `act`."""

    def row(state: Tree, key: Array) -> Transition:
        ids = jnp.arange(spec.num_envs)
        obs = jax.tree.map(lambda s: jnp.zeros((spec.num_envs, *s.shape), s.dtype), spec.obs)
        memory = algorithm.memory(cfg, spec, ids, ids, key)
        action, _, extras = algorithm.act(cfg, spec, algorithm.actor(state), memory, obs, key, True)
        flag = jnp.zeros(spec.num_envs, bool)
        return Transition(obs, action, jnp.zeros(spec.num_envs), obs, flag, flag, extras)

    return jax.eval_shape(row, state, jax.random.key(0))


def learn(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    buffer: Any,
    rollout: Transition,
    key: Array,
    warm: bool = False,
    sound: Array | bool = True,
) -> tuple[Tree, Any, dict[str, Array]]:
    """Add a rollout, sample and update. Returns state, buffer and the sum of each metric over the updates.

    rollout  [T, N, ...];  buffer  a Ring, or () on policy;  warm  no update yet;  sound  False keeps the update
    from happening, because the rollout holds what no environment may give.
    """
    if isinstance(cfg.data, OnPolicy):
        batch = on_policy_batch(rollout, cfg.gamma, cfg.data.clip)
        state, sums = repeat(algorithm, cfg, spec, state, lambda _: batch, key, 1, sound)
        return observe(algorithm, cfg, spec, state, rollout, sound), buffer, sums
    data = cfg.data
    buffer = replay.add(buffer, rollout)
    state = observe(algorithm, cfg, spec, state, rollout, sound)
    if warm:
        return state, buffer, {}

    def draw(key: Array) -> Batch:
        return replay.sample(buffer, key, data.batch_size, cfg.gamma, data.n_step, data.length, data.clip)

    state, sums = repeat(algorithm, cfg, spec, state, draw, key, data.updates, sound)
    return state, buffer, sums


def observe(
    algorithm: Algorithm, cfg: Any, spec: Spec, state: Tree, rollout: Transition, sound: Array | bool
) -> Tree:
    """Count and normalise by a rollout, or keep the state if it is not `sound`."""
    seen = algorithm.observe(cfg, spec, state, rollout)
    if sound is True:
        return seen
    return jax.tree.map(lambda new, old: jnp.where(sound, new, old), seen, state)


def on_policy_batch(rollout: Transition, gamma: float, clip: float | None) -> Batch:
    """A rollout [T, N, ...] as it is, with its discount and weight."""
    return Batch(
        *rollout._replace(reward=replay.clipped(rollout.reward, clip)),
        discount=jnp.where(rollout.terminated, 0.0, jnp.asarray(gamma, jnp.float32)),
        weight=jnp.ones_like(rollout.reward),
    )


def repeat(
    algorithm: Algorithm,
    cfg: Any,
    spec: Spec,
    state: Tree,
    draw: Any,
    key: Array,
    count: int,
    sound: Array | bool,
) -> tuple[Tree, dict[str, Array]]:
    """`count` updates, each on a fresh draw, or none if the rollout is not `sound`."""

    def one(state: Tree, index: Array | int) -> tuple[Tree, dict[str, Array]]:
        key_draw, key_update = jax.random.split(jax.random.fold_in(key, index))
        update = algorithm.update(cfg, spec, state, draw(key_draw), key_update)
        return strong(update.state), strong(update.metrics)

    def accumulate(index: Array, carry: tuple) -> tuple:
        state, sums = carry
        state, metrics = one(state, index)
        return state, jax.tree.map(jnp.add, sums, metrics)

    if count == 1 and sound is True:  # a loop around one update is only more to compile
        return one(state, 0)
    shapes = jax.eval_shape(one, state, 0)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    trips = count if sound is True else jnp.where(sound, count, 0)
    return jax.lax.fori_loop(0, trips, accumulate, (state, zeros))

"""Playing in graph: N episodes of an environment in JAX, for training, evaluation and videos alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from polyak.drivers.keys import episode_keys
from polyak.drivers.measures import gather
from polyak.envs.calling import passes
from polyak.envs.environment import Environment, Step, to_bounds
from polyak.errors import EnvironmentFault, place_of, said_by
from polyak.interface import Algorithm, Array, Discrete, Space, Spec, Transition, Tree
from polyak.pytree import Record, pytree, select, strip_weak_types


@pytree
class Episodes(Record):
    """The running episodes of N environments."""

    env: Tree  # the environments' states
    obs: Tree
    memory: Tree
    number: Array  # [N] int32, of the episode
    length: Array  # [N] int32, steps so far
    total: Array  # [N] float32, reward so far
    measures: dict[str, Array]  # each [N]


@dataclass(frozen=True, eq=False)
class Player:
    """Plays the episodes of N environments: how they begin, go on and end.

    action      the environment's own space of actions
    key         of the environments' randomness, a function of (environment, episode, step)
    env_ids     [N] the environments' numbers
    time_limit  steps after which an episode is truncated; None where there is no limit
    common      c: episode e draws what episode e mod c of environment 0 draws; 0: each its own
    """

    algorithm: Algorithm
    cfg: Any
    env: Environment
    spec: Spec
    action: Space
    key: Array
    env_ids: Array
    time_limit: int | None
    common: int = 0

    def keys(self, number: Array, step: Array) -> Array:
        """Keys [N] of one step of the episodes of these numbers."""
        if self.common:
            return episode_keys(self.key, jnp.zeros_like(self.env_ids), number % self.common, step)
        return episode_keys(self.key, self.env_ids, number, step)

    def begin(self, number: Array, key_memory: Array) -> Episodes:
        """Episodes of these numbers [N], from fresh random starts and with fresh memory."""
        zero = jnp.zeros(len(number), jnp.int32)
        env, obs = jax.vmap(self.env.reset)(self.keys(number, zero))
        memory = self.algorithm.memory(self.cfg, self.spec, self.env_ids, number, key_memory)
        measures = {name: jnp.zeros(len(number)) for name in self.spec.measures}
        return Episodes(env, obs, memory, number, zero, jnp.zeros(len(number)), measures)

    def step(
        self, episodes: Episodes, action: Array, memory: Tree, extras: Tree = ()
    ) -> tuple[Episodes, Transition]:
        """One step with what `act` gave: the episodes one step on, and the row [N, ...] that it makes."""
        length = episodes.length + 1
        stepped = jax.vmap(self.env.step)(
            episodes.env,
            to_bounds(self.action, action),
            self.keys(episodes.number, length),
        )
        reward, truncated = stepped.reward.astype(jnp.float32), stepped.truncated
        if self.time_limit is not None:
            truncated = truncated | (length >= self.time_limit)
        truncated = truncated & ~stepped.terminated
        row = Transition(episodes.obs, action, reward, stepped.obs, stepped.terminated, truncated, extras)
        after = Episodes(
            env=stepped.state,
            obs=stepped.obs,
            memory=memory,
            number=episodes.number,
            length=length,
            total=episodes.total + first_players(self.spec, reward, episodes.length),
            measures=gather(self.spec, episodes.measures, stepped.measures, length, jnp),
        )
        return after, row

    def reset_ended(self, episodes: Episodes, ended: Array, key_memory: Array) -> Episodes:
        """The next episode where `ended` [N] is set, as `begin` has it; the others go on."""
        episodes = episodes.replace(number=episodes.number + ended)
        return strip_weak_types(select(ended, self.begin(episodes.number, key_memory), episodes))


def first_players(spec: Spec, reward: Array, length: Array) -> Array:
    """Rewards as the player counts them who moved first: in a game each reward is the mover's, who alternates."""
    return jnp.where(length % 2 == 1, -reward, reward) if spec.players == 2 else reward


def check_environment(env: Environment, spec: Spec) -> None:
    """EnvironmentFault, one line, where `reset` or `step` does not give what the spec says."""
    key, name = jax.random.key(0), type(env).__name__
    begun = traced(f"{name}.reset", env.reset, key)
    if not isinstance(begun, tuple) or len(begun) != 2:
        raise EnvironmentFault(f"{name}.reset must return (state, obs), not {type(begun).__name__}")
    state, obs = begun
    kind = jnp.int32 if isinstance(spec.action, Discrete) else jnp.float32
    step = traced(f"{name}.step", env.step, state, jax.ShapeDtypeStruct(spec.action.shape, kind), key)
    if not isinstance(step, Step):
        raise EnvironmentFault(f"{name}.step must return a Step, not {type(step).__name__}")
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


def traced(what: str, function: Callable, *args: Any) -> Any:
    """Shapes of what a user's function returns; EnvironmentFault, one line, where it cannot be traced."""
    try:
        return jax.eval_shape(function, *args)
    except (jax.errors.TracerBoolConversionError, jax.errors.TracerIntegerConversionError) as error:
        wrong = (
            "Python's `if`, `while`, `and`, `or`, `not` or `range` on a value that is known only when it runs"
        )
        raise EnvironmentFault(
            f"{what} uses {wrong}{place_of(error)}: use jnp.where, jax.lax.cond, or `&`, `|`, `~`"
        ) from error
    except jax.errors.ConcretizationTypeError as error:
        raise EnvironmentFault(
            f"{what} asks for a value that is known only when it runs{place_of(error)}: use jax.numpy on it, not "
            "float(), int() or NumPy"
        ) from error
    except jax.errors.TracerArrayConversionError as error:
        raise EnvironmentFault(f"{what} uses NumPy{place_of(error)} where jax.numpy is needed") from error
    except BaseException as error:
        if passes(error):
            raise
        raise EnvironmentFault(f"{what} raised {said_by(error)}") from error


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

"""Populations: policies as flat vectors of parameters, who plays which, and what each returned.

A candidate is one vector theta [D]. In a rollout of k whole episodes of each of N environments the e-th episode of
environment n is played by candidate (n k + e) mod P, so that each of the P candidates plays N k / P episodes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from polyak.interface import Array, Batch, Discrete, Spec, Tree
from polyak.parts.networks import build
from polyak.pytree import Record, pytree

# ---- a policy and its vector


def build_network(cfg: Any, spec: Spec, key: Array, scale: float = 1.0) -> Tree:
    """The network that `cfg` names, with an output for each action, or for each number of one.

    scale  multiplies the last layer's initial values
    """
    outputs = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
    return build(cfg.network)(key, spec.obs, outputs, cfg.hidden, cfg.activation, scale=scale)


def flatten(network: Tree) -> Float[Array, " D"]:
    """All parameters of a network, one after another."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(network)])


def unflatten(cfg: Any, spec: Spec, params: Array) -> Tree:
    """The network whose parameters are the vector `params` [D]."""
    leaves, structure = jax.tree.flatten(_shapes(cfg, spec))
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    places = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(params, places), leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)


def num_params(cfg: Any, spec: Spec) -> int:
    """D, how many parameters the network has."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_shapes(cfg, spec)))


def _shapes(cfg: Any, spec: Spec) -> Tree:
    return jax.eval_shape(lambda key: build_network(cfg, spec, key), jax.random.key(0))


def action_of(cfg: Any, spec: Spec, params: Array, obs: Tree) -> Array:
    """The actions [N, ...] of one policy [D]: the largest output, or tanh of the outputs for real actions."""
    outputs = unflatten(cfg, spec, params)(obs)
    if isinstance(spec.action, Discrete):
        return outputs.argmax(axis=-1).astype(jnp.int32)
    return jnp.tanh(outputs)


# ---- who plays which


@pytree
class Player(Record):
    """The candidate that plays an environment's episode; it is made at the first step, when `act` sees the actor."""

    member: Array  # [N] int32, the candidate's number, 0 <= member < P
    params: Array  # [N, D] its parameters
    ready: Array  # [N] whether they are there


def players(cfg: Any, spec: Spec, env_ids: Array, episode: Array) -> Player:
    """Candidates for episodes of these numbers [N]."""
    count, size = len(env_ids), num_params(cfg, spec)
    member = (env_ids * cfg.data.episodes + episode) % cfg.population
    return Player(member.astype(jnp.int32), jnp.zeros((count, size)), jnp.zeros(count, bool))


def play(
    cfg: Any, spec: Spec, player: Player, candidate: Callable[[Array], Array], obs: Tree
) -> tuple[Array, Player]:
    """Each environment's action by its own candidate, and the players, who are ready from now on.

    candidate  from a member's number to its parameters [D]; called only where an episode begins
    """

    def make(player: Player) -> Player:
        made = jax.vmap(candidate)(player.member)
        params = jnp.where(player.ready[:, None], player.params, made)
        return Player(player.member, params, jnp.ones_like(player.ready))

    # a loop of one turn or none: unlike a `cond` it stays a branch where seeds are batched
    player = jax.lax.while_loop(lambda player: ~player.ready.all(), make, player)
    one = jax.tree.map(lambda x: x[:, None], obs)
    action = jax.vmap(lambda params, obs: action_of(cfg, spec, params, obs))(player.params, one)
    return action[:, 0], player


# ---- what each returned


def returns(cfg: Any, batch: Batch) -> Float[Array, " P"]:
    """The mean return of each candidate, over all its episodes of a rollout [T, N, ...].

    The return is the sum of gamma^h r_h over an episode's steps h. Who played stands in `batch.extras["member"]`.
    """
    played, last = batch.weight > 0, batch.last
    time = jnp.arange(len(last))[:, None]
    after_end = jnp.concatenate([jnp.ones_like(last[:1]), last[:-1]])
    start = jax.lax.cummax(jnp.where(after_end, time, 0), axis=0)
    worth = batch.reward * jnp.power(jnp.asarray(cfg.gamma, jnp.float32), time - start)
    member = batch.extras["member"] % cfg.population
    total = jnp.zeros(cfg.population).at[member].add(jnp.where(played, worth, 0.0))
    episodes = jnp.zeros(cfg.population).at[member].add(played & last)
    return total / jnp.maximum(episodes, 1)


def wrong_population(cfg: Any, spec: Spec) -> list[str]:
    """A line where there are no whole episodes, or where those of a rollout cannot be dealt out evenly."""
    episodes = spec.num_envs * cfg.data.episodes
    if not episodes:
        return ["data.episodes is 0, but must be at least 1: a candidate is judged by whole episodes"]
    if episodes % cfg.population == 0:
        return []
    return [
        f"data.episodes is {cfg.data.episodes} with {spec.num_envs} environments, which makes {episodes} episodes, "
        f"but must make a multiple of population, {cfg.population}"
    ]


# ---- ranks


def centred_ranks(value: Float[Array, " P"]) -> Float[Array, " P"]:
    """From -1/2 for the least value to 1/2 for the largest (Salimans et al. 2017, section 2, fitness shaping).

    Equal values share the mean of their ranks: candidates that are equally good say nothing.
    """
    ordered = jnp.sort(value)
    below = jnp.searchsorted(ordered, value, side="left")
    not_above = jnp.searchsorted(ordered, value, side="right")
    return (below + not_above - 1) / (2 * (len(value) - 1)) - 0.5


def best_first(value: Float[Array, " P"]) -> Int[Array, " P"]:
    """The members' numbers in the order of their values, the largest first; equal ones keep their order."""
    return jnp.argsort(-value)

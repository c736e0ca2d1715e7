"""Matches of two players at a game of alternating moves, from the same openings with both colours, and Elo."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment
from polyak.envs.worlds.games import uniform
from polyak.interface import Array, Tree
from polyak.pytree import select

Player = Callable[[Tree, Tree, Array], Array]  # (state, obs, key), [N, ...] each, to moves [N]; traced


class Score(NamedTuple):
    """How a player did against another."""

    won: int
    drawn: int
    lost: int

    @property
    def games(self) -> int:
        """How many were played."""
        return self.won + self.drawn + self.lost

    @property
    def mean(self) -> float:
        """Share of the points: a draw is half of one."""
        return (self.won + self.drawn / 2) / self.games

    @property
    def half(self) -> float:
        """Half of the mean's 95 % interval, with one point added on each side, so that it is never 0."""
        won, count = self.won + 0.5, self.games + 1
        mean = (won + self.drawn / 2) / count
        variance = (won + self.drawn / 4) / count - mean**2
        return 1.96 * math.sqrt(variance / count)

    @property
    def elo(self) -> float:
        """The difference of ratings that makes the mean likely, with one point added on each side."""
        mean = (self.won + self.drawn / 2 + 0.5) / (self.games + 1)
        return 400 * math.log10(mean / (1 - mean))

    def __str__(self) -> str:
        return f"{self.mean:.1%} +- {self.half:.1%} (+{self.won} ={self.drawn} -{self.lost})"


def random_player(state: Tree, obs: Tree, key: Array) -> Array:
    """Uniform legal moves."""
    return jax.vmap(uniform)(state, obs, jax.random.split(key, obs["legal"].shape[0]))


def match(
    env: Environment,
    one: Player,
    other: Player,
    pairs: int,
    opening: int = 2,
    longest: int = 1_000,
    seed: int = 0,
) -> Score:
    """The score of `one`, in two games from each of so many openings, of which it begins one.

    opening  uniform moves before the players take over; an opening that ends the game is no win for anybody
    longest  moves after which a game is drawn
    """
    key_reset, key_opening, *keys = jax.random.split(jax.random.key(seed), 4)
    starts = jax.vmap(env.reset)(jax.random.split(key_reset, pairs))
    move = {player: jax.jit(functools.partial(moved, env, player)) for player in (one, other, random_player)}
    points = []
    for players, key in (((one, other), keys[0]), ((other, one), keys[1])):
        games = Games(*starts, jnp.zeros(pairs, bool), jnp.zeros(pairs))
        for ply in range(opening):
            games = move[random_player](games, jax.random.fold_in(key_opening, ply), 1.0)
        games = games._replace(points=jnp.zeros(pairs))
        for ply in range(opening, longest):
            if np.asarray(games.over).all():
                break
            games = move[players[ply % 2]](games, jax.random.fold_in(key, ply), (-1.0) ** ply)
        points.append(np.asarray(games.points) * (1 if players[0] is one else -1))
    result = np.concatenate(points)
    return Score(int((result > 0).sum()), int((result == 0).sum()), int((result < 0).sum()))


class Games(NamedTuple):
    """Games that are played side by side [N, ...], all of the same ply."""

    state: Any
    obs: Tree
    over: Array
    points: Array  # so far, of who moved first


def moved(env: Environment, player: Player, games: Games, key: Array, sign: Array) -> Games:
    """The games one move on, where they are not over; `sign` is -1 where who moved second is to move."""
    key_move, key_step = jax.random.split(key)
    action = player(games.state, games.obs, key_move)
    step = jax.vmap(env.step)(games.state, action, jax.random.split(key_step, len(action)))
    running = ~games.over
    state, obs = select(running, (step.state, step.obs), (games.state, games.obs))
    over = games.over | step.terminated | step.truncated
    return Games(state, obs, over, games.points + jnp.where(running, sign * step.reward, 0.0))

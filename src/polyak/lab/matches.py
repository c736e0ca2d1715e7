"""Matches of two players at a game of alternating moves, from the same openings with both colours, and Elo."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
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
    return _match(_movers(env, (one, other)), env, one, other, pairs, opening, longest, seed)


def _movers(env: Environment, players: Sequence[Player]) -> dict[Player, Callable]:
    """What makes a move of each, and of a uniform player: compiled once for all their matches."""
    return {player: jax.jit(functools.partial(moved, env, player)) for player in (*players, random_player)}


def _match(
    move: dict[Player, Callable],
    env: Environment,
    one: Player,
    other: Player,
    pairs: int,
    opening: int,
    longest: int,
    seed: int,
) -> Score:
    key_reset, key_opening, *keys = jax.random.split(jax.random.key(seed), 4)
    starts = jax.vmap(env.reset)(jax.random.split(key_reset, pairs))
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


# ---- a ladder


class Ratings(NamedTuple):
    """Elo of players who met one another, relative to the first of them.

    elo   [K], 400 log10 of the odds that a player wins against the first; that one's is 0
    half  [K], half of its 95 % interval; 0 of the first
    """

    names: tuple[str, ...]
    elo: np.ndarray
    half: np.ndarray

    def __str__(self) -> str:
        """A line for each player."""
        wide = max(map(len, self.names))
        each = zip(self.names, self.elo, self.half, strict=True)
        return "\n".join(f"{name:<{wide}}  {elo:+6.0f} +- {half:.0f}" for name, elo, half in each)


Scores = Mapping[tuple[str, str], Score]  # (one, other) -> how one did against the other


def round_robin(
    env: Environment,
    players: Mapping[str, Player],
    pairs: int,
    opening: int = 2,
    longest: int = 1_000,
    seed: int = 0,
    met: Callable[[int], Any] = lambda matches: None,
) -> dict[tuple[str, str], Score]:
    """The scores of all matches of two players with these names, each as `match` plays it, from other openings.

    met  called after each match with how many there were
    """
    move, scores = _movers(env, list(players.values())), {}
    for number, (one, other) in enumerate(combinations(players, 2)):
        scores[one, other] = _match(
            move, env, players[one], players[other], pairs, opening, longest, seed + number
        )
        met(number + 1)
    return scores


LOGISTIC = math.log(10) / 400  # of an Elo point


def ratings(scores: Scores) -> Ratings:
    """The most likely Elo of all players in the model of Bradley & Terry 1952, a draw being half a win of both.

    To each match one game is added that half of each wins, so that no rating is infinite. Intervals are those of the
    maximum of a likelihood that need not be true (White 1982): J^-1 V J^-1, with the information J, and V from how
    the results vary, which draws make less. They hold for every player by itself, and for many games.
    """
    names = tuple(dict.fromkeys(name for pair in scores for name in pair))
    where = {name: number for number, name in enumerate(names)}
    count = len(names)
    one, other = (np.array([where[pair[side]] for pair in scores]) for side in (0, 1))
    games = np.array([score.games + 1 for score in scores.values()], float)
    share = np.array([(s.won + s.drawn / 2 + 0.5) / (s.games + 1) for s in scores.values()])
    squares = np.array([(s.won + s.drawn / 4 + 0.5) / (s.games + 1) for s in scores.values()])
    differs = np.zeros((len(games), count))  # [matches, K]
    differs[np.arange(len(games)), one] = 1
    differs[np.arange(len(games)), other] -= 1
    differs = differs[:, 1:]  # the first is the zero
    rating, information = np.zeros(count - 1), np.eye(count - 1)
    for _ in range(NEWTON):
        expected = 1 / (1 + np.exp(-differs @ rating))
        information = differs.T * (games * expected * (1 - expected)) @ differs
        step = np.linalg.solve(information, differs.T @ (games * (share - expected)))
        rating = rating + step * min(
            1.0, 1.0 / max(np.abs(step).max(), 1e-12)
        )  # never more than e times the odds
    variance = differs.T * (games * (squares - share**2)) @ differs
    inverse = np.linalg.inv(information)
    half = 1.96 * np.sqrt(np.diag(inverse @ variance @ inverse)) / LOGISTIC
    return Ratings(names, np.append(0.0, rating / LOGISTIC), np.append(0.0, half))


NEWTON = 100  # steps of Newton's method, of which about ten change something

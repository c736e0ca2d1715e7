"""A ladder: policies of one game of two play all against all, and each gets its Elo."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polyak import algorithms
from polyak.envs.environment import Environment
from polyak.errors import UserError
from polyak.interface import Array, Shown, Tree
from polyak.lab.matches import Player, Ratings, Score, random_player, ratings, round_robin
from polyak.runs.agent import Agent
from polyak.runs.play import Mind, game_of
from polyak.runs.run import Run

UNIFORM = "uniform moves"  # who is rated 0


class Ladder(NamedTuple):
    """Who met, and how strong each is.

    rated   Elo of all, uniform moves first, whose Elo is 0
    scores  of all matches, (one, other) -> how one did
    """

    rated: Ratings
    scores: dict[tuple[str, str], Score]

    def best_first(self) -> list[tuple[str, float, float, float]]:
        """Of each its name, Elo, half of its 95 % interval and its share of all its points, the strongest first."""
        lines = []
        for name, elo, half in zip(*self.rated, strict=True):
            met = [score.mean for (one, _), score in self.scores.items() if one == name]
            met += [1 - score.mean for (_, other), score in self.scores.items() if other == name]
            lines.append((name, float(elo), float(half), sum(met) / len(met)))
        return sorted(lines, key=lambda line: -line[1])


def contender(mind: Mind) -> Player:
    """A policy as a player who thinks of every position afresh, without exploring."""

    def play(state: Tree, obs: Tree, key: Array) -> Array:
        count = len(jax.tree.leaves(state)[0])
        zeros = jnp.zeros(count, jnp.int32)
        memory = mind.algorithm.memory(mind.cfg, mind.spec, jnp.arange(count), zeros, key)
        seen = Shown(obs, state) if mind.cfg.data.simulator else obs
        return mind.algorithm.act(mind.cfg, mind.spec, mind.actor, memory, seen, key, False)[0]

    return play


def ladder(
    game: Environment,
    players: Mapping[str, Player],
    games: int = 100,
    opening: int = 4,
    longest: int = 1_000,
    seed: int = 0,
    met: Callable[[int], Any] = lambda matches: None,
) -> Ladder:
    """Let all meet one another and a player of uniform moves.

    games    of each two, half of them begun by each; from openings of `opening` uniform moves, the same for both
    longest  moves after which a game is drawn
    met      called after each match with how many there were
    """
    scores = round_robin(
        game, {UNIFORM: random_player, **players}, max(games // 2, 1), opening, longest, seed, met
    )
    return Ladder(ratings(scores), scores)


class Entry(NamedTuple):
    """One who takes part: a run, or an algorithm that learns nothing, with so many simulations before every move."""

    name: str
    run: Run | None = None
    simulations: int | None = None  # None: as it was trained


def entry(word: str, open_run: Callable[[Path], Run]) -> Entry:
    """What RUN, RUN@STEPS (its checkpoint after so many steps) or PLANNER:SIMULATIONS means."""
    planner, found, count = word.partition(":")
    if found and planner in algorithms.names() and not Path(word).exists():
        if algorithms.find(planner).learns:
            raise UserError(f"{word!r}: {planner} has to be trained: name the folder of a run")
        if not count.isdecimal() or not int(count):
            raise UserError(f"{word!r}: after : stand the simulations before a move, as in {planner}:100")
        return Entry(word, simulations=int(count))
    path, found, steps = word.rpartition("@")
    if not found or Path(word).exists():
        return Entry(Path(word).name, open_run(Path(word)))
    if not steps.isdecimal():
        raise UserError(f"{word!r}: after @ stands after how many steps, as in {path}@65536")
    return Entry(f"{Path(path).name}@{steps}", open_run(Path(path)).at(int(steps)))


def entrants(
    entries: Sequence[Entry], simulations: int | None = None
) -> tuple[Environment, dict[str, Player]]:
    """The game that all play, and the player of each name.

    simulations  before every move, of runs whose policy searches; None: as each was trained
    UserError where there is no run, where one plays no game of two or another game, or where two have one name.
    """
    games: dict[str, Environment] = {}
    for each in entries:
        if each.run is not None:
            world = each.run.trust().find(each.run.trust().eval_fields)
            games[each.name] = game_of(world, each.run.plan.env, "ladder")
    if not games:
        raise UserError("a ladder needs a run, whose game is played")
    (first, game), players = next(iter(games.items())), {}
    for each in entries:
        if each.name in players:
            raise UserError(f"two are named {each.name}: name each once, or give a folder another name")
        if repr(games.get(each.name, game)) != repr(game):
            raise UserError(f"a ladder is of one game, but {first} and {each.name} play different ones")
        if each.run is None:
            policy, searches = Agent(each.name.partition(":")[0], game).policy(), each.simulations
        else:
            policy = each.run.policy()
            searches = simulations if hasattr(policy.cfg, "simulations") else None
        players[each.name] = contender(Mind(policy, game, searches))
    return game, players

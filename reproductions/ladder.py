"""Elo over a training: the networks of its checkpoints, and uniform moves, play all against all.

python -m reproductions.ladder --row H3 [--long]
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import polyak
from polyak.envs.find import find
from polyak.lab.matches import Player, Ratings, Score, random_player, ratings, round_robin
from reproductions.finding import Finding, main, train
from reproductions.games import at_sight, searching, trained


class Climb(NamedTuple):
    """A training of AlphaZero, and how strong it was on the way.

    moves   [K] of self-play, of each of the rated networks
    rated   [K + 1], uniform moves first
    scores  of all their matches
    """

    moves: list[int]
    rated: Ratings
    scores: dict[tuple[str, str], Score]


TOWER = {  # a small network of the papers' kind, for games on larger boards
    **{"simulations": 16, "considered": 16, "network": "residual", "hidden": (32, 32), "opening": 16},
    **{"data.capacity": 60_000, "data.batch_size": 256, "data.warmup": 8_192, "data.steps": 16},
    **{"data.updates": 16, "data.n_step": 256},
}
GAMES: dict[
    str, dict[str, Any]
] = {  # settings of short trainings, those without a tower thousands of moves a second
    "jax:ConnectFour": {
        **{"simulations": 16, "considered": 7, "hidden": (128, 128), "opening": 12, "temperature": 4.0},
        **{"data.capacity": 100_000, "data.batch_size": 256, "data.warmup": 4_096, "data.steps": 16},
        **{"data.updates": 8, "data.n_step": 42},
    },
    "pgx:animal_shogi": {
        **{"simulations": 8, "considered": 8, "hidden": (128, 128), "opening": 6, "temperature": 2.0},
        **{"data.capacity": 65_536, "data.batch_size": 128, "data.warmup": 4_096, "data.steps": 32},
        **{"data.updates": 16, "data.n_step": 256},
    },
    "pgx:go_9x9": TOWER,
    "pgx:gardner_chess": TOWER,
}


@functools.cache
def climb(
    env: str, steps: int, rungs: int, pairs: int, simulations: int = 0, num_envs: int = 64, opening: int = 4
) -> Climb:
    """Train for so many moves, keep as many networks on the way, and let them meet.

    pairs        of games of each two, from other openings of so many uniform moves
    simulations  before every move of a match; 0: the network's own best move
    """
    world, kept = find(env), {}

    def keep(event: Any) -> None:
        """The network of a checkpoint, which the run folder deletes some checkpoints later."""
        kept[event.env_steps] = trained(polyak.load(Path(event.path)).at(event.env_steps))

    config = {**GAMES[env], "horizon": steps}
    said = {"num_envs": num_envs, "config": config, "eval_every": 0, "checkpoint_every": steps // rungs}
    train("alphazero", env, steps=steps, on_checkpoint=keep, **said)
    players: dict[str, Player] = {"uniform moves": random_player}
    for moves, (cfg, net) in sorted(kept.items()):
        player = searching(world, cfg, net, simulations=simulations) if simulations else at_sight(world, net)
        players[f"{moves:,} moves"] = player
    scores = round_robin(world, players, pairs, opening=opening, longest=300)
    return Climb(sorted(kept), ratings(scores), scores)


def found(climbs: dict[str, Climb]) -> Finding:
    """What the ladders say: more training, more strength."""
    claims, said = {}, []
    for env, (moves, rated, scores) in climbs.items():
        print(f"{env}\n{rated}", flush=True)
        last, first = (f"{count:,} moves" for count in (moves[-1], moves[0]))
        against = scores[first, last]
        claims[f"{env}: every network is above uniform moves"] = bool((rated.elo - rated.half)[1:].min() > 0)
        claims[f"{env}: the last beats the first: {1 - against.mean:.1%} +- {against.half:.1%}"] = (
            1 - against.mean - against.half > 0.5
        )
        rises = np.corrcoef(np.log(moves), rated.elo[1:])[0, 1]
        claims[f"{env}: Elo rises with the logarithm of the moves (correlation {rises:.2f})"] = bool(
            rises > 0.5
        )
        each = zip(moves, rated.elo[1:], rated.half[1:], strict=True)
        said.append(f"{env} " + ", ".join(f"{count:,}: {elo:.0f} +- {half:.0f}" for count, elo, half in each))
    return Finding(claims, "Elo above uniform moves, by moves of self-play: " + "; ".join(said))


@functools.cache
def short_climbs() -> dict[str, Climb]:
    """A minute of connect four, and 16 simulations before every move of a match."""
    return {"jax:ConnectFour": climb("jax:ConnectFour", 131_072, 4, 100, 16, 128, opening=6)}


def short() -> Finding:
    """The networks of four checkpoints."""
    return found(short_climbs())


def long() -> Finding:
    """An hour of 9 x 9 Go, Gardner's chess and animal shogi, and 16 simulations before every move of a match."""
    return found(
        {
            "pgx:go_9x9": climb("pgx:go_9x9", 262_144, 4, 25, 16, 128, opening=6),
            "pgx:gardner_chess": climb("pgx:gardner_chess", 65_536, 4, 25, 16, 128, opening=6),
            "pgx:animal_shogi": climb("pgx:animal_shogi", 262_144, 4, 50, 16, 128, opening=6),
        }
    )


if __name__ == "__main__":
    main({"H3": short}, long={"H3": long})

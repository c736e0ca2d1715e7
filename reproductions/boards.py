"""Boards of Go, chess and shogi (H3): one file of AlphaZero trains them all, and beats what it was at first."""

import time
from typing import Any

import numpy as np

import polyak
from polyak.envs.find import find
from polyak.lab.matches import Score, match
from reproductions import ladder
from reproductions.finding import Finding, main, train
from reproductions.games import searching, trained

SMALL = {
    **{"simulations": 8, "considered": 8, "hidden": (128, 128), "opening": 6, "temperature": 2.0},
    **{"data.capacity": 8_192, "data.batch_size": 128, "data.warmup": 2_048, "data.steps": 32},
    **{"data.updates": 16, "data.n_step": 512},
}


def played(env: str, first: int, last: int, pairs: int, **config: Any) -> tuple[polyak.Run, Score, str]:
    """Train until `first` and then `last` moves, and let the last network play the first, with the same search."""
    began = time.monotonic()
    settings = {**SMALL, **config, "horizon": last}
    said = {"num_envs": 32, "config": settings, "eval_every": 0, "checkpoint_every": last}
    run = train("alphazero", env, steps=first, name=f"boards-{env.partition(':')[2]}", **said)
    cfg, early = trained(run)
    run = run.resume(steps=last)
    minutes = (time.monotonic() - began) / 60
    world, (_, late) = find(env), trained(run)
    newest, oldest = (searching(world, cfg, net) for net in (late, early))
    score = match(world, newest, oldest, pairs, opening=4, longest=300)
    return run, score, f"{env} {last:,} moves in {minutes:.1f} min"


def losses(run: polyak.Run) -> np.ndarray:
    """The policy's loss, line by line."""
    return np.array([line["update/policy_loss"] for line in run.metrics if "update/policy_loss" in line])


def small_boards() -> Finding:
    """Go, Gardner's chess and animal shogi, a few iterations each; of the last, its Elo against its first network."""
    claims, said = {}, []
    for env, last, needed in (
        ("go_9x9", 8_192, False),
        ("gardner_chess", 8_192, False),
        ("animal_shogi", 32_768, True),
    ):
        run, score, how = played(f"pgx:{env}", 4_096, last, 50)
        loss = losses(run)
        claims[f"{env}: every loss is finite ({len(loss)} lines)"] = bool(len(loss)) and bool(
            np.isfinite(loss).all()
        )
        if needed:
            claims[f"{env}: better than its first checkpoint: {score}"] = score.mean - score.half > 0.5
        said.append(f"{how}, against its checkpoint at 4,096 {score}, Elo {score.elo:+.0f}")
    return Finding(claims, "; ".join(said))


def full_boards() -> Finding:
    """An hour of the small boards, and a few iterations of chess, shogi and Go on full boards."""
    climbed = ladder.long()
    claims, said = dict(climbed.claims), [climbed.figure]
    for env in ("chess", "shogi", "go_19x19"):
        run, _, how = played(f"pgx:{env}", 4_096, 8_192, 2, **{"data.capacity": 4_096})
        claims[f"{env} runs: every loss is finite"] = bool(np.isfinite(losses(run)).all())
        said.append(how)
    return Finding(claims, "; ".join(said))


if __name__ == "__main__":
    main({"H3": small_boards}, long={"H3": full_boards})

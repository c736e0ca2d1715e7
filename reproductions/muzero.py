"""MuZero on tic-tac-toe, whose rules it is not given, beside the solved game (G12).

Every move that it makes is searched in its own model; legal moves are known at the root alone. It is played against
every reply from the start, as either player, and asked in every position. The longer form adds connect four beside the
perfect solver, and MinAtar's Breakout over a million frames.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import muzero
from polyak.envs.find import find
from polyak.interface import Array, Tree
from polyak.lab import games
from polyak.lab.matches import Player
from reproductions.finding import Finding, main, train
from reproductions.games import agreement, examination
from reproductions.minatar import uniform

WIDTH = 113  # boards that are searched together: all 4,520 are 40 times as many
SIMULATIONS = 100  # before a move in the evaluation
BREAKOUT, FRAMES, EPISODES = "gymnax:Breakout-MinAtar", 1_000_000, 50
PLIES, EACH = (16, 20, 24, 28), 20  # positions of connect four that are asked: marks on them, and how many


def player(run: polyak.Run, simulations: int, seed: int | None = None) -> Player:
    """MuZero without noise; with 0 simulations the policy's own best legal move."""
    policy = run.policy(seed)
    cfg, spec = policy.cfg, find(run.plan.env).spec
    model = jax.tree.map(jnp.asarray, policy.actor[0])

    def play(state: Tree, obs: Tree, key: Array) -> Array:
        if simulations == 0:
            logits, _ = model.predict(model.represent(obs))
            return jnp.where(obs["legal"] > 0, logits, -jnp.inf).argmax(axis=-1).astype(jnp.int32)
        searching = dataclasses.replace(cfg, simulations=simulations)
        return muzero.search(searching, spec, model, obs, key, None)[0]

    return play


def moves_of(run: polyak.Run, simulations: int, seed: int | None = None) -> dict[games.Board, int]:
    """The move on every board of tic-tac-toe, of one seed (the first, unless said)."""
    env, play = find("jax:TicTacToe"), player(run, simulations, seed)
    boards = [board for board in games.positions() if not games.over(board)]
    chosen = jax.jit(lambda state: play(state, jax.vmap(env._observe)(state), jax.random.key(0)))
    found: list[int] = []
    for first in range(0, len(boards), WIDTH):
        found += chosen(jnp.asarray(boards[first : first + WIDTH], jnp.int32)).tolist()
    return dict(zip(boards, found, strict=True))


def best_share(moves: dict[games.Board, int]) -> float:
    """The share of positions in which the move keeps what the position is worth."""
    kept = [-games.value(games.after(board, move)) == games.value(board) for board, move in moves.items()]
    return float(np.mean(kept))


def lost(moves: dict[games.Board, int]) -> int:
    """Different lost ends against every reply, as either player."""
    return games.losses(moves, 1) + games.losses(moves, -1)


def small_board() -> Finding:
    """Losses against exhaustive play, with and without search, after training with the preset."""
    run = train("muzero", "jax:TicTacToe")
    alone, searched = moves_of(run, 0), moves_of(run, SIMULATIONS)
    rng = np.random.default_rng(0)
    uniform = {board: int(rng.choice(games.moves(board))) for board in alone}
    claim = f"0 losses against exhaustive play, moving first or second (found {lost(searched)})"
    figure = (
        f"tic-tac-toe: {lost(searched)} different lost ends with {SIMULATIONS} simulations, {lost(alone)} by the "
        f"policy alone, {lost(uniform)} by uniform moves; best move in {best_share(searched):.1%}, "
        f"{best_share(alone):.1%} and {best_share(uniform):.1%} of {len(alone):,} positions"
    )
    return Finding({claim: lost(searched) == 0}, figure)


def connect_four(steps: int | None) -> str:
    """Agreement with the perfect solver, in words."""
    said = {} if steps is None else {"steps": steps}
    run = train("muzero", "jax:ConnectFour", **said)
    env, asked = find("jax:ConnectFour"), examination(PLIES, EACH)
    shares = {
        name: agreement(env, player(run, simulations), asked)
        for name, simulations in ((f"{SIMULATIONS} simulations", SIMULATIONS), ("the policy alone", 0))
    }
    means = ", ".join(f"{name} {np.mean(list(share.values())):.1%}" for name, share in shares.items())
    by_ply = ", ".join(f"{ply}: {value:.0%}" for ply, value in next(iter(shares.values())).items())
    return (
        f"connect four after {run.plan.steps:,} moves: agreement with the solver on {len(asked)} positions where moves "
        f"differ {means} (by ply {by_ply})"
    )


def all_three() -> Finding:
    """Tic-tac-toe, connect four with the preset's steps, and Breakout beside what DQN is to earn there."""
    found, connected = small_board(), connect_four(None)
    run = train("muzero", BREAKOUT, steps=FRAMES, eval_every=FRAMES // 10, eval_episodes=EPISODES)
    curve = [line["eval/return"] for line in run.metrics if "eval/return" in line]
    said = ", ".join(f"{value:.1f}" for value in curve)
    claim = f"Breakout: at least 5 after {FRAMES:,} frames (found {curve[-1]:.2f})"
    figure = (
        f"{found.figure}; {connected}; {BREAKOUT} {curve[-1]:.2f} after {FRAMES:,} frames (every {FRAMES // 10:,}: "
        f"{said}), uniform actions {uniform():.2f}, one seed"
    )
    return Finding({**found.claims, claim: curve[-1] >= 5}, figure)


if __name__ == "__main__":
    main({"G12": small_board}, long={"G12": all_three})

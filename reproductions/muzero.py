"""MuZero on tic-tac-toe, whose rules it is not given, beside the solved game (G12).

Every move that it makes is searched in its own model; legal moves are known at the root alone. It is played against
every reply from the start, as either player, and asked in every position. The longer form trains longer, and adds
MinAtar's Breakout over a million frames.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import muzero
from polyak.envs.find import find
from polyak.lab import games

WIDTH = 113  # boards that are searched together: all 4,520 are 40 times as many
SIMULATIONS = 100  # before a move in the evaluation
BREAKOUT, FRAMES = "gymnax:Breakout-MinAtar", 1_000_000


def moves_of(run: polyak.Run, simulations: int) -> dict[games.Board, int]:
    """The move on every board of tic-tac-toe, searched without noise; with 0 simulations the policy's own best."""
    env = find("jax:TicTacToe")
    policy = run.policy()
    cfg, spec, actor = policy.cfg, env.spec, policy.actor

    @jax.jit
    def chosen(state: jax.Array) -> jax.Array:
        obs = jax.vmap(env._observe)(state)
        if simulations == 0:
            logits = muzero.predict(spec, actor.model, muzero.represent(actor.model, obs))[0]
            return jnp.where(obs["legal"] > 0, logits, -jnp.inf).argmax(axis=-1)
        searching = dataclasses.replace(cfg, simulations=simulations)
        return muzero.act(searching, spec, actor, (), obs, jax.random.key(0), False)[0]

    boards = [board for board in games.positions() if not games.over(board)]
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


def board(steps: int | None) -> Finding:
    """Losses against exhaustive play, with and without search, after training with the preset."""
    said = {} if steps is None else {"steps": steps}
    run = train("muzero", "jax:TicTacToe", **said)
    alone, searched = moves_of(run, 0), moves_of(run, SIMULATIONS)
    rng = np.random.default_rng(0)
    uniform = {board: int(rng.choice(games.moves(board))) for board in alone}
    claims = {
        f"0 losses against exhaustive play, moving first or second (found {lost(searched)})": lost(searched)
        == 0
    }
    figure = (
        f"tic-tac-toe: {lost(searched)} different lost ends with {SIMULATIONS} simulations, {lost(alone)} by the "
        f"policy alone, {lost(uniform)} by uniform moves; best move in {best_share(searched):.1%}, "
        f"{best_share(alone):.1%} and {best_share(uniform):.1%} of {len(alone):,} positions"
    )
    return Finding(claims, figure)


def board_and_breakout() -> Finding:
    """Tic-tac-toe for longer, and Breakout beside the figure that DQN is to earn after as many frames."""
    found = board(None)
    run = train("muzero", BREAKOUT, steps=FRAMES)
    mean = float(run.evaluate(50).returns.mean())
    claim = f"Breakout: at least 5 after {FRAMES:,} frames (found {mean:.2f})"
    figure = f"{found.figure}; {BREAKOUT} {mean:.2f} after {FRAMES:,} frames, one seed"
    return Finding({**found.claims, claim: mean >= 5}, figure)


if __name__ == "__main__":
    main({"G12": partial(board, None)}, long={"G12": board_and_breakout})

"""MuZero on tic-tac-toe, whose rules it is not given: exhaustive play and every position beside the solved game (G12).

The longer form is MinAtar's Breakout over a million frames.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import muzero
from polyak.envs.find import find
from polyak.lab import games

SEEDS, WIDTH = 2, 113  # 4,520 boards are 40 times as many


def moves_of(run: polyak.Run, seed: int, simulations: int) -> dict[games.Board, int]:
    """The move on every board of tic-tac-toe, each searched without noise; with 0 simulations the policy's own best."""
    env = find("jax:TicTacToe")
    policy = run.policy(seed)
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
    return float(
        np.mean(
            [-games.value(games.after(board, move)) == games.value(board) for board, move in moves.items()]
        )
    )

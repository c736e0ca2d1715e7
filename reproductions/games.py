"""Games: AlphaZero on tic-tac-toe and connect four beside what the solved games say, and beside plain tree search.

Agreement is the share of positions in which a move keeps what the position is worth: won, drawn or lost.
"""

import dataclasses
import functools
import random
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import alphazero, mcts
from polyak.envs.environment import rules
from polyak.envs.find import find
from polyak.interface import Array, Shown, Spec, Tree
from polyak.lab import connect_four, games
from polyak.lab.matches import Player, match
from reproductions.finding import Finding, main, train

# ---- players


def ruled(env: Any) -> Spec:
    """What a planner knows of a game."""
    return dataclasses.replace(env.spec, model=rules(env))


def searching(env: Any, cfg: alphazero.Config, net: Tree, **settings: Any) -> Player:
    """AlphaZero without noise, with these settings of its search."""
    spec, cfg = ruled(env), dataclasses.replace(cfg, **settings)

    def play(state: Tree, obs: Tree, key: Array) -> Array:
        count = jnp.zeros(len(jax.tree.leaves(state)[0]), jnp.int32)
        return alphazero.act(cfg, spec, net, count, Shown(obs, state), key, False)[0]

    return play


def at_sight(env: Any, net: Tree) -> Player:
    """The network's own best move, without a search."""
    return lambda state, obs, key: alphazero.predict(env.spec, net, obs)[0].argmax(axis=-1).astype(jnp.int32)


def plain_tree(env: Any, simulations: int) -> Player:
    """MCTS with uniform rollouts, each search afresh."""
    spec, cfg = ruled(env), mcts.Config(simulations=simulations, keep=False, depth=42, rollout=42)

    def play(state: Tree, obs: Tree, key: Array) -> Array:
        count = len(jax.tree.leaves(state)[0])
        memory = mcts.memory(cfg, spec, jnp.arange(count), jnp.zeros(count, jnp.int32), key)
        return mcts.act(cfg, spec, (), memory, Shown(obs, state), key, True)[0]

    return play


def trained(run: polyak.Run) -> tuple[alphazero.Config, Tree]:
    """Settings and network of a run."""
    policy = run.policy()
    return policy.cfg, jax.tree.map(jnp.asarray, policy.actor)


# ---- tic-tac-toe


def small_board() -> Finding:
    """AlphaZero from every position that can be reached, and against exhaustive play from the start."""
    run = train("alphazero", "jax:TicTacToe", steps=400_000)
    env, (cfg, net) = find("jax:TicTacToe"), trained(run)
    boards = [board for board in games.positions() if not games.over(board)]
    state = jnp.asarray(boards, jnp.int32)

    def policy(player: Player) -> dict[games.Board, int]:
        return dict(zip(boards, moves_of(env, player, state).tolist(), strict=True))

    alone, best = policy(at_sight(env, net)), policy(searching(env, cfg, net, simulations=ENOUGH))
    keeps = np.mean([-games.value(games.after(b, move)) == games.value(b) for b, move in alone.items()])
    lost = games.losses(best, 1) + games.losses(best, -1)
    wrong, gave = len(games.mistakes(best)), len(games.mistakes(alone))
    claims = {
        f"0 losses against exhaustive play, moving first or second (found {lost})": lost == 0,
        f"{ENOUGH} simulations: 0 of {len(boards):,} positions given away (found {wrong})": wrong == 0,
    }
    return Finding(
        claims,
        f"tic-tac-toe: {lost} losses, {wrong} of {len(boards):,} positions given away with {ENOUGH} simulations, "
        f"{gave} by the network alone, whose moves are optimal in {keeps:.1%}",
    )


def moves_of(env: Any, player: Player, state: Array) -> np.ndarray:
    """The moves [N] of a player on these boards."""
    play = jax.jit(lambda state: player(state, jax.vmap(env._observe)(state), jax.random.key(0)))
    return np.asarray(play(state))


ENOUGH = 200  # simulations before a move of tic-tac-toe


# ---- connect four


def sensible(position: connect_four.Position, rng: random.Random) -> int:
    """A move of a beginner: wins where that is possible, stops the other's win, and is uniform otherwise."""
    columns = connect_four.moves(position)
    for column in columns:
        if connect_four.won(connect_four.after(position, column)):
            return column
    turned = connect_four.Position(position.mine ^ position.mask, position.mask)
    for column in columns:
        if connect_four.won(connect_four.after(turned, column)):
            return column
    return rng.choice(columns)


@functools.cache
def examination(
    plies: tuple[int, ...], each: int, seed: int = 0
) -> list[tuple[connect_four.Position, set[int]]]:
    """Positions of games of two beginners with so many marks, in which moves differ, and the best ones."""
    rng, solver, found = random.Random(seed), connect_four.Solver(), []
    for ply in plies:
        count = 0
        while count < each:
            position = connect_four.START
            while position.ply < ply and not connect_four.over(position):
                position = connect_four.after(position, sensible(position, rng))
            if connect_four.over(position):
                continue
            values = solver.values(position)
            if len(set(values.values())) > 1:
                best = max(values.values())
                found.append((position, {column for column, value in values.items() if value == best}))
                count += 1
    return found


def as_board(position: connect_four.Position) -> np.ndarray:
    """Marks [6, 7] as the environment keeps them."""
    board = np.zeros((6, 7), np.int8)
    mover = 1 if position.ply % 2 == 0 else -1
    for column in range(7):
        for row in range(6):
            bit = 1 << 7 * column + row
            if position.mask & bit:
                board[row, column] = mover if position.mine & bit else -mover
    return board


def agreement(
    env: Any, player: Player, asked: list[tuple[connect_four.Position, set[int]]]
) -> dict[int, float]:
    """The share of positions, by their marks, in which a player's move is one of the best."""
    boards = jnp.asarray(np.stack([as_board(position) for position, _ in asked]))
    right: dict[int, list[bool]] = {}
    for (position, best), move in zip(asked, moves_of(env, player, boards).tolist(), strict=True):
        right.setdefault(position.ply, []).append(move in best)
    return {ply: float(np.mean(each)) for ply, each in right.items()}


TOWER = {  # the papers' kind of network, for an accelerator: 4 million moves took 3 minutes on a shared H100
    **{"simulations": 32, "temperature": 4.0, "opening": 16, "network": "residual", "hidden": (64,) * 4},
    **{"data.capacity": 1_000_000, "data.batch_size": 1_024, "data.warmup": 98_304, "data.steps": 16},
    **{"data.updates": 96, "data.n_step": 42},
}


def connect(
    steps: int,
    plies: tuple[int, ...],
    each: int,
    simulations: int,
    needed: float,
    pairs: int = 0,
    **settings: Any,
) -> Finding:
    """AlphaZero beside the solver, and in so many pairs of games against MCTS with four times its simulations."""
    began = time.monotonic()
    run = train("alphazero", "jax:ConnectFour", steps=steps, **settings)
    minutes = (time.monotonic() - began) / 60
    asked = examination(plies, each)
    return examined(run, asked, simulations, needed, pairs, f"{run.plan.steps:,} moves in {minutes:.1f} min")


def examined(
    run: polyak.Run,
    asked: list[tuple[connect_four.Position, set[int]]],
    simulations: int,
    needed: float,
    pairs: int,
    how: str,
) -> Finding:
    """The same of a run that is there already, on these positions."""
    env, (cfg, net) = find("jax:ConnectFour"), trained(run)
    ours, plain = searching(env, cfg, net, simulations=simulations), plain_tree(env, 4 * simulations)
    shares = {
        f"{simulations} simulations": agreement(env, ours, asked),
        "the network alone": agreement(env, at_sight(env, net), asked),
        f"MCTS with {4 * simulations}": agreement(env, plain, asked),
    }
    for name, share in shares.items():
        print(f"  {name}: " + ", ".join(f"ply {ply} {value:.0%}" for ply, value in share.items()), flush=True)
    means = {name: float(np.mean(list(share.values()))) for name, share in shares.items()}
    reached, alone, others = means.values()
    claims = {
        f"agrees with the solver on more than {needed:.0%} of positions ({reached:.1%})": reached > needed,
        f"and on more than its network alone ({alone:.1%})": reached > alone,
    }
    said = ", ".join(f"{name} {mean:.1%}" for name, mean in means.items())
    by_ply = ", ".join(f"{ply}: {value:.0%}" for ply, value in next(iter(shares.values())).items())
    figure = (
        f"connect four after {how}: agreement with the solver on {len(asked)} positions where moves differ {said} "
        f"(by ply {by_ply})"
    )
    if pairs:
        score = match(env, ours, plain, pairs, opening=4)
        claims[f"and on more than MCTS with four times the simulations ({others:.1%})"] = reached > others
        claims[f"beats it: {score}"] = score.mean - score.half > 0.5
        figure += f"; against MCTS with {4 * simulations} {score}"
    return Finding(claims, figure)


def both() -> Finding:
    """Tic-tac-toe, and connect four after a short training: the same file."""
    first, second = small_board(), connect(300_000, (16, 20, 24, 28), 20, 64, 0.5)
    return Finding({**first.claims, **second.claims}, f"{first.figure}; {second.figure}")


def long() -> Finding:
    """Connect four with a tower of convolutions, 160 positions and 100 games."""
    large = {"num_envs": 2_048, "config": TOWER, "preset": False}
    return connect(8_000_000, (16, 20, 24, 28), 40, 128, 0.95, pairs=50, **large)


if __name__ == "__main__":
    main({"G11": both}, long={"G11": long})

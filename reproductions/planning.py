"""Planning: with a model that is learned (G5), by rollouts when a decision is due (G8), and in a tree (G9)."""

import dataclasses
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import polyak
from polyak.algorithms import learned_lqr, mcts
from polyak.envs.environment import rules
from polyak.envs.find import find
from polyak.envs.worlds.linear import LinearSystem
from polyak.interface import Array, Shown, Spec, Update
from polyak.lab import games
from reproductions.finding import Finding, main, train

PICTURE = Path("runs") / "mcts_elo.png"


# ---- G5: collect, fit, plan, again


def true_gain() -> np.ndarray:
    """The best gain of the linear system, by SciPy."""
    with jax.ensure_compile_time_eval():
        A, B, Q, R = (np.asarray(each, np.float64) for each in LinearSystem().matrices)
    P = scipy.linalg.solve_discrete_are(A, B, Q, R)
    return -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)


def true_init(cfg: Any, spec: Spec, key: Array) -> learned_lqr.State:
    """Learned LQR that knows the best gain already."""
    return learned_lqr.init(cfg, spec, key).replace(gain=jnp.asarray(true_gain(), jnp.float32))


def keep(cfg: Any, spec: Spec, state: learned_lqr.State, batch: Any, key: Array) -> Update:
    """The state as it was."""
    return Update(state.replace(clock=state.clock.updated()), {"sound": jnp.ones(())})


true_lqr = learned_lqr.algorithm._replace(init=true_init, update=keep)


def curve(run: polyak.Run, name: str) -> np.ndarray:
    """A metric over outer iterations, [S, iterations]."""
    lines = [line for line in run.metrics if name in line]
    seeds = sorted({line["seed"] for line in lines})
    return np.array([[line[name] for line in lines if line["seed"] == seed] for seed in seeds])


def middle(values: np.ndarray) -> float:
    """The interquartile mean."""
    kept = np.sort(values)[len(values) // 4 : len(values) - len(values) // 4]
    return float(kept.mean())


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the interquartile mean, by 2,000 bootstrap samples of the seeds."""
    rng = np.random.default_rng(0)
    drawn = [middle(rng.choice(values, len(values))) for _ in range(2_000)]
    return float(np.percentile(drawn, 2.5)), float(np.percentile(drawn, 97.5))


def never_falls(returns: np.ndarray) -> bool:
    """Whether no iteration's interquartile mean is below the one before by more than both intervals allow."""
    spans = [interval(column) for column in returns.T]
    return all(after[1] >= before[0] for before, after in pairwise(spans))


def loop() -> Finding:
    """Learned LQR on the linear system and MPC on Pendulum, each beside the planner with the true model."""
    per, count = 100, 10
    every: dict[str, Any] = {"seeds": 10, "eval_every": per, "eval_episodes": 10}
    linear = train("learned_lqr", "jax:LinearSystem-v0", steps=per * count, **every)
    best = train("reproductions.planning:true_lqr", "jax:LinearSystem-v0", steps=per, **every)
    returns, optimum = curve(linear, "eval/return"), middle(curve(best, "eval/return")[:, -1])
    share = optimum / middle(returns[:, -1])  # of costs: 1 is as cheap as the best
    claims = {
        "linear: the interquartile mean of the return never falls beyond its interval": never_falls(returns),
        "linear: the last iteration is no worse than the first": middle(returns[:, -1])
        >= middle(returns[:, 0]),
        f"linear: it ends at 95 % of the planner with the true model or more ({share:.2%})": share >= 0.95,
    }
    run = train("mpc", "jax:Pendulum-v1", steps=200 * count, seeds=4, eval_every=200 * count, eval_episodes=5)
    true = train(
        "mpc",
        "jax:Pendulum-v1",
        steps=200,
        seeds=4,
        eval_every=200,
        eval_episodes=5,
        config={"data.simulator": True, "data.updates": 1, "data.warmup": 0},
    )
    collected = curve(run, "episode/return")
    learned, ideal = (curve(each, "eval/return")[:, -1] for each in (run, true))
    part = middle(ideal) / middle(learned)
    claims |= {
        "Pendulum: the return of an outer iteration never falls beyond its interval": never_falls(collected),
        f"Pendulum: it ends at 95 % of the planner with the true model or more ({part:.2%})": part >= 0.95,
    }
    return Finding(
        claims,
        f"linear {middle(returns[:, -1]):.2f} beside {optimum:.2f} with the true model ({share:.1%}), 10 seeds; "
        f"Pendulum {middle(learned):.1f} beside {middle(ideal):.1f} ({part:.1%}), 4 seeds, {count} outer iterations",
    )


# ---- G8: rollouts


def rollouts() -> Finding:
    """The rollout policy beside its base policy, on the same episodes."""
    claims, said = {}, []
    for env, base in (("CartPole-v1", -1), ("CartPole-v1", 1), ("TicTacToe-vs-random", -1)):
        settings = {"base": base, "rollouts": 16, "lookahead": 30}
        totals = []
        for improve in (False, True):
            agent = polyak.Agent("rollout_planning", f"jax:{env}", config={**settings, "improve": improve})
            totals.append(agent.evaluate(episodes=40, limit=200).returns.ravel())
            agent.close()
        gain = totals[1] - totals[0]
        half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        name = f"{env}, base {'uniform' if base < 0 else f'always {base}'}"
        claims[f"{name}: {totals[1].mean():.1f} beside {totals[0].mean():.1f}, not worse"] = (
            gain.mean() >= -half
        )
        said.append(f"{name} {gain.mean():+.1f} +- {half:.1f}")
    return Finding(claims, f"gain over the base policy: {'; '.join(said)}; 40 episodes each")


# ---- G9: the tree


def policy_of(simulations: int, seed: int = 0) -> tuple[dict[games.Board, int], float]:
    """The move of MCTS on every board of tic-tac-toe, each searched afresh, and simulations per second."""
    env = find("jax:TicTacToe")
    spec = dataclasses.replace(env.spec, model=rules(env))
    cfg = mcts.Config(simulations=simulations, keep=False, depth=10, rollout=10)
    boards = [board for board in games.positions() if not games.over(board)]
    width = 113  # 4,520 boards are 40 times as many

    @jax.jit
    def search(state: Array, key: Array) -> Array:
        obs = jax.vmap(env._observe)(state)
        memory = mcts.memory(cfg, spec, jnp.arange(width), jnp.zeros(width, jnp.int32), jax.random.key(0))
        return mcts.act(cfg, spec, (), memory, Shown(obs, state), key, True)[0]

    chosen: list[int] = []
    began = time.monotonic()
    for first in range(0, len(boards), width):
        state = jnp.asarray(boards[first : first + width], jnp.int32)
        chosen += search(state, jax.random.fold_in(jax.random.key(seed), first)).tolist()
    rate = simulations * len(boards) / (time.monotonic() - began)
    return dict(zip(boards, chosen, strict=True)), rate


def score(one: dict[games.Board, int], other: dict[games.Board, int]) -> float:
    """What the first player's policy makes of a game against the other's, 1, 0.5 or 0; mean of both colours."""
    total = 0.0
    for first, second, sign in ((one, other, 1), (other, one, -1)):
        board = games.START
        while not games.over(board):
            board = games.after(board, (first if games.mover(board) == 1 else second)[board])
        total += 0.5 + 0.5 * sign * games.winner(board)
    return total / 2


def elo(players: list[list[dict[games.Board, int]]]) -> np.ndarray:
    """Ratings by the model of Bradley & Terry, the first 0; a player is a list of policies, which all meet all."""
    scores = np.array(
        [[np.mean([score(a, b) for a in one for b in other]) for other in players] for one in players]
    )
    ratings = np.zeros(len(players))
    for _ in range(5_000):
        expected = 1 / (1 + 10 ** ((ratings[None] - ratings[:, None]) / 400))
        ratings += 10 * (scores - expected).sum(axis=1) / len(players)
    return ratings - ratings[0]


def tree() -> Finding:
    """Moves from every position that can be reached, against exhaustive play; strength against simulations."""
    mistakes, players = {}, []
    for simulations in LADDER:
        found = [policy_of(simulations, seed)[0] for seed in range(SEEDS)]
        players.append(found)
        mistakes[simulations] = float(np.mean([len(games.mistakes(policy)) for policy in found]))
    ratings = elo(players)
    best, rate = policy_of(ENOUGH)
    wrong = len(games.mistakes(best))
    lost = games.losses(best, 1) + games.losses(best, -1)
    claims = {
        f"{ENOUGH:,} simulations: 0 of {len(best):,} positions given away (found {wrong})": wrong == 0,
        f"0 losses against exhaustive play from the start, moving first or second (found {lost})": lost == 0,
        f"Elo rises with the simulations ({', '.join(f'{rating:.0f}' for rating in ratings)})": all(
            a < b for a, b in pairwise(ratings)
        ),
        "more simulations, fewer mistakes": all(a > b for a, b in pairwise([*mistakes.values(), wrong])),
    }
    draw_ratings(ratings)
    said = ", ".join(f"{count:g} with {simulations}" for simulations, count in mistakes.items())
    rated = ", ".join(f"{rating:.0f}" for rating in ratings)
    return Finding(
        claims,
        f"given away of {len(best):,} positions: {wrong} with {ENOUGH:,} simulations, {said}; losses {lost}; "
        f"Elo {rated}; {rate:,.0f} simulations/s",
    )


def draw_ratings(ratings: np.ndarray) -> None:
    """Elo against simulations, beside the runs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot(LADDER, ratings, marker="o")
    axes.set(xlabel="simulations before a move", ylabel="Elo", xscale="log", title="MCTS on tic-tac-toe")
    axes.set_xticks(LADDER, [str(simulations) for simulations in LADDER])
    axes.minorticks_off()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    plt.close(figure)


ENOUGH = 2_000  # simulations before a move
LADDER, SEEDS = (
    (5, 15, 45, 135),
    4,
)  # simulations that are rated, and searches with other random numbers of each


if __name__ == "__main__":
    main({"G5": loop, "G8": rollouts, "G9": tree})

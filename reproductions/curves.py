"""The learning curve on each algorithm's page: `python -m reproductions.curves NAME ...`, or all of them.

An algorithm trains with its preset on a world that two processor cores learn in a minute or so, and what its
evaluations earn is drawn into docs/algorithms/curves/NAME.svg, with the command, the seeds and the commit as the
picture's description; `make docs-tables` puts both on its page. Unless `TASKS` or `OWN` say otherwise the world is the
first of its presets that is written in JAX, else CartPole or the pendulum.
"""

import argparse
import datetime
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak import algorithms
from polyak.algorithms import alphazero
from polyak.envs.find import find
from polyak.errors import UserError
from polyak.files import place
from polyak.lab import games
from polyak.runs.plan import preset
from polyak.show.charts import value_label
from polyak.show.curve import interquartile_mean, together
from reproductions import mazes, muzero, planning
from reproductions.drawing import Curve, Target, draw, interval
from reproductions.finding import train
from reproductions.rows import commit

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "algorithms" / "curves"
EVALUATIONS, EPISODES = 25, 10  # of a training, and of an evaluation of each seed
POINTS = 60  # of a curve, at most

CARTPOLE, PENDULUM, TICTACTOE = "jax:CartPole-v1", "jax:Pendulum-v1", "jax:TicTacToe"
SHORTEST = Target(14, "the shortest way, 14 steps")
PERFECT = Target(1.0, "perfect play", most=True)
TARGETS = {
    CARTPOLE: Target(500, "500, the most there is", most=True),
    PENDULUM: Target(-155, "published at best: −160 to −150"),
    "jax:DynaMaze-v0": SHORTEST,
}


class Task(NamedTuple):
    """What is trained for a curve; what is not said is the preset's.

    metric   what is drawn, of a run's metrics
    up       what it is, in words
    given    what else `polyak.train` is given
    """

    env: str = ""
    steps: int = 0
    seeds: int = 5
    metric: str = "eval/return"
    up: str = "return of an evaluation"
    given: Mapping[str, Any] = MappingProxyType({})


class Drawn(NamedTuple):
    """A curve, and how it came about in Markdown."""

    curve: Curve
    how: str


STEPS = Task(metric="episode/length", up="steps of an episode, with exploration", seeds=10)

TASKS = {
    **dict.fromkeys(("ddpg", "td3", "naf", "svg", "d4pg", "sac", "qt_opt", "sdqn"), Task(steps=10_000)),
    "a2c": Task(steps=200_000),
    "a3c": Task(steps=200_000),
    "async_q": Task(steps=200_000),
    "cma_es": Task(steps=200_000),
    "count_planning": STEPS,
    "cross_entropy": Task(steps=400_000),
    "fitted_q": Task(steps=8_000, seeds=3, given={"config": {"minibatch": 200}}),
    "guided_policy_search": Task(seeds=3),
    "kohl_stone": Task(up="metres walked in an episode of 4 s"),
    "mpc": Task(seeds=3, metric="episode/return", up="return of an episode, as it is collected"),
    "nelder_mead": Task(steps=1_000_000),
    "planet": Task(steps=4_000, seeds=1, given={"env_fields": {"size": 16}}),
    "rainbow": Task(steps=25_000, seeds=3),
    "vae": Task(seeds=3, metric="update/loss", up="minus the bound, nats", given={"eval_every": 0}),
}


# ---- training


def usual_env(name: str) -> str:
    """The first world of an algorithm's presets that is written in JAX; without one CartPole or the pendulum."""
    path = Path(polyak.__file__).parent / "presets" / f"{name}.toml"
    for env in tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else ():
        try:
            find(f"jax:{env}")
            return f"jax:{env}"
        except UserError:
            continue
    return CARTPOLE if "discrete" in algorithms.find(name).actions else PENDULUM


def settled(name: str) -> Task:
    """An algorithm's task with nothing left open."""
    task = TASKS.get(name, Task())
    env = task.env or usual_env(name)
    return task._replace(env=env, steps=task.steps or preset(name, env)["steps"])


def trained(name: str) -> Drawn:
    """The curve of a training with the preset."""
    task = settled(name)
    said: dict[str, Any] = {"eval_episodes": EPISODES, "checkpoint_every": task.steps}
    said["eval_every"] = task.steps // EVALUATIONS if task.metric.startswith("eval/") else 0
    run = train(name, task.env, steps=task.steps, seeds=task.seeds, **said | dict(task.given))
    x, values = series(run.metrics, task.metric)
    across, unit = "environment steps", 1
    if run.plan.settle(
        algorithms.find(name).Config()
    ).data.episodes:  # steps are the room for the longest episodes
        across, unit = "episodes", run.spec.time_limit
    curve = Curve(x / unit, values, across, task.up, TARGETS.get(task.env))
    return Drawn(curve, f"trains as `{command(name, task)}` does")


def command(name: str, task: Task) -> str:
    """The same training on the command line."""
    words = ["polyak", "train", name, task.env, "--steps", str(task.steps), "--seeds", str(task.seeds)]
    for prefix, fields in (("config", "config"), ("env", "env_fields")):
        for field, value in task.given.get(fields, {}).items():
            words += [f"--{prefix}.{field}", str(value)]
    return " ".join(words)


def series(lines: list[dict[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [P] and values [S, P] of a metric."""
    found: dict[int, dict[float, float]] = defaultdict(dict)
    for line in lines:
        if line.get(metric) is not None and np.isfinite(line[metric]):
            found[line["seed"]][place(line)] = line[metric]
    return together(
        {
            seed: (np.array(sorted(each), float), np.array([each[x] for x in sorted(each)]))
            for seed, each in found.items()
        },
        POINTS,
    )


# ---- what is not a training with evaluations


def regulator() -> Drawn:
    """Learned LQR beside the planner with the true matrices."""
    per, name = 100, "learned_lqr"
    task = settled(name)._replace(seeds=10)
    every: dict[str, Any] = {"seeds": task.seeds, "eval_every": per, "eval_episodes": EPISODES}
    x, values = series(train(name, task.env, steps=task.steps, **every).metrics, task.metric)
    best = series(
        train("reproductions.planning:true_lqr", task.env, steps=per, **every).metrics, task.metric
    )[1]
    target = Target(float(interquartile_mean(best)[-1]), "with the true matrices")
    return Drawn(
        Curve(x, values, "environment steps", task.up, target), f"trains as `{command(name, task)}` does"
    )


def maze() -> Drawn:
    """Steps of each episode in the Dyna maze; the first, a random walk, is left out as in the book's figure."""
    lengths = mazes.lengths(50)[:, 1:30]
    curve = Curve(np.arange(2, 2 + lengths.shape[1], dtype=float), lengths, "episode", STEPS.up, SHORTEST)
    how = f"trains as `polyak train dyna_q jax:DynaMaze-v0 --steps {mazes.STEPS[50]} --seeds {mazes.SEEDS}` does"
    return Drawn(curve, how)


def rollouts(counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32), episodes: int = 40) -> Drawn:
    """Returns of rollout planning on CartPole by the number of rollouts, beside its base policy."""

    def returns(**config: Any) -> np.ndarray:
        agent = polyak.Agent("rollout_planning", CARTPOLE, config=config)
        try:
            return agent.evaluate(episodes=episodes).returns.ravel()
        finally:
            agent.close()

    base = Target(returns(improve=False).mean(), "the base policy, uniform actions")
    values = np.stack([returns(rollouts=count) for count in counts], axis=1)
    curve = Curve(
        np.array(counts, float),
        values,
        "rollouts of each action",
        "return of an episode",
        base,
        True,
        "episodes",
    )
    return Drawn(
        curve, f"plays {episodes} episodes of `{CARTPOLE}` for each number of rollouts, without training"
    )


def tree(counts: tuple[int, ...] = (1, 2, 5, 15, 45, 135, 400), searches: int = 3) -> Drawn:
    """How often MCTS finds a best move of tic-tac-toe by the number of simulations."""
    values = [[muzero.best_share(planning.policy_of(n, seed)[0]) for n in counts] for seed in range(searches)]
    curve = Curve(np.array(counts, float), np.array(values), "simulations", BEST, PERFECT, True, "searches")
    return Drawn(curve, f"searches every position of `{TICTACTOE}`, without training")


BEST = "share of all positions in which the move is a best one"


def board(
    name: str, steps: int, moves: Callable[[polyak.Run, int], dict[games.Board, int]], seeds: int
) -> Drawn:
    """How often the network of a search's training, asked by itself, names a best move of tic-tac-toe."""
    shares: list[list[float]] = []
    x: list[int] = []

    def ask(event: polyak.Event) -> None:
        assert event.path is not None
        run = polyak.load(event.path)
        x.append(event.env_steps)
        shares.append([muzero.best_share(moves(run, seed)) for seed in range(seeds)])

    train(
        name,
        TICTACTOE,
        steps=steps,
        seeds=seeds,
        eval_every=0,
        checkpoint_every=steps // 12,
        on_checkpoint=ask,
    )
    curve = Curve(np.array(x, float), np.array(shares).T, "moves played", f"{BEST}, no search", PERFECT)
    how = f"trains as `polyak train {name} {TICTACTOE} --steps {steps} --seeds {seeds}` does"
    return Drawn(curve, how)


def at_sight(run: polyak.Run, seed: int) -> dict[games.Board, int]:
    """The best move of AlphaZero's network on every board."""
    env, net = find(TICTACTOE), jax.tree.map(jnp.asarray, run.policy(seed).actor)
    boards = [each for each in games.positions() if not games.over(each)]
    obs = jax.vmap(env._observe)(jnp.asarray(boards, jnp.int32))
    chosen = alphazero.predict(env.spec, net, obs)[0].argmax(axis=-1)
    return dict(zip(boards, np.asarray(chosen).tolist(), strict=True))


def alone(run: polyak.Run, seed: int) -> dict[games.Board, int]:
    """The best move of MuZero's policy on every board."""
    return muzero.moves_of(run, 0, seed)


OWN: dict[str, Callable[[], Drawn]] = {
    "alphazero": partial(board, "alphazero", 200_000, at_sight, 3),
    "dyna_q": maze,
    "learned_lqr": regulator,
    "mcts": tree,
    "muzero": partial(board, "muzero", 100_000, alone, 2),
    "rollout_planning": rollouts,
}


# ---- the picture


def picture(name: str, drawn: Drawn, when: str) -> str:
    """The SVG of an algorithm's curve."""
    curve = drawn.curve
    middle, band = interquartile_mean(curve.values), interval(curve)
    scale = float(np.abs(middle).max())
    first, last = (value_label(float(f"{y:.3g}"), scale) for y in (middle[0], middle[-1]))
    if band:
        last += " [{}, {}]".format(*(value_label(float(f"{end[-1]:.3g}"), scale) for end in band))
    title = f"{algorithms.title(name).partition(':')[0]}: {curve.up}, by {curve.across}"
    said = (
        f"`python -m reproductions.curves {name}` {drawn.how} ({len(curve.values)} {curve.seeds}). "
        f"{curve.up[0].upper()}{curve.up[1:]}: {first} at first, {last} at the end; {when}."
    )
    return draw(curve, title, said)


def main(words: list[str]) -> int:
    """Draw the curves of the algorithms that are named, or of all."""
    parser = argparse.ArgumentParser(prog="python -m reproductions.curves", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="an algorithm; without one, all")
    parser.add_argument("--out", type=Path, default=PICTURES, help="the folder of the pictures")
    said = parser.parse_args(words)
    if unknown := sorted(set(said.names) - set(algorithms.names())):
        parser.error(f"no algorithm is called {', '.join(unknown)}: polyak list algorithms has their names")
    said.out.mkdir(parents=True, exist_ok=True)
    when = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {commit()}"
    for name in said.names or algorithms.names():
        began = time.monotonic()
        drawn = OWN.get(name, partial(trained, name))()
        path = said.out / f"{name}.svg"
        path.write_text(picture(name, drawn, when), encoding="utf-8")
        print(f"{name}: {path.stat().st_size / 1000:.1f} kB, {time.monotonic() - began:.0f} s", flush=True)
        jax.clear_caches()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The learning curve on each algorithm's page: `python -m reproductions.curves NAME ...`, or all of them.

An algorithm trains with its preset on a world that two processor cores learn in a minute or so, and what its
evaluations earn is kept in docs/algorithms/curves/NAME.json and drawn into NAME.svg, with the command, the day and the
commit as the picture's description; `make docs-tables` puts both on its page. Unless `TASKS` or `OWN` say otherwise the
world is the first of its presets that is written in JAX, else CartPole or the pendulum. `--redraw` draws what is kept.
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
from polyak.runs.presets import preset
from polyak.show.curve import together
from reproductions import mazes, muzero, planning
from reproductions.drawing import Curve, Target, as_json, draw, from_json, outcome
from reproductions.finding import train
from reproductions.rows import commit

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "algorithms" / "curves"
EVALUATIONS, EPISODES = 20, 10  # of a training, and of an evaluation of each seed
POINTS = 60  # of a curve, at most

CARTPOLE, PENDULUM, TICTACTOE = "jax:CartPole-v1", "jax:Pendulum-v1", "jax:TicTacToe"
SHORTEST = Target(14, "the shortest way, 14 steps")
PERFECT = Target(1.0, "perfect play", most=True)
TARGETS = {
    CARTPOLE: Target(500, "500, the most there is", most=True),
    PENDULUM: Target(-155, "published at best: −160 to −150"),
    "jax:ContinuousBandit": Target(0, "0, the best action", most=True),
}


class Task(NamedTuple):
    """What is trained for a curve; what is not said is the preset's.

    updates  the budget of what takes no steps
    metric   what is drawn, of a run's metrics
    up       what it is, in words
    given    what else `polyak.train` is given
    note     what else a reader should know
    """

    env: str = ""
    steps: int = 0
    seeds: int = 5
    metric: str = "eval/return"
    up: str = "return of an evaluation"
    given: Mapping[str, Any] = MappingProxyType({})
    note: str = ""
    updates: int = 0


STEPS = Task(metric="episode/length", up="steps of an episode, with exploration", seeds=10)

TASKS = {
    **dict.fromkeys(("ddpg", "td3", "naf", "svg", "d4pg", "sac", "qt_opt", "sdqn"), Task(steps=10_000)),
    "a2c": Task(steps=200_000),
    "a3c": Task(steps=200_000),
    "async_q": Task(steps=200_000),
    "cma_es": Task(steps=400_000),
    "count_planning": STEPS,
    "cross_entropy": Task(steps=400_000),
    "dpg": Task("jax:ContinuousBandit", given={"eval_episodes": 1}),
    "fitted_q": Task(steps=8_000, seeds=3, given={"config": {"minibatch": 200}}),
    "guided_policy_search": Task(seeds=3),
    "kohl_stone": Task(up="metres walked in an episode of 4 s"),
    "mpc": Task(seeds=3, metric="episode/return", up="return of an episode, as it is collected"),
    "nelder_mead": Task(steps=1_000_000),
    "planet": Task(steps=4_000, seeds=1, given={"env_fields": {"size": 16}}),
    "rainbow": Task(steps=25_000, seeds=3),
    "riccati": Task("jax:LinearSystem-v0", updates=40, seeds=1),
    "value_iteration": Task(
        "jax:DynaMaze-v0", updates=40, seeds=1, metric="update/v", up="V(s), mean over all states"
    ),
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
    tuned = preset(name, env)
    if "updates" in tuned:
        return task._replace(env=env, updates=task.updates or tuned["updates"])
    return task._replace(env=env, steps=task.steps or tuned["steps"])


def trained(name: str) -> Curve:
    """The curve of a training with the preset."""
    task = settled(name)
    unit, budget = budget_of(task)
    said: dict[str, Any] = {unit: budget, "eval_episodes": EPISODES, "checkpoint_every": budget}
    said["eval_every"] = budget // EVALUATIONS if task.metric.startswith("eval/") else 0
    run = train(name, task.env, seeds=task.seeds, **said | dict(task.given))
    x, values = series(run.metrics, task.metric)
    assert len(values) == task.seeds, f"{name}: {task.metric} of {len(values)} seeds only: more steps"
    across, size = f"{'environment ' * (unit == 'steps')}{unit}", 1
    if run.plan.settle(
        algorithms.find(name).Config()
    ).data.episodes:  # steps are the room for the longest episodes
        across, size = "episodes", run.spec.time_limit
    return Curve(x / size, values, across, task.up, how(name, task), target_of(task), note=task.note)


def target_of(task: Task) -> Target | None:
    """The value that a task's metric is to reach, where one is known."""
    if task.metric == STEPS.metric:
        return SHORTEST
    return TARGETS.get(task.env) if task.metric.endswith("/return") else None


def budget_of(task: Task) -> tuple[str, int]:
    """What the budget of a settled task is counted in, and how much it is."""
    return ("updates", task.updates) if task.updates else ("steps", task.steps)


def how(name: str, task: Task) -> str:
    """How a training came about: the same on the command line."""
    unit, budget = budget_of(task)
    words = ["polyak", "train", name, task.env, f"--{unit}", str(budget), "--seeds", str(task.seeds)]
    for prefix, fields in (("config", "config"), ("env", "env_fields")):
        for field, value in task.given.get(fields, {}).items():
            words += [f"--{prefix}.{field}", str(value)]
    return f"trains as `{' '.join(words)}` does"


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


def regulator() -> Curve:
    """What learned LQR pays more than the planner with the true matrices, from the same starts."""
    per, name = 100, "learned_lqr"
    task = settled(name)._replace(seeds=10)
    every: dict[str, Any] = {"seeds": task.seeds, "eval_every": per, "eval_episodes": EPISODES}
    x, values = series(train(name, task.env, steps=task.steps, **every).metrics, task.metric)
    best = series(
        train("reproductions.planning:true_lqr", task.env, steps=per, **every).metrics, task.metric
    )[1]
    more = 100 * (values / best[:, -1:] - 1)  # both are minus a cost
    up = "cost above that of the planner with the true matrices, %"
    return Curve(
        x, more, "environment steps", up, how(name, task), note="Its first fit is nearly as good as its last."
    )


def maze() -> Curve:
    """Steps of each episode in the Dyna maze; the first, a random walk, is left out as in the book's figure."""
    name = "dyna_q"
    task = settled(name)._replace(steps=mazes.STEPS[50], seeds=10)
    run = train("reproductions.mazes:recorded", task.env, steps=task.steps, seeds=task.seeds, eval_every=0)
    lengths = np.asarray(run.state().lengths)[:, 1:30]
    assert lengths.min() > 0, "the run is too short for its episodes"
    note = "The first episode, a random walk, is left out, as in the book."
    x = np.arange(2, 2 + lengths.shape[1], dtype=float)
    return Curve(x, lengths, "episode", STEPS.up, how(name, task), SHORTEST, note=note)


def rollouts(counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32), episodes: int = 40) -> Curve:
    """Returns of rollout planning on CartPole by the number of rollouts, beside its base policy."""

    def returns(**config: Any) -> np.ndarray:
        agent = polyak.Agent("rollout_planning", CARTPOLE, config=config)
        try:
            return agent.evaluate(episodes=episodes).returns.ravel()
        finally:
            agent.close()

    base = Target(float(returns(improve=False).mean()), "the base policy, uniform actions")
    values = np.stack([returns(rollouts=count) for count in counts], axis=1)
    said = f"plays {episodes} episodes of `{CARTPOLE}` for each number of rollouts, without training"
    x, up = np.array(counts, float), "return of an episode"
    return Curve(x, values, "rollouts of each action", up, said, base, log=True, each="episodes")


def tree(counts: tuple[int, ...] = (1, 2, 5, 15, 45, 135, 400), searches: int = 3) -> Curve:
    """How often MCTS finds a best move of tic-tac-toe by the number of simulations."""
    values = [[muzero.best_share(planning.policy_of(n, seed)[0]) for n in counts] for seed in range(searches)]
    said = f"searches every position of `{TICTACTOE}`, without training"
    x = np.array(counts, float)
    return Curve(x, np.array(values), "simulations", BEST, said, PERFECT, log=True, each="searches")


BEST = "share of all positions in which the move is a best one"


def board(
    name: str, steps: int, moves: Callable[[polyak.Run, int], dict[games.Board, int]], seeds: int
) -> Curve:
    """How often the network of a search's training, asked by itself, names a best move of tic-tac-toe."""
    shares: list[list[float]] = []
    x: list[int] = []

    def ask(event: polyak.Event) -> None:
        assert event.path is not None
        run = polyak.load(event.path)
        x.append(event.env_steps)
        shares.append([muzero.best_share(moves(run, seed)) for seed in range(seeds)])

    task = Task(TICTACTOE, steps, seeds)
    said: dict[str, Any] = {"eval_every": 0, "checkpoint_every": steps // 8, "on_checkpoint": ask}
    train(name, task.env, steps=steps, seeds=seeds, **said)
    up = f"{BEST}, without a search"
    return Curve(np.array(x, float), np.array(shares).T, "moves played", up, how(name, task), PERFECT)


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


OWN: dict[str, Callable[[], Curve]] = {
    "alphazero": partial(board, "alphazero", 120_000, at_sight, 2),
    "dyna_q": maze,
    "learned_lqr": regulator,
    "mcts": tree,
    "muzero": partial(board, "muzero", 100_000, alone, 2),
    "rollout_planning": rollouts,
}


# ---- the picture


def picture(name: str, curve: Curve) -> str:
    """The SVG of an algorithm's curve."""
    title = f"{algorithms.title(name).partition(':')[0]}: {curve.up}, by {curve.across}"
    return draw(
        curve, title, f"`python -m reproductions.curves {name}` {curve.how}. {outcome(curve)}; {curve.note}"
    )


def main(words: list[str]) -> int:
    """Draw the curves of the algorithms that are named, or of all."""
    parser = argparse.ArgumentParser(prog="python -m reproductions.curves", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="an algorithm; without one, all")
    parser.add_argument("--out", type=Path, default=PICTURES, help="the folder of the pictures")
    parser.add_argument("--redraw", action="store_true", help="draw what is kept, without training")
    said = parser.parse_args(words)
    if unknown := sorted(set(said.names) - set(algorithms.names())):
        parser.error(f"no algorithm is called {', '.join(unknown)}: polyak list algorithms has their names")
    said.out.mkdir(parents=True, exist_ok=True)
    when = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {commit()}."
    for name in said.names or algorithms.names():
        began, kept = time.monotonic(), said.out / f"{name}.json"
        if not said.redraw:
            curve = OWN.get(name, partial(trained, name))()
            curve = curve._replace(note=" ".join(filter(None, [when, curve.note])))
            kept.write_text(as_json(curve), encoding="utf-8")
            jax.clear_caches()
        text = picture(name, from_json(kept.read_text(encoding="utf-8")))
        kept.with_suffix(".svg").write_text(text, encoding="utf-8")
        print(f"{name}: {len(text) / 1000:.1f} kB, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

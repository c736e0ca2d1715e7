"""Simulations per second of polyak's MCTS and of mctx's search, in turn: `.venv/bin/python benchmarks/speed/search.py`.

Both search 128 boards of tic-tac-toe at once on the same rules, and a leaf is worth what one uniform rollout from it
returns. mctx's is its `muzero_policy`, with even priors and no noise. Compilation is left out.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mctx

from polyak.algorithms import mcts
from polyak.envs.environment import rules
from polyak.envs.find import find
from polyak.interface import Array, Shown, Spec
from polyak.lab import games

BOARDS = 128


def ours(cfg: mcts.Config, spec: Spec, observe: Callable) -> Callable:
    """A function from boards and a key to moves."""

    def search(state: Array, key: Array) -> Array:
        count = len(state)
        memory = mcts.memory(cfg, spec, jnp.arange(count), jnp.zeros(count, jnp.int32), key)
        return mcts.act(cfg, spec, (), memory, Shown(observe(state), state), key, True)[0]

    return search


def theirs(cfg: mcts.Config, spec: Spec, observe: Callable) -> Callable:
    """The same by mctx."""

    def expand(_: tuple, key: Array, action: Array, state: Array) -> tuple:
        keys = jax.random.split(key, (2, len(state)))
        step = jax.vmap(spec.model.step)(state, action, keys[0])
        over = step.terminated | step.truncated
        value = jax.vmap(lambda step, key: mcts.default_policy(cfg, spec, step, key))(step, keys[1])
        said = mctx.RecurrentFnOutput(
            reward=step.reward.astype(jnp.float32),  # pyright: ignore[reportCallIssue]
            discount=jnp.where(over, 0.0, -1.0),  # pyright: ignore[reportCallIssue]
            prior_logits=jnp.where(step.obs["legal"] > 0, 0.0, jnp.finfo(jnp.float32).min),  # pyright: ignore[reportCallIssue]
            value=jnp.where(over, 0.0, value),  # pyright: ignore[reportCallIssue]
        )
        return said, step.state

    def search(state: Array, key: Array) -> Array:
        legal = observe(state)["legal"] > 0
        root = mctx.RootFnOutput(
            prior_logits=jnp.where(legal, 0.0, jnp.finfo(jnp.float32).min),  # pyright: ignore[reportCallIssue]
            value=jnp.zeros(len(state)),  # pyright: ignore[reportCallIssue]
            embedding=state,  # pyright: ignore[reportCallIssue]
        )
        return mctx.muzero_policy(
            (), key, root, expand, cfg.simulations, ~legal, dirichlet_fraction=0.0
        ).action

    return search


def main() -> None:
    """Measure both in turn, for few and for many simulations, and print the ratios of the medians."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=7)
    said = options.parse_args()
    env = find("jax:TicTacToe")
    spec, observe = dataclasses.replace(env.spec, model=rules(env)), jax.vmap(env._observe)
    boards = [board for board in games.positions() if not games.over(board)][:: 4_520 // BOARDS][:BOARDS]
    state = jnp.asarray(boards, jnp.int32)
    for simulations in (32, 200, 800):
        cfg = mcts.Config(simulations=simulations, keep=False, depth=10, rollout=10)
        sides = {"polyak": ours, "mctx": theirs}
        compiled = {name: jax.jit(side(cfg, spec, observe)) for name, side in sides.items()}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(said.repeats + 1):
            for name, search in compiled.items():
                began = time.perf_counter()
                jax.block_until_ready(search(state, jax.random.key(number)))
                if number:  # the first compiles
                    rates[name].append(simulations * len(boards) / (time.perf_counter() - began))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in medians.items())
        ratio = medians["polyak"] / medians["mctx"]
        print(f"{simulations} simulations: {listed} simulations/s, {ratio:.2f} times", flush=True)


if __name__ == "__main__":
    main()

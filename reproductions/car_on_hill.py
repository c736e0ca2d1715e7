"""Fitted Q-iteration on the car on the hill, beside a solution on a fine grid (C9).

The world and the 289 starts are those of Ernst, Geurts & Wehenkel 2005, section 6.1: p = i / 8 and s = 3 j / 8 for i, j
from -8 to 8. The values have cliffs, along which no two grids agree: a start counts for the sup-norm where a grid with
half the nodes along each axis says the same within 0.02.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.algorithms import fitted_q
from polyak.envs.find import find
from polyak.interface import Batch
from polyak.lab.grid import GridValues, value_iteration
from reproductions.finding import Finding, main

GAMMA, NODES, SEEDS = 0.95, 801, 3
STARTS = np.array([(i / 8, 3 * j / 8) for i in range(-8, 9) for j in range(-8, 9)])
ANYWHERE = {"randomize.position": (-1.0, 1.0), "randomize.velocity": (-3.0, 3.0)}
SETTINGS: dict[str, Any] = {
    "minibatch": 2000,
    "regression": 500,
    "lr": 2e-3,
    "lr_end": 0.0,
    "hidden": (128, 128),
}


class Found(NamedTuple):
    """What each iteration left, [iterations] each."""

    sup: np.ndarray  # largest |Q_N - Q| over the starts that count, and both actions
    mean: np.ndarray  # the mean of it over all starts
    score: np.ndarray  # mean return of the greedy policy from all starts


# ---- the grid


@functools.cache
def moves() -> Any:
    """(states [n, 2], actions [n]) -> a Step of n of the worlds."""
    env = find("jax:CarOnHill")
    key = jax.random.key(0)  # nothing is random
    return jax.jit(jax.vmap(lambda state, action: env.step(state, action, key)))


def rules(states: np.ndarray, action: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The world's own, for a grid."""
    step = moves()(jnp.asarray(states, jnp.float32), jnp.full(len(states), action))
    return np.asarray(step.state, np.float64), np.asarray(step.reward), np.asarray(step.terminated)


@functools.cache
def solution(nodes: int = NODES) -> GridValues:
    """Values on so many nodes along each axis."""
    axes = np.linspace(-1, 1, nodes), np.linspace(-3, 3, nodes)
    return value_iteration(rules, axes, 2, GAMMA)


def settled() -> np.ndarray:
    """[289] Starts whose action values two grids agree on."""
    fine, coarse = (grid.action_values(STARTS) for grid in (solution(), solution((NODES + 1) // 2)))
    return np.abs(fine - coarse).max(axis=1) < 0.02


def score(policy: Any, steps: int = 200) -> float:
    """Mean return from the starts of a policy, states [n, 2] -> actions [n]."""
    states, alive, total = STARTS, np.ones(len(STARTS), bool), np.zeros(len(STARTS))
    for step in range(steps):
        after = moves()(jnp.asarray(states, jnp.float32), jnp.asarray(policy(states), jnp.int32))
        total += alive * GAMMA**step * np.asarray(after.reward)
        alive &= ~np.asarray(after.terminated)
        states = np.asarray(after.state)
    return float(total.mean())


# ---- fitted Q-iteration


def collected(episodes: int, anywhere: bool, seed: int, longest: int = 300) -> Batch:
    """A batch [T, 1] of whole episodes of uniform actions; they start anywhere, or at the bottom as the paper's."""
    env = find("jax:CarOnHill", ANYWHERE if anywhere else {})

    def step(carry: tuple, key: jax.Array) -> tuple:
        state, obs, alive = carry
        key_action, key_step = jax.random.split(key)
        action = jax.random.randint(key_action, (), 0, 2)
        after = env.step(state, action, key_step)
        row = obs, action, after.reward, after.obs, after.terminated, alive
        return (after.state, after.obs, alive & ~after.terminated), row

    def episode(key: jax.Array) -> Any:
        key_start, key_steps = jax.random.split(key)
        start = *env.reset(key_start), jnp.array(True)
        return jax.lax.scan(step, start, jax.random.split(key_steps, longest))[1]

    keys = jax.random.split(jax.random.key(seed), episodes)
    *rows, alive = (np.asarray(x) for x in jax.jit(jax.vmap(episode))(keys))
    obs, action, reward, after, ended = (x[alive][:, None] for x in rows)
    discount = (GAMMA * ~ended).astype(np.float32)
    rows = obs, action, reward, after, ended, np.zeros_like(ended), (), discount, np.ones_like(reward)
    return jax.tree.map(jnp.asarray, Batch(*rows))


def fitted(episodes: int, anywhere: bool, seed: int, iterations: int) -> tuple[Found, int]:
    """Fitted Q-iteration, measured after each regression; and how many transitions the batch has."""
    cfg = fitted_q.Config(gamma=GAMMA, iterations=1, **SETTINGS)
    spec = find("jax:CarOnHill").spec
    batch = collected(episodes, anywhere, seed)
    state = fitted_q.init(cfg, spec, jax.random.key(seed))
    update = jax.jit(lambda state, key: fitted_q.update(cfg, spec, state, batch, key).state)
    values = jax.jit(lambda state, obs: state.q(obs))
    exact, counts, found = solution().action_values(STARTS), settled(), []
    for iteration in range(iterations):
        state = update(state, jax.random.fold_in(jax.random.key(seed), iteration))
        said = functools.partial(values, state)
        off = np.abs(np.asarray(said(jnp.asarray(STARTS, jnp.float32))) - exact)
        greedy = lambda states, said=said: said(jnp.asarray(states, jnp.float32)).argmax(axis=-1)  # noqa: E731
        found.append((off[counts].max(), off.mean(), score(greedy)))
        print(
            f"  {iteration + 1:>3}  sup {found[-1][0]:.3f}  mean {found[-1][1]:.3f}  return {found[-1][2]:+.3f}"
        )
    return Found(*np.array(found).T), len(batch.reward)


def car_on_hill(episodes: int = 3300, anywhere: bool = True, iterations: int = 30) -> Finding:
    """The greedy policy's return and the errors of its values, after each regression."""
    best = score(lambda states: solution().action_values(states).argmax(axis=1))
    below = abs(solution().action_values(STARTS).max(axis=1).mean() - best)
    print(f"the grid: mean return {best:+.4f}, {settled().sum()} of {len(STARTS)} starts count")
    runs = []
    for seed in range(SEEDS):
        print(f"seed {seed}")
        found, rows = fitted(episodes, anywhere, seed, iterations)
        print(f"  {rows:,} transitions")
        runs.append(found)
    # the last third: a regression more or less moves a return by a few hundredths
    late = [float(run.score[-(iterations // 3) :].mean()) for run in runs]
    falls = [float(run.mean[0] / run.mean[-1]) for run in runs]
    worst = min(late) / best
    listed = ", ".join(f"{value:.3f}" for value in late)
    claims = {
        f"what the grid's policy earns is what the grid says within 0.002 (found {below:.4f})": below < 0.002,
        f"each seed earns at least 90 % of the grid's policy (found {worst:.0%})": worst >= 0.9,
        f"the error of the values falls to a third (found {min(falls):.1f} times less)": min(falls) >= 3,
    }
    sup = ", ".join(f"{run.sup[0]:.2f} to {run.sup[-1]:.2f}" for run in runs)
    mean = ", ".join(f"{run.mean[0]:.2f} to {run.mean[-1]:.2f}" for run in runs)
    return Finding(
        claims,
        f"mean return from 289 starts {listed}, the grid's {best:.3f}; error of Q, mean {mean}, sup {sup}; "
        f"{iterations} iterations, {SEEDS} seeds",
    )


if __name__ == "__main__":
    main({"C9": car_on_hill}, long={"C9": lambda: car_on_hill(1000, anywhere=False, iterations=50)})

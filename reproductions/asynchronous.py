"""Workers that send gradients: A2C and A3C (F3, F4), their exploration (F5), Q-learning and SARSA (C3)."""

import dataclasses
import itertools
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import polyak
from polyak.algorithms import a2c, a3c, async_q, q_learning
from polyak.drivers.asynchronous import MOST_BINS, in_step, out_of_step, replaced
from polyak.drivers.host import Host
from polyak.drivers.in_graph import InGraph
from polyak.drivers.program import map_seeded
from polyak.envs.environment import Environment
from polyak.envs.find import find
from polyak.interface import Algorithm, Batch, Discrete, OnPolicy, Spec
from polyak.runs.plan import Plan
from polyak.runs.session import Session
from reproductions.finding import Finding, main, train

SEEDS, EPISODES, SOLVED, WORKERS = 5, 50, 475.0, 8
SAME: dict[str, Any] = {"lr": 2e-3, "horizon": 10_000, "value_loss": 0.5, "max_norm": 0.5}
ROLLOUTS = 40  # of the runs that are compared bit by bit
METHODS = ("one_step_q", "n_step_q", "one_step_sarsa")
LEARNED = 195.0  # CartPole-v0's own bar; a random policy returns 22
ENDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.65)  # an epsilon for each worker
PROBES = 500


# ---- F3


def synchronous() -> Finding:
    """Whole runs of A2C beside A3C whose workers wait for each other."""
    claims, shown = {}, []
    one, many = a2c.Config(**SAME), a3c.Config(**SAME, rule="adam", eps=1e-5)
    for env in ("jax:CartPole-v1", "CartPole-v1"):
        want = learned(a2c.algorithm, one, env, WORKERS)
        alone = learned(in_step(a3c.algorithm, 1), many, env, WORKERS)
        apart = learned(in_step(a3c.algorithm, WORKERS), many, env, WORKERS)
        far = max(float(np.abs(a - b).max()) for a, b in zip(apart, want, strict=True))
        claims[f"{env}: with one worker all that {ROLLOUTS} updates learned is A2C's bit for bit"] = [
            x.tobytes() for x in alone
        ] == [x.tobytes() for x in want]
        claims[f"{env}: with {WORKERS} it is within 1e-6 (found {far:.1e})"] = far < 1e-6
        moved = max(float(np.abs(x).max()) for x in want)
        claims[f"{env}: there was something to learn"] = moved > 0
        shown.append(f"{env} {far:.1e}")
    return Finding(
        claims,
        f"{ROLLOUTS} updates on {WORKERS} environments: one worker bit-equal to A2C; {WORKERS} workers within "
        + ", ".join(shown),
    )


def learned(
    algorithm: Algorithm, cfg: Any, env: str, num_envs: int, rollouts: int = ROLLOUTS
) -> list[np.ndarray]:
    """Every array of the algorithm's own state after so many rollouts."""
    driver = driver_of(algorithm, cfg, env, num_envs)
    state = driver.learned(driver.advance(driver.start(), rollouts))
    arrays = [np.array(x, copy=True) for x in jax.tree.leaves(getattr(state, "newest", state))]
    driver.close()
    return arrays


def driver_of(algorithm: Algorithm, cfg: Any, env: str, num_envs: int, seed: int = 0) -> Any:
    """A driver of one seed."""
    world = find(env)
    spec = dataclasses.replace(world.spec, num_envs=num_envs)
    if isinstance(world, Environment):
        return InGraph(algorithm, cfg, world, spec, (seed,))
    return Host(algorithm, cfg, world.make(num_envs), spec, (seed,))


# ---- F4


def a3c_learns(env: str, picture: str = "") -> Finding:
    """Returns of k steps beside the recursion; then five seeds with eight stale workers, and two processes."""
    worst = k_step_returns()
    run = train("a3c", env, seeds=SEEDS, eval_every=100_000)
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    reached = int((means >= SOLVED).sum())
    ages = histogram(run)
    draw_histogram(ages, picture)
    wild = train("a3c", "CartPole-v1", steps=20_000, sync="hogwild", workers=2, num_envs=2)
    wild_ages = histogram(wild)
    draw_histogram(wild_ages)
    rate = {workers: gradients_per_second(workers) for workers in (1, 2)}
    for workers, (wall, own) in rate.items():
        print(
            f"  {workers} processes: {wall:,.0f} gradients/s, {own:,.0f} for each second of their processors"
        )
    gain, kept = rate[2][0] / rate[1][0], rate[2][1] / rate[1][1]
    mean, wild_mean = (float(np.arange(len(x)) @ x) for x in (ages, wild_ages))
    claims = {
        f"the k-step returns of 1,000 segments are the recursion's (relative error {worst:.1e})": worst
        < 1e-5,
        f"gradients of {WORKERS} workers that do not wait are old (mean {mean:.2f} updates)": mean > 1,
        f"at least 4 of {SEEDS} seeds return {SOLVED:g} or more on CartPole (found {reached})": reached >= 4,
        f"two processes without a lock see each other's updates (mean age {wild_mean:.2f})": 0
        < wild_mean
        < 5,
    }
    return Finding(
        claims,
        f"k-step returns within {worst:.1e}; CartPole {means.mean():.0f} ({shown(means)}), {SEEDS} seeds, {WORKERS} "
        f"workers, staleness {mean:.2f} updates; as two processes (Hogwild) {wild_mean:.2f}, and {gain:.2f} times the "
        f"gradients/s of one ({kept:.2f} times for each second of processor)",
    )


def gradients_per_second(workers: int, rollouts: int = 3_000) -> tuple[float, float]:
    """Gradients that so many processes apply in a second of the clock, and in one of their processors' (on Linux)."""
    plan = Plan("a3c", "CartPole-v1", sync="hogwild", workers=workers, num_envs=workers)
    session = Session(plan)
    driver: Any = session.driver
    run = driver.advance(driver.start(), 200)
    began, used = time.monotonic(), processor_seconds(driver.processes)
    driver.advance(run, rollouts)
    passed, used = time.monotonic() - began, processor_seconds(driver.processes) - used
    session.close()
    return workers * rollouts / passed, workers * rollouts / max(used, 1e-9)


def processor_seconds(processes: Any) -> float:
    """Seconds that processes have computed so far."""
    fields = [Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split() for each in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def k_step_returns() -> float:
    """Largest relative error of the returns that the gradient is made of, beside R <- r_i + gamma R in float64.

    With a table as critic and a cell for every row, the gradient in a cell tells the return of its row.
    """
    T, count, rng = 5, 1_000, np.random.default_rng(0)
    spec = Spec(Discrete(2 * T), Discrete(2), num_envs=count)
    cfg = a3c.Config(network="linear", gamma=0.9, data=OnPolicy(steps=T))
    state = a3c.init(cfg, spec, jax.random.key(0))
    V = rng.normal(size=2 * T).astype(np.float32)
    critic = jax.tree.map(lambda x: jnp.asarray(V.reshape(x.shape)), state.critic)
    end = rng.choice(3, size=(T, count), p=(0.7, 0.15, 0.15))
    reward = rng.normal(size=(T, count)).astype(np.float32)
    terminated, truncated = end == 1, end == 2
    obs = np.tile(np.arange(T, dtype=np.int32)[:, None], (1, count))
    goes_on = (end == 0) & (np.arange(T)[:, None] < T - 1)
    after = np.where(goes_on, obs + 1, T + obs)  # where it does not go on, a cell of its own
    discount = np.where(terminated, 0.0, cfg.gamma).astype(np.float32)
    action, one = np.zeros((T, count), np.int32), np.ones((T, count), np.float32)
    batch = Batch(obs, action, reward, after.astype(np.int32), terminated, truncated, (), discount, one)

    def slope(batch: Batch) -> jax.Array:  # of one segment, in the table's cells
        mine = jax.tree.map(lambda x: x[:, None], batch)
        grads = a3c.gradient(cfg, spec, (state.policy, critic, state.clock), mine, jax.random.key(0))[0]
        return jnp.ravel(jax.tree.leaves(grads[1])[0])[:T]

    found = V[:T] - np.asarray(jax.jit(jax.vmap(slope, in_axes=1))(batch)) * T / (2 * cfg.value_loss)
    worst = 0.0
    for i in range(count):
        R = 0.0
        for t in reversed(range(T)):
            if terminated[t, i]:
                R = 0.0
            elif not goes_on[t, i]:
                R = float(V[after[t, i]])
            R = float(reward[t, i]) + cfg.gamma * R
            worst = max(worst, abs(found[i, t] - R) / max(1.0, abs(R)))
    return worst


def histogram(run: polyak.Run) -> np.ndarray:
    """Shares of gradients by their age in updates, over a whole run and its seeds."""
    lines = [line for line in run.metrics if "actor/staleness" in line]
    shares = np.array(
        [[line.get(f"actor/staleness_{age}", 0.0) for age in range(MOST_BINS)] for line in lines]
    )
    return np.trim_zeros(shares.mean(axis=0), "b")


def draw_histogram(shares: np.ndarray, picture: str = "") -> None:
    """Print the histogram of staleness, and draw it where a file is named."""
    for age, share in enumerate(shares):
        if share > 0:
            print(f"  {age:3} updates old: {share:6.1%} {'#' * round(60 * share)}")
    if picture:
        Path(picture).parent.mkdir(parents=True, exist_ok=True)
        figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
        axes.bar(np.arange(len(shares)), shares)
        axes.set(xlabel="age of a gradient, updates", ylabel="share")
        figure.savefig(picture, dpi=150)
        print(picture)


def shown(means: np.ndarray) -> str:
    """Returns of each seed, from the lowest."""
    return ", ".join(f"{mean:.0f}" for mean in np.sort(means))


# ---- F5


def explorers() -> Finding:
    """Policies of eight stale workers on the same states: with an epsilon each, and with the mean one for all."""
    random = np.random.default_rng(0)
    probes = (random.uniform(-1, 1, size=(PROBES, 4)) * (2.4, 2.0, 0.2, 2.0)).astype(np.float32)
    mean = float(np.mean(ENDS))
    found = {name: [] for name in ("own", "equal")}
    for seed in range(3):
        for name, ends in (("own", ENDS), ("equal", (mean,) * WORKERS)):
            found[name].append(variation(ends, probes, seed))
    own, equal = (np.array(found[name]) for name in ("own", "equal"))
    alone = float(np.mean([abs(a - b) / 2 for a, b in itertools.combinations(ENDS, 2)]))
    claims = {
        f"seed {seed}: the policies differ more with an epsilon each ({a:.3f} beside {b:.3f})": bool(a > b)
        for seed, (a, b) in enumerate(zip(own, equal, strict=True))
    }
    claims["the weights that workers read at different times make them differ too"] = bool((equal > 0).all())
    return Finding(
        claims,
        f"mean pairwise total variation of {WORKERS} workers on {PROBES} states: {own.mean():.3f} with epsilons "
        f"{ENDS[0]:g} to {ENDS[-1]:g}, {equal.mean():.3f} with {mean:.2f} for all, 3 seeds; by the epsilons alone "
        f"{alone:.3f}",
    )


def variation(ends: tuple[float, ...], probes: np.ndarray, seed: int) -> float:
    """Mean total variation over pairs of workers, probe states and ten moments of a run."""
    cfg = async_q.Config(
        epsilon_ends=ends, chances=(), epsilon=0.0, epsilon_fraction=0.0, horizon=40_000, lr=1e-3
    )
    made = out_of_step(async_q.algorithm, WORKERS)
    driver = driver_of(made, cfg, "jax:CartPole-v1", WORKERS, seed)
    run, apart = driver.start(), []

    @jax.jit
    def policies(actor: Any) -> jax.Array:  # [K, P, A]
        newest, read = actor

        def of_one(mine: Any, worker: jax.Array) -> jax.Array:
            best = jax.nn.one_hot(replaced(newest, mine).q(probes).argmax(axis=-1), 2)
            own = async_q.memory(cfg, driver.spec, worker[None], worker[None], jax.random.key(0))
            return (1 - own) * best + own / 2

        return jax.vmap(of_one)(read, jnp.arange(WORKERS))

    for _ in range(10):
        run = driver.advance(run, 100)
        chances = np.asarray(policies(map_seeded(lambda x: x[0], driver.actor(run))))
        apart += [0.5 * np.abs(a - b).sum(axis=-1).mean() for a, b in itertools.combinations(chances, 2)]
    driver.close()
    return float(np.mean(apart))


# ---- C3


def asynchronous_q() -> Finding:
    """With one worker the sequential method; with eight stale ones all three methods of the paper on CartPole."""
    cfg = q_learning.Config(lr=1e-3, horizon=10_000)
    claims, figures = {}, []
    for env in ("jax:CartPole-v1", "CartPole-v1"):
        want = learned(q_learning.algorithm, cfg, env, 1, 200)
        got = learned(out_of_step(q_learning.algorithm, 1), cfg, env, 1, 200)
        claims[f"{env}: one worker is Q-learning (C1), bit for bit after 200 updates"] = [
            x.tobytes() for x in got
        ] == [x.tobytes() for x in want]
    ages = np.zeros(1)
    for method in METHODS:
        run = train("async_q", "jax:CartPole-v1", seeds=SEEDS, config={"method": method})
        means = run.evaluate(EPISODES).returns.mean(axis=1)
        reached = int((means >= LEARNED).sum())
        claims[f"{method}: at least 4 of {SEEDS} seeds return {LEARNED:g} or more (found {reached})"] = (
            reached >= 4
        )
        figures.append(f"{method} {means.mean():.0f} ({shown(means)})")
        ages = histogram(run)
    draw_histogram(ages)
    age = float(np.arange(len(ages)) @ ages)
    claims[f"their gradients are old (mean {age:.2f} updates)"] = age > 1
    return Finding(
        claims,
        f"one worker bit-equal to Q-learning; CartPole with {WORKERS} workers, staleness {age:.2f} updates: "
        + ", ".join(figures),
    )


if __name__ == "__main__":
    main(
        {
            "C3": asynchronous_q,
            "F3": synchronous,
            "F4": lambda: a3c_learns("jax:CartPole-v1"),
            "F5": explorers,
        },
        long={
            "F4": lambda: a3c_learns("CartPole-v1", "runs/staleness.png"),
        },
    )

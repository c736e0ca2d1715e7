"""The reality gap, and the slide's ways across it side by side on one task, in one picture.

The simulator is a cart with a pole. In the real world the pole is longer and the motor weaker, pushes come a step late,
and what is seen is noisy; nobody is told by how much. Each stage is a run with a name, so that the program can be
started again: finished stages return at once, and one that was killed goes on.

    python -m reproductions.gap --name gap
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import polyak
from polyak import files
from polyak.envs.environment import Environment, Step
from polyak.envs.worlds.classic_control import CartPole
from polyak.interface import Array, Spec, Tree
from polyak.lab.identify import Records, identify
from polyak.pytree import pytree
from polyak.show.curve import interquartile_mean, iqm_interval
from reproductions.transfer import COLUMNS, curves, interval

LATEST = 2  # the longest delay, in steps
UNITS = np.array(
    [1, 10, 1, 10], np.float32
)  # of the noise: metres and radians, and ten times as much a second


@pytree
class Cart(Environment):
    """CartPole whose pushes may come late and whose observations may be noisy.

    state: that of CartPole [4], and the last pushes, newest first: -1, 1, or 0 before the episode
    """

    length: float = 0.5  # m, half of the pole's
    force: float = 10.0  # N
    delay: float = 0.0  # steps until a push is felt; of a fraction the whole part
    noise: float = (
        0.0  # standard deviation of what is seen: of positions (m, rad), and a tenth of that of velocities
    )

    @property
    def spec(self) -> Spec:
        """That of CartPole."""
        return CartPole().spec

    def reset(self, key: jax.Array) -> tuple[Tree, Array]:
        """A start of CartPole, where nothing was pushed yet."""
        key_start, key_noise = jax.random.split(key)
        cart, _ = CartPole().reset(key_start)
        return (cart, jnp.zeros(LATEST)), self.seen(cart, key_noise)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One step of CartPole under the push that arrives."""
        cart, before = state
        pushes = jnp.concatenate([2.0 * action[None] - 1, before])
        arrives = pushes[jnp.int32(self.delay)]
        world = CartPole(length=self.length, force=self.force * arrives)
        step = world.step(cart, jnp.int32(1), key)
        return step._replace(state=(step.state, pushes[:LATEST]), obs=self.seen(step.state, key))

    def seen(self, cart: Array, key: jax.Array) -> Array:
        """What is seen of the cart's state."""
        return cart + self.noise * UNITS * jax.random.normal(key, (4,))


ENV = "reproductions.gap:Cart"
REAL = {"length": 1.5, "force": 6.0, "delay": 1.0, "noise": 0.005}
RANGES = {
    "randomize.length": (0.25, 2.5),
    "randomize.force": (4.0, 16.0),
    "randomize.delay": (0.0, 2.99),
    "randomize.noise": (0.0, 0.01),
}
ROWS = (200, 2_000)  # real steps from which the system is identified
PPO = {"gamma": 0.98, "lam": 0.8, "lr": 1e-3, "lr_end": 0.0, "epochs": 20, "minibatch": 256, "data.steps": 32}


class Sizes(NamedTuple):
    """How long the stages are."""

    seeds: int = 20
    simulated: int = 102_400  # steps in one simulator
    randomised: int = 307_200  # steps in random ones
    real: int = 40_960  # steps in the real world
    every: int = 2_048  # real steps between evaluations, which are not counted
    episodes: int = 20  # of an evaluation


def stage(name: str, out: str, sizes: Sizes, steps: int, every: int, fields: Mapping[str, Any], **more: Any):
    """One run, or the finished one of that name; it is evaluated in the real world."""
    print(f"{name}: {steps:,} steps in {dict(fields) or 'the simulator'}, {sizes.seeds} seeds", flush=True)
    more["config"] = PPO | more.get("config", {})
    given = {"seeds": sizes.seeds, "num_envs": 8, "preset": False, "verbose": False, "out": out, "name": name}
    given |= {"env_fields": fields, "eval_env_fields": REAL, "eval_episodes": sizes.episodes}
    return polyak.train("ppo", ENV, steps=steps, eval_every=every, **given, **more)


# ---- identification


def observed(rows: int, key: jax.Array) -> tuple[np.ndarray, ...]:
    """Observations [E, 21, 4], actions [E, 20] and whether the pole still stands [E, 20] of so many real steps."""
    env = Cart(**REAL)

    def episode(key: jax.Array) -> tuple[Array, Array, Array]:
        key_start, key_actions, key_steps = jax.random.split(key, 3)
        state, obs = env.reset(key_start)
        actions = jax.random.randint(key_actions, (20,), 0, 2)

        def one(now: tuple[Tree, Array, jax.Array], action: Array) -> tuple[tuple, tuple[Array, Array]]:
            state, stands, key = now
            key, key_step = jax.random.split(key)
            step = env.step(state, action, key_step)
            return (step.state, stands & ~step.terminated, key), (step.obs, stands)

        _, (after, stands) = jax.lax.scan(one, (state, jnp.array(True), key_steps), actions)
        return jnp.concatenate([obs[None], after]), actions, stands

    seen = jax.jit(jax.vmap(episode))(jax.random.split(key, rows // 20))
    return tuple(np.asarray(x) for x in seen)


def identified(name: str, out: str, rows: int) -> dict[str, float]:
    """The simulator's constants from so many real steps of random actions: of the delays that which explains most."""
    path = Path(out) / f"{name}.json"
    if path.is_file():
        return files.read_json(path)
    obs, actions, stands = observed(rows, jax.random.key(rows))
    kept = stands[:, LATEST:]
    found = {}
    for delay in range(LATEST + 1):
        came = actions[:, LATEST - delay : 20 - delay]
        records = Records(obs[:, LATEST:20][kept], came[kept], obs[:, LATEST + 1 :][kept])
        try:
            fit = identify(CartPole(), ["length", "force"], records)
        except polyak.UserError:  # under a wrong delay pushes explain nothing
            continue
        found[float((fit.residual / obs.std(axis=(0, 1))).sum())] = delay, fit
    delay, fit = found[min(found)]
    noise = float(fit.residual[[0, 2]].mean()) / 2**0.5  # of the row before and of the one after
    values = {**fit.values, "delay": float(delay), "noise": noise}
    print(f"{name}: {fit}, delay {delay}, noise {noise:.4f} from {rows:,} real steps", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, json.dumps(values).encode())
    return values


# ---- all of it


def program(name: str, out: str, sizes: Sizes) -> dict[str, polyak.Run]:
    """The runs of all stages, by what they are."""

    def simulated(what: str, fields: Mapping[str, Any], steps: int) -> polyak.Run:
        return stage(f"{name}-{what}", out, sizes, steps, steps, fields)

    def real(what: str, **more: Any) -> polyak.Run:
        return stage(f"{name}-{what}", out, sizes, sizes.real, sizes.every, REAL, **more)

    runs = {"simulator": simulated("simulator", {}, sizes.simulated)}
    theirs = str(runs["simulator"].path)
    taken = tuple(f"{theirs}:{there}={here}" for there, here in COLUMNS.items())
    runs["randomised"] = simulated("randomised", RANGES, sizes.randomised)
    for rows in ROWS:
        fields = identified(f"{name}-records-{rows}", out, rows)
        runs[f"identified {rows}"] = simulated(f"identified-{rows}", fields, sizes.simulated)
    runs["scratch"] = real("scratch")
    runs["tuned"] = real("tuned", init=(theirs,))
    runs["columns"] = real("columns", init=taken, config={"network": "progressive"})
    return runs


def draw(runs: Mapping[str, polyak.Run], path: Path) -> None:
    """Return in the real world against the real steps that were used, interquartile mean and interval over seeds."""
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for label, kind in (
        ("from scratch", "scratch"),
        ("fine-tuning", "tuned"),
        ("progressive network", "columns"),
    ):
        steps, returns = curves(runs[kind])
        ax.plot(steps, interquartile_mean(returns), label=label)
        ax.fill_between(steps, *iqm_interval(returns), alpha=0.2)
    points = {
        "simulator": (0, "no more than the simulator", "x"),
        "randomised": (0, "random simulators", "s"),
    }
    points |= {f"identified {rows}": (rows, f"identified from {rows:,} steps", "o") for rows in ROWS}
    for kind, (steps, label, marker) in points.items():
        last = curves(runs[kind])[1][:, -1]
        middle, (low, high) = interquartile_mean(last), iqm_interval(last)
        error = [[max(middle - low, 0)], [max(high - middle, 0)]]
        ax.errorbar([steps], [middle], yerr=error, fmt=marker, capsize=4, label=label)
    ax.set(xlabel="steps in the real world", ylabel="return of an episode in the real world", ylim=(0, 510))
    ax.set_xscale("symlog", linthresh=100)
    ax.set_xlim(left=-10)
    ax.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def said(runs: Mapping[str, polyak.Run]) -> str:
    """Return of each way in the real world, and how much more that is than from scratch, seed by seed; a line each."""
    returns = {what: curves(run)[1] for what, run in runs.items()}
    scratch = returns["scratch"]
    lines = []
    for what, each in returns.items():
        line = f"{what:<16} {interval(each[:, -1])}"
        if what != "scratch":
            line += f", {interval(each[:, -1] - scratch[:, -1])} more than from scratch"
        if what != "scratch" and each.shape == scratch.shape:
            line += f", {interval((each - scratch).mean(axis=1))} in the mean over all steps"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Run what is left of it, and draw the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m reproductions.gap", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--name", required=True, help="before the names of its runs; the same name goes on")
    parser.add_argument("--out", default="runs", help="folder of the runs")
    parser.add_argument("--small", action="store_true", help="stages of a few rollouts, to try it")
    given = parser.parse_args()
    small = Sizes(seeds=2, simulated=512, randomised=512, real=512, every=256, episodes=1)
    runs = program(given.name, given.out, small if given.small else Sizes())
    draw(runs, Path(given.out) / f"{given.name}.png")
    print(said(runs))
    for what, run in runs.items():
        print(f"digest {what}: {run.digest()}")


if __name__ == "__main__":
    main()

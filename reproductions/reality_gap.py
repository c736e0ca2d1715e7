"""Narrowing the reality gap: identify the system (G16), or train on many of them at once (G17).

The simulator is Pendulum as it stands; the real world has another mass and length, which nothing is told of.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import polyak
from polyak import algorithms
from polyak.drivers.act import actors
from polyak.envs.environment import to_bounds
from polyak.envs.find import find
from polyak.lab.identify import Records, identify, record
from reproductions.finding import Finding, main, train

PENDULUM, CARTPOLE = "jax:Pendulum-v1", "jax:CartPole-v1"
REAL = {PENDULUM: {"mass": 1.3, "length": 0.8}, CARTPOLE: {"mass_pole": 0.15, "length": 0.7}}
NOISE, ROWS = 0.01, 1_000
SEEDS, STEPS, EPISODES = 5, 20_000, 10
MASSES, LENGTHS = np.linspace(0.5, 1.7, 7), np.linspace(0.6, 1.4, 5)
RANGES = {"randomize.mass": (0.5, 1.7), "randomize.length": (0.6, 1.4)}


def identification() -> Finding:
    """Constants from 1,000 noisy steps of random actions, then a policy that is trained with them."""
    claims, said = {}, []
    for name, real in REAL.items():
        found = identify(find(name), list(real), seen(name, real))
        for constant, value in real.items():
            off = abs(found.values[constant] / value - 1)
            claims[f"{name}: {constant} within 2 % (found {off:.2%} off)"] = off < 0.02
        said.append(f"{name.partition(':')[2]} {found}")
        if name == PENDULUM:
            real_found = found.values
    returns = {}
    for kind, fields in (("identified", real_found), ("real", REAL[PENDULUM]), ("simulator", {})):
        run = train("td3", PENDULUM, steps=STEPS, seeds=SEEDS, env_fields=fields)
        returns[kind] = on_grid(run, [REAL[PENDULUM]["mass"]], [REAL[PENDULUM]["length"]]).mean()
    gap = returns["real"] - returns["identified"]
    claims[
        f"trained with them, the return in the real world is that of training there (within 10, found {gap:.1f})"
    ] = abs(gap) < 10
    figures = ", ".join(f"{kind} {value:.1f}" for kind, value in returns.items())
    return Finding(claims, f"{'; '.join(said)}; return in the real world after training in: {figures}")


def seen(name: str, real: dict[str, float]) -> Records:
    """Noisy records of the real world: states are known, and what they become is seen with noise."""
    return record(find(name, real), ROWS, jax.random.key(0), noise=NOISE)


def randomisation(picture: str = "runs/reality_gap.png") -> Finding:
    """Policies that were trained with and without random dynamics, on a grid of dynamics."""
    found = {
        kind: on_grid(train("td3", PENDULUM, steps=STEPS, seeds=SEEDS, env_fields=fields), MASSES, LENGTHS)
        for kind, fields in (("one system", {}), ("random systems", RANGES))
    }  # [masses, lengths, S]
    draw(found, picture)
    unseen = ~(np.isclose(MASSES[:, None], 1.0, atol=0.15) & np.isclose(LENGTHS[None], 1.0, atol=0.15))
    means = {kind: value[unseen].mean(axis=0) for kind, value in found.items()}  # [S]
    worst = {kind: value[unseen].mean(axis=1).min() for kind, value in found.items()}
    one, many = means["one system"], means["random systems"]
    claims = {
        "every seed that saw random systems is better on unseen ones than any that did not": many.min()
        > one.max(),
        "so it is on the worst system": worst["random systems"] > worst["one system"],
    }
    return Finding(
        claims,
        f"return on unseen dynamics {many.mean():.1f} [{many.min():.1f}, {many.max():.1f}] with randomisation, "
        f"{one.mean():.1f} [{one.min():.1f}, {one.max():.1f}] without; on the worst {worst['random systems']:.0f} "
        f"and {worst['one system']:.0f}; {SEEDS} seeds, {STEPS:,} steps",
    )


def on_grid(run: polyak.Run, masses: Any, lengths: Any) -> np.ndarray:
    """Returns [masses, lengths, S] without exploration, means over the same episodes everywhere."""
    module, base = algorithms.find("td3"), find(PENDULUM)
    cfg, spec = run.policy().cfg, base.spec

    def episode(actor: Any, env: Any, key: jax.Array) -> jax.Array:
        key_start, key_steps = jax.random.split(key)

        def one(now: Any, t: Any) -> tuple[Any, jax.Array]:
            state, obs, key = now
            key, key_act, key_step = jax.random.split(key, 3)
            action, _, _ = module.act(cfg, spec, actor, (), obs[None], key_act, False)
            step = env.step(state, to_bounds(spec.action, action[0]), key_step)
            return (step.state, step.obs, key), step.reward

        return jax.lax.scan(one, (*env.reset(key_start), key_steps), length=200)[1].sum()

    @jax.jit
    def mean(acting: Any, mass: Any, length: Any) -> jax.Array:
        env, keys = base.replace(mass=mass, length=length), jax.random.split(jax.random.key(7), EPISODES)
        return jax.vmap(lambda actor: jax.vmap(partial(episode, actor, env))(keys).mean())(acting)

    acting = actors(module)(run.state())
    return np.array([[mean(acting, jnp.float32(m), jnp.float32(n)) for n in lengths] for m in masses])


def draw(found: dict[str, np.ndarray], path: str) -> None:
    """Heat maps of the mean return over mass and length."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    low = min(value.mean(axis=-1).min() for value in found.values())
    for ax, (kind, value) in zip(axes, found.items(), strict=True):
        image = ax.pcolormesh(LENGTHS, MASSES, value.mean(axis=-1), vmin=low, vmax=-100, cmap="viridis")
        ax.plot(1.0, 1.0, "w*" if kind == "one system" else "none", markersize=12)
        ax.set(title=f"trained on {kind}", xlabel="length, m")
    axes[0].set_ylabel("mass, kg")
    figure.colorbar(image, ax=axes, label="return of an episode")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main({"G16": identification, "G17": randomisation})

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
from polyak.show.curve import interquartile_mean, iqm_interval
from reproductions.finding import Finding, main, train

PENDULUM, CARTPOLE = "jax:Pendulum-v1", "jax:CartPole-v1"
REAL = {PENDULUM: {"mass": 1.3, "length": 0.8}, CARTPOLE: {"mass_pole": 0.15, "length": 0.7}}
NOISE, ROWS = 0.01, 1_000
SEEDS, STEPS, EPISODES = 5, 20_000, 10
LENGTHS, FORCES = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0), (3.0, 5.0, 10.0, 15.0, 20.0, 30.0)
RANGES = {"randomize.length": (0.1, 3.0), "randomize.force": (3.0, 30.0)}


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
        returns[kind] = on_system(run, PENDULUM, REAL[PENDULUM]).mean()
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
    """Policies of CartPole that were trained with and without random dynamics, on a grid of dynamics."""
    found = {}
    for kind, fields in (("one system", {}), ("random systems", RANGES)):
        run = train("ppo", CARTPOLE, steps=300_000, seeds=10, env_fields=fields)
        found[kind] = np.array(
            [[on_system(run, CARTPOLE, {"length": n, "force": f}) for f in FORCES] for n in LENGTHS]
        )  # [lengths, forces, S]
    draw(found, picture)
    unseen = ~((np.array(LENGTHS) == 0.5)[:, None] & (np.array(FORCES) == 10.0)[None])
    means = {kind: value[unseen].mean(axis=0) for kind, value in found.items()}  # [S]
    one, many = ((interquartile_mean(x), *iqm_interval(x)) for x in means.values())
    claims = {"on unseen systems random dynamics help, intervals apart": many[1] > one[2]}
    shown = [f"{mean:.0f} [{low:.0f}, {high:.0f}]" for mean, low, high in (many, one)]
    return Finding(
        claims,
        f"return on {unseen.sum()} unseen systems {shown[0]} with randomisation, {shown[1]} without; IQM and 95 % "
        "interval over 10 seeds after 300,000 steps",
    )


def on_system(run: polyak.Run, name: str, constants: dict[str, float]) -> np.ndarray:
    """Returns [S] without exploration in the environment with these constants, means over the same episodes."""
    key = run.path, name
    if key not in _compiled:
        _compiled[key] = player(run, find(name))
    return np.asarray(_compiled[key]({name: jnp.float32(x) for name, x in constants.items()}))


_compiled: dict[Any, Any] = {}


def player(run: polyak.Run, base: Any) -> Any:
    """From an environment's constants to the returns [S] of a run's seeds."""
    algorithm, cfg, spec = algorithms.find(run.plan.algorithm), run.policy().cfg, base.spec
    acting = actors(algorithm)(run.state())

    def episode(actor: Any, env: Any, key: jax.Array) -> jax.Array:
        key_start, key_steps = jax.random.split(key)

        def one(now: Any, _: Any) -> tuple[Any, jax.Array]:
            state, obs, key, running = now
            key, key_act, key_step = jax.random.split(key, 3)
            action, _, _ = algorithm.act(cfg, spec, actor, (), obs[None], key_act, False)
            step = env.step(state, to_bounds(spec.action, action[0]), key_step)
            return (step.state, step.obs, key, running & ~step.terminated), step.reward * running

        start = (*env.reset(key_start), key_steps, jnp.array(True))
        return jax.lax.scan(one, start, length=spec.time_limit)[1].sum()

    @jax.jit
    def means(constants: dict[str, jax.Array]) -> jax.Array:
        env, keys = base.replace(**constants), jax.random.split(jax.random.key(7), EPISODES)
        return jax.vmap(lambda actor: jax.vmap(partial(episode, actor, env))(keys).mean())(acting)

    return means


def draw(found: dict[str, np.ndarray], path: str) -> None:
    """Heat maps of the mean return over length and force."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    for ax, (kind, value) in zip(axes, found.items(), strict=True):
        image = ax.imshow(value.mean(axis=-1), vmin=0, vmax=500, cmap="viridis", origin="lower")
        for row, column in np.ndindex(value.shape[:2]):
            mean = value[row, column].mean()
            ax.text(column, row, f"{mean:.0f}", ha="center", va="center", color="k" if mean > 300 else "w")
        ax.set(title=f"trained on {kind}", xlabel="force, N", xticks=range(len(FORCES)), xticklabels=FORCES)
    axes[0].set(ylabel="half of the pole's length, m", yticks=range(len(LENGTHS)), yticklabels=LENGTHS)
    figure.colorbar(image, ax=axes, label="return of an episode")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main({"G16": identification, "G17": randomisation})

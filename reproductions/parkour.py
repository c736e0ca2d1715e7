"""A runner over hurdles and gaps, who sees them or does not (D15), learned by D4PG with the network at two depths.

As in the parkour of Barth-Maron et al. 2018 and Heess et al. 2017 the terrain enters the networks below and the body's
own senses, and the action, one layer above. The ablation is blind: zeros stand in the place of the terrain.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import t as student

import polyak
from polyak.envs.worlds.parkour import Parkour
from polyak.interface import Array, Spec, Tree
from reproductions.driving import driver
from reproductions.finding import Finding, main, train

EPISODES = 50  # courses of each seed; none was seen in training
NEAR = 6  # stretches of terrain: from the first obstacle within 1.5 m the script takes off
STEPS = 48_000  # with which a runner who sees comes over most courses
SIGHTS: Mapping[str, Mapping[str, Any]] = {
    "seeing": {},
    "blind": {"env_fields": {"blind": True}},
    "seeing, one depth": {"config": {"network": "mlp"}},
}


def told(cfg: Any, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """The script: up to full speed, and a jump where there is an obstacle within 1.5 m, which no other policy beats."""
    _, speed, _, stands = jnp.moveaxis(obs["proprioception"], -1, 0)
    near = jnp.abs(obs["terrain"][:, :NEAR]).max(axis=1) > 0.01
    action = jnp.stack([speed < 0.999, near], axis=1) * stands[:, None]
    return action.astype(jnp.float32), memory, ()


scripted = driver(told)


def learned(name: str, steps: int, seeds: int) -> polyak.Run:
    """D4PG by its preset, with these eyes or without."""
    return train("d4pg", "jax:Parkour", steps=steps, seeds=seeds, **SIGHTS[name])


def path(run: polyak.Run, env: Parkour, course: int) -> tuple[np.ndarray, Tree, bool]:
    """Places [T, 2] of the runner on a course that training never saw; the course; whether the runner fell."""
    reset, step, policy, key = jax.jit(env.reset), jax.jit(env.step), run.policy(), jax.random.key(0)
    state, obs = reset(jax.random.key(1_000 + course))
    walked, fell = [np.asarray(state[0][:2])], False
    while not fell and len(walked) <= (env.time_limit or 0):
        made = step(state, policy(jax.device_get(obs))[0], key)
        state, obs, fell = made.state, made.obs, bool(made.terminated)
        walked.append(np.asarray(state[0][:2]))
    return np.stack(walked), jax.tree.map(np.asarray, state[1]), fell


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over seeds, Student's."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def sight(names: tuple[str, ...], steps: int, seeds: int) -> Finding:
    """Obstacles cleared with eyes and without, beside the script's."""
    best = polyak.Agent("reproductions.parkour:scripted", "jax:Parkour").evaluate(EPISODES)
    played = {name: learned(name, steps, seeds).evaluate(EPISODES) for name in names}
    found = {name: each.measures["cleared"].mean(axis=1) for name, each in played.items()}
    spans = {name: interval(each) for name, each in found.items()}
    said = {
        name: f"{each.mean():.2f} [{spans[name][0]:.2f}, {spans[name][1]:.2f}]"
        for name, each in found.items()
    }
    for name, each in found.items():
        returns = played[name].returns.mean(axis=1)
        print(f"  {name}: {said[name]}, each seed {np.round(each, 2)}; returns {np.round(returns, 1)}")
    claims = {
        f"what is observed is enough: a script never falls in {EPISODES} courses": bool(
            (best.lengths == 200).all()
        ),
        f"the blind clear fewer obstacles, interval apart ({said['blind']} beside {said['seeing']})": (
            spans["blind"][1] < spans["seeing"][0]
        ),
    }
    line = "; ".join(f"{name} {text}" for name, text in said.items())
    line += f"; a script {best.measures['cleared'].mean():.2f}"
    return Finding(claims, f"obstacles cleared [95 %], {seeds} seeds, {steps:,} steps: {line}")


if __name__ == "__main__":
    main(
        {"D15": lambda: sight(("seeing", "blind"), steps=STEPS, seeds=5)},
        long={"D15": lambda: sight(tuple(SIGHTS), steps=200_000, seeds=10)},
    )

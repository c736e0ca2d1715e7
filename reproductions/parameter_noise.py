"""Adaptive noise on the parameters (D5): the distance that it makes tracks delta, and a sparse reward is found.

The task is the mountain car with a throttle that costs nothing: 100 at the goal, 0 elsewhere, 999 steps. DDPG has to
find the goal by its noise. Ornstein-Uhlenbeck's has the standard deviation delta that noise on parameters aims at.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import ddpg
from polyak.parts.exploration import perturbed
from reproductions.finding import Finding, main, train

DELTA, THETA, EPISODES, DRAWS = 0.3, 0.15, 20, 50
SPARSE = {"cost": 0.0}
SETTINGS = {
    **{"gamma": 0.99, "actor_lr": 1e-3, "tau": 0.005, "hidden": [64, 64], "network": "layer_norm"},
    **{"data.capacity": 200_000, "data.warmup": 1_000},
}
NOISES: dict[str, dict[str, Any]] = {
    "parameter": {"noise": "parameter", "sigma": DELTA},
    # the stationary deviation is sigma / sqrt(2 theta)
    "ou": {"noise": "ou", "theta": THETA, "sigma": DELTA * float(np.sqrt(2 * THETA))},
}


def tracks() -> tuple[dict[str, bool], str]:
    """The distance on Pendulum, where states are many, after training."""
    config = {**SETTINGS, **NOISES["parameter"]}
    away = distances(train("ddpg", "jax:Pendulum-v1", steps=5_000, seeds=3, config=config))
    listed = ", ".join(f"{each:.3f}" for each in away)
    claim = f"the actions' distance is delta = {DELTA} within 25 % in each of 3 seeds (found {listed})"
    held = bool((abs(away / DELTA - 1) < 0.25).all())
    return {claim: held}, f"distance {away.mean():.3f} at delta {DELTA}"


def distance() -> Finding:
    """That alone."""
    return Finding(*tracks())


def against_ou(steps: int = 30_000, seeds: int = 10) -> Finding:
    """Both noises on the sparse mountain car."""
    claims, away = tracks()
    found, said = {}, []
    for name, noise in NOISES.items():
        run = train(
            "ddpg",
            "jax:MountainCarContinuous-v0",
            steps=steps,
            seeds=seeds,
            env_fields=SPARSE,
            config={**SETTINGS, **noise},
        )
        found[name] = run.evaluate(EPISODES).returns.mean(axis=1)
        low, high = interval(found[name])
        said.append(f"{name} {found[name].mean():.0f} [{low:.0f}, {high:.0f}]")
    better = found["parameter"].mean() > found["ou"].mean()
    claims[f"noise on parameters returns more than Ornstein-Uhlenbeck's ({'; '.join(said)})"] = bool(better)
    return Finding(
        claims,
        f"{away}; sparse mountain car after {steps:,} steps, mean return of {seeds} seeds [95 %]: {', '.join(said)}",
    )


def distances(run: polyak.Run) -> np.ndarray:
    """Root mean square difference of the actions on states of Pendulum, averaged over perturbations, of each seed."""
    angle, speed = jax.random.uniform(jax.random.key(0), (2, 400), minval=-1.0)
    obs = jnp.stack([jnp.cos(np.pi * angle), jnp.sin(np.pi * angle), 8 * speed], axis=-1)
    state = run.state()

    def one(actor: Any, scale: jax.Array, key: jax.Array) -> jax.Array:
        away = ddpg.policy(perturbed(actor, key, scale), obs) - ddpg.policy(actor, obs)
        return jnp.sqrt((away**2).mean())

    keys = jax.random.split(jax.random.key(1), DRAWS)
    each = jax.vmap(jax.vmap(one, in_axes=(None, None, 0)), in_axes=(0, 0, None))
    return np.asarray(each(jax.tree.map(jnp.asarray, state.actor), jnp.asarray(state.scale), keys)).mean(
        axis=1
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main({"D5": distance}, long={"D5": against_ou})

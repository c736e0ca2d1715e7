"""Adaptive noise on the parameters (D5): the distance that it makes tracks delta, and a sparse reward is found.

The longer form is the comparison of Plappert et al. 2018 (arXiv:1706.01905, section 4.2) on the sparse swing-up, with
the settings of its appendix A.2 and of the authors' code. Noise there has the scale 0.6, and what the paper calls an
Ornstein-Uhlenbeck process is stepped by 0.01 units of time in every step of the environment: it hardly changes within
an episode. Lillicrap et al. 2016 do not say how long a step is; with one unit in every step it forgets in seven steps,
and is another noise altogether. Both are measured.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import ddpg
from polyak.parts.exploration import perturbed
from reproductions.finding import Finding, main, train

DELTA, EPISODES, DRAWS = 0.3, 20, 50
STEPS, SEEDS, EVERY, TASK = 40_000, 10, 10_000, "jax:SparseCartPoleSwingUp"
TRACKED = {
    **{"gamma": 0.99, "actor_lr": 1e-3, "tau": 0.005, "hidden": [64, 64], "network": "layer_norm"},
    **{"data.capacity": 200_000, "data.warmup": 1_000, "noise": "parameter", "sigma": DELTA},
}
PAPER = {
    **{"gamma": 0.99, "actor_lr": 1e-4, "critic_lr": 1e-3, "tau": 0.01, "weight_decay": 0.01},
    **{"hidden": [64, 64], "network": "layer_norm"},
    # 50 updates for 100 steps, and no uniform actions first
    **{"data.capacity": 100_000, "data.batch_size": 64, "data.steps": 2},
    **{"data.warmup": 100, "data.uniform": False},
}
SIGMA, THETA, UNIT = 0.6, 0.15, 0.01
NOISES: dict[str, dict[str, Any]] = {
    "parameter": {"noise": "parameter", "sigma": SIGMA},
    "ou": {"noise": "ou", "theta": THETA * UNIT, "sigma": SIGMA * float(np.sqrt(UNIT))},
    "gaussian": {"noise": "gaussian", "sigma": SIGMA},
    "none": {"noise": "gaussian", "sigma": 0.0},
    "fast ou": {"noise": "ou", "theta": THETA, "sigma": SIGMA},
}


def tracks() -> tuple[dict[str, bool], str]:
    """The distance on Pendulum, where states are many, after training."""
    away = distances(train("ddpg", "jax:Pendulum-v1", steps=5_000, seeds=3, config=TRACKED))
    listed = ", ".join(f"{each:.3f}" for each in away)
    claim = f"the actions' distance is delta = {DELTA} within 25 % in each of 3 seeds (found {listed})"
    held = bool((abs(away / DELTA - 1) < 0.25).all())
    return {claim: held}, f"distance {away.mean():.3f} at delta {DELTA}"


def distance() -> Finding:
    """That alone."""
    return Finding(*tracks())


class Learned(NamedTuple):
    """What a noise earned, without it."""

    end: np.ndarray  # return of each seed [S] after training, mean of the episodes
    curve: np.ndarray  # [S, evaluations], on the way


@functools.cache
def learned(noise: str, steps: int = STEPS, seeds: int = SEEDS) -> Learned:
    """DDPG with one of the noises on the sparse task."""
    run = train(
        *("ddpg", TASK),
        **{"steps": steps, "seeds": seeds, "wrap": ["normalize_obs"], "config": {**PAPER, **NOISES[noise]}},
        **{"eval_every": EVERY, "eval_episodes": 10},
    )
    on_the_way = [[] for _ in range(seeds)]
    for line in run.metrics:
        if "eval/return" in line:
            on_the_way[line["seed"]].append(line["eval/return"])
    return Learned(run.evaluate(EPISODES).returns.mean(axis=1), np.array(on_the_way))


def against_others() -> Finding:
    """All noises on the sparse task, at the same budget."""
    claims, away = tracks()
    found = {noise: learned(noise) for noise in NOISES}
    intervals = {
        noise: [interval(each.end), interval(each.curve.mean(axis=1))] for noise, each in found.items()
    }
    for noise in ("ou", "gaussian", "none"):
        above = all(
            mine[0] > other[1] for mine, other in zip(intervals["parameter"], intervals[noise], strict=True)
        )
        claims[f"the interval of noise on parameters is above that of {noise}, at the end and on the way"] = (
            above
        )
    said = [
        f"{noise} {each.end.mean():.1f} [{intervals[noise][0][0]:.1f}, {intervals[noise][0][1]:.1f}]"
        f" ({each.curve.mean():.1f} on the way)"
        for noise, each in found.items()
    ]
    return Finding(
        claims,
        f"{away}; sparse swing-up after {STEPS:,} steps, mean return of {SEEDS} seeds [95 %]: {', '.join(said)}",
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
    main({"D5": distance}, long={"D5": against_others})

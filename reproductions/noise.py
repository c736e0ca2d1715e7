"""Ornstein-Uhlenbeck noise (D4): its mean, variance and autocorrelation beside those of its equation.

In the longer form DDPG finds the goal of the continuous mountain car with it, which rewards nothing else.

dx = -theta x dt + sigma dW has mean 0, stationary variance sigma^2 / (2 theta), and the correlation exp(-theta lag)
between two times a lag apart. theta is the rate of return and sigma the scale, which lecture 2 has the other way round.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import trim_mean

from polyak.parts.exploration import ornstein_uhlenbeck
from reproductions.finding import Finding, main, train

PATHS, STEPS, BURN = 20_000, 200, 100
SETTINGS = [(0.15, 0.2, 1.0), (0.15, 0.2, 0.1), (1.0, 0.3, 0.5), (3.0, 1.0, 0.2)]  # theta, sigma, dt
LAGS = (1, 2, 5, 10)
CAR, BAR, SEEDS = "jax:MountainCarContinuous-v0", 93.0, 10


def moments() -> Finding:
    """Simulate many paths from 0, and measure once they have forgotten where they began."""
    claims, worst = {}, 0.0
    for theta, sigma, dt in SETTINGS:

        def step(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = ornstein_uhlenbeck(key, x, sigma, theta, dt)  # noqa: B023
            return x, x

        steps = max(STEPS, int(BURN / (theta * dt)) // 10 + max(LAGS) + 1)
        path = jax.lax.scan(step, jnp.zeros(PATHS), jax.random.split(jax.random.key(0), steps))[1]
        late = np.asarray(path[-max(LAGS) - 1 :], np.float64)
        variance = sigma**2 / (2 * theta)
        name = f"theta {theta:g}, sigma {sigma:g}, dt {dt:g}"
        mean = late[-1].mean() / np.sqrt(variance / PATHS)
        claims[f"{name}: the mean is 0 within 4 standard errors (found {mean:.1f})"] = abs(mean) < 4
        error = late[-1].var() / variance - 1
        claims[f"{name}: the variance is sigma^2 / (2 theta) within 4 % (found {error:+.1%})"] = (
            abs(error) < 0.04
        )
        for lag in LAGS:
            found = np.corrcoef(late[-1 - lag], late[-1])[0, 1]
            off = abs(found - np.exp(-theta * lag * dt))
            worst = max(worst, off)
            claims[
                f"{name}: the correlation at lag {lag} is exp(-theta lag dt) within 0.03 (off by {off:.3f})"
            ] = off < 0.03
    return Finding(
        claims, f"largest error of a correlation {worst:.3f}, {len(SETTINGS)} settings, {PATHS:,} paths"
    )


def mountain_car() -> Finding:
    """DDPG's preset, whose noise is this one."""
    found = train("ddpg", CAR, seeds=SEEDS).evaluate(100).returns.mean(axis=1)
    middle = float(trim_mean(found, 0.25))
    claim = f"the interquartile mean of {SEEDS} seeds is at least {BAR:g} (found {middle:.1f})"
    return Finding(
        {claim: middle >= BAR},
        f"DDPG on {CAR}, {SEEDS} seeds: IQM {middle:.1f} ({', '.join(f'{x:.1f}' for x in np.sort(found))})",
    )


if __name__ == "__main__":
    main({"D4": moments}, long={"D4": mountain_car})

"""A critic that predicts a distribution (C11): the projection keeps the mass, and the mean inside the support.

The values that rlax publishes stand beside what is found, and a float64 loop of Algorithm 1 of Bellemare,
Dabney & Munos 2017 beside many generated backups.
"""

import jax
import jax.numpy as jnp
import numpy as np

from polyak.parts import categorical
from reproductions.finding import Finding, main

DRAWS, ROWS = 200, 64
# L2ProjectTest of rlax 0.1.9 (rlax/_src/value_learning_test.py): from every 0.25 to every 0.5, from -1 and from 0 on
PUBLISHED = [[-0.375, -0.5, 0.0, 0.875], [0.0, 0.5, 1.0, 1.5]]


def projection() -> Finding:
    """The published values, and generated backups beside Algorithm 1."""
    off = max(published(row) for row in range(2))
    errors = np.max([backups(np.random.default_rng(draw)) for draw in range(DRAWS)], axis=0)
    mass, mean, loop = errors
    claims = {
        f"the values that rlax publishes (off by {off:.1e})": off < 1e-6,
        f"the mass is 1 (off by {mass:.1e})": mass < 1e-5,
        f"the mean is that of the places clipped to the support, relative to its width (off by {mean:.1e})": mean
        < 1e-5,
        f"all probabilities are those of Algorithm 1 (off by {loop:.1e})": loop < 1e-4,
    }
    return Finding(
        claims,
        f"mass within {mass:.1e} of 1, mean within {mean:.1e} of the support's width, rlax's values within "
        f"{off:.1e}; {DRAWS * ROWS:,} generated backups",
    )


def published(row: int) -> float:
    """The largest difference from one row of rlax's test, whose weights are no probabilities."""
    places = np.arange(-1, 1, 0.25) + row
    weights = np.where(np.arange(8) % 2 == row, 0.0, places)
    found = categorical.project(*(jnp.float32(x) for x in (places, weights, np.arange(-1, 1, 0.5) + row)))
    return float(np.abs(np.asarray(found) - PUBLISHED[row]).max())


def backups(random: np.random.Generator) -> tuple[float, float, float]:
    """Errors of mass, mean and probabilities over rows with rewards that leave the support, and with ends."""
    count = int(random.integers(2, 102))
    low, width = random.normal(scale=10.0), random.uniform(0.5, 50.0)
    atoms = np.linspace(low, low + width, count)
    probs = random.dirichlet(np.full(count, 0.3), ROWS)
    reward, discount = random.normal(scale=width, size=ROWS), random.choice([0.0, 0.9, 0.99, 1.0], ROWS)
    found = jax.jit(categorical.bellman)(*(jnp.float32(x) for x in (reward, discount, probs, atoms)))
    found = np.asarray(found, np.float64)
    places = np.clip(reward[:, None] + discount[:, None] * atoms, low, low + width)
    mean = np.abs(found @ atoms - (probs * places).sum(axis=1)).max() / width
    wanted = np.array([shared(*row, atoms) for row in zip(places, probs, strict=True)])
    return np.abs(found.sum(axis=1) - 1).max(), mean, np.abs(found - wanted).max()


def shared(places: np.ndarray, probs: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Algorithm 1: the probability of each place, shared between the atoms below and above it."""
    found, width = np.zeros(len(atoms)), atoms[1] - atoms[0]
    for place, p in zip(places, probs, strict=True):
        b = (place - atoms[0]) / width
        lower = min(int(np.floor(b)), len(atoms) - 2)
        found[lower] += p * (lower + 1 - b)
        found[lower + 1] += p * (b - lower)
    return found


if __name__ == "__main__":
    main({"C11": projection})

"""The softmax policy that is linear in features phi(s, a), as `network = "linear"` makes it (A7).

Its gradient is grad log pi(a|s) = phi(s, a) - sum_b pi(b|s) phi(s, b) (Sutton & Barto 2018, eq. 13.9). That is made in
float64 from features and weights, and compared with what automatic differentiation finds, over generated weights,
observations and actions. REINFORCE then learns the short corridor with it, whose best policy is a random one.
"""

import jax
import jax.numpy as jnp
import numpy as np

from polyak import algorithms
from polyak.interface import Box, Discrete, Spec
from reproductions.finding import Finding, main
from reproductions.reinforce import BEST, CORRIDOR, RUNS, learned

SPACES = {"real": Box((4,)), "discrete": Discrete(6), "both": {"cell": Discrete(3), "speed": Box((2,))}}
ALGORITHMS, ACTIONS, DRAWS, ROWS, TOLERANCE = ("ppo", "a2c", "npg"), (2, 4), 5, 32, 1e-6


def gradient() -> Finding:
    """The largest difference, for each algorithm and kind of observation."""
    claims, largest = {}, 0.0
    for algorithm in ALGORITHMS:
        for kind in SPACES:
            error = max(difference(algorithm, kind, n, draw) for n in ACTIONS for draw in range(DRAWS))
            claim = f"{algorithm}, {kind} observations: autodiff is phi - E[phi] within {TOLERANCE:g}"
            claims[f"{claim} (found {error:.1e})"] = error < TOLERANCE
            largest = max(largest, error)
    right, _ = learned(*CORRIDOR["with a baseline"])
    away = abs(right.mean() - BEST)
    claims[f"on the short corridor p(right) is within 0.03 of {BEST:.3f} (found {right.mean():.3f})"] = (
        away < 0.03
    )
    cases = len(ALGORITHMS) * len(SPACES) * len(ACTIONS) * DRAWS * ROWS
    return Finding(
        claims,
        f"largest difference {largest:.1e} over {cases:,} gradients of log pi; p(right) {right.mean():.3f} on the "
        f"short corridor, mean of {RUNS} runs",
    )


def difference(name: str, kind: str, num_actions: int, draw: int) -> float:
    """The largest difference of one draw of weights, where a gradient's own entries are about 1."""
    algorithm, random = algorithms.find(name), np.random.default_rng(draw)
    spec = Spec(SPACES[kind], Discrete(num_actions))
    policy = algorithm.init(algorithm.Config(network="linear"), spec, jax.random.key(draw)).policy
    weight = random.normal(size=policy.net.weight.shape).astype(np.float32)
    policy = policy.replace(net=policy.net.replace(weight=jnp.asarray(weight)))
    obs, action = observations(SPACES[kind], random), random.integers(num_actions, size=ROWS)

    by_row = jax.vmap(jax.grad(lambda policy, obs, action: policy(obs).log_prob(action)), (None, 0, 0))
    found = np.asarray(by_row(policy, obs, jnp.asarray(action)).net.weight, float)  # [ROWS, D, A]

    phi = phi_of(SPACES[kind], obs)  # [ROWS, D]
    preference = phi @ weight.astype(float)
    pi = np.exp(preference - preference.max(axis=1, keepdims=True))
    pi /= pi.sum(axis=1, keepdims=True)
    # phi(s, a) has phi(s) in the place of a: its mean under pi has pi(b|s) phi(s) in the place of b
    wanted = phi[:, :, None] * (np.eye(num_actions)[action] - pi)[:, None, :]
    return float(np.abs(found - wanted).max())


def observations(space, random: np.random.Generator):
    """Points of a space, [ROWS, ...]."""
    if isinstance(space, dict):
        return {key: observations(part, random) for key, part in space.items()}
    if isinstance(space, Discrete):
        return jnp.asarray(random.integers(space.n, size=ROWS))
    return jnp.asarray(random.uniform(-1, 1, size=(ROWS, *space.shape)), jnp.float32)


def phi_of(space, obs) -> np.ndarray:
    """Their features [ROWS, D] in float64, by hand: a row of the identity, the numbers themselves, and 1."""
    if isinstance(space, Discrete):
        return np.eye(space.n)[np.asarray(obs)]
    if isinstance(space, dict):
        return np.concatenate([np.eye(3)[np.asarray(obs["cell"])], np.asarray(obs["speed"], float)], axis=1)
    return np.concatenate([np.asarray(obs, float), np.ones((ROWS, 1))], axis=1)


if __name__ == "__main__":
    main({"A7": gradient})

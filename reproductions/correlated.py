"""A Gaussian with a whole covariance matrix (A6): its density, and a bandit whose optimum needs correlated actions.

The density is that of `act`, beside SciPy's, which is made in float64 from the network's outputs.

Of the bandit the two actions have to agree, and whoever plays against us remembers the last pull: a pull pays by how
far it is from the one before, (a_1 - b_1)^2, and costs (a_1 - a_2)^2 / w^2. Nothing is observed, so each pull is an
independent draw from the policy, and with v the variance of a_1 the mean payment is 2 v. With independent actions the
cost is at least (v + var a_2) / w^2, so that with w = 1/2 no such policy, Gaussian or not, earns more than
2 v - 4 v <= 0. With a_1 = a_2 the cost is 0, and the optimum is to throw a coin for both: 2 a pull.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import polyak
from polyak import algorithms
from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Spec
from polyak.pytree import pytree
from reproductions.finding import Finding, main, train

SEEDS, PULLS, STEPS = 5, 100, 100_000
KINDS = ("parameter", "state", "full")
ALGORITHMS = ("ppo", "a2c")
SIZES, DRAWS, ROWS, TOLERANCE = (1, 2, 6), 10, 64, 1e-5  # of the density's comparison


@pytree
class CorrelatedBandit(Environment):
    """Two actions in [-1, 1]; the state is the first action of the last pull."""

    width: float = 0.5  # w: how far the two may be apart

    @property
    def spec(self) -> Spec:
        """Nothing to see."""
        return Spec(Box((1,), 0.0, 1.0), Box((2,), -1.0, 1.0), time_limit=PULLS)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """No pull yet."""
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One pull."""
        reward = (action[0] - state) ** 2 - ((action[0] - action[1]) / self.width) ** 2
        return Step(action[0], jnp.zeros(1), reward, jnp.array(False), jnp.array(False))


def full_is_better() -> Finding:
    """Return of a pull, of sampled actions, for each kind of sigma and seed."""
    claims, figures = {}, []
    error = max(density_error(size, draw) for size in SIZES for draw in range(DRAWS))
    claims[f"log-probabilities are SciPy's within {TOLERANCE:g} (found {error:.1e})"] = error < TOLERANCE
    for algorithm in ALGORITHMS:
        found = {kind: returns(algorithm, kind) for kind in KINDS}
        for kind in KINDS[:-1]:
            claims[f"{algorithm}, sigma = {kind}: no seed earns more than independent actions can, 0"] = bool(
                (found[kind] < 0.02).all()
            )
            claims[
                f"{algorithm}: every seed with a full covariance earns more than any with sigma = {kind}"
            ] = bool(found["full"].min() > found[kind].max() + 0.1)
        said = ", ".join(f"{np.median(found[kind]):.2f} ({kind})" for kind in KINDS)
        figures.append(f"{algorithm.upper()} {said}")
    return Finding(claims, f"median return of a pull: {'; '.join(figures)}; {SEEDS} seeds, the optimum is 2")


def density_error(size: int, draw: int) -> float:
    """The largest error of log pi(a|s) of one draw of weights, relative where it is larger than one."""
    ppo, random = algorithms.find("ppo"), np.random.default_rng(draw)
    cfg = ppo.Config(sigma="full", hidden=(8,))
    spec = Spec(Box((3,)), Box((size,)), num_envs=ROWS)
    policy = ppo.init(cfg, spec, jax.random.key(draw)).policy
    policy = jax.tree.map(lambda x: jnp.asarray(random.normal(0.0, 0.5, x.shape), jnp.float32), policy)
    obs = jnp.asarray(random.normal(size=(ROWS, 3)), jnp.float32)
    action, _, extras = ppo.act(cfg, spec, policy, (), obs, jax.random.key(draw), True)

    wanted = []
    for out, a in zip(np.asarray(policy.net(obs), float), np.asarray(action, float), strict=True):
        mean, offset, below = np.split(out, (size, 2 * size))
        factor = np.eye(size)
        factor[np.tril_indices(size, -1)] = below
        factor *= np.exp(np.clip(np.asarray(policy.log_sigma, float) + offset, -5.0, 2.0))[:, None]
        wanted.append(stats.multivariate_normal(mean, factor @ factor.T).logpdf(a))
    difference = np.abs(np.asarray(extras["log_prob"], float) - wanted)
    return float((difference / np.maximum(1.0, np.abs(wanted))).max())


def returns(algorithm: str, kind: str) -> np.ndarray:
    """The mean return of a pull of each seed's policy, [S], whose actions are sampled."""
    config = {"sigma": kind, "log_sigma": -1.0, "hidden": (16,), "gamma": 0.5, "lr": 1e-3, "entropy": 0.0}
    config |= {"data.steps": 32} if algorithm == "ppo" else {"data.steps": 8, "lr": 3e-3}
    run = train(
        algorithm,
        "reproductions.correlated:CorrelatedBandit",
        steps=STEPS,
        seeds=SEEDS,
        num_envs=16,
        config=config,
    )
    found = np.array([mean_return(run, seed) for seed in range(SEEDS)])
    print(f"  {algorithm}, sigma {kind}: {np.round(found, 3)}")
    return found


def mean_return(run: polyak.Run, seed: int, pulls: int = 20_000) -> float:
    """The mean return of a pull, from actions that the policy draws."""
    action = np.clip(
        np.asarray(run.policy(seed)(np.zeros((pulls, 1), np.float32), explore=True)[0], float), -1, 1
    )
    apart = np.diff(action[:, 0], prepend=0.0) ** 2
    return float((apart - ((action[:, 0] - action[:, 1]) / CorrelatedBandit().width) ** 2).mean())


if __name__ == "__main__":
    main({"A6": full_is_better})

"""Estimators of a policy's gradient, beside the exact one: likelihood ratio, pathwise and finite differences.

Williams 1992 (likelihood ratio); Sutton et al. 2000 and Greensmith, Bartlett & Baxter 2004 (reward-to-go, baseline,
advantage); Kingma & Welling 2014, arXiv:1312.6114 (pathwise); Glynn 1990 (finite differences and common random
numbers). Lectures 0 and 1. One sample is one episode, and all estimators see the same episodes: those of the seed.

>>> from polyak.lab import estimators
>>> task = estimators.Bandit("step", at=1.0)
>>> policy = estimators.gaussian(gain=[[0.0]], sigma=1.0)
>>> found = estimators.estimate(estimators.likelihood_ratio, task, policy, samples=1000)
>>> found.samples.shape, found.names
((1000, 2), ['.net.weight[0, 0]', '.log_sigma[0]'])
>>> bool(abs(found.deviation(task.exact(policy))).max() < 3)
True
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from polyak.errors import UserError
from polyak.interface import Array, Tree
from polyak.lab.tasks import Bandit, Finite, Policy, Regulator, Task, gaussian, softmax
from polyak.parts.policies import Softmax

__all__ = [
    "EVERY",
    "Bandit",
    "Comparison",
    "Estimate",
    "Finite",
    "FiniteDifference",
    "Regulator",
    "advantage",
    "ascend",
    "baseline",
    "compare",
    "estimate",
    "gaussian",
    "likelihood_ratio",
    "pathwise",
    "reward_to_go",
    "softmax",
]

Estimator = Callable[[Task, Policy, jax.Array], Tree]  # one sample, in the shape of the policy


class Path(NamedTuple):
    """One episode."""

    state: Array  # [H, ...]
    action: Array  # [H, ...]
    reward: Array  # [H]  gamma^t r_t


def rollout(task: Task, policy: Policy, key: jax.Array) -> Path:
    """An episode; where actions are real it is differentiable in the policy's parameters."""
    key_reset, key_steps = jax.random.split(key)

    def play(now: tuple[Array, jax.Array], t: Array) -> tuple[tuple[Array, jax.Array], Path]:
        state, key = now
        key, key_action, key_next = jax.random.split(key, 3)
        action = policy(state).sample(key_action)
        reward = task.gamma**t * task.reward(state, action)
        return (task.step(state, action, key_next), key), Path(state, action, reward)

    return jax.lax.scan(play, (task.reset(key_reset), key_steps), jnp.arange(task.horizon))[1]


def weighted_score(policy: Policy, path: Path, weight: Array) -> Tree:
    """sum_t weight_t grad log pi(a_t|s_t): no model of the world is needed."""
    return jax.grad(lambda p: (weight * p(path.state).log_prob(path.action)).sum())(policy)


def to_go(reward: Array) -> Array:
    """sum_{k>=t} reward_k [H]."""
    return jnp.cumsum(reward[::-1])[::-1]


# ---- the estimators


def likelihood_ratio(task: Task, policy: Policy, key: jax.Array) -> Tree:
    """R(tau) sum_t grad log pi(a_t|s_t)."""
    path = rollout(task, policy, key)
    return weighted_score(policy, path, path.reward.sum())


def reward_to_go(task: Task, policy: Policy, key: jax.Array) -> Tree:
    """sum_t grad log pi(a_t|s_t) sum_{k>=t} gamma^k r_k: without the rewards that came before the action."""
    path = rollout(task, policy, key)
    return weighted_score(policy, path, to_go(path.reward))


def baseline(task: Task, policy: Policy, key: jax.Array) -> Tree:
    """sum_t grad log pi(a_t|s_t) (sum_{k>=t} gamma^k r_k - gamma^t V_t(s_t)), with the exact value."""
    path, t = rollout(task, policy, key), jnp.arange(task.horizon)
    value, _ = task.values(policy)
    return weighted_score(policy, path, to_go(path.reward) - task.gamma**t * value(t, path.state))


def advantage(task: Task, policy: Policy, key: jax.Array) -> Tree:
    """sum_t gamma^t grad log pi(a_t|s_t) A_t(s_t, a_t), with the exact advantage: the policy gradient theorem."""
    path, t = rollout(task, policy, key), jnp.arange(task.horizon)
    value, action_value = task.values(policy)
    better = action_value(t, path.state, path.action) - value(t, path.state)
    return weighted_score(policy, path, task.gamma**t * better)


def pathwise(task: Task, policy: Policy, key: jax.Array) -> Tree:
    """Gradient of R(tau(theta, z)) with its noise z held fixed: through the reward, the dynamics and a = mu + z sigma.

    Unbiased where the return is continuous in the actions; UserError for actions that are integers.
    """
    if isinstance(policy, Softmax):
        raise UserError("pathwise needs real actions: the choice of an integer has no derivative")
    return jax.jacfwd(lambda p: rollout(task, p, key).reward.sum())(policy)


@dataclass(frozen=True)
class FiniteDifference:
    """(J(theta + epsilon u_k) - J(theta - epsilon u_k)) / 2 epsilon for each parameter k, each J from one episode.

    epsilon  how far each parameter is moved
    common   both episodes draw the same random numbers, and all parameters share them
    central  two evaluations for each parameter; else (J(theta + epsilon u_k) - J(theta)) / epsilon, the slides' form
    """

    epsilon: float = 0.01
    common: bool = True
    central: bool = True

    def __call__(self, task: Task, policy: Policy, key: jax.Array) -> Tree:
        """One sample."""
        flat, unravel = ravel_pytree(policy)
        moves = self.epsilon * jnp.eye(len(flat))
        below = -moves if self.central else jnp.zeros_like(moves)
        points = flat + jnp.concatenate([moves, below])

        def returned(point: Array, key: jax.Array) -> Array:
            return rollout(task, unravel(point), key).reward.sum()

        if self.common:
            plus, minus = jnp.split(jax.vmap(returned, (0, None))(points, key), 2)
        else:
            plus, minus = jnp.split(jax.vmap(returned)(points, jax.random.split(key, len(points))), 2)
        return unravel((plus - minus) / (self.epsilon * (2 if self.central else 1)))


EVERY: dict[str, Estimator] = {
    "likelihood ratio": likelihood_ratio,
    "reward-to-go": reward_to_go,
    "baseline": baseline,
    "advantage": advantage,
    "pathwise": pathwise,
    "finite differences": FiniteDifference(),
    "the same, own numbers": FiniteDifference(common=False),
}


# ---- what is found with them


@dataclass(frozen=True, eq=False)
class Estimate:
    """Samples of a gradient.

    samples  [N, P] float64, one for each episode
    names    of the P parameters
    """

    samples: np.ndarray
    names: list[str]

    @property
    def mean(self) -> np.ndarray:
        """[P]."""
        return self.samples.mean(0)

    @property
    def variance(self) -> float:
        """The trace of one sample's covariance."""
        return float(self.samples.var(0, ddof=1).sum())

    @property
    def standard_error(self) -> np.ndarray:
        """[P] of the mean."""
        return self.samples.std(0, ddof=1) / np.sqrt(len(self.samples))

    def deviation(self, exact: Tree) -> np.ndarray:
        """(mean - exact) / standard error [P]; 0 where both are 0, infinite where only the error is."""
        off, error = self.mean - flatten(exact), self.standard_error
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.abs(off) <= 1e-12, 0.0, off / error)

    def cosine(self, exact: Tree) -> float:
        """The cosine of the angle between the mean and the exact gradient; NaN where the mean is 0."""
        exact, mean = flatten(exact), self.mean
        length = np.linalg.norm(exact) * np.linalg.norm(mean)
        return float(exact @ mean / length) if length else float("nan")


def estimate(
    estimator: Estimator,
    task: Task,
    policy: Policy,
    samples: int = 10_000,
    seed: int = 0,
    batch: int = 10_000,
) -> Estimate:
    """Play `samples` episodes, `batch` at a time, and estimate a gradient from each one."""
    with jax.enable_x64(True):
        policy = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), policy)

        @jax.jit
        def some(keys: jax.Array) -> Array:
            return jax.vmap(lambda key: ravel_pytree(estimator(task, policy, key))[0])(keys)

        keys = jax.random.split(jax.random.key(seed), samples)
        found = [np.asarray(some(keys[at : at + batch])) for at in range(0, samples, batch)]
    return Estimate(np.concatenate(found), names_of(policy))


def ascend(
    estimator: Estimator,
    task: Task,
    policy: Policy,
    lr: float,
    steps: int,
    episodes: int = 16,
    seed: int = 0,
) -> list[Policy]:
    """Gradient ascent, theta += lr times the mean of so many samples: the policies before each step and after the last.

    For estimators that need no exact values; with `reward_to_go` it is REINFORCE (lecture 3).
    """
    with jax.enable_x64(True):
        policy = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), policy)
        keys = jax.random.split(jax.random.key(seed), steps)
        found = jax.tree.map(np.asarray, climber(estimator, task, episodes)(policy, jnp.float64(lr), keys))
    return [policy, *(jax.tree.map(lambda x: x[step], found) for step in range(steps))]  # noqa: B023


@functools.lru_cache(maxsize=8)
def climber(estimator: Estimator, task: Task, episodes: int) -> Callable[..., Policy]:
    """The compiled loop of `ascend`: policy, lr, keys [T] -> the policy after each step, [T, ...]."""

    def climb(policy: Policy, at: tuple[Array, jax.Array]) -> tuple[Policy, Policy]:
        lr, key = at
        samples = jax.vmap(lambda key: estimator(task, policy, key))(jax.random.split(key, episodes))
        policy = jax.tree.map(lambda x, g: x + lr * g.mean(0), policy, samples)
        return policy, policy

    return jax.jit(lambda policy, lr, keys: jax.lax.scan(climb, policy, (jnp.full(len(keys), lr), keys))[1])


class Comparison(NamedTuple):
    """Estimates by the names of their estimators, and the exact gradient; prints as a table."""

    estimates: Mapping[str, Estimate]
    exact: Tree

    def __str__(self) -> str:
        """Variance of one sample, the largest deviation of the mean in standard errors, cosine of mean and truth."""
        lines = [f"{'':22} {'variance':>10} {'deviation':>10} {'cosine':>8}"]
        for name, found in self.estimates.items():
            off = np.abs(found.deviation(self.exact)).max()
            lines.append(f"{name:22} {found.variance:10.4g} {off:10.2f} {found.cosine(self.exact):8.4f}")
        return "\n".join(lines)


def compare(
    task: Task,
    policy: Policy,
    samples: int = 10_000,
    seed: int = 0,
    estimators: Mapping[str, Estimator] | None = None,
) -> Comparison:
    """Every estimator that can serve a policy, on the same episodes."""
    if estimators is None:
        estimators = {n: e for n, e in EVERY.items() if not (n == "pathwise" and isinstance(policy, Softmax))}
    found = {name: estimate(one, task, policy, samples, seed) for name, one in estimators.items()}
    return Comparison(found, task.exact(policy))


def flatten(gradient: Tree) -> np.ndarray:
    """The numbers of a gradient [P], in the order of `names_of`."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient)])


def names_of(policy: Policy) -> list[str]:
    """The names of a policy's parameters, one for each number."""
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(policy):
        places = np.ndindex(np.shape(leaf))
        names += [jax.tree_util.keystr(path) + str(list(place)) for place in places]
    return names

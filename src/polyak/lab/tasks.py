"""Tasks on which the gradient of a policy's return is known exactly, for the estimators of `polyak.lab.estimators`.

A task plays an episode of `horizon` steps in JAX and knows, in NumPy, the policy's gradient, values V_t(s) and action
values Q_t(s, a). Rewards are discounted by `gamma`; the objective is J = E[sum_{t<H} gamma^t r_t].
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from polyak.errors import UserError
from polyak.interface import Array, Tree
from polyak.lab import linear
from polyak.lab.mdp import MDP
from polyak.parts.policies import Gaussian, Sigma, Softmax
from polyak.pytree import Record, pytree, static

Policy = Softmax | Gaussian
Value = Callable[[Array, Array], Array]  # t, s -> V_t(s)
ActionValue = Callable[[Array, Array, Array], Array]  # t, s, a -> Q_t(s, a)


# ---- policies: the library's own, with the simplest networks


@pytree
class Table(Record):
    """A network of integers: a row of outputs for each."""

    weight: Array  # [S, outputs]

    def __call__(self, state: Array) -> Array:
        """[..., outputs] of states [...]."""
        return jnp.asarray(self.weight)[state]


@pytree
class Seen(Record):
    """A table of what a state looks like: states that look alike share a row."""

    weight: Array  # [O, outputs]
    sees: tuple[int, ...] = static()  # the row of each state

    def __call__(self, state: Array) -> Array:
        """[..., outputs] of states [...]."""
        return jnp.asarray(self.weight)[jnp.asarray(self.sees)[state]]


@pytree
class Gain(Record):
    """A linear network without an offset."""

    weight: Array  # [outputs, D]

    def __call__(self, state: Array) -> Array:
        """[..., outputs] of states [..., D]."""
        return state @ jnp.asarray(self.weight).T


def softmax(logits: Any, sees: Any = None) -> Softmax:
    """The softmax policy of a table of logits [S, A]; or [O, A], where states that look alike share a row."""
    weight: Any = np.asarray(logits, np.float64)
    return Softmax(Table(weight) if sees is None else Seen(weight, tuple(int(o) for o in sees)))


def gaussian(gain: Any, sigma: Any = 1.0, kind: Sigma = "parameter") -> Gaussian:
    """The policy N(K s, sigma^2) with gain K [M, D]; sigma is a number for all actions or one for each."""
    gain = np.asarray(gain, np.float64)
    log_sigma = np.log(np.broadcast_to(np.asarray(sigma, np.float64), len(gain)))
    return Gaussian(Gain(gain), log_sigma, kind)  # pyright: ignore[reportArgumentType]


def gain_and_sigma(policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """K [M, D] and sigma [M] of a linear Gaussian policy; UserError for another."""
    if not (isinstance(policy, Gaussian) and isinstance(policy.net, Gain)):
        raise UserError("the exact gradient is known of linear Gaussian policies: gaussian(gain, sigma)")
    gain = np.asarray(policy.net.weight, np.float64)
    return gain, np.broadcast_to(np.exp(np.asarray(policy.log_sigma, np.float64)), len(gain))


def probabilities(policy: Policy) -> np.ndarray:
    """pi(a|s) [S, A] of a softmax policy of a table; UserError for another."""
    if not (isinstance(policy, Softmax) and isinstance(policy.net, Table | Seen)):
        raise UserError("probabilities are known of softmax policies of a table: softmax(logits)")
    logits = np.asarray(policy.net.weight, np.float64)
    if isinstance(policy.net, Seen):
        logits = logits[np.array(policy.net.sees)]
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


# ---- tasks


class Task(Protocol):
    """A world of whose policies everything is known."""

    @property
    def horizon(self) -> int:
        """H, steps of an episode."""
        ...

    @property
    def gamma(self) -> float:
        """Discount of one step."""
        ...

    def reset(self, key: jax.Array) -> Array:
        """A first state."""
        ...

    def step(self, state: Array, action: Array, key: jax.Array) -> Array:
        """The next state."""
        ...

    def reward(self, state: Array, action: Array) -> Array:
        """r(s, a) of states and actions with any leading axes."""
        ...

    def exact(self, policy: Policy) -> Tree:
        """The gradient of J, as a policy whose parameters are the derivatives."""
        ...

    def values(self, policy: Policy) -> tuple[Value, ActionValue]:
        """V_t(s) and Q_t(s, a) of the steps that are left, discounted from t on."""
        ...


@dataclass(frozen=True, eq=False)
class Regulator:
    """A linear system with a quadratic cost: the reward is minus the cost."""

    lqr: linear.LQR
    horizon: int = 10

    @property
    def gamma(self) -> float:
        """The system's."""
        return self.lqr.gamma

    def reset(self, key: jax.Array) -> Array:
        """s_0 ~ N(0, start)."""
        return root(self.lqr.start) @ jax.random.normal(key, (len(self.lqr.A),), np.float64)

    def step(self, state: Array, action: Array, key: jax.Array) -> Array:
        """A s + B a + w."""
        w = root(self.lqr.noise) @ jax.random.normal(key, (len(self.lqr.A),), np.float64)
        return self.lqr.A @ state + self.lqr.B @ action + w

    def reward(self, state: Array, action: Array) -> Array:
        """-(s' Q s + a' R a)."""
        return -(quadratic(state, self.lqr.Q) + quadratic(action, self.lqr.R))

    def exact(self, policy: Policy) -> Tree:
        """In closed form."""
        by_gain, by_sigma = linear.cost_gradient(self.lqr, *gain_and_sigma(policy), self.horizon)
        return gradient_like(policy, -by_gain, -by_sigma)

    def values(self, policy: Policy) -> tuple[Value, ActionValue]:
        """From the costs to go."""
        lqr, (P, c) = self.lqr, linear.costs_to_go(self.lqr, *gain_and_sigma(policy), self.horizon)
        later = lqr.gamma * (np.trace(P[1:] @ lqr.noise, axis1=1, axis2=2) + c[1:])
        P, c, later = jnp.asarray(P), jnp.asarray(c), jnp.asarray(later)

        def value(t: Array, state: Array) -> Array:
            return -(jnp.einsum("...i,...ij,...j", state, P[t], state) + c[t])

        def action_value(t: Array, state: Array, action: Array) -> Array:
            after = state @ lqr.A.T + action @ lqr.B.T
            future = jnp.einsum("...i,...ij,...j", after, P[t + 1], after)
            return self.reward(state, action) - lqr.gamma * future - later[t]

        return value, action_value


@dataclass(frozen=True, eq=False)
class Bandit:
    """One step in one state, s = [1], so that the gain of a Gaussian policy is its mean. Lecture 0, "a known reward".

    kind  "quadratic": rho(a) = -|a - at|^2, which is smooth; "step": 1 where a >= at, else 0 (one action)
    """

    kind: str = "quadratic"
    at: float = 0.0
    horizon: int = 1
    gamma: float = 1.0

    def reset(self, key: jax.Array) -> Array:
        """The one state."""
        return jnp.ones(1, np.float64)

    def step(self, state: Array, action: Array, key: jax.Array) -> Array:
        """The same."""
        return state

    def reward(self, state: Array, action: Array) -> Array:
        """rho(a)."""
        if self.kind == "step":
            return jnp.where(action[..., 0] >= self.at, 1.0, 0.0)
        return -jnp.square(action - self.at).sum(-1)

    def exact(self, policy: Policy) -> Tree:
        """-2 (mu - at) and -2 sigma^2; of the step, with z = (at - mu) / sigma, phi(z) / sigma and phi(z) z."""
        gain, sigma = gain_and_sigma(policy)
        mean = gain[:, 0]
        if self.kind == "step":
            z = (self.at - mean) / sigma
            density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
            return gradient_like(policy, (density / sigma)[:, None], density * z)
        return gradient_like(policy, -2 * (mean - self.at)[:, None], -2 * sigma**2)

    def values(self, policy: Policy) -> tuple[Value, ActionValue]:
        """V = E[rho]; Q = rho."""
        gain, sigma = gain_and_sigma(policy)
        mean = gain[:, 0]
        if self.kind == "step":
            expected = 0.5 * math.erfc((self.at - mean[0]) / sigma[0] / math.sqrt(2))
        else:
            expected = -(np.square(mean - self.at) + sigma**2).sum()
        return (lambda t, s: jnp.full(s.shape[:-1], expected)), (lambda t, s, a: self.reward(s, a))


@dataclass(frozen=True, eq=False)
class Finite:
    """A finite MDP over H steps."""

    mdp: MDP
    horizon: int = 4

    @property
    def gamma(self) -> float:
        """The MDP's."""
        return self.mdp.gamma

    def reset(self, key: jax.Array) -> Array:
        """s_0 ~ mu."""
        return draw(key, self.mdp.start)

    def step(self, state: Array, action: Array, key: jax.Array) -> Array:
        """A draw s' ~ P(.|s, a)."""
        return draw(key, jnp.asarray(self.mdp.transition)[state, action])

    def reward(self, state: Array, action: Array) -> Array:
        """r(s, a)."""
        return jnp.asarray(self.mdp.reward)[state, action]

    def exact(self, policy: Policy) -> Tree:
        """By enumeration of every path: sum_tau P(tau) R(tau) grad log P(tau) (lecture 1)."""
        mdp, pi = self.mdp, probabilities(policy)
        if not isinstance(policy.net, Table):
            raise UserError("paths are enumerated for policies that see the state: softmax(logits)")
        score = np.eye(mdp.actions)[None] - pi[:, None]  # d log pi(a|s) / d logits(s, .), [S, A, A]
        gradient = np.zeros_like(pi)
        steps = list(itertools.product(range(mdp.states), range(mdp.actions)))
        for path in itertools.product(steps, repeat=self.horizon):
            probability, reward, log_slope = 1.0, 0.0, np.zeros_like(pi)
            arrival = mdp.start
            for t, (s, a) in enumerate(path):
                probability *= arrival[s] * pi[s, a]
                reward += mdp.gamma**t * mdp.reward[s, a]
                log_slope[s] += score[s, a]
                arrival = mdp.transition[s, a]
            gradient += probability * reward * log_slope
        return policy.replace(net=Table(gradient))  # pyright: ignore[reportArgumentType]

    def values(self, policy: Policy) -> tuple[Value, ActionValue]:
        """By recursion from the last step."""
        pi, value, table = probabilities(policy), [np.zeros(self.mdp.states)], []
        for _ in range(self.horizon):
            table.insert(0, self.mdp.backup(value[0]))
            value.insert(0, (pi * table[0]).sum(1))
        V, Q = jnp.asarray(np.array(value)), jnp.asarray(np.array(table))
        return (lambda t, s: V[t, s]), (lambda t, s, a: Q[t, s, a])


def gradient_like(policy: Policy, by_gain: np.ndarray, by_sigma: np.ndarray) -> Tree:
    """Derivatives in the shape of a Gaussian policy: summed where one sigma serves all, 0 where it is fixed."""
    assert isinstance(policy, Gaussian)
    by_sigma = by_sigma.sum(keepdims=True) if policy.sigma == "isotropic" else by_sigma
    return policy.replace(net=Gain(by_gain), log_sigma=by_sigma * (policy.sigma != "fixed"))  # pyright: ignore[reportArgumentType]


def root(covariance: np.ndarray) -> np.ndarray:
    """A matrix L with L L' = covariance, which may be singular."""
    size, direction = np.linalg.eigh(covariance)
    return direction * np.sqrt(size.clip(0))


def quadratic(x: Array, matrix: np.ndarray) -> Array:
    """The form x' M x over the last axis."""
    return jnp.einsum("...i,ij,...j", x, matrix, x)


def draw(key: jax.Array, probability: Any) -> Array:
    """An index with these probabilities [n], by inversion: near probabilities and one key give near indices."""
    point = jax.random.uniform(key, dtype=np.float64)
    return jnp.searchsorted(jnp.cumsum(jnp.asarray(probability))[:-1], point, side="right").astype(np.int32)

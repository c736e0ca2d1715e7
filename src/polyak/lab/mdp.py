"""Finite Markov decision processes whose values, occupancies and objectives are exact, in float64.

Sutton & Barto 2018, chapters 3 and 4; Puterman 1994, *Markov Decision Processes*, chapters 6 and 8 (average reward).
Lecture 1 (objectives of a policy) and lectures 3 and 4 (performance difference).
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from polyak.errors import UserError, nearest

Objective = Literal["start", "discounted", "average"]
TOLERANCE = 1e-9  # of sums of probabilities


@dataclass(frozen=True, eq=False)
class MDP:
    """States 0 .. S-1 and actions 0 .. A-1. An end is a state that leads to itself with reward 0.

    transition  [S, A, S]  P(s'|s, a)
    reward      [S, A]     r(s, a), the expected reward
    start       [S]        mu(s), the distribution of the first state
    gamma       discount of one step, in [0, 1]
    """

    transition: np.ndarray
    reward: np.ndarray
    start: np.ndarray
    gamma: float = 0.9

    def __post_init__(self) -> None:
        for name in ("transition", "reward", "start"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        states, actions = self.reward.shape
        wrong = []
        if self.transition.shape != (states, actions, states):
            wrong.append(f"transition is {self.transition.shape}, not {(states, actions, states)}")
        elif (self.transition < 0).any() or abs(self.transition.sum(-1) - 1).max() > TOLERANCE:
            wrong.append("transition[s, a] must be probabilities that sum to 1")
        if self.start.shape != (states,) or (self.start < 0).any() or abs(self.start.sum() - 1) > TOLERANCE:
            wrong.append(f"start must be {states} probabilities that sum to 1")
        if not 0 <= self.gamma <= 1:
            wrong.append(f"gamma must lie in [0, 1], not {self.gamma}")
        if wrong:
            raise UserError("; ".join(wrong))

    @property
    def states(self) -> int:
        """S."""
        return self.reward.shape[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.reward.shape[1]

    def replace(self, **values: object) -> Self:
        """A copy with other values."""
        return dataclasses.replace(self, **values)  # pyright: ignore[reportArgumentType]

    # ---- under a policy [S, A], or [S] integers where it is deterministic

    def chain(self, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P_pi [S, S] and r_pi [S]: the Markov chain that a policy makes of it."""
        policy = self.probabilities(policy)
        return np.einsum("sa,sat->st", policy, self.transition), (policy * self.reward).sum(1)

    def values(self, policy: np.ndarray) -> np.ndarray:
        """V [S] = (I - gamma P_pi)^-1 r_pi, by a linear solve.

        With gamma 1 the ends have value 0, and every other state has to reach one; UserError where it does not.
        """
        chain, reward = self.chain(policy)
        live = ~self.ends if self.gamma == 1 else np.full(self.states, True)
        value = np.zeros(self.states)
        system = np.eye(live.sum()) - self.gamma * chain[np.ix_(live, live)]
        if self.gamma == 1 and not reaches(chain, self.ends)[live].all():
            raise UserError("with gamma 1 a policy must reach an end from every state")
        value[live] = np.linalg.solve(system, reward[live])
        return value

    def action_values(self, policy: np.ndarray) -> np.ndarray:
        """Q [S, A] of a policy."""
        return self.backup(self.values(policy))

    def advantages(self, policy: np.ndarray) -> np.ndarray:
        """A [S, A] = Q(s, a) - V(s)."""
        value = self.values(policy)
        return self.backup(value) - value[:, None]

    def occupancy(self, policy: np.ndarray) -> np.ndarray:
        """Discounted visits rho [S] = sum_t gamma^t P(s_t = s): their sum is 1 / (1 - gamma). Lecture 3."""
        chain, _ = self.chain(policy)
        return np.linalg.solve(np.eye(self.states) - self.gamma * chain.T, self.start)

    def backup(self, value: np.ndarray) -> np.ndarray:
        """Q [S, A] = r(s, a) + gamma E[V(s')]."""
        return self.reward + self.gamma * self.transition @ value

    @property
    def ends(self) -> np.ndarray:
        """[S] bool: states that every action leaves unchanged, with reward 0."""
        stays = self.transition[np.arange(self.states), :, np.arange(self.states)]
        return (stays == 1).all(1) & (self.reward == 0).all(1)

    def probabilities(self, policy: np.ndarray) -> np.ndarray:
        """A policy as [S, A] probabilities; [S] integers become one-hot."""
        policy = np.asarray(policy)
        return np.eye(self.actions)[policy] if policy.ndim == 1 else policy.astype(np.float64)

    # ---- objectives: lecture 1, "quality of a parameterised policy"

    def objective(
        self, policy: np.ndarray, kind: Objective = "discounted", horizon: int | None = None
    ) -> float:
        """J of a policy: "start" over a horizon, "discounted", or "average"."""
        if kind == "start":
            if horizon is None:
                raise UserError('objective "start" needs a horizon')
            return self.start_value(policy, horizon)
        if kind not in ("discounted", "average"):
            raise UserError(f"objective {kind!r}: {nearest(kind, get_args(Objective))}")
        return self.average_reward(policy) if kind == "average" else self.discounted_value(policy)

    def start_value(self, policy: np.ndarray, horizon: int) -> float:
        """E[sum_{h<H} r_h], the undiscounted value of the start over H steps: the episodic objective."""
        chain, reward = self.chain(policy)
        value = np.zeros(self.states)
        for _ in range(horizon):
            value = reward + chain @ value
        return float(self.start @ value)

    def discounted_value(self, policy: np.ndarray) -> float:
        """E[sum_h gamma^h r_h] over an infinite horizon."""
        return float(self.start @ self.values(policy))

    def average_reward(self, policy: np.ndarray) -> float:
        """The gain: lim 1/H E[sum_{h<H} r_h], from the bias equations g + h = r_pi + P_pi h (Puterman, 8.2).

        UserError where the chain has more than one recurrent class: the gain then depends on the start.
        """
        chain, reward = self.chain(policy)
        if (classes := recurrent_classes(chain)) != 1:
            raise UserError(f"the policy's chain has {classes} recurrent classes; the gain wants one")
        # unknowns h(0) .. h(S-1) and g; h is fixed by d . h = 0 with a uniform d
        system = np.block([[np.eye(self.states) - chain, np.ones((self.states, 1))],
                           [np.ones((1, self.states)), np.zeros((1, 1))]])  # fmt: skip
        return float(np.linalg.solve(system, np.append(reward, 0.0))[-1])

    def stationary(self, policy: np.ndarray) -> np.ndarray:
        """The distribution d [S] with d P_pi = d: how often each state is visited in the long run."""
        chain, _ = self.chain(policy)
        if (classes := recurrent_classes(chain)) != 1:
            raise UserError(f"the policy's chain has {classes} recurrent classes; one distribution wants one")
        system = np.vstack([np.eye(self.states) - chain.T, np.ones(self.states)])
        return np.linalg.lstsq(system, np.append(np.zeros(self.states), 1.0), rcond=None)[0]

    # ---- comparing two policies: lectures 3 and 4

    def difference(self, new: np.ndarray, old: np.ndarray) -> float:
        """sum_s rho_new(s) sum_a new(a|s) A_old(s, a): the performance-difference identity (Kakade & Langford 2002)."""
        return float(self.occupancy(new) @ (self.probabilities(new) * self.advantages(old)).sum(1))

    def surrogate(self, new: np.ndarray, old: np.ndarray) -> float:
        """L = sum_s rho_old(s) sum_a new(a|s) A_old(s, a): what TRPO maximises, eta(new) - eta(old) to first order."""
        return float(self.occupancy(old) @ (self.probabilities(new) * self.advantages(old)).sum(1))

    def surrogate_variance(self, new: np.ndarray, old: np.ndarray) -> float:
        """Variance of new / old A_old(s, a) where s ~ rho_old, normalised, and a ~ old: what a sample of L has.

        Lecture 3: Var = E_{X ~ P}[P / Q f^2] - E_{X ~ P}[f]^2, with P = new, Q = old, f = A; old allows every action.
        """
        visits = self.occupancy(old)
        joint = (visits / visits.sum())[:, None] * self.probabilities(new)
        ratio, better = self.probabilities(new) / self.probabilities(old), self.advantages(old)
        return float((joint * ratio * better**2).sum() - (joint * better).sum() ** 2)

    def kl(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """KL(old(.|s) || new(.|s)) [S] in nats; inf where new forbids what old does."""
        p, q = self.probabilities(old), self.probabilities(new)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(1)


def reaches(chain: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """[S] bool: states from which a chain [S, S] can come to one of the goals [S] bool."""
    found = goal.copy()
    for _ in range(len(chain)):
        found = found | (chain[:, found] > 0).any(1)
    return found


def recurrent_classes(chain: np.ndarray) -> int:
    """How many closed classes of states a chain has."""
    reach = (chain > 0) | np.eye(len(chain), dtype=bool)
    while ((further := (reach.astype(float) @ reach) > 0) != reach).any():
        reach = further
    closed = {row.tobytes() for row in reach & reach.T if not (reach[row].any(0) & ~row).any()}
    return len(closed)


def random_mdp(states: int, actions: int, seed: int, gamma: float = 0.9, branches: int | None = None) -> MDP:
    """An MDP drawn at random: Dirichlet transitions to `branches` states (all of them), rewards uniform in [0, 1]."""
    random = np.random.default_rng(seed)
    transition = np.zeros((states, actions, states))
    for state in range(states):
        for action in range(actions):
            reached = random.choice(states, branches or states, replace=False)
            transition[state, action, reached] = random.dirichlet(np.ones(len(reached)))
    reward = random.uniform(size=(states, actions))
    return MDP(transition, reward, random.dirichlet(np.ones(states)), gamma)


def random_policy(mdp: MDP, seed: int) -> np.ndarray:
    """A policy [S, A] drawn at random, each row Dirichlet."""
    return np.random.default_rng(seed).dirichlet(np.ones(mdp.actions), mdp.states)

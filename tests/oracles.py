"""Slow float64 oracles that tests of algorithms share: networks, Adam, batches, returns, a schedule.

Written from the equations, in NumPy and with loops; nothing here calls what it is there to check. A tree of a
network's parameters is read by its structure alone: `layers`, each with `weight` [in, out] and `bias` [out].
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.interface import Batch, Discrete, Space, Transition

Layers = list[tuple[np.ndarray, np.ndarray]]  # W [in, out] and b [out] of each layer, float64
SLOPE = {
    "relu": (lambda x: np.maximum(x, 0), lambda y: (y > 0).astype(float)),
    "tanh": (np.tanh, lambda y: 1 - y**2),
}  # an activation, and its slope at the place where it is y


def float64(tree: Any) -> Any:
    """A tree of arrays as float64 NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def layers_of(net: Any, member: int | None = None) -> Layers:
    """The layers of a network, or of one member of an ensemble."""
    layers = [(np.asarray(each.weight, float), np.asarray(each.bias, float)) for each in net.layers]
    return layers if member is None else [(w[member], b[member]) for w, b in layers]


def mlp(net: Any, x: np.ndarray, activation: str = "relu", member: int | None = None) -> np.ndarray:
    """... act(x W1 + b1) W2 + b2 for x [..., in].

    net  a network, or its `Layers`
    """
    layers = net if isinstance(net, list) else layers_of(net, member)
    x = np.asarray(x, float)
    for i, (w, b) in enumerate(layers):
        x = x @ w + b
        if i < len(layers) - 1:
            x = SLOPE[activation][0](x)
    return x


def mlp_gradient(
    net: Any, x: np.ndarray, slope: np.ndarray, activation: str = "relu"
) -> tuple[Layers, np.ndarray]:
    """Back-propagation: the gradient of sum(slope * mlp(net, x)) in every W and b, and in x.

    x      [B, in]
    slope  [B, out], the gradient of a loss in what the network says
    """
    layers = net if isinstance(net, list) else layers_of(net)
    seen = [np.asarray(x, float)]  # what each layer reads
    for w, b in layers[:-1]:
        seen.append(SLOPE[activation][0](seen[-1] @ w + b))
    grads: Layers = []
    for i in reversed(range(len(layers))):
        grads.append((seen[i].T @ slope, slope.sum(axis=0)))
        slope = slope @ layers[i][0].T
        if i:
            slope = slope * SLOPE[activation][1](seen[i])
    return grads[::-1], slope


def finite_differences(function: Callable[[Any], float], tree: Any, width: float = 1e-5) -> Any:
    """The gradient of a number in every entry of a tree of float64 arrays, by central differences."""
    leaves, structure = jax.tree.flatten(float64(tree))
    slopes = []
    for i, leaf in enumerate(leaves):
        slope = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            ends = []
            for step in (width, -width):
                moved = leaf.copy()
                moved[index] += step
                ends.append(function(jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]])))
            slope[index] = (ends[0] - ends[1]) / (2 * width)
        slopes.append(slope)
    return jax.tree.unflatten(structure, slopes)


def global_norm(tree: Any) -> float:
    """The Euclidean norm of all numbers of a tree together."""
    return math.sqrt(sum(float((np.asarray(x, float) ** 2).sum()) for x in jax.tree.leaves(tree)))


class Adam:
    """Algorithm 1 of Kingma & Ba 2015 (arXiv:1412.6980), step by step, after clipping by the global norm."""

    def __init__(
        self, lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, max_norm: float | None = None
    ):
        self.lr, self.b1, self.b2, self.eps, self.max_norm = lr, b1, b2, eps, max_norm
        self.t, self.m, self.v = 0, None, None

    def step(self, params: Any, grads: Any, lr: float | None = None) -> Any:
        """The parameters after one more step of descent; `lr` where it changes."""
        params, grads = float64(params), float64(grads)
        if self.max_norm is not None:
            shrink = min(1.0, self.max_norm / max(global_norm(grads), 1e-300))
            grads = jax.tree.map(lambda g: g * shrink, grads)
        if self.m is None:
            self.m = self.v = jax.tree.map(np.zeros_like, grads)
        self.t += 1
        self.m = jax.tree.map(lambda m, g: self.b1 * m + (1 - self.b1) * g, self.m, grads)
        self.v = jax.tree.map(lambda v, g: self.b2 * v + (1 - self.b2) * g**2, self.v, grads)
        rate = self.lr if lr is None else lr

        def descend(p: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
            m, v = m / (1 - self.b1**self.t), v / (1 - self.b2**self.t)
            return p - rate * m / (np.sqrt(v) + self.eps)

        return jax.tree.map(descend, params, self.m, self.v)


def averaged(tau: float, online: Any, target: Any) -> Any:
    """theta' <- tau theta + (1 - tau) theta'."""
    return jax.tree.map(lambda o, t: tau * o + (1 - tau) * t, float64(online), float64(target))


def linear_schedule(step: float, start: float, end: float, duration: float) -> float:
    """A line from `start` at step 0 to `end` at step `duration`, flat outside."""
    if step >= duration:
        return end
    return start + (end - start) * max(step, 0) / duration


# ---- data


def rows(
    obs: int, action: Space, lead: tuple[int, ...], seed: int = 0, scale: float = 1.0, ends: float = 0.25
) -> Transition:
    """Random rows [*lead, ...] with both kinds of ends.

    obs     numbers in an observation
    action  a Discrete, or a Box whose actions are drawn in (-1, 1)
    scale   standard deviation of the reward
    ends    share of rows that terminated, and of rows that were truncated
    """
    rng = np.random.default_rng(seed)
    end = rng.choice(3, size=lead, p=[1 - 2 * ends, ends, ends])
    flat = end.reshape(-1)
    flat[[1, -2]] = 1, 2  # there are always both, and rows of neither
    flat[0] = 0
    if isinstance(action, Discrete):
        acted = rng.integers(action.n, size=lead, dtype=np.int32)
    else:
        acted = np.tanh(rng.normal(size=(*lead, *action.shape))).astype(np.float32)
    here, after = (rng.normal(size=(*lead, obs)).astype(np.float32) for _ in range(2))
    reward = rng.normal(scale=scale, size=lead).astype(np.float32)
    return Transition(here, acted, reward, after, end == 1, end == 2, ())


def as_batch(transition: Transition, gamma: float, seed: int | None = None) -> Batch:
    """Rows with their discount, gamma and 0 where the world ended, and a weight of 1, or random with a seed."""
    lead = transition.reward.shape
    weight = np.ones(lead) if seed is None else np.random.default_rng(seed).uniform(0.2, 1.5, lead)
    discount = np.where(transition.terminated, 0.0, gamma)
    return Batch(*transition, discount.astype(np.float32), weight.astype(np.float32))


def make_batch(obs: int, action: Space, size: int, gamma: float, seed: int = 0, scale: float = 1.0) -> Batch:
    """What replay gives: rows [B, ...] with random weights."""
    return as_batch(rows(obs, action, (size,), seed, scale), gamma, seed)


# ---- returns


def lambda_return(
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    next_value: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """The weighted average of all n-step returns (Sutton & Barto 2018, eq. 12.3), each summed by itself; [T, N]."""
    T, N = reward.shape
    G = np.zeros((T, N))
    for t in range(T):
        for i in range(N):
            n_step, total, end = [], 0.0, t
            while True:
                total += gamma ** (end - t) * float(reward[end, i])
                future = 0.0 if terminated[end, i] else float(next_value[end, i])
                n_step.append(total + gamma ** (end - t + 1) * future)
                if terminated[end, i] or truncated[end, i] or end == T - 1:
                    break
                end += 1
            for n, value in enumerate(n_step[:-1]):
                G[t, i] += (1 - lam) * lam**n * value
            G[t, i] += lam ** (len(n_step) - 1) * n_step[-1]
    return G


def gae(
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    value: np.ndarray,
    next_value: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """sum_l (gamma lam)^l delta_{t+l} until the episode or the rollout ends; [T, N]."""
    T, N = reward.shape
    A = np.zeros((T, N))
    for t in range(T):
        for i in range(N):
            for s in range(t, T):
                future = 0.0 if terminated[s, i] else gamma * float(next_value[s, i])
                A[t, i] += (gamma * lam) ** (s - t) * (float(reward[s, i]) + future - float(value[s, i]))
                if terminated[s, i] or truncated[s, i]:
                    break
    return A


def categorical_backup(reward: float, discount: float, probs: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. 2017 (arXiv:1707.06887): one row, atoms at equal distances."""
    n = len(atoms)
    low, high = float(atoms[0]), float(atoms[-1])
    width = (high - low) / (n - 1)
    m = np.zeros(n)
    for j in range(n):
        place = min(max(reward + discount * (low + j * width), low), high)
        b = (place - low) / width
        b = round(b) if abs(b - round(b)) < 1e-12 else b  # where l = u the mass would be lost
        lower, upper = int(np.floor(b)), int(np.ceil(b))
        if lower == upper:
            m[lower] += probs[j]
        else:
            m[lower] += probs[j] * (upper - b)
            m[upper] += probs[j] * (b - lower)
    return m


# ---- populations


def generation(cfg: Any, num_envs: int, rollout: int = 0, seed: int = 0) -> Batch:
    """Rows of k whole episodes of each environment: padding after the last, and who played in `extras`."""
    k = cfg.data.episodes
    rng = np.random.default_rng([seed, rollout])
    length = rng.integers(1, 5, size=(k, num_envs))
    T = int(length.sum(axis=0).max())
    zeros = np.zeros((T, num_envs), np.float32)
    reward, weight, member = zeros.copy(), zeros.copy(), np.zeros((T, num_envs), np.int32)
    terminated, truncated = np.zeros((2, T, num_envs), bool)
    for n in range(num_envs):
        t = 0
        for e in range(k):
            rows = slice(t, t + length[e, n])
            t += length[e, n]
            reward[rows, n], weight[rows, n] = rng.normal(size=length[e, n]), 1
            member[rows, n] = (n * k + rollout * k + e) % cfg.population
            end = terminated if rng.random() < 0.5 else truncated
            end[t - 1, n] = True
        member[t:, n] = member[0, n]
    discount = np.where(terminated, 0.0, cfg.gamma).astype(np.float32) * weight
    obs = np.zeros((T, num_envs, 2), np.float32)
    extras = {"member": member}
    return Batch(obs, member, reward, obs, terminated, truncated, extras, discount, weight)


def member_returns(cfg: Any, batch: Batch) -> np.ndarray:
    """The mean over its episodes of each candidate's sum of gamma^h r_h, one row after another; [P]."""
    found: list[list[float]] = [[] for _ in range(cfg.population)]
    for n in range(batch.reward.shape[1]):
        total, step = 0.0, 0
        for t in range(len(batch.reward)):
            if not batch.weight[t, n]:
                break
            total += cfg.gamma**step * float(batch.reward[t, n])
            step += 1
            if batch.terminated[t, n] or batch.truncated[t, n]:
                found[batch.extras["member"][t, n]].append(total)
                total, step = 0.0, 0
    return np.array([np.mean(each) for each in found])


def gaussian(words: Any, number: int, size: int) -> np.ndarray:
    """The standard normal vector that belongs to a number, from the words of a key."""
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(words)), number)
    return np.asarray(jax.random.normal(key, (size,)), float)


# ---- natural gradients


def flat(tree: Any) -> np.ndarray:
    """All numbers of a tree in one row, float64."""
    return np.concatenate([np.asarray(x, float).ravel() for x in jax.tree.leaves(tree)])


def unflat(tree: Any, numbers: np.ndarray) -> Any:
    """A tree of the same shapes with other numbers."""
    leaves, structure = jax.tree.flatten(tree)
    places = np.cumsum([np.size(x) for x in leaves])[:-1]
    parts = zip(np.split(numbers, places), leaves, strict=True)
    return jax.tree.unflatten(structure, [part.reshape(np.shape(leaf)) for part, leaf in parts])


def log_prob(policy: Any, obs: np.ndarray, action: Any) -> float:
    """log pi(a|s) of one row: a softmax, or a Gaussian with log sigma as a parameter; tanh networks."""
    out = mlp(policy.net, obs, "tanh")
    if not hasattr(policy, "log_sigma"):
        return float(out[int(action)] - np.log(np.exp(out).sum()))
    log_sigma = np.asarray(policy.log_sigma, float)
    z = (np.asarray(action, float) - out) / np.exp(log_sigma)
    return float((-0.5 * z**2 - log_sigma - 0.5 * math.log(2 * math.pi)).sum())


def score(policy: Any, obs: np.ndarray, action: Any) -> np.ndarray:
    """The gradient of log pi(a|s) in all parameters, in the order of `flat`."""
    out = mlp(policy.net, obs, "tanh")
    if hasattr(policy, "log_sigma"):
        sigma = np.exp(np.asarray(policy.log_sigma, float))
        z = (np.asarray(action, float) - out) / sigma
        slope, rest = z / sigma, z**2 - 1
    else:
        slope, rest = np.eye(len(out))[int(action)] - np.exp(out) / np.exp(out).sum(), np.zeros(0)
    layers = mlp_gradient(policy.net, np.asarray(obs)[None], slope[None], "tanh")[0]
    return np.concatenate([*(x.ravel() for layer in layers for x in layer), rest])


def chances(policy: Any, obs: np.ndarray) -> list[tuple[Any, float]]:
    """Actions and their weights in an expectation over pi(.|s): all of them, or the nodes of a quadrature.

    Three nodes a dimension are exact up to the fifth power; a product of two scores has the fourth at most.
    """
    out = mlp(policy.net, obs, "tanh")
    if not hasattr(policy, "log_sigma"):
        return list(enumerate(np.exp(out) / np.exp(out).sum()))
    sigma = np.exp(np.asarray(policy.log_sigma, float))
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    places = np.stack(np.meshgrid(*[nodes] * len(out), indexing="ij"), axis=-1).reshape(-1, len(out))
    shares = np.stack(np.meshgrid(*[weights] * len(out), indexing="ij"), axis=-1).reshape(-1, len(out))
    return [
        (out + sigma * z, share)
        for z, share in zip(places, shares.prod(axis=1) / (2 * math.pi) ** (len(out) / 2), strict=True)
    ]


def fisher(policy: Any, obs: np.ndarray) -> np.ndarray:
    """E[grad log pi grad log pi^T] over the rows [n, D] and the policy's own actions, a whole matrix."""
    total = 0.0
    for row in obs:
        for action, chance in chances(policy, row):
            g = score(policy, row, action)
            total = total + chance * np.outer(g, g)
    return total / len(obs)


def kl(old: Any, new: Any, obs: np.ndarray) -> float:
    """E[KL(old(.|s) || new(.|s))] over the rows [n, D], from the two log-probabilities; exact like `chances`."""
    total = 0.0
    for row in obs:
        for action, chance in chances(old, row):
            total += chance * (log_prob(old, row, action) - log_prob(new, row, action))
    return total / len(obs)


def natural_gradient(policy: Any, batch: Batch, advantage: np.ndarray, damping: float) -> tuple:
    """(F + damping I)^-1 g by a dense solve, and g = E[grad log pi(a|s) A]."""
    rows = list(np.ndindex(advantage.shape))
    g = sum(advantage[i] * score(policy, batch.obs[i], batch.action[i]) for i in rows) / len(rows)
    matrix = fisher(policy, np.reshape(batch.obs, (len(rows), -1)))
    return np.linalg.solve(matrix + damping * np.eye(len(g)), g), g


def fitted_value(
    critic: Any, adam: Adam, obs: np.ndarray, target: np.ndarray, key: jax.Array, epochs: int, parts: int
) -> Any:
    """Regression on a rollout [T, N, ...]: in each epoch the times are shuffled and cut into equal parts."""
    times = len(target)
    size = max(1, times // parts)
    for epoch in range(epochs):
        order = np.argsort(np.asarray(jax.random.uniform(jax.random.fold_in(key, epoch), times)))
        for part in range(times // size):
            which = order[part * size : (part + 1) * size]
            x, y = obs[which].reshape(-1, obs.shape[-1]), target[which].ravel()
            error = mlp(critic, x, "tanh")[:, 0] - y
            grads = mlp_gradient(critic, x, 2 * error[:, None] / len(y), "tanh")[0]
            critic = adam.step(critic, unflat(critic, flat(grads)))
    return critic


# ---- whole updates


def assert_follows(
    update: Callable[[Any, Batch, jax.Array], Any],
    state: Any,
    slow: Any,
    batches: list[Batch],
    atol: float = 2e-4,
) -> None:
    """Several updates by an algorithm beside a slow class: every field of the state that the class has stays equal.

    slow  has a method `update(batch, key)`, and attributes named like fields of the state
    """
    for number, batch in enumerate(batches):
        state = update(state, batch, jax.random.key(number)).state
        slow.update(batch, jax.random.key(number))
        followed = [name for name in vars(slow) if hasattr(state, name)]
        assert len(followed) >= min(2, len(dataclasses.fields(state)))
        for name in followed:
            got, want = jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(slow, name))
            assert len(got) == len(want)
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=atol, err_msg=f"{name}, update {number}")


# ---- whole updates: what an algorithm makes of several rollouts, in the order of its pseudocode


class Whole:
    """An algorithm in float64, from a state of it: networks, targets, moments, counters, schedules.

    `update` does what the algorithm's does with a batch, `observe` counts a rollout. `networks` is compared with
    `read(state)` after each. Each algorithm's own is `Whole` in `test_NAME.py`; `test_updates.py` runs it.
    """

    def __init__(self, cfg: Any, spec: Any, state: Any):
        self.cfg, self.spec, self.networks = cfg, spec, self.read(state)
        self.updates = self.env_steps = 0

    @staticmethod
    def read(state: Any) -> dict[str, Any]:
        """Everything that is learned, as float64 arrays."""
        raise NotImplementedError

    def update(self, batch: Batch, key: jax.Array) -> None:
        """All that the pseudocode does with one batch."""
        raise NotImplementedError

    def observe(self, count: int) -> None:
        """So many more environment steps."""
        self.env_steps += count

    def share_of_lr(self) -> float:
        """Of the learning rate, what is left after the environment steps so far."""
        return linear_schedule(self.env_steps, 1.0, self.cfg.lr_end, self.cfg.horizon)

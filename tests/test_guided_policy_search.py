"""Guided policy search against slow float64 loops written from section 4 of Levine et al. 2016."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from auditing import QUICK
from oracles import Adam, float64, mlp, mlp_gradient

from polyak.algorithms import guided_policy_search as gps
from polyak.interface import Batch, Box, OnPolicy, Spec
from polyak.parts.lqr import Controller

STARTS, TIMES, ENVS, D, A = 2, 3, 6, 2, 1
SPEC = Spec(Box((D,)), Box((A,)), time_limit=TIMES, num_envs=ENVS)
CFG = gps.Config(
    **{"hidden": (4,), "regression": 4, "minibatch": 7, "lr": 0.02, "inner": 2, "nu": 0.3, "alpha": 0.4},
    **{"epsilon": 0.05, "prior": 0.5, "sigma": 0.7, "data": OnPolicy(episodes=STARTS, common=STARTS)},
)


@functools.cache
def start():
    return gps.init(CFG, SPEC, jax.random.key(0))


def batch(seed):
    """Episodes of a system that is nearly linear, with costs that are nearly quadratic; one is padding at its end."""
    random = np.random.default_rng(seed)
    rows, size = STARTS * TIMES, (STARTS * TIMES, ENVS)
    x, u = random.normal(size=(*size, D)), random.normal(size=(*size, A))
    after = x @ np.array([[0.9, 0.2], [-0.1, 0.8]]) + u @ np.array([[0.1, 0.5]]) + 0.05 * np.sin(3 * x)
    cost = (x**2).sum(-1) + 0.3 * x[..., 0] * u[..., 0] + 0.5 * u[..., 0] ** 2 + 0.1 * np.cos(x[..., 1])
    place = np.broadcast_to(np.arange(rows)[:, None], size)
    weight = np.ones(size)
    weight[-1, 0] = 0
    extras = {"start": (place // TIMES).astype(np.int32), "time": (place % TIMES).astype(np.int32)}
    end = np.zeros(size, bool)
    last = place % TIMES == TIMES - 1
    real = [y.astype(np.float32) for y in (x, u, -cost, after)]
    return Batch(*real, end, last, extras, np.ones(size, np.float32), weight.astype(np.float32))


def forms(z):
    """z_i z_j for i <= j, 1, and z."""
    size = z.shape[1]
    pairs = [z[:, i] * z[:, j] for i in range(size) for j in range(i, size)]
    return np.column_stack([*pairs, np.ones(len(z)), z])


def hessian(weights, size):
    """That of sum_{i <= j} w_ij z_i z_j."""
    H, pairs = np.zeros((size, size)), [(i, j) for i in range(size) for j in range(i, size)]
    for (i, j), w in zip(pairs, weights, strict=False):
        H[i, j] += w
        H[j, i] += w
    return H


class Slow:
    """One start and one time after the other; costs are forms in (x, u, 1)."""

    def __init__(self, cfg, state):
        self.cfg, self.adam, self.clock = cfg, Adam(cfg.lr), state.clock
        self.net, self.teachers, self.dual = (float64(getattr(state, n)) for n in ("net", "teachers", "dual"))

    def update(self, batch, key):
        cfg = self.cfg
        x, u, after = (
            np.asarray(y, float).reshape(-1, y.shape[-1]) for y in (batch.obs, batch.action, batch.next_obs)
        )
        self.x, self.weight = x, np.asarray(batch.weight, float).ravel()
        self.i, self.t = batch.extras["start"].ravel(), batch.extras["time"].ravel()
        models = self.fit(x, u, after, -np.asarray(batch.reward, float).ravel())
        last = self.teachers
        for key_inner in jax.random.split(key, cfg.inner):
            self.follow(key_inner)
            Sigma = np.linalg.inv(np.mean(self.teachers.precision, axis=(0, 1)))
            new, dual = [], self.dual.copy()
            for i in range(STARTS):
                pi = [self.linearised(models[i][t]["x"], Sigma) for t in range(TIMES)]
                before = [
                    (last.K[i, t], last.k[i, t], np.linalg.inv(last.precision[i, t])) for t in range(TIMES)
                ]
                p, means = self.teach(models[i], pi, before, self.dual[i])
                for t in range(TIMES):
                    apart = pi[t][0] @ means[t] + pi[t][1] - p[t][0] @ means[t] - p[t][1]
                    dual[i, t] += cfg.alpha * cfg.nu * np.linalg.inv(p[t][2]) @ apart
                new.append(p)
            stack = lambda part: np.array([[p[part] for p in each] for each in new])  # noqa: E731, B023
            C = stack(2)
            values, vectors = np.linalg.eigh(C)
            root = (vectors * np.sqrt(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
            self.teachers, self.dual = Controller(stack(0), stack(1), np.linalg.inv(C), root), dual
        self.clock = self.clock._replace(updates=self.clock.updates + 1)

    def fit(self, x, u, after, cost):
        """For each start and time a dict with F, f, H, h and the mean state."""
        z, w, cfg = np.hstack([x, u]), self.weight, self.cfg
        line = np.column_stack([z, np.ones(len(z))])

        def pooled(phi, y):
            gram = sum(wr * np.outer(row, row) for wr, row in zip(w, phi, strict=True))
            return np.linalg.solve(gram + 1e-4 * w.sum() * np.eye(phi.shape[1]), (w[:, None] * phi).T @ y)

        move, price = pooled(line, after), pooled(forms(z), cost)
        cells = {(i, t): (self.i == i) & (self.t == t) for i in range(STARTS) for t in range(TIMES)}
        centre = {place: np.average(z[rows], axis=0, weights=w[rows]) for place, rows in cells.items()}
        away = z - np.array([centre[i, t] for i, t in zip(self.i, self.t, strict=True)])

        def local(phi, y, rows):
            spread = (w[:, None] * phi).T @ phi / w.sum() + 1e-6 * np.eye(phi.shape[1])
            gram = (w[rows, None] * phi[rows]).T @ phi[rows]
            return np.linalg.solve(gram + cfg.prior * spread, (w[rows, None] * phi[rows]).T @ y[rows])

        near, Z = np.column_stack([away, np.ones(len(z))]), D + A
        models = [[{} for _ in range(TIMES)] for _ in range(STARTS)]
        for (i, t), rows in cells.items():
            c = centre[i, t]
            W = local(near, after - line @ move, rows)
            F = (move[:Z] + W[:Z]).T
            f = move[Z] + W[Z] - W[:Z].T @ c
            V = local(forms(away), cost - forms(z) @ price, rows)
            H = hessian(price, Z) + hessian(V, Z)
            slope = hessian(price, Z) @ c + price[-Z:] + V[-Z:]  # at the centre
            values, vectors = np.linalg.eigh(H)
            H = vectors @ np.diag(np.maximum(values, 1e-4)) @ vectors.T
            error = after[rows] - z[rows] @ F.T - f
            noise = (w[rows, None] * error).T @ error / w[rows].sum()
            models[i][t] = {"F": F, "f": f, "H": H, "h": slope - H @ c, "x": c[:D], "noise": noise}
        return models

    def follow(self, key):
        """Adam's steps on nu / 2 (mu - mu_p)^T C^-1 (mu - mu_p) + lambda^T mu."""
        cfg, rows = self.cfg, len(self.x)
        scale = np.mean([np.trace(P) for each in self.teachers.precision for P in each])
        for step in range(cfg.regression):
            drawn = np.asarray(jax.random.randint(jax.random.fold_in(key, step), (cfg.minibatch,), 0, rows))
            slope = []
            for r in drawn:
                i, t = self.i[r], self.t[r]
                off = (
                    mlp(self.net, self.x[r], "tanh")
                    - self.teachers.K[i, t] @ self.x[r]
                    - self.teachers.k[i, t]
                )
                pulled = cfg.nu * self.teachers.precision[i, t] @ off + self.dual[i, t]
                slope.append(self.weight[r] * pulled / scale / cfg.minibatch)
            grads = mlp_gradient(self.net, self.x[drawn], np.array(slope), "tanh")[0]
            layers = [array for pair in grads for array in pair]
            self.net = self.adam.step(self.net, jax.tree.unflatten(jax.tree.structure(self.net), layers))

    def linearised(self, x, Sigma):
        """The network around x as (K, k, C)."""
        h = 1e-6
        K = np.column_stack(
            [
                (mlp(self.net, x + h * e, "tanh") - mlp(self.net, x - h * e, "tanh")) / (2 * h)
                for e in np.eye(D)
            ]
        )
        return K, mlp(self.net, x, "tanh") - K @ x, Sigma

    def teach(self, model, pi, last, dual):
        """Bisection of log eta: the controllers [(K, k, C)] of a start, and their mean states."""
        low, high = np.log(1e-4), np.log(1e6)
        for _ in range(self.cfg.bisections):
            middle = (low + high) / 2
            if self.solve(model, pi, last, dual, np.exp(middle))[2] <= self.cfg.epsilon * TIMES:
                high = middle
            else:
                low = middle
        return self.solve(model, pi, last, dual, np.exp(high))[:2]

    def solve(self, model, pi, last, dual, eta):
        V, p, Z = np.zeros((D + 1, D + 1)), [], D + A
        for t in reversed(range(TIMES)):
            m = model[t]
            cost = np.zeros((Z + 1, Z + 1))  # 1/2 (z, 1)^T cost (z, 1)
            cost[:Z, :Z] = m["H"]
            cost[Z, :Z] = cost[:Z, Z] = m["h"] - np.concatenate([np.zeros(D), dual[t]])
            for weight, (K, k, C) in ((self.cfg.nu, pi[t]), (eta, last[t])):
                row = np.column_stack([-K, np.eye(A), -k])  # u - K x - k
                cost += weight * row.T @ np.linalg.inv(C) @ row
            step = np.zeros((D + 1, Z + 1))
            step[:D, :Z], step[:D, Z], step[D, Z] = m["F"], m["f"], 1
            Q = cost + step.T @ V @ step
            acts, rest = list(range(D, Z)), [*range(D), Z]
            curvature = Q[np.ix_(acts, acts)]
            gain = -np.linalg.solve(curvature, Q[np.ix_(acts, rest)])
            V = Q[np.ix_(rest, rest)] + Q[np.ix_(rest, acts)] @ gain
            p.insert(0, (gain[:, :D], gain[:, D], (self.cfg.nu + eta) * np.linalg.inv(curvature)))
        mean, cov, means, total = model[0]["x"], 1e-6 * np.eye(D), [], 0.0
        for t in range(TIMES):
            (K, k, C), (K0, k0, C0), m = p[t], last[t], model[t]
            means.append(mean)
            apart, inverse = (K - K0) @ mean + k - k0, np.linalg.inv(C0)
            inside = np.trace(inverse @ (C + (K - K0) @ cov @ (K - K0).T)) + apart @ inverse @ apart - A
            total += 0.5 * (inside + np.log(np.linalg.det(C0) / np.linalg.det(C)))
            closed, B = m["F"][:, :D] + m["F"][:, D:] @ K, m["F"][:, D:]
            mean, cov = closed @ mean + B @ k + m["f"], closed @ cov @ closed.T + B @ C @ B.T + m["noise"]
        return p, means, total


def test_three_updates_are_those_of_the_paper():
    update = jax.jit(lambda *args: gps.update(CFG, SPEC, *args), compiler_options=QUICK)
    oracles.assert_follows(update, start(), Slow(CFG, start()), [batch(seed) for seed in range(3)], atol=2e-3)


def test_the_step_of_the_controllers_keeps_its_bound():
    update = jax.jit(lambda *args: gps.update(CFG, SPEC, *args), compiler_options=QUICK)
    state = start()
    for seed in range(3):
        after = update(state, batch(seed), jax.random.key(seed))
        assert 0 < after.metrics["moved"] <= CFG.epsilon * 1.001
        state = after.state


def test_actions_are_the_controllers_while_exploring_and_the_networks_otherwise():
    random = np.random.default_rng(0)
    state, count = start(), 4000
    K, k = random.normal(size=(STARTS, TIMES, A, D)), random.normal(size=(STARTS, TIMES, A))
    teachers = jax.vmap(Controller.of)(*map(jnp.float32, (K, k, np.full((STARTS, TIMES, A, A), 4.0))))
    actor, obs = (state.net, teachers), jnp.tile(jnp.array([[0.5, -1.0]]), (count, 1))
    memory = jnp.arange(count) % STARTS, jnp.full(count, 1)
    action, after, extras = gps.act(CFG, SPEC, actor, memory, obs, jax.random.key(0), True)
    for i in range(STARTS):
        mine = np.asarray(action)[i::STARTS, 0]
        np.testing.assert_allclose(mine.mean(), (K[i, 1] @ [0.5, -1.0] + k[i, 1])[0], atol=0.05)
        np.testing.assert_allclose(mine.std(), 0.5, atol=0.03)
    assert (np.asarray(after[1]) == 2).all()
    assert (np.asarray(extras["time"]) == 1).all()
    greedy = gps.act(CFG, SPEC, actor, memory, obs, jax.random.key(0), False)[0]
    np.testing.assert_allclose(greedy[0], mlp(state.net, np.array([0.5, -1.0]), "tanh"), rtol=1e-5)


def test_an_episode_belongs_to_the_start_that_its_number_says():
    first, time = gps.memory(CFG, SPEC, jnp.arange(4), jnp.array([0, 1, 2, 5]), jax.random.key(0))
    assert first.tolist() == [0, 1, 0, 1]
    assert time.tolist() == [0] * 4


def test_starts_that_are_not_dealt_out_are_refused():
    lines = gps.wrong(gps.Config(data=OnPolicy(episodes=5, common=2)), Spec(Box((2,)), Box((1,))))
    assert len(lines) == 2
    assert "time limit" in lines[0]
    assert "must be a multiple of data.common, the starts, 2" in lines[1]

"""Nelder-Mead against SciPy, point by point, and against the paper, update by update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from auditing import QUICK
from scipy.optimize import minimize

from polyak.algorithms import nelder_mead
from polyak.interface import Box, Discrete, OnPolicy, Spec

CFG = nelder_mead.Config(edge=0.3)


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def waves(x):
    """Has flat steps and many valleys: values are equal, and simplices shrink."""
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.floor(4 * (x**2).sum()) / 4 + xp.abs(xp.sin(7 * x)).max()


def points(function, start, count):
    """The points that are tried one after another, [count, n], and their values."""
    state = nelder_mead.start(CFG, start)

    def one(state, _):
        x = nelder_mead.candidate(CFG, nelder_mead.actor(state), jnp.zeros((), jnp.int32))
        state, metrics = nelder_mead.tell(CFG, state, -function(x))
        return state, (x, function(x), metrics["shrunk"])

    return jax.jit(lambda state: jax.lax.scan(one, state, None, count))(state)[1]


def scipys(function, start, count):
    """The same by SciPy."""
    tried = []

    def told(x):
        tried.append(x.copy())
        return function(x)

    first = np.concatenate([start[None], start + CFG.edge * np.eye(len(start))])
    options = {"initial_simplex": first, "maxfev": count, "xatol": 0.0, "fatol": 0.0}
    minimize(told, start, method="Nelder-Mead", options=options)
    return np.stack(tried)


@pytest.mark.parametrize(("function", "n"), [(rosenbrock, 2), (rosenbrock, 5), (waves, 3)])
def test_the_points_are_scipys_one_after_another(function, n):
    start, count = np.linspace(-1.2, 1.0, n), 400
    with jax.enable_x64(True):
        tried, value, shrunk = (np.asarray(x) for x in points(function, jnp.asarray(start), count))
    want = scipys(function, start, count)
    np.testing.assert_allclose(tried[: len(want)], want, rtol=1e-6, atol=1e-9)
    if function is rosenbrock and n == 2:
        assert value.min() < 1e-12
    if function is waves:
        assert shrunk.any()


SMALL = dataclasses.replace(CFG, hidden=(), gamma=0.9, data=OnPolicy(episodes=2))
SPEC = Spec(Box((2,)), Discrete(2), num_envs=2)


class Slow:
    """Lagarias et al. 1998, section 2, as one would write it down: it waits wherever a value is wanted."""

    def __init__(self, state):
        self.simplex, self.value = np.asarray(state.simplex, float), np.asarray(state.value, float)
        self.moves, self.going = [], self.search()
        next(self.going)

    def update(self, batch, key):
        self.going.send(-oracles.member_returns(SMALL, batch)[0])

    def order(self):
        by = np.argsort(self.value, kind="stable")
        self.simplex, self.value = self.simplex[by], self.value[by]

    def replace_worst(self, x, f, move):
        self.simplex[-1], self.value[-1] = x, f
        self.moves.append(move)
        self.order()

    def search(self):
        n = len(self.simplex) - 1
        for i in range(n + 1):
            self.value[i] = yield
        self.order()
        while True:
            away = self.simplex[:-1].mean(axis=0) - self.simplex[-1]
            x_r = self.simplex[-1] + (1 + SMALL.reflect) * away
            x_e, x_c, x_cc = (
                self.simplex[-1] + (1 + t) * away
                for t in (SMALL.reflect * SMALL.expand, SMALL.reflect * SMALL.contract, -SMALL.contract)
            )
            f_r = yield
            if self.value[0] <= f_r < self.value[-2]:
                self.replace_worst(x_r, f_r, "reflect")
                continue
            if f_r < self.value[0]:
                f_e = yield
                x, f = (x_e, f_e) if f_e < f_r else (x_r, f_r)
                self.replace_worst(x, f, "expand" if f_e < f_r else "reflect")
                continue
            outside = f_r < self.value[-1]
            f_c = yield
            if f_c <= f_r if outside else f_c < self.value[-1]:
                self.replace_worst(x_c if outside else x_cc, f_c, "contract")
                continue
            self.simplex = self.simplex[0] + SMALL.shrink * (self.simplex - self.simplex[0])
            self.moves.append("shrink")
            for i in range(1, n + 1):
                self.value[i] = yield
            self.order()


def test_its_updates_are_those_of_the_paper_whatever_the_returns():
    state = jax.jit(lambda key: nelder_mead.init(SMALL, SPEC, key))(jax.random.key(0))
    update = jax.jit(lambda *args: nelder_mead.update(SMALL, SPEC, *args), compiler_options=QUICK)
    slow = Slow(state)
    oracles.assert_follows(
        update, state, slow, [oracles.generation(SMALL, 2, rollout) for rollout in range(120)], atol=1e-5
    )
    assert set(slow.moves) == {"reflect", "expand", "contract", "shrink"}

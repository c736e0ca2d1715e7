"""Nelder-Mead against SciPy, point by point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from polyak.algorithms import nelder_mead

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

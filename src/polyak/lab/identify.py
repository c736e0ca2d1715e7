"""System identification: the constants of a simulator with which it moves as the real system was seen to.

Ljung 1999, *System Identification: Theory for the User*, chapter 7 (prediction error) and section 9.2 (the
uncertainty of the estimate). The constants of an environment in JAX are leaves, so that its step can be
differentiated in them. Lecture 1, "Narrowing the Reality Gap".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from polyak.envs.environment import Environment
from polyak.errors import UserError, nearest
from polyak.interface import Array, Box


class Records(NamedTuple):
    """What was seen of a system: one row for each step, whose order does not matter."""

    state: np.ndarray  # [R, ...] before the step
    action: np.ndarray  # [R, ...] in the environment's own bounds
    next_obs: np.ndarray  # [R, D] after it, with whatever noise


class Identified(NamedTuple):
    """Constants that fit, each with its standard error, and how large what is left unexplained is."""

    values: dict[str, float]
    errors: dict[str, float]
    residual: np.ndarray  # [D] root mean square of next_obs minus what is predicted

    def __str__(self) -> str:
        """`mass 1.302 +- 0.004, length 0.801 +- 0.001`."""
        return ", ".join(f"{name} {x:.4g} +- {self.errors[name]:.2g}" for name, x in self.values.items())


def identify(env: Environment, names: Sequence[str], records: Records) -> Identified:
    """The constants `names` of `env` for which one step from each state comes closest to what was seen next.

    Least squares from the environment's own values, by Levenberg-Marquardt with derivatives through its step, each
    entry of an observation in units of how much it changes. The constants stay positive: their logarithms are fitted.
    The standard errors are those of the linearised problem, sigma^2 (J^T J)^-1. UserError for a constant that the
    environment does not have or cannot vary, that is not positive, or that the records do not determine.

    >>> from polyak.envs.find import find
    >>> true = find("jax:CartPole-v1", {"length": 0.7})
    >>> found = identify(find("jax:CartPole-v1"), ["length"], record(true, 200, jax.random.key(0)))
    >>> round(found.values["length"], 3)
    0.7
    """
    known = {
        name: float(x)
        for name, x in vars(env).items()
        if isinstance(x, float | int) and not isinstance(x, bool)
    }
    for name in names:
        if name not in known:
            raise UserError(f"{type(env).__name__} has no number {name!r}; {nearest(name, known)}")
        if known[name] <= 0:
            raise UserError(f"{name} is {known[name]:g}, and only positive constants can be identified")
    with jax.enable_x64(True):
        fixed = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), records)
        scale = jnp.maximum(jnp.std(fixed.next_obs, axis=0), 1e-12)

        def residuals(log_values: Array) -> Array:
            with_values = env.replace(**dict(zip(names, jnp.exp(log_values), strict=True)))
            predicted = predict(with_values, fixed.state, fixed.action)
            return ((predicted - fixed.next_obs) / scale).ravel()

        start = np.log([known[name] for name in names])
        compiled = jax.jit(residuals)
        slope = jax.jit(jax.jacfwd(residuals))
        if not np.isfinite(slope(start)).all() or (np.abs(slope(start)).max(axis=0) == 0).any():
            still = [n for n, x in zip(names, np.abs(slope(start)).max(axis=0), strict=True) if not x > 0]
            raise UserError(
                f"no step in the records depends on {', '.join(still)}: fix it, or record other actions"
            )
        found = least_squares(
            lambda x: np.asarray(compiled(x)),
            start,
            jac=lambda x: np.asarray(slope(x)),  # pyright: ignore[reportArgumentType]
            method="lm",
            xtol=1e-12,
        )
        values = np.exp(found.x)
        left = np.asarray(compiled(found.x)).reshape(fixed.next_obs.shape)
        information = found.jac.T @ found.jac
    if np.linalg.cond(information) > 1e12:
        raise UserError(
            f"the records do not tell {' and '.join(names)} apart: fix one of them, or record other actions"
        )
    variance = (left**2).sum() / max(left.size - len(names), 1)
    errors = values * np.sqrt(
        np.diag(variance * np.linalg.inv(information))
    )  # of a logarithm, times the value
    named = lambda x: dict(zip(names, map(float, x), strict=True))  # noqa: E731
    return Identified(named(values), named(errors), np.sqrt((left**2).mean(axis=0)) * np.asarray(scale))


def predict(env: Environment, state: Array, action: Array) -> Array:
    """Observations [R, D] one step after states [R, ...] and actions [R, ...]; of systems without noise."""
    keys = jax.random.split(jax.random.key(0), len(action))
    return jax.vmap(lambda s, a, k: env.step(s, a, k).obs)(state, action, keys)


def record(
    env: Environment,
    rows: int,
    key: jax.Array,
    noise: float = 0.0,
    choose: Callable[[jax.Array], Array] | None = None,
) -> Records:
    """`rows` steps of an environment in JAX, from fresh starts and with random actions, 20 steps each.

    noise   standard deviation of what is added to the observations, in units of how much each entry varies
    choose  an action from a key; uniform in the action space unless it is given
    """
    space = env.spec.action
    if choose is None:
        if isinstance(space, Box):
            low, high = (
                jnp.broadcast_to(jnp.asarray(b, jnp.float32), space.shape) for b in (space.low, space.high)
            )
            choose = lambda key: jax.random.uniform(key, space.shape, minval=low, maxval=high)  # noqa: E731
        else:
            choose = lambda key: jax.random.randint(key, space.shape, 0, space.n)  # noqa: E731
    steps = 20

    def episode(key: jax.Array) -> tuple[Array, Array, Array]:
        key_start, key_steps = jax.random.split(key)
        state, _ = env.reset(key_start)

        def one(now: tuple[Array, jax.Array], _: Any) -> tuple[tuple[Array, jax.Array], tuple]:
            state, key = now
            key, key_action, key_step = jax.random.split(key, 3)
            action = choose(key_action)
            step = env.step(state, action, key_step)
            return (step.state, key), (state, action, step.obs)

        return jax.lax.scan(one, (state, key_steps), length=steps)[1]

    key_episodes, key_noise = jax.random.split(key)
    rolls = jax.jit(jax.vmap(episode))(jax.random.split(key_episodes, -(-rows // steps)))
    state, action, obs = (x.reshape(-1, *x.shape[2:])[:rows] for x in rolls)
    obs = obs + noise * obs.std(axis=0) * jax.random.normal(key_noise, obs.shape)
    return Records(*map(np.asarray, (state, action, obs)))


def within_errors(found: Identified, true: Mapping[str, Any], times: float = 3.0) -> bool:
    """Whether every true value lies within so many standard errors of what was found."""
    return all(abs(found.values[name] - true[name]) <= times * found.errors[name] for name in found.values)

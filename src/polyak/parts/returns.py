"""Returns and advantages over rollouts [T, N, ...], time first.

One convention for all: `discount` is gamma and 0 where the row terminated, `last` marks the end of an
episode for either reason, and `next_value` is v at the row's true successor. So a row that was cut by a
time limit, or by the end of the rollout, looks beyond by `next_value` and never into the next episode.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int32

from polyak.interface import Array

Rows = Float[Array, "T *batch"]
Flags = Bool[Array, "T *batch"]


def discounted_return(reward: Rows, discount: Rows, last: Flags, next_value: Rows) -> Rows:
    """Monte-Carlo returns to the end of each episode, Sutton & Barto 2018, eq. 3.9.

    reward      [T, N]  in the environment's own units
    discount    [T, N]  gamma, and 0 where the episode terminated
    last        [T, N]  the episode ended here, for either reason
    next_value  [T, N]  v(s_{t+1}), read only where a row is truncated and in row T-1; zeros for none
    Returns     [T, N]  G_t
    """
    return lambda_return(reward, discount, last, next_value, 1.0)


def lambda_return(reward: Rows, discount: Rows, last: Flags, next_value: Rows, lam: ArrayLike) -> Rows:
    """TD(lambda) targets, Sutton & Barto 2018, eq. 12.18.

    reward      [T, N]  in the environment's own units
    discount    [T, N]  gamma, and 0 where the episode terminated
    last        [T, N]  the episode ended here, for either reason: traces stop
    next_value  [T, N]  v(s_{t+1}) at the true successor
    Returns     [T, N]  G_t^lambda. Raises ValueError unless 0 <= lam <= 1.
    """
    _check(lam)
    # G_t = r + discount ((1 - lam) v(s_{t+1}) + lam G_{t+1}), and lam is 0 in the last row of an episode
    trace = jnp.where(last, 0.0, lam)
    one_step = reward + discount * (1 - trace) * next_value
    return _backward(one_step, discount * trace, next_value[-1])


def gae(reward: Rows, discount: Rows, last: Flags, value: Rows, next_value: Rows, lam: ArrayLike) -> Rows:
    """Generalised advantage estimates, Schulman et al. 2016 (arXiv:1506.02438), eq. 16.

    reward      [T, N]  in the environment's own units
    discount    [T, N]  gamma, and 0 where the episode terminated
    last        [T, N]  the episode ended here, for either reason: traces stop
    value       [T, N]  v(s_t)
    next_value  [T, N]  v(s_{t+1}) at the true successor
    Returns     [T, N]  the advantages; plus `value` they are the lambda-returns.
                Raises ValueError unless 0 <= lam <= 1.
    """
    _check(lam)
    td_error = reward + discount * next_value - value
    return _backward(td_error, discount * jnp.where(last, 0.0, lam), jnp.zeros_like(td_error[-1]))


def time_of(last: Flags) -> Int32[Array, "T *batch"]:
    """t, steps of the running episode before each row, where row 0 is an episode's first.

    last  [T, N]  the episode ended here
    """
    row = jnp.arange(len(last)).reshape(-1, *[1] * (last.ndim - 1))
    ends = jnp.where(last, row + 1, 0)  # the row that the next episode begins with
    begun = jax.lax.cummax(jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]]))
    return (row - begun).astype(jnp.int32)


def _backward(term: jax.Array, factor: jax.Array, after: jax.Array) -> jax.Array:
    """y_t = term_t + factor_t y_{t+1}, with y_T = after."""

    def accumulate(y: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        term, factor = row
        y = term + factor * y
        return y, y

    return jax.lax.scan(accumulate, after, (term, factor), reverse=True)[1]


def _check(lam: ArrayLike) -> None:
    if not isinstance(lam, Tracer) and not np.all((np.asarray(lam) >= 0) & (np.asarray(lam) <= 1)):
        raise ValueError(f"lam is {lam}; it must lie in [0, 1]")

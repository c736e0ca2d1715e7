"""Fitting a value function to returns, by epochs of mini-batches."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from polyak.interface import Array, Tree
from polyak.parts.optimize import Optimizer, gradient_step


def fit_value(
    optimizer: Optimizer,
    critic: Tree,
    opt_state: Tree,
    obs: Tree,
    target: Array,
    key: Array,
    lr: ArrayLike,
    epochs: int,
    parts: int,
) -> tuple[Tree, Tree, Array]:
    """Regression of a value function on a rollout (Sutton & Barto 2018, eq. 9.1), by its mean squared error.

    obs, target     [T, N, ...], [T, N]: V(obs) moves towards target
    epochs, parts   passes over the rollout, whose times are shuffled and cut into so many mini-batches; a remainder
                    of times is left out of a pass
    Returns         the value function, the optimiser's state and the mean loss
    """
    times = target.shape[0]
    size = max(1, times // parts)

    def loss(critic: Tree, obs: Tree, target: Array) -> Array:
        return ((critic(obs)[..., 0] - target) ** 2).mean()

    def step(carry: tuple[Tree, Tree], which: Array) -> tuple[tuple[Tree, Tree], Array]:
        critic, opt_state = carry
        rows = jax.tree.map(lambda x: x[which], obs)
        loss_value, grads = jax.value_and_grad(loss)(critic, rows, target[which])
        return gradient_step(optimizer, grads, opt_state, critic, lr), loss_value

    def epoch(carry: tuple[Tree, Tree], number: Array) -> tuple[tuple[Tree, Tree], Array]:
        order = jnp.argsort(jax.random.uniform(jax.random.fold_in(key, number), times))
        return jax.lax.scan(step, carry, order[: times // size * size].reshape(-1, size))

    (critic, opt_state), losses = jax.lax.scan(epoch, (critic, opt_state), jnp.arange(epochs))
    return critic, opt_state, losses.mean()

"""What a model that is unrolled over a sequence should say of each state."""

import jax
import jax.numpy as jnp

from polyak.interface import Array, Batch
from polyak.pytree import Record, pytree


@pytree
class Targets(Record):
    """What the model should say of the states k = 0 .. K, [B, K + 1], and where that is known."""

    policy: Array  # pi, [B, K + 1, A]
    value: Array  # z
    reward: Array  # u, of the step into state k; nothing for k = 0
    has_policy: Array  # 1 where state k is one that was searched
    has_value: Array  # 1 there, and past the end of the world
    has_reward: Array  # 1 where the step into state k was seen, and past the end of the world


def targets(batch: Batch, unroll: int, n_step: int, cut: Array) -> Targets:
    """Targets from sequences [B, K + n + 1] with a search's `policy` and `value` (arXiv:1911.08265, section 3).

    cut  [B] value behind their first end, if that was a time limit

    States past the end of the world are absorbing: value and reward are 0. Past a time limit nothing is known.
    """
    K, last = unroll, batch.last
    before = jnp.cumsum(last, axis=1) - last
    alive = before == 0  # of the episode that the sequence begins in
    over = ~alive & (jnp.cumsum(batch.terminated & alive, axis=1) > 0)

    # z_t = u_t+1 + gamma u_t+2 + ... + gamma^n-1 u_t+n + gamma^n nu_t+n, one more step each time
    def one_step_more(_: Array, value: Array) -> Array:
        after = jnp.where(last, cut[:, None], jnp.roll(value, -1, axis=1))
        return batch.reward + jnp.where(batch.discount == 0, 0.0, batch.discount * after)

    value = jax.lax.fori_loop(0, n_step, one_step_more, batch.extras["value"])
    seen, known = alive[:, : K + 1], (alive | over)[:, : K + 1]
    stepped = jnp.concatenate([jnp.zeros_like(seen[:, :1]), seen[:, :K]], axis=1)  # into state k
    reward = jnp.concatenate([jnp.zeros_like(value[:, :1]), batch.reward[:, :K]], axis=1)
    return Targets(
        policy=batch.extras["policy"][:, : K + 1],
        value=jnp.where(seen, value[:, : K + 1], 0.0),
        reward=jnp.where(stepped, reward, 0.0),
        has_policy=seen.astype(jnp.float32),
        has_value=known.astype(jnp.float32),
        has_reward=(stepped | (known & ~seen)).astype(jnp.float32),
    )

"""Distributions over returns: probabilities on a fixed support of atoms (Bellemare, Dabney & Munos 2017).

"A Distributional Perspective on Reinforcement Learning", arXiv:1707.06887, section 4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from polyak.interface import Array


def support(low: float, high: float, count: int) -> Float[Array, " atoms"]:
    """Atoms z_0 = low, ..., z_{count-1} = high at equal distances."""
    return jnp.linspace(low, high, count, dtype=jnp.float32)


def project(
    z: Float[Array, "*batch k"], probs: Float[Array, "*batch k"], atoms: Float[Array, " atoms"]
) -> Float[Array, "*batch atoms"]:
    """The distribution of `probs` on the places z, moved onto other atoms: Phi of eq. 7.

    Each place is clipped to the support, and its probability is shared between the two atoms beside it, the nearer
    one gets more. So the mass stays, and the mean of what lies inside the support.

    z, probs  [..., k]; z in any order
    atoms     [atoms] at least two, rising, at any distances
    Returns   [..., atoms]
    """
    place = jnp.clip(z, atoms[0], atoms[-1])[..., None, :]
    gap = jnp.diff(atoms)
    one = jnp.ones(1, atoms.dtype)  # no atom beyond the ends: nothing is clipped to there
    away = place - atoms[:, None]
    before, after = jnp.concatenate([one, gap])[:, None], jnp.concatenate([gap, one])[:, None]
    share = jnp.clip(1 - jnp.where(away >= 0, away / after, -away / before), 0, 1)  # [..., atoms, k]
    return (share * probs[..., None, :]).sum(axis=-1)


def bellman(
    reward: Float[Array, "*batch"],
    discount: Float[Array, "*batch"],
    probs: Float[Array, "*batch atoms"],
    atoms: Float[Array, " atoms"],
) -> Float[Array, "*batch atoms"]:
    """The distribution of reward + discount Z, where Z has `probs` on the atoms, projected onto them (Algorithm 1).

    Where the discount is 0 all of it lies at the reward, and not a bit depends on `probs`.
    """
    nothing = jax.nn.one_hot(0, probs.shape[-1], dtype=probs.dtype)
    probs = jnp.where(discount[..., None] == 0, nothing, probs)
    return project(reward[..., None] + discount[..., None] * atoms, probs, atoms)


def mean(logits: Float[Array, "*batch atoms"], atoms: Float[Array, " atoms"]) -> Float[Array, "*batch"]:
    """E[Z] = sum_i z_i p_i, where p is the softmax of the logits."""
    return (jax.nn.softmax(logits) * atoms).sum(axis=-1)


def log_loss(
    target: Float[Array, "*batch atoms"], logits: Float[Array, "*batch atoms"]
) -> Float[Array, "*batch"]:
    """-sum_i target_i log p_i in nats: the KL divergence from the target, but for the target's own entropy."""
    return -(target * jax.nn.log_softmax(logits)).sum(axis=-1)


def entropy(probs: Float[Array, "*batch atoms"]) -> Float[Array, "*batch"]:
    """-sum_i p_i log p_i in nats; 0 log 0 is 0."""
    return -jax.scipy.special.xlogy(probs, probs).sum(axis=-1)

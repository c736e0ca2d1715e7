"""Stochastic policies: a network, and how its outputs are read as a distribution over actions."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from polyak.interface import Array, Discrete, Space, Spec, Tree
from polyak.parts.distributions import Beta, Categorical, MultivariateNormal, Normal, TanhNormal
from polyak.parts.networks import build
from polyak.pytree import Record, pytree, static

# sigma of a Gaussian policy: the same for ever; one number that is learned; one for each action; an output for each;
# outputs for a whole covariance matrix
Sigma = Literal["fixed", "isotropic", "parameter", "state", "full"]
Family = Literal["gaussian", "beta"]  # of distributions over real actions
LOG_SIGMA_RANGE = -5.0, 2.0  # of the output of a network


@pytree
class Softmax(Record):
    """pi(a|s) proportional to exp of the network's output a, for Discrete actions (Sutton & Barto 2018, eq. 13.2)."""

    net: Tree

    def __call__(self, obs: Tree) -> Categorical:
        """pi(.|s) for observations [..., *obs]."""
        return Categorical(self.net(obs))


@pytree
class Gaussian(Record):
    """pi(a|s) = N(mu(s), sigma^2) with independent actions [..., A] (Sutton & Barto 2018, section 13.7)."""

    net: Tree
    log_sigma: Array  # [A], or [1] where sigma is isotropic; what a network says of it is added
    sigma: Sigma = static("parameter")

    def __call__(self, obs: Tree) -> Normal:
        """pi(.|s) for observations [..., *obs]."""
        mean, log_sigma = self.net(obs), self.log_sigma
        if self.sigma in ("fixed", "state"):
            log_sigma = jax.lax.stop_gradient(log_sigma)
        if self.sigma == "state":
            mean, offset = jnp.split(mean, 2, axis=-1)
            log_sigma = jnp.clip(log_sigma + offset, *LOG_SIGMA_RANGE)
        return Normal(mean, jnp.broadcast_to(jnp.exp(log_sigma), mean.shape))


@pytree
class FullGaussian(Record):
    """pi(a|s) = N(mu(s), L(s) L(s)^T) with actions that depend on one another (Bishop 2006, section 2.3)."""

    net: Tree  # outputs mu, what is added to log sigma, and N below the diagonal, row by row
    log_sigma: Array  # [A], where the diagonal of L starts
    sigma: Sigma = static("full")

    def __call__(self, obs: Tree) -> MultivariateNormal:
        """pi(.|s) for observations [..., *obs]: L = diag(sigma) (I + N)."""
        size = self.log_sigma.shape[-1]
        mean, offset, below = jnp.split(self.net(obs), (size, 2 * size), axis=-1)
        sigma = jnp.exp(jnp.clip(jax.lax.stop_gradient(self.log_sigma) + offset, *LOG_SIGMA_RANGE))
        lower = jnp.zeros((*mean.shape, size)).at[(..., *np.tril_indices(size, -1))].set(below)
        return MultivariateNormal(mean, sigma[..., None] * (jnp.eye(size) + lower))


@pytree
class BetaPolicy(Record):
    """pi(a|s) = Beta(alpha(s), beta(s)) with independent actions inside [-1, 1] (Chou et al. 2017, section 4).

    "Improving Stochastic Policy Gradients in Continuous Control with Deep Reinforcement Learning using the Beta
    Distribution": no probability is beyond the bounds of the actions, where a Gaussian's is cut off and its gradient
    biased. Both parameters are 1 + softplus, so that there is one peak.
    """

    net: Tree  # outputs what alpha and beta are made of

    def __call__(self, obs: Tree) -> Beta:
        """pi(.|s) for observations [..., *obs]."""
        return Beta(*jnp.split(1 + jax.nn.softplus(self.net(obs)), 2, axis=-1))


@pytree
class TanhGaussian(Record):
    """pi(a|s) = tanh of N(mu(s), sigma(s)^2), inside [-1, 1] (Haarnoja et al. 2018, arXiv:1812.05905, app. C)."""

    net: Tree  # outputs mu and log sigma

    def __call__(self, obs: Tree) -> TanhNormal:
        """pi(.|s) for observations [..., *obs]."""
        mean, log_sigma = jnp.split(self.net(obs), 2, axis=-1)
        return TanhNormal(mean, jnp.exp(jnp.clip(log_sigma, -20.0, 2.0)))


GAUSSIANS = {"full": FullGaussian}  # by sigma; any other is a Gaussian with independent actions


def build_policy(
    network: Callable[[int], Tree],
    action: Space,
    sigma: Sigma = "parameter",
    log_sigma: ArrayLike = 0.0,
    family: Family = "gaussian",
) -> Tree:
    """The policy that fits a space of actions.

    network    from a number of outputs to a network of observations
    sigma      how a Gaussian's standard deviation is found; `log_sigma` is where it starts
    """
    if isinstance(action, Discrete):
        return Softmax(network(action.n))
    size = action.size
    if family == "beta":
        return BetaPolicy(network(2 * size))
    outputs = {"state": 2 * size, "full": size * (size + 3) // 2}.get(sigma, size)
    start = jnp.full(1 if sigma == "isotropic" else size, log_sigma, jnp.float32)
    return GAUSSIANS.get(sigma, Gaussian)(network(outputs), start, sigma)


def policy_and_value(cfg: Any, spec: Spec, key: Array) -> tuple[Tree, Tree]:
    """Networks of an actor-critic: orthogonal; the first policy is nearly uniform, or N(0, sigma).

    cfg  says `network`, `hidden`, `activation`, `policy`, `sigma` and `log_sigma`
    """
    key_policy, key_value = jax.random.split(key)

    def network(key: Array, outputs: int, scale: float) -> Tree:
        return build(cfg.network)(key, spec.obs, outputs, cfg.hidden, cfg.activation, "orthogonal", scale)

    said = cfg.sigma, cfg.log_sigma, cfg.policy
    policy = build_policy(lambda n: network(key_policy, n, 0.01), spec.action, *said)
    return policy, network(key_value, 1, 1.0)

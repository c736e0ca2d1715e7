"""VAE: a variational auto-encoder of what is seen while acting at random.

Kingma & Welling 2014, "Auto-encoding variational Bayes" (arXiv:1312.6114), Algorithm 1, eq. 10 and appendix B; the
encoder of Kendall et al. 2018, "Learning to Drive in a Day" (arXiv:1807.00412), section 4. Lecture 2.

Departures: Adam instead of Adagrad. Kendall et al. train it beside the policy, on all that it has seen; here it is a
run of its own, whose encoder another run begins with (`--init RUN:encoder=actor/encoder`). Mean and variance of q(z|x)
are two networks, so that the mean by itself is an encoder. It does not choose actions: they are uniform, and 0 without
exploring.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Box,
    Clock,
    Discrete,
    Replay,
    Spec,
    Tree,
    Update,
    count_steps,
    within,
)
from polyak.parts.networks import build, features, num_features
from polyak.parts.networks.cnn import images
from polyak.parts.networks.strided import LATENT, make_decoder, make_encoder
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Symbols are Kingma & Welling's."""

    gamma: float = within(1.0, 0, 1)  # not read: nothing is predicted but what is seen
    lr: float = within(1e-3, 0)  # Adam's learning rate
    latent: int = within(LATENT, 1)  # J, numbers that an observation becomes
    variance: float = within(0.01, 1e-4)  # sigma^2 of p(x|z), of each number of an observation
    beta: float = within(1.0, 0)  # weight of the divergence from the prior
    hidden: tuple[int, ...] = (256, 256)  # units of the layers where there is no picture
    data: Replay = field(  # mini-batches of observations [B, ...], of uniform actions
        default_factory=lambda: Replay(capacity=10_000, batch_size=64, warmup=1_000)
    )


@pytree
class State(Record):
    """Networks and optimiser."""

    encoder: Tree  # phi: the mean of q(z|x)
    spread: Tree  # phi: the logarithm of its variance
    decoder: Tree  # theta: the mean of p(x|z)
    opt_state: Tree
    clock: Clock


optimizer = adam()


def picture(spec: Spec) -> tuple[tuple, Box] | None:
    """Where in an observation its picture is, and its space; None where it has none."""
    found = images(spec.obs)
    return found[0] if found else None


def seen(spec: Spec, obs: Tree) -> Tree:
    """What the encoder reads: the picture, or the whole observation where there is none."""
    found = picture(spec)
    if found is None:
        return obs
    for key in found[0]:
        obs = obs[key]
    return obs


def numbers(spec: Spec, obs: Tree) -> Array:
    """x: a picture's bytes as numbers from 0 to 1; all numbers of an observation without a picture."""
    found = picture(spec)
    if found is None:
        return features(spec.obs, obs)
    x = jnp.asarray(seen(spec, obs), jnp.float32)
    return x / 255 if found[1].dtype == "uint8" else x


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks: convolutions for a picture, else layers of `hidden` units."""
    key_encoder, key_spread, key_decoder = jax.random.split(key, 3)
    if (found := picture(spec)) is not None:
        encoder, spread = (make_encoder(k, found[1], cfg.latent) for k in (key_encoder, key_spread))
        decoder = make_decoder(key_decoder, found[1], cfg.latent)
    else:
        mlp = build("mlp")
        encoder, spread = (mlp(k, spec.obs, cfg.latent, cfg.hidden) for k in (key_encoder, key_spread))
        decoder = mlp(key_decoder, Box((cfg.latent,)), num_features(spec.obs), cfg.hidden)
    nets = (encoder, spread, decoder)
    return State(*nets, opt_state=optimizer.init(nets), clock=start_clock())


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """Uniform actions [N, ...]; without exploring the middle one, or the first."""
    count, space = len(jax.tree.leaves(obs)[0]), spec.action
    if isinstance(space, Discrete):
        action = jax.random.randint(key, (count,), 0, space.n) if explore else jnp.zeros(count, jnp.int32)
        return action, memory, ()
    shape = (count, space.size)
    return jax.random.uniform(key, shape, minval=-1) if explore else jnp.zeros(shape), memory, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of Algorithm 1 on a mini-batch of observations [B, ...]."""
    x, given = numbers(spec, batch.obs), seen(spec, batch.obs)

    def bound(nets: Tree) -> tuple[Array, tuple[Array, Array]]:
        encoder, spread, decoder = nets
        mean, log_variance = encoder(given), spread(given)
        # z = mu + sigma * epsilon,   epsilon ~ N(0, I)
        z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        # -D_KL(q(z|x) || p(z)) = 1/2 sum_j (1 + log sigma_j^2 - mu_j^2 - sigma_j^2)              eq. 10, appendix B
        divergence = (mean**2 + jnp.exp(log_variance) - log_variance - 1).sum(axis=-1) / 2
        error = ((x - decoder(z)) ** 2).reshape(len(x), -1)
        # log p(x|z) of a Gaussian, but for what does not depend on the networks                         appendix C.2
        loss = error.sum(axis=-1) / (2 * cfg.variance) + cfg.beta * divergence
        return (batch.weight * loss).mean(), (error.mean(), divergence.mean())

    nets = (state.encoder, state.spread, state.decoder)
    (loss, (error, divergence)), grads = jax.value_and_grad(bound, has_aux=True)(nets)
    nets, opt_state = gradient_step(optimizer, grads, state.opt_state, nets, cfg.lr)
    metrics = {
        "loss": loss,  # minus the variational bound but for a constant, nats
        "error": error,  # mean squared error of a number of the reconstruction
        "divergence": divergence,  # of q(z|x) from the prior N(0, I), nats
    }
    encoder, spread, decoder = nets
    return Update(State(encoder, spread, decoder, opt_state, state.clock.updated()), metrics)


algorithm = Algorithm(
    Config=Config,
    actions=("continuous", "discrete"),
    family="representation",
    init=init,
    actor=lambda state: (),
    act=act,
    update=update,
    observe=count_steps,
    learns=False,
)

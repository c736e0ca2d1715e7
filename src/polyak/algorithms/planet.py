"""PlaNet: a model of the world learned from pixels, and plans made in its hidden state.

Hafner, Lillicrap, Fischer, Villegas, Ha, Lee & Davidson 2019, "Learning Latent Dynamics for Planning from Pixels"
(arXiv:1811.04551), Algorithms 1 and 2, with the recurrent state-space model of equation 4. Lecture 1.

Departures: images have sides that are powers of two and layers padded to halve them; a vector of numbers is encoded
by two layers instead of filters. r_t, which the paper predicts from s_t, is here what led to s_t. A sequence may run
over the end of an episode: the belief begins anew there, and the last frame of an episode, which no row begins with,
is not learned from. The noise of a plan is the same in each iteration of the search. Latent overshooting is off, as
in the authors' own experiments with this model; `overshooting` D asks for it.
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
    Replay,
    Spec,
    Tree,
    Update,
    count_steps,
    within,
)
from polyak.parts.maximizers import cross_entropy_method
from polyak.parts.networks.images import is_image
from polyak.parts.networks.rssm import Latent, WorldModel, nothing, world_model
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree, select


@dataclass(frozen=True)
class Config:
    """The paper's settings; symbols are its own."""

    gamma: float = within(1.0, 0, 1)  # discount of one step of a plan; the paper has none
    lr: float = within(1e-3, 0)  # alpha, Adam's learning rate
    epsilon: float = within(1e-4, 0)  # what keeps Adam's step small where gradients are
    max_norm: float = within(1000.0, 0)  # gradients are scaled down to this global norm
    deterministic: int = within(200, 1)  # numbers of h, the part of a state that remembers
    stochastic: int = within(30, 1)  # numbers of s, the part of a state that is drawn
    hidden: int = within(200, 1)  # units of every other layer
    filters: int = within(32, 1)  # of the first layer on an image; twice as many in each that follows
    bits: int = within(5, 1, 8)  # of each colour of an image that are seen
    free_nats: float = within(3.0, 0)  # what a posterior may know at no cost
    image_scale: float = within(1.0, 0)  # weight of the observation's likelihood
    reward_scale: float = within(10.0, 0)  # weight of the reward's likelihood
    overshooting: int = within(0, 0)  # D, steps over which priors are held to later posteriors; 0: only one
    exploration: float = within(0.3, 0)  # standard deviation of the noise on actions
    lookahead: int = within(12, 1)  # H, steps of a plan
    iterations: int = within(10, 1)  # I, of the cross-entropy method
    samples: int = within(1000, 1)  # J, plans that are compared in each
    elites: int = within(100, 1)  # K, best of them, to which the next is fitted
    data: Replay = field(  # an episode of 250 decisions, then C = 100 updates on B = 50 sequences of L = 50
        default_factory=lambda: Replay(
            capacity=250_000, batch_size=50, length=50, warmup=1_250, steps=250, updates=100
        )
    )


@pytree
class State(Record):
    """The model and its optimiser."""

    model: WorldModel  # theta
    opt_state: Tree
    clock: Clock


def optimizer(cfg: Config) -> Tree:
    """Adam on gradients of limited norm."""
    return adam(eps=cfg.epsilon, max_norm=cfg.max_norm)


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Initialise parameters theta at random."""
    sizes = cfg.deterministic, cfg.stochastic, cfg.hidden, cfg.filters
    model = world_model(key, spec.obs, spec.action.size, *sizes)
    return State(model, optimizer(cfg).init(model), start_clock())


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> tuple[Latent, Array]:
    """The belief before an episode, and the action before it: both nothing."""
    return nothing(len(env_ids), cfg.deterministic, cfg.stochastic), jnp.zeros(
        (len(env_ids), spec.action.size)
    )


def act(
    cfg: Config, spec: Spec, actor: WorldModel, memory: tuple, obs: Tree, key: Array, explore: bool
) -> tuple:
    """Infer the belief over the current state from the history, plan in it, and add noise to the first action."""
    key_see, key_infer, key_plan, key_noise = jax.random.split(key if explore else jax.random.key(0), 4)
    rules, (latent, action) = actor.memory, memory
    h = rules.advance(latent, action)
    belief = rules.posterior(h, actor.encoder(actor.seen(obs, key_see, cfg.bits)))  # q(s_t | o_<=t, a_<t)
    latent = Latent(h, belief.sample(key_infer) if explore else belief.mode())

    action = plan(cfg, spec, actor, latent, key_plan)
    if explore:  # a_t + eps, eps ~ p(eps)
        action = action + cfg.exploration * jax.random.normal(key_noise, action.shape)
    action = jnp.clip(action, -1.0, 1.0)
    return action, (latent, action), ()


def plan(cfg: Config, spec: Spec, model: WorldModel, latent: Latent, key: Array) -> Array:
    """The first action [N, A] of the mean that the cross-entropy method ends with (Algorithm 2)."""
    key_search, key_noise = jax.random.split(key)
    num_envs, size = len(latent.h), spec.action.size
    shape = cfg.lookahead, cfg.samples, num_envs, cfg.stochastic
    noise = jax.random.normal(key_noise, shape)  # of one way for each plan

    def worth(plans: Array) -> Array:
        """R of plans [J, N, H * A], [J, N]."""
        actions = jnp.moveaxis(plans.reshape(*plans.shape[:2], cfg.lookahead, size), 2, 0)
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(plans), *x.shape)), latent)

        def imagine(carry: tuple, now: tuple) -> tuple[tuple, None]:
            (latent, total, weight), (action, noise) = carry, now
            h = model.memory.advance(latent, action)
            prior = model.memory.prior(h)
            latent = Latent(h, prior.mean + prior.std * noise)  # s_tau ~ p(s_tau | s_{tau-1}, a_{tau-1})
            total = total + weight * model.reward(latent.features)[..., 0]  # E[p(r_tau | s_tau)]
            return (latent, total, weight * cfg.gamma), None

        carry = start, jnp.zeros(plans.shape[:2]), jnp.ones(())
        return jax.lax.scan(imagine, carry, (actions, noise))[0][1]

    shape = num_envs, cfg.lookahead * size
    search = cfg.samples, cfg.elites, cfg.iterations
    return cross_entropy_method(worth, key_search, shape, *search, answer="mean")[:, :size]


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step on the bound of a mini-batch of sequences [B, L, ...]."""
    key_see, key_infer, key_shoot = jax.random.split(key, 3)
    obs, action, reward, last = jax.tree.map(
        lambda x: x.swapaxes(0, 1), (batch.obs, batch.action, batch.reward, batch.last)
    )
    fresh = jnp.concatenate([jnp.ones_like(last[:1]), last[:-1]])  # [L, B] nothing is remembered here
    known = 1.0 - fresh
    before = jnp.roll(action, 1, axis=0) * known[..., None]  # a_{t-1}
    gained = jnp.roll(reward, 1, axis=0)  # r_t
    image = state.model.seen(obs, key_see, cfg.bits)
    noise = jax.random.normal(key_infer, (*fresh.shape, cfg.stochastic))
    start = nothing(fresh.shape[1], cfg.deterministic, cfg.stochastic)

    def loss(model: WorldModel) -> tuple[Array, dict[str, Array]]:
        def infer(latent: Latent, now: tuple) -> tuple[Latent, tuple]:
            fresh, action, embedding, noise = now
            latent = select(fresh, start, latent)
            h = model.memory.advance(latent, action)
            prior, posterior = model.memory.prior(h), model.memory.posterior(h, embedding)
            latent = Latent(h, posterior.mean + posterior.std * noise)  # s_t ~ q(s_t | o_<=t, a_<t)
            return latent, (latent, prior, posterior)

        rows = fresh, before, model.encoder(image), noise
        _, (latent, prior, posterior) = jax.lax.scan(infer, start, rows)

        # -ln p(o_t | s_t) - ln p(r_t | s_t) + KL(q(s_t | o_<=t, a_<t) || p(s_t | s_{t-1}, a_{t-1}))       eq. 3
        axes = tuple(range(2, image.ndim))
        seeing = 0.5 * ((model.decoder(latent.features) - image) ** 2).sum(axis=axes)
        gaining = 0.5 * known * (model.reward(latent.features)[..., 0] - gained) ** 2
        surprise = posterior.kl(prior)
        paid = jnp.maximum(surprise, cfg.free_nats)
        if cfg.overshooting > 1:
            shot = model.memory.overshoot(latent, before, known > 0, cfg.overshooting, key_shoot)
            fixed = jax.lax.stop_gradient(posterior)  # eq. 7
            paid += sum(there * jnp.maximum(fixed.kl(prior), cfg.free_nats) for prior, there in shot)
            paid /= cfg.overshooting
        total = (batch.weight.T * (cfg.image_scale * seeing + cfg.reward_scale * gaining + paid)).mean()
        return total, {
            "loss": total,  # minus the bound, mean over the rows
            "image_loss": seeing.mean(),  # half the squared error of an observation, summed over its numbers
            "reward_loss": gaining.sum() / known.sum(),  # half the squared error of a reward
            "kl": surprise.mean(),  # nats between posterior and prior
        }

    grads, metrics = jax.grad(loss, has_aux=True)(state.model)
    model, opt_state = gradient_step(optimizer(cfg), grads, state.opt_state, state.model, cfg.lr)
    return Update(State(model, opt_state, state.clock.updated()), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """Lines on images that cannot be halved, on single rows, and on more elites than plans."""
    lines = []
    if isinstance(spec.obs, Box) and len(spec.obs.shape) == 3 and not is_image(spec.obs):
        lines.append(f"images are square, their sides 8, 16, 32, 64, 128 or 256: got {spec.obs.shape}")
    if cfg.data.length < 2:
        lines.append(f"the model learns from sequences: data.length is {cfg.data.length}, give 50")
    if cfg.elites > cfg.samples:
        lines.append(f"elites ({cfg.elites}) are some of the samples ({cfg.samples}): give fewer")
    return lines


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    family="planning",
    init=init,
    actor=lambda state: state.model,
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
)

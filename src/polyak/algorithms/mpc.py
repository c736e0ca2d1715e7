"""MPC: collect data, fit a model, plan in it at every step, and again.

Nagabandi, Kahn, Fearing & Levine 2018, "Neural Network Dynamics for Model-Based Deep Reinforcement Learning with
Model-Free Fine-Tuning" (arXiv:1708.02596), Algorithm 1, with random shooting; Chua, Calandra, McAllister & Levine 2018,
"Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models" (arXiv:1805.12114), for the
ensemble and for planning by the cross-entropy method. Lecture 1.

Departures: the reward is learned with the dynamics, where the papers know it. The members of the ensemble are
deterministic networks that differ by their first weights and see the same batches, and each goes its own way through a
plan (Chua's TS-infinity with one particle). The end of an episode is not predicted. With `data.simulator` it plans in
the environment's own rules instead, and fits the model all the same.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Box,
    Clock,
    Replay,
    Shown,
    Spec,
    Transition,
    Tree,
    Update,
    within,
)
from polyak.parts.maximizers import cross_entropy_method
from polyak.parts.moments import Moments
from polyak.parts.networks import build
from polyak.parts.networks.ensemble import ensemble
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Settings of the model and of the planner; symbols are Nagabandi's."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one step of a plan
    lr: float = within(1e-3, 0)  # Adam's learning rate
    network: str = "mlp"  # builder of the networks
    hidden: tuple[int, ...] = within((64, 64), 1)  # units of each hidden layer
    members: int = within(3, 1)  # networks of the ensemble
    planner: Literal["cross_entropy", "shooting"] = "cross_entropy"  # shooting: the best of uniform plans
    lookahead: int = within(20, 1)  # H, steps of a plan
    samples: int = within(100, 1)  # K, plans that are compared, in each iteration
    elites: int = within(10, 1)  # best of them, to which the next iteration is fitted
    iterations: int = within(4, 1)  # of the cross-entropy method
    data: Replay = field(  # an outer iteration: 200 steps, then a fit of 400 batches
        default_factory=lambda: Replay(
            capacity=100_000, batch_size=128, warmup=200, steps=200, updates=400, simulator=False
        )
    )


@pytree
class State(Record):
    """The model, its optimiser and the scales of what it reads and says."""

    model: Tree  # theta, an ensemble of networks
    opt_state: Tree
    moments: Moments  # of (s, a), and of (s' - s, r)
    clock: Clock


@pytree
class Actor(Record):
    """The model and its scales."""

    model: Tree
    moments: Moments


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Randomly initialise the networks."""
    size, outputs = spec.obs.size + spec.action.size, spec.obs.size + 1
    model = ensemble(lambda key: build(cfg.network)(key, Box((size,)), outputs, cfg.hidden), key, cfg.members)
    moments = Moments.empty((jnp.zeros(size), jnp.zeros(outputs)))
    return State(model, adam().init(model), moments, start_clock())


def actor(state: State) -> Actor:
    """The part of the state that acting needs."""
    return Actor(state.model, state.moments)


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Array:
    """The rest of the last plan [N, H * A], from which the next search starts: at first nothing is done."""
    return jnp.zeros((len(env_ids), cfg.lookahead * spec.action.size))


def unit(x: Array, mean: Array, var: Array) -> Array:
    """Numbers of mean 0 and variance 1."""
    return (x - mean) / jnp.sqrt(var + 1e-8)


def predict(actor: Actor, obs: Array, action: Array) -> tuple[Array, Array]:
    """What each member says: s' [E, ..., D] and r [E, ...], for s [E, ..., D] and a [E, ..., A]."""
    (mean, mean_out), (var, var_out) = actor.moments.mean, actor.moments.var
    x = unit(jnp.concatenate([obs, action], axis=-1), mean, var)
    out = jax.vmap(lambda member, x: member(x))(actor.model.member, x) * jnp.sqrt(var_out) + mean_out
    return obs + out[..., :-1], out[
        ..., -1
    ]  # s' = s + f_theta(s, a)                                    eq. 1


def act(cfg: Config, spec: Spec, actor: Actor, memory: Array, obs: Tree, key: Array, explore: bool) -> tuple:
    """Execute the first action of the best plan A_t^(H); the rest of it is where the next search starts."""
    size = spec.action.size

    def learned(obs: Array, action: Array) -> tuple[Array, Array]:
        return predict(actor, obs, action)

    def true(state: Tree, action: Array) -> tuple[Tree, Array]:
        step = jax.vmap(jax.vmap(jax.vmap(lambda s, a: spec.model.step(s, a, jax.random.key(0)))))
        stepped = step(state, action)  # [1, K, N, ...]; where there is chance, always the same
        return stepped.state, stepped.reward

    start, go = (obs.state, true) if isinstance(obs, Shown) else (obs, learned)
    members = 1 if isinstance(obs, Shown) else cfg.members

    def value(plan: Array) -> Array:
        """The return of plans [K, N, H * A] in the model, mean of its members, [K, N]."""
        many = (members, *plan.shape[:2])
        states = jax.tree.map(lambda x: jnp.broadcast_to(x, (*many, *x.shape[1:])), start)
        actions = jnp.moveaxis(plan.reshape(*plan.shape[:2], cfg.lookahead, size), 2, 0)  # [H, K, N, A]

        def move(carry: tuple, action: Array) -> tuple[tuple, None]:
            states, total, weight = carry
            states, reward = go(states, jnp.broadcast_to(action, (*many, size)))
            return (states, total + weight * reward, weight * cfg.gamma), None

        carry = states, jnp.zeros(many), jnp.ones(())
        return jax.lax.scan(move, carry, actions)[0][1].mean(axis=0)

    # without exploring the search draws the same numbers always
    key = key if explore else jax.random.key(0)
    shape = memory.shape
    if cfg.planner == "shooting":
        plans = jax.random.uniform(key, (cfg.samples, *shape), minval=-1.0)
        best = jnp.take_along_axis(plans, value(plans).argmax(axis=0)[None, :, None], axis=0)[0]
    else:
        best = cross_entropy_method(value, key, shape, cfg.samples, cfg.elites, cfg.iterations, start=memory)
    rest = jnp.concatenate([best[:, size:], jnp.zeros((len(best), size))], axis=1)
    return best[:, :size], rest, ()


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of descent of every member on a mini-batch [B, ...]."""
    change = jnp.concatenate([batch.next_obs - batch.obs, batch.reward[:, None]], axis=-1)
    (mean, mean_out), (var, var_out) = state.moments.mean, state.moments.var
    x = unit(jnp.concatenate([batch.obs, batch.action], axis=-1), mean, var)
    target = unit(change, mean_out, var_out)

    # E(theta) = 1/|D| sum 1/2 |(s' - s) - f_theta(s, a)|^2                                                 eq. 2
    def loss(model: Tree) -> Array:
        error = ((model(x) - target) ** 2).mean(axis=-1)  # [E, B]
        return 0.5 * (batch.weight * error).mean(axis=-1).sum()

    loss_value, grads = jax.value_and_grad(loss)(state.model)
    model, opt_state = gradient_step(adam(), grads, state.opt_state, state.model, cfg.lr)
    metrics = {
        "loss": loss_value
        / cfg.members,  # half the squared error in units of the spread, mean over the members
        "disagreement": model(x)
        .std(axis=0)
        .mean(),  # standard deviation between the members, in the same units
    }
    return Update(State(model, opt_state, state.moments, state.clock.updated()), metrics)


def observe(cfg: Config, spec: Spec, state: State, rollout: Transition) -> State:
    """Count a rollout [T, N, ...] and learn the scales."""
    seen = jnp.concatenate([rollout.obs, rollout.action], axis=-1)
    change = jnp.concatenate([rollout.next_obs - rollout.obs, rollout.reward[..., None]], axis=-1)
    return state.replace(moments=state.moments.add((seen, change)), clock=state.clock.observed(rollout))


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    observes="vector",
    simulates=True,
    family="planning",
    init=init,
    actor=actor,
    memory=memory,
    act=act,
    update=update,
    observe=observe,
)

"""Guided policy search: local controllers, one for each of a few starts, teach one network, which pulls at them.

Levine, Finn, Darrell & Abbeel 2016, "End-to-End Training of Deep Visuomotor Policies" (JMLR 17, arXiv:1504.00702),
section 4: the variant by Bregman ADMM, with unknown dynamics; the controllers' step is that of Levine & Abbeel 2014,
"Learning Neural Network Policies with Guided Policy Search under Unknown Dynamics", section 3. Lecture 4.

Departures: the state x of the controllers is the observation o of the network, and the cost is fitted to the rewards,
as the dynamics are by least squares, where the paper knows it. The prior of a local fit is one least squares over all
samples, where the paper has a mixture of Gaussians. The network is linearised by its derivative, not by regression. The
bound on the divergence from the last controllers stays the same, and so do the weights nu_t, where the paper adapts
both. The step of the dual variables has the factor C^-1 of the authors' code.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Batch, Clock, OnPolicy, Spec, Tree, Update, count_steps, within
from polyak.parts import lqr
from polyak.parts.lqr import Controller, Model
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """Symbols are those of Levine et al. 2016; sizes are ours."""

    gamma: float = within(1.0, 1, 1)  # the cost of an episode is its sum
    sigma: float = within(1.0, 1e-6)  # standard deviation of the actions of the first controllers
    epsilon: float = within(0.1, 1e-6)  # epsilon, bound on a step's divergence from the last controllers
    nu: float = within(0.1, 1e-6)  # nu_t, weight of the divergence between controllers and network
    alpha: float = within(0.1, 0)  # alpha, step of the dual variables
    inner: int = within(2, 1)  # alternations of network and controllers between two rollouts
    bisections: int = within(20, 1)  # halvings of the interval in which log eta is sought
    prior: float = within(1.0, 1e-3)  # samples that the prior of a local fit counts for
    lr: float = within(1e-3, 0)  # Adam's learning rate
    regression: int = within(200, 1)  # Adam's steps in an alternation
    minibatch: int = within(500, 1)  # rows of a step
    network: str = "mlp"  # builder of the network
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer
    data: OnPolicy = field(  # each rollout has episodes / common from each of `common` starts
        default_factory=lambda: OnPolicy(episodes=8, common=8)
    )


@pytree
class State(Record):
    """The network and its teachers, I starts of T steps."""

    net: Tree  # mu^pi(o)
    opt_state: Tree
    teachers: Controller  # p_i(u_t|x_t), [I, T, ...]
    dual: Array  # lambda_mu [I, T, A]
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Controllers that act at random around 0, and a network."""
    size, actions = spec.obs.size, spec.action.size
    net = build(cfg.network)(key, spec.obs, actions, cfg.hidden, "tanh")
    shape, eye = (cfg.data.common, spec.time_limit or 1, actions), jnp.eye(actions)
    teachers = Controller(
        K=jnp.zeros((*shape, size)),
        k=jnp.zeros(shape),
        precision=jnp.broadcast_to(eye / cfg.sigma**2, (*shape, actions)),
        root=jnp.broadcast_to(eye * cfg.sigma, (*shape, actions)),
    )
    return State(net, optimizer.init(net), teachers, jnp.zeros(shape), start_clock())


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> tuple[Array, Array]:
    """The start i from which the episode begins, and the time t in it."""
    return (episode % max(cfg.data.common, 1)).astype(jnp.int32), jnp.zeros(len(env_ids), jnp.int32)


def act(cfg: Config, spec: Spec, actor: Tree, memory: Tree, obs: Array, key: Array, explore: bool) -> tuple:
    """An action of p_i(u_t|x_t) while exploring, else mu^pi(o)."""
    net, teachers = actor
    start, time = memory
    after, extras = (start, time + 1), {"start": start, "time": time}
    if not explore:
        return net(obs), after, extras
    now: Controller = jax.tree.map(lambda x: x[start, jnp.minimum(time, x.shape[1] - 1)], teachers)
    noise = jax.random.normal(key, now.k.shape)
    return now.mean(obs) + (now.root * noise[:, None]).sum(axis=-1), after, extras


def flat(state: State, batch: Batch) -> tuple[Batch, Array, Array]:
    """The rows [R, ...] of a rollout, and of each the start and the time."""
    rows = jax.tree.map(lambda y: y.reshape(batch.reward.size, *y.shape[2:]), batch)
    return rows, rows.extras["start"], jnp.minimum(rows.extras["time"], state.dual.shape[1] - 1)


def fitted(cfg: Config, state: State, batch: Batch) -> tuple[Model, Array]:
    """Models [I, T, ...] of what the samples of a rollout did, and their mean states [I, T, D]."""
    row, start, time = flat(state, batch)
    starts, times = state.dual.shape[:2]
    cell, cells = start * times + time, starts * times
    found = lqr.fit(row.obs, row.action, row.next_obs, -row.reward, row.weight, cell, cells, cfg.prior)
    return jax.tree.map(lambda y: y.reshape(starts, times, *y.shape[1:]), found)


def follow(cfg: Config, state: State, batch: Batch, key: Array) -> tuple[Tree, Tree]:
    """The network's step: argmin of sum_t nu_t E_p[KL(pi(.|o_t) || p(.|x_t))] + lambda_t^T mu^pi(o_t), section 4.3."""
    rows, start, time = flat(state, batch)
    scale = jnp.trace(state.teachers.precision, axis1=-2, axis2=-1).mean()

    def loss(net: Tree, which: Array) -> Array:
        i, t, obs = start[which], time[which], rows.obs[which]
        p: Controller = jax.tree.map(lambda x: x[i, t], state.teachers)
        mu = net(obs)
        off = mu - p.mean(obs)
        pulled = 0.5 * cfg.nu * jnp.einsum("ra,rab,rb->r", off, p.precision, off)
        return (rows.weight[which] * (pulled + (state.dual[i, t] * mu).sum(-1))).mean() / scale

    def step(number: Array, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        net, opt_state = carry
        key_rows = jax.random.fold_in(key, number)
        which = jax.random.randint(key_rows, (cfg.minibatch,), 0, len(start))
        return gradient_step(optimizer, jax.grad(loss)(net, which), opt_state, net, cfg.lr)

    return jax.lax.fori_loop(0, cfg.regression, step, (state.net, state.opt_state))


def student(net: Tree, teachers: Controller, mean: Array) -> Controller:
    """The network around the mean states [I, T, D] as controllers; its covariance is the best one, in closed form."""
    # Sigma^pi = (1/(I T) sum_{i,t} C_ti^-1)^-1
    precision = jnp.broadcast_to(teachers.precision.mean(axis=(0, 1)), teachers.precision.shape)
    K = jax.vmap(jax.vmap(jax.jacrev(net)))(mean)
    return jax.vmap(Controller.of)(K, net(mean) - jnp.einsum("itad,itd->ita", K, mean), precision)


def improved(
    cfg: Config, model: Model, last: Controller, pi: Controller, dual: Array, mean: Array, cov: Array
) -> tuple[Controller, Array]:
    """The controllers' step for one start: argmin_p of sum_t E_p[l - u^T lambda_t] + nu_t KL(p || pi), near the last p.

    KL(p(tau) || last p(tau)) <= epsilon T, with eta by bisection; mean [D] and cov [D, D] are those of x_1.
    """
    size = len(mean)
    costs = lqr.towards(model._replace(h=model.h.at[:, size:].add(-dual)), pi, jnp.asarray(cfg.nu))

    def solution(log_eta: Array) -> tuple[Controller, Array]:
        eta = jnp.exp(log_eta)
        # l - u^T lambda - nu log pi - eta log p_last, of which p is the maximum-entropy optimum at temperature nu + eta
        K, k, curvature = lqr.backward(lqr.towards(costs, last, eta))
        p = Controller.of(K, k, curvature / (cfg.nu + eta))
        return p, lqr.divergence(p, last, *lqr.forward(model, p, mean, cov)).sum()

    def halve(_: Array, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = (low + high) / 2
        near = solution(middle)[1] <= cfg.epsilon * len(model.f)
        return jnp.where(near, low, middle), jnp.where(near, middle, high)

    ends = jnp.log(jnp.float32(1e-4)), jnp.log(jnp.float32(1e6))
    return solution(jax.lax.fori_loop(0, cfg.bisections, halve, ends)[1])


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """Fit the dynamics to a rollout [T', N, ...], then alternate between the network and its teachers."""
    model, mean = fitted(cfg, state, batch)
    last = state.teachers
    first, cov = mean[:, 0], jnp.stack([1e-6 * jnp.eye(mean.shape[-1])] * len(mean))
    ways = jax.vmap(lqr.forward)(model, last, first, cov)
    before = jax.vmap(lqr.divergence)(last, student(state.net, last, mean), *ways).mean()

    def alternate(carry: State, key: Array) -> tuple[State, Array]:
        net, opt_state = follow(cfg, carry, batch, key)
        pi = student(net, carry.teachers, mean)
        step = jax.vmap(lambda *args: improved(cfg, *args))
        teachers, moved = step(model, last, pi, carry.dual, first, cov)
        # lambda_t <- lambda_t + alpha nu_t C_t^-1 (E_p[mu^pi(x_t)] - E_p[u_t])
        x, _ = jax.vmap(lqr.forward)(model, teachers, first, cov)
        apart = jax.vmap(Controller.mean)(pi, x) - jax.vmap(Controller.mean)(teachers, x)
        dual = carry.dual + cfg.alpha * cfg.nu * jnp.einsum("itab,itb->ita", teachers.precision, apart)
        return carry.replace(net=net, opt_state=opt_state, teachers=teachers, dual=dual), moved.mean()

    after, moved = jax.lax.scan(alternate, state, jax.random.split(key, cfg.inner))
    deviation = jnp.sqrt(jnp.trace(model.noise, axis1=-2, axis2=-1).mean())
    metrics = {
        "cost": -(batch.weight * batch.reward).sum() / jnp.maximum(batch.last.sum(), 1),  # of an episode
        "kl": before,  # KL(p_i || pi), mean over starts and steps, of the teachers that made the rollout
        "moved": moved[-1] / mean.shape[1],  # KL(p_i || last p_i), mean over starts and steps
        "noise": deviation,  # what the fitted dynamics leave over, root mean square
    }
    return Update(after.replace(clock=state.clock.updated()), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """Lines where there is no horizon, or where the starts are not dealt out evenly."""
    lines = [] if spec.time_limit else ["controllers of so many steps need an environment with a time limit"]
    common, episodes = cfg.data.common, cfg.data.episodes
    if not common or not episodes or episodes % common:
        lines.append(
            f"data.episodes is {episodes}, but must be a multiple of data.common, the starts, {common}"
        )
    return lines


algorithm = Algorithm(
    Config=Config,
    actions=("continuous",),
    observes="vector",
    family="planning",
    init=init,
    actor=lambda state: (state.net, state.teachers),
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
)

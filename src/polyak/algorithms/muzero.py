"""MuZero: search in a model that is learned, without the rules.

Schrittwieser, Antonoglou, Hubert, Simonyan, Sifre, Schmitt, Guez, Lockhart, Hassabis, Graepel, Lillicrap & Silver 2020,
"Mastering Atari, Go, chess and shogi by planning with a learned model" (Nature 588, arXiv:1911.08265), sections 3 and
appendices B to H. Lecture 1. One file for boards (`critic = "scalar"`, two players) and for one player with rewards.
Search is mctx's: the paper's (`search = "puct"`) or Gumbel MuZero's (Danihelka et al. 2022, ICLR).

The environment's rules are never asked. At the root, actions may be masked by the observation's part `legal`, as in the
paper; inside the tree all actions are tried, and no state is an end.

Departures: the hidden state is one vector, and dynamics and prediction are perceptrons, where the paper has planes and
residual networks. Adam in place of SGD with momentum. The temperature falls linearly, not in steps. A time limit is
bootstrapped through, by the network's value of the true successor; what lies behind it is not learned from.
"""

import importlib.util
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

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
from polyak.parts import categorical
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step, squared_norm
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The paper's settings for Atari, where the departures above do not say otherwise."""

    gamma: float = within(0.997, 0, 1)  # gamma, discount of one step
    simulations: int = within(50, 1)  # simulations before every action
    search: Literal["puct", "gumbel"] = "puct"  # how actions are chosen in the tree
    pb_c_init: float = within(1.25, 0)  # c_1 of PUCT
    pb_c_base: float = within(19_652.0, 1)  # c_2 of PUCT
    noise: float = within(0.25, 1e-3)  # alpha of the Dirichlet noise at the root, for PUCT
    noise_share: float = within(0.25, 0, 1)  # share of that noise in the prior at the root
    temperature: float = within(
        1.0, 0
    )  # T of N(a)^(1/T), from which PUCT's actions are drawn, at the first step
    temperature_end: float = within(0.25, 0)  # T at the horizon
    horizon: int = within(0, 0)  # environment steps that T and lr fall over; 0: all of the run's
    unroll: int = within(5, 1)  # K, steps that the model is unrolled; n of the value is data.length - K - 1
    critic: Literal["categorical", "scalar"] = "categorical"  # value and reward: on atoms, or tanh
    low: float = -300.0  # value and reward of the first atom, after h
    high: float = 300.0  # value and reward of the last atom, after h
    atoms: int = within(601, 2)  # atoms of value and reward
    value_scale: float = within(1.0, 0)  # weight of the value's loss; 0.25 in the paper's Reanalyze
    reanalyze: float = within(0.0, 0, 1)  # share of drawn sequences that are searched again
    lr: float = within(1e-3, 0)  # Adam's learning rate at the first step
    lr_end: float = within(1.0, 0)  # share of lr left at the horizon
    decay: float = within(1e-4, 0)  # c, weight of the squared norm of all parameters
    width: int = within(64, 2)  # numbers of the hidden state s
    network: str = "mlp"  # builder of the representation
    hidden: tuple[int, ...] = (128,)  # units of each hidden layer, in all three networks
    data: Replay = field(  # sequences [B, K + n + 1, ...], n = 10, that were played by searching
        default_factory=lambda: Replay(
            **{"capacity": 1_000_000, "batch_size": 1024, "warmup": 20_000, "steps": 4, "length": 16},
            **{"priority": 1.0, "correction": 1.0, "uniform": False, "self_play": True},
        )
    )

    @property
    def n_step(self) -> int:
        """n, steps from a state to the search that its value is bootstrapped from."""
        return self.data.length - self.unroll - 1


@pytree
class Model(Record):
    """The three networks, theta."""

    representation: Tree  # h: o -> s^0
    dynamics: Tree  # g: s^k-1, a^k -> r^k, s^k
    prediction: Tree  # f: s^k -> p^k, v^k


@pytree
class State(Record):
    """The model and its optimiser."""

    model: Model
    opt_state: Tree
    clock: Clock


@pytree
class Actor(Record):
    """The model, and how far the temperature has fallen."""

    model: Model
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks."""
    keys, head = jax.random.split(key, 3), cfg.atoms if cfg.critic == "categorical" else 1
    state, mlp = Box((cfg.width,)), partial(build("mlp"), hidden=cfg.hidden, init="orthogonal")
    model = Model(
        build(cfg.network)(keys[0], spec.obs, cfg.width, cfg.hidden, init="orthogonal"),
        mlp(keys[1], (state, spec.action), cfg.width + head),
        mlp(keys[2], state, spec.action.n + head, scale=0.01),
    )
    return State(model, optimizer.init(model), start_clock())


def actor(state: State) -> Actor:
    """The part of the state that acting needs."""
    return Actor(state.model, state.clock)


# ---- the model


def scaled(hidden: Array) -> Array:
    """State s with its least number moved to 0 and its largest to 1: appendix G."""
    low, high = hidden.min(axis=-1, keepdims=True), hidden.max(axis=-1, keepdims=True)
    return (hidden - low) / jnp.maximum(high - low, 1e-5)


def represent(model: Model, obs: Tree) -> Array:
    """s^0 = h(o), [..., width]."""
    return scaled(model.representation(obs))


def imagine(cfg: Config, model: Model, hidden: Array, action: Array) -> tuple[Array, Array]:
    """s^k and what the reward's head says, from s^k-1 and a^k."""
    out = model.dynamics((hidden, action))
    return scaled(out[..., : cfg.width]), out[..., cfg.width :]


def predict(spec: Spec, model: Model, hidden: Array) -> tuple[Array, Array]:
    """Logits of p^k [..., A] and what the value's head says of s^k."""
    out = model.prediction(hidden)
    return out[..., : spec.action.n], out[..., spec.action.n :]


# h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x, and its inverse      appendix F
EPS = 0.001


def compressed(x: Array) -> Array:
    """h(x)."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1) - 1) + EPS * x


def expanded(x: Array) -> Array:
    """The number of which h is x; written without a difference of numbers that are nearly the same."""
    big = jnp.abs(x) + 1 + EPS
    return jnp.sign(x) * ((2 * big / (jnp.sqrt(1 + 4 * EPS * big) + 1)) ** 2 - 1)


def number(cfg: Config, out: Array) -> Array:
    """The value or reward that a head says, in the environment's units."""
    if cfg.critic == "scalar":
        return jnp.tanh(out[..., 0])
    return expanded(categorical.mean(out, categorical.support(cfg.low, cfg.high, cfg.atoms)))


def distance(cfg: Config, target: Array, out: Array) -> Array:
    """l^v or l^r of what a head says: cross-entropy to h(target) on the two atoms beside it, or the squared error."""
    if cfg.critic == "scalar":
        return (number(cfg, out) - target) ** 2
    place, one = compressed(target)[..., None], jnp.ones((*target.shape, 1))
    atoms = categorical.support(cfg.low, cfg.high, cfg.atoms)
    return categorical.log_loss(categorical.project(place, one, atoms), out)


# ---- acting


def search(
    cfg: Config, spec: Spec, actor: Actor, obs: Tree, key: Array, explore: bool
) -> tuple[Array, Array, Array]:
    """Action [N], improved policy pi [N, A] and root value nu [N] of a search from each observation."""
    import mctx

    def inside(model: Model, key: Array, action: Array, hidden: Array) -> tuple[Any, Array]:
        hidden, reward = imagine(cfg, model, hidden, action)
        logits, value = predict(spec, model, hidden)
        gamma = jnp.full(action.shape, -cfg.gamma if spec.players == 2 else cfg.gamma)
        said = {"reward": number(cfg, reward), "value": number(cfg, value)}
        return mctx.RecurrentFnOutput(discount=gamma, prior_logits=logits, **said), hidden

    hidden = represent(actor.model, obs)
    logits, value = predict(spec, actor.model, hidden)
    illegal = obs["legal"] <= 0 if isinstance(obs, dict) and "legal" in obs else None
    root = mctx.RootFnOutput(prior_logits=logits, value=number(cfg, value), embedding=hidden)
    call = actor.model, jax.random.key_data(key), root, inside, cfg.simulations, illegal
    bounded = cfg.critic == "scalar"  # values are between -1 and 1, which is known and not seen in the tree
    if cfg.search == "gumbel":
        completed = partial(mctx.qtransform_completed_by_mix_value, rescale_values=not bounded)
        found = mctx.gumbel_muzero_policy(*call, qtransform=completed, gumbel_scale=1.0 if explore else 0.0)
    else:
        known = partial(mctx.qtransform_by_min_max, min_value=-1.0, max_value=1.0)
        ends = cfg.temperature, cfg.temperature_end
        temperature = linear_schedule(actor.clock.env_steps, *ends, max(cfg.horizon, 1))
        found = mctx.muzero_policy(
            *call,
            qtransform=known if bounded else normalized,
            dirichlet_alpha=cfg.noise,
            dirichlet_fraction=cfg.noise_share if explore else 0.0,
            pb_c_init=cfg.pb_c_init,
            pb_c_base=cfg.pb_c_base,
            temperature=temperature if explore else 0.0,
        )
    return found.action.astype(jnp.int32), found.action_weights, found.search_tree.summary().value


def normalized(tree: Any, node: Array) -> Array:
    """Q(s, a) of a node [A], between the least and the largest of the whole tree; 0 where nothing was tried: eq. 5."""
    tried = tree.children_visits > 0
    q = tree.children_rewards + tree.children_discounts * tree.children_values
    low, high = jnp.where(tried, q, jnp.inf).min(), jnp.where(tried, q, -jnp.inf).max()
    span = jnp.where(high > low, high - low, 1.0)
    return jnp.where(tried[node], (q[node] - low) / span, 0.0)


def act(cfg: Config, spec: Spec, actor: Actor, memory: Tree, obs: Tree, key: Array, explore: bool) -> tuple:
    """What the search says; its policy and its value are remembered."""
    # without exploring, ties are broken in the same way always
    action, policy, value = search(cfg, spec, actor, obs, key if explore else jax.random.key(0), explore)
    return action, memory, {"policy": policy, "value": value}


# ---- learning


@pytree
class Targets(Record):
    """What the model should say of the states k = 0 .. K, [B, K + 1], and where that is known."""

    policy: Array  # pi, [B, K + 1, A]
    value: Array  # z
    reward: Array  # u, of the step into state k; nothing for k = 0
    has_policy: Array  # 1 where state k is one that was searched
    has_value: Array  # 1 there, and past the end of the world
    has_reward: Array  # 1 where the step into state k was seen, and past the end of the world


def targets(cfg: Config, batch: Batch, cut: Array) -> Targets:
    """Targets from sequences [B, K + n + 1]; `cut` [B] is the value behind their first end, if that was a time limit.

    States past the end of the world are absorbing: value and reward are 0. Past a time limit nothing is known.
    """
    K, last = cfg.unroll, batch.last
    before = jnp.cumsum(last, axis=1) - last
    alive = before == 0  # of the episode that the sequence begins in
    over = ~alive & (jnp.cumsum(batch.terminated & alive, axis=1) > 0)

    # z_t = u_t+1 + gamma u_t+2 + ... + gamma^n-1 u_t+n + gamma^n nu_t+n, one more step each time
    def one_step_more(_: int, value: Array) -> Array:
        after = jnp.where(last, cut[:, None], jnp.roll(value, -1, axis=1))
        return batch.reward + jnp.where(batch.discount == 0, 0.0, batch.discount * after)

    value = jax.lax.fori_loop(0, cfg.n_step, one_step_more, batch.extras["value"])
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


def reanalyzed(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Batch:
    """The batch with policies and values of a share of its sequences as a search finds them now."""
    count = round(cfg.reanalyze * len(batch.reward))
    if count == 0:
        return batch
    shape = batch.reward[:count].shape
    obs = jax.tree.map(lambda x: x[:count].reshape(-1, *x.shape[2:]), batch.obs)
    _, policy, value = search(cfg, spec, actor(state), obs, key, False)
    fresh = {"policy": policy.reshape(*shape, -1), "value": value.reshape(shape)}
    extras = {name: old.at[:count].set(fresh[name]) for name, old in batch.extras.items()}
    return batch._replace(extras=extras)


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of descent on sequences [B, K + n + 1, ...], of which the model sees one observation and K actions."""
    key_search, key_action = jax.random.split(key)
    batch = reanalyzed(cfg, spec, state, batch, key_search)
    K, count = cfg.unroll, len(batch.reward)

    # v of the true successor of each sequence's first end
    end = jnp.argmax(batch.last, axis=1)
    beyond = jax.tree.map(lambda x: x[jnp.arange(count), end], batch.next_obs)
    cut = number(cfg, predict(spec, state.model, represent(state.model, beyond))[1])
    target = targets(cfg, batch, cut)

    # past the end of an episode actions are drawn
    drawn = jax.random.randint(key_action, (count, K), 0, spec.action.n, batch.action.dtype)
    action = jnp.where(target.has_policy[:, :K] > 0, batch.action[:, :K], drawn)
    scale = jnp.where(jnp.arange(K + 1) == 0, 1.0, 1.0 / K)  # of each head's loss      appendix G

    def unroll(model: Model) -> tuple[Array, Array, Array]:
        def step(hidden: Array, action: Array) -> tuple[Array, tuple[Array, Array]]:
            hidden = 0.5 * hidden + jax.lax.stop_gradient(0.5 * hidden)  # half the gradient      appendix G
            hidden, reward = imagine(cfg, model, hidden, action)
            return hidden, (hidden, reward)

        first = represent(model, jax.tree.map(lambda x: x[:, 0], batch.obs))
        hidden, reward = jax.lax.scan(step, first, action.T)[1]
        logits, value = predict(spec, model, jnp.concatenate([first[None], hidden]))
        reward = jnp.concatenate([jnp.zeros_like(reward[:1]), reward])
        return tuple(x.swapaxes(0, 1) for x in (logits, value, reward))  # [B, K + 1, ...]

    # l = sum_k l^r(u, r^k) + l^v(z, v^k) + l^p(pi, p^k) + c |theta|^2      eq. 1
    def loss(model: Model) -> tuple[Array, tuple[Array, ...]]:
        logits, value, reward = unroll(model)
        parts = (
            target.has_policy * categorical.log_loss(target.policy, logits),
            target.has_value * distance(cfg, target.value, value) * cfg.value_scale,
            target.has_reward * distance(cfg, target.reward, reward),
        )
        policy_loss, value_loss, reward_loss = ((scale * part).sum(axis=1) for part in parts)
        total = (batch.weight[:, 0] * (policy_loss + value_loss + reward_loss)).mean()
        means = policy_loss.mean(), value_loss.mean(), reward_loss.mean(), number(cfg, value[:, 0]).mean()
        return total + cfg.decay * squared_norm(model), means

    (total, means), grads = jax.value_and_grad(loss, has_aux=True)(state.model)
    lr = cfg.lr * linear_schedule(state.clock.env_steps, 1.0, cfg.lr_end, max(cfg.horizon, 1))
    model, opt_state = gradient_step(optimizer, grads, state.opt_state, state.model, lr)
    metrics = {
        "loss": total,  # all parts together, weighted mean over the mini-batch
        "policy_loss": means[0],  # cross-entropy to the search's policy, sum over the unrolled steps
        "value_loss": means[1],  # the value's loss, sum over the unrolled steps
        "reward_loss": means[2],  # the reward's loss, sum over the unrolled steps
        "value": means[3],  # v^0, mean over the mini-batch
        "target": target.value[:, 0].mean(),  # z, mean over the mini-batch
    }
    # P(i) ~ |nu_i - z_i|      appendix G
    priority = jnp.abs(batch.extras["value"][:, 0] - target.value[:, 0])
    return Update(State(model, opt_state, state.clock.updated()), metrics, priority=priority)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """Sequences that are too short, a support without width, and a search that is not installed."""
    lines = []
    if importlib.util.find_spec("mctx") is None:
        lines.append('it searches with mctx: pip install "polyak[games]"')
    if cfg.n_step < 1:
        lines.append(
            f"data.length is {cfg.data.length}, but sequences need unroll + n + 1 rows, n at least 1: give "
            f"{cfg.unroll + 2} or more"
        )
    if cfg.critic == "categorical" and cfg.low >= cfg.high:
        lines.append(f"low is {cfg.low:g} and high {cfg.high:g}, but the atoms must rise from low to high")
    return lines


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    plays=True,
    family="planning",
    init=init,
    actor=actor,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
)

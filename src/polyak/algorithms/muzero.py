"""MuZero: search in a model that is learned, without the rules.

Schrittwieser, Antonoglou, Hubert, Simonyan, Sifre, Schmitt, Guez, Lockhart, Hassabis, Graepel, Lillicrap & Silver 2020,
"Mastering Atari, Go, chess and shogi by planning with a learned model" (Nature 588, arXiv:1911.08265), sections 3 and
appendices B to H. Lecture 1. One file for boards (two players) and for one player with rewards. Search is mctx's: the
paper's (`search = "puct"`) or Gumbel MuZero's (Danihelka et al. 2022, ICLR).

The rules are never asked but for what is `legal` at the root; inside the tree no action is illegal and no state an end.

Departures: the hidden state is one vector, and dynamics and prediction are perceptrons, where the paper has planes and
residual networks. Adam in place of SGD with momentum. The temperature falls linearly, not in steps, and `opening` is
the longest that an episode may have: its own is drawn, so that good play is seen from each step on. A time limit is
bootstrapped through, by the network's value of the true successor; what lies behind it is not learned from.
Boards too learn their reward, which the paper leaves at 0 and finds in the value; `critic = "scalar"` has the paper's
squared error for them, `"outcome"` the cross-entropy of losing, drawing and winning.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from polyak.interface import Algorithm, Array, Batch, Clock, Replay, Spec, Tree, Update, count_steps, within
from polyak.parts import categorical
from polyak.parts.networks import build
from polyak.parts.networks.latent import LatentModel, latent_model
from polyak.parts.optimize import adam, gradient_step, squared_norm
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.parts.search import PUCT, installed, latent_search
from polyak.parts.unrolled import targets
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The paper's settings for Atari, where the departures above do not say otherwise."""

    gamma: float = within(0.997, 0, 1)  # gamma, discount of one step
    simulations: int = within(50, 1)  # simulations before every action
    search: Literal["puct", "gumbel"] = "puct"  # how actions are chosen in the tree
    pb_c_init: float = within(1.25, 0)  # c_1, how much PUCT goes by the prior
    pb_c_base: float = within(19_652.0, 1)  # c_2, visits after which PUCT goes by it more
    noise: float = within(0.25, 1e-3)  # alpha of the Dirichlet noise at the root, for PUCT
    noise_share: float = within(0.25, 0, 1)  # share of that noise in the prior at the root
    temperature: float = within(1.0, 0)  # T of N(a)^(1/T), or scale of Gumbel's noise, at the first step
    temperature_end: float = within(0.25, 0)  # T at the horizon
    opening: int | None = within(None, 0)  # most steps with T, then it is 0 (Gumbel's: 1); None: all
    horizon: int = within(0, 0)  # environment steps that T and lr fall over; 0: all of the run's
    unroll: int = within(5, 1)  # K, steps that the model is unrolled; n of the value is data.length - K - 1
    critic: Literal["categorical", "scalar", "outcome"] = "categorical"  # atoms, a tanh, or -1, 0 and 1
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
class State(Record):
    """The model and its optimiser."""

    model: LatentModel  # theta
    opt_state: Tree
    clock: Clock


optimizer = adam()


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """Random networks."""
    sizes, heads = (cfg.width, cfg.hidden), (cfg.critic, cfg.low, cfg.high, cfg.atoms)
    model = latent_model(key, build(cfg.network), spec.obs, spec.action, *sizes, *heads)
    return State(model, optimizer.init(model), start_clock())


def actor(state: State) -> tuple[LatentModel, Clock]:
    """The model, and how far the temperature has fallen."""
    return state.model, state.clock


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Array:
    """How many steps of its episode's opening each environment has before it, [N]: any number up to the longest."""
    longest, shape = cfg.opening, (len(env_ids),)
    return jnp.full(shape, 2**31 - 1) if longest is None else jax.random.randint(key, shape, 0, longest + 1)


def search(cfg: Config, spec: Spec, model: LatentModel, obs: Tree, key: Array, heat: Array | None) -> tuple:
    """Action [N], improved policy pi [N, A] and root value nu [N] of a search from each observation.

    heat  [N] T of N(a)^(1/T), or the scale of Gumbel's noise; None: no noise, and the best action
    """
    turn = -cfg.gamma if spec.players == 2 else cfg.gamma
    puct = PUCT(cfg.noise, cfg.noise_share, cfg.pb_c_init, cfg.pb_c_base) if cfg.search == "puct" else None
    return latent_search(model, obs, key, turn, cfg.simulations, puct, heat)


def act(cfg: Config, spec: Spec, actor: tuple, memory: Array, obs: Tree, key: Array, explore: bool) -> tuple:
    """What the search says; its policy and its value are remembered."""
    (model, clock), heat = actor, None
    if explore:
        ends = cfg.temperature, cfg.temperature_end, max(cfg.horizon, 1)
        heat = jnp.where(memory > 0, linear_schedule(clock.env_steps, *ends), float(cfg.search == "gumbel"))
    key = key if explore else jax.random.key(0)
    action, policy, value = search(cfg, spec, model, obs, key, heat)
    return action, memory - 1, {"policy": policy, "value": value}


def reanalyzed(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Batch:
    """The batch with policies and values of a share of its sequences as a search finds them now."""
    if (count := round(cfg.reanalyze * len(batch.reward))) == 0:
        return batch
    shape = batch.reward[:count].shape
    obs = jax.tree.map(lambda x: x[:count].reshape(-1, *x.shape[2:]), batch.obs)
    _, policy, value = search(cfg, spec, state.model, obs, key, None)
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
    cut = state.model.number(state.model.predict(state.model.represent(beyond))[1])
    target = targets(batch, K, cfg.n_step, cut)

    # past the end of an episode actions are drawn
    drawn = jax.random.randint(key_action, (count, K), 0, spec.action.n, batch.action.dtype)
    action = jnp.where(target.has_policy[:, :K] > 0, batch.action[:, :K], drawn)
    scale = jnp.where(jnp.arange(K + 1) == 0, 1.0, 1.0 / K)  # of each head's loss      appendix G

    def unroll(model: LatentModel) -> tuple[Array, ...]:
        def step(hidden: Array, action: Array) -> tuple[Array, tuple[Array, Array]]:
            hidden = 0.5 * hidden + jax.lax.stop_gradient(0.5 * hidden)  # half the gradient      appendix G
            hidden, reward = model.imagine(hidden, action)
            return hidden, (hidden, reward)

        first = model.represent(jax.tree.map(lambda x: x[:, 0], batch.obs))
        hidden, reward = jax.lax.scan(step, first, action.T)[1]
        reward = jnp.concatenate([jnp.zeros_like(reward[:1]), reward])
        logits, value = model.predict(jnp.concatenate([first[None], hidden]))
        return tuple(x.swapaxes(0, 1) for x in (logits, value, reward))  # [B, K + 1, ...]

    # l = sum_k l^r(u, r^k) + l^v(z, v^k) + l^p(pi, p^k) + c |theta|^2      eq. 1
    def loss(model: LatentModel) -> tuple[Array, tuple[Array, ...]]:
        logits, value, reward = unroll(model)
        parts = (
            target.has_policy * categorical.log_loss(target.policy, logits),
            target.has_value * model.distance(target.value, value) * cfg.value_scale,
            target.has_reward * model.distance(target.reward, reward),
        )
        policy_loss, value_loss, reward_loss = ((scale * part).sum(axis=1) for part in parts)
        total = (batch.weight[:, 0] * (policy_loss + value_loss + reward_loss)).mean()
        means = policy_loss.mean(), value_loss.mean(), reward_loss.mean(), model.number(value[:, 0]).mean()
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
    lines = [] if installed() else ['it searches with mctx: pip install "polyak[games]"']
    if cfg.n_step < 1:
        lines.append(f"data.length is {cfg.data.length}, but unroll + n + 1 is {cfg.unroll + 2} or more")
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
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
    thought=lambda memory, extras: (extras["policy"], extras["value"]),
)

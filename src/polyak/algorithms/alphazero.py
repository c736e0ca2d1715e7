"""AlphaZero: self-play with a tree search that a network guides, and the network trained on what the search found.

Silver et al. 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play"
(Science 362; arXiv:1712.01815), section "Methods"; Silver et al. 2017, "Mastering the game of Go without human
knowledge" (Nature 550), equation 1. `search = "gumbel"` is Danihelka et al. 2022, "Policy improvement by planning with
Gumbel" (ICLR), which needs far fewer simulations; `"puct"` is the papers' own. The search is mctx's. Lecture 1.

Departures: Adam instead of SGD with momentum; games and updates take turns, where the papers' run apart. A window of
`data.n_step` moves reaches to the end of the game; one that a time limit cuts is drawn, as in the paper. Of PUCT, the
values of a node's moves are rescaled to [0, 1], as in MuZero, and one that was never tried counts as the least.
Gumbel's noise may be larger in the opening than the paper's (`temperature`), which the policy that is learned does not
see. The network has one reading for both heads. No symmetry of a board is used, as in the later paper.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from polyak.errors import UserError
from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Clock,
    Replay,
    Shown,
    Spec,
    Tree,
    Update,
    count_steps,
    within,
)
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step, squared_norm
from polyak.parts.schedules import linear_schedule, start_clock
from polyak.pytree import Record, pytree


@dataclass(frozen=True)
class Config:
    """The papers' settings, in sizes that one machine can play."""

    gamma: float = within(1.0, 0, 1)  # gamma, discount of one move
    lr: float = within(1e-3, 0)  # Adam's learning rate at the first step
    lr_end: float = within(0.1, 0)  # share of lr left at the horizon
    horizon: int = within(0, 0)  # moves that lr falls over; 0: all of the run's
    weight_decay: float = within(1e-4, 0)  # c, weight of the squared norm of all parameters
    search: Literal["gumbel", "puct"] = "gumbel"  # how the tree is searched, and what the policy is drawn to
    simulations: int = within(64, 1)  # simulations before every move
    considered: int = within(16, 1)  # m, moves at the root that Gumbel's search chooses among
    exploration: float = within(1.25, 0)  # c_init of PUCT
    alpha: float = within(0.3, 0)  # alpha of the Dirichlet noise at PUCT's root
    noise: float = within(0.25, 0, 1)  # epsilon, share of that noise in the root's probabilities
    temperature: float = within(
        1.0, 1e-3
    )  # tau of the opening: N(s, a)^(1 / tau), or the scale of Gumbel's noise
    opening: int = within(
        30, 0
    )  # moves of a game before PUCT plays the most visited, and Gumbel's scale is 1
    network: str = "mlp"  # builder of the network; boards [height, width, channel]: residual
    hidden: tuple[int, ...] = within((128, 128), 1)  # units of each hidden layer, channels of each block
    data: Replay = field(  # moves of finished games [B, ...], each with how its game ended
        default_factory=lambda: Replay(
            **{"capacity": 100_000, "batch_size": 256, "warmup": 4_096, "steps": 16, "updates": 4},
            **{"n_step": 512, "ended": True, "uniform": False, "simulator": True, "self_play": True},
        )
    )


@pytree
class State(Record):
    """The network f and its optimiser."""

    net: Tree  # theta
    opt_state: Tree
    clock: Clock


def init(cfg: Config, spec: Spec, key: Array) -> State:
    """A random network."""
    net = build(cfg.network)(key, spec.obs, spec.action.n + 1, cfg.hidden)
    return State(net, adam().init(net), start_clock())


def memory(cfg: Config, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Array:
    """How many moves of its game each environment has seen, [N]."""
    return jnp.zeros(len(env_ids), jnp.int32)


NEVER = -1e9  # log-probability of what is against the rules


def legal_in(spec: Spec, obs: Tree, lead: tuple[int, ...]) -> Array:
    """Which actions [*lead, A] are allowed: all, unless the observation has a part `legal`."""
    named = isinstance(obs, dict) and "legal" in obs
    return obs["legal"] > 0 if named else jnp.ones((*lead, spec.action.n), bool)


def predict(spec: Spec, net: Tree, obs: Tree) -> tuple[Array, Array]:
    """(p, v) = f(s): logits [..., A], those of illegal moves as good as never, and values [...] of who moves."""
    out = net(obs)
    legal = legal_in(spec, obs, out.shape[:-1])
    value = out[..., -1]
    return jnp.where(legal, out[..., :-1], NEVER), jnp.tanh(value) if spec.players == 2 else value


def act(cfg: Config, spec: Spec, actor: Tree, memory: Array, obs: Shown, key: Array, explore: bool) -> tuple:
    """A move by search from every position, and the policy that the search improved."""
    key_search, key_move = jax.random.split(key if explore else jax.random.key(0))
    opening = explore & (memory < cfg.opening)
    scale = jnp.where(opening, cfg.temperature, float(explore))
    action, policy, value = search(cfg, spec, actor, obs, key_search, scale, explore)
    if cfg.search == "puct":
        # pi(a|s) in proportion to N(s, a)^(1 / tau) in the opening, then tau -> 0      Nature 550, "Self-play"
        drawn = jax.random.categorical(key_move, jnp.log(policy) / cfg.temperature)
        action = jnp.where(opening, drawn, policy.argmax(axis=-1))
    # learning needs no value
    said = {} if explore else {"value": value}
    return action.astype(jnp.int32), memory + 1, {"policy": policy, **said}


def search(
    cfg: Config, spec: Spec, net: Tree, obs: Shown, key: Array, scale: Array, explore: bool
) -> tuple[Array, Array, Array]:
    """The search's own move [N]; its policy [N, A], shares of the visits or Gumbel's improved one; its value [N].

    scale  [N] of Gumbel's noise at the root
    """
    mctx = searcher()
    turn = -cfg.gamma if spec.players == 2 else cfg.gamma  # what is good for the next mover is bad now
    logits, value = predict(spec, net, obs.obs)
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=obs.state)  # pyright: ignore

    def expand(net: Tree, key: Array, action: Array, state: Tree) -> tuple:
        """One move in each tree, and what the network says of where it leads."""
        keys = jax.random.split(jax.random.wrap_key_data(key), len(action))
        step = jax.vmap(spec.model.step)(state, action, keys)
        logits, value = predict(spec, net, step.obs)
        said = {"reward": step.reward.astype(jnp.float32), "prior_logits": logits, "value": value}
        said["discount"] = jnp.where(step.terminated | step.truncated, 0.0, turn)
        return mctx.RecurrentFnOutput(**said), step.state  # pyright: ignore

    # mctx uses a key twice, where it throws one of the results away: it gets the key's bare numbers
    bare, illegal = jax.random.key_data(key), ~legal_in(spec, obs.obs, value.shape)
    given = net, bare, root, expand, cfg.simulations, illegal
    if cfg.search == "gumbel":
        most, scale = min(cfg.considered, spec.action.n), scale[:, None]
        found = mctx.gumbel_muzero_policy(*given, max_num_considered_actions=most, gumbel_scale=scale)
    else:
        noise = {"dirichlet_fraction": cfg.noise if explore else 0.0, "dirichlet_alpha": cfg.alpha}
        found = mctx.muzero_policy(*given, **noise, pb_c_init=cfg.exploration)  # pyright: ignore
    return found.action, found.action_weights, found.search_tree.summary().value


def searcher():
    """The module mctx, an extra; UserError where it is not installed."""
    try:
        import mctx
    except ImportError:
        raise UserError("alphazero needs mctx, which is missing: pip install 'polyak[games]'") from None
    return mctx


def update(cfg: Config, spec: Spec, state: State, batch: Batch, key: Array) -> Update:
    """One step of descent on moves of finished games [B, ...]."""
    z, pi = batch.reward, batch.extras["policy"]  # how the game ended for who moved; what the search said

    # l = (z - v)^2 - pi^T log p + c ||theta||^2      Nature 550, eq. 1
    def loss(net: Tree) -> tuple[Array, tuple[Array, Array]]:
        logits, v = predict(spec, net, batch.obs)
        value_loss = (batch.weight * (z - v) ** 2).mean()
        policy_loss = -(batch.weight * (pi * jax.nn.log_softmax(logits)).sum(axis=-1)).mean()
        return value_loss + policy_loss + cfg.weight_decay * squared_norm(net), (value_loss, policy_loss)

    (_, (value_loss, policy_loss)), grads = jax.value_and_grad(loss, has_aux=True)(state.net)
    lr = cfg.lr * linear_schedule(state.clock.env_steps, 1.0, cfg.lr_end, max(cfg.horizon, 1))
    net, opt_state = gradient_step(adam(), grads, state.opt_state, state.net, lr)
    metrics = {
        "value_loss": value_loss,  # (z - v)^2, mean over the mini-batch
        "policy_loss": policy_loss,  # cross entropy of p from pi, mean over the mini-batch
        "entropy": -(pi * jnp.log(jnp.maximum(pi, 1e-9)))
        .sum(axis=-1)
        .mean(),  # of pi, which policy_loss nears
    }
    return Update(State(net, opt_state, state.clock.updated()), metrics)


def wrong(cfg: Config, spec: Spec) -> list[str]:
    """What is drawn from games that are not over, or to the end of which a window does not reach."""
    found = []
    if spec.players == 2 and not cfg.data.ended:
        found.append("data.ended is False, but how a game ended is known once it is over: leave it True")
    if spec.players == 2 and spec.time_limit is not None and cfg.data.n_step < spec.time_limit:
        found.append(
            f"data.n_step is {cfg.data.n_step}, but a game may have {spec.time_limit} moves, and what is learned is "
            f"how it ended: give {spec.time_limit}"
        )
    return found


algorithm = Algorithm(
    Config=Config,
    actions=("discrete",),
    simulates=True,
    family="planning",
    init=init,
    actor=lambda state: state.net,
    memory=memory,
    act=act,
    update=update,
    observe=count_steps,
    wrong=wrong,
    thought=lambda memory, extras: (extras["policy"], extras["value"]),
)

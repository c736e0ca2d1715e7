"""The AlphaGo pipeline (G10) on connect four, as a program of stages that begin with the weights of those before.

Silver et al. 2016, "Mastering the game of Go with deep neural networks and tree search" (Nature 529), in its order:

- `cloning`: p_sigma learns the moves of an expert, and beside it p_pi, a linear policy for rollouts. There are no games
  of people here: the expert is plain tree search, and a share of its moves is replaced by uniform ones, so that games
  differ;
- `policy_selfplay`: p_rho begins as p_sigma and climbs the policy gradient against older selves;
- `position_value`: v learns who wins between two p_rho, from one position of each game;
- `searching`: a tree in the order of p_sigma, with leaves of (1 - lambda) v + lambda z, where z is from a rollout of
  p_pi.

Of the paper it leaves out: hand-made features, thousands of asynchronous rollouts with a virtual loss, the delay before
a leaf is expanded, and the baseline of the policy gradient's second pass. The tree is mctx's PUCT.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.algorithms import alphazero, mcts
from polyak.envs.environment import rules
from polyak.envs.find import find
from polyak.interface import (
    Algorithm,
    Array,
    Batch,
    Clock,
    OnPolicy,
    Replay,
    Shown,
    Spec,
    Tree,
    Update,
    count_steps,
)
from polyak.lab.matches import Player, match, random_player, ratings, round_robin
from polyak.parts.networks import build
from polyak.parts.optimize import adam, gradient_step
from polyak.parts.schedules import start_clock
from polyak.pytree import Record, pytree
from reproductions.finding import Finding, main, train

GAME = "jax:ConnectFour"
MOVES = 42  # of the longest game


def logits_of(net: Tree, obs: Tree) -> Array:
    """Of a policy's network, [..., A]; those of illegal moves as good as never."""
    return jnp.where(obs["legal"] > 0, net(obs), alphazero.NEVER)


def drawn(key: Array, logits: Array) -> Array:
    """Moves by their probabilities, [...]."""
    return jax.random.categorical(key, logits).astype(jnp.int32)


def outcomes(batch: Batch) -> Array:
    """How each game ended for who moved, z [T, N]; 0 in the padding."""

    def back(after: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        z = row[0] + row[1] * after
        return z, z

    start = jnp.zeros_like(batch.reward[0])
    return jax.lax.scan(back, start, (batch.reward, batch.discount), reverse=True)[1]


def step_of(loss: Any, net: Tree, opt_state: Tree, lr: float) -> tuple[Array, Tree, Tree]:
    """A step of Adam: the loss, the network and the optimiser's state."""
    value, grads = jax.value_and_grad(loss)(net)
    return value, *gradient_step(adam(), grads, opt_state, net, lr)


# ---- 1: supervised learning of a policy


@dataclass(frozen=True)
class CloningConfig:
    """The expert and who learns from it."""

    gamma: float = 1.0  # discount of one move
    lr: float = 1e-3  # Adam's learning rate
    hidden: tuple[int, ...] = (128, 128)  # units of p_sigma
    simulations: int = 64  # of the expert's tree search
    noise: float = 0.2  # share of its moves that are uniform
    data: Replay = field(
        default_factory=lambda: Replay(
            **{"capacity": 50_000, "batch_size": 256, "warmup": 2_048, "steps": 16, "updates": 24},
            **{"uniform": False, "simulator": True, "self_play": True},
        )
    )


@pytree
class Cloning(Record):
    """p_sigma, p_pi and their optimisers."""

    policy: Tree
    rollout: Tree
    opt_policy: Tree
    opt_rollout: Tree
    clock: Clock


def cloning_init(cfg: CloningConfig, spec: Spec, key: Array) -> Cloning:
    """Random networks."""
    key_policy, key_rollout = jax.random.split(key)
    policy = build("mlp")(key_policy, spec.obs, spec.action.n, cfg.hidden)
    rollout = build("mlp")(key_rollout, spec.obs, spec.action.n, ())
    return Cloning(policy, rollout, adam().init(policy), adam().init(rollout), start_clock())


def cloning_act(
    cfg: CloningConfig, spec: Spec, actor: Tree, memory: Tree, obs: Shown, key: Array, explore: bool
) -> tuple:
    """The expert's move, or a uniform one; what it would have played is remembered either way."""
    if not explore:
        best = logits_of(actor, obs.obs).argmax(axis=-1).astype(jnp.int32)
        return best, memory, {"expert": best}
    key_expert, key_noise, key_which = jax.random.split(key, 3)
    expert = plain_tree(spec, cfg.simulations)(obs.state, obs.obs, key_expert)
    other = drawn(key_noise, jnp.where(obs.obs["legal"] > 0, 0.0, alphazero.NEVER))
    action = jnp.where(jax.random.bernoulli(key_which, cfg.noise, expert.shape), other, expert)
    return action, memory, {"expert": expert}


def cloning_update(cfg: CloningConfig, spec: Spec, state: Cloning, batch: Batch, key: Array) -> Update:
    """A step up the gradient of log p(a|s), a the expert's move      Methods, "Supervised learning"."""

    def loss(net: Tree) -> Array:
        log_p = jax.nn.log_softmax(logits_of(net, batch.obs))
        return -jnp.take_along_axis(log_p, batch.extras["expert"][:, None], axis=-1).mean()

    policy_loss, policy, opt_policy = step_of(loss, state.policy, state.opt_policy, cfg.lr)
    rollout_loss, rollout, opt_rollout = step_of(loss, state.rollout, state.opt_rollout, cfg.lr)
    right = (logits_of(policy, batch.obs).argmax(axis=-1) == batch.extras["expert"]).mean()
    metrics = {"policy_loss": policy_loss, "rollout_loss": rollout_loss, "accuracy": right}
    return Update(Cloning(policy, rollout, opt_policy, opt_rollout, state.clock.updated()), metrics)


cloning = Algorithm(
    Config=CloningConfig,
    actions=("discrete",),
    simulates=True,
    init=cloning_init,
    actor=lambda state: state.policy,
    act=cloning_act,
    update=cloning_update,
    observe=count_steps,
)


def plain_tree(spec: Spec, simulations: int) -> Player:
    """MCTS with uniform rollouts."""
    cfg = mcts.Config(simulations=simulations, keep=False, depth=MOVES, rollout=MOVES)

    def play(state: Tree, obs: Tree, key: Array) -> Array:
        count = len(jax.tree.leaves(state)[0])
        empty = mcts.memory(cfg, spec, jnp.arange(count), jnp.zeros(count, jnp.int32), jax.random.key(0))
        return mcts.act(cfg, spec, (), empty, Shown(obs, state), key, True)[0]

    return play


# ---- 2: reinforcement learning of the policy


@dataclass(frozen=True)
class SelfPlayConfig:
    """How the policy climbs."""

    gamma: float = 1.0  # discount of one move
    lr: float = 3e-4  # Adam's learning rate
    hidden: tuple[int, ...] = (128, 128)  # units of p_rho
    pool: int = 8  # older selves that are played against
    period: int = 20  # updates between two that are kept
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=1, self_play=True))


@pytree
class SelfPlay(Record):
    """p_rho, its optimiser, and older selves [K, ...]."""

    policy: Tree
    pool: Tree
    opt_state: Tree
    clock: Clock


def selfplay_init(cfg: SelfPlayConfig, spec: Spec, key: Array) -> SelfPlay:
    """A random policy, which is what all older selves are."""
    policy = build("mlp")(key, spec.obs, spec.action.n, cfg.hidden)
    return SelfPlay(policy, repeated(policy, cfg.pool), adam().init(policy), start_clock())


def repeated(net: Tree, count: int) -> Tree:
    """So many copies in one tree."""
    return jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), net)


def pool_of(state: SelfPlay) -> Tree:
    """The older selves; before the first update all of them are what p_rho begins with."""
    first = state.clock.updates == 0
    return jax.tree.map(lambda every, net: jnp.where(first, net[None], every), state.pool, state.policy)


def selfplay_memory(cfg: SelfPlayConfig, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """Which older self is met in each game, and who begins; no move yet."""
    key_member, key_side = jax.random.split(key)
    count = len(env_ids)
    member = jax.random.randint(key_member, (count,), 0, cfg.pool, jnp.int32)
    side = jax.random.bernoulli(key_side, 0.5, (count,)).astype(jnp.int32)
    return {"member": member, "side": side, "count": jnp.zeros(count, jnp.int32)}


def selfplay_act(
    cfg: SelfPlayConfig, spec: Spec, actor: tuple, memory: Tree, obs: Tree, key: Array, explore: bool
) -> tuple:
    """A move of p_rho, or of the older self whose turn it is."""
    policy, pool = actor
    own = memory["count"] % 2 == memory["side"]
    after = {**memory, "count": memory["count"] + 1}
    logits = logits_of(policy, obs)
    if not explore:
        return logits.argmax(axis=-1).astype(jnp.int32), after, {"own": own}
    every = jax.vmap(lambda net: logits_of(net, obs))(pool)
    other = jnp.take_along_axis(every, memory["member"][None, :, None], axis=0)[0]
    return drawn(key, jnp.where(own[:, None], logits, other)), after, {"own": own}


def selfplay_update(cfg: SelfPlayConfig, spec: Spec, state: SelfPlay, batch: Batch, key: Array) -> Update:
    """A step up the gradient of sum_t log p(a_t|s_t) z_t, mean over games      Methods, "Reinforcement learning"."""
    z, own = outcomes(batch), batch.weight * batch.extras["own"]
    games = batch.reward.shape[1]

    def loss(net: Tree) -> Array:
        log_p = jax.nn.log_softmax(logits_of(net, batch.obs))
        taken = jnp.take_along_axis(log_p, batch.action[..., None], axis=-1)[..., 0]
        return -(own * z * taken).sum() / games

    _, policy, opt_state = step_of(loss, state.policy, state.opt_state, cfg.lr)
    clock = state.clock.updated()
    slot = clock.updates // cfg.period % cfg.pool
    keeps = clock.updates % cfg.period == 0
    older = pool_of(state)
    pool = jax.tree.map(lambda every, net: jnp.where(keeps, every.at[slot].set(net), every), older, policy)
    metrics = {"points": (own * z).sum() / jnp.maximum(own.sum(), 1)}  # per move, 1 where all are won
    return Update(SelfPlay(policy, pool, opt_state, clock), metrics)


policy_selfplay = Algorithm(
    Config=SelfPlayConfig,
    actions=("discrete",),
    simulates=True,
    init=selfplay_init,
    actor=lambda state: (state.policy, pool_of(state)),
    memory=selfplay_memory,
    act=selfplay_act,
    update=selfplay_update,
    observe=count_steps,
)


# ---- 3: reinforcement learning of the value


@dataclass(frozen=True)
class ValueConfig:
    """How positions are drawn and learned from."""

    gamma: float = 1.0  # discount of one move
    lr: float = 1e-3  # Adam's learning rate
    hidden: tuple[int, ...] = (128, 128)  # units of both policies, and of v
    latest: int = 30  # a position has at most so many marks
    data: OnPolicy = field(default_factory=lambda: OnPolicy(episodes=1, self_play=True))


@pytree
class Value(Record):
    """v and its optimiser, and the policies that play."""

    policy: Tree  # p_sigma
    player: Tree  # p_rho
    value: Tree  # v
    opt_state: Tree
    clock: Clock


def value_init(cfg: ValueConfig, spec: Spec, key: Array) -> Value:
    """Random networks."""
    policy, player = (build("mlp")(k, spec.obs, spec.action.n, cfg.hidden) for k in jax.random.split(key))
    value = build("mlp")(jax.random.fold_in(key, 2), spec.obs, 1, cfg.hidden)
    return Value(policy, player, value, adam().init(value), start_clock())


def value_memory(cfg: ValueConfig, spec: Spec, env_ids: Array, episode: Array, key: Array) -> Tree:
    """U of each game, and no move yet."""
    turn = jax.random.randint(key, (len(env_ids),), 0, cfg.latest, jnp.int32)
    return {"turn": turn, "count": jnp.zeros(len(env_ids), jnp.int32)}


def value_act(
    cfg: ValueConfig, spec: Spec, actor: tuple, memory: Tree, obs: Tree, key: Array, explore: bool
) -> tuple:
    """U moves of p_sigma, a uniform one, and p_rho from the chosen position on."""
    policy, player = actor
    turn, count = memory["turn"][:, None], memory["count"][:, None]
    uniform = jnp.where(obs["legal"] > 0, 0.0, alphazero.NEVER)
    late = jnp.where(count == turn, uniform, logits_of(player, obs))
    logits = jnp.where(count < turn, logits_of(policy, obs), late)
    action = drawn(key, logits) if explore else logits_of(player, obs).argmax(axis=-1).astype(jnp.int32)
    chosen = memory["count"] == memory["turn"] + 1
    return action, {**memory, "count": memory["count"] + 1}, {"chosen": chosen}


def value_update(cfg: ValueConfig, spec: Spec, state: Value, batch: Batch, key: Array) -> Update:
    """A step of descent on (z - v(s))^2, one position of each game      Methods, "Value network: regression"."""
    z, chosen = outcomes(batch), batch.weight * batch.extras["chosen"]
    count = jnp.maximum(chosen.sum(), 1)

    def loss(net: Tree) -> Array:
        return (chosen * (z - valued(net, batch.obs)) ** 2).sum() / count

    value_loss, value, opt_state = step_of(loss, state.value, state.opt_state, cfg.lr)
    metrics = {
        "value_loss": value_loss,  # before the step, so of games that it has not seen
        "baseline": (chosen * z**2).sum() / count,  # of a v that is 0
    }
    after = state.replace(value=value, opt_state=opt_state, clock=state.clock.updated())
    return Update(after, metrics)


def valued(net: Tree, obs: Tree) -> Array:
    """v(s), [...]."""
    return jnp.tanh(net(obs)[..., 0])


position_value = Algorithm(
    Config=ValueConfig,
    actions=("discrete",),
    simulates=True,
    init=value_init,
    actor=lambda state: (state.policy, state.player),
    memory=value_memory,
    act=value_act,
    update=value_update,
    observe=count_steps,
)


# ---- 4: the search


@dataclass(frozen=True)
class Networks:
    """What the stages have learned."""

    policy: Tree  # p_sigma
    rollout: Tree  # p_pi
    player: Tree  # p_rho
    value: Tree  # v


def searching(spec: Spec, nets: Networks, lam: float, simulations: int) -> Player:
    """A tree in the order of p_sigma, with leaves of (1 - lambda) v + lambda z      Methods, "Search algorithm"."""
    mctx = alphazero.searcher()

    def rolled_out(state: Tree, obs: Tree, over: Array, key: Array) -> Array:
        """The end z of a game that p_pi plays on both sides, for who is to move."""

        def move(number: Array, carry: tuple) -> tuple:
            state, obs, over, z, sign = carry
            key_move, key_step = jax.random.split(jax.random.fold_in(key, number))
            keys = jax.random.split(key_step, len(over))
            step = jax.vmap(spec.model.step)(state, drawn(key_move, logits_of(nets.rollout, obs)), keys)
            z = z + jnp.where(over, 0.0, sign * step.reward)
            return step.state, step.obs, over | step.terminated, z, -sign

        zero = jnp.zeros(len(over))
        return jax.lax.fori_loop(0, MOVES, move, (state, obs, over, zero, jnp.ones(())))[3]

    def worth(state: Tree, obs: Tree, over: Array, key: Array) -> Array:
        value = (1 - lam) * valued(nets.value, obs) if lam < 1 else 0.0
        return value + (lam * rolled_out(state, obs, over, key) if lam > 0 else 0.0)

    def expand(params: Tree, key: Array, action: Array, state: Tree) -> tuple:
        key_step, key_roll = jax.random.split(jax.random.wrap_key_data(key))
        step = jax.vmap(spec.model.step)(state, action, jax.random.split(key_step, len(action)))
        said = mctx.RecurrentFnOutput(
            reward=step.reward,
            discount=jnp.where(step.terminated, 0.0, -1.0),
            prior_logits=logits_of(nets.policy, step.obs),
            value=worth(step.state, step.obs, step.terminated, key_roll),
        )
        return said, step.state

    def play(state: Tree, obs: Tree, key: Array) -> Array:
        key_root, key_search = jax.random.split(key)
        over = jnp.zeros(len(obs["legal"]), bool)
        root = mctx.RootFnOutput(
            prior_logits=logits_of(nets.policy, obs), value=worth(state, obs, over, key_root), embedding=state
        )
        found = mctx.muzero_policy(
            params=(),
            rng_key=jax.random.key_data(key_search),
            root=root,
            recurrent_fn=expand,
            num_simulations=simulations,
            invalid_actions=obs["legal"] == 0,
            dirichlet_fraction=0.0,
        )
        return found.action_weights.argmax(axis=-1).astype(jnp.int32)

    return play


def sampled(net: Tree) -> Player:
    """Moves by a policy's probabilities."""
    return lambda state, obs, key: drawn(key, logits_of(net, obs))


# ---- the program


def stages(sizes: dict[str, int]) -> tuple[Networks, dict[str, polyak.Run]]:
    """Train one stage after the other; each begins with the weights that it is named for."""
    where = "reproductions.alphago"
    limit = {"env_fields": {"time_limit": MOVES}}
    first = train(f"{where}:cloning", GAME, steps=sizes["cloning"], num_envs=64, name="cloning")
    second = train(
        f"{where}:policy_selfplay",
        GAME,
        steps=sizes["policy_selfplay"],
        num_envs=64,
        name="policy_selfplay",
        init=(f"{first.path}:policy=policy",),
        **limit,
    )
    third = train(
        f"{where}:position_value",
        GAME,
        steps=sizes["position_value"],
        num_envs=128,
        name="position_value",
        init=(f"{first.path}:policy=policy", f"{second.path}:policy=player"),
        **limit,
    )
    runs = {"cloning": first, "policy_selfplay": second, "position_value": third}
    one, two, three = (run.state() for run in runs.values())
    learned = one.policy, one.rollout, two.policy, three.value
    return Networks(*jax.tree.map(lambda x: x[0], learned)), runs  # of the only seed


def pipeline(sizes: dict[str, int], simulations: int, pairs: int) -> Finding:
    """Each stage against the one before, and the paper's table: policy alone, with values, with rollouts, with both."""
    env = find(GAME)
    spec = dataclasses.replace(env.spec, model=rules(env))
    nets, runs = stages(sizes)
    full = searching(spec, nets, 0.5, simulations)
    players = {
        "policy": sampled(nets.policy),
        "+ value": searching(spec, nets, 0.0, simulations),
        "+ rollout": searching(spec, nets, 1.0, simulations),
        "+ both": full,
    }
    steps = {
        "cloning against uniform moves": match(env, sampled(nets.policy), random_player, 4 * pairs),
        "policy gradient against cloning": match(env, sampled(nets.player), sampled(nets.policy), 8 * pairs),
        "search against policy gradient": match(env, full, sampled(nets.player), pairs),
    }
    lines = [line for line in runs["position_value"].metrics if "update/value_loss" in line]
    share = np.mean([line["update/value_loss"] / line["update/baseline"] for line in lines[-3:]])
    scores = round_robin(env, players, pairs, opening=4)
    rated = ratings(scores)
    for (one, other), score in scores.items():
        print(f"  {one} against {other}: {score}", flush=True)
    claims = {
        f"{name}: more than 55 % ({score})": score.mean - score.half > 0.55 for name, score in steps.items()
    }
    claims[f"v explains positions of games that it has not seen (error {share:.0%} of a v of 0)"] = bool(
        share < 0.95
    )
    claims["each part makes the search stronger than the policy alone"] = bool(rated.elo[1:].min() > 0)
    said = "; ".join(f"{name} {score}" for name, score in steps.items())
    table = ", ".join(f"{name} {elo:.0f}" for name, elo in zip(rated.names, rated.elo, strict=True))
    return Finding(
        claims, f"{said}; error of v {share:.0%} of a v of 0; Elo with {simulations} simulations: {table}"
    )


def short() -> Finding:
    """Stages of half a minute."""
    sizes = {"cloning": 12_288, "policy_selfplay": 400_000, "position_value": 800_000}
    return pipeline(sizes, 32, 20)


def long() -> Finding:
    """Stages of ten minutes and more."""
    sizes = {"cloning": 200_000, "policy_selfplay": 8_000_000, "position_value": 16_000_000}
    return pipeline(sizes, 128, 100)


if __name__ == "__main__":
    main({"G10": short}, long={"G10": long})

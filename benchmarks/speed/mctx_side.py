"""AlphaZero as one writes it with mctx and pgx alone: the rival of polyak's own, with the same settings.

As in pgx's own example: a rollout of self-play with Gumbel's search, auto-reset, values from how the games that ended
in it ended, and one pass over its positions in mini-batches with Adam. The network is polyak's: a perceptron, whose
last layer says policy and value.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
import optax
import pgx
from measure import BEGIN, END, announce
from pgx.experimental import auto_reset
from workloads import Workload


class Row(NamedTuple):
    """What a move leaves to learn from, [T, N, ...]."""

    obs: Any
    legal: Any
    policy: Any
    reward: Any  # of who moved
    discount: Any  # -1, and 0 where the game ended


def perceptron(key: Any, sizes: list[int]) -> list[tuple[Any, Any]]:
    """Weights and biases of layers between these sizes."""
    layers = []
    for each, fan_in, fan_out in zip(jax.random.split(key, len(sizes) - 1), sizes, sizes[1:], strict=False):
        bound = 1 / jnp.sqrt(fan_in)
        layers.append(
            (jax.random.uniform(each, (fan_in, fan_out), minval=-bound, maxval=bound), jnp.zeros(fan_out))
        )
    return layers


def predict(layers: Any, obs: Any, legal: Any) -> tuple[Any, Any]:
    """Logits [B, A] of legal moves, and values [B] of who is to move."""
    x = jnp.concatenate([obs.reshape(len(obs), -1).astype(jnp.float32), legal.astype(jnp.float32)], axis=1)
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    out = x @ layers[-1][0] + layers[-1][1]
    return jnp.where(legal, out[:, :-1], jnp.finfo(out.dtype).min), jnp.tanh(out[:, -1])


def measure(workload: Workload) -> dict[str, Any]:
    """Seconds to compile, and positions of self-play in what is timed."""
    c, data, count = workload.config, workload.config["data"], workload.num_envs
    env = pgx.make(workload.env.partition(":")[2])  # pyright: ignore[reportArgumentType]
    init, step = jax.vmap(env.init), jax.vmap(env.step)
    step_and_reset = jax.vmap(auto_reset(env.step, env.init))
    adam, batches = optax.adam(c["lr"]), data["updates"]

    def expand(layers: Any, key: Any, action: Any, state: Any) -> tuple[Any, Any]:
        mover = state.current_player
        state = step(state, action)
        logits, value = predict(layers, state.observation, state.legal_action_mask)
        reward = state.rewards[jnp.arange(count), mover]
        discount = jnp.where(state.terminated, 0.0, -1.0)
        value = jnp.where(state.terminated, 0.0, value)
        said = {"reward": reward, "discount": discount, "prior_logits": logits, "value": value}
        return mctx.RecurrentFnOutput(**said), state  # pyright: ignore

    def move(carry: tuple, key: Any) -> tuple[tuple, Row]:
        layers, state = carry
        key_search, key_reset = jax.random.split(key)
        obs, legal = state.observation, state.legal_action_mask
        logits, value = predict(layers, obs, legal)
        root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=state)  # pyright: ignore
        found = mctx.gumbel_muzero_policy(
            *(layers, key_search, root, expand, c["simulations"], ~legal),
            max_num_considered_actions=c["considered"],
        )
        mover = state.current_player
        state = step_and_reset(state, found.action, jax.random.split(key_reset, count))
        reward = state.rewards[jnp.arange(count), mover]
        discount = jnp.where(state.terminated, 0.0, -1.0)
        return (layers, state), Row(obs, legal, found.action_weights, reward, discount)

    def outcome(later: tuple, row: tuple) -> tuple[tuple, tuple]:
        """How a game ended, and whether that is known, from the last move to the first."""
        value, known = later
        reward, discount = row
        known = known | (discount == 0)
        value = reward + discount * value
        return (value, known), (value, known)

    def loss(layers: Any, obs: Any, legal: Any, policy: Any, value: Any, known: Any) -> Any:
        logits, guess = predict(layers, obs, legal)
        cross = optax.softmax_cross_entropy(logits, policy).mean()
        decay = sum((x**2).sum() for x in jax.tree.leaves(layers))
        return cross + (known * (guess - value) ** 2).mean() + c["weight_decay"] * decay

    def learn(carry: tuple, batch: tuple) -> tuple[tuple, Any]:
        layers, moments = carry
        value, grads = jax.value_and_grad(loss)(layers, *batch)
        change, moments = adam.update(grads, moments)
        return (optax.apply_updates(layers, change), moments), value

    def iteration(layers: Any, moments: Any, state: Any, key: Any) -> tuple:
        key_play, key_order = jax.random.split(key)
        (_, state), rows = jax.lax.scan(move, (layers, state), jax.random.split(key_play, data["steps"]))
        ends = jnp.zeros(count), jnp.zeros(count, bool)
        _, (value, known) = jax.lax.scan(outcome, ends, (rows.reward, rows.discount), reverse=True)
        order = jax.random.permutation(key_order, data["steps"] * count)

        def in_batches(x: Any) -> Any:
            flat = x.reshape(-1, *x.shape[2:])[order]
            return flat.reshape(batches, -1, *flat.shape[1:])

        given = jax.tree.map(in_batches, (rows.obs, rows.legal, rows.policy, value, known))
        (layers, moments), losses = jax.lax.scan(learn, (layers, moments), given)
        return layers, moments, state, losses.mean()

    state = init(jax.random.split(jax.random.PRNGKey(0), count))
    planes = int(state.observation[0].size) + env.num_actions
    layers = perceptron(jax.random.PRNGKey(1), [planes, *c["hidden"], env.num_actions + 1])
    moments = adam.init(layers)  # pyright: ignore[reportArgumentType]
    key = jax.random.PRNGKey(2)
    began = time.perf_counter()
    run = jax.jit(iteration, donate_argnums=(0, 1, 2)).lower(layers, moments, state, key).compile()
    compiled = time.perf_counter() - began
    per = data["steps"] * count
    first, last = -(-workload.begin // per), -(-workload.end // per)
    for number in range(last):
        if number == first:
            jax.block_until_ready(layers)
            announce(BEGIN)
        layers, moments, state, _ = run(layers, moments, state, jax.random.fold_in(key, number))
    jax.block_until_ready(layers)
    announce(END)
    return {"steps": (last - first) * per, "compile_s": compiled}

"""Pendulum without and with an actor: NAF (C13), QT-Opt (C14), SDQN (C16), DDPG (D3), SVG(0) (D2) and SAC (F7).

Each trains ten seeds for 20,000 steps of polyak's own Pendulum, whose dynamics are Gymnasium's, and plays 100 episodes
without exploration with each. The best published interquartile means lie between -150 and -160.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import trim_mean

import polyak
from polyak import algorithms
from polyak.algorithms import find
from polyak.interface import Batch, Box, Replay, Spec
from reproductions.finding import Finding, main, train

SEEDS, STEPS, EPISODES, BAR = 10, 20_000, 100, -160.0


def solved(algorithm: str, **config: Any) -> tuple[polyak.Run, dict[str, bool], str]:
    """Train with the tuned settings; whether the interquartile mean of the seeds reaches the bar."""
    run = train(algorithm, "jax:Pendulum-v1", steps=STEPS, seeds=SEEDS, config=config)
    means = run.evaluate(EPISODES).returns.mean(axis=1)
    iqm = trim_mean(means, 0.25)
    claim = f"interquartile mean of {SEEDS} seeds is at least {BAR:g} (found {iqm:.1f})"
    worst, best = means.min(), means.max()
    said = f"IQM {iqm:.1f} (seeds from {worst:.1f} to {best:.1f}) over {SEEDS} seeds after {STEPS:,} steps"
    return run, {claim: iqm >= BAR}, said


def just_solved(algorithm: str, **config: Any) -> Finding:
    """Only that."""
    _, claims, figure = solved(algorithm, **config)
    return Finding(claims, figure)


def naf() -> Finding:
    """NAF's argmax is mu(s) in closed form: no action of a dense grid has a larger value."""
    run, claims, figure = solved("naf")
    q = jax.tree.map(lambda x: x[0], run.state().q)
    module = module_of("naf")
    obs = observations()
    value, mu, _ = module.heads(q, 1, obs)
    grid = jnp.linspace(-1, 1, 2001)[:, None, None]
    values = module.action_value(q, obs, jnp.broadcast_to(grid, (2001, len(obs), 1)))
    above = float((values.max(axis=0) - value).max())
    gap = float(jnp.abs(module.action_value(q, obs, mu) - value).max())
    claims["Q(s, mu(s)) = V(s) to 1e-5"] = gap < 1e-5
    claims[f"no action of a grid of 2,001 is better than mu(s) (found {above:.1e} more)"] = above < 1e-5
    return Finding(claims, f"{figure}; a grid finds {above:.1e} more than mu(s)")


def sdqn() -> Finding:
    """SDQN's choice of one dimension after another is the joint one, once it has learned a known table."""
    _, claims, figure = solved("sdqn")
    share = sequential_is_joint()
    claims[f"the sequential argmax is the joint one in more than 99 % of states (found {share:.1%})"] = (
        share > 0.99
    )
    return Finding(claims, f"{figure}; sequential argmax is the joint one in {share:.1%} of states")


def sequential_is_joint(states: int = 50, bins: int = 8, steps: int = 40_000) -> float:
    """Share of one-hot states of a bandit with two-dimensional actions whose best bins SDQN finds.

    Reward is a smooth random table over the bins, and every episode ends at once.
    """
    module, random = module_of("sdqn"), np.random.default_rng(0)
    spec = Spec(Box((states,)), Box((2,), -1.0, 1.0))
    cfg = module.Config(bins=bins, hidden=(128, 128), tau=0.02, horizon=1, data=Replay(batch_size=256))
    waves = random.normal(size=(states, 3, 2))
    axis = np.linspace(-1, 1, bins)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    table = sum(
        np.sin(2 * waves[:, k, :1, None] * first + 2 * waves[:, k, 1:, None] * second + k) for k in range(3)
    )
    table = jnp.asarray(table, jnp.float32)
    state = jax.jit(partial(module.init, cfg, spec))(jax.random.key(0))

    def step(state: Any, key: jax.Array, lr: float) -> tuple[Any, None]:
        key_state, key_bins = jax.random.split(key)
        where = jax.random.randint(key_state, (256,), 0, states)
        index = jax.random.randint(key_bins, (256, 2), 0, bins)
        obs, action = jax.nn.one_hot(where, states), module.level(cfg, index)
        reward, ended = table[where, index[:, 0], index[:, 1]], jnp.ones(256, bool)
        zero = jnp.zeros(256)
        batch = Batch(obs, action, reward, obs, ended, ~ended, (), discount=zero, weight=zero + 1)
        return module.update(dataclasses.replace(cfg, lr=lr), spec, state, batch, key).state, None

    for number, lr in enumerate((2e-3, 5e-4, 1e-4, 2e-5)):  # until it has converged
        keys = jax.random.split(jax.random.key(number), steps)
        state, _ = jax.jit(lambda state, keys, lr=lr: jax.lax.scan(partial(step, lr=lr), state, keys))(
            state, keys
        )
    obs = jnp.eye(states)
    action = module.act(cfg, spec, module.actor(state), (), obs, jax.random.key(0), False)[0]
    chosen = np.asarray(module.nearest_bin(cfg, action))
    best = np.asarray(table).reshape(states, -1).argmax(axis=1)
    return float((chosen[:, 0] * bins + chosen[:, 1] == best).mean())


def svg() -> Finding:
    """SVG(0) with a critic by TD(lambda); without noise its gradient is the deterministic policy gradient."""
    _, claims, figure = solved("svg", critic="lambda", **{"data.length": 8, "data.batch_size": 32})
    error = without_noise()
    claims[f"with sigma towards 0 its gradient is DPG's (relative difference {error:.1e})"] = error < 1e-3
    return Finding(claims, f"TD(lambda): {figure}; gradient without noise within {error:.1e} of DPG's")


def without_noise(log_sigma: float = -12.0) -> float:
    """Relative difference between the pathwise gradient in mu and E[grad_a Q(s, a) grad mu(s)], a = mu(s)."""
    module, spec = module_of("svg"), Spec(Box((3,)), Box((2,), -1.0, 1.0))
    state = module.init(module.Config(hidden=(16,)), spec, jax.random.key(0))
    last = state.policy.net.layers[-1]
    bias = last.bias.at[2:].set(log_sigma)
    weight = last.weight.at[:, 2:].set(0.0)
    net = state.policy.net.replace(
        layers=(*state.policy.net.layers[:-1], last.replace(weight=weight, bias=bias))
    )
    policy, obs = state.policy.replace(net=net), jax.random.normal(jax.random.key(1), (64, 3))

    def value(action: jax.Array) -> jax.Array:
        return state.critic((obs, action))[..., 0].mean()

    def pathwise(policy: Any) -> jax.Array:
        return value(policy(obs).sample(jax.random.key(2)))

    # the chain rule by hand: grad_a Q at mu(s), pulled back through mu
    mu, pull = jax.vjp(lambda policy: policy(obs).mode(), policy)
    (wanted,) = pull(jax.grad(value)(mu))
    found = jax.grad(pathwise)(policy)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (found, wanted)]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))


def observations(count: int = 200) -> jax.Array:
    """Observations (cos, sin, speed) of Pendulum, spread over all that it can give."""
    angle, speed = jax.random.uniform(jax.random.key(0), (2, count), minval=-1.0)
    return jnp.stack([jnp.cos(np.pi * angle), jnp.sin(np.pi * angle), 8 * speed], axis=-1)


def module_of(name: str) -> Any:
    """The module of an algorithm."""
    import importlib

    return importlib.import_module(find(name).Config.__module__)


if __name__ == "__main__":
    assert set(algorithms.names()) >= {"naf", "sdqn", "svg"}
    main(
        {
            "C13": naf,
            "C16": sdqn,
            "D2": svg,
            "D3": partial(just_solved, "ddpg"),
            "F7": partial(just_solved, "sac"),
        }
    )

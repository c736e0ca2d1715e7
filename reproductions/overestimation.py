"""TD3's three tricks: each has a switch, and together they take the overestimation away (D11).

As in figure 1 of the paper (Fujimoto et al. 2018), the critic's estimate Q(s, mu(s)) stands beside the true value:
the discounted return of the policy from the same states. With all three off TD3 is the paper's "our DDPG".
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import polyak
from polyak import algorithms
from polyak.envs.environment import to_bounds
from polyak.envs.find import find
from polyak.interface import Batch, Box, Spec, Update
from reproductions.finding import Finding, main, train

SEEDS, EPISODES, LENGTH, HORIZON = 3, 8, 100, 600
OFF = {"twin": False, "delay": 1, "smoothing": 0.0}
PENDULUM = find("jax:Pendulum-v1")
td3 = algorithms.find("td3")


def tricks(budgets: tuple[int, ...] = (10_000,), picture: str = "") -> Finding:
    """The switches one by one; then the bias of both variants, once TD3's policy has been learned."""
    claims = switches()
    found = {name: np.array([values(name, steps) for steps in budgets]) for name in ("TD3", "DDPG")}
    bias = {name: value[..., 0] - value[..., 1] for name, value in found.items()}  # [budgets, S]
    for number, steps in enumerate(budgets):
        td3_bias, ddpg_bias = bias["TD3"][number], bias["DDPG"][number]
        claims[f"after {steps:,} steps every seed of DDPG overestimates"] = bool((ddpg_bias > 0).all())
        claims[f"after {steps:,} steps every seed of TD3 does so less"] = bool(
            td3_bias.max() < ddpg_bias.min()
        )
    if picture:
        draw(budgets, found, picture)
    last = {name: f"{name} {value[-1].mean():+.1f}" for name, value in bias.items()}
    return Finding(
        claims,
        f"mean Q minus the true discounted return: {last['TD3']}, {last['DDPG']} after {budgets[-1]:,} steps of "
        f"Pendulum ({SEEDS} seeds, {EPISODES * LENGTH} states each)",
    )


def draw(budgets: tuple[int, ...], found: dict[str, np.ndarray], path: str) -> None:
    """Estimated and true values over environment steps, means over the seeds."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for color, (name, value) in enumerate(found.items()):
        for kind, style in enumerate(("-", "--")):
            label = f"{name}, {('estimate', 'true value')[kind]}"
            axes.plot(budgets, value[..., kind].mean(axis=1), style, color=f"C{color}", label=label)
    axes.set(
        xlabel="environment steps", ylabel="value", title="Q(s, mu(s)) beside the discounted return: Pendulum"
    )
    axes.legend()
    figure.savefig(path, dpi=150)
    print(path)


# ---- the bias


def values(name: str, steps: int) -> np.ndarray:
    """The estimated and the true value, averaged over states that the policy visits, for each seed [S, 2]."""
    run = train("td3", "jax:Pendulum-v1", steps=steps, seeds=SEEDS, config=OFF if name == "DDPG" else {})
    pairs = np.array([estimate_and_truth(run, seed) for seed in range(SEEDS)])
    for seed, (estimate, truth) in enumerate(pairs):
        print(f"  {name}, {steps:,} steps, seed {seed}: Q {estimate:.1f}, true {truth:.1f}")
    return pairs


def estimate_and_truth(run: polyak.Run, seed: int) -> tuple[float, float]:
    """The mean of Q_1(s, mu(s)) and of the policy's discounted return, over the same states."""
    policy = run.policy(seed)
    critics = jax.tree.map(lambda x: x[seed], run.state().critics)

    def act(obs: Any, key: Any, explore: bool) -> Any:
        return td3.act(policy.cfg, policy.spec, policy.actor, (), obs, key, explore)[0]

    def step(now: tuple, key: jax.Array, explore: bool) -> tuple[tuple, tuple]:
        key_act, key_env = jax.random.split(key)
        action = to_bounds(policy.spec.action, act(now[1], key_act, explore))
        stepped = jax.vmap(PENDULUM.step)(now[0], action, jax.random.split(key_env, len(now[1])))
        return (stepped.state, stepped.obs), (now, stepped.reward)

    @jax.jit
    def measure(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_reset, key_before, key_after = jax.random.split(key, 3)
        # all states of some episodes with exploration ...
        start = jax.vmap(PENDULUM.reset)(jax.random.split(key_reset, EPISODES))
        keys = jax.random.split(key_before, LENGTH)
        _, (states, _) = jax.lax.scan(partial(step, explore=True), start, keys)
        env, obs = jax.tree.map(lambda x: x.reshape(LENGTH * EPISODES, *x.shape[2:]), states)
        # ... and from each of them what the policy gets without
        keys = jax.random.split(key_after, HORIZON)
        reward = jax.lax.scan(partial(step, explore=False), (env, obs), keys)[1][1]
        truth = (policy.cfg.gamma ** jnp.arange(HORIZON)[:, None] * reward).sum(axis=0)
        q = critics.first((obs, act(obs, key_after, False)))[..., 0]
        return q.mean(), truth.mean()

    q, truth = measure(jax.random.key(1_000 + seed))
    return float(q), float(truth)


# ---- the switches


def switches() -> dict[str, bool]:
    """What each of them changes in single updates on a batch of noise, and what it leaves alone."""
    claims = {}
    for twin in (True, False):
        critics = updated(1, twin=twin)[0].state.critics
        count = {leaf.shape[0] for leaf in jax.tree.leaves(critics)}
        claims[f"twin = {twin}: {1 + twin} critic{'s' if twin else ''}"] = count == {1 + twin}
    for delay in (1, 2, 3):
        actors = [flat(td3.actor(update.state)) for update in updated(7, delay=delay)]
        moved = [number for number in range(2, 8) if (actors[number - 1] != actors[number - 2]).any()]
        wanted = [number for number in range(2, 8) if number % delay == 0]
        claims[f"delay = {delay}: of updates 2 to 7 the actor moves at {wanted}"] = moved == wanted
    for smoothing in (0.0, 0.2):
        first, second = (updated(1, noise, smoothing=smoothing)[0].metrics["target"] for noise in (1, 2))
        word = "is" if smoothing else "is not"
        claims[f"smoothing = {smoothing}: the target {word} random"] = bool(first != second) == (
            smoothing > 0
        )
    one, two = (updated(1, twin=twin, smoothing=0.0)[0].metrics["target"] for twin in (False, True))
    claims["twin takes the smaller target: below that of one critic"] = bool(two < one)
    return claims


def updated(count: int, noise: int = 0, **settings: Any) -> list[Update]:
    """The first `count` updates of a fresh state; `noise` chooses their random numbers."""
    cfg, spec = td3.Config(hidden=(16,), **settings), Spec(Box((3,)), Box((2,), -1.0, 1.0))
    state, updates = td3.init(cfg, spec, jax.random.key(0)), []
    update = jax.jit(partial(td3.update, cfg, spec))
    for number in range(count):
        updates.append(update(state, random_batch(number), jax.random.key(100 * noise + number)))
        state = updates[-1].state
    return updates


def flat(network: Any) -> np.ndarray:
    """All of its weights."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(network)])


def random_batch(seed: int, size: int = 256) -> Batch:
    """A mini-batch of noise."""
    random = np.random.default_rng(seed)
    number = lambda *shape: jnp.asarray(random.normal(size=(size, *shape)), jnp.float32)  # noqa: E731
    never, ones = jnp.zeros(size, bool), jnp.ones(size)
    return Batch(number(3), jnp.tanh(number(2)), number(), number(3), never, never, (), 0.99 * ones, ones)


if __name__ == "__main__":
    published = partial(tricks, (10_000, 15_000, 20_000, 30_000), "runs/overestimation.png")
    main({"D11": tricks}, long={"D11": published})

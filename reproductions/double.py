"""Double DQN beside DQN: the estimate max_a Q(s, a) minus what the greedy policy then gets (C8).

As in figure 3 of van Hasselt, Guez & Silver 2016 (arXiv:1509.06461), both learn the same task with the same settings,
and the estimate stands beside the discounted return of the greedy policy from the same states.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polyak
from polyak.envs.find import find
from reproductions.finding import Finding, main, train

SEEDS, STEPS, STARTS, LENGTH, HORIZON, GAMMA = 10, 40_000, 16, 100, 600, 0.99
WORLD = find("jax:CartPole-v1")  # where no return is above 1 / (1 - gamma) = 100
SETTINGS = {
    **{"gamma": GAMMA, "lr": 3e-4, "hidden": (64, 64), "tau": 1.0, "period": 50, "huber": 0.0},
    **{"epsilon_end": 0.1, "epsilon_fraction": 0.2, "data.batch_size": 64, "data.warmup": 1_000},
    **{"data.steps": 2, "data.capacity": 50_000, "data.clip": None},
}


def bias() -> Finding:
    """Train ten seeds of each, others than the settings were found with; measure both where their own policy goes."""
    found = {name: measured(name) for name in ("dqn", "double_dqn")}
    over = {name: pairs[:, 0] - pairs[:, 1] for name, pairs in found.items()}
    dqn, double = over["dqn"], over["double_dqn"]
    claims = {
        f"DQN overestimates, on average over its seeds (by {dqn.mean():.2f})": bool(dqn.mean() > 0),
        f"double DQN does so less, on average (by {double.mean():.2f})": bool(double.mean() < dqn.mean()),
        "and in most seeds, pair by pair": int((double < dqn).sum()) > SEEDS // 2,
    }
    return Finding(
        claims,
        f"max Q minus the greedy policy's discounted return: DQN {dqn.mean():+.2f}, double DQN {double.mean():+.2f}, "
        f"lower in {int((double < dqn).sum())} of {SEEDS} seeds after {STEPS:,} steps of CartPole",
    )


def measured(name: str) -> np.ndarray:
    """The mean estimate and the mean return of each seed, [S, 2]."""
    run = train(name, "jax:CartPole-v1", steps=STEPS, seed=10, seeds=SEEDS, config=SETTINGS, preset=False)
    pairs = np.array([estimate_and_truth(run, seed) for seed in range(SEEDS)])
    for seed, (estimate, truth) in enumerate(pairs):
        print(f"  {name}, seed {seed}: max Q {estimate:.2f}, return {truth:.2f}")
    return pairs


def estimate_and_truth(run: polyak.Run, seed: int) -> tuple[float, float]:
    """The mean of max_a Q(s, a) and of the greedy policy's discounted return, over the same states."""
    q = jax.tree.map(lambda x: x[seed], run.state().q)

    def step(now: tuple, keys: tuple[jax.Array, Any]) -> tuple[tuple, tuple]:
        (key, epsilon), (state, obs, alive) = keys, now
        key_whether, key_which, key_env = jax.random.split(key, 3)
        anything = jax.random.randint(key_which, alive.shape, 0, WORLD.spec.action.n)
        explore = jax.random.uniform(key_whether, alive.shape) < epsilon
        action = jnp.where(explore, anything, q(obs).argmax(axis=-1)).astype(jnp.int32)
        stepped = jax.vmap(WORLD.step)(state, action, jax.random.split(key_env, len(alive)))
        after = stepped.state, stepped.obs, alive & ~stepped.terminated
        return after, (now, jnp.where(alive, stepped.reward, 0.0))

    @jax.jit
    def measure(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_reset, key_before, key_after = jax.random.split(key, 3)
        # all states of some episodes with a little exploration ...
        start = jax.vmap(WORLD.reset)(jax.random.split(key_reset, STARTS))
        keys = jax.random.split(key_before, LENGTH), jnp.full(LENGTH, 0.1)
        seen = jax.lax.scan(step, (*start, jnp.ones(STARTS, bool)), keys)[1][0]
        state, obs, alive = jax.tree.map(lambda x: x.reshape(LENGTH * STARTS, *x.shape[2:]), seen)
        # ... and from each of them what the greedy policy gets, to the end of the world
        keys = jax.random.split(key_after, HORIZON), jnp.zeros(HORIZON)
        reward = jax.lax.scan(step, (state, obs, alive), keys)[1][1]
        truth = (GAMMA ** jnp.arange(HORIZON)[:, None] * reward).sum(axis=0)
        count = alive.sum()
        return (alive * q(obs).max(axis=-1)).sum() / count, (alive * truth).sum() / count

    estimate, truth = measure(jax.random.key(1_000 + seed))
    return float(estimate), float(truth)


if __name__ == "__main__":
    main({"C8": bias})

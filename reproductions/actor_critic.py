"""Actor-critic by Monte Carlo and by temporal differences: bias and variance of the targets, and CartPole (F2)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.algorithms import actor_critic
from polyak.drivers.learn import on_policy_batch
from polyak.interface import Discrete, OnPolicy, Spec, Transition, played
from reproductions.finding import Finding, main, train

SEEDS, EPISODES, SOLVED = 5, 100, 475.0
CELLS, WALKS, LIMIT = 5, 4_000, 400  # the random walk of Sutton & Barto 2018, example 6.2
TRUE = np.arange(1, CELLS + 1) / (CELLS + 1)  # V of each cell under the uniform policy


def critics(env: str, steps: int) -> Finding:
    """The targets of both critics where V is known; then five seeds of each on CartPole."""
    claims, shown = {}, []
    bias, variance, fewest = {}, {}, WALKS
    for critic in ("mc", "td"):
        errors = errors_of_targets(critic)
        bias[critic] = np.abs(np.nanmean(errors, axis=0)).max()
        variance[critic] = np.nanvar(errors, axis=0).mean()
        fewest = int((~np.isnan(errors)).sum(axis=0).min())
        print(
            f"  {critic}: largest |bias| {bias[critic]:.4f}, mean variance {variance[critic]:.4f} of the targets"
        )
    claims["the Monte-Carlo targets have no bias (within four standard errors)"] = bool(
        bias["mc"] < 4 * np.sqrt(variance["mc"] / fewest)
    )
    claims["the TD targets of a wrong V have one"] = bool(bias["td"] > 0.1)
    claims["but less than a quarter of the variance"] = bool(variance["td"] < variance["mc"] / 4)
    for critic in ("mc", "td"):
        run = train("actor_critic", env, steps=steps, seeds=SEEDS, config={"critic": critic})
        means = run.evaluate(EPISODES).returns.mean(axis=1)
        reached = int((means >= SOLVED).sum())
        claims[
            f"{critic}: at least 4 of {SEEDS} seeds return {SOLVED:g} or more on CartPole (found {reached})"
        ] = reached >= 4
        shown.append(
            f"{critic} bias {bias[critic]:.3f}, variance {variance[critic]:.3f}, CartPole {means.mean():.0f} "
            f"({', '.join(f'{mean:.0f}' for mean in np.sort(means))})"
        )
    return Finding(claims, "; ".join(shown) + f" after at most {steps:,} steps")


def errors_of_targets(critic: Any) -> np.ndarray:
    """Of the target of each cell's first visit in each walk, what it is more than the true value, [walks, cells].

    NaN where a walk did not come there. The critic's V is 1/2 everywhere, as in the example.
    """
    cfg = actor_critic.Config(gamma=1.0, critic=critic, network="linear", data=OnPolicy(episodes=1))
    spec = Spec(Discrete(CELLS), Discrete(2), LIMIT, num_envs=WALKS)
    state: Any = actor_critic.init(cfg, spec, jax.random.key(0))
    half = state.critic.replace(weight=jnp.full_like(state.critic.weight, 0.5))
    rows = walks(np.random.default_rng(0))
    batch = on_policy_batch(rows, cfg.gamma, None, played(cfg.data, rows.last))
    target = np.asarray(actor_critic.targets(cfg, half, batch), float)
    errors = np.full((WALKS, CELLS), np.nan)
    for cell in range(CELLS):
        here = (rows.obs == cell) & (np.asarray(batch.weight) > 0)
        walk = np.flatnonzero(here.any(axis=0))
        errors[walk, cell] = target[here.argmax(axis=0)[walk], walk] - TRUE[cell]
    return errors


def walks(random: np.random.Generator) -> Transition:
    """Random walks [T, walks] from the middle cell; 1 for leaving to the right."""
    action = random.integers(2, size=(LIMIT, WALKS)).astype(np.int32)
    place, alive = np.full(WALKS, CELLS // 2), np.ones(WALKS, bool)
    obs, after, reward, ended = (np.zeros((LIMIT, WALKS), kind) for kind in (int, int, np.float32, bool))
    for t in range(LIMIT):
        obs[t] = place
        place = place + 2 * action[t] - 1
        out = alive & ((place < 0) | (place >= CELLS))
        reward[t], ended[t] = out & (place >= CELLS), out
        place = np.clip(place, 0, CELLS - 1)
        after[t], alive = place, alive & ~out
    assert not alive.any()
    never = np.zeros_like(ended)
    return Transition(obs.astype(np.int32), action, reward, after.astype(np.int32), ended, never)


if __name__ == "__main__":
    main(
        {"F2": lambda: critics("jax:CartPole-v1", 500_000)},
        long={"F2": lambda: critics("CartPole-v1", 500_000)},
    )

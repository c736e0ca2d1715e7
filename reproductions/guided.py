"""Guided policy search on a two-link arm (G18): sixteen local controllers, whose models are fitted, teach one network.

The network is played from twenty starts that training never saw, beside iterative LQR, which knows the arm and plans
anew from each of them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.worlds.arm import Arm
from polyak.lab.ilqr import ILQR
from reproductions.finding import Finding, main, train

HELD_OUT, ENVS, UPDATES, STARTS = 20, 10, 25, 16


def guided(seeds: int = 3) -> Finding:
    """The network's cost beside iterative LQR's, and the divergence from its teachers."""
    env, key = Arm(), jax.random.key(0)
    horizon = env.spec.time_limit or 0
    solver = ILQR(lambda x, u: env.step(x, u, key).state, lambda x, u: -env.step(x, u, key).reward)
    keys = jax.random.split(jax.random.key(2**31 - 1), HELD_OUT)
    starts = np.asarray(jax.vmap(lambda key: env.reset(key)[1])(keys))
    plans = [solver.solve(start, np.zeros((horizon, 2), np.float32)) for start in starts]
    best = np.array([plan.cost for plan in plans])
    claims = {f"iterative LQR converged from all {HELD_OUT} starts": all(plan.converged for plan in plans)}
    rollout = ENVS * horizon * STARTS
    run = train(
        "guided_policy_search",
        "jax:Arm",
        steps=UPDATES * rollout,
        seeds=seeds,
        num_envs=ENVS,
        config={"data.episodes": STARTS, "data.common": STARTS},
        eval_every=rollout,
    )

    @jax.jit
    def cost(net: object, start: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            after = env.step(x, net(x), key)
            return after.state, -after.reward

        return jax.lax.scan(step, start, None, horizon)[1].sum()

    ratios, falls = [], []
    for seed in range(seeds):
        net = jax.tree.map(lambda x, seed=seed: x[seed], run.state().net)
        costs = np.array([float(cost(net, jnp.asarray(start))) for start in starts])
        ratios.append(costs.mean() / best.mean())
        kl = [line["update/kl"] for line in run.metrics if line["seed"] == seed and "update/kl" in line]
        falls.append(max(kl[:3]) / np.mean(kl[-3:]))
        print(
            f"  seed {seed}: cost {costs.mean():.3f}, worst start x {(costs / best).max():.2f}; KL",
            *(f"{x:.2g}" for x in kl),
        )
    claims[f"each network's cost is at most 1.1 of iterative LQR's (found {max(ratios):.3f})"] = (
        max(ratios) <= 1.1
    )
    claims[f"the divergence from the teachers falls tenfold (found {min(falls):.0f} times)"] = (
        min(falls) >= 10
    )
    listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    return Finding(
        claims,
        f"cost from {HELD_OUT} held-out starts {listed} of iterative LQR's {best.mean():.2f}, {seeds} seeds after "
        f"{UPDATES * rollout:,} steps; KL to the teachers falls {', '.join(f'{fall:.0f}' for fall in falls)} times",
    )


if __name__ == "__main__":
    main({"G18": guided})

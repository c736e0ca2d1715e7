"""NoisyNet layers (D6): `network=noisy` in DQN, DDPG, A2C and A3C, which then explore by nothing else.

Each trains on a task without epsilon, action noise or entropy, and has to solve it with the means of its weights. With
the task solved, the noise of the last layer is smaller than it was at first (figure 4 of Fortunato et al. 2018).
"""

from typing import Any

import numpy as np

from polyak.parts.networks.noisy import SIGMA
from reproductions.finding import Finding, main, train

EPISODES, SEEDS = 100, 3
# algorithm, environment, steps, what exploring is switched off by, network that chooses actions, least mean return
AGENTS = [
    ("dqn", "CartPole-v1", 50_000, {"epsilon": 0.0, "epsilon_end": 0.0}, lambda state: state.q, 475.0),
    ("ddpg", "Pendulum-v1", 20_000, {"noise": "gaussian", "sigma": 0.0}, lambda state: state.actor, -200.0),
    ("a2c", "CartPole-v1", 200_000, {"entropy": 0.0}, lambda state: state.policy.net, 475.0),
    ("a3c", "CartPole-v1", 300_000, {"entropy": 0.0}, lambda state: state.policy.net, 475.0),
]


def layers(prefix: str = "jax:") -> Finding:
    """Each agent: the mean return of its seeds, and sigma of its last layer at the end beside the start."""
    claims, said = {}, []
    for name, env, steps, config, chooses, bar in AGENTS:
        run = train(name, prefix + env, steps=steps, seeds=SEEDS, config={"network": "noisy", **config})
        means = run.evaluate(EPISODES).returns.mean(axis=1)
        median = float(np.median(means))
        claims[f"{name}: the median of {SEEDS} seeds on {env} is at least {bar:g} (found {median:.1f})"] = (
            median >= bar
        )
        left = [remaining(run, seed, chooses) for seed in range(SEEDS)]
        shares = ", ".join(f"{share:.2f}" for share in left)
        claims[f"{name}: sigma of the last layer has fallen in every seed ({shares} of the first)"] = (
            max(left) < 1
        )
        said.append(f"{name.upper()} {median:.0f}, sigma x{np.mean(left):.2f}")
    return Finding(claims, f"median return and last layer's sigma: {'; '.join(said)} ({SEEDS} seeds)")


def remaining(run: Any, seed: int, chooses: Any) -> float:
    """The mean |sigma| of the last layer's weights as a share of what it was."""
    sigma = np.asarray(chooses(run.state()).layers[-1].weight_sigma[seed])
    return float(np.abs(sigma).mean() * np.sqrt(len(sigma)) / SIGMA)


if __name__ == "__main__":
    main({"D6": layers}, long={"D6": lambda: layers("")})

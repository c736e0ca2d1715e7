"""Workloads: the same settings for polyak and its rivals, written down once. Imports nothing heavy.

TD3, SAC, DQN and PPO on Gymnasium environments run on the host, PPO on CartPole in JAX and AlphaZero on a board of
pgx in one compiled graph.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Workload:
    """One training, timed between two numbers of environment steps, both after everything has compiled.

    config   polyak's settings; rivals.py gives the same to each rival in its own words
    goals    rival -> how many times its rate polyak is to reach
    """

    title: str
    algorithm: str
    env: str
    begin: int
    end: int
    config: dict[str, Any]
    num_envs: int = 1
    seeds: int = 8  # in SEEDS, how many at once
    goals: dict[str, float] = field(default_factory=dict)
    products: bool = True  # the roofline of its update is worth knowing


ON_POLICY = {
    "gamma": 0.99,
    "lam": 0.95,
    "lr": 3e-4,
    "clip": 0.2,
    "epochs": 10,
    "minibatch": 64,
    "entropy": 0.0,
    "hidden": [64, 64],
    "data": {"steps": 2048},
}

WORKLOADS = {
    "td3-halfcheetah": Workload(
        title="TD3 HalfCheetah-v5",
        algorithm="td3",
        env="HalfCheetah-v5",
        begin=1_500,
        end=5_500,
        config={"hidden": [256, 256], "data": {"capacity": 1_000_000, "batch_size": 256, "warmup": 500}},
        goals={"sbx": 2.0, "sb3": 4.0, "tianshou": 1.0},
    ),
    "ppo-halfcheetah": Workload(
        title="PPO HalfCheetah-v5",
        algorithm="ppo",
        env="HalfCheetah-v5",
        begin=2 * 2048,
        end=10 * 2048,
        config=ON_POLICY,
        goals={"sbx": 5.0, "sb3": 5.0, "tianshou": 1.0},
    ),
    "ppo-cartpole": Workload(
        title="PPO CartPole-v1",
        algorithm="ppo",
        env="CartPole-v1",
        begin=2 * 2048,
        end=10 * 2048,
        config=ON_POLICY,
        goals={"sbx": 5.0, "sb3": 5.0, "tianshou": 1.0},
    ),
    "dqn-cartpole": Workload(
        title="DQN CartPole-v1",
        algorithm="dqn",
        env="CartPole-v1",
        begin=2_000,
        end=22_000,
        config={
            "lr": 1e-3,
            "epsilon_fraction": 0.1,
            "epsilon_end": 0.05,
            "period": 250,
            "hidden": [64, 64],
            "data": {"capacity": 100_000, "batch_size": 32, "warmup": 1_000, "steps": 4},
        },
        goals={"sbx": 5.0, "sb3": 5.0, "tianshou": 1.0},
    ),
    "ppo-graph": Workload(
        title="PPO CartPole in graph",
        algorithm="ppo",
        env="jax:CartPole-v1",
        begin=0,
        end=122 * 64 * 128,
        config={
            "lr": 3e-4,
            "epochs": 4,
            "minibatch": 64 * 128 // 4,
            "entropy": 0.01,
            "hidden": [64, 64],
            "data": {"steps": 128},
        },
        num_envs=64,
        goals={"rejax": 1.5},
    ),
    # positions of self-play, each of them learned from once; times `simulations`: simulations per second
    "alphazero-pgx": Workload(
        title="AlphaZero animal shogi, 128 games, 32 simulations",
        algorithm="alphazero",
        env="pgx:animal_shogi",
        begin=2 * 8 * 128,
        end=6 * 8 * 128,
        config={
            **{"lr": 1e-3, "lr_end": 1.0, "weight_decay": 1e-4, "simulations": 32, "considered": 16},
            **{"opening": 0, "hidden": [128, 128]},
            "data": {
                **{"capacity": 128 * 256, "batch_size": 256, "warmup": 8 * 128, "steps": 8, "updates": 4},
                "n_step": 256,
            },
        },
        num_envs=128,
        goals={"pgx": 1.2},
        products=False,
    ),
}

WORKLOADS["sac-halfcheetah"] = dataclasses.replace(
    WORKLOADS["td3-halfcheetah"], title="SAC HalfCheetah-v5", algorithm="sac", goals={"sbx": 2.0, "sb3": 4.0}
)

# For a GPU, with nothing beside: many environments, and many agents in one program against one.
WORKLOADS["ppo-graph-2048"] = dataclasses.replace(
    WORKLOADS["ppo-graph"],
    title="PPO CartPole in graph, 2,048 environments",
    end=40 * 2048 * 128,
    num_envs=2048,
    config=WORKLOADS["ppo-graph"].config | {"minibatch": 2048 * 128 // 4},
    goals={},
)

# Several seeds in one program against one: polyak's aggregate steps per second.
SEEDS = {
    "ppo-seeds": Workload(
        title="PPO CartPole in graph",
        algorithm="ppo",
        env="jax:CartPole-v1",
        begin=2 * 64 * 128,
        end=22 * 64 * 128,
        config=WORKLOADS["ppo-graph"].config,
        num_envs=64,
        goals={"one": 1.0},
    ),
    "td3-seeds": Workload(
        title="TD3 Pendulum in graph, 64-64",
        algorithm="td3",
        env="jax:Pendulum-v1",
        begin=2_000,
        end=12_000,
        config={"hidden": [64, 64], "data": {"capacity": 100_000, "batch_size": 64, "warmup": 500}},
        goals={"one": 2.0},
    ),
    "ppo-seeds-host": Workload(
        title="PPO CartPole-v1 on the host",
        algorithm="ppo",
        env="CartPole-v1",
        begin=2 * 2048,
        end=10 * 2048,
        config=ON_POLICY,
        goals={"one": 1.0},
    ),
    "ppo-agents-64": Workload(
        title="PPO CartPole in graph",
        algorithm="ppo",
        env="jax:CartPole-v1",
        begin=2 * 64 * 128,
        end=42 * 64 * 128,
        config=WORKLOADS["ppo-graph"].config,
        num_envs=64,
        seeds=64,
        goals={"one": 30.0},
    ),
}

USUAL = [name for name in [*WORKLOADS, *SEEDS] if name not in ("ppo-graph-2048", "ppo-agents-64")]

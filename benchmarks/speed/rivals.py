"""One workload with a rival: `python benchmarks/speed/rivals.py RIVAL WORKLOAD` prints one line of JSON.

What interleave.py times lies between the lines "begin" and "end". Runs in an environment of the rivals' own, which
`make bench` makes. Settings are those of workloads.py, in each rival's words; what is not set is the rival's default.
"""

import argparse
import contextlib
import json
import time
from typing import Any

from measure import BEGIN, END, announce, peak_memory, versions
from workloads import WORKLOADS, Workload


class Enough(Exception):
    """The workload's last step was made."""


def arguments(name: str, workload: Workload) -> dict:
    """The workload's settings in the words of Stable-Baselines3, which SBX shares."""
    c, data = workload.config, workload.config["data"]
    common = {"policy": "MlpPolicy", "gamma": c.get("gamma", 0.99), "verbose": 0, "seed": 0}
    net = {"policy_kwargs": {"net_arch": c["hidden"]}}
    if workload.algorithm == "ppo":
        return {
            **common,
            **net,
            "learning_rate": c["lr"],
            "n_steps": data["steps"],
            "batch_size": c["minibatch"],
            "n_epochs": c["epochs"],
            "gae_lambda": c["lam"],
            "clip_range": c["clip"],
            "ent_coef": c["entropy"],
        }
    replay = {
        "buffer_size": data["capacity"],
        "learning_starts": data["warmup"],
        "batch_size": data["batch_size"],
        "train_freq": data.get("steps", 1),
        "gradient_steps": 1,
    }
    if workload.algorithm == "dqn":
        target = {
            "target_update_interval": c["period"] * replay["train_freq"],
            "exploration_fraction": c["epsilon_fraction"],
            "exploration_final_eps": c["epsilon_end"],
        }
        return {**common, **net, **replay, **target, "learning_rate": c["lr"]}
    actor_critic = {**common, **net, **replay, "learning_rate": 3e-4, "tau": 0.005}
    return actor_critic | ({"policy_delay": 2} if workload.algorithm == "td3" else {})


def baselines(rival: str, workload: Workload) -> dict:
    """Stable-Baselines3 (PyTorch) or SBX (JAX): their `learn`, watched from a callback."""
    import gymnasium
    import numpy as np
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise

    if rival == "sbx":
        import sbx as library
    else:
        import stable_baselines3 as library

    class Watch(BaseCallback):
        """Says when the two numbers of steps are reached, before the step that follows."""

        begun = False

        def _on_step(self) -> bool:
            if workload.algorithm != "ppo":
                self.mark()
            return True

        def _on_rollout_start(self) -> None:
            if workload.algorithm == "ppo":
                self.mark()

        def mark(self) -> None:
            """Begin, or end."""
            if not self.begun and self.num_timesteps >= workload.begin:
                self.begun = True
                announce(BEGIN)
            elif self.num_timesteps >= workload.end:
                announce(END)
                raise Enough

    env = gymnasium.make(workload.env)
    chosen = arguments(rival, workload)
    if workload.algorithm == "td3":
        size = env.action_space.shape[0]
        chosen["action_noise"] = NormalActionNoise(np.zeros(size), 0.1 * np.ones(size))
    model = getattr(library, workload.algorithm.upper())(env=env, **chosen)
    with contextlib.suppress(Enough):
        model.learn(10 * workload.end, callback=Watch())
    return {"steps": workload.end - workload.begin}


def tianshou(workload: Workload) -> dict:
    """tianshou (PyTorch): its collector and its `update` in turn, as in its trainer, which logs and evaluates too."""
    import gymnasium
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, ReplayBuffer
    from tianshou.utils.torch_utils import policy_within_training_step

    c, data = workload.config, workload.config["data"]
    env = gymnasium.make(workload.env)
    learner = tianshou_learner(workload, env, AdamOptimizerFactory)
    rows = data["steps"] if workload.algorithm == "ppo" else data["capacity"]
    collector = Collector(learner, env, ReplayBuffer(rows), exploration_noise=True)
    collector.reset()
    steps, every, begun = 0, data.get("steps", 1), False
    with policy_within_training_step(learner.policy):
        while steps < workload.end:
            if steps >= workload.begin and not begun:
                begun = True
                announce(BEGIN)
            warm = steps < data.get("warmup", 0)
            if workload.algorithm == "dqn":
                left = 1 - steps / (c["epsilon_fraction"] * 10 * workload.end)
                learner.policy.set_eps_training(max(c["epsilon_end"], left))
            collector.collect(n_step=every, random=warm)
            steps += every
            if workload.algorithm == "ppo":
                learner.update(buffer=collector.buffer, batch_size=c["minibatch"], repeat=c["epochs"])
                collector.reset_buffer(keep_statistics=True)
            elif not warm:
                learner.update(buffer=collector.buffer, sample_size=data["batch_size"])
    announce(END)
    return {"steps": workload.end - workload.begin}


def tianshou_learner(workload: Workload, env: Any, adam: Any) -> Any:
    """The workload's algorithm and networks in tianshou's words."""
    from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
    from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
    from tianshou.algorithm.modelfree.ppo import PPO
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
    from tianshou.algorithm.modelfree.td3 import TD3
    from tianshou.exploration import GaussianNoise
    from tianshou.utils.net import continuous, discrete
    from tianshou.utils.net.common import Net
    from torch import nn
    from torch.distributions import Independent, Normal

    c, space = workload.config, env.action_space
    actions = space.n if isinstance(space.shape, tuple) and not space.shape else space.shape
    sizes = {"state_shape": env.observation_space.shape, "hidden_sizes": c["hidden"]}
    if workload.algorithm == "dqn":
        policy = DiscreteQLearningPolicy(model=Net(action_shape=actions, **sizes), action_space=space)
        return DQN(
            policy=policy,
            optim=adam(lr=c["lr"]),
            target_update_freq=c["period"],
            is_double=False,
            huber_loss_delta=1.0,
        )
    if workload.algorithm == "ppo":
        net = {**sizes, "activation": nn.Tanh}
        if isinstance(actions, tuple):
            actor = continuous.ContinuousActorProbabilistic(
                preprocess_net=Net(**net), action_shape=actions, unbounded=True
            )
            policy = ProbabilisticActorPolicy(
                actor=actor,
                dist_fn=lambda given: Independent(Normal(*given), 1),
                action_space=space,
            )
            critic = continuous.ContinuousCritic(preprocess_net=Net(**net))
        else:
            actor = discrete.DiscreteActor(
                preprocess_net=Net(**net), action_shape=actions, softmax_output=False
            )
            policy = DiscreteActorPolicy(actor=actor, action_space=space)
            critic = discrete.DiscreteCritic(preprocess_net=Net(**net))
        return PPO(
            policy=policy,
            critic=critic,
            optim=adam(lr=c["lr"]),
            eps_clip=c["clip"],
            ent_coef=c["entropy"],
            gae_lambda=c["lam"],
            max_grad_norm=0.5,
        )
    actor = continuous.ContinuousActorDeterministic(preprocess_net=Net(**sizes), action_shape=actions)
    joined = {**sizes, "action_shape": actions, "concat": True}
    noise = GaussianNoise(sigma=0.1)
    return TD3(
        policy=ContinuousDeterministicPolicy(actor=actor, exploration_noise=noise, action_space=space),
        policy_optim=adam(lr=3e-4),
        critic=continuous.ContinuousCritic(preprocess_net=Net(**joined)),
        critic_optim=adam(lr=3e-4),
        critic2=continuous.ContinuousCritic(preprocess_net=Net(**joined)),
        critic2_optim=adam(lr=3e-4),
    )


def rejax(workload: Workload) -> dict:
    """rejax: one compiled training, compiled ahead; nothing is evaluated."""
    import jax
    from rejax import PPO

    c = workload.config
    steps = workload.end - workload.begin
    algorithm = PPO.create(
        env="CartPole-v1",
        num_envs=workload.num_envs,
        num_steps=c["data"]["steps"],
        num_epochs=c["epochs"],
        num_minibatches=workload.num_envs * c["data"]["steps"] // c["minibatch"],
        learning_rate=c["lr"],
        ent_coef=c["entropy"],
        max_grad_norm=0.5,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        agent_kwargs={"hidden_layer_sizes": tuple(c["hidden"]), "activation": "tanh"},
    )
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    key = jax.random.PRNGKey(0)
    began = time.perf_counter()
    train = jax.jit(algorithm.train).lower(key).compile()
    compiled = time.perf_counter() - began
    announce(BEGIN)
    jax.block_until_ready(train(key))
    announce(END)
    return {"steps": steps, "compile_s": compiled}


def by_hand(workload: Workload) -> dict:
    """mctx and pgx, in a program like pgx's own example."""
    from mctx_side import measure

    return measure(workload)


PACKAGES = {
    "sb3": ("stable-baselines3", "torch", "gymnasium", "mujoco", "numpy"),
    "sbx": ("sbx-rl", "stable-baselines3", "jax", "jaxlib", "gymnasium", "mujoco", "numpy"),
    "tianshou": ("tianshou", "torch", "gymnasium", "mujoco", "numpy"),
    "rejax": ("rejax", "gymnax", "jax", "jaxlib", "numpy"),
    "pgx": ("pgx", "mctx", "optax", "jax", "jaxlib", "numpy"),
}


def main() -> None:
    """Read the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("rival", choices=PACKAGES)
    options.add_argument("workload", choices=WORKLOADS)
    said = options.parse_args()
    workload = WORKLOADS[said.workload]
    alone = {"rejax": rejax, "tianshou": tianshou, "pgx": by_hand}
    found = alone[said.rival](workload) if said.rival in alone else baselines(said.rival, workload)
    print(json.dumps({**found, "peak_mb": peak_memory(), "versions": versions(*PACKAGES[said.rival])}))


if __name__ == "__main__":
    main()

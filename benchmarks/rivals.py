"""One work with a rival, measured: `python benchmarks/rivals.py RIVAL WORK` prints one line of JSON.

What turns.py times lies between the lines "begin" and "end". Runs in an environment of the rivals' own (`make bench`
makes it). Settings are those of works.py, in each rival's words; what is not set is the rival's default.
"""

import argparse
import contextlib
import json
import time

from measured import BEGIN, END, announce, peak_memory, versions
from works import WORKS, Work


class Enough(Exception):
    """The work's last step was made."""


def arguments(name: str, work: Work) -> dict:
    """The work's settings in the words of Stable-Baselines3, which SBX shares."""
    c, data = work.config, work.config["data"]
    common = {"policy": "MlpPolicy", "gamma": c.get("gamma", 0.99), "verbose": 0, "seed": 0}
    net = {"policy_kwargs": {"net_arch": c["hidden"]}}
    if work.algorithm == "ppo":
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
    if work.algorithm == "dqn":
        target = {
            "target_update_interval": c["period"] * replay["train_freq"],
            "exploration_fraction": c["epsilon_fraction"],
            "exploration_final_eps": c["epsilon_end"],
        }
        return {**common, **net, **replay, **target, "learning_rate": c["lr"]}
    return {**common, **net, **replay, "learning_rate": 3e-4, "tau": 0.005, "policy_delay": 2}


def baselines(rival: str, work: Work) -> dict:
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
            if work.algorithm != "ppo":
                self.mark()
            return True

        def _on_rollout_start(self) -> None:
            if work.algorithm == "ppo":
                self.mark()

        def mark(self) -> None:
            """Begin, or end."""
            if not self.begun and self.num_timesteps >= work.begin:
                self.begun = True
                announce(BEGIN)
            elif self.num_timesteps >= work.end:
                announce(END)
                raise Enough

    env = gymnasium.make(work.env)
    chosen = arguments(rival, work)
    if work.algorithm == "td3":
        size = env.action_space.shape[0]
        chosen["action_noise"] = NormalActionNoise(np.zeros(size), 0.1 * np.ones(size))
    model = getattr(library, work.algorithm.upper())(env=env, **chosen)
    with contextlib.suppress(Enough):
        model.learn(10 * work.end, callback=Watch())
    return {"steps": work.end - work.begin}


def rejax(work: Work) -> dict:
    """rejax: one compiled training, compiled ahead; nothing is evaluated."""
    import jax
    from rejax import PPO

    c = work.config
    steps = work.end - work.begin
    algorithm = PPO.create(
        env="CartPole-v1",
        num_envs=work.num_envs,
        num_steps=c["data"]["steps"],
        num_epochs=c["epochs"],
        num_minibatches=work.num_envs * c["data"]["steps"] // c["minibatch"],
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


PACKAGES = {
    "sb3": ("stable-baselines3", "torch", "gymnasium", "mujoco", "numpy"),
    "sbx": ("sbx-rl", "stable-baselines3", "jax", "jaxlib", "gymnasium", "mujoco", "numpy"),
    "rejax": ("rejax", "gymnax", "jax", "jaxlib", "numpy"),
}


def main() -> None:
    """Read the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("rival", choices=PACKAGES)
    options.add_argument("work", choices=WORKS)
    said = options.parse_args()
    work = WORKS[said.work]
    found = rejax(work) if said.rival == "rejax" else baselines(said.rival, work)
    print(json.dumps({**found, "peak_mb": peak_memory(), "versions": versions(*PACKAGES[said.rival])}))


if __name__ == "__main__":
    main()

"""Small runs with one planted fault each, and healthy ones: what `polyak doctor` must name, and whom not blame."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

import polyak
from polyak.envs.worlds.classic_control import CartPole, Pendulum
from polyak.interface import Box
from polyak.pytree import pytree, static

CARTPOLE, PENDULUM = "jax:CartPole-v1", "jax:Pendulum-v1"


@pytree
class Sick(Pendulum):
    """The pendulum, with something wrong about it."""

    how: str = static(default="")

    @property
    def spec(self):
        return dataclasses.replace(super().spec, obs=Box((3,)))

    def step(self, state, action, key):
        step = super().step(state, action * 0 if self.how == "deaf" else action, key)
        return step._replace(reward=step.reward * 1e6) if self.how == "paid a million" else step

    def _observe(self, state):
        obs = super()._observe(state)
        match self.how:
            case "blind":
                return obs * 0
            case "pascals":
                return obs * 1e5
            case "NaN":
                return jnp.where(jnp.abs(state[1]) > 7.9, jnp.nan, obs)
        return obs


@pytree
class Endless(CartPole):
    """A cart and pole that never fall, without a time limit."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, time_limit=None)

    def step(self, state, action, key):
        step = super().step(state, action, key)
        low = jnp.array([-2.0, -4.0, -0.2, -4.0])
        state = jnp.clip(step.state, low, -low)
        return step._replace(state=state, obs=state, terminated=jnp.bool_(False))


class Told(NamedTuple):
    """A run, and the names of the findings that say what is wrong with it: none of a healthy one."""

    cause: set[str]
    algorithm: str
    env: Any
    said: dict[str, Any]


SMALL = {name: {"hidden": (32, 32)} for name in ("ppo", "a2c", "dqn", "td3", "sac")}  # what is sick


def told(cause: str, algorithm: str, env: Any, steps: int = 0, **said: Any) -> Told:
    """A run; words that `polyak.train` does not know are settings of the algorithm."""
    known = {"num_envs", "env_fields", "eval_env_fields", "wrap", "preset"}
    config = {name.replace("data_", "data."): value for name, value in said.items() if name not in known}
    config |= SMALL.get(algorithm, {}) if steps else {}
    settings = {name: value for name, value in said.items() if name in known}
    settings |= {"steps": steps, "eval_every": steps // 5, "eval_episodes": 5} if steps else {}
    return Told(set(cause.split()), algorithm, env, {**settings, "config": config})


LR = "learning-rate large-steps diverged"
SICK: dict[str, Told] = {
    # the size of steps
    "PPO, a learning rate of 1": told(LR, "ppo", CARTPOLE, 20_000, lr=1.0),
    "PPO, a learning rate of 1e-9": told("learning-rate stands-still", "ppo", CARTPOLE, 20_000, lr=1e-9),
    "A2C, a learning rate of 1e-8": told("learning-rate stands-still", "a2c", CARTPOLE, 40_000, lr=1e-8),
    "TD3, an actor's rate of 0.5": told("learning-rate saturated", "td3", PENDULUM, 5_000, actor_lr=0.5),
    "SAC, a learning rate of 1e-8": told("learning-rate stands-still", "sac", PENDULUM, 4_000, lr=1e-8),
    # exploration
    "PPO, an entropy's weight of 5": told("uniform", "ppo", PENDULUM, 40_000, entropy=5.0),
    "PPO, sigma of a hundredth": told(
        "no-exploration", "ppo", PENDULUM, 40_000, sigma="fixed", log_sigma=-5.0
    ),
    "PPO, a hill too high for chance": told("unreached", "ppo", "jax:MountainCar-v0", 20_000),
    "TD3, no noise on a hill": told(
        "no-exploration", "td3", "jax:MountainCarContinuous-v0", 6_000, exploration=0.0, data_warmup=300
    ),
    "SAC, a temperature of 50": told("uniform", "sac", PENDULUM, 4_000, alpha=50.0),
    "DQN, random to the end": told(
        "random", "dqn", "jax:MountainCar-v0", 12_000, epsilon_end=1.0, gamma=0.99
    ),
    # values
    "PPO, no critic": told("value-function", "ppo", PENDULUM, 40_000, value_loss=0.0),
    "DQN, a target that is never copied": told(
        "old-target", "dqn", CARTPOLE, 10_000, period=100_000, tau=1.0
    ),
    "PPO, gamma 0.1": told("short-sighted", "ppo", CARTPOLE, 20_000, gamma=0.1),
    # data
    "DQN, a replay of 64": told("small-replay", "dqn", CARTPOLE, 10_000, data_capacity=64),
    "DQN, a warm-up that fills the run": told("few-updates", "dqn", CARTPOLE, 10_000, data_warmup=9_800),
    "TD3, an update each 200 steps": told("few-updates", "td3", PENDULUM, 10_000, data_steps=200),
    "TD3, rewards clipped to a hundredth": told("clipped-reward", "td3", PENDULUM, 5_000, data_clip=0.01),
    # the environment
    "PPO, evaluated in another world": told(
        "evaluation", "ppo", CARTPOLE, 40_000, eval_env_fields={"force": 1.0, "length": 0.1}
    ),
    "SAC, paid a million": told("reward-scale", "sac", Sick(how="paid a million"), 4_000),
    "SAC, deaf": told("action-ignored", "sac", Sick(how="deaf"), 3_000),
    "SAC, blind": told("constant", "sac", Sick(how="blind"), 3_000),
    "PPO, pascals": told("scale", "ppo", Sick(how="pascals"), 20_000, wrap=()),
    "TD3, NaN": told("stopped not-finite nan", "td3", Sick(how="NaN"), 5_000),
    "PPO, no end": told("no-end", "ppo", Endless, 20_000),
}
HEALTHY: dict[str, Told] = {
    **{
        name: told("", name, CARTPOLE)
        for name in ("ppo", "dqn", "trpo", "q_learning", "reinforce", "actor_critic")
    },
    "a2c": told("", "a2c", CARTPOLE, 300_000),
    **{name: told("", name, PENDULUM, 12_000) for name in ("td3", "sac", "ddpg")},
}


def train(run: Told, out: Any, name: str, warn: Callable[[str], Any] = print) -> "polyak.Run":
    """The run, trained to its end or to its fault."""
    try:
        return polyak.train(run.algorithm, run.env, out=str(out), name=name, verbose=False, **run.said)
    except polyak.EnvironmentFault as fault:
        warn(str(fault))
        return polyak.load(f"{out}/{name}", env=run.env)

"""Atari games through Gymnasium and ALE, behind the preprocessing of Mnih et al. 2015 as Machado et al. 2018 sum it up.

The names and defaults of its settings are EnvPool's, so that `atari:Pong-v5` and `envpool:Pong-v5` are one task.
"""

import functools
from collections.abc import Mapping
from typing import Any

import ale_py
import gymnasium
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TimeLimit

from polyak.envs.adapters.gymnasium import GymnasiumFactory
from polyak.errors import UserError, nearest

gymnasium.register_envs(ale_py)
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else each game greets on stderr
NAMESPACE = "ALE/"  # of the ids that this has registered
FIRE = "FIRE"  # action without which some games do not begin


class FireReset(gymnasium.Wrapper):
    """Presses fire once an episode has begun, in games that have it; what that step earns is nobody's."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        unwrapped: Any = env.unwrapped
        meanings = unwrapped.get_action_meanings()
        self.fire = meanings.index(FIRE) if FIRE in meanings else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """The first observation after fire."""
        obs, info = self.env.reset(seed=seed, options=options)
        if self.fire is not None:
            obs, _, terminated, truncated, info = self.env.step(self.fire)
            if terminated or truncated:
                return self.env.reset(seed=seed, options=options)
        return obs, info


def make(
    name: str,
    frame_skip: int = 4,
    stack_num: int = 4,
    img_size: int = 84,
    noop_max: int = 30,
    repeat_action_probability: float = 0.0,
    episodic_life: bool = False,
    use_fire_reset: bool = True,
    full_action_space: bool = False,
    max_episode_steps: int = 27_000,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """One game, whose observations are stacks [stack_num, img_size, img_size] of grey frames, oldest first.

    name                       as ALE registers it, without its namespace
    frame_skip                 frames that an action lasts; the larger of the last two is what is seen
    noop_max                   an episode begins with 1 .. noop_max frames in which nothing is done; 0: with none
    repeat_action_probability  sticky actions; 0.25 in Machado et al. 2018 (arXiv:1709.06009)
    episodic_life              a lost life ends an episode; off, as Machado et al. advise
    use_fire_reset             press fire at the start, in games that have it
    max_episode_steps          108,000 frames: half an hour of play
    """
    env = gymnasium.make(
        NAMESPACE + name,
        frameskip=1,
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        max_num_frames_per_episode=None,
        disable_env_checker=True,
        render_mode=render_mode,
    )
    env = AtariPreprocessing(env, noop_max, frame_skip, img_size, terminal_on_life_loss=episodic_life)
    env = FireReset(env) if use_fire_reset else env
    return TimeLimit(FrameStackObservation(env, stack_num), max_episode_steps)


def names() -> list[str]:
    """The games that there are."""
    return sorted(
        ident.removeprefix(NAMESPACE) for ident in gymnasium.registry if ident.startswith(NAMESPACE)
    )


def factory(name: str, fields: Mapping[str, Any], measures: Any) -> GymnasiumFactory:
    """Makes copies of one game; UserError names the nearest where there is none of this name."""
    if name not in names():
        raise UserError(f"there is no environment 'atari:{name}'; {nearest(name, names())}")
    return GymnasiumFactory(f"atari:{name}", fields, measures, functools.partial(make, name))

"""Film a trained policy: the episodes that an evaluation plays, drawn one after the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from polyak.drivers.evaluate import STREAM
from polyak.drivers.lanes import episode_seed
from polyak.drivers.learn import Keys, episode_key
from polyak.envs import spaces
from polyak.envs.environment import Environment
from polyak.envs.find import find
from polyak.errors import CheckpointError
from polyak.runs import checkpoint
from polyak.runs.run import Policy, Run
from polyak.runs.terminal import Progress, Terminal, number
from polyak.runs.video import Painter, best_render_mode, caption, check_suffix, draw_state, write_video

LONGEST = 2_000  # steps of an episode in an environment without a time limit: there it is cut
FPS = 30.0  # where the environment does not say


class Film(NamedTuple):
    """A video, and the return of each of its episodes."""

    path: Path
    returns: list[float]


class Frame(NamedTuple):
    """One moment of an episode."""

    picture: np.ndarray  # [H, W, 3] uint8
    step: int
    total: float  # the return so far


class Stage(Protocol):
    """An environment and the policy that acts in it."""

    fps: float
    limit: int  # steps of an episode, at most

    def play(self, episode: int) -> Iterator[Frame]:
        """One episode, from its reset to its end."""
        ...

    def close(self) -> None:
        """Release the environment."""
        ...


def film(
    run: Run,
    episodes: int = 1,
    out: str | Path | None = None,
    seed: int | None = None,
    policy: int | None = None,
    terminal: Terminal | None = None,
) -> Film:
    """Write a video of so many episodes, by default videos/STEPS.mp4 in the run folder.

    seed    whose episodes: those that `run.evaluate(seed=seed)` plays
    policy  which seed's policy, of a run with several; the first, unless said
    UserError where the environment draws no pictures.
    """
    run.trust()
    plan, newest = run.plan, checkpoint.latest(run.folder.checkpoints)
    if newest is None:
        raise CheckpointError(f"{run.path} has no complete checkpoint yet")
    path = check_suffix(run.path / "videos" / f"{int(newest.name)}.mp4" if out is None else out)
    fields = plan.env_fields if plan.eval_env_fields is None else plan.eval_env_fields
    world = find(plan.env, fields, plan.measures)
    acting = run.policy(policy)
    first = plan.seed if seed is None else seed
    which = 0 if policy is None else policy - plan.seed
    stage = (GraphStage if isinstance(world, Environment) else HostStage)(world, acting, first + which)
    title = f"{plan.algorithm}  {plan.env}  {int(newest.name):,} steps"
    returns: list[float] = []
    try:
        with (terminal or Terminal()).progress(episodes * stage.limit) as progress:
            write_video(path, pictures(stage, episodes, title, returns, progress), stage.fps)
    finally:
        stage.close()
    return Film(path, returns)


def pictures(
    stage: Stage, episodes: int, title: str, returns: list[float], progress: Progress
) -> Iterator[np.ndarray]:
    """Captioned pictures of all episodes; their returns are appended to `returns`."""
    done = 0
    for episode in range(episodes):
        which, step, total = f"episode {episode + 1}  " if episodes > 1 else "", 0, 0.0
        for picture, step, total in stage.play(episode):
            progress.update(done + step, last_return=total, phase="drawing")
            yield caption(picture, f"{title}  {which}step {step}  return {number(total)}")
        done += step
        progress.total = done + (episodes - episode - 1) * stage.limit
        returns.append(total)


class GraphStage:
    """A JAX environment, one step at a time."""

    def __init__(self, env: Environment, policy: Policy, seed: int):
        self.env, self.policy = env, policy
        self.key = Keys.of(np.uint32(seed)).evaluate
        self.limit = env.spec.time_limit or LONGEST
        self.fps = float(getattr(env, "fps", FPS))
        self.reset, self.step = jax.jit(env.reset), jax.jit(env.step)

    def play(self, episode: int) -> Iterator[Frame]:
        """One episode, from its reset to its end."""
        state, obs = self.reset(episode_key(self.key, episode, episode, 0))
        memory, total = self.policy.initial(), 0.0
        yield Frame(draw_state(self.env, state), 0, total)
        for t in range(1, self.limit + 1):
            action, memory = self.policy(jax.tree.map(lambda x: x[None], obs), memory)
            stepped = self.step(state, action[0], episode_key(self.key, episode, episode, t))
            state, obs, total = stepped.state, stepped.obs, total + float(stepped.reward)
            yield Frame(draw_state(self.env, state), t, total)
            if stepped.terminated or stepped.truncated:
                return

    def close(self) -> None:
        """Nothing is held."""


class HostStage:
    """A Gymnasium environment, made to be looked at."""

    def __init__(self, factory: Any, policy: Policy, seed: int):
        self.env, self.policy, self.seed = factory.make_one(best_render_mode(factory.make_one)), policy, seed
        self.painter = Painter(self.env)
        self.limit = factory.spec.time_limit or LONGEST
        self.fps = self.painter.fps
        self.actions = spaces.Actions(self.env.action_space)

    def play(self, episode: int) -> Iterator[Frame]:
        """One episode, from its reset to its end."""
        given = self.env.reset(seed=episode_seed(self.seed, STREAM, episode))[0]
        memory, total = self.policy.initial(), 0.0
        yield Frame(self.painter.draw(), 0, total)
        for t in range(1, self.limit + 1):
            obs = spaces.stack([spaces.convert(self.env.observation_space, given)])
            action, memory = self.policy(obs, memory)
            given, reward, terminated, truncated, _ = self.env.step(self.actions(action)[0])
            total += float(reward)
            yield Frame(self.painter.draw(), t, total)
            if terminated or truncated:
                return

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

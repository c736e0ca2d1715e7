"""Film a trained policy: the episodes that an evaluation plays, drawn one after the other."""

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.act import seen
from polyak.drivers.episodes_graph import Episodes, Player
from polyak.drivers.episodes_host import HostEpisodes
from polyak.drivers.evaluate import STREAM
from polyak.drivers.keys import Keys
from polyak.envs.adapters.gymnasium import GymnasiumSync, OneGymnasium
from polyak.envs.environment import Environment, rules
from polyak.errors import CheckpointError
from polyak.files import make_folder
from polyak.runs.run import Policy, Run, silent
from polyak.runs.values import whole
from polyak.show.panel import Panel
from polyak.show.terminal import Progress, Terminal, number
from polyak.show.video import (
    Painter,
    best_render_mode,
    caption,
    check_suffix,
    draw_state,
    enlarged,
    write_video,
)
from polyak.store import checkpoint

LONGEST = 2_000  # steps of an episode in an environment without a time limit: there it is cut
FPS = 30.0  # where the environment does not say


class Film(NamedTuple):
    """A video, and the return of each of its episodes."""

    path: Path
    returns: list[float]

    def _repr_html_(self) -> str:
        """The film itself, for a notebook."""
        data = base64.b64encode(self.path.read_bytes()).decode()
        if self.path.suffix.lower() == ".gif":
            return f'<img src="data:image/gif;base64,{data}">'
        return f'<video controls loop autoplay muted src="data:video/mp4;base64,{data}"></video>'


class Frame(NamedTuple):
    """One moment of an episode."""

    picture: np.ndarray  # [H, W, 3] uint8
    step: int
    total: float  # the return so far
    reward: float = 0.0  # of the step that led here
    action: np.ndarray | None = None  # of that step, as the algorithm gives it; None at the reset
    value: float | None = None  # return that was expected before it, of an algorithm that expects one


class Stage(Protocol):
    """An environment and the policy that acts in it."""

    policy: Policy
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
    panel: bool = True,
) -> Film:
    """Write a video of so many episodes, by default videos/STEPS.mp4 in the run folder.

    seed    whose episodes: those that `run.evaluate(seed=seed)` plays
    policy  which seed's policy, of a run with several; the first, unless said
    panel   show rewards, the value that the algorithm expects and the action beside the picture
    UserError where the environment draws no pictures.
    """
    episodes = whole("episodes", episodes, 1)
    seed = None if seed is None else whole("seed", seed, 0)
    policy = None if policy is None else whole("policy", policy, 0)
    session = run.trust()
    plan, newest = run.plan, checkpoint.latest(run.folder.checkpoints)
    if newest is None:
        raise CheckpointError(f"{run.path} has no complete checkpoint yet")
    step = int(newest.name) if run.step is None else run.step
    if out is None:
        make_folder(run.path / "videos")
    path = check_suffix(run.path / "videos" / f"{step}.mp4" if out is None else out)
    world = session.find(session.eval_fields)
    acting = run.policy(policy)
    first = plan.seed if seed is None else seed
    which = 0 if policy is None else policy - plan.seed
    stage = (GraphStage if isinstance(world, Environment) else HostStage)(world, acting, first + which)
    title = f"{plan.algorithm}  {session.plan.env}  {step:,} steps"
    returns: list[float] = []
    try:
        with (terminal or Terminal()).progress(episodes * stage.limit) as progress:
            write_video(path, pictures(stage, episodes, title, returns, progress, panel), stage.fps)
    finally:
        stage.close()
    return Film(path, returns)


def watch(
    run: Run | str | Path,
    episodes: int = 1,
    out: str | Path | None = None,
    seed: int | None = None,
    policy: int | None = None,
    panel: bool = True,
    verbose: bool = True,
) -> Film:
    """Film so many episodes of a run, as `film` does; the film shows itself in a notebook."""
    run = run if isinstance(run, Run) else Run(run)
    return film(run, episodes, out, seed, policy, Terminal() if verbose else silent(), panel)


def pictures(
    stage: Stage, episodes: int, title: str, returns: list[float], progress: Progress, panel: bool = True
) -> Iterator[np.ndarray]:
    """Captioned pictures of all episodes; their returns are appended to `returns`."""
    drawn = 0
    for episode in range(episodes):
        which, step, total = f"episode {episode + 1}  " if episodes > 1 else "", 0, 0.0
        beside = Panel(stage.policy.spec.action) if panel else None
        for frame in stage.play(episode):
            step, total = frame.step, frame.total
            progress.update(drawn + step, last_return=total, phase="drawing")
            picture = caption(enlarged(frame.picture), f"{title}  {which}step {step}  return {number(total)}")
            if beside is not None and frame.action is not None:
                beside.add(frame.reward, frame.action, frame.value)
            yield picture if beside is None else beside.beside(picture)
        drawn += step
        progress.total = drawn + (episodes - episode - 1) * stage.limit
        returns.append(total)


def expected(policy: Policy, obs: Any, action: Any) -> float | None:
    """The return that an algorithm expects of the only environment; None of one that expects none."""
    value = policy.value(obs, action)
    return None if value is None else float(value[0])


class GraphStage:
    """A JAX environment, one step at a time."""

    def __init__(self, env: Environment, policy: Policy, seed: int):
        self.env, self.policy = env, policy
        policy.flat = dataclasses.replace(policy.flat, model=rules(env))
        self.key = Keys.of(np.uint32(seed)).evaluate
        self.limit = env.spec.time_limit or LONGEST
        self.fps = float(getattr(env, "fps", FPS))
        self.begin, self.step = jax.jit(self._begin), jax.jit(self._step)

    def play(self, episode: int) -> Iterator[Frame]:
        """One episode, from its reset to its end."""
        episodes, memory = self.begin(episode), self.policy.initial()
        yield self._frame(episodes)
        ended = False
        while not ended:
            action, memory = self.policy.act(seen(self.policy.cfg, episodes), memory)
            value, before = expected(self.policy, episodes.obs, action), float(episodes.total[0])
            episodes, ended = self.step(episodes, action, episode)
            frame = self._frame(episodes)
            yield frame._replace(reward=frame.total - before, action=action[0], value=value)

    def close(self) -> None:
        """Nothing is held."""

    def _player(self, episode: Any) -> Player:
        policy, env_ids = self.policy, jnp.asarray(episode, jnp.int32)[None]
        return Player(
            policy.algorithm,
            policy.cfg,
            self.env,
            policy.flat,
            policy.spec.action,
            self.key,
            env_ids,
            self.limit,
        )

    def _begin(self, episode: Any) -> Episodes:
        player = self._player(episode)
        return player.begin(player.env_ids, jax.random.key(0))

    def _step(self, episodes: Episodes, action: Any, episode: Any) -> tuple[Episodes, Any]:
        after, row = self._player(episode).step(episodes, action, episodes.memory)
        return after, row.last[0]

    def _frame(self, episodes: Episodes) -> Frame:
        state = jax.tree.map(lambda x: x[0], episodes.env)
        return Frame(draw_state(self.env, state), int(episodes.length[0]), float(episodes.total[0]))


class HostStage:
    """A Gymnasium environment, made to be looked at."""

    def __init__(self, factory: Any, policy: Policy, seed: int):
        self.policy, self.seed = policy, seed
        if isinstance(factory, OneGymnasium):
            env, self.envs = factory.env, factory.make(1)
        else:
            env = factory.make_one(best_render_mode(factory.make_one))
            self.envs = GymnasiumSync(lambda: env, 1, factory.measures)
        self.painter = Painter(env)
        self.limit = factory.spec.time_limit or LONGEST
        self.fps = self.painter.fps

    def play(self, episode: int) -> Iterator[Frame]:
        """One episode, from its reset to its end."""
        spec = dataclasses.replace(self.policy.flat, num_envs=1)
        episodes = HostEpisodes(self.envs, spec, [self.seed], STREAM, self.limit)
        episodes.number[:] = episode
        episodes.begin()
        memory, total = self.policy.initial(), 0.0
        yield Frame(self.painter.draw(), 0, total)
        ended = False
        while not ended:
            action, memory = self.policy.act(episodes.obs, memory)
            value = expected(self.policy, episodes.obs, action)
            stepped = episodes.step(action)
            total += float(stepped.reward[0])
            ended = bool((stepped.terminated | stepped.truncated)[0])
            picture, reward = self.painter.draw(), float(stepped.reward[0])
            yield Frame(picture, int(episodes.length[0]), total, reward, action[0], value)

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

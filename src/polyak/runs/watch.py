"""Film a trained policy: the episodes that an evaluation plays, drawn one after the other."""

import base64
import contextlib
import dataclasses
import itertools
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
from polyak.envs.adapters.gymnasium import OneGymnasium
from polyak.envs.adapters.in_process import GymnasiumSync
from polyak.envs.environment import Environment, rules
from polyak.errors import CheckpointError
from polyak.files import make_folder
from polyak.runs.policy import Policy
from polyak.runs.run import Run
from polyak.runs.values import whole
from polyak.show.panel import Panel
from polyak.show.terminal import Progress, Terminal, number, silent
from polyak.show.video import (
    Painter,
    best_render_mode,
    caption,
    check_suffix,
    draw_state,
    enlarged,
    write_video,
)
from polyak.show.window import shown
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
    usual: int  # steps of an episode, as far as the run tells

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
    step = steps_of(run)
    if out is None:
        make_folder(run.path / "videos")
    path = check_suffix(run.path / "videos" / f"{step}.mp4" if out is None else out)
    returns: list[float] = []
    with (
        staged(run, seed, policy) as (stage, title),
        (terminal or Terminal()).progress(episodes * stage.usual) as progress,
    ):
        write_video(path, pictures(stage, episodes, title, returns, progress, panel), stage.fps)
    return Film(path, returns)


def show(
    run: Run,
    episodes: int | None = None,
    seed: int | None = None,
    policy: int | None = None,
    panel: bool = True,
) -> list[float]:
    """Show so many episodes in a window, or one after the other until it is closed; the returns of whole episodes.

    The rest is as of `film`; `show.window` says what the window's keys do. UserError where there is no screen.
    """
    episodes = None if episodes is None else whole("episodes", episodes, 1)
    returns: list[float] = []
    with staged(run, seed, policy) as (stage, title), silent().progress(stage.usual) as progress:
        for _ in shown(
            pictures(stage, episodes, title, returns, progress, panel), f"polyak  {title}", stage.fps
        ):
            pass
    return returns


def steps_of(run: Run) -> int:
    """After how many steps its policy is looked at; CheckpointError where it has none."""
    newest = checkpoint.latest(run.folder.checkpoints)
    if newest is None:
        raise CheckpointError(f"{run.path} has no complete checkpoint yet")
    return int(newest.name) if run.step is None else run.step


@contextlib.contextmanager
def staged(run: Run, seed: int | None, policy: int | None) -> Iterator[tuple[Stage, str]]:
    """The environment and the policy of a run, and what is said of them."""
    seed = None if seed is None else whole("seed", seed, 0)
    policy = None if policy is None else whole("policy", policy, 0)
    session = run.trust()
    plan = session.plan
    world = session.find(session.eval_fields)
    acting = run.policy(policy)
    first = plan.seed if seed is None else seed
    which = 0 if policy is None else policy - plan.seed
    stage = (GraphStage if isinstance(world, Environment) else HostStage)(world, acting, first + which)
    lengths = [line["eval/length"] for line in run.metrics if line.get("eval/length")]
    stage.usual = max(1, min(stage.limit, round(lengths[-1]))) if lengths else stage.limit
    try:
        yield stage, f"{plan.algorithm}  {plan.env}  {steps_of(run):,} steps"
    finally:
        stage.close()


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
    stage: Stage,
    episodes: int | None,
    title: str,
    returns: list[float],
    progress: Progress,
    panel: bool = True,
) -> Iterator[np.ndarray]:
    """Captioned pictures of all episodes, without end where `episodes` is None; appends their returns to `returns`."""
    drawn = 0
    for episode in itertools.count() if episodes is None else range(episodes):
        which, step, total = "" if episodes == 1 else f"episode {episode + 1}  ", 0, 0.0
        beside = Panel(stage.policy.spec.action) if panel else None
        for frame in stage.play(episode):
            step, total = frame.step, frame.total
            progress.update(drawn + step, last_return=total, phase="drawing")
            picture = caption(enlarged(frame.picture), f"{title}  {which}step {step}  return {number(total)}")
            if beside is not None and frame.action is not None:
                beside.add(frame.reward, frame.action, frame.value)
            yield picture if beside is None else beside.beside(picture)
        drawn += step
        left = 1 if episodes is None else episodes - episode - 1
        progress.total = drawn + left * stage.usual
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
        self.limit = self.usual = env.spec.time_limit or LONGEST
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
        self.limit = self.usual = factory.spec.time_limit or LONGEST
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

"""Decisions and frames of environments on the host: actions that are kept, pictures made small, an early end.

`action_repeat` is of Mnih et al. 2015 (Nature 518, methods), and so are grey pictures, their size and the stack. A
decision is one step of the algorithm, a frame one step of the environment. Imports no JAX.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from polyak.envs.constructors import as_annotated
from polyak.errors import UserError, nearest

PICTURE = "picture."  # before the name of a setting of pictures
OF_DECISIONS, OF_PICTURES = ("action_repeat", "patience"), ("crop", "grey", "size", "stack")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601: shares of red, green and blue in grey


@dataclass(frozen=True)
class Frames:
    """What becomes of an environment's frames before an algorithm sees them; without settings, nothing."""

    action_repeat: int = 1  # frames that an action is kept for: rewards are summed, the last one is seen
    patience: int = 0  # decisions in a row that may earn nothing before the episode is cut; 0: any number
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels cut off a picture: top, bottom, left, right
    grey: bool = False  # pictures without colour
    size: int = 0  # pixels of a picture's sides, each the mean of the area that it covers; 0: as they are
    stack: int = 1  # pictures that an observation holds, oldest first: of the last decisions

    @property
    def of_pictures(self) -> bool:
        """Whether observations are pictures that are changed."""
        return any(getattr(self, name) != getattr(UNCHANGED, name) for name in OF_PICTURES)

    def decisions(self, frames: int | None) -> int | None:
        """How many decisions so many frames are: a last one may be shorter."""
        return None if frames is None else -(-frames // self.action_repeat)

    def cut(self, idle: Any, reward: Any) -> tuple[Any, Any]:
        """Decisions in a row that have earned nothing, after one with this reward; whether patience is at its end."""
        idle = np.where(np.asarray(reward) > 0, 0, idle + 1)
        return idle, (idle >= self.patience) & (self.patience > 0)

    def space(self, box: Any) -> Any:
        """The space of observations: pictures [stack C, H, W] in the place of those of `box`."""
        if not self.of_pictures:
            return box
        if not isinstance(box, gymnasium.spaces.Box) or len(box.shape) not in (2, 3):
            raise UserError(f"{PICTURE}settings are for pictures, and its observations are {box}")
        high, wide = channels_first(np.empty(box.shape, np.uint8)).shape[-2:]
        if high <= sum(self.crop[:2]) or wide <= sum(self.crop[2:]):
            raise UserError(f"{PICTURE}crop leaves nothing of pictures of {high} x {wide}")
        low, most = float(box.low.min()), float(box.high.max())
        shape = self.stacked(self.picture(np.zeros(box.shape, box.dtype)), None).shape
        return gymnasium.spaces.Box(low, most, shape, box.dtype.type)

    def picture(self, frame: np.ndarray) -> np.ndarray:
        """Pictures [..., C, h, w] of frames [..., H, W, C], [..., C, H, W] or, one by one, [H, W]."""
        dtype, frame = frame.dtype, channels_first(frame)
        top, bottom, left, right = self.crop
        frame = frame[..., top : frame.shape[-2] - bottom, left : frame.shape[-1] - right]
        if self.grey and frame.shape[-3] == 3:
            frame = np.einsum("...chw,c->...hw", frame, LUMA, optimize=False)[..., None, :, :]
        if self.size:
            rows, columns = (averages(side, self.size) for side in frame.shape[-2:])
            frame = rows @ frame.astype(np.float32) @ columns.T
        if frame.dtype != dtype and np.dtype(dtype).kind in "iu":
            frame = np.rint(frame)
        return np.ascontiguousarray(frame, dtype)

    def stacked(self, picture: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """Stacks [..., stack C, h, w] of these newest pictures, after the stacks before; None: at the start."""
        if before is None:
            return np.concatenate([picture] * self.stack, -3)
        return np.concatenate([before[..., picture.shape[-3] :, :, :], picture], -3)


UNCHANGED = Frames()


def channels_first(frame: np.ndarray) -> np.ndarray:
    """Frames [..., C, H, W]: the axis of channels is the shorter of the first and the last."""
    if frame.ndim == 2:
        return frame[None]
    return frame if frame.shape[-3] < frame.shape[-1] else np.moveaxis(frame, -1, -3)


def averages(many: int, few: int) -> np.ndarray:
    """The matrix [few, many] that averages a line of pixels over the stretch that each of few pixels covers."""
    edges, pixel = np.arange(few + 1) * (many / few), np.arange(many)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (overlap.clip(0) * (few / many)).astype(np.float32)


def split_frames(
    what: str, fields: Mapping[str, Any], own: Iterable[str] = ()
) -> tuple[dict[str, Any], Frames]:
    """An environment's own fields, and what they say of frames; UserError for a value that means nothing.

    what  the environment's name
    own   names that are the environment's, whatever they mean elsewhere
    """
    own, said, rest = set(own), {}, {}
    for name, value in fields.items():
        short = name.removeprefix(PICTURE)
        if name.startswith(PICTURE) and short not in OF_PICTURES:
            hint = nearest(name, [PICTURE + each for each in OF_PICTURES])
            raise UserError(f"environment {what} has no field {name!r}; {hint}")
        ours = name.startswith(PICTURE) or name in OF_DECISIONS
        (said if ours and name not in own else rest)[short if ours and name not in own else name] = value
    frames = Frames(**as_annotated(what, Frames, said))
    for name, least in (("action_repeat", 1), ("patience", 0), ("size", 0), ("stack", 1)):
        if getattr(frames, name) < least:
            shown = name if name in OF_DECISIONS else PICTURE + name
            raise UserError(
                f"environment {what}: {shown} must be at least {least}, not {getattr(frames, name)}"
            )
    if min(frames.crop) < 0:
        raise UserError(f"environment {what}: {PICTURE}crop must be pixels from 0 on, not {frames.crop}")
    return rest, frames


class Framed(gymnasium.Wrapper):
    """A Gymnasium environment whose steps are decisions; `info` is the last frame's."""

    def __init__(self, env: gymnasium.Env, frames: Frames):
        super().__init__(env)
        self.frames, self._idle, self._stack = frames, 0, None
        self.observation_space = frames.space(env.observation_space)
        if rate := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": rate / frames.action_repeat}

    @property
    def spec(self) -> Any:
        """That of the environment, whose limit counts decisions."""
        spec = self.env.spec
        return spec and replace(spec, max_episode_steps=self.frames.decisions(spec.max_episode_steps))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """The first observation: a stack of one picture."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._idle, self._stack = 0, None
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        """One decision: frames until the action has been kept long enough, or the episode ends."""
        reward: Any
        earned: Any
        obs, reward, terminated, truncated, info = self.env.step(copy.copy(action))
        for _ in range(1, self.frames.action_repeat):
            if terminated or truncated:
                break
            obs, earned, terminated, truncated, info = self.env.step(copy.copy(action))
            reward = reward + earned
        if self.frames.patience:
            self._idle, over = self.frames.cut(self._idle, reward)
            truncated = truncated or bool(over)
        return self._seen(obs), reward, terminated, truncated, info

    def _seen(self, obs: Any) -> Any:
        if not self.frames.of_pictures:
            return obs
        self._stack = self.frames.stacked(self.frames.picture(np.asarray(obs)), self._stack)
        return self._stack


def framed(make: Any, frames: Frames) -> gymnasium.Env:
    """The environment that `make` makes, with these settings."""
    env = make()
    return Framed(env, frames) if isinstance(env, gymnasium.Env) and frames != UNCHANGED else env

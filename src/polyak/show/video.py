"""Videos: pictures of an environment, a caption on them, and a file that appears whole or not at all."""

import contextlib
import errno
import importlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from polyak.envs.unseen import hide_windows
from polyak.errors import UserError
from polyak.files import replacing

SUFFIXES = (".mp4", ".gif")
GIF_FPS = 50  # viewers slow a faster GIF down


class Painter:
    """Draws the present state of a Gymnasium environment made with `best_render_mode`.

    MuJoCo's are drawn by the ray caster, or by OpenGL where MUJOCO_GL is set; all others draw themselves.
    """

    def __init__(self, env: Any, width: int = 480, height: int = 360):
        hide_windows()
        self.env = env
        self.name = getattr(env.unwrapped.spec, "id", None) or type(env.unwrapped).__name__
        self.fps = float(env.metadata.get("render_fps") or 30)
        self.caster = None
        if is_mujoco(env) and env.render_mode is None:
            from polyak.show.raycast import RayCaster

            renderer = getattr(env.unwrapped, "mujoco_renderer", None)
            camera = getattr(renderer, "default_cam_config", None)
            self.caster = RayCaster(env.unwrapped.model, width, height, camera)
        elif env.render_mode != "rgb_array":
            raise UserError(
                f"{self.name} draws nothing with render_mode={env.render_mode!r}; make it with 'rgb_array'"
            )

    def draw(self) -> np.ndarray:
        """A picture [H, W, 3] uint8; UserError says what to install where it cannot be drawn."""
        if self.caster is not None:
            return self.caster.render(self.env.unwrapped.data)
        try:
            picture = self.env.render()
        except Exception as error:
            raise UserError(f"{self.name} cannot be drawn: {_what_to_install(error)}") from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError(
                f"{self.name} gave {type(picture).__name__} as its picture, not an array [H, W, 3]"
            )
        return pixels(picture[..., :3])


def best_render_mode(make_one: Callable[[str | None], Any]) -> str | None:
    """With which `render_mode` to make an environment that a Painter draws; makes one and closes it.

    UserError where the environment draws no pictures.
    """
    hide_windows()
    env = make_one(None)
    try:
        if is_mujoco(env) and not os.environ.get("MUJOCO_GL"):
            return None
        modes = env.metadata.get("render_modes") or []
        if "rgb_array" not in modes:
            name = getattr(env.unwrapped.spec, "id", None) or type(env.unwrapped).__name__
            offered = ", ".join(map(str, modes)) or "none"
            raise UserError(f"{name} draws no pictures: it needs render mode 'rgb_array' and has {offered}")
        return "rgb_array"
    finally:
        env.close()


def draw_state(env: Any, state: Any) -> np.ndarray:
    """A picture [H, W, 3] uint8 of a JAX environment's state; UserError where it has none."""
    try:
        return pixels(np.asarray(env.draw(state)))
    except NotImplementedError:
        raise UserError(f"{type(env).__name__} draws no pictures: it has no method draw(state)") from None


def pixels(picture: np.ndarray) -> np.ndarray:
    """A fresh picture of bytes; true and false are black and white, and real numbers within [0, 1] are scaled."""
    if picture.dtype.kind == "b" or (picture.dtype.kind == "f" and not (picture > 1).any()):
        picture = np.round(255 * np.nan_to_num(picture.astype(np.float32)))
    return np.nan_to_num(picture).clip(0, 255).astype(np.uint8)


def is_mujoco(env: Any) -> bool:
    """Whether it holds a MuJoCo model and its data."""
    inner = env.unwrapped
    return all(type(getattr(inner, name, None)).__module__.startswith("mujoco") for name in ("model", "data"))


def caption(frame: np.ndarray, text: str) -> np.ndarray:
    """The picture [H, W, 3] with small text at the top left, on a dark translucent label."""
    from PIL import Image, ImageDraw, ImageFont

    size = min(16, max(10, frame.shape[0] // 24))
    font = ImageFont.load_default(size)
    picture = Image.fromarray(frame)
    pen = ImageDraw.Draw(picture, "RGBA")
    while size > 10 and pen.textlength(text, font=font) > frame.shape[1] - 2 * size:
        size -= 1
        font = ImageFont.load_default(size)
    pad, start = size // 2, size
    width = int(pen.textlength(text, font=font))
    box = (start - pad, start - pad, start + width + pad, start + size + pad)
    pen.rounded_rectangle(box, radius=pad, fill=(20, 24, 32, 150))
    pen.text((start, start + size // 2), text, font=font, fill=(255, 255, 255, 235), anchor="lm")
    return np.array(picture)


SMALLEST = (240, 400)  # [H, W] of a picture that a caption can be read on


def enlarged(frame: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3], each of its points a square of as many as it takes until a caption can be read."""
    times = max(1, *(-(-least // size) for least, size in zip(SMALLEST, frame.shape[:2], strict=True)))
    return frame.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else frame


def check_suffix(path: str | Path) -> Path:
    """The path, if a video can be written there; UserError unless it ends in .mp4 or .gif."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"a video ends in .mp4 or .gif, not {path.name!r}")
    return path


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write pictures, each [H, W, 3] uint8 of one size, to .mp4 (H.264) or .gif; the file appears when whole.

    A GIF faster than 50 pictures a second leaves some out. UserError: another suffix, or no pictures.
    """
    path = check_suffix(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f"no pictures to write to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    with replacing(path) as unfinished:
        write(unfinished, _same_size(chain([first], frames), first.shape), fps)
    return path


def _same_size(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for i, frame in enumerate(frames):
        if frame.shape != shape or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise UserError(
                f"picture {i} is {frame.dtype}{list(frame.shape)}; all must be uint8 {list(shape)}, [H, W, 3]"
            )
        yield frame


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """H.264 in yuv420p, which every browser plays and which wants even sizes: the last row is doubled."""
    from imageio_ffmpeg import get_ffmpeg_exe

    first = next(frames)
    height, width = (n + n % 2 for n in first.shape[:2])
    border = [(0, height - first.shape[0]), (0, width - first.shape[1]), (0, 0)]
    taken = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps:g} -i -"
    given = "-an -c:v libx264 -crf 20 -pix_fmt yuv420p -movflags +faststart -f mp4"
    command = [get_ffmpeg_exe(), "-y", "-v", "error", *taken.split(), *given.split(), str(path)]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as ffmpeg,
    ):
        assert ffmpeg.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), ffmpeg.stdin as pipe:
                for frame in chain([first], frames):
                    pipe.write(np.pad(frame, border, mode="edge").tobytes())
        except BaseException:
            ffmpeg.kill()
            raise
        if ffmpeg.wait() != 0:
            said.seek(0)
            reason = said.read().decode(errors="replace").strip().splitlines() or ["it did not say why"]
            cause = next((line for line in reason if os.strerror(errno.ENOSPC) in line), reason[-1])
            raise UserError(f"ffmpeg could not write the video: {cause}")


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """One palette for all pictures and no dither, so that only what moves is stored."""
    from PIL import Image

    every = int(np.ceil(fps / GIF_FPS))
    kept = [frame for i, frame in enumerate(frames) if i % every == 0]
    # A GIF counts hundredths of a second: round the sum, so that errors do not add up.
    ticks = np.round(np.arange(len(kept) + 1) * every * 100 / fps).astype(int)
    sample = np.concatenate(kept[:: max(1, len(kept) // 8)])
    palette = Image.fromarray(sample).quantize(128, method=Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in kept]
    durations = [int(d) for d in np.maximum(np.diff(ticks), 1) * 10]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True, disposal=1
    )


def _what_to_install(error: Exception) -> str:
    """One line for the user: the extra that brings pygame, or the error's first line."""
    if isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled":
        try:
            importlib.import_module("pygame")
        except ImportError:
            return "pygame is missing; pip install 'polyak[classic-control]'"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first}"

"""A window that shows pictures as they are made, at their own speed."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from polyak.envs.unseen import show_windows
from polyak.errors import UserError

KEYS = "space pauses, right goes one picture on, up and down change the speed, Escape closes"
UNSEEN = ("dummy", "offscreen")  # SDL's drivers that draw into memory
SLOWEST, FASTEST = 1 / 16, 16.0  # of the speed that was asked for


class Window:
    """A window on the screen for pictures [H, W, 3] uint8, which may be resized; the keys are those of `KEYS`.

    UserError where pygame is missing or there is no screen.
    """

    def __init__(self, title: str, shape: tuple[int, int], fps: float):
        try:
            import pygame
        except ImportError:
            raise UserError(
                "a window needs pygame, which is missing: pip install 'polyak[classic-control]', "
                "or leave --window out for a video"
            ) from None
        show_windows()
        pygame.display.quit()  # an environment that draws may have opened one that nobody sees
        self.pygame: Any = pygame
        self.fps, self.speed = fps, 1.0
        self.paused = self.closed = False
        try:
            pygame.display.init()
            if pygame.display.get_driver() in UNSEEN and "SDL_VIDEODRIVER" not in os.environ:
                raise pygame.error("there is no screen")
            self.screen = pygame.display.set_mode((shape[1], shape[0]), pygame.RESIZABLE)
        except pygame.error as error:
            pygame.display.quit()
            raise UserError(
                f"no window can be opened ({error}): leave --window out, and a video is written"
            ) from None
        pygame.display.set_caption(title)
        self.clock = pygame.time.Clock()

    def show(self, picture: np.ndarray) -> bool:
        """Show a picture until the next one is due; whether the window is still open."""
        one_on = False
        while not self.closed:
            self._draw(picture)
            for event in self.pygame.event.get():
                one_on |= self._hear(event)
            self.clock.tick(self.fps * (1.0 if self.paused else self.speed))
            if not self.paused or one_on:
                break
        return not self.closed

    def close(self) -> None:
        """Close it, where the person has not."""
        self.closed = True
        self.pygame.display.quit()

    def _draw(self, picture: np.ndarray) -> None:
        """The picture as large as the window holds it, in its middle."""
        surface = self.pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        wide, high = self.screen.get_size()
        scale = min(wide / picture.shape[1], high / picture.shape[0])
        size = max(1, round(scale * picture.shape[1])), max(1, round(scale * picture.shape[0]))
        if size != surface.get_size():
            surface = self.pygame.transform.smoothscale(surface, size)
        self.screen.fill((20, 24, 32))
        self.screen.blit(surface, ((wide - size[0]) // 2, (high - size[1]) // 2))
        self.pygame.display.flip()

    def _hear(self, event: Any) -> bool:
        """Do what a key or a button asks for; whether it asks for the next picture."""
        keys = self.pygame
        if event.type == keys.QUIT:
            self.closed = True
        elif event.type == keys.KEYDOWN:
            if event.key in (keys.K_ESCAPE, keys.K_q):
                self.closed = True
            elif event.key == keys.K_SPACE:
                self.paused = not self.paused
            elif event.key == keys.K_RIGHT:
                self.paused = True
                return True
            elif event.key == keys.K_UP:
                self.speed = min(2 * self.speed, FASTEST)
            elif event.key == keys.K_DOWN:
                self.speed = max(self.speed / 2, SLOWEST)
        return False


def shown(pictures: Iterable[np.ndarray], title: str, fps: float) -> Iterator[np.ndarray]:
    """The same pictures, each shown in a window before it is given; they end where the person closes it."""
    window = None
    try:
        for picture in pictures:
            window = window or Window(title, picture.shape[:2], fps)
            if not window.show(picture):
                return
            yield picture
    finally:
        if window is not None:
            window.close()

"""A panel beside the picture of a film: rewards, the value that the algorithm expects, and the action."""

from collections import deque
from typing import Any

import numpy as np

from polyak.interface import Discrete
from polyak.show.terminal import number

WIDTH = 176  # points
STEPS = 120  # that a line goes back
MOST = 12  # entries of an action that are drawn
BACK, INK, PALE, COLOUR, ZERO = (20, 24, 32), (235, 238, 243), (138, 145, 158), (90, 150, 240), (60, 66, 78)


class Panel:
    """What was read in the last steps of an episode."""

    def __init__(self, action: Any):
        self.discrete = isinstance(action, Discrete)
        self.count = int(action.n if isinstance(action, Discrete) else action.size)
        self.rewards: deque[float] = deque(maxlen=STEPS)
        self.values: deque[float] = deque(maxlen=STEPS)
        self.action: np.ndarray | None = None

    def add(self, reward: float, action: np.ndarray, value: float | None) -> None:
        """One step: its reward, the action [A] in [-1, 1] or a number, and what was expected before it, if anything."""
        self.rewards.append(reward)
        self.action = np.ravel(action)
        if value is not None:
            self.values.append(value)

    def draw(self, height: int) -> np.ndarray:
        """The panel [H, WIDTH, 3] uint8."""
        from PIL import Image, ImageDraw, ImageFont

        picture = Image.new("RGB", (WIDTH, height), BACK)
        pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
        lines = [("reward", self.rewards)] + ([("value", self.values)] if self.values else [])
        part = height // (len(lines) + 1)
        for i, (name, series) in enumerate(lines):
            top = i * part + 10
            pen.text((12, top), name, font=font, fill=PALE)
            if series:
                pen.text((WIDTH - 12, top), number(series[-1]), font=font, fill=INK, anchor="ra")
                draw_series(pen, series, (12, top + 20, WIDTH - 12, (i + 1) * part - 4))
        top = len(lines) * part + 10
        pen.text((12, top), "action", font=font, fill=PALE)
        if self.action is not None:
            box = (12, top + 20, WIDTH - 12, height - 12)
            if self.discrete:
                chosen = int(self.action[0])
                pen.text((WIDTH - 12, top), str(chosen), font=font, fill=INK, anchor="ra")
                draw_choice(pen, chosen, self.count, box)
            else:
                draw_bars(pen, self.action[:MOST], box)
        return np.array(picture)

    def beside(self, frame: np.ndarray) -> np.ndarray:
        """A picture [H, W, 3] with the panel on its right."""
        return np.concatenate([frame, self.draw(frame.shape[0])], axis=1)


def draw_series(pen: Any, series: Any, box: tuple[int, int, int, int]) -> None:
    """A line of the newest values, the newest at the right; a faint one where zero is."""
    left, top, right, bottom = box
    values = np.nan_to_num(np.asarray(series, float))
    low, high = min(0.0, values.min()), max(0.0, values.max())
    span = (high - low) or 1.0
    y = bottom - (values - low) / span * (bottom - top)
    x = right - np.arange(len(values))[::-1] * (right - left) / (STEPS - 1)
    zero = bottom + low / span * (bottom - top)
    pen.line([(left, zero), (right, zero)], fill=ZERO)
    pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=COLOUR, width=2)


def draw_choice(pen: Any, chosen: int, count: int, box: tuple[int, int, int, int]) -> None:
    """A square for each action, that of the chosen one full; nothing where there are too many."""
    left, top, right, bottom = box
    if count > MOST:
        return
    side = min((right - left) / count, bottom - top, 26)
    for i in range(count):
        at = (left + i * side + 2, top, left + (i + 1) * side - 2, top + side - 4)
        pen.rectangle(at, fill=COLOUR if i == chosen else None, outline=PALE)


def draw_bars(pen: Any, action: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """A bar for each entry in [-1, 1], from zero in the middle."""
    left, top, right, bottom = box
    middle, high = (left + right) / 2, min((bottom - top) / len(action), 14)
    for i, entry in enumerate(np.clip(np.nan_to_num(action), -1, 1).tolist()):
        y, x = top + i * high, middle + entry * (right - left) / 2
        pen.rectangle((left, y, right, y + high - 4), outline=ZERO)
        pen.rectangle((min(middle, x), y, max(middle, x), y + high - 4), fill=COLOUR)

"""A picture of a ladder: the Elo of each player and its interval, the strongest at the top."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from polyak.show.curve import EVALUATION, INK, PALE, Picture, save


def draw_ladder(path: Path, lines: Sequence[tuple[str, float, float, float]], title: str) -> Path:
    """Draw names, Elo, half of its interval and share of the points, as `Ladder.best_first` gives them, into a PNG."""
    height = 1.1 + 0.34 * len(lines)
    figure = Picture(figsize=(7.2, height), dpi=200)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.02, 0.55 / height, 0.96, 1 - 1.0 / height))
    names, elo, half, points = zip(*lines, strict=True)
    rows = range(len(lines), 0, -1)
    axes.errorbar(elo, rows, xerr=half, fmt="o", color=EVALUATION, markersize=5, elinewidth=1.6, capsize=3)
    axes.set_ylim(0.4, len(lines) + 0.6)
    axes.set_yticks(list(rows), [f"{name}   {share:.0%}" for name, share in zip(names, points, strict=True)])
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    axes.tick_params(axis="x", color=PALE, labelsize=8, labelcolor=PALE)
    axes.grid(axis="x", color="#e4e7ec", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.set_xlabel(
        "Elo, with its 95 % interval; beside the names the share of all points", fontsize=8, color=PALE
    )
    figure.text(0.02, 1 - 0.2 / height, title, fontsize=11, color=INK, va="center")
    left = max(label.get_window_extent().width for label in axes.get_yticklabels()) / figure.bbox.width
    axes.set_position((left + 0.03, 0.55 / height, 0.95 - left - 0.03, 1 - 1.0 / height))
    return save(figure, path)

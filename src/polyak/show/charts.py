"""Charts of a comparison, by Matplotlib: inline SVG for a page, one PNG for a slide.

The SVG has numbers as its only text, names of colours instead of colours (`var(--s3)`, so that a page can be light or
dark), and a class for each group (`s3`), by which a page shows and hides it.
"""

import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from polyak.files import replacing
from polyak.show import statistics
from polyak.show.comparison import Comparison, Overall, Pair, World
from polyak.show.curve import INK, PALE, count_label
from polyak.show.groups import Curve, Group, drawable

LIGHT = (
    "#2563c9",
    "#d97a26",
    "#2c8a4b",
    "#c8393f",
    "#7a52c7",
    "#0f8a99",
    "#c2458c",
    "#8a7f16",
    "#8d5b3d",
    "#5d6675",
)
DASHES = (
    "solid",
    (0, (4, 1.6)),
    (0, (1.2, 1.4)),
    (0, (5, 1.5, 1.2, 1.5)),
)  # of the groups that share a colour
SIZE = 4.4, 2.9  # inches: at 72 a point, about as wide as a phone
FONT = 10
MOST_SEEDS = 400  # lines of single seeds in a chart
WIDE_RANGE = 1e3  # between positive values, from which on their axis is logarithmic
MOST_ROWS = 12  # environments in a PNG


class Theme(NamedTuple):
    """Colours of a chart, by what they are for."""

    series: tuple[str, ...]
    ink: str
    pale: str
    grid: str
    paper: str


ON_PAPER = Theme(LIGHT, INK, PALE, "#e4e7ec", "#ffffff")
# Colours that nothing else has, which are replaced by the names of a page's own.
NAMED = Theme(tuple(f"#0a0b{i:02x}" for i in range(len(LIGHT))), "#0a0c01", "#0a0c02", "#0a0c03", "#0a0c04")
NAMES = {colour: f"var(--s{i})" for i, colour in enumerate(NAMED.series)} | {
    NAMED.ink: "var(--ink)",
    NAMED.pale: "var(--pale)",
    NAMED.grid: "var(--grid)",
    NAMED.paper: "var(--paper)",
}


def colour(index: int, theme: Theme) -> str:
    """The colour of a group."""
    return theme.series[index % len(theme.series)]


def dash(index: int) -> object:
    """How the line of a group is broken, so that those of one colour differ."""
    return DASHES[index // len(LIGHT) % len(DASHES)]


# ---- what is drawn


def draw_curves(
    axes: Axes, groups: Sequence[Group], metric: str, clock: bool, theme: Theme, own_scale: bool = False
) -> bool:
    """Curves of all groups and seeds against steps or the clock; whether there was one.

    own_scale  let the axis be logarithmic where the values ask for it
    """
    span: list[np.ndarray] = []
    end, unit = 0.0, ("s", 1.0)
    curves = [curve for group in groups for curve in group.curves.get(metric, [])]
    if clock:
        unit = unit_of(curves)
    shade = 0.16 * min(1, 5 / max(1, len(groups)))
    every = max(1, -(-len(curves) // MOST_SEEDS))
    for group in groups:
        middle = group.middle(metric)
        lines = []
        for curve in group.curves.get(metric, [])[::every]:
            steps, seconds, values = drawable(curve)
            x = seconds / unit[1] if clock else steps
            if np.isfinite(x).all():
                lines.append(np.column_stack([x, values]))
        name, pen = f"s{group.index}", colour(group.index, theme)
        if len(lines) > 1:
            thin = 0.35 * min(1, (10 / len(lines)) ** 0.5)
            axes.add_collection(
                LineCollection(lines, colors=pen, linewidths=0.6, alpha=thin, gid=f"{name}-seeds"),
                autolim=True,
            )
        if middle is None:
            continue
        x = middle.seconds / unit[1] if clock else middle.steps
        if not np.isfinite(x).all():
            continue
        span += [line[:, 1] for line in lines] + [middle.value]
        if np.isfinite(middle.low).all():
            reach = np.ptp(np.concatenate([line[:, 1] for line in lines]))
            low = np.maximum(middle.low, min(line[:, 1].min() for line in lines) - reach / 2)
            high = np.minimum(middle.high, max(line[:, 1].max() for line in lines) + reach / 2)
            axes.fill_between(x, low, high, color=pen, alpha=shade, linewidth=0, gid=f"{name}-band")
        (line,) = axes.plot(x, middle.value, color=pen, linestyle=dash(group.index), linewidth=1.8, gid=name)
        line.set_solid_capstyle("round")
        if len(x) <= 2:
            line.set_marker("o")
            line.set_markersize(3)
        end = max(end, float(x[-1]), *(float(line[-1, 0]) for line in lines))
    if not span:
        return False
    dress(axes, theme)
    axes.set_xlim(0, end or 1)
    values = np.concatenate(span)
    if own_scale and values.min() > 0 and values.max() > WIDE_RANGE * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda y, _: f"{y:.0e}".replace("e-0", "e-").replace("e+0", "e"))
        )
    axes.set_xlabel(
        f"time ({unit[0]})" if clock else "environment steps", color=theme.pale, fontsize=FONT - 1
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count_label(x)))
    return True


def unit_of(curves: Sequence[Curve]) -> tuple[str, float]:
    """The unit in which the clock of some curves is read, and its seconds."""
    longest = max((np.nanmax(c.seconds) for c in curves if np.isfinite(c.seconds).any()), default=0.0)
    return ("h", 3600.0) if longest > 3 * 3600 else ("min", 60.0) if longest > 180 else ("s", 1.0)


def readings(axes: Axes, groups: Sequence[Group], metric: str, clock: bool) -> str:
    """The points of all drawn curves and the place of the axes, as JSON of numbers alone, for the page's script."""
    curves = [curve for group in groups for curve in group.curves.get(metric, [])]
    unit = unit_of(curves) if clock else ("", 1.0)
    place, (width, height) = axes.get_position(), (72 * SIZE[0], 72 * SIZE[1])
    box = [place.x0 * width, (1 - place.y1) * height, place.x1 * width, (1 - place.y0) * height]
    lines = []
    for group in groups:
        middle = group.middle(metric)
        if middle is None:
            continue
        x = middle.seconds / unit[1] if clock else middle.steps
        if np.isfinite(x).all():
            bounds = [middle.low, middle.high] if np.isfinite(middle.low).all() else []
            rows = [few(x, 7 if clock else 12), *(few(each, 6) for each in (middle.value, *bounds))]
            lines.append([group.index, *rows])
    log = int(axes.get_yscale() == "log")
    said = {"box": few(box, 4), "x": few(axes.get_xlim(), 9), "y": few(axes.get_ylim(), 9), "log": log}
    return json.dumps(said | {"unit": unit[0], "lines": lines}, separators=(",", ":"))


def few(values: ArrayLike, digits: int) -> list[int | float]:
    """Numbers with so many digits; whole ones as such."""
    rounded = [float(f"{x:.{digits}g}") for x in np.asarray(values, np.float64)]
    return [int(x) if x.is_integer() and abs(x) < 1e15 else x for x in rounded]


def draw_profile(axes: Axes, scores: dict[int, list[np.ndarray]], theme: Theme, across: bool = False) -> None:
    """Share of runs that score more than each return; `scores` are by the index of their group."""
    everything = np.concatenate([each for one in scores.values() for each in one])
    low, high = float(everything.min()), float(everything.max())
    room = 0.04 * (high - low) or 0.5
    at = np.unique(np.concatenate([everything, np.linspace(low - room, high + room, 101)]))
    shade = 0.09 * min(1, 5 / len(scores))
    for index, each in scores.items():
        share = statistics.profile(each, at)
        below, above = statistics.share_interval(share, sum(map(len, each)))
        pen, name = colour(index, theme), f"s{index}"
        own = (at >= min(map(np.min, each))) & (at <= max(map(np.max, each)))
        axes.fill_between(
            at, below, above, where=own, step="post", color=pen, alpha=shade, linewidth=0, gid=f"{name}-band"
        )
        axes.step(at, share, where="post", color=pen, linestyle=dash(index), linewidth=1.8, gid=name)
    dress(axes, theme)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: value_label(x, max(abs(low), abs(high)))))
    axes.set_xlabel("scaled return" if across else "return", color=theme.pale, fontsize=FONT)


def draw_pairs(axes: Axes, pairs: Sequence[Pair], theme: Theme) -> None:
    """Probabilities of improvement with their intervals, one below the other."""
    for row, each in enumerate(pairs):
        pen = theme.series[0] if each.told_apart else theme.pale
        axes.plot([each.low, each.high], [row, row], color=pen, linewidth=3, solid_capstyle="butt")
        axes.plot([each.probability], [row], "o", color=theme.ink, markersize=4, clip_on=False)
    dress(axes, theme)
    axes.axvline(0.5, color=theme.pale, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_yticks(range(len(pairs)), [f"{each.better} > {each.worse}" for each in pairs], parse_math=False)
    axes.set_xlabel("probability of improvement", color=theme.pale, fontsize=FONT)


def dress(axes: Axes, theme: Theme) -> None:
    """Quiet axes with few numbers."""
    axes.margins(x=0, y=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: value_label(y, max(map(abs, axes.get_ylim())))))
    axes.tick_params(labelsize=FONT, length=0, labelcolor=theme.ink, pad=4)
    axes.grid(axis="y", color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)


def value_label(y: float, largest: float) -> str:
    """A value on an axis in few characters."""
    text = f"{y:,.6g}" if largest < 1e5 else count_label(y)
    return ("0" if abs(y) < 1e-9 * largest else text).replace("-", "\N{MINUS SIGN}")


# ---- on a page


def chart() -> tuple[Figure, Axes]:
    """An empty chart of a page."""
    figure = Figure(figsize=SIZE)
    figure.patch.set_visible(False)
    return figure, figure.add_axes((0.14, 0.16, 0.84, 0.8))


def make_room(axes: Axes) -> None:
    """Let the axes begin where the numbers on their left end; much faster than a layout that draws them first."""
    places = axes.yaxis.get_majorticklocs()
    widest = max(
        (len(label) for label in axes.yaxis.get_major_formatter().format_ticks(list(map(float, places)))),
        default=0,
    )
    left = (0.65 * FONT * widest + 8) / (72 * SIZE[0])
    axes.set_position((left, 0.16, 0.98 - left, 0.8))


def curves_svg(
    groups: Sequence[Group], metric: str, clock: bool, number: int, own_scale: bool
) -> Element | None:
    """The chart of a metric; None where there is nothing to draw."""
    figure, axes = chart()
    drawn = draw_curves(axes, groups, metric, clock, NAMED, own_scale)
    if not drawn:
        return None
    drawing = as_svg(figure, number)
    drawing.set("data-plot", readings(axes, groups, metric, clock))
    return drawing


def profile_svg(scores: dict[int, list[np.ndarray]], number: int, across: bool) -> Element:
    """The chart of performance profiles."""
    figure, axes = chart()
    draw_profile(axes, scores, NAMED, across)
    return as_svg(figure, number)


def as_svg(figure: Figure, number: int) -> Element:
    """A figure as an element of a page, in which it is chart `number`."""
    make_room(figure.axes[0])
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "polyak"}):
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    return inlined(ElementTree.fromstring(text.getvalue()), f"c{number}")


def inlined(drawing: Element, prefix: str) -> Element:
    """Make Matplotlib's SVG part of a page: no rules for others, no names that another chart has, few digits."""
    for element in drawing.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if "}" in name]:
            element.attrib[name.rpartition("}")[2]] = element.attrib.pop(name)
    for parent in list(drawing.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style", "title"):
                parent.remove(child)
    written = " ".join(value for element in drawing.iter() for value in element.attrib.values())
    used = set(re.findall(r"url\(#([^)]+)\)|(?:^| )#(\S+)", written))
    kept = {one or other for one, other in used}
    for element in drawing.iter():
        own = element.attrib.pop("id", "")
        if own in kept:
            element.set("id", f"{prefix}-{own}")
        elif re.fullmatch(r"s\d+(-\w+)?", own):
            element.set("class", own.replace("-", " "))
        for name, value in element.attrib.items():
            element.set(name, tidy(name, value, prefix))
    for name in ("width", "height", "version"):
        drawing.attrib.pop(name, None)
    drawing.set("aria-hidden", "true")
    return drawing


def tidy(name: str, value: str, prefix: str) -> str:
    """One attribute of an SVG: references by their new names, colours as a page's, few digits."""
    value = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)
    if name == "href":
        value = re.sub(r"^#", f"#{prefix}-", value)
    if name in ("d", "x", "y", "points"):
        value = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), value)
        value = " ".join(value.split())
    if name in ("style", "fill", "stroke"):
        value = re.sub(r"#0a0[bc][0-9a-f]{2}", lambda m: NAMES[m[0]], value)
        value = re.sub(
            r"font-family:[^;]*;?|font: ([\d.]+px)[^;]*", lambda m: f"font-size: {m[1]}" * bool(m[1]), value
        )
    return value


# ---- one picture


def draw_png(path: Path, comparison: Comparison) -> Path:
    """One picture of all environments: curves beside how groups compare; written whole."""
    worlds = comparison.worlds[:MOST_ROWS]
    rows = max(1, len(worlds) + (comparison.overall is not None))
    figure = Figure(figsize=(11, 3.2 * rows + 0.7), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    cells = np.atleast_2d(np.array(figure.subplots(rows, 2)))
    for (left, right), world in zip(cells, worlds, strict=False):
        drawn = draw_curves(left, world.groups, world.metric, False, ON_PAPER)
        title(left, world.name if drawn else f"{world.name}: nothing logged yet")
        beside(right, world)
    if comparison.overall is not None:
        across(cells[-1], comparison, comparison.overall)
    handles = [
        figure.axes[0].plot([], [], color=colour(i, ON_PAPER), linestyle=dash(i), linewidth=2)[0]
        for i in range(len(comparison.labels))
    ]
    key = figure.legend(handles, comparison.labels, loc="outside lower center", ncols=min(4, max(1, len(handles))),
                        frameon=False, fontsize=FONT)  # fmt: skip
    for text in key.get_texts():
        text.set_parse_math(False)
    with replacing(path) as unfinished, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name that no font has, or that leaves little room
        figure.savefig(unfinished, format="png", facecolor="white")
    return path


def beside(axes: Axes, world: World) -> None:
    """How groups of an environment compare; the curves against the clock where there is one group only."""
    if world.pairs:
        draw_pairs(axes, world.pairs[:10], ON_PAPER)
        title(axes, f"after {world.step:,} steps")
    elif draw_curves(axes, world.groups, world.metric, True, ON_PAPER):
        title(axes, "against the clock")
    else:
        axes.set_axis_off()


def across(cells: Sequence[Axes], comparison: Comparison, overall: Overall) -> None:
    """The last row: profiles over all environments, and how groups compare over them."""
    indices = {comparison.labels.index(name): each for name, each in overall.scores.items()}
    draw_profile(cells[0], indices, ON_PAPER, across=True)
    title(cells[0], f"share of runs above, {len(overall.worlds)} environments")
    draw_pairs(cells[1], overall.pairs[:10], ON_PAPER)
    title(cells[1], "over all environments")


def title(axes: Axes, text: str) -> None:
    """Words above a part of a picture, which no formula is read from."""
    axes.set_title(text[:80], loc="left", fontsize=FONT + 1, color=INK, parse_math=False)

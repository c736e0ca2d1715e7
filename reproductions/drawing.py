"""A learning curve as data in JSON, and as a small SVG whose text is text, in light and dark colours."""

import json
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.ticker import MaxNLocator

from polyak.show.charts import value_label
from polyak.show.curve import count_label, interquartile_mean, iqm_interval

WIDTH, HEIGHT, TOP, RIGHT, BOTTOM = 560, 300, 40, 24, 50
DIGIT = 7.2  # width of a digit in the labels of the axes
MOST_SEEDS = 12  # that are drawn one by one
FEWEST = 3  # of which an interval says anything

STYLE = """
text { font: 12px system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #4a5160; }
.up { font-weight: 650; fill: #22262e; }
.page { fill: #ffffff; }
.grid { stroke: #e4e7ec; }
.axis { stroke: #b6bcc8; }
.iqm { stroke: #2563c9; stroke-width: 2.2; fill: none; stroke-linejoin: round; stroke-linecap: round; }
.dot, .band { fill: #2563c9; }
.band { opacity: 0.17; }
.seed { stroke: #2563c9; stroke-width: 0.8; fill: none; opacity: 0.4; }
.target { stroke: #b4560f; stroke-width: 1.3; stroke-dasharray: 5 4; }
.said { fill: #b4560f; }
@media (prefers-color-scheme: dark) {
  text { fill: #a9b2bf; }
  .up { fill: #e4e8ee; }
  .page { fill: #131416; }
  .grid { stroke: #2a2e36; }
  .axis { stroke: #4a5160; }
  .iqm, .seed { stroke: #8ab4ff; }
  .dot, .band { fill: #8ab4ff; }
  .target { stroke: #f0a35e; }
  .said { fill: #f0a35e; }
}
"""


class Target(NamedTuple):
    """A value that a curve is to reach, and what it is; with `most` no value can be beyond it."""

    value: float
    words: str
    most: bool = False


class Curve(NamedTuple):
    """What was measured.

    x       [P]  what was spent so far, in the unit that `across` names; `log`: each a multiple of the last
    values  [S, P]  what was reached, of each seed
    across  what x counts
    up      what the values are
    how     how it came about, after "python -m reproductions.curves NAME", in Markdown
    target  drawn as a dashed line
    each    what the rows are: seeds, unless said
    note    what else a reader should know
    """

    x: np.ndarray
    values: np.ndarray
    across: str
    up: str
    how: str = ""
    target: Target | None = None
    log: bool = False
    each: str = "seeds"
    note: str = ""


def as_json(curve: Curve) -> str:
    """A curve as a file keeps it, six digits of each number, a seed on each line."""
    said = {name: value for name, value in curve._asdict().items() if name not in ("x", "values", "target")}
    said["target"] = curve.target and curve.target._asdict()
    lines = [
        f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}," for name, value in said.items()
    ]
    rows = ",\n    ".join(json.dumps(few(row)) for row in curve.values)
    return "\n".join(
        ["{", *lines, f'  "x": {json.dumps(few(curve.x))},', f'  "values": [\n    {rows}\n  ]', "}\n"]
    )


def few(values: np.ndarray) -> list[float | int]:
    """Numbers of six digits; whole ones as such."""
    rounded = [float(f"{value:.6g}") for value in values]
    return [int(value) if value.is_integer() else value for value in rounded]


def from_json(text: str) -> Curve:
    """A curve that a file kept."""
    said = json.loads(text)
    target = Target(**said["target"]) if said["target"] else None
    values = {name: np.array(said[name], float) for name in ("x", "values")}
    return Curve(**(said | values | {"target": target}))


def interval(curve: Curve) -> tuple[np.ndarray, np.ndarray] | None:
    """The 95 % interval (low, high) [P] of the interquartile mean; None of too few seeds to have one."""
    if len(curve.values) < FEWEST:
        return None
    low, high = iqm_interval(curve.values)
    if curve.target and curve.target.most:
        high = np.minimum(high, curve.target.value)
    return low, high


def outcome(curve: Curve) -> str:
    """First and last interquartile mean, the last with its interval, in words."""
    middle, band = interquartile_mean(curve.values), interval(curve)
    scale = float(np.abs(middle).max())
    first, last = (value_label(float(f"{y:.3g}"), scale) for y in (middle[0], middle[-1]))
    if band:
        last += " [{}, {}]".format(*(value_label(float(f"{end[-1]:.3g}"), scale) for end in band))
    return f"{curve.up[0].upper()}{curve.up[1:]}: {first} at first, {last} at the end"


def draw(curve: Curve, title: str, said: str) -> str:
    """The picture as SVG; `said` is kept in it as its description."""
    middle, band = interquartile_mean(curve.values), interval(curve)
    low, high = float(curve.values.min()), float(curve.values.max())
    if band:  # what is beyond all seeds is left out of the picture
        band = np.clip(band[0], low, high), np.clip(band[1], low, high)
    if curve.target:
        low, high = min(low, curve.target.value), max(high, curve.target.value)
    reach = (high - low) or 1.0
    beneath = bool(curve.target and curve.target.value < low + 0.15 * reach)  # its words stand below the line
    low, high = low - (0.14 if beneath else 0.05) * reach, high + 0.05 * reach
    ticks = [y for y in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= y <= high]
    labels = [value_label(y, max(abs(low), abs(high))) for y in ticks]
    left = 22 + DIGIT * max(map(len, labels))
    at = np.log(curve.x) if curve.log else np.asarray(curve.x, float)
    begin, end = (at[0], at[-1]) if curve.log else (0.0, at[-1])

    def across(x: np.ndarray | float) -> np.ndarray:
        return left + (x - begin) / (end - begin) * (WIDTH - RIGHT - left)

    def down(y: np.ndarray | float) -> np.ndarray:
        return HEIGHT - BOTTOM - (np.asarray(y) - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    def points(x: np.ndarray, y: np.ndarray) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(x), down(y), strict=True))

    parts = [f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="10"/>']
    for y, label in zip(ticks, labels, strict=True):
        parts.append(line("grid", left, down(y), WIDTH - RIGHT, down(y)))
        parts.append(text(left - 8, down(y) + 4, label, "end"))
    parts.append(line("axis", left, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    for x, label in marks(curve, end):
        parts.append(text(across(x), HEIGHT - BOTTOM + 18, label, "middle"))
    if band:
        outline = f"{points(at, band[1])} {points(at[::-1], band[0][::-1])}"
        parts.append(f'<polygon class="band" points="{outline}"/>')
    if 1 < len(curve.values) <= MOST_SEEDS:
        parts += [f'<polyline class="seed" points="{points(at, each)}"/>' for each in curve.values]
    if curve.target:
        y = down(curve.target.value)
        parts.append(line("target", left, y, WIDTH - RIGHT, y))
        parts.append(text(WIDTH - RIGHT, y + 15 if beneath else y - 5, curve.target.words, "end", "said"))
    parts.append(f'<polyline class="iqm" points="{points(at, middle)}"/>')
    if curve.log:
        places = zip(across(at), down(middle), strict=True)
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    parts.append(text(14, 22, curve.up, "start", "up"))
    parts.append(text(left, HEIGHT - 12, curve.across, "start", "up"))
    parts.append(text(WIDTH - RIGHT, HEIGHT - 12, legend(curve), "end"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img">\n<title>{escape(title)}</title>\n<desc>{escape(said)}</desc>\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def marks(curve: Curve, end: float) -> list[tuple[float, str]]:
    """Places and labels on the axis below."""
    if curve.log:
        return [(float(np.log(x)), count_label(x)) for x in curve.x]
    places = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end)
    return [(float(x), count_label(x)) for x in places if 0 <= x <= end * 1.0001]


def legend(curve: Curve) -> str:
    """What the line and the band are."""
    count = len(curve.values)
    if count == 1:
        return f"1 {curve.each.removesuffix('s')}"
    return f"{count} {curve.each}, interquartile mean" + (" and 95 % interval" if count >= FEWEST else "")


def line(kind: str, x: float, y: float, to_x: float, to_y: float) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>'


def text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    """One line of text."""
    name = f'class="{kind}" ' if kind else ""
    return f'<text {name}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

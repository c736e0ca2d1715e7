"""One page about runs: a single file of HTML that opens from disk, needs no network and runs one script of its own.

What stands in a run folder may come from a stranger. It enters the page as text of an XML tree and nowhere else, which
the library escapes when it writes the tree; no script, style or name is made of it. The page forbids every connection
and every script but the one whose digest it names.
"""

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from polyak import __version__
from polyak.errors import printable
from polyak.show import charts, statistics
from polyak.show.comparison import Comparison, Overall, Pair, World
from polyak.show.groups import EVALUATION, Group, Trace
from polyak.show.html import breakable, folded, h, row, scrolled
from polyak.show.verdicts import beside, probability, verdicts
from polyak.show.words import figure, listed, shown

GENERATOR = "polyak report"  # by which a page is known
MOST_CHARTS = 60  # of update metrics, on the whole page
MOST_PAIRS = 45  # rows of a table of pairs
MANY_SEEDS = 60  # from which on single seeds are hidden at first


class Video(NamedTuple):
    """A film of a policy, small enough to be part of the page."""

    run: str
    kind: str  # video/mp4 or image/gif
    data: bytes


class Html(NamedTuple):
    """The parts of a page that are numbered."""

    chart: list[int]

    def number(self) -> int:
        """The number of the next chart."""
        self.chart[0] += 1
        return self.chart[0]


def write_page(comparison: Comparison, videos: Sequence[Video], left_out: Sequence[str]) -> bytes:
    """The page as UTF-8.

    left_out  what could not be read, in words
    """
    read = importlib.resources.files("polyak.show")
    script = (read / "page.js").read_text(encoding="utf-8")
    style = (read / "page.css").read_text(encoding="utf-8")
    style += "".join(f".off-s{i} .s{i} {{ display: none; }}\n" for i in range(len(comparison.labels)))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    heading = title_of(comparison)
    page = h(
        "html",
        h(
            "head",
            h("meta", charset="utf-8"),
            h("meta", http_equiv="Content-Security-Policy", content=policy),
            h("meta", name="viewport", content="width=device-width, initial-scale=1"),
            h("meta", name="generator", content=GENERATOR),
            h("meta", name="color-scheme", content="light dark"),
            h("title", heading),
            h("style", style),
        ),
        h(
            "body",
            body(comparison, videos, left_out, heading),
            h("script", script),
            class_=many_seeds(comparison),
        ),
        lang="en",
    )
    text = ElementTree.tostring(page, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n".encode()


def title_of(comparison: Comparison) -> str:
    """What the page is about, in a line."""
    what, where = comparison.labels, [world.name for world in comparison.worlds]
    said = [", ".join(names) if len(names) <= 3 else f"{len(names)} {kind}"
            for names, kind in ((what, "algorithms and settings"), (where, "environments"))]  # fmt: skip
    return printable(" on ".join(said), 200)


def many_seeds(comparison: Comparison) -> str | None:
    """Hide single seeds at first, where they would cover all else."""
    seeds = max((sum(map(len_seeds, world.groups)) for world in comparison.worlds), default=0)
    return "no-seeds" if seeds > MANY_SEEDS else None


def len_seeds(group: Group) -> int:
    """How many seeds a group has."""
    return len({(c.run, c.seed) for curves in group.curves.values() for c in curves})


def body(comparison: Comparison, videos: Sequence[Video], left_out: Sequence[str], heading: str) -> list[Any]:
    """All that is seen."""
    parts, several = Html([0]), len(comparison.worlds) > 1
    return [
        h("h1", heading),
        h("p", counts(comparison), class_="pale"),
        verdict(comparison, several),
        legend(comparison),
        [environment(world, comparison, parts) for world in comparison.worlds],
        overall(comparison.overall, comparison, parts) if comparison.overall else None,
        films(videos),
        metrics(comparison, parts),
        settings(comparison.traces),
        remarks(comparison.notes, left_out),
        method(comparison),
        h("footer", h("small", f"Made by polyak {__version__}: polyak report")),
    ]


def counts(comparison: Comparison) -> str:
    """How much is shown."""
    seeds = sum(len_seeds(group) for world in comparison.worlds for group in world.groups)
    return ", ".join(
        f"{number:,} {word}{'' if number == 1 else 's'}"
        for number, word in (
            (len(comparison.traces), "run"),
            (seeds, "seed"),
            (len(comparison.worlds), "environment"),
        )
    )


def verdict(comparison: Comparison, several: bool) -> Element:
    """The answer first, in words."""
    lines = []
    if comparison.overall is not None:
        names = comparison.overall.worlds
        lines.append(
            h("p", h("strong", f"Over {len(names)} environments: "), overall_verdict(comparison.overall))
        )
    for world in comparison.worlds:
        said = verdicts(world)
        if not said:
            said = [
                "Nothing was logged yet."
                if not any(g.curves for g in world.groups)
                else "Nothing to compare."
            ]
        where = h("strong", f"{world.name}: ") if several else None
        lines.append(h("p", where, " ".join(said)))
    return h("section", lines, class_="verdict", aria_label="verdict")


def overall_verdict(overall: Overall) -> str:
    """The best group over all environments beside each other one."""
    return " ".join(beside(next(iter(overall.scores)), overall.pairs))


def swatch(index: int) -> Element:
    """The line of a group, as a legend shows it."""
    dash = charts.dash(index)
    broken = " ".join(f"{2.2 * x:g}" for x in dash[1]) if isinstance(dash, tuple) else None
    stroke = f"stroke: var(--s{index % len(charts.LIGHT)}); stroke-width: 3"
    line = h("line", x1="0", y1="5", x2="24", y2="5", style=stroke, stroke_dasharray=broken)
    return h("svg", line, viewBox="0 0 24 10", aria_hidden="true")


def legend(comparison: Comparison) -> Element:
    """Buttons that show and hide groups, and single seeds."""
    buttons = [
        h("button", swatch(i), h("span", name), type="button", aria_pressed="true", data_hides=f"off-s{i}")
        for i, name in enumerate(comparison.labels)
    ]
    on = "false" if many_seeds(comparison) else "true"
    seeds = h("button", "single seeds", type="button", aria_pressed=on, data_hides="no-seeds")
    return h("nav", buttons, seeds, class_="legend", aria_label="groups that are shown")


def chart(drawing: Element | None, caption: str, labels: Sequence[str]) -> Element | None:
    """A chart with its words, None where there is none; a line says whose it is where the mouse rests."""
    if drawing is None:
        return None
    for element in list(drawing.iter()):
        group = re.match(r"s(\d+)", element.get("class", ""))
        if group:
            element.insert(0, h("title", labels[int(group[1])]))
    return h("figure", h("figcaption", caption), drawing, role="img", aria_label=caption)


# ---- one environment


def environment(world: World, comparison: Comparison, parts: Html) -> Element:
    """Curves, final returns, and how groups compare."""
    what = "evaluation return" if world.metric == EVALUATION else "training return"
    curves = [
        chart(
            charts.curves_svg(world.groups, world.metric, clock, parts.number(), False),
            f"{what}, by {'the clock' if clock else 'environment steps'}",
            comparison.labels,
        )
        for clock in (False, True)
    ]
    profiles = None
    if len(world.compared) > 1:
        scores = {group.index: [group.scores] for group in world.compared}
        drawing = charts.profile_svg(scores, parts.number(), across=False)
        said = f"performance profile: share of runs that return more, after {world.step:,} steps"
        profiles = chart(drawing, said, comparison.labels)
    if not any(each is not None for each in curves):
        return h("section", h("h2", world.name), h("p", "Nothing was logged yet.", class_="pale"))
    return h(
        "section",
        h("h2", world.name),
        h("div", curves, class_="charts"),
        finals(world),
        h("div", pairs_table(world.pairs, world.compared), profiles, class_="charts")
        if world.pairs
        else None,
        percentiles(world),
    )


def finals(world: World) -> Element | None:
    """The returns that are compared, in a table."""
    if not world.compared:
        return None
    rows = []
    for group in world.compared:
        middle, low, high = (float(x[0]) for x in statistics.iqm_interval([group.scores[:, None]]))
        between = f"[{figure(low)}, {figure(high)}]" if np.isfinite(low) else "too few seeds"
        cells = [figure(middle), between, figure(group.scores.mean()), figure(group.scores.min()),
                 figure(group.scores.max()), str(len(group.scores)), f"{group.at:,}"]  # fmt: skip
        rows.append(row(named(group), *cells, class_=f"s{group.index}"))
    head = row("", "IQM", "95 %", "mean", "worst seed", "best seed", "seeds", "at step", cell="th")
    return h("div", h("h3", f"After {world.step:,} steps"), scrolled(h("thead", head), h("tbody", rows)))


def named(group: Group) -> list[Any]:
    """A group with its line."""
    return [swatch(group.index), " ", group.label]


def pairs_table(pairs: Sequence[Pair], compared: Sequence[Group]) -> Element:
    """Probabilities of improvement, as bars and numbers."""
    listing = list(pairs)
    if len(listing) > MOST_PAIRS and compared:
        listing = [each for each in pairs if compared[0].label in (each.better, each.worse)]
    rows = [
        row(
            f"{each.better} > {each.worse}",
            bar(each),
            probability(each),
        )
        for each in listing[:MOST_PAIRS]
    ]
    dropped = len(pairs) - len(rows)
    return h(
        "div",
        h("h3", "Probability of improvement"),
        h(
            "p",
            "that a run of the first returns more than a run of the second; dashed: one half",
            class_="pale",
        ),
        scrolled(h("tbody", rows)),
        h("p", f"{dropped} other pairs are left out.", class_="pale") if dropped else None,
    )


def bar(each: Pair) -> Element:
    """An interval between 0 and 1."""
    left, width = 100 * each.low, 100 * (each.high - each.low)
    return h(
        "span",
        h("i", style=f"left: {left:.1f}%; width: {width:.1f}%"),
        h("b", style=f"left: {100 * each.probability:.1f}%"),
        h("u"),
        class_="bar clear" if each.told_apart else "bar",
    )


def percentiles(world: World) -> Element | None:
    """The same with the intervals that rliable prints."""
    rows = []
    for group in world.compared:
        if len(group.scores) < 2:
            continue
        indices = statistics.resampling([len(group.scores)])
        low, high = statistics.percentiles(statistics.resampled_iqm([group.scores], indices))
        middle = float(statistics.iqm([group.scores]))
        rows.append(
            row(f"IQM of {group.label}", f"{figure(middle)} [{figure(float(low))}, {figure(float(high))}]")
        )
    for each in world.pairs[:MOST_PAIRS]:
        low, high = each.rliable
        rows.append(row(f"{each.better} > {each.worse}", f"{each.probability:.2f} [{low:.2f}, {high:.2f}]"))
    if not rows:
        return None
    said = "With few seeds in one environment these intervals are too narrow (see below); they are here to compare."
    return h(
        "details",
        h("summary", "The same with rliable's percentile bootstrap"),
        h("p", said, class_="pale"),
        scrolled(h("tbody", rows)),
    )


def overall(each: Overall, comparison: Comparison, parts: Html) -> Element:
    """What holds over environments."""
    order = comparison.labels
    rows = []
    for name, scores in each.scores.items():
        middle, low, high = (float(x[0]) for x in statistics.iqm_interval([one[:, None] for one in scores]))
        between = f"[{low:.2f}, {high:.2f}]" if np.isfinite(low) else "too few seeds"
        cells = [swatch(order.index(name)), " ", name], f"{middle:.2f}", between, str(len(scores[0]))
        rows.append(row(*cells, class_=f"s{order.index(name)}"))
    drawing = charts.profile_svg(
        {order.index(n): s for n, s in each.scores.items()}, parts.number(), across=True
    )
    said = (
        "Returns are scaled in each environment, so that 0 is the lowest and 1 the highest of the runs on this page: "
        f"these numbers mean nothing outside it. Environments: {listed(each.worlds, 30)}."
    )
    head = row("", "IQM", "95 %", "seeds in each", cell="th")
    return h(
        "section",
        h("h2", f"Over {len(each.worlds)} environments"),
        h("p", said, class_="pale"),
        scrolled(h("thead", head), h("tbody", rows)),
        h(
            "div",
            pairs_table(each.pairs, []),
            chart(drawing, "performance profile: share of runs with more", order),
            class_="charts",
        ),
    )


# ---- what else there is


def films(videos: Sequence[Video]) -> Element | None:
    """The policies, as they move."""
    if not videos:
        return None
    shown = []
    for each in videos:
        source = f"data:{each.kind};base64,{base64.b64encode(each.data).decode()}"
        if each.kind == "image/gif":
            film = h("img", src=source, alt=f"the policy of {each.run}")
        else:
            film = h("video", src=source, controls="", muted="", loop="", playsinline="", preload="metadata")
        shown.append(h("figure", h("figcaption", each.run), film))
    return h("section", h("h2", "The policies"), h("div", shown, class_="charts"))


def metrics(comparison: Comparison, parts: Html) -> Element | None:
    """Charts of everything else that was logged, by environment; closed at first."""
    left, sections = MOST_CHARTS, []
    for world in comparison.worlds:
        names = dict.fromkeys(name for group in world.groups for name in sorted(group.curves))
        names = [
            name
            for name in names
            if name != world.metric and name.startswith(("episode/", "update/", "actor/"))
        ]
        names = [name for name in names if name != "episode/count"]
        drawn = [
            chart(
                charts.curves_svg(world.groups, name, False, parts.number(), True),
                printable(name, 60),
                comparison.labels,
            )
            for name in names[:left]
        ]
        more = len(names) - len(names[:left])
        left = max(0, left - len(names))
        said = (
            f"{more} more metrics are left out, so that the page stays small: see metrics.jsonl."
            if more
            else None
        )
        if drawn or more:
            summary = f"{world.name}: {len(names[: len(drawn)])} metrics of training and updates"
            sections.append(h("details", h("summary", summary), h("p", said, class_="pale") if said else None,
                              h("div", drawn, class_="charts small")))  # fmt: skip
    if not sections:
        return None
    return h(
        "section",
        h("h2", "Updates"),
        h("p", "Metrics of one name may mean different things in different algorithms.", class_="pale"),
        sections,
    )


def settings(traces: Sequence[Trace]) -> Element:
    """Settings side by side: first those that differ, marked, then those that only some runs have, then the others."""
    tables = [{**trace.settings, **trace.facts} for trace in traces]
    names = list(dict.fromkeys(name for table in tables for name in table))
    some = [name for name in names if any(name not in table for table in tables)]
    everywhere = [name for name in names if name not in some]
    differing = [n for n in everywhere if any(shown(t[n]) != shown(tables[0][n]) for t in tables)]
    same = [name for name in everywhere if name not in differing]
    head = h("thead", row("setting", *(trace.name for trace in traces), cell="th"))

    def rows(chosen: list[str], mark: str | None = None) -> Element:
        cells = ([breakable(n), *(shown(t[n]) if n in t else "–" for t in tables)] for n in chosen)
        return h("tbody", [row(*each, class_=mark) for each in cells])

    common = h("tbody", [row(breakable(name), shown(tables[0][name])) for name in same])
    return h(
        "section",
        h("h2", "Settings"),
        scrolled(head, rows(differing, "differs"), class_="settings") if differing else None,
        folded(f"{len(some)} that not all runs have", scrolled(head, rows(some), class_="settings"))
        if some
        else None,
        folded(
            f"{len(same)} that are the same" if len(traces) > 1 else f"{len(same)} settings",
            scrolled(common, class_="settings"),
        ),
    )


def remarks(notes: Sequence[str], left_out: Sequence[str]) -> Element | None:
    """What is not shown or not compared, and why."""
    lines = [h("li", printable(line, 500)) for line in [*left_out, *dict.fromkeys(notes)][:200]]
    return h("section", h("h2", "Left out, and to be known"), h("ul", lines)) if lines else None


def method(comparison: Comparison) -> Element:
    """How the numbers were made."""
    sizes = {len(group.scores) for world in comparison.worlds for group in world.compared} - {0, 1, 2}
    wider = listed(f"{statistics.widening([size]):.2f} with {size}" for size in sorted(sizes))
    said = [
        "Thick lines are interquartile means (IQM) over seeds: the mean of the middle half. Shaded are their 95 % "
        "intervals, point by point, by a bootstrap that is stratified by environments (Agarwal et al. 2021), "
        f"{statistics.RESAMPLES:,} resamples, always the same ones.",
        "Of one environment with few seeds the bootstrap's percentiles are too narrow: of three seeds they cover the "
        "truth in 74 % of cases and not in 95 %. They are widened as Student's t is wider than the normal distribution"
        + (f" (by {wider} seeds)." if wider else "."),
        "The probability of improvement is Mann and Whitney's: that a run of the one returns more than a run of the "
        "other, ties one half. Its interval is Newcombe's (2006), which covers also where one wins always; that of a "
        "profile is Wilson's. No interval is corrected for how many comparisons there are.",
        "A chart reads out its curves where the mouse rests, where a finger taps or slides, and, once it has the "
        "focus, by the arrow keys, Home and End; Escape ends that.",
        "Time on the clock is counted from the first line of the log, without pauses; it does not include compilation "
        "before that line.",
    ]
    return h("section", h("h2", "How these numbers are made"), [h("p", line, class_="pale") for line in said])

"""The drawings of a report: curves by matplotlib, and the marks that stand in the cells of its tables.

All is inline SVG in colours of the page, so it turns dark with it, without a script, a font or a file. The
marks are a bar and a dot each, hundreds on a page, placed by shares of the width of their cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any, NamedTuple

from lxml import etree

from fieldstone.evaluate.report.findings import number
from fieldstone.evaluate.statistics.bootstrap import Estimate

HEIGHT = 31
"""Of a row, in pixels: the lines of the rows of a group touch."""

APART = 11
"""Pixels between two marks in one row."""

MARGIN = 2.0
"""Per cent left free at both ends, for a dot is wider than its place."""

SIZE = (4.6, 2.2)
"""Of a chart with lines, in inches of 72 units; the page draws it as wide as there is room."""

NICE = (1, 2, 2.5, 5, 10)
"""What a scale may end at, times a power of ten."""


COLOURS = {"now": "dot", "then": "grey", **{f"c{i}": f"c{i}" for i in range(6)}}
"""The class of a line -> the page's variable that holds its colour."""

STAND_INS = {name: f"#0000{place + 1:02x}" for place, name in enumerate([*COLOURS, "soft", "line"])}
"""matplotlib knows no variables: it draws in these inks, and the page's are put in their place."""

PAGE_INKS = {ink: f"var(--{COLOURS.get(name, name)})" for name, ink in STAND_INS.items()}

DASHES = {
    "c1": (0, (3.5, 1.5)),
    "c2": (0, (1, 1.5)),
    "c3": (0, (4.5, 1.5, 1, 1.5)),
    "c4": (0, (6, 2)),
    "c5": (0, (2, 1)),
}
"""Of the lines, so that they can be told apart without colours."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 10,
    "text.color": STAND_INS["soft"],
    "xtick.color": STAND_INS["soft"],
    "ytick.color": STAND_INS["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": STAND_INS["line"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


class Line(NamedTuple):
    """A line through points, in the class that colours it, with what the screen reader says of it.

    `band` holds (x, low, high); `dots` are marked places.
    """

    kind: str
    label: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    dots: Sequence[tuple[float, float]] = ()


def interval(estimate: Estimate, low: float, high: float) -> str:
    """The interval as a bar with a dot at the value, on a scale with a line at each quarter and at 0."""
    label = _label(estimate)
    return _svg(label, HEIGHT, _scale(low, high) + _mark(estimate, low, high, HEIGHT / 2, "now"))


def marks(named: Mapping[str, tuple[str, Estimate]], high: float) -> str:
    """Intervals one above the other on one scale from 0: name -> (class that colours it, estimate)."""
    label = "; ".join(f"{name} {_label(estimate)}" for name, (_, estimate) in named.items())
    drawn = (
        _mark(estimate, 0.0, high, APART * (place + 1), kind)
        for place, (kind, estimate) in enumerate(named.values())
    )
    return _svg(label, APART * (len(named) + 1), _scale(0.0, high) + "".join(drawn))


def stacked(counts: Mapping[str, int], order: Sequence[str]) -> str:
    """A bar whose parts are the shares of the counts; part i of `order` has the class `s<i>`."""
    total = sum(counts.values())
    parts, left = "", 0.0
    for i, name in enumerate(order):
        width = 100 * counts.get(name, 0) / total
        if width:
            text = f'<text x="{left + width / 2:.2f}%" y="19">{counts[name]}</text>' if width > 5 else ""
            parts += (
                f'<g class="s{i}"><rect x="{left:.2f}%" width="{width:.2f}%" y="0" height="28">'
                f"<title>{escape(name)}: {counts[name]}</title></rect>{text}</g>"
            )
        left += width
    return _svg("; ".join(f"{counts[name]} {name}" for name in order if counts.get(name)), 28, parts)


def lines(
    its: Sequence[Line], x: tuple[float, float], top: float, xs: Sequence[str], ys: Sequence[str]
) -> str:
    """Lines from `x[0]` to `x[1]` and from 0 to `top`; `xs` and `ys` name places at even steps."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    label = "; ".join(line.label for line in its)
    # the same chart is the same text, and another one has other ids on the page
    with rc_context(STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot(xlim=x, ylim=(0, top))
        axes.set_xticks(_steps(*x, len(xs)), xs)
        axes.set_yticks(_steps(0, top, len(ys)), ys)
        axes.grid(axis="y")
        axes.spines[:].set_visible(False)
        for line in its:
            ink, dashes = STAND_INS[line.kind], DASHES.get(line.kind, "solid")
            if line.band:
                at, low, high = zip(*line.band, strict=True)
                axes.fill_between(at, low, high, color=ink, alpha=0.16, linewidth=0)
            if line.points:
                axes.plot(*zip(*line.points, strict=True), color=ink, linestyle=dashes)
            if line.dots:
                axes.plot(*zip(*line.dots, strict=True), "o", color=ink, clip_on=False)
        written = StringIO()
        figure.savefig(written, format="svg")
    return _of_the_page(written.getvalue(), label)


def scale(highest: float) -> tuple[float, list[str]]:
    """Where a scale from 0 ends that has room for `highest`, and the names of its places."""
    power = 10.0 ** math.floor(math.log10(highest)) if highest > 0 else 0.1
    top = next(step * power for step in NICE if step * power >= highest * (1 - 1e-9))
    return top, [f"{top * part / 4:.3g}" for part in range(5)]


def _svg(label: str, height: float, inside: str) -> str:
    return f'<svg role="img" aria-label="{escape(label)}" width="100%" height="{height}">{inside}</svg>'


def _steps(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / (count - 1) for i in range(count)]


def _of_the_page(drawn: str, label: str) -> str:
    """matplotlib's SVG as a part of the page: in its colours and font, as wide as there is room."""
    root = etree.fromstring(drawn.encode())
    for node in root.xpath("//*[local-name() = 'metadata' or local-name() = 'style']"):
        node.getparent().remove(node)
    used = set(re.findall(r"#([\w-]+)", " ".join(root.xpath("//@*"))))
    for node in root.iter():
        if node.get("id") not in used:  # the others would stand there again in the next chart
            node.attrib.pop("id", None)
        # the page allows no styles but its own, so they become attributes
        for name, value in re.findall(r"([\w-]+): ([^;]+)", node.attrib.pop("style", "")):
            if name != "font-family":
                node.set(name, PAGE_INKS.get(value, value))
    inside = "".join(etree.tostring(child, encoding="unicode") for child in root)
    inside = re.sub(r' xmlns(:\w+)?="[^"]*"', "", inside).replace("xlink:href", "href")
    return (
        f'<svg class="curves" role="img" aria-label="{escape(label)}" viewBox="{root.get("viewBox")}">'
        f"{inside}</svg>"
    )


def _scale(low: float, high: float) -> str:
    quarters = "".join(_line(_x(low + (high - low) * i / 4, low, high), "axis") for i in range(5))
    return quarters + (_line(_x(0.0, low, high), "zero") if low < 0 else "")


def _line(at: float, name: str) -> str:
    return f'<line class="{name}" x1="{at}%" x2="{at}%" y1="0" y2="100%"/>'


def _mark(estimate: Estimate, low: float, high: float, y: float, name: str) -> str:
    left, right = _x(estimate.low, low, high), _x(estimate.high, low, high)
    return (
        f'<g class="{name}"><rect class="band" x="{left}%" y="{y - 3}" rx="3" height="6" '
        f'width="{max(0.4, round(right - left, 2))}%"/>'
        f'<circle class="dot" cx="{_x(estimate.value, low, high)}%" cy="{y}" r="4"/></g>'
    )


def _x(value: float, low: float, high: float) -> float:
    """Per cent from the left."""
    return round(MARGIN + _share(value, low, high) * (100 - 2 * MARGIN), 2)


def _share(value: float, low: float, high: float) -> float:
    return (min(max(value, low), high) - low) / (high - low)


def _label(estimate: Estimate) -> str:
    return f"{number(estimate.value)}, from {number(estimate.low)} to {number(estimate.high)}"

"""The drawings of a report: inline SVG whose widths are shares, so that it fits a phone and a printer.

They are drawn by hand and not by a plotting library, for a page needs little and what it needs such a library
does not do: marks that take their colours from the page (so they turn dark with it), text in the page's own
font and size on a wide screen as on a narrow one, no script, no font and no dependency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from fieldstone.evaluate.report.findings import number
from fieldstone.evaluate.statistics.bootstrap import Estimate

HEIGHT = 31
"""Of a row, in pixels: the lines of the rows of a group touch."""

APART = 11
"""Pixels between two marks in one row."""

MARGIN = 2.0
"""Per cent left free at both ends, for a dot is wider than its place."""

TALL = 210
"""Of a chart with lines, in pixels."""

NICE = (1, 2, 2.5, 5, 10)
"""What a scale may end at, times a power of ten."""


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
    inside = "".join(_band(line, x, top) for line in its) + "".join(_path(line, x, top) for line in its)
    grid = "".join(_rule(place / (len(ys) - 1)) for place in range(len(ys)))
    dots = "".join(
        f'<circle class="{line.kind} dot" r="5" cx="{100 * _share(a, *x):.2f}%" '
        f'cy="{TALL * (1 - _share(b, 0, top)):.1f}"/>'
        for line in its
        for a, b in line.dots
    )
    drawn = (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="{TALL}">{inside}</svg>'
    )
    whole = _svg("; ".join(line.label for line in its), TALL, grid + drawn + dots)
    return (
        f'<div class="chart"><div class="ys">{_names(reversed(ys))}</div>{whole}'
        f'<div class="xs">{_names(xs)}</div></div>'
    )


def scale(highest: float) -> tuple[float, list[str]]:
    """Where a scale from 0 ends that has room for `highest`, and the names of its places."""
    power = 10.0 ** math.floor(math.log10(highest)) if highest > 0 else 0.1
    top = next(step * power for step in NICE if step * power >= highest * (1 - 1e-9))
    return top, [f"{top * part / 4:.3g}" for part in range(5)]


def _svg(label: str, height: float, inside: str) -> str:
    return f'<svg role="img" aria-label="{escape(label)}" width="100%" height="{height}">{inside}</svg>'


def _names(names: Iterable[str]) -> str:
    return "".join(f"<span>{escape(name)}</span>" for name in names)


def _scale(low: float, high: float) -> str:
    quarters = "".join(_line(_x(low + (high - low) * i / 4, low, high), "axis") for i in range(5))
    return quarters + (_line(_x(0.0, low, high), "zero") if low < 0 else "")


def _line(at: float, name: str) -> str:
    return f'<line class="{name}" x1="{at}%" x2="{at}%" y1="0" y2="100%"/>'


def _rule(share: float) -> str:
    at = round(100 * share, 2)
    return f'<line class="axis" x1="0" x2="100%" y1="{at}%" y2="{at}%"/>'


def _path(line: Line, x: tuple[float, float], top: float) -> str:
    points = " ".join(_at(a, b, x, top) for a, b in line.points)
    return f'<polyline class="{line.kind} line" points="{points}"/>'


def _band(line: Line, x: tuple[float, float], top: float) -> str:
    if not line.band:
        return ""
    above = [_at(a, high, x, top) for a, _, high in line.band]
    below = [_at(a, low, x, top) for a, low, _ in reversed(line.band)]
    return f'<polygon class="{line.kind} area" points="{" ".join([*above, *below])}"/>'


def _at(a: float, b: float, x: tuple[float, float], top: float) -> str:
    return f"{100 * _share(a, *x):.2f},{100 * (1 - _share(b, 0, top)):.2f}"


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

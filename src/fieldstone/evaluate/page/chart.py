"""The drawings of a report: inline SVG whose widths are shares, so that it fits a phone and a printer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from fieldstone.evaluate.compare import Estimate
from fieldstone.evaluate.findings import number

HEIGHT = 31
"""Of a row, in pixels: the lines of the rows of a group touch."""

MARGIN = 2.0
"""Per cent left free at both ends, for a dot is wider than its place."""


def interval(estimate: Estimate, low: float, high: float) -> str:
    """The interval as a bar with a dot at the value, on a scale with a line at each quarter and at 0."""
    label = _label(estimate)
    return _svg(label, HEIGHT, _scale(low, high) + _mark(estimate, low, high, HEIGHT / 2, "now"))


def before_after(before: Estimate, after: Estimate, high: float) -> str:
    """Two intervals on one scale from 0, the earlier above the later."""
    label = f"before {_label(before)}; after {_label(after)}"
    marks = _mark(before, 0.0, high, 11, "then") + _mark(after, 0.0, high, 22, "now")
    return _svg(label, HEIGHT + 2, _scale(0.0, high) + marks)


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


def _svg(label: str, height: int, inside: str) -> str:
    return f'<svg role="img" aria-label="{escape(label)}" width="100%" height="{height}">{inside}</svg>'


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
    share = (min(max(value, low), high) - low) / (high - low)
    return round(MARGIN + share * (100 - 2 * MARGIN), 2)


def _label(estimate: Estimate) -> str:
    return f"{number(estimate.value)}, from {number(estimate.low)} to {number(estimate.high)}"

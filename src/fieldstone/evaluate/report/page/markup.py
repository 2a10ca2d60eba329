"""Pieces of HTML that the sections of a report share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape

from fieldstone.evaluate.report.findings import AFTER, BEFORE, number, p_value
from fieldstone.evaluate.report.page import chart
from fieldstone.evaluate.statistics.bootstrap import Estimate
from fieldstone.evaluate.statistics.significance import Test, more_than_chance

COLOURS = 6
"""The page's style knows the classes c0 to c5."""


def colours(systems: Iterable[str]) -> dict[str, str]:
    """The class that colours each system: `then` and `now` before and after tuning, else one of c0 to c5."""
    usual = {BEFORE: "then", AFTER: "now"}
    return {name: usual.get(name, f"c{place % COLOURS}") for place, name in enumerate(systems)}


def difference_row(
    measure: str,
    estimate: Estimate,
    reach: float,
    words: str,
    kind: str = "",
    test: Test | None = None,
) -> str:
    """A row of a table of differences; a test's p and wins are told under the verdict."""
    return (
        f"<tr{'' if more_than_chance(estimate, test) else ' class=noise'}>"
        f'<th scope="row">{escape(measure)}</th>'
        f'<td class="plot">{chart.interval(estimate, -reach, reach)}</td>'
        f'<td class="number">{number(estimate.value, signed=True)}</td>'
        f'<td class="range">{number(estimate.low, signed=True)} to {number(estimate.high, signed=True)}</td>'
        f'<td class="verdict {kind}">{escape(words)}{_tested(test)}</td></tr>'
    )


def _tested(test: Test | None) -> str:
    """Won, tied and lost questions, and the p value."""
    if test is None:
        return ""
    p = p_value(test.p) + ("" if test.holm == test.p else f", after Holm {p_value(test.holm)}")
    return f'<span class="test">{test.wins} won, {test.ties} tied, {test.losses} lost; {p}</span>'


def reach_of(pairs: Iterable[Mapping[str, Estimate]], measure: str) -> float:
    """Half the scale that a measure's differences are drawn on: one for all within 1, else its own."""
    reach: dict[str, float] = {}
    for measures in pairs:
        for name, estimate in measures.items():
            reach[name] = max(reach.get(name, 0.05), abs(estimate.low), abs(estimate.high))
    own = reach[measure]
    return 1.05 * (own if own > 1 else max(value for value in reach.values() if value <= 1))


def heading(name: str) -> str:
    """The name of a set of questions; nothing where there is only one, without a name."""
    return f"<h3>{escape(name)}</h3>" if name else ""


def note_list(notes: Iterable[str]) -> Iterator[str]:
    """What the reader must know."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    if items:
        yield f'<ul class="notes">{items}</ul>'


def table_head(kind: str, *names: str) -> str:
    """The start of a table; one of the kind `rows` folds up on a phone. The names are HTML."""
    left = ("measure", "system", "stage", "verdict", "")
    cells = "".join(
        f"<th{'' if name in left or not place else ' class=right'}>{name}</th>"
        for place, name in enumerate(names)
    )
    return f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead>'

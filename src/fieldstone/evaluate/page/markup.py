"""Pieces of HTML that the sections of a report share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape

from fieldstone.evaluate import chart
from fieldstone.evaluate.compare import Estimate
from fieldstone.evaluate.findings import number


def difference_row(measure: str, estimate: Estimate, reach: float, words: str, kind: str = "") -> str:
    """A row of a table of differences."""
    return (
        f"<tr{'' if estimate.beyond_noise else ' class=noise'}>"
        f'<th scope="row">{escape(measure)}</th>'
        f'<td class="plot">{chart.interval(estimate, -reach, reach)}</td>'
        f'<td class="number">{number(estimate.value, signed=True)}</td>'
        f'<td class="range">{number(estimate.low, signed=True)} to {number(estimate.high, signed=True)}</td>'
        f'<td class="verdict {kind}">{escape(words)}</td></tr>'
    )


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
    """The start of a table; one of the kind `rows` folds up on a phone."""
    left = ("measure", "system", "stage", "verdict", "")
    cells = "".join(f"<th{'' if name in left else ' class=right'}>{name}</th>" for name in names)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead>'

"""The sections of a report about tuning: what the gate decided, and how loss and score went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fieldstone.evaluate.report.findings import decision, number, seen, why
from fieldstone.evaluate.report.page import chart
from fieldstone.evaluate.report.page.markup import difference_row, reach_of, table_head

Content = Mapping[str, Any]


def verdict_section(content: Content) -> Iterator[str]:
    """What the gate decided about each candidate, and on what."""
    verdicts = content.get("verdicts", ())
    if not verdicts:
        return
    yield '<h2>What the gate decided</h2><p class="soft">A candidate goes into use only if it beats what is '
    yield 'in use on questions that it was not tuned on.</p><div class="verdicts">'
    for verdict in verdicts:
        kind = "good" if verdict["accepted"] else "bad"
        yield f'<div class="card {kind}"><p class="cap">{escape(verdict["part"])} {decision(verdict)}</p>'
        yield f'<p class="cap">{escape(why(verdict))}</p>'
        differences = seen(verdict)
        if differences:
            yield table_head("rows", "measure", "", "difference", "95 % interval", "") + "<tbody>"
        for i, (measure, difference) in enumerate(differences.items()):
            reach = reach_of([differences], measure)
            yield difference_row(measure, difference, reach, "must not fall" if i else "decides")
        yield "</tbody></table></div>" if differences else ""
        pair = f"{verdict['candidate']} against {verdict['incumbent']}"
        yield f'<p class="soft">{escape(pair)}</p></div>'
    yield "</div>"


def curve_section(content: Content) -> Iterator[str]:
    """The training loss of each candidate by step, and its score on dev questions where it was taken."""
    curves = [curve for curve in content.get("curves", ()) if curve["losses"]]
    if not curves:
        return
    yield '<h2>How tuning went</h2><p class="soft">A loss that falls says that the training questions were '
    yield "learnt, not that the candidate is better on others: that the score tells, and the gate.</p>"
    yield '<div class="pair">'
    for curve in curves:
        name = f"{curve['part']} {curve['candidate']}"
        yield from _drawn(f"{name}: training loss", curve["losses"])
        if len({score for _, score in curve["scores"]}) > 1:  # where nothing was to choose, all are 0
            yield from _drawn(f"{name}: score on dev questions", curve["scores"])
    yield "</div>"


def _drawn(title: str, points: list[tuple[float, float]]) -> Iterator[str]:
    (start, first), (end, last) = points[0], points[-1]
    top, places = chart.scale(max(value for _, value in points))
    steps = [start, (start + end) / 2, end] if (end - start) % 2 == 0 else [start, end]
    label = f"{title}, from {number(first)} at step {start:g} to {number(last)} at step {end:g}"
    line = chart.Line("now", label, points, dots=points if len(points) < 10 else ())
    drawn = chart.lines([line], (start, max(end, start + 1)), top, [f"{step:g}" for step in steps], places)
    yield f'<figure><figcaption class="cap">{escape(title)}</figcaption>{drawn}'
    yield '<p class="soft under">step</p></figure>'

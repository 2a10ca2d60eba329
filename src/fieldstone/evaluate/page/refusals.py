"""The section of a report about refusing: what is risked at each share of questions that is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fieldstone.evaluate.compare import Estimate
from fieldstone.evaluate.findings import number, per_cent, sets_of, short
from fieldstone.evaluate.page import chart
from fieldstone.evaluate.page.markup import colours, heading, table_head

Content = Mapping[str, Any]

BANDS = 2
"""With more systems the bands of their intervals would hide one another."""

TENTHS = tuple(f"{part} %" for part in (0, 25, 50, 75, 100))


def refusal_section(content: Content) -> Iterator[str]:
    """A chart a set of questions, with a line a system, and where each system has chosen to stand."""
    shown = {name: its["coverage"] for name, its in sets_of(content).items() if its.get("coverage")}
    if not shown:
        return
    wrong = next(iter(next(iter(shown.values())).values()))["wrong"]
    yield '<h2>When it refuses</h2><p class="soft">A system that refuses what it is least sure of answers '
    yield "fewer questions, and of these fewer are wrong, if its confidence is worth anything: then the line "
    yield f"falls towards the left. The dot is where the system stands. Wrong is {escape(wrong)}.</p>"
    for name, systems in shown.items():
        yield heading(name)
        yield from _chart(systems)
        yield from _table(systems)
        yield from _kinds(systems)


def _chart(systems: Mapping[str, Content]) -> Iterator[str]:
    drawn, colour = [], colours(systems)
    for system, found in systems.items():
        points = [(point["coverage"], point["risk"]) for point in found["points"]]
        band = [(point["coverage"], point["low"], point["high"]) for point in found["points"]]
        chosen = found["chosen"]
        dots = [_stand(chosen)] if chosen["coverage"] and chosen["risk"] else []
        label = f"{system}: {', '.join(f'{per_cent(b)} wrong of {per_cent(a)} answered' for a, b in points)}"
        kept = band if len(systems) <= BANDS else ()
        drawn.append(chart.Line(colour[system], label, points, kept, dots))
    if not any(line.points for line in drawn):
        return
    yield '<figure><p class="legend">'
    if len(systems) > 1:
        for system in systems:
            yield f'<span><span class="key {colour[system]}"></span>{escape(system)}</span>'
    yield "</p>"
    risks = [point["risk"] for found in systems.values() for point in found["points"]]
    top, names = chart.scale(min(1.0, max(0.1, *risks)))
    places = [per_cent(float(name)) for name in names]
    yield '<figcaption class="soft">wrong, of those answered</figcaption>'
    yield chart.lines(drawn, (0.0, 1.0), top, TENTHS, places)
    yield '<p class="soft under">answered, of all questions</p></figure>'


def _stand(chosen: Content) -> tuple[float, float]:
    return chosen["coverage"]["value"], chosen["risk"]["value"]


def _table(systems: Mapping[str, Content]) -> Iterator[str]:
    """Where each system stands, with intervals, and the area under its line."""
    columns = {
        "answered": "coverage",
        "wrong of these": "risk",
        "refusals that were right": "precision",
        "unanswerable that were refused": "recall",
        "refusal F1": "f1",
    }
    yield table_head(
        "wrapped", "system", "threshold", *columns, "area under the line", "above the best order"
    )
    yield "<tbody>"
    for system, found in systems.items():
        threshold = found["chosen"]["threshold"]
        yield f'<tr><th scope="row">{escape(system)}</th>'
        yield f'<td class="number">{"" if threshold is None else short(threshold)}</td>'
        for name in columns.values():
            yield f'<td class="number">{_cell(found["chosen"][name])}</td>'
        for area in (found["aurc"], found["excess"]):
            yield f'<td class="number">{"" if area is None else number(area)}</td>'
        yield "</tr>"
    yield "</tbody></table></div>"


def _kinds(systems: Mapping[str, Content]) -> Iterator[str]:
    kinds = list(dict.fromkeys(kind for found in systems.values() for kind in found["kinds"]))
    if not kinds:
        return
    yield '<p class="soft after">Of the questions that the documents do not answer, the share that was '
    yield "refused, by kind. A near miss looks as if they did.</p>"
    yield table_head("wrapped", "system", *map(escape, kinds)) + "<tbody>"
    for system, found in systems.items():
        cells = "".join(f'<td class="number">{_cell(found["kinds"].get(kind))}</td>' for kind in kinds)
        yield f'<tr><th scope="row">{escape(system)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _cell(values: Content | None) -> str:
    if not values:
        return ""
    estimate = Estimate(**values)
    reach = f"{short(estimate.low)} to {short(estimate.high)}"
    return f'{short(estimate.value)}<span class="range">{reach}, n = {estimate.n:,}</span>'

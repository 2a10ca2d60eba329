"""The section of a report about refusing: what is risked at each share of questions that is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fieldstone.evaluate.report.findings import per_cent, sets_of, short
from fieldstone.evaluate.report.page import chart
from fieldstone.evaluate.report.page.markup import colours, heading, table_head
from fieldstone.evaluate.statistics.bootstrap import Estimate

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
    yield "<figure>"
    if len(systems) > 1:
        keys = (f'<span class="key {colour[system]}"></span>{escape(system)}' for system in systems)
        yield f'<p class="legend">{"".join(f"<span>{key}</span>" for key in keys)}</p>'
    risks = [point["risk"] for found in systems.values() for point in found["points"]]
    top, names = chart.scale(min(1.0, max(0.1, *risks)))
    places = [f"{100 * float(name):.3g} %" for name in names]
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
    yield from _rows(
        {
            system: {
                "threshold": "" if (at := found["chosen"]["threshold"]) is None else short(at),
                **{name: _estimate(found["chosen"][field]) for name, field in columns.items()},
                "area under the line": _area(found),
            }
            for system, found in systems.items()
        }
    )


def _kinds(systems: Mapping[str, Content]) -> Iterator[str]:
    kinds = list(dict.fromkeys(kind for found in systems.values() for kind in found["kinds"]))
    if not kinds:
        return
    yield '<p class="soft after">Of the questions that the documents do not answer, the share that was '
    yield "refused, by kind. A near miss looks as if they did.</p>"
    yield from _rows(
        {
            system: {kind: _estimate(found["kinds"].get(kind)) for kind in kinds}
            for system, found in systems.items()
        }
    )


def _rows(rows: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A row a system; on a phone each cell is a line that begins with its name."""
    names = [escape(name) for name in next(iter(rows.values()))]
    yield table_head("wrapped", "system", *names) + "<tbody>"
    for system, cells in rows.items():
        yield f'<tr><th scope="row">{escape(system)}</th>'
        for name, cell in zip(names, cells.values(), strict=True):
            yield f'<td class="number" data-name="{name}"><span>{cell}</span></td>'
        yield "</tr>"
    yield "</tbody></table></div>"


def _area(found: Content) -> str:
    if found["aurc"] is None:
        return ""
    return f'{short(found["aurc"])}<span class="range">{short(found["excess"])} above the best</span>'


def _estimate(values: Content | None) -> str:
    if not values:
        return ""
    estimate = Estimate(**values)
    reach = f"{short(estimate.low)} to {short(estimate.high)}"
    lines = (f'<span class="range">{line}</span>' for line in (reach, f"n = {estimate.n:,}"))
    return short(estimate.value) + "".join(lines)

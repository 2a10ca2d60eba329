"""The HTML page of an evaluation: one file that asks for nothing from outside itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from fieldstone.evaluate import chart
from fieldstone.evaluate.compare import Estimate
from fieldstone.evaluate.findings import (
    AFTER,
    BEFORE,
    changes,
    headline,
    number,
    sets_of,
    verdict_in_words,
)
from fieldstone.evaluate.markup import difference_row, heading, note_list, reach_of, table_head
from fieldstone.evaluate.tuned import tuned_sections, verdict_section

Content = Mapping[str, Any]

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_page(content: Content) -> str:
    """The page of an evaluation that `report.as_json` made plain."""
    date = str(content["date"]).replace("T", " ").replace("+00:00", " UTC")
    sets = sets_of(content)
    tuned = any(changes(questions) for questions in sets.values())
    title = "Before and after tuning" if tuned else "Evaluation"
    said = headline(content)
    style = (files("fieldstone.evaluate") / "page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}, {escape(date)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>",
            f'<h1>{title}</h1>\n<p class="soft">{escape(date)}</p>',
            f'<p class="headline">{escape(said)}</p>' if said else "",
            *note_list(content["notes"]),
            *(tuned_sections(content) if tuned else verdict_section(content)),
            *_compared(sets, folded=tuned),
            *_folded("Settings", content["settings"]),
            *_folded("Versions", content.get("versions", {})),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _compared(sets: Mapping[str, Content], *, folded: bool) -> Iterator[str]:
    """All systems and all pairs; where before and after stand above, only if there are others, and folded."""
    for name, questions in sets.items():
        systems, differences = questions["systems"], questions["differences"]
        if not systems or (folded and set(systems) <= {BEFORE, AFTER}):
            continue
        if folded:
            yield f"<details><summary>All systems{': ' if name else ''}{escape(name)}</summary>"
        else:
            yield heading(name)
            yield from note_list(questions["notes"] if name else ())
        yield from _systems(systems)
        yield from _differences(differences)
        yield "</details>" if folded else ""


def _systems(systems: Mapping[str, Mapping[str, Content]]) -> Iterator[str]:
    yield "<h2>Systems</h2>"
    yield (
        '<p class="soft">Each dot is a mean over questions, each bar its 95 % interval: where the mean would '
        "lie with other questions and documents of the same kind. The scale runs from 0 to 1, or to the "
        "greatest value where that is above 1.</p>"
    )
    yield table_head("", "measure", "system", "", "mean", "95 % interval", "questions")
    for measure, rows in _by_measure(systems):
        top = max(1.0, *(estimate.high for _, estimate in rows))
        yield "<tbody>"
        for i, (system, estimate) in enumerate(rows):
            first = f'<th scope="rowgroup" rowspan="{len(rows)}">{escape(measure)}</th>' if i == 0 else ""
            yield (
                f'<tr>{first}<th scope="row">{escape(system)}</th>'
                f'<td class="plot">{chart.interval(estimate, 0.0, top)}</td>'
                f'<td class="number">{number(estimate.value)}</td>'
                f'<td class="range">{number(estimate.low)} to {number(estimate.high)}</td>'
                f'<td class="count">{estimate.n:,}</td></tr>'
            )
        yield "</tbody>"
    yield "</table></div>"


def _differences(differences: Mapping[str, Mapping[str, Content]]) -> Iterator[str]:
    if not differences:
        return
    yield "<h2>Differences</h2>"
    yield (
        '<p class="soft">Both systems on the same questions. Where the bar crosses the line at zero, the '
        "difference lies within the noise and these questions cannot tell the two apart.</p>"
    )
    yield table_head("rows", "measure", "", "by", "95 % interval", "verdict")
    pairs = {
        pair: {measure: Estimate(**values) for measure, values in measures.items()}
        for pair, measures in differences.items()
    }
    for pair, measures in pairs.items():
        yield "<tbody>"
        yield f'<tr><th scope="rowgroup" colspan="5">{escape(pair)}</th></tr>'
        for measure, estimate in measures.items():
            reach = reach_of(pairs.values(), measure)
            yield difference_row(measure, estimate, reach, verdict_in_words(pair, estimate))
        yield "</tbody>"
    yield "</table></div>"


def _by_measure(
    systems: Mapping[str, Mapping[str, Content]],
) -> Iterator[tuple[str, list[tuple[str, Estimate]]]]:
    for measure in dict.fromkeys(measure for measures in systems.values() for measure in measures):
        rows = [(name, Estimate(**found[measure])) for name, found in systems.items() if measure in found]
        yield measure, rows


def _folded(name: str, tree: Content) -> Iterator[str]:
    if tree:
        yield f"<details><summary>{name}</summary>\n<dl>"
        for key, value in _flat(tree):
            yield f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>"
        yield "</dl></details>"


def _flat(tree: Content, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value

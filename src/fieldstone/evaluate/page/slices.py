"""The section of a report about parts of the questions: by document, kind and length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fieldstone.evaluate.compare import FEWEST, Estimate
from fieldstone.evaluate.findings import AFTER, BEFORE, number, sets_of
from fieldstone.evaluate.page import chart
from fieldstone.evaluate.page.markup import colours, heading, table_head

Content = Mapping[str, Any]

SYSTEMS = 4
"""So many systems are drawn, the last: the whole ones stand at the end. The JSON has all of them."""

PARTS = 12
"""So many parts of one division are shown unfolded, those with most questions."""

MEANING = {
    "answer score": "F1 of the answer; of a question that the documents do not answer, 1 for a refusal",
    "recall@5": "share of questions whose passage is among the first five",
}


def slice_section(content: Content) -> Iterator[str]:
    """Each division of each set of questions: a row a part, with a mark a system."""
    shown = {name: its["slices"] for name, its in sets_of(content).items() if its.get("slices")}
    if not any(its["by"] for its in shown.values()):
        return
    yield '<h2>Parts of the questions</h2><p class="soft">With many parts some fall out high or low by '
    yield "chance: this says where to look. "
    yield f"A part of fewer than {FEWEST} questions is named and not judged.</p>"
    for name, its in shown.items():
        systems = _drawn(its)
        colour = colours(systems)
        yield heading(name)
        yield f'<p class="soft"><span class="cap">{escape(its["measure"])}</span>'
        yield f": {MEANING.get(its['measure'], 'mean')}. "
        yield from (
            f'<span class="key {colour[system]}"></span>{escape(system)} ({number(overall.value)} on all) '
            for system, overall in systems.items()
        )
        yield "</p>"
        for division, parts in its["by"].items():
            yield from _division(division, parts, list(systems), colour)


def _drawn(its: Content) -> dict[str, Estimate]:
    """The systems that are drawn, with their means on all questions."""
    names = list(its["overall"])
    names = [BEFORE, AFTER] if {BEFORE, AFTER} <= set(names) else names[-SYSTEMS:]
    return {name: Estimate(**its["overall"][name]) for name in names}


def _division(
    name: str, parts: Sequence[Content], systems: Sequence[str], colour: Mapping[str, str]
) -> Iterator[str]:
    large = [part for part in parts if part["systems"]]
    small = [part for part in parts if not part["systems"]]
    if large:
        yield table_head("rows slices", f"by {name}", "", *map(escape, systems), "questions")
        yield from _rows(large[:PARTS], systems, colour)
        yield "</table></div>"
    if large[PARTS:]:
        yield f"<details><summary>{len(large) - PARTS} further parts by {name}</summary>"
        yield table_head("rows slices", f"by {name}", "", *map(escape, systems), "questions")
        yield from _rows(large[PARTS:], systems, colour)
        yield "</table></div></details>"
    if small:
        named = ", ".join(f"{part['name'] or 'none named'} ({part['n']})" for part in small)
        yield f'<p class="soft small">By {name}, fewer than {FEWEST} questions: {escape(named)}</p>'


def _rows(parts: Sequence[Content], systems: Sequence[str], colour: Mapping[str, str]) -> Iterator[str]:
    yield "<tbody>"
    for part in parts:
        found = {name: Estimate(**part["systems"][name]) for name in systems if name in part["systems"]}
        drawn = chart.marks({name: (colour[name], its) for name, its in found.items()}, 1.0)
        yield f'<tr><th scope="row">{escape(part["name"] or "none named")}</th><td class="plot">{drawn}</td>'
        for name in systems:
            key = f'<span class="key {colour[name]}"></span>' if len(systems) > 1 else ""
            yield f'<td class="number">{key + number(found[name].value) if name in found else ""}</td>'
        yield f'<td class="count">{part["n"]:,}</td></tr>'
    yield "</tbody>"

"""The section of a report about parts of the questions: by document, kind and length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fieldstone.evaluate.report.findings import AFTER, BEFORE, number, sets_of
from fieldstone.evaluate.report.page import chart
from fieldstone.evaluate.report.page.markup import colours, heading, table_head
from fieldstone.evaluate.statistics.bootstrap import FEWEST, Estimate

Content = Mapping[str, Any]

SYSTEMS = 4
"""So many systems are drawn, the last: the whole ones stand at the end. The JSON has all of them."""

PARTS = 12
"""So many parts of one division are shown unfolded, those with most questions."""

FEW = 8
"""So many small parts are named unfolded."""

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
        meaning = MEANING.get(its["measure"], "mean")
        yield f'<p class="soft cap">{escape(its["measure"])}: {meaning}.</p><p class="legend">'
        for system, overall in systems.items():
            key = f'<span class="key {colour[system]}"></span>'
            yield f"<span>{key}{escape(system)}, {number(overall.value)} on all</span>"
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
    yield f"<h4>By {name}</h4>"
    yield from _table(large[:PARTS], systems, colour)
    if large[PARTS:]:
        yield f"<details><summary>{len(large) - PARTS} more</summary>"
        yield from _table(large[PARTS:], systems, colour)
        yield "</details>"
    named = escape(", ".join(f"{_name(part)} ({part['n']})" for part in small))
    if len(small) > FEW:
        yield f"<details><summary>{len(small)} with fewer than {FEWEST} questions each</summary>"
        yield f'<p class="soft small">{named}</p></details>'
    elif small:
        yield f'<p class="soft small">With fewer than {FEWEST} questions: {named}</p>'


def _table(parts: Sequence[Content], systems: Sequence[str], colour: Mapping[str, str]) -> Iterator[str]:
    if not parts:
        return
    yield table_head("rows slices", "", "", *map(escape, systems), "questions") + "<tbody>"
    for part in parts:
        found = {name: Estimate(**part["systems"][name]) for name in systems if name in part["systems"]}
        drawn = chart.marks({name: (colour[name], its) for name, its in found.items()}, 1.0)
        yield f'<tr><th scope="row">{escape(_name(part))}</th><td class="plot">{drawn}</td>'
        for name in systems:
            key = f'<span class="key {colour[name]}"></span>' if len(systems) > 1 else ""
            yield f'<td class="number">{key + number(found[name].value) if name in found else ""}</td>'
        yield f'<td class="count">{part["n"]:,}</td></tr>'
    yield "</tbody></table></div>"


def _name(part: Content) -> str:
    return str(part["name"]) or "about no document"

"""The section of a report about where questions were lost, and how they moved between before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fieldstone.evaluate.measures.lost import ANSWERABLE, GOOD, STAGES, UNANSWERABLE, UNKNOWN
from fieldstone.evaluate.report.findings import AFTER, BEFORE, sets_of
from fieldstone.evaluate.report.page import chart
from fieldstone.evaluate.report.page.markup import heading, table_head

Content = Mapping[str, Any]

MEANING = {
    "right": "the answer is right and cites a passage that holds it",
    "misread": "the right passage was cited, but the answer is wrong",
    "cited elsewhere": "the right passage was read, but the answer cites another",
    "refused": "the right passage was read, but the system would not answer",
    "ranked low": "the right passage was found, but not among those that are read",
    "not found": "the search did not find the right passage",
    "refused rightly": "the documents hold no answer, and the system said so",
    "answered though nothing stands there": "the documents hold no answer, and the system gave one",
    UNKNOWN: "where the answer stands is not known, so no stage can be blamed",
}


def lost_section(content: Content) -> Iterator[str]:
    """A bar for each system that answers: each question at the first stage that let go of the answer."""
    shown = {name: its for name, its in sets_of(content).items() if any(its.get("lost", {}).values())}
    if not shown:
        return
    yield '<h2>Where questions were lost</h2><p class="soft">Each question is counted at the first stage '
    yield "that let go of the right answer.</p>"
    for name, questions in shown.items():
        systems = {system: counts for system, counts in questions["lost"].items() if counts}
        yield f'{heading(name)}<div class="bars">'
        for system, counts in systems.items():
            yield f"<div>{escape(system)}</div><div>{chart.stacked(counts, STAGES)}</div>"
        yield "</div>"
        yield from _stages(systems)
        if {BEFORE, AFTER} <= set(systems):
            yield from _moves(questions["moved"], ANSWERABLE)
            yield from _moves(questions["moved"], UNANSWERABLE)


def _stages(systems: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What each stage means, and how many questions each system lost there."""
    pair = list(systems) == [BEFORE, AFTER]
    head = table_head("rows stages" if len(systems) < 3 else "stages", "stage", *map(escape, systems), "")
    yield f"{head}<tbody>"
    for i, stage in enumerate(STAGES):
        if any(stage in counts for counts in systems.values()):
            yield f'<tr><th scope="row"><span class="key part s{i}"></span>{stage}</th>'
            for system, counts in systems.items():
                arrow = " arrow" if pair and system == BEFORE else ""
                yield f'<td class="number{arrow}">{counts.get(stage, 0):,}</td>'
            yield f'<td class="verdict soft">{MEANING[stage]}</td></tr>'
    yield "</tbody></table></div>"


def _moves(moved: Mapping[str, Mapping[str, int]], stages: Sequence[str]) -> Iterator[str]:
    """How many questions went from each stage (a row) to each (a column)."""
    starts = [stage for stage in stages if stage in moved]
    ends = [stage for stage in stages if any(stage in moved[start] for start in starts)]
    if not starts:
        return
    head = "".join(f"<th>{end}</th>" for end in ends)
    yield '<div class="wide"><table class="moves"><caption>A row for each stage before, a column for each '
    yield f"after</caption><thead><tr><td></td>{head}</tr></thead><tbody>"
    for start in starts:
        cells = "".join(_cell(start, end, moved[start].get(end, 0)) for end in ends)
        yield f'<tr><th scope="row">{start}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _cell(start: str, end: str, count: int) -> str:
    kind = "same" if start == end or not count else ""
    if count and (start in GOOD) != (end in GOOD):
        kind = "better" if end in GOOD else "worse"
    return f'<td class="{kind}">{count or "·"}</td>'

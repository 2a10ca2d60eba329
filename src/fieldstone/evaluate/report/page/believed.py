"""The section of a report about what may be believed: the judge, and the synthetic questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fieldstone.evaluate.report.findings import number, per_cent, sets_of
from fieldstone.evaluate.report.page import chart
from fieldstone.evaluate.report.page.markup import difference_row, heading, note_list, reach_of, table_head
from fieldstone.evaluate.statistics.bootstrap import Estimate

Content = Mapping[str, Any]

OF_A_JUDGE = {
    "agreement": "same verdict as people",
    "kappa": "kappa: agreement beyond chance",
    "by_words": "kappa of F1 from .5, without a judge",
    "bias": "called right more often than by people",
}


def judge_section(content: Content) -> Iterator[str]:
    """How a judge did on answers that people judged."""
    shown = {name: its["judged"] for name, its in sets_of(content).items() if its.get("judged")}
    if shown:
        yield "<h2>How far to believe the judge</h2>"
    for name, judged in shown.items():
        kind = "good" if judged.get("fit") else "bad"
        told = {words: Estimate(**judged[field]) for field, words in OF_A_JUDGE.items() if judged.get(field)}
        yield f'{heading(name)}<div class="verdicts"><div class="card {kind}">'
        yield f'<p class="cap">{escape(str(judged.get("judge", "")))}</p>'
        yield f"<p>{escape(str(judged.get('sentence') or judged.get('why') or ''))}</p>"
        if told:
            yield table_head("rows", "measure", "", "value", "95 % interval", "") + "<tbody>"
            for words, estimate in told.items():
                yield difference_row(words, estimate, reach_of([told], words), f"n = {estimate.n:,}")
            yield "</tbody></table></div>"
        yield "</div></div>"


def agreement_section(content: Content) -> Iterator[str]:
    """Whether synthetic questions tell what human ones tell: the values of both, and the ranking."""
    found = content.get("agreement")
    if not found or not found["gaps"]:
        return
    human, synthetic = escape(found["human"]), escape(found["synthetic"])
    yield "<h2>Do the synthetic questions tell the same?</h2>"
    yield from note_list(found["warnings"])
    yield f'<p class="legend"><span><span class="key now"></span>{human}</span>'
    yield f'<span><span class="key then"></span>{synthetic}</span></p>'
    yield table_head("rows", "measure", "system", "", human, synthetic, "gap")
    for measure, systems in found["gaps"].items():
        yield "<tbody>"
        for place, (system, gap) in enumerate(systems.items()):
            ours, written, apart = (Estimate(**gap[part]) for part in ("human", "synthetic", "gap"))
            first = f'<th scope="rowgroup" rowspan="{len(systems)}">{escape(measure)}</th>'
            both = {found["human"]: ("now", ours), found["synthetic"]: ("then", written)}
            drawn = chart.marks(both, max(1.0, ours.high, written.high))
            yield f'<tr>{"" if place else first}<th scope="row">{escape(system)}</th>'
            yield f'<td class="plot">{drawn}</td><td class="number">{number(ours.value)}</td>'
            yield f'<td class="number">{number(written.value)}</td>'
            reach = f"{number(apart.low, signed=True)} to {number(apart.high, signed=True)}"
            yield f'<td class="number">{number(apart.value, signed=True)}'
            yield f'<span class="range">{reach}</span></td></tr>'
        yield "</tbody>"
    yield "</table></div>"
    yield from _rankings(found["rankings"])


def _rankings(rankings: Mapping[str, Content]) -> Iterator[str]:
    told = {True: "alike", False: "the other way round", None: "cannot be told"}
    if rankings:
        yield '<p class="soft after">Whether both rank the systems alike: Kendall’s tau of the two rankings, '
        yield "and how often documents drawn anew would rank them rather alike.</p>"
        yield table_head("rows", "measure", "tau", "alike in", "verdict") + "<tbody>"
    for measure, its in rankings.items():
        tau = "" if its["tau"] is None else number(its["tau"])
        yield f'<tr><th scope="row">{escape(measure)}</th><td class="number">{tau}</td>'
        yield f'<td class="number">{per_cent(its["probability"])}</td>'
        yield f'<td class="verdict">{told[its["alike"]]}</td></tr>'
    yield "</tbody></table></div>" if rankings else ""

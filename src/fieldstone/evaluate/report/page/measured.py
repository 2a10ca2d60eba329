"""The section of a report about what was measured: each measure by system, and the differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fieldstone.evaluate.report.findings import (
    AFTER,
    BEFORE,
    LESS_IS_BETTER,
    Change,
    changes,
    gaps,
    number,
    sets_of,
    tests_of,
    verdict_in_words,
)
from fieldstone.evaluate.report.page import chart
from fieldstone.evaluate.report.page.markup import (
    difference_row,
    heading,
    note_list,
    reach_of,
    table_head,
)
from fieldstone.evaluate.statistics.bootstrap import Estimate
from fieldstone.evaluate.statistics.significance import Test, more_than_chance

Content = Mapping[str, Any]

OPEN = 3
"""So many pairs of systems are shown unfolded, at most."""

MEANS = (
    "Each dot is a mean over questions, each bar its 95 % interval: where the mean would lie with other "
    "questions and documents of the same kind. The scale runs from 0 to 1, or to the greatest value where "
    "that is above 1."
)


def measured_section(content: Content) -> Iterator[str]:
    """Before and after where that is what was measured, else each system and each pair of them."""
    sets = {name: its for name, its in sets_of(content).items() if its["systems"]}
    if not sets:
        return
    tuned = any(changes(questions) for questions in sets.values())
    keys = '<span class="key then"></span>before and <span class="key now"></span>after. ' if tuned else ""
    yield f'<h2>What was measured</h2><p class="soft">{keys}{MEANS}</p>'
    for name, questions in sets.items():
        yield heading(name)
        yield from note_list(questions["notes"] if name else ())
        if found := changes(questions):
            yield from _before_after(found)
            yield from _changes(found)
        else:
            yield from _systems(questions["systems"])
            yield from _differences(questions)
    yield from () if content.get("agreement") else _gaps(content)  # it says the same of more systems
    yield from _others(sets)


def _before_after(found: Sequence[Change]) -> Iterator[str]:
    yield table_head("rows", "measure", "", "before", "after", "change")
    yield "<tbody>"
    for its in found:
        by = number(its.change.value, signed=True) if its.change else ""
        both = {BEFORE: ("then", its.before), AFTER: ("now", its.after)}
        drawn = chart.marks(both, max(1.0, its.before.high, its.after.high))
        yield (
            f'<tr><th scope="row">{escape(its.measure)}</th><td class="plot">{drawn}</td>'
            f'<td class="number arrow">{number(its.before.value)}</td>'
            f'<td class="number">{number(its.after.value)}</td>'
            f'<td class="number {its.verdict}">{by}</td></tr>'
        )
    yield "</tbody></table></div>"


def _changes(found: Sequence[Change]) -> Iterator[str]:
    paired = {c.measure: c.change for c in found if c.change}
    if not paired:
        return
    less = " and ".join(measure for measure in paired if measure in LESS_IS_BETTER)
    yield '<p class="soft after">The change, on the same questions. Where the bar crosses the line at zero, '
    yield f"it may be chance. {f'Less is better in {escape(less)}.' if less else ''}</p>"
    yield table_head("rows", "measure", "", "change", "95 % interval", "verdict")
    yield "<tbody>"
    for change in found:
        if change.change:
            words = change.verdict or verdict_in_words("", change.change, change.test)
            reach = reach_of([paired], change.measure)
            yield difference_row(change.measure, change.change, reach, words, change.verdict, change.test)
    yield "</tbody></table></div>"


def _gaps(content: Content) -> Iterator[str]:
    first = next(iter(sets_of(content)))
    for name, found in gaps(content).items():
        yield f'<h3>The gap: {escape(name)} against {escape(first)}</h3><p class="soft">How much higher the '
        yield "tuned system measures on the former: this tells the questions apart, not the systems.</p>"
        yield table_head("rows", "measure", "", "gap", "95 % interval", "verdict")
        yield "<tbody>"
        for measure, gap in found.items():
            words = ("higher" if gap.value > 0 else "lower") if gap.beyond_noise else "within the noise"
            yield difference_row(measure, gap, reach_of([found], measure), words)
        yield "</tbody></table></div>"


def _others(sets: Mapping[str, Content]) -> Iterator[str]:
    """All systems and all pairs, folded, where before and after stand above and are not all there is."""
    for name, questions in sets.items():
        if changes(questions) and not set(questions["systems"]) <= {BEFORE, AFTER}:
            yield f"<details><summary>All systems{': ' if name else ''}{escape(name)}</summary>"
            yield from _systems(questions["systems"])
            yield from _differences(questions)
            yield "</details>"


def _systems(systems: Mapping[str, Mapping[str, Content]]) -> Iterator[str]:
    yield table_head("rows", "measure", "system", "", "mean", "95 % interval", "questions")
    for measure in dict.fromkeys(measure for measures in systems.values() for measure in measures):
        rows = [(name, Estimate(**found[measure])) for name, found in systems.items() if measure in found]
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


def _differences(questions: Content) -> Iterator[str]:
    pairs = {
        pair: {measure: Estimate(**values) for measure, values in measures.items()}
        for pair, measures in questions["differences"].items()
    }
    if not pairs:
        return
    yield "<h3>Differences</h3>"
    yield (
        '<p class="soft">Both systems on the same questions. Where the bar crosses the line at zero, the '
        "difference lies within the noise and these questions cannot tell the two apart.</p>"
    )
    for pair, measures in pairs.items():
        tests = tests_of(questions, pair)
        yield f"<details{' open' if len(pairs) <= OPEN else ''}><summary>{escape(pair)}"
        yield f' <span class="soft">{_in_short(measures, tests)}</span></summary>'
        yield table_head("rows", "measure", "", "by", "95 % interval", "verdict") + "<tbody>"
        for measure, estimate in measures.items():
            reach = reach_of(pairs.values(), measure)
            test = tests.get(measure)
            words = verdict_in_words(pair, estimate, test)
            yield difference_row(measure, estimate, reach, words, test=test)
        yield "</tbody></table></div></details>"


def _in_short(measures: Mapping[str, Estimate], tests: Mapping[str, Test]) -> str:
    """How many measures tell the two apart."""
    told = [e for measure, e in measures.items() if more_than_chance(e, tests.get(measure))]
    higher = sum(e.value > 0 for e in told)
    counted = {"higher": higher, "lower": len(told) - higher, "within the noise": len(measures) - len(told)}
    return ", ".join(f"{count} {words}" for words, count in counted.items() if count)

"""The sections of a report about what tuning did: measured, decided, where questions were lost, examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fieldstone.evaluate import chart
from fieldstone.evaluate.findings import (
    AFTER,
    BEFORE,
    LESS_IS_BETTER,
    Change,
    changes,
    decision,
    gaps,
    number,
    seen,
    sets_of,
    verdict_in_words,
    why,
)
from fieldstone.evaluate.lost import ANSWERABLE, GOOD, STAGES, UNANSWERABLE
from fieldstone.evaluate.markup import difference_row, heading, note_list, reach_of, table_head

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
    "evidence not located": "where the answer stands is not known, so no stage can be blamed",
}


def tuned_sections(content: Content) -> Iterator[str]:
    """What tuning did: measured, decided, where questions were lost, and some of them."""
    sets = sets_of(content)
    yield "<h2>What was measured</h2>"
    yield (
        '<p class="soft"><span class="key then"></span>before and <span class="key now"></span>after. Each '
        "dot is a mean over questions, each bar its 95 % interval: where the mean would lie with other "
        "questions and documents of the same kind. The scale runs from 0 to 1, or to the greatest value "
        "where that is above 1.</p>"
    )
    for name, questions in sets.items():
        yield heading(name)
        yield from note_list(questions["notes"] if name else ())
        yield from _before_after(changes(questions))
        yield from _changes(changes(questions))
    yield from _gaps(content)
    yield from verdict_section(content)
    yield from _lost(sets)
    yield from _examples(sets)


def _before_after(found: Sequence[Change]) -> Iterator[str]:
    yield table_head("rows", "measure", "", "before", "after", "change")
    yield "<tbody>"
    for measure, before, after, change in found:
        by = number(change.value, signed=True) if change else ""
        verdict = Change(measure, before, after, change).verdict
        yield (
            f'<tr><th scope="row">{escape(measure)}</th>'
            f'<td class="plot">{chart.before_after(before, after, max(1.0, before.high, after.high))}</td>'
            f'<td class="number arrow">{number(before.value)}</td>'
            f'<td class="number">{number(after.value)}</td><td class="number {verdict}">{by}</td></tr>'
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
            words = change.verdict or verdict_in_words("", change.change)
            reach = reach_of([paired], change.measure)
            yield difference_row(change.measure, change.change, reach, words, change.verdict)
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


def _lost(sets: Mapping[str, Content]) -> Iterator[str]:
    shown = {name: its for name, its in sets.items() if {BEFORE, AFTER} <= set(its.get("lost", {}))}
    if not shown:
        return
    yield '<h2>Where questions were lost</h2><p class="soft">Each question is counted at the first stage '
    yield "that let go of the right answer.</p>"
    for name, questions in shown.items():
        before, after = questions["lost"][BEFORE], questions["lost"][AFTER]
        yield f'{heading(name)}<div class="bars">'
        for label, counts in ((BEFORE, before), (AFTER, after)):
            yield f"<div>{label}</div><div>{chart.stacked(counts, STAGES)}</div>"
        yield f"</div>{table_head('rows stages', 'stage', 'before', 'after', '')}<tbody>"
        for i, stage in enumerate(STAGES):
            if stage in before or stage in after:
                yield (
                    f'<tr><th scope="row"><span class="key part s{i}"></span>{stage}</th>'
                    f'<td class="number arrow">{before.get(stage, 0):,}</td>'
                    f'<td class="number">{after.get(stage, 0):,}</td>'
                    f'<td class="verdict soft">{MEANING[stage]}</td></tr>'
                )
        yield "</tbody></table></div>"
        yield from _moves(questions["moved"], ANSWERABLE)
        yield from _moves(questions["moved"], UNANSWERABLE)


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


def _examples(sets: Mapping[str, Content]) -> Iterator[str]:
    shown = {name: its for name, its in sets.items() if any(its.get("examples", {}).values())}
    if shown:
        yield "<h2>Questions won and lost</h2>"
    for name, questions in shown.items():
        for kind in ("won", "lost"):
            examples = questions["examples"].get(kind, ())
            total = _counted(questions["moved"], won=kind == "won")
            some = f", {len(examples)} of them shown" if total > len(examples) else ""
            yield heading(f"{name}: {total} {kind}{some}" if name else f"{total} {kind}{some}")
            yield '<div class="examples">'
            for example in examples:
                yield from _example(example, "good" if kind == "won" else "bad")
            yield "</div>"


def _example(example: Content, kind: str) -> Iterator[str]:
    wanted = " / ".join(example["wanted"]) or "no answer: the documents do not hold it"
    yield f'<div class="card {kind}"><p>{escape(example["question"])}</p><dl>'
    yield f"<dt>wanted</dt><dd>{escape(wanted)}</dd>"
    for name in (BEFORE, AFTER):
        said = example[name]
        quote = f"<blockquote>“{escape(said['quote'])}”</blockquote>" if said["quote"] else ""
        yield f'<dt>{name}</dt><dd>{escape(said["answer"] or "no answer")} <span class="stage">'
        yield f"{escape(said['stage'])}</span>{quote}</dd>"
    yield f'<dt>from</dt><dd class="soft">{escape(example["source"])}</dd>' if example["source"] else ""
    yield "</dl></div>"


def _counted(moved: Mapping[str, Mapping[str, int]], *, won: bool) -> int:
    return sum(
        count
        for start, ends in moved.items()
        for end, count in ends.items()
        if (start in GOOD) != (end in GOOD) and (end in GOOD) == won
    )

"""The report as Markdown: short, with tables that read well in a merge request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fieldstone.evaluate.measures.lost import STAGES
from fieldstone.evaluate.report.findings import (
    changes,
    decision,
    number,
    sets_of,
    short,
    tests_of,
    verdict_in_words,
    why,
)
from fieldstone.evaluate.report.headline import headline
from fieldstone.evaluate.statistics.bootstrap import Estimate
from fieldstone.evaluate.statistics.significance import more_than_chance

Content = Mapping[str, Any]

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def render_markdown(content: Content) -> str:
    """What an evaluation that `report.as_json` made plain found, in GitHub's Markdown."""
    return "\n".join(_parts(content)) + "\n"


def _parts(content: Content) -> Iterator[str]:
    yield f"# Evaluation, {str(content['date']).partition('T')[0]}\n"
    if said := headline(content):
        yield f"{_plain(said)}\n"
    yield from _notes(content["notes"])
    for name, questions in sets_of(content).items():
        if name:
            yield f"## {_plain(name)}\n"
            yield from _notes(questions["notes"])
        yield from _measured(questions)
        yield from _told(questions)
        yield from _lost(questions.get("lost", {}))
        yield from _refusals(questions.get("coverage", {}))
    for verdict in content.get("verdicts", ()):
        yield f"- {verdict['part']} {decision(verdict)}: {_plain(why(verdict))}"


def _measured(questions: Content) -> Iterator[str]:
    """A row a measure, a column a system."""
    systems = {name: its for name, its in questions["systems"].items() if its}
    names = dict.fromkeys(measure for its in systems.values() for measure in its)
    yield from _table(
        ["measure", *systems],
        ([name, *(_cell(its.get(name)) for its in systems.values())] for name in names),
    )


def _told(questions: Content) -> Iterator[str]:
    """The differences that are more than chance; how each measure changed, where this is before and after."""
    if found := changes(questions):
        rows = [
            [c.measure, _change(c.change), c.verdict or verdict_in_words("", c.change, c.test)]
            for c in found
            if c.change is not None
        ]
        yield from _table(["measure", "change", "verdict"], rows)
        return
    rows = []
    for pair, measures in questions["differences"].items():
        tests = tests_of(questions, pair)
        for measure, values in measures.items():
            estimate, test = Estimate(**values), tests.get(measure)
            if more_than_chance(estimate, test):
                won = f"{test.wins} / {test.ties} / {test.losses}" if test else ""
                rows.append([pair, measure, _change(estimate), won, number(test.holm) if test else ""])
    if rows:
        yield "Differences that are more than chance:\n"
        yield from _table(["systems", "measure", "difference", "won / tied / lost", "p after Holm"], rows)
    elif questions["differences"]:
        yield "No difference between these systems is more than chance may make.\n"


def _lost(systems: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    stages = [stage for stage in STAGES if any(stage in counts for counts in systems.values())]
    if stages:
        yield "Where questions were lost:\n"
        rows = ([stage, *(str(counts.get(stage, 0)) for counts in systems.values())] for stage in stages)
        yield from _table(["stage", *systems], rows)


def _refusals(systems: Mapping[str, Content]) -> Iterator[str]:
    rows = [
        [
            name,
            *(_cell(its["chosen"][what]) for what in ("coverage", "risk", "precision", "recall")),
            "" if its["aurc"] is None else number(its["aurc"]),
        ]
        for name, its in systems.items()
    ]
    if rows:
        yield "What is answered, and what is wrong of it:\n"
        head = ["system", "answered", "wrong of these", "refusals right", "unanswerable refused", "AURC"]
        yield from _table(head, rows)


def _notes(notes: Iterable[str]) -> Iterator[str]:
    its = [f"- {_plain(note)}" for note in notes]
    if its:
        yield "\n".join(its) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    body = [[_plain(cell) for cell in row] for row in rows]
    if body:
        yield _row([_plain(cell) for cell in head])
        yield _row([":---", *["---:"] * (len(head) - 1)])
        yield from map(_row, body)
        yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(values: Content | None) -> str:
    """A mean with its interval in brackets."""
    if not values:
        return ""
    estimate = Estimate(**values)
    shown = number if estimate.high >= 10 else short
    return f"{shown(estimate.value)} ({shown(estimate.low)} to {shown(estimate.high)})"


def _change(estimate: Estimate) -> str:
    low, high = short(estimate.low, signed=True), short(estimate.high, signed=True)
    return f"{short(estimate.value, signed=True)} ({low} to {high})"


def _plain(text: str) -> str:
    """Text in one line that means nothing to Markdown."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))

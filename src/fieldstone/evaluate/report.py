"""An evaluation on paper: JSON, one self-contained HTML page, Markdown, and a row a question and system."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fieldstone.evaluate.abstention import WRONG, risk_coverage
from fieldstone.evaluate.agreement import Agreement
from fieldstone.evaluate.compare import Estimate
from fieldstone.evaluate.findings import AFTER, BEFORE
from fieldstone.evaluate.lost import answering, changed, lost, moved
from fieldstone.evaluate.markdown import render_markdown
from fieldstone.evaluate.page import render_page
from fieldstone.evaluate.significance import Test
from fieldstone.evaluate.slices import slices
from fieldstone.evaluate.worst import passages_of, worst

Estimates = Mapping[str, Mapping[str, Estimate]]
Tests = Mapping[str, Mapping[str, Test]]

EXAMPLES = 10
"""So many questions won, and so many lost, are kept with a report."""

PASSAGES_READ = 4
"""Taken for `answer.passages` where the settings do not say."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """What was measured on one set of questions.

    `systems` is name -> measure -> estimate, `differences` the same under names such as "fused - dense".
    `rows` are JSON objects, one a question and system; `notes` are sentences that the reader must know,
    such as how many questions could not be located. `tests` hold what else is known of a difference, under
    the same names; `passages` the text of those that the worst cases speak of, by id. `judged`, where a model
    graded: its name, how it agrees with people, and the sentence that says so. A build that tunes itself
    names its systems "before" and "after".
    """

    systems: Estimates = field(default_factory=dict)
    differences: Estimates = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    tests: Tests = field(default_factory=dict)
    passages: Mapping[str, str] = field(default_factory=dict)
    judged: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found: on one set of questions, or on several `sets` under their names.

    With one set, what it shares with `QuestionSet` is as there. With several, the first counts in the
    headline: put "human questions" before "synthetic questions". `notes` then are about them all. `verdicts`
    are those of the gate as JSON objects: part, candidate, incumbent, measure, difference (an estimate or
    None), accepted, forced, questions_needed, reason, guards. `agreement` says how far synthetic questions
    tell what human ones tell, where there are both. `curves` tell of the tuning of each candidate: part,
    candidate, losses, scores, the last two lists of (step, value).
    """

    date: datetime
    systems: Estimates = field(default_factory=dict)
    differences: Estimates = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    sets: Mapping[str, QuestionSet] = field(default_factory=dict)
    verdicts: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    tests: Tests = field(default_factory=dict)
    agreement: Agreement | None = None
    passages: Mapping[str, str] = field(default_factory=dict)
    curves: tuple[Mapping[str, Any], ...] = ()
    judged: Mapping[str, Any] = field(default_factory=dict)


class ReportPaths(NamedTuple):
    """Where a report lies."""

    json: Path
    html: Path
    rows: Path
    markdown: Path


def write_report(folder: Path, evaluation: Evaluation) -> ReportPaths:
    """Write `report.json`, `report.html`, `rows.jsonl` and `report.md` into a folder named by the date."""
    stamp = evaluation.date.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    into = _new_folder(folder, stamp)
    paths = ReportPaths(into / "report.json", into / "report.html", into / "rows.jsonl", into / "report.md")
    with paths.rows.open("w", encoding="utf-8", newline="\n") as rows:
        for row in _all_rows(evaluation):
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
    content = as_json(evaluation)
    paths.html.write_text(render_page(content), encoding="utf-8", newline="\n")
    paths.markdown.write_text(render_markdown(content), encoding="utf-8", newline="\n")
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
    paths.json.write_text(text + "\n", encoding="utf-8", newline="\n")
    return paths


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as one JSON object; an estimate is {value, low, high, n}.

    Of the rows it keeps, a system that answers:

    - `lost`: stage -> questions (`moved`: stage before -> stage after -> questions), and some `examples` that
      were `won` and `lost`;
    - `coverage`: what it risks at each share answered (`abstention.RiskCoverage`);
    - `worst`: its worst cases, whose `passages` are kept by id.

    `slices` are those of all systems (`slices.Slices`).
    """
    read = evaluation.settings.get("answer", {}).get("passages", PASSAGES_READ)
    whole = QuestionSet(**{part.name: getattr(evaluation, part.name) for part in fields(QuestionSet)})
    return {
        "date": evaluation.date.astimezone(UTC).isoformat(timespec="seconds"),
        **_set_as_json(whole, read),
        "sets": {name: _set_as_json(its, read) for name, its in evaluation.sets.items()},
        "agreement": asdict(evaluation.agreement) if evaluation.agreement else None,
        "verdicts": [dict(verdict) for verdict in evaluation.verdicts],
        "curves": [dict(curve) for curve in evaluation.curves],
        "settings": dict(evaluation.settings),
        "versions": dict(evaluation.versions),
    }


def _set_as_json(questions: QuestionSet, read: int) -> dict[str, Any]:
    rows = answering(questions.rows)
    before, after = rows.get(BEFORE, []), rows.get(AFTER, [])
    examples = changed(before, after, read)
    coverage = {system: found for system, its in rows.items() if (found := risk_coverage(its)) is not None}
    cases = {system: worst(its, read) for system, its in rows.items()}
    shown = passages_of(case for its in cases.values() for case in its)
    parts = slices(questions.rows)
    return {
        "systems": _plain(questions.systems),
        "differences": _plain(questions.differences),
        "tests": _plain(questions.tests),
        "notes": list(questions.notes),
        "judged": dict(questions.judged),
        "lost": {system: lost(its, read) for system, its in rows.items()},
        "moved": moved(before, after, read),
        "examples": {kind: found[:EXAMPLES] for kind, found in examples.items()},
        "coverage": {system: asdict(found) | {"wrong": WRONG} for system, found in coverage.items()},
        "slices": asdict(parts) if parts else {},
        "worst": cases,
        "passages": {id_: questions.passages[id_] for id_ in shown if id_ in questions.passages},
    }


def _all_rows(evaluation: Evaluation) -> Iterator[Mapping[str, Any]]:
    """Every row, those of a named set with its name."""
    yield from evaluation.rows
    for name, questions in evaluation.sets.items():
        yield from ({"set": name, **row} for row in questions.rows)


def _plain(found: Estimates | Tests) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        name: {measure: asdict(its) for measure, its in measures.items()} for name, measures in found.items()
    }


def _new_folder(folder: Path, stamp: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (stamp, *(f"{stamp}-{i}" for i in range(2, 1000))):
        try:
            (folder / name).mkdir()
        except FileExistsError:
            continue
        return folder / name
    raise FileExistsError(f"{folder} holds a thousand reports of {stamp}; delete some")

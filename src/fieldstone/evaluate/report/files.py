"""An evaluation on paper: JSON, one self-contained HTML page, Markdown, and a row a question and system."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple

from fieldstone.evaluate.evaluation import Estimates, Evaluation, QuestionSet, Tests
from fieldstone.evaluate.measures.lost import answering, changed, lost, moved
from fieldstone.evaluate.report.abstention import WRONG, risk_coverage
from fieldstone.evaluate.report.findings import AFTER, BEFORE
from fieldstone.evaluate.report.markdown import render_markdown
from fieldstone.evaluate.report.page import render_page
from fieldstone.evaluate.report.slices import slices
from fieldstone.evaluate.report.worst import passages_of, worst

EXAMPLES = 10
"""So many questions won, and so many lost, are kept with a report."""

PASSAGES_READ = 4
"""Taken for `answer.passages` where the settings do not say."""


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
    return {
        "date": evaluation.date.astimezone(UTC).isoformat(timespec="seconds"),
        **_set_as_json(evaluation, read),
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

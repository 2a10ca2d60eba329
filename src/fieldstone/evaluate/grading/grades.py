"""What people said of answers: their grades read, unblinded, and put to the statistics of every evaluation.

A question's value is the mean of its graders, so a grader who did more weighs no more on a question.
Intervals draw whole documents as everywhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from fieldstone.evaluate.evaluation import Evaluation
from fieldstone.evaluate.grading.krippendorff import Alpha, alpha
from fieldstone.evaluate.grading.sheet import CRITERIA, LEVELS, SIDES, Item, Row, Sheet
from fieldstone.evaluate.statistics.bootstrap import FEWEST, Value
from fieldstone.evaluate.statistics.summary import Measured, clustered, differences, estimates, tests

Grades = Mapping[str, Mapping[str, int | None]]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Grader:
    """One person's grades: item -> criterion -> grade, None where they could not say; and their remarks."""

    name: str
    grades: Grades
    remarks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the graders agree on a criterion, taking grades as mere names and as steps of a ladder."""

    nominal: Alpha
    ordinal: Alpha


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An item whose graders stand at opposite ends: what each of them gave, in words."""

    question: str
    criterion: str
    said: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Graded:
    """What the grades say.

    `evaluation` holds for each system and criterion its mean from 0 (no) to 1 (yes); of two systems side by
    side the share of questions where it was the better one, a tie counting half.
    """

    graders: tuple[Grader, ...]
    evaluation: Evaluation
    agreement: Mapping[str, Agreement]
    disagreements: tuple[Disagreement, ...]
    remarks: tuple[tuple[str, str, str], ...]


def read_grades(paths: Iterable[Path], sheet: Sheet) -> tuple[list[Grader], list[tuple[Path, str]]]:
    """The graders of these files, and the files that are left out with the reason.

    Exports that go on from one another are one grader, and of each item the last saved counts. Different
    people of one name are told apart.
    """
    files: list[tuple[str, str, str, Grader]] = []
    left_out: list[tuple[Path, str]] = []
    for path in paths:
        try:
            files.append(_read(path, sheet))
        except OSError as error:
            left_out.append((path, f"it cannot be read: {error.strerror}"))
        except ValueError as error:
            left_out.append((path, str(error)))
    merged: dict[tuple[str, str], Grader] = {}
    for name, copy, _, its in sorted(files, key=lambda file: file[2]):
        before = merged.get((name, copy), its)
        merged[name, copy] = Grader(
            its.name, {**before.grades, **its.grades}, {**before.remarks, **its.remarks}
        )
    graders: list[Grader] = []
    met: Counter[str] = Counter()
    for (plain, _), its in sorted(merged.items()):
        met[plain] += 1
        graders.append(replace(its, name=f"{its.name} ({met[plain]})") if met[plain] > 1 else its)
    return graders, left_out


def assess(sheet: Sheet, graders: Sequence[Grader], date: datetime | None = None) -> Graded:
    """What these graders say of the systems, and how far they agree. Without grades, everything is empty."""
    rows = list(_rows(sheet, graders))
    clusters = _clusters(rows)
    by_system: dict[str, dict[Key, Row]] = {system: {} for system in sheet.systems}
    for row in rows:
        by_system[row["system"]][_key(row)] = row["measures"]
    values = {
        name: {
            system: [[its.get(key, {}).get(name) for key in clusters]]
            for system, its in by_system.items()
            if any(name in measures for measures in its.values())
        }
        for name in CRITERIA
    }
    found = Measured(sheet.systems, values, list(clusters.values()))
    agreement = {name: _agreement(sheet, graders, name, clusters) for name in CRITERIA}
    evaluation = Evaluation(
        date=date or datetime.now(UTC),
        systems=estimates(found),
        differences=differences(found),
        tests=tests(found),
        notes=tuple(_notes(sheet, graders, agreement)),
        rows=rows,
    )
    remarks = tuple(
        (grader.name, str(item.rows[0]["question"]), text)
        for item in sheet.items
        for grader in graders
        if (text := grader.remarks.get(item.id, "").strip())
    )
    return Graded(tuple(graders), evaluation, agreement, tuple(_disagreements(sheet, graders)), remarks)


def judged_lines(sheet: Sheet, graders: Sequence[Grader]) -> Iterator[dict[str, Any]]:
    """Answers that people graded, to check a judge by: question, answers, answer, correct (0..1), source.

    Abstentions and questions that the documents do not answer are left out: a judge is asked neither.
    """
    for row in _rows(sheet, graders):
        correct = row["measures"].get("correct")
        if correct is not None and row["answers"] and row["answer"].strip() and not row["abstained"]:
            kept = {name: row[name] for name in ("question", "answers", "answer")}
            yield {**kept, "correct": correct, "source": str(row.get("source", ""))}


def in_words(grade: int | None, item: Item) -> str:
    """The grade as a person says it."""
    if grade is None:
        return "can't say"
    if len(item.rows) == 1:
        return ("no", "partly", "yes")[grade]
    return "tie" if grade == 0 else f"{item.rows[grade > 0]['system']} is better"


def _read(path: Path, sheet: Sheet) -> tuple[str, str, str, Grader]:
    """Name, copy and time of a file, and its grades. Raises ValueError, which says what is wrong."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("it is damaged: no JSON") from None
    if not isinstance(content, dict) or content.get("fieldstone") != "grades":
        raise ValueError("it holds no exported grades")
    if content.get("sheet") != sheet.id:
        raise ValueError("it holds the grades of another page")
    name, given = content.get("grader"), content.get("grades")
    if not isinstance(name, str) or not name.strip() or not isinstance(given, dict):
        raise ValueError("it is damaged: the grader or the grades are missing")
    allowed = SIDES if sheet.pairs else LEVELS
    known = {item.id for item in sheet.items}
    for item, its in given.items():
        if item not in known or not isinstance(its, dict) or not set(its) <= set(CRITERIA):
            raise ValueError(f"it is damaged: {item!r:.40} is nothing that was to be graded")
        if wrong := [g for g in its.values() if g is not None and (type(g) is not int or g not in allowed)]:
            raise ValueError(f"it is damaged: {wrong[0]!r:.40} is no grade")
    remarks = content.get("remarks")
    remarks = remarks if isinstance(remarks, dict) else {}
    kept = {item: text for item, text in remarks.items() if item in known and isinstance(text, str)}
    plain = " ".join(name.split())
    grader = Grader(plain, {item: its for item, its in given.items() if its}, kept)
    if not grader.grades:
        raise ValueError("it holds no grade yet")
    return plain.casefold(), str(content.get("copy", "")), str(content.get("saved", "")), grader


def _rows(sheet: Sheet, graders: Sequence[Grader]) -> Iterator[dict[str, Any]]:
    """Each answer that was graded as a row of a report: `measures` the means, `grades` what each one gave."""
    for item in sheet.items:
        by_name = {
            name: {g.name: g.grades[item.id].get(name) for g in graders if name in g.grades.get(item.id, {})}
            for name in CRITERIA
        }
        if any(by_name.values()):
            yield from _rows_of(item, by_name)
    for item in sheet.alike if graders else ():
        yield from _rows_of(item, {name: {"": 0} for name in CRITERIA})


def _rows_of(item: Item, by_name: Mapping[str, Mapping[str, int | None]]) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(item.rows):
        measures: dict[str, Value] = {}
        for name, its in by_name.items():
            said = [grade for grade in its.values() if grade is not None]
            if said and len(item.rows) == 1:
                measures[name] = fmean(said) / 2
            elif said:
                lead = fmean(said) if place else -fmean(said)
                measures[name] = (1 + lead) / 2
        grades = {
            name: {who: in_words(g, item) for who, g in its.items() if who} for name, its in by_name.items()
        }
        yield {**row, "measures": {**row.get("measures", {}), **measures}, "grades": grades}


def _key(row: Row) -> Key:
    """What stands for a question: two sets may hold the same id."""
    return str(row.get("set", "")), str(row["id"])


def _clusters(rows: Sequence[Row]) -> dict[Key, str]:
    """What is drawn for each question: see `summary.clustered`."""
    documents = {_key(row): str(row.get("source") or row["id"]) for row in rows}
    drawn = clustered(list(documents.values()), ["/".join(key) for key in documents])
    return dict(zip(documents, drawn, strict=True))


def _said(item: Item, graders: Sequence[Grader], name: str) -> dict[str, int]:
    """Grader -> grade, of those who could say."""
    found = {g.name: g.grades.get(item.id, {}).get(name) for g in graders}
    return {who: grade for who, grade in found.items() if grade is not None}


def _agreement(sheet: Sheet, graders: Sequence[Grader], name: str, clusters: Mapping[Key, str]) -> Agreement:
    """Of two answers side by side a grade is which system is better, not which place."""
    units: list[list[int]] = []
    drawn: list[str] = []
    for item in sheet.items:
        first = item.rows[0]
        turned = len(item.rows) > 1 and first["system"] != sheet.systems[0]
        units.append([-grade if turned else grade for grade in _said(item, graders, name).values()])
        drawn.append(clusters.get(_key(first), ""))
    return Agreement(alpha(units, "nominal", drawn), alpha(units, "ordinal", drawn))


def _disagreements(sheet: Sheet, graders: Sequence[Grader]) -> Iterator[Disagreement]:
    for item in sheet.items:
        for name in CRITERIA:
            said = _said(item, graders, name)
            if said and max(said.values()) - min(said.values()) > 1:
                words = {who: in_words(grade, item) for who, grade in said.items()}
                yield Disagreement(str(item.rows[0]["question"]), name, words)


def _notes(sheet: Sheet, graders: Sequence[Grader], agreement: Mapping[str, Agreement]) -> Iterator[str]:
    """What the reader of the report must know."""
    count = len(sheet.items)
    shares = ", ".join(f"{grader.name} {len(grader.grades)} of {count}" for grader in graders)
    yield f"graded by people: {shares or 'nobody yet'}"
    if sheet.pairs:
        yield (
            "side by side, without knowing which system is which: a value is the share of questions where "
            "the system was the better one, a tie counting half"
        )
        if sheet.alike:
            yield f"{len(sheet.alike)} questions were not shown: both systems said the same, a tie"
    if len(graders) == 1:
        yield "one grader: nobody knows whether another would say the same; let a second one grade some of it"
    for name, its in agreement.items():
        if its.ordinal.units:
            value = "" if its.ordinal.value is None else f"{its.ordinal.value:.2f}, "
            yield f"agreement on {name} (Krippendorff's alpha, ordinal): {value}{its.ordinal.in_words}"
    if 0 < count < FEWEST:
        yield f"fewer than {FEWEST} questions tell nothing"

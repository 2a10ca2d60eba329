"""Questions and answers as a table: comma-, semicolon- or tab-separated, with a header."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.benchmarks.benchmark import Benchmark, noted, once
from fieldstone.evaluate.benchmarks.squad import paragraphs
from fieldstone.evaluate.questions import Question, read_text
from fieldstone.records import fingerprint

COLUMNS = {
    "question": ("question", "query"),
    "answer": ("answer", "answers"),
    "source": ("source", "document", "title"),
    "evidence": ("evidence", "context", "passage"),
    "id": ("id",),
}
"""What a column holds -> the names that it may have, in either case."""


def read_table(path: Path) -> Benchmark:
    """A question a row; the columns `question` and `answer` are needed (`COLUMNS`).

    An answer may be a JSON list of spellings; where it is empty, the documents do not answer. Passages in
    the column `context` become the benchmark's own documents.
    """
    text = read_text(path)
    first = text.lstrip("\n\r").partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    problems: list[str] = []
    try:
        header = next((row for row in rows if any(cell.strip() for cell in row)), [])
    except csv.Error as error:
        raise QuestionsError(f"{path} is no table: {error}") from None
    names = [name.strip().casefold() for name in header]
    places = {
        what: next(names.index(name) for name in known if name in names)
        for what, known in COLUMNS.items()
        if set(known) & set(names)
    }
    if not {"question", "answer"} <= places.keys():
        raise QuestionsError(
            f"{path} has the columns {', '.join(header) or 'of no header'}; "
            "name one of them question and another answer"
        )

    def found() -> Iterator[tuple[str, Question]]:
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                problems.append(f"line {rows.line_num}: {error}")
                continue
            if not any(cell.strip() for cell in row):
                continue
            place = f"line {rows.line_num}"
            if len(row) != len(header):
                problems.append(f"{place}: {len(row)} cells under {len(header)} columns")
                continue
            cells = {what: row[column].strip() for what, column in places.items()}
            if not cells["question"]:
                problems.append(f"{place}: no question")
                continue
            yield place, _question(cells)

    questions = once(found(), problems)
    documents, grades = paragraphs(list(questions))
    return Benchmark(questions, documents, grades, notes=noted(problems))


def _question(cells: dict[str, str]) -> Question:
    source, evidence = cells.get("source", ""), cells.get("evidence", "")
    answers = _answers(cells["answer"])
    id_ = cells.get("id") or fingerprint(cells["question"], evidence)
    return Question(id_, cells["question"], answers, source, evidence)


def _answers(cell: str) -> tuple[str, ...]:
    if cell.startswith("["):
        try:
            listed = json.loads(cell)
        except ValueError:
            listed = None
        if isinstance(listed, list):
            return tuple(str(answer).strip() for answer in listed if str(answer).strip())
    return (cell,) if cell else ()

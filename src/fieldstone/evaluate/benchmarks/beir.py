"""A folder in the layout of BEIR (Thakur et al. 2021): corpus.jsonl, queries.jsonl and qrels/*.tsv."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.benchmarks.benchmark import Benchmark, needed, noted, once, text_of
from fieldstone.evaluate.questions import Question, json_values, read_text
from fieldstone.records import Document

LAYOUT = "give a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv, or one of its qrels/*.tsv"


def read_beir(path: Path) -> Benchmark:
    """The queries that somebody judged, with their grades; of several judgements those of the test split.

    A document is known by its id in the collection. One without text is left out; where it is judged
    relevant it counts all the same, as nobody can find it.
    """
    folder = path.parent.parent if path.suffix == ".tsv" else path
    judgements = needed(path, LAYOUT) if path.suffix == ".tsv" else _judgements(folder)
    problems: list[str] = []
    documents = _documents(needed(folder / "corpus.jsonl", LAYOUT), problems)
    grades: dict[str, dict[str, float]] = {}
    for query, document, grade in read_qrels(judgements, problems):
        grades.setdefault(query, {})[document] = grade
    asked = _queries(needed(folder / "queries.jsonl", LAYOUT), problems)
    questions = tuple(question for question in asked if question.id in grades)
    unknown = sorted(grades.keys() - {question.id for question in questions})
    notes = noted(problems)
    if unknown:
        notes += (f"judged, but not in queries.jsonl: {len(unknown)} queries ({', '.join(unknown[:5])})",)
    return Benchmark(questions, tuple(documents.values()), grades, answered=False, notes=notes)


def read_qrels(path: Path, problems: list[str]) -> Iterator[tuple[str, str, float]]:
    """(query, document, grade) of each line: BEIR's three columns under a header, or TREC's four."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.split()
        if not cells or (number == 1 and cells[-1] == "score"):
            continue
        try:
            query, *_, document, grade = cells
            value = float(grade)
            if len(cells) not in (3, 4) or not math.isfinite(value):
                raise ValueError(line)
        except ValueError:
            problems.append(f"{path.name}, line {number}: no query, document and grade: {line!r:.60}")
            continue
        yield query, document, value


def _judgements(folder: Path) -> Path:
    known = {file.stem: file for file in sorted((folder / "qrels").glob("*.tsv"))}
    for name in ("test", "dev"):
        if name in known:
            return known[name]
    if len(known) == 1:
        return next(iter(known.values()))
    found = f"it has {', '.join(map(str, known.values()))}" if known else LAYOUT
    raise QuestionsError(f"{folder} has no qrels/test.tsv; {found}")


def _documents(path: Path, problems: list[str]) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    for place, entry in json_values(path):
        try:
            id_, title, text = text_of(entry, "_id"), text_of(entry, "title"), text_of(entry, "text")
            if not id_ or id_ in documents:
                raise ValueError(f"the _id {id_!r} stands there twice" if id_ else '"_id" is missing')
            if not text and not title:
                raise ValueError(f"the document {id_} is empty")
        except ValueError as error:
            problems.append(f"{path.name}, {place}: {error}")
            continue
        if not text or text.startswith(title):  # the title is not to be read twice
            title, text = "", text or title
        documents[id_] = Document.new(id_, title, text)
    return documents


def _queries(path: Path, problems: list[str]) -> tuple[Question, ...]:
    def found() -> Iterator[tuple[str, Question]]:
        for place, entry in json_values(path):
            try:
                id_, text = text_of(entry, "_id"), text_of(entry, "text")
                if not id_ or not text:
                    raise ValueError('"_id" or "text" is missing')
            except ValueError as error:
                problems.append(f"{path.name}, {place}: {error}")
                continue
            yield f"{path.name}, {place}", Question(id_, text, (), "")

    return once(found(), problems)

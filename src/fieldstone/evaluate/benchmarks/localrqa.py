"""LocalRQA's JSON Lines (Yu et al. 2024): a question, its answer, the passages that hold it, and others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.benchmarks.benchmark import Benchmark, needed, noted, once, text_of
from fieldstone.evaluate.questions import Question, json_values
from fieldstone.records import Document, fingerprint

PREFERRED = ("test_w_qa.jsonl", "test_w_q.jsonl")
"""Of a folder, the first of these that is there holds the questions."""


def read_localrqa(path: Path) -> Benchmark:
    """The questions of a file, over all passages that it names; of a folder, over those of all its files.

    A line has `gold_docs` and `hard_neg_docs`, each {page_content, metadata: {source, title}}, and
    `question` with `gold_answer`, or several `questions` without answers. A file of passages alone has
    {text, source, title}.
    """
    needed(path, "give a file such as test_w_qa.jsonl, or the folder that holds it")
    asked, others = path, []
    if path.is_dir():
        known = {file.name: file for file in sorted(path.rglob("*.jsonl"))}
        first = next((known[name] for name in PREFERRED if name in known), None)
        if first is None:
            raise QuestionsError(f"{path} holds neither {' nor '.join(PREFERRED)}; name the file")
        asked, others = first, [file for file in known.values() if file != first]
    problems: list[str] = []
    documents: dict[str, Document] = {}
    numbers: dict[str, int] = {}
    grades: dict[str, dict[str, float]] = {}

    def add(passage: object) -> str:
        """Puts a passage among the documents; returns its source there."""
        metadata = passage.get("metadata") if isinstance(passage, dict) else None
        text = text_of(passage, "page_content", "text")
        if not text:
            raise ValueError('a passage without "page_content"')
        about: Any = metadata if isinstance(metadata, dict) else passage
        origin, title = text_of(about, "source") or "passage", text_of(about, "title")
        key = fingerprint(origin, text)
        if key not in documents:
            number = numbers[origin] = numbers.get(origin, -1) + 1
            documents[key] = Document.new(f"{origin}#{number}", title, text)
        return documents[key].source

    def found() -> Iterator[tuple[str, Question]]:
        for place, entry in json_values(asked):
            try:
                gold = [add(passage) for passage in _listed(entry, "gold_docs")]
                for passage in _listed(entry, "hard_neg_docs"):
                    add(passage)
                its = list(_questions(entry, gold))
            except ValueError as error:
                problems.append(f"{place}: {error}")
                continue
            for question in its:
                grades.setdefault(question.id, dict.fromkeys(gold, 1.0))
                yield place, question

    questions = once(found(), problems)
    for file in others:
        for place, entry in json_values(file):
            try:
                whole = _listed(entry, "gold_docs") + _listed(entry, "hard_neg_docs")
                for passage in whole or [entry]:
                    add(passage)
            except ValueError as error:
                problems.append(f"{file.name}, {place}: {error}")
    answered = any(question.answerable for question in questions)
    return Benchmark(questions, tuple(documents.values()), grades, answered=answered, notes=noted(problems))


def _listed(entry: object, name: str) -> list[object]:
    if isinstance(entry, ValueError):
        raise entry
    value = entry.get(name) if isinstance(entry, dict) else None
    if value is not None and not isinstance(value, list):
        raise ValueError(f'"{name}" must be a list of passages')
    return value or []


def _questions(entry: object, gold: list[str]) -> Iterator[Question]:
    """The question with its answer, or the questions without any."""
    first = next(iter(_listed(entry, "gold_docs")), {})
    metadata = first.get("metadata") if isinstance(first, dict) else None
    source = text_of(metadata, "source") if isinstance(metadata, dict) else ""
    evidence = text_of(first, "page_content", "text")
    one = text_of(entry, "question")
    asked = [one] if one else [text for text in _listed(entry, "questions") if isinstance(text, str)]
    if not asked or not all(text.strip() for text in asked):
        raise ValueError('"question" is missing or empty')
    answer = text_of(entry, "gold_answer")
    for text in asked:
        id_ = text_of(entry, "id") if one else ""
        answers = (answer,) if answer and one else ()
        yield Question(id_ or fingerprint(text, *gold), text, answers, source, evidence)

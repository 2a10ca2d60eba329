"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018) and what is shaped like it: XQuAD, JSQuAD, DRCD, ARCD …"""

from __future__ import annotations

from pathlib import Path

from fieldstone.evaluate.benchmarks.benchmark import Benchmark, noted
from fieldstone.evaluate.questions import Question, parse_questions
from fieldstone.records import Document


def read_squad(path: Path) -> Benchmark:
    """Each paragraph is a document, relevant to the questions asked about it.

    It reads what `questions` reads: our own JSON Lines too, whose `evidence` is then the paragraph.
    """
    questions, problems = parse_questions(path)
    return Benchmark(tuple(questions), *paragraphs(questions), notes=noted(problems))


def paragraphs(
    questions: list[Question],
) -> tuple[tuple[Document, ...], dict[str, dict[str, float]]]:
    """The evidence of the questions as documents, each once, and for each question its own.

    A document's source is that of the question and a number.
    """
    documents: dict[tuple[str, str], Document] = {}
    numbers: dict[str, int] = {}
    grades: dict[str, dict[str, float]] = {}
    for question in questions:
        text = question.evidence.strip()
        if not text:
            continue
        if (question.source, text) not in documents:
            number = numbers[question.source] = numbers.get(question.source, -1) + 1
            title = question.source.replace("_", " ")
            document = Document.new(f"{question.source}/{number}", title, text)
            documents[question.source, text] = document
        if question.answerable:
            grades[question.id] = {documents[question.source, text].source: 1.0}
    return tuple(documents.values()), grades

"""WebQuestions (Berant et al. 2013): questions that people typed, with their answers and no passages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fieldstone.evaluate.benchmarks.benchmark import Benchmark, noted, once, text_of
from fieldstone.evaluate.questions import Question, json_values
from fieldstone.records import fingerprint

_TARGET = re.compile(r'\(description (?:"([^"]*)"|([^()]*))\)')


def read_webquestions(path: Path) -> Benchmark:
    """Lines of {question, answers}, or the first release's list of {utterance, targetValue}.

    Also as YodaQA's copy has it: {qId, qText, answers}.
    """
    problems: list[str] = []

    def found() -> Iterator[tuple[str, Question]]:
        for place, entry in json_values(path):
            try:
                yield place, _question(entry)
            except ValueError as error:
                problems.append(f"{place}: {error}")

    return Benchmark(once(found(), problems), notes=noted(problems))


def _question(entry: object) -> Question:
    question = text_of(entry, "question", "utterance", "qText")
    if not question:
        raise ValueError('"question" is missing or empty')
    assert isinstance(entry, dict)  # text_of has seen to it
    answers = entry.get("answers")
    if isinstance(entry.get("targetValue"), str):
        answers = [quoted or plain for quoted, plain in _TARGET.findall(entry["targetValue"])]
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f'"answers" must be a list of strings, not {answers!r:.60}')
    spoken = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not spoken:
        raise ValueError("there is no answer")
    id_ = text_of(entry, "id", "qId") or fingerprint(question)
    return Question(id_, question, spoken, "")

"""Questions with known answers, read from a file.

A file is JSON Lines (`question`, `answers`, `source`, and if you have them `evidence`, `kind`, `id`) or JSON
as SQuAD v1.1 and v2.0 have it. An empty list of answers says that the documents do not answer.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fieldstone.errors import QuestionsError
from fieldstone.records import fingerprint

ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))

NEAR_MISS = "near miss"
"""The kind of an unanswerable question that looks as if the documents answered it (SQuAD v2.0)."""

SHOWN = 5
"""So many bad lines are named in full."""

FORM = '{"question": "…", "answers": ["…"], "source": "file.txt", "evidence": "…"}'


@dataclass(frozen=True, slots=True)
class Question:
    """A question; `answers` are spellings of the right answer, none if the documents do not answer it.

    `source` is the path of the document in the folder, or its title in a SQuAD file; `evidence` is the
    part of the document that holds the answer, empty if unknown. `kind` is a word for questions that are to
    be looked at apart, such as `NEAR_MISS`.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    source: str
    evidence: str = ""
    kind: str = ""

    @property
    def answerable(self) -> bool:
        """The documents answer it."""
        return bool(self.answers)


def read_questions(path: Path) -> list[Question]:
    """The questions of a file, in order; a question without an id gets a fingerprint.

    Raises QuestionsError, which names the file and up to five bad lines with what is wrong with each.
    """
    questions: dict[str, Question] = {}
    places: dict[str, str] = {}
    problems: list[str] = []
    for place, entry in _entries(path):
        try:
            question = _question(json.loads(entry) if isinstance(entry, str) else entry)
            if question.id in places:
                raise ValueError(f"the id {question.id!r} stands already in {places[question.id]}")
        except (ValueError, RecursionError) as error:
            problems.append(f"{place}: {error}")
            continue
        if not question.id:
            question = replace(question, id=_new_id(question, places))
        places[question.id] = place
        questions[question.id] = question
    if problems:
        shown = "\n  ".join(problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise QuestionsError(
            f"{path}: {len(problems)} of {len(problems) + len(questions)} questions cannot be read; "
            f"mend them or delete them:\n  {shown}{more}"
        )
    if not questions:
        raise QuestionsError(f"{path} holds no question; write one a line, such as {FORM}")
    return list(questions.values())


def _entries(path: Path) -> Iterable[tuple[str, Any]]:
    """Each question's place in the file, and its JSON as text or as parsed."""
    text = _text(path)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    match whole:
        case {"data": [*articles]}:
            return _squad(path, articles)
        case [*entries]:
            return ((f"entry {number}", entry) for number, entry in enumerate(entries, 1))
        case {}:
            return [("line 1", whole)]
        case _:  # split at line feeds alone: JSON text may hold other line separators
            lines = enumerate(text.split("\n"), 1)
            return ((f"line {number}", line) for number, line in lines if line.strip())


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise QuestionsError(f"{path} cannot be read: {error.strerror}; give a file of questions") from None
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), None)
    if encoding is None:  # JSON begins with an ASCII character, whose other half is 0 in UTF-16
        halves = data[:1] == b"\0", data[1:2] == b"\0"
        encoding = "utf-16-be" if halves[0] else "utf-16-le" if halves[1] else "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise QuestionsError(
            f"{path} is not valid {encoding.upper()} at byte {error.start}; save it as UTF-8"
        ) from None


def _squad(path: Path, articles: Iterable[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The questions of a SQuAD file in our form; its repeated answers once."""
    a = p = 0
    try:
        for a, article in enumerate(articles):
            for p, paragraph in enumerate(article["paragraphs"]):
                for q, qa in enumerate(paragraph["qas"]):
                    answers = [] if qa.get("is_impossible") else [given["text"] for given in qa["answers"]]
                    entry = {
                        "id": qa.get("id"),
                        "question": qa.get("question"),
                        "answers": list(dict.fromkeys(answers)),
                        "source": article["title"],
                        "evidence": paragraph["context"],
                        "kind": NEAR_MISS if qa.get("is_impossible") else "",
                    }
                    yield f"data[{a}].paragraphs[{p}].qas[{q}]", entry
    except (KeyError, TypeError, AttributeError) as error:
        raise QuestionsError(
            f"{path} looks like SQuAD, but data[{a}].paragraphs[{p}] is not as in SQuAD "
            f"({type(error).__name__}: {error}); write one question a line instead, such as {FORM}"
        ) from None


def _question(entry: object) -> Question:
    """Raises ValueError, which says what is wrong with the entry."""
    if not isinstance(entry, dict):
        raise ValueError(f"this is no JSON object; write it as {FORM}")
    answers = entry.get("answers")
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise ValueError(
            f'"answers" must be a list of strings, empty if the documents do not answer, not {answers!r:.60}'
        )
    question = Question(
        id=_string(entry, "id"),
        question=_string(entry, "question"),
        answers=tuple(answers),
        source=_string(entry, "source").replace("\\", "/").removeprefix("./"),
        evidence=_string(entry, "evidence"),
        kind=_string(entry, "kind").strip(),
    )
    if not question.question.strip():
        raise ValueError('"question" is missing or empty')
    if answers and not question.source:
        raise ValueError('"source" is missing: the path, inside the folder, of the document that answers')
    try:
        parts = (question.question, question.source, question.evidence, question.kind, *answers)
        "".join(parts).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return question


def _string(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if value is None:
        return ""
    if name == "id" and isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" must be a string, not {value!r:.60}')
    return value


def _new_id(question: Question, taken: Mapping[str, str]) -> str:
    parts = (question.source, question.question, question.evidence, *question.answers)
    return next(new for again in range(len(taken) + 1) if (new := fingerprint(again, *parts)) not in taken)

"""Questions with known answers, read from a file.

A file is JSON Lines (`question`, `answers`, `source`, and if you have them `evidence`, `kind`, `id`) or JSON
as SQuAD v1.1 and v2.0 have it. An empty list of answers says that the documents do not answer.
"""

from __future__ import annotations

import codecs
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    questions, problems = parse_questions(path)
    if problems:
        shown = "\n  ".join(problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise QuestionsError(
            f"{path}: {len(problems)} of {len(problems) + len(questions)} questions cannot be read; "
            f"mend them or delete them:\n  {shown}{more}"
        )
    if not questions:
        raise QuestionsError(f"{path} holds no question; write one a line, such as {FORM}")
    return questions


def parse_questions(path: Path) -> tuple[list[Question], list[str]]:
    """The questions of a file that can be read, and of each that cannot, where it stands and what is wrong.

    Raises QuestionsError when the file itself cannot be read.
    """
    questions: dict[str, Question] = {}
    places: dict[str, str] = {}
    problems: list[str] = []
    for place, entry in _entries(path):
        try:
            question = _question(entry)
            if question.id in places:
                raise ValueError(f"the id {question.id!r} stands already in {places[question.id]}")
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        if not question.id:
            question = replace(question, id=_new_id(question, places))
        places[question.id] = place
        questions[question.id] = question
    return list(questions.values()), problems


def drawn(questions: Sequence[Question], most: int, seed: int = 0) -> list[Question]:
    """So many of the questions, by chance and in their order; 0: all of them."""
    if not 0 < most < len(questions):
        return list(questions)
    places = sorted(random.Random(seed).sample(range(len(questions)), most))
    return [questions[place] for place in places]


def json_values(path: Path) -> Iterator[tuple[str, object]]:
    """Each value of a file of JSON Lines, or of one JSON list, with its place.

    A ValueError stands for a value that is damaged. Raises QuestionsError when the file cannot be read.
    """
    text = read_text(path)
    whole = _loaded(text)
    if isinstance(whole, list):
        yield from ((f"entry {number}", entry) for number, entry in enumerate(whole, 1))
    elif not isinstance(whole, ValueError):
        yield "line 1", whole
    else:  # split at line feeds alone: JSON text may hold other line separators
        lines = enumerate(text.split("\n"), 1)
        yield from ((f"line {number}", _loaded(line)) for number, line in lines if line.strip())


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(str(error))


def _entries(path: Path) -> Iterator[tuple[str, object]]:
    """Each question's place in the file and what stands there; the questions of SQuAD in our form."""
    for place, value in json_values(path):
        match value:
            case {"data": [*articles]}:
                yield from _squad(articles)
            case _:
                yield place, value


def read_text(path: Path) -> str:
    """The text of a file, in any of the usual encodings. Raises QuestionsError."""
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


def _squad(articles: Iterable[Any]) -> Iterator[tuple[str, object]]:
    """The questions of a SQuAD file in our form; its repeated answers once.

    An article without a title is known by its place. JSQuAD's contexts begin with the title and "[SEP]",
    which are no part of the document.
    """
    for a, article in enumerate(articles):
        place = f"data[{a}]"
        try:
            for p, paragraph in enumerate(article["paragraphs"]):
                place = f"data[{a}].paragraphs[{p}]"
                head, separator, text = str(paragraph["context"]).partition("[SEP]")
                context = text.strip() if separator else head
                source = article.get("title") or f"data[{a}]"
                for q, qa in enumerate(paragraph["qas"]):
                    yield f"{place}.qas[{q}]", _squad_question(qa, source, context)
        except (KeyError, TypeError, AttributeError) as error:
            yield place, _no_squad(error)


def _squad_question(qa: Any, source: object, context: str) -> object:
    try:
        given = [] if qa.get("is_impossible") else [answer["text"] for answer in qa["answers"]]
        answers = list(dict.fromkeys(given))
    except (KeyError, TypeError, AttributeError) as error:
        return _no_squad(error)
    return {
        "id": qa.get("id"),
        "question": qa.get("question"),
        "answers": answers,
        "source": source,
        "evidence": context,
        "kind": NEAR_MISS if qa.get("is_impossible") else "",
    }


def _no_squad(error: Exception) -> ValueError:
    return ValueError(
        f"this looks like SQuAD, but is not as in SQuAD ({type(error).__name__}: {error}); "
        f"write one question a line instead, such as {FORM}"
    )


def _question(entry: object) -> Question:
    """Raises ValueError, which says what is wrong with the entry."""
    if isinstance(entry, ValueError):
        raise entry
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

"""Answers of whatever system, read from a file and measured; no library is needed.

A citation or a retrieved passage is a text, a quotation or the name of a source, and is judged by the
evidence of the question: `evidence.holds_evidence`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.evidence import holds_evidence, resolve_source, telling
from fieldstone.evaluate.named import DEFAULTS, Case, values
from fieldstone.evaluate.questions import Question, json_values

SHOWN = 3
"""So many bad lines or unknown questions are named in a note."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "system": ("system",),
    "id": ("id", "question_id"),
    "question": ("question", "query", "user_input"),
    "answer": ("answer", "response", "output"),
    "citations": ("citations", "sources"),
    "contexts": ("contexts", "retrieved_contexts", "hits"),
    "seconds": ("seconds", "latency"),
}
"""What is read of a line -> the names that it may have; the first that is there counts."""

TEXTS = ("text", "quote", "page_content", "content", "passage")
SOURCES = ("source", "document", "title", "url")

ELSEWHERE = "the evidence"
"""Stands for the passage that a system should have found, among those that it did find."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A citation or a retrieved passage: its text or the quotation, its source, its id, as far as known."""

    text: str
    source: str
    id: str


@dataclass(frozen=True, slots=True)
class Given:
    """What a system said to one question; None is what it did not say of itself."""

    system: str
    id: str
    question: str
    answer: str
    abstained: bool
    citations: tuple[Piece, ...] | None = None
    contexts: tuple[Piece, ...] | None = None
    seconds: float | None = None
    confidence: float | None = None


def read_answers(paths: Sequence[Path]) -> tuple[list[Given], tuple[str, ...]]:
    """The answers of all files, and a note on each file of which something cannot be read.

    A line without `system` is of the system that the file is named after. Raises QuestionsError when a file
    holds no answer at all.
    """
    given: list[Given] = []
    notes: list[str] = []
    for path in paths:
        problems, before = [], len(given)
        for place, entry in json_values(path):
            try:
                given.append(_given(entry, path.stem))
            except ValueError as error:
                problems.append(f"{place}: {error}")
        if len(given) == before:
            raise QuestionsError(
                f"{path} holds no answer{': ' + problems[0] if problems else ''}; "
                'write one a line, such as {"question": "…", "answer": "…", "citations": ["…"]}'
            )
        if problems:
            notes.append(f"{path.name}: {len(problems)} lines cannot be read: {_some(problems)}")
    return given, tuple(notes)


@dataclass(frozen=True, slots=True)
class Matched:
    """Answers by system and question id, and the questions that any of the systems was asked, in order."""

    asked: tuple[Question, ...]
    answers: Mapping[str, Mapping[str, Given]]
    notes: tuple[str, ...]


def match_answers(questions: Sequence[Question], given: Iterable[Given]) -> Matched:
    """Find the question of each answer, by its id or by its wording.

    Raises QuestionsError when no answer belongs to any of them.
    """
    by_id = {question.id: question for question in questions}
    by_text: dict[str, list[Question]] = {}
    for question in questions:
        by_text.setdefault(_key(question.question), []).append(question)
    found: dict[str, dict[str, Given]] = {}
    stray: dict[str, list[str]] = {}
    again: Counter[str] = Counter()
    for its in given:
        answers = found.setdefault(its.system, {})
        known = [by_id[its.id]] if its.id in by_id else by_text.get(_key(its.question), [])
        if not known:
            stray.setdefault(its.system, []).append(its.question or its.id)
        for question in known:
            again[its.system] += question.id in answers
            answers.setdefault(question.id, its)
    asked = tuple(question for question in questions if any(question.id in its for its in found.values()))
    if not asked:
        raise QuestionsError(
            "no answer belongs to any of the questions; give each the id or the wording of its question"
        )
    notes = []
    if len(asked) < len(questions):
        notes.append(f"{len(questions) - len(asked)} questions have no answer at all and are left out")
    for name, answers in found.items():
        if missing := len(asked) - len(answers):
            notes.append(f"{name}: {missing} questions have no answer and count as unanswered")
        if strays := stray.get(name):
            notes.append(f"{name}: {len(strays)} answers belong to no question: {_some(strays)}")
        if again[name]:
            notes.append(f"{name}: {again[name]} questions are answered again; the first answer counts")
    return Matched(asked, found, tuple(notes))


def rows_of(
    matched: Matched,
    measures: Sequence[str] = DEFAULTS,
    text_of: Callable[[str], str | None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """A row a system and question, as an evaluation keeps them.

    What a system was not asked counts as unanswered. `text_of` gives the text of a passage by its id, where
    there is a library. nDCG is left out: how many passages are relevant is not known.
    """
    told = {question.id: telling(question) for question in matched.asked}
    for system, answers in matched.answers.items():
        cites = any(its.citations is not None for its in answers.values())
        searched = any(its.contexts is not None for its in answers.values())
        names = [name for name in measures if cites or not name.startswith("citation")]
        names = [name for name in names if not name.startswith("nDCG")]
        for question in matched.asked:
            its = answers.get(question.id) or Given(system, question.id, question.question, "", True)
            yield _row(system, question, its, told[question.id], names, text_of, searched=searched)


def _row(
    system: str,
    question: Question,
    its: Given,
    told: Sequence[str],
    measures: Sequence[str],
    text_of: Callable[[str], str | None],
    *,
    searched: bool,
) -> dict[str, Any]:
    contexts, citations = _numbered(its.contexts or (), "passage"), _numbered(its.citations or (), "citation")
    pieces = {**contexts, **citations}
    relevant = {name for name, piece in pieces.items() if _relevant(piece, question, told, text_of)}
    located = question.answerable and bool(question.evidence.strip() or question.source)
    groups = (frozenset({*relevant, ELSEWHERE}),) if located else ()
    case = Case(
        question, groups, tuple(contexts) if searched else None, its.answer, its.abstained,
        tuple(citations), seconds=its.seconds,
    )  # fmt: skip
    return {
        "system": system,
        "id": question.id,
        "question": question.question,
        "answers": list(question.answers),
        "source": question.source,
        "relevant": sorted(relevant | {ELSEWHERE}) if searched and located else [],
        "hits": [
            {"passage": name, "score": 1 / rank, "text": piece.text}
            for rank, (name, piece) in enumerate(contexts.items(), 1)
        ],
        "answer": its.answer,
        "abstained": its.abstained,
        "confidence": its.confidence,
        "citations": [
            {"passage": name, "quote": piece.text or piece.source, "verified": None}
            for name, piece in citations.items()
        ],
        "seconds": its.seconds,
        "measures": values(case, measures),
    }


def _numbered(pieces: Sequence[Piece], what: str) -> dict[str, Piece]:
    """Each piece under its id; one without an id, or with one that was there before, under its number."""
    named: dict[str, Piece] = {}
    for number, piece in enumerate(pieces, 1):
        name = piece.id if piece.id and piece.id not in named else f"{what} {number}"
        named[name] = piece
    return named


def _relevant(
    piece: Piece, question: Question, told: Sequence[str], text_of: Callable[[str], str | None]
) -> bool:
    """By its text where it has one; by its source where it has none.

    A text is known by the evidence; where only answers are known, it must not be of another source.
    """
    if not question.answerable:
        return False
    text = text_of(piece.id or piece.text) or piece.text
    named = bool(piece.source) and resolve_source(piece.source, [question.source]) is not None
    if not text or (named and text == piece.source):
        return named
    foreign = piece.source not in ("", text) and not named
    return (bool(question.evidence.strip()) or not foreign) and holds_evidence(text, question, told)


def _given(entry: object, system: str) -> Given:
    """Raises ValueError, which says what is wrong with the line."""
    if isinstance(entry, ValueError):
        raise entry
    if not isinstance(entry, dict):
        raise ValueError(f"this is no JSON object: {entry!r:.60}")
    fields = {what: next((entry[n] for n in names if n in entry), None) for what, names in FIELDS.items()}
    if not any(name in entry for name in FIELDS["answer"]) and not entry.get("abstained"):
        raise ValueError('"answer" is missing')
    answer = fields["answer"]
    if not isinstance(answer, str | None):
        raise ValueError(f'"answer" must be a string, not {answer!r:.60}')
    id_, question = fields["id"], fields["question"]
    if not isinstance(id_, str | int | None) or not isinstance(question, str | None):
        raise ValueError('"id" and "question" must be strings')
    if id_ is None and not question:
        raise ValueError('neither "id" nor "question" says what it answers')
    said = (answer or "").strip()
    return Given(
        system=str(fields["system"] or system),
        id="" if id_ is None else str(id_),
        question=question or "",
        answer=said,
        abstained=bool(entry.get("abstained")) or not said,
        citations=_pieces(fields["citations"], "citations"),
        contexts=_pieces(fields["contexts"], "contexts"),
        seconds=_number(fields["seconds"]),
        confidence=_number(entry.get("confidence")),
    )


def _pieces(value: object, name: str) -> tuple[Piece, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError(f'"{name}" must be a list, not {value!r:.60}')
    return tuple(_piece(its, name) for its in value)


def _piece(value: object, name: str) -> Piece:
    """A string may be a text or a source: both are tried."""
    if isinstance(value, str):
        return Piece(value.strip(), value.strip(), "")
    if not isinstance(value, dict):
        raise ValueError(f'"{name}" holds {value!r:.60}, which is neither text nor object')
    inner = value.get("passage")
    if isinstance(inner, dict):  # as `fieldstone ask --json` writes a hit
        return _piece({**inner, **{k: v for k, v in value.items() if k != "passage"}}, name)
    id_ = value.get("id", value.get("passage_id"))
    return Piece(_first(value, TEXTS), _first(value, SOURCES), str(id_) if isinstance(id_, str | int) else "")


def _first(value: Mapping[str, object], names: Sequence[str]) -> str:
    return next((its.strip() for n in names if isinstance(its := value.get(n), str) and its.strip()), "")


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _key(question: str) -> str:
    return " ".join(question.casefold().split())


def _some(texts: Sequence[str]) -> str:
    shown = "; ".join(text[:80] for text in texts[:SHOWN])
    return f"{shown}; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else shown

"""Answers of whatever system, read from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.questions import json_values

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
            notes.append(f"{path.name}: lines that cannot be read: {len(problems)} ({some(problems)})")
    return given, tuple(notes)


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


def some(texts: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    shown = "; ".join(text[:80] for text in texts[:SHOWN])
    return f"{shown}; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else shown

"""A benchmark as every reader gives it: questions, and its own documents and relevance where it has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.questions import Question
from fieldstone.records import Document

SHOWN = 3
"""So many damaged entries are named in a note."""

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with options, of which the one at place `answer` is right."""

    question: str
    options: tuple[str, ...]
    answer: int

    @property
    def letter(self) -> str:
        """What stands before the right option."""
        return LETTERS[self.answer]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What the files of a benchmark hold.

    `documents` are its own passages, a document each; none: it is asked closed book, or over a workspace.
    `grades` is question id -> source of a document -> how relevant it is, 0 and below: not. `choices` holds
    the options of multiple-choice questions by id, whose `answers` are a letter, and `shots` examples to
    show before them, by subject (their `source`). Where it is not `answered`, nothing but relevance is
    known. `notes` say what was damaged and left out.
    """

    questions: tuple[Question, ...]
    documents: tuple[Document, ...] = ()
    grades: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    shots: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    answered: bool = True
    notes: tuple[str, ...] = ()


def noted(problems: Sequence[str]) -> tuple[str, ...]:
    """A note on what was left out; nothing where nothing was."""
    if not problems:
        return ()
    shown = "; ".join(problems[:SHOWN])
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    entries = "1 entry that cannot be read is" if len(problems) == 1 else f"{len(problems)} entries are"
    return (f"{entries} left out: {shown}{more}",)


def once(questions: Iterable[tuple[str, Question]], problems: list[str]) -> tuple[Question, ...]:
    """The questions, each id once; a place whose id was there before joins the problems."""
    kept: dict[str, Question] = {}
    for place, question in questions:
        if question.id in kept:
            problems.append(f"{place}: the id {question.id!r} stands there twice")
        else:
            kept[question.id] = question
    return tuple(kept.values())


def text_of(entry: object, *names: str) -> str:
    """The first of these fields that holds something, as text; empty if none does.

    Raises ValueError when the entry is damaged or no JSON object.
    """
    if isinstance(entry, ValueError):
        raise entry
    if not isinstance(entry, dict):
        raise ValueError(f"this is no JSON object: {entry!r:.60}")
    for name in names:
        value = entry.get(name)
        if isinstance(value, str | int | float) and str(value).strip():
            text = str(value).strip()
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f'"{name}" holds half of a surrogate pair, which is no character')
            return text
    return ""


def needed(path: Path, what: str) -> Path:
    """The path, if there is something. Raises QuestionsError."""
    if not path.exists():
        raise QuestionsError(f"there is no {path}; {what}")
    return path

"""Answers of whatever system, matched to questions and measured; no library is needed.

A citation or a retrieved passage is a text, a quotation or the name of a source, and is judged by the
evidence of the question: `evidence.holds_evidence`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fieldstone.errors import QuestionsError
from fieldstone.evaluate.evidence import holds_evidence, resolve_source, telling
from fieldstone.evaluate.measures.named import DEFAULTS, Case, values
from fieldstone.evaluate.questions import Question
from fieldstone.evaluate.systems.answers import Given, Piece, some


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
        notes.append(f"left out, for nobody answered them: {len(questions) - len(asked)} questions")
    for name, answers in found.items():
        if missing := len(asked) - len(answers):
            notes.append(f"{name}: no answer is given to {missing} of {len(asked)}; they count as unanswered")
        if strays := stray.get(name):
            notes.append(f"{name}: answers that belong to no question: {len(strays)} ({some(strays)})")
        if again[name]:
            notes.append(f"{name}: given again, of which the first counts: {again[name]} answers")
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


def texts_of(matched: Matched) -> dict[str, str]:
    """The text of all that the rows name, by the ids that they have there: passages, citations, evidence."""
    texts: dict[str, str] = {}
    for question in matched.asked:
        texts[_evidence_of(question)] = question.evidence
        for system, answers in matched.answers.items():
            if (its := answers.get(question.id)) is not None:
                contexts, citations = _pieces(system, question, its)
                texts |= {name: piece.text for name, piece in (citations | contexts).items()}
    return {name: text for name, text in texts.items() if text.strip()}


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
    contexts, citations = _pieces(system, question, its)
    pieces = {**citations, **contexts}  # a citation of a passage that was found is judged by that passage
    relevant = {name for name, piece in pieces.items() if _relevant(piece, question, told, text_of)}
    located = question.answerable and bool(question.evidence.strip() or question.source)
    groups = (frozenset({*relevant, _evidence_of(question)}),) if located else ()
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
        "relevant": sorted(relevant | {_evidence_of(question)}) if searched and located else [],
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


def _pieces(system: str, question: Question, its: Given) -> tuple[dict[str, Piece], dict[str, Piece]]:
    """What was found and what is cited, by id; without one, or with one that was there before, by number."""

    def named(pieces: Sequence[Piece], what: str) -> dict[str, Piece]:
        found: dict[str, Piece] = {}
        for number, piece in enumerate(pieces, 1):
            own = bool(piece.id) and piece.id not in found
            found[piece.id if own else f"{what} {number} of {system} on {question.id}"] = piece
        return found

    return named(its.contexts or (), "passage"), named(its.citations or (), "citation")


def _evidence_of(question: Question) -> str:
    """Stands for the passage that a system should have found, among those that it did find."""
    return f"the evidence of {question.id}"


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


def _key(question: str) -> str:
    return " ".join(question.casefold().split())

"""Which questions are worth keeping, and why the others are not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fieldstone.quotes import find_words
from fieldstone.search.words import index_words
from fieldstone.synthesize.ask import Asked

ANSWER_WORDS = 20
"""An answer longer than this is no answer to read off, unless the way of asking allows it."""

ALIKE = 0.7
"""Two questions about one passage that share so much of their words are one."""

# What can only be understood with the passage in view.
_POINTING = re.compile(
    r"\b(?:the|this|that|above|following|given) (?:text|passage|sentence|article|paragraph|document|author"
    r"|statement|excerpt)s?\b|\baccording to (?:the|this) (?:text|passage|document)\b|\bof the following\b"
    r"|\bthe name of the (?:person|man|woman|place|thing|company|group) (?:who|that|which)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?:he|she|they|it|him|them|his|her|their|its|this|these|those|we|our|you|your|my)\b", re.IGNORECASE
)


def fault(asked: Asked, least_lift: float = 0.0) -> str | None:
    """What is wrong with a question by itself; None if nothing is."""
    question = asked.question.strip()
    if not question and not asked.sentence:
        return "the answer that was named does not stand in the passage"
    if not asked.finished or not question.endswith("?"):
        return "the question does not come to an end"
    if asked.lift < least_lift:
        return "the question is as likely without the sentence"
    if len(question.split()) < 4:
        return "the question is too short"
    if _POINTING.search(question):
        return "the question points at the text"
    if leaves_open(question):
        return "the question leaves open whom or what it means"
    return None


def leaves_open(text: str) -> bool:
    """Whether a text says he, she, it or this, and what that means stands elsewhere, or points at a text."""
    return bool(_PRONOUN.search(text) or _POINTING.search(text))


def fault_of_answer(asked: Asked, longest: int = ANSWER_WORDS) -> str | None:
    """What is wrong with the answer; None if nothing is. The question may be good all the same."""
    if not asked.answer:
        return "no answer"
    if len(asked.answer.split()) > longest:
        return "the answer is too long"
    if not find_words(asked.answer, asked.sentence):
        return "the answer does not stand in what was asked about"
    if set(index_words(asked.answer)) <= set(index_words(asked.question)):
        return "the question holds its answer"
    return None


def holds(answer: str, text: str) -> bool:
    """Whether the answer stands in the text as words of its own, whatever their case, accents and plural."""
    words = index_words(answer)
    return bool(words) and f" {' '.join(words)} " in f" {' '.join(index_words(text))} "


def repeats(asked: Sequence[Asked]) -> set[int]:
    """Places of the questions that say again what a better one about the same passage says.

    Better is what its sentence makes likelier. A question that is asked of several passages word for word is
    left to the first of them.
    """
    order = sorted(range(len(asked)), key=lambda i: (-asked[i].lift, i))
    kept: dict[str, list[frozenset[str]]] = {}
    known: set[tuple[str, ...]] = set()
    out = set()
    for i in order:
        words = index_words(asked[i].question)
        mine, others = frozenset(words), kept.setdefault(asked[i].passage_id, [])
        if tuple(words) in known or any(_overlap(mine, other) > ALIKE for other in others):
            out.add(i)
        else:
            others.append(mine)
            known.add(tuple(words))
    return out


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / (len(a | b) or 1)

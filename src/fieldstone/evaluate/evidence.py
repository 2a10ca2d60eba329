"""Where in the documents the answer to a question stands, and which passages hold it.

A passage is relevant when it overlaps the part of the evidence that holds the answer. Evidence is sought
without regard to case, white space and hyphens at line ends, and if it stands nowhere like that, as the
stretch of the document that shares most of its words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from fieldstone.evaluate.questions import Question
from fieldstone.quotes import Span, find, find_words, sentences
from fieldstone.records import Document, Passage

# A character that writes a word or a syllable by itself is a word; everything else is divided by what is
# no letter and no digit.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")

ENOUGH = 0.6
"""The least share of the evidence's words that a stretch of the document must hold to be taken for it."""


@dataclass(frozen=True, slots=True)
class Located:
    """What was found of some questions: spans by question id, then document id; ids of those not found."""

    spans: Mapping[str, Mapping[str, tuple[Span, ...]]]
    missing: tuple[str, ...]


def locate(questions: Iterable[Question], documents: Iterable[Document]) -> Located:
    """Find every answerable question in the document or documents of its source."""
    by_source: dict[str, list[Document]] = {}
    for document in documents:
        by_source.setdefault(document.source, []).append(document)
    spans: dict[str, dict[str, tuple[Span, ...]]] = {}
    missing: list[str] = []
    for question in questions:
        if not question.answerable:
            continue
        source = resolve_source(question.source, by_source)
        found = {
            document.id: tuple(there)
            for document in by_source.get(source or "", ())
            if (there := relevant_spans(question, document.text))
        }
        if found:
            spans[question.id] = found
        else:
            missing.append(question.id)
    return Located(spans, tuple(missing))


def resolve_source(hint: str, sources: Collection[str]) -> str | None:
    """The one of `sources` that is meant: this path, or else the only file of this name or title."""
    if hint in sources:
        return hint
    for name in (_file_name, _title):
        matches = [source for source in sources if name(source) == name(hint)]
        if len(matches) == 1:
            return matches[0]
    return None


def relevant_spans(question: Question, text: str) -> list[Span]:
    """Spans of `text`, in order, that hold an answer inside the evidence; overlapping ones joined.

    All occurrences count. Without evidence: the answers wherever they stand. Where the evidence holds no
    answer in so many words: all of the evidence. An empty list: not found, or unanswerable.
    """
    if not question.answers:
        return []
    if not question.evidence.strip():
        return _joined(span for answer in question.answers for span in find_words(answer, text, 0, len(text)))
    quote = question.evidence.strip()
    evidence = _exactly(quote, text) or find(quote, text) or _most_alike(quote, text)
    answers = [
        span for a, b in evidence for answer in question.answers for span in find_words(answer, text, a, b)
    ]
    return _joined(answers or evidence)


def relevant_passages(spans: Collection[Span], passages: Iterable[Passage]) -> frozenset[str]:
    """Ids of the passages that overlap one of the spans; all of the same document."""
    return frozenset(p.id for p in passages if any(p.start < end and start < p.end for start, end in spans))


def telling(question: Question) -> list[str]:
    """The sentences of the evidence that hold an answer; all of them where none does in so many words."""
    text = question.evidence.strip()
    answers = relevant_spans(question, text)
    return [text[a:b] for a, b in sentences(text) if any(a < end and start < b for start, end in answers)]


def holds_evidence(text: str, question: Question, told: Collection[str]) -> bool:
    """Whether a text of whatever system holds what answers the question, or is a piece of it.

    `told`: the `telling` sentences of the question; one of which the text has most words counts as held. A
    piece must have the answer, or half of it at least. Without evidence an answer must stand in the text.
    Letters and digits alone are compared.
    """
    if not question.evidence.strip():
        return bool(relevant_spans(question, text))
    whole, piece = _letters(question.evidence), _letters(text)
    if not piece:
        return False
    if piece in whole:
        answers = [its for answer in question.answers if (its := _letters(answer)) and its in whole]
        halves = (its for its in answers if piece in its and 2 * len(piece) >= len(its))
        return not answers or any(its in piece for its in answers) or any(halves)
    return any(relevant_spans(replace(question, evidence=sentence), text) for sentence in told)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _exactly(quote: str, text: str) -> list[Span]:
    """As `find` letter by letter; ten times as fast on a long quotation."""
    return [match.span() for match in re.finditer(re.escape(quote), text)]


def _most_alike(quote: str, text: str) -> list[Span]:
    """The stretch of `text`, as many words long as `quote`, that shares most words with it."""
    wanted = Counter(match[0].casefold() for match in WORD.finditer(quote))
    size = wanted.total()
    words = [(match[0].casefold(), *match.span()) for match in WORD.finditer(text)]
    if not size or not words:
        return []
    held: Counter[str] = Counter()
    shared = best = last = 0
    for i, (word, _, _) in enumerate(words):
        held[word] += 1
        shared += held[word] <= wanted[word]
        if i >= size:
            gone = words[i - size][0]
            shared -= held[gone] <= wanted[gone]
            held[gone] -= 1
        if shared > best:
            best, last = shared, i
    if best < ENOUGH * size:
        return []
    return [(words[max(0, last - size + 1)][1], words[last][2])]


def _joined(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(set(spans)):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _file_name(source: str) -> str:
    return PurePosixPath(source).name


def _title(source: str) -> str:
    return PurePosixPath(source).stem.replace("_", " ").casefold()

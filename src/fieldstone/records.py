"""The records that pass between the steps: frozen, plain, made of strings and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


def fingerprint(*parts: object) -> str:
    """Sixteen hex digits that stand for `parts`; equal parts give equal fingerprints on every machine."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of a document: its level (1 is the highest), its words, where its section starts."""

    level: int
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Document:
    """One document as text.

    `source` is the path inside the folder, with forward slashes. `headings` are in order of `start`;
    `pages` holds the offset at which each page starts (empty: the format has no pages).
    """

    id: str
    source: str
    title: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()
    pages: tuple[int, ...] = ()

    @staticmethod
    def new(
        source: str,
        title: str,
        text: str,
        metadata: Mapping[str, str] | None = None,
        headings: tuple[Heading, ...] = (),
        pages: tuple[int, ...] = (),
    ) -> Document:
        """A document whose id is the fingerprint of its source and text."""
        return Document(fingerprint(source, text), source, title, text, metadata or {}, headings, pages)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document: `document.text[start:end] == text`, always.

    `headings` is the path of headings above it, outermost first; `page` counts from 1.
    """

    id: str
    document_id: str
    text: str
    start: int
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None


def with_context(text: str, title: str, headings: Sequence[str]) -> str:
    """The passage as encoder, index and prompt see it: title and heading path above the text."""
    path = [part for part in (title, *headings) if part]
    unique = [part for i, part in enumerate(path) if i == 0 or part.casefold() != path[i - 1].casefold()]
    return f"{' > '.join(unique)}\n{text}" if unique else text


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found: `rank` counts from 1, `by` names the search that gave `score`.

    `scores` says why: what each search on the way gave it (dense, lexical, fused, likelihood).
    """

    passage: Passage
    score: float
    rank: int
    by: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its answer and where it stands; what tuning and evaluation work on.

    `passage_id` is the passage that answers; None where none does. An answerable question with an empty
    `answer` is one whose passage is known and whose answer is not. `negatives` are passages that look right
    and are not, the likeliest first. `made_by` says how it came about: model, prompt, seed.
    """

    id: str
    question: str
    answer: str
    passage_id: str | None
    negatives: tuple[str, ...] = ()
    kind: Literal["answerable", "unanswerable"] = "answerable"
    origin: Literal["synthetic", "human", "feedback"] = "synthetic"
    made_by: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Citation:
    """A quote and where it stands: `document.text[start:end] == quote` if `verified`."""

    passage_id: str
    quote: str
    start: int
    end: int
    verified: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the system says to a question; `abstained` means that the documents do not answer it.

    `confidence` lies in 0..1; `timings` are seconds a stage.
    """

    text: str
    citations: tuple[Citation, ...]
    hits: tuple[Hit, ...]
    abstained: bool
    confidence: float
    timings: Mapping[str, float] = field(default_factory=dict)

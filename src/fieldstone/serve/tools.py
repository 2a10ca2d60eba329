"""What an assistant can do with a library: search it, ask it, fetch from it. Nothing here changes anything.

Each tool takes checked arguments and gives its result twice: as data, and as text to read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from fieldstone.errors import RequestError
from fieldstone.library import Library
from fieldstone.records import Passage
from fieldstone.search import Filter
from fieldstone.serve.engine import Engine

T = TypeVar("T")

PART = 8000
"""Characters of a document that come at a time."""

Question = Annotated[str, Field(min_length=1, max_length=4000, description="in the words of the documents")]
Source = Annotated[
    str | None, Field(max_length=400, description="only documents whose path fits this glob: tariffs/*")
]
Type = Annotated[str | None, Field(max_length=40, description="only documents of this type: pdf, docx, md …")]
Named = Annotated[str | None, Field(max_length=400, description="which library; without it, the first one")]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    workspace: Named = None


class Search(_Arguments):
    """Find the passages of the user's documents that fit a question best.

    They come word for word, each with its place and its ids. Use it to answer from the documents yourself,
    and cite source and page.
    """

    question: Question
    k: int = Field(8, ge=1, le=50, description="how many passages")
    source: Source = None
    type: Type = None


class Ask(_Arguments):
    """Let the library's own model answer a question from the user's documents.

    The answer comes with the sentences it stands on, or says that the documents do not answer. The model is
    small and runs on the user's machine: where its answer looks wrong, search and read for yourself.
    """

    question: Question
    source: Source = None
    type: Type = None


class Fetch(_Arguments):
    """Read a document from a place on, or a passage, by an id that search or ask has given.

    A long document comes in parts: `next` is the `start` of the following one.
    """

    id: str = Field(min_length=1, max_length=100, description="a document_id or a passage_id")
    start: int = Field(0, ge=0, description="from this character of the document on")


class Place(BaseModel):
    """Where something stands: `start` and `end` are characters of the document."""

    source: str
    title: str
    headings: list[str]
    page: int | None
    document_id: str
    passage_id: str


class FoundPassage(Place):
    """A passage that was found."""

    rank: int
    score: float
    text: str
    start: int
    end: int


class SearchResult(BaseModel):
    """What was found, best first."""

    workspace: str
    passages: list[FoundPassage]

    def __str__(self) -> str:
        if not self.passages:
            return "Nothing was found. Try other words, or leave the filters out."
        return "\n\n".join(f"{p.rank}. {_place(p)}\n{p.text}" for p in self.passages)


class Quote(Place):
    """What an answer stands on; `verified`: letter by letter in the document."""

    number: int
    quote: str
    verified: bool


class AskResult(BaseModel):
    """An answer; `abstained` where the documents do not answer."""

    workspace: str
    question: str
    text: str
    abstained: bool
    confidence: float
    citations: list[Quote]

    def __str__(self) -> str:
        if self.abstained:
            return f"{self.text} Search shows what comes nearest."
        cited = [
            f'[{c.number}] {_place(c)}: "{c.quote}"{"" if c.verified else " (not found word for word)"}'
            for c in self.citations
        ]
        return "\n".join([self.text, *cited])


class FetchResult(BaseModel):
    """A part of a document, or a passage: `start` and `end` are characters of the document."""

    workspace: str
    document_id: str
    passage_id: str | None
    source: str
    title: str
    headings: list[str]
    page: int | None
    text: str
    start: int
    end: int
    length: int = Field(description="characters of the whole document")
    next: int | None = Field(description="where to go on; null at the end")

    def __str__(self) -> str:
        where = [self.source, *self.headings, *([f"page {self.page}"] if self.page else [])]
        head = f"{' › '.join(where)} (characters {self.start} to {self.end} of {self.length})"
        more = f"\n\n(goes on: fetch {self.document_id} with start = {self.next})" if self.next else ""
        return f"{head}\n\n{self.text}{more}"


Result = SearchResult | AskResult | FetchResult


async def search(engine: Engine, given: Search) -> SearchResult:
    """The passages that fit best."""
    found = await engine.search(given.question, given.k, _filter(given))
    return SearchResult(
        workspace=engine.name,
        passages=[
            FoundPassage(
                **_of(hit.passage, found.sources.get(hit.passage.document_id, ("", ""))),
                rank=hit.rank,
                score=hit.score,
                text=hit.passage.text,
                start=hit.passage.start,
                end=hit.passage.end,
            )
            for hit in found.hits
        ],
    )


async def ask(engine: Engine, given: Ask) -> AskResult:
    """The library's own answer."""
    reply = await engine.ask(given.question, _filter(given))
    answer = reply.answer
    passages = {hit.passage.id: hit.passage for hit in answer.hits}
    citations = []
    for number, citation in enumerate(answer.citations, start=1):
        passage = passages[citation.passage_id]
        place = _of(passage, reply.sources.get(passage.document_id, ("", "")))
        citations.append(Quote(**place, number=number, quote=citation.quote, verified=citation.verified))
    return AskResult(
        workspace=engine.name,
        question=given.question,
        text=answer.text,
        abstained=answer.abstained,
        confidence=answer.confidence,
        citations=citations,
    )


async def fetch(engine: Engine, given: Fetch) -> FetchResult:
    """A passage, or a document from a place on. Raises RequestError where there is none of that id."""
    return await from_library(engine, lambda library: part_of(library, engine.name, given.id, given.start))


def part_of(library: Library, workspace: str, id_: str, start: int = 0) -> FetchResult:
    """A passage, or the part of a document that begins at `start`. Raises RequestError."""
    for passage in library.passages([id_]):
        document = library.document(passage.document_id)
        place = _of(passage, (document.source, document.title))
        return FetchResult(
            **place,
            workspace=workspace,
            text=passage.text,
            start=passage.start,
            end=passage.end,
            length=len(document.text),
            next=None,
        )
    try:
        document = library.document(id_)
    except KeyError:
        raise RequestError(
            f"there is no document and no passage {id_[:100]!r} in {workspace}; it may have changed since: "
            "take an id that search gives now",
            status=404,
            code="not_found",
            param="id",
        ) from None
    end = part_end(document.text, start)
    return FetchResult(
        workspace=workspace,
        document_id=document.id,
        passage_id=None,
        source=document.source,
        title=document.title,
        headings=[],
        page=None,
        text=document.text[start:end],
        start=min(start, end),
        end=end,
        length=len(document.text),
        next=end if end < len(document.text) else None,
    )


def part_end(text: str, start: int) -> int:
    """Where the part that begins at `start` ends: at the end of a line, or else of a word, where it can."""
    end = start + PART
    if end >= len(text):
        return len(text)
    for gap in ("\n", " "):
        at = text.rfind(gap, start + PART // 2, end)
        if at >= 0:
            return at + 1
    return end


def chosen(engines: Mapping[str, Engine], name: str | None) -> Engine:
    """The workspace of that name, the first one without. Raises RequestError."""
    if name is None and engines:
        return next(iter(engines.values()))
    if name is None or name not in engines:
        known = ", ".join(engines) or "none"
        raise RequestError(f"there is no workspace {(name or '')[:100]!r} here; there is {known}", status=404)
    return engines[name]


async def from_library(engine: Engine, what: Callable[[Library], T]) -> T:
    """Something read out of the library, by a connection of its own; no model is needed for it."""

    def read() -> T:
        with closing(engine.workspace.library()) as library, library.snapshot():
            return what(library)

    return await asyncio.to_thread(read)


def _filter(given: Search | Ask) -> Filter:
    return Filter(given.source, given.type.lower().removeprefix(".") if given.type else None)


def _of(passage: Passage, its: tuple[str, str]) -> dict[str, object]:
    """The fields of a place."""
    source, title = its
    return {
        "source": source,
        "title": title,
        "headings": list(passage.headings),
        "page": passage.page,
        "document_id": passage.document_id,
        "passage_id": passage.id,
    }


def _place(place: Place) -> str:
    parts: Sequence[str] = [place.source, *place.headings, *([f"page {place.page}"] if place.page else [])]
    return f"{' › '.join(parts)} [passage {place.passage_id}, document {place.document_id}]"

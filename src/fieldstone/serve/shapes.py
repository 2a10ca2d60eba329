"""What goes in and out as JSON: requests, checked; replies, described; records made into replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fieldstone.library import FileState
from fieldstone.records import Answer, Hit, Passage
from fieldstone.search import Filter
from fieldstone.serve.conversation import Turn

Sources = Mapping[str, tuple[str, str]]
"""Document id -> source and title."""

QUESTION_CHARACTERS = 4000
QuestionText = Annotated[str, StringConstraints(min_length=1, max_length=QUESTION_CHARACTERS)]
Short = Annotated[str, StringConstraints(max_length=400)]

QUESTION = "When may ships pass Marrow Lock?"


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FilterGiven(_Given):
    """Documents to search."""

    source: Short | None = Field(None, description="A glob of paths.", examples=["tariffs/*"])
    type: Short | None = Field(None, description="A kind of file.", examples=["pdf"])
    since: Short | None = Field(
        None, description="Of this day, month or year, or later.", examples=["2025-03"]
    )
    until: Short | None = Field(
        None, description="Of this day, month or year, or earlier.", examples=["2025"]
    )

    def as_filter(self) -> Filter:
        """The record. Raises SettingsError where a date is none."""
        kind = self.type.lower().removeprefix(".") if self.type else None
        return Filter(self.source, kind, self.since, self.until)


class SearchRequest(_Given):
    """A search."""

    question: QuestionText = Field(examples=[QUESTION])
    k: int = Field(10, ge=1, le=100, description="How many passages.")
    workspace: Short | None = Field(None, description="Which workspace; the first one if not said.")
    filter: FilterGiven | None = None
    rerank: bool = Field(
        False, description="Take the second look that answering takes; it waits its turn among the answers."
    )


class TurnGiven(_Given):
    """A question that was asked before, and its answer."""

    question: QuestionText
    answer: Annotated[str, StringConstraints(max_length=20_000)] = ""

    def as_turn(self) -> Turn:
        """The record."""
        return Turn(self.question, self.answer)


class AskRequest(_Given):
    """A question."""

    question: QuestionText = Field(examples=[QUESTION])
    history: list[TurnGiven] = Field([], max_length=100, description="The conversation so far, oldest first.")
    workspace: Short | None = Field(None, description="Which workspace; the first one if not said.")
    filter: FilterGiven | None = None
    stream: bool = Field(False, description="Tell it as it happens, as server-sent events.")
    shared: bool = Field(
        False, description="Give only what the settings `share` allow to go to other sites; not with stream."
    )


class PassageShape(BaseModel):
    """A piece of a document: `start` and `end` are its place in the document's text."""

    id: str
    document_id: str
    text: str
    start: int
    end: int
    headings: list[str]
    page: int | None


class HitShape(BaseModel):
    """A passage that was found, and the scores that say why."""

    rank: int
    score: float
    scores: dict[str, float]
    source: str
    title: str
    passage: PassageShape


class SearchReply(BaseModel):
    """What was found, best first."""

    workspace: str
    hits: list[HitShape]
    seconds: float


class CitationShape(BaseModel):
    """A quote and where it stands; `verified`: letter by letter in the document's text."""

    number: int
    passage_id: str
    quote: str
    start: int
    end: int
    verified: bool
    source: str
    title: str
    headings: list[str]
    page: int | None


class AskReply(BaseModel):
    """An answer; `asked` is the question as it was understood, `answer` null where there is none."""

    id: str
    workspace: str
    question: str
    asked: str
    answer: str | None
    text: str
    abstained: bool
    confidence: float
    citations: list[CitationShape]
    hits: list[HitShape]
    timings: dict[str, float]


class WorkspaceShape(BaseModel):
    """A workspace that is served."""

    name: str
    ready: bool
    documents: int
    passages: int


class Workspaces(BaseModel):
    """The workspaces that the key opens, the first one first."""

    workspaces: list[WorkspaceShape]


class FileShape(BaseModel):
    """A file; `state` is ready, indexing or unread, and `reason` says why it gives no text."""

    source: str
    type: str
    bytes: int
    documents: int
    passages: int
    state: str
    reason: str | None
    warnings: list[str]


class ProgressShape(BaseModel):
    """What is being worked in: the step, how far it is, which uploads wait, what went wrong."""

    step: str | None
    done: int
    total: int
    unit: str
    waiting: list[str]
    problem: str | None


class Files(BaseModel):
    """Files in order of their source; `next` is what to give as `after` for the following ones."""

    workspace: str
    documents: list[FileShape]
    next: str | None
    progress: ProgressShape | None


class Uploaded(BaseModel):
    """What was taken in, and is kept whatever happens from now on; it can be found once it is ready."""

    workspace: str
    accepted: list[str]


class Removed(BaseModel):
    """What is gone; `file_deleted`: an upload, whose file is deleted too."""

    workspace: str
    source: str
    file_deleted: bool


class HeadingShape(BaseModel):
    """A heading of a document, and where its section starts."""

    level: int
    text: str
    start: int


class DocumentShape(BaseModel):
    """A document as text; `pages` holds where each page starts."""

    id: str
    source: str
    title: str
    text: str
    metadata: dict[str, str]
    headings: list[HeadingShape]
    pages: list[int]


class PassageReply(PassageShape):
    """A passage, and the document it is of."""

    source: str
    title: str


def hits_as_json(hits: Sequence[Hit], sources: Sources) -> list[dict[str, Any]]:
    """Hits with source and title of their documents."""
    result = []
    for hit in hits:
        source, title = sources.get(hit.passage.document_id, ("", ""))
        scores = {"rank": hit.rank, "score": hit.score, "scores": dict(hit.scores)}
        result.append({**scores, "source": source, "title": title, "passage": asdict(hit.passage)})
    return result


def citations_as_json(answer: Answer, sources: Sources) -> list[dict[str, Any]]:
    """The citations, numbered, each with its place."""
    passages = {hit.passage.id: hit.passage for hit in answer.hits}
    return [
        {"number": number, **asdict(citation), **_place(passages.get(citation.passage_id), sources)}
        for number, citation in enumerate(answer.citations, start=1)
    ]


def answer_as_json(answer: Answer, sources: Sources) -> dict[str, Any]:
    """An answer as the API gives it, without what the request knows better."""
    return {
        "answer": None if answer.abstained else answer.text,
        "text": answer.text,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "citations": citations_as_json(answer, sources),
        "hits": hits_as_json(answer.hits, sources),
        "timings": dict(answer.timings),
    }


def file_as_json(file: FileState) -> dict[str, Any]:
    """A file with its state in a word."""
    whole = not file.unsplit and file.embedded == file.passages
    return {
        "source": file.source,
        "type": file.type,
        "bytes": file.size,
        "documents": file.documents,
        "passages": file.passages,
        "state": "unread" if file.reason else "ready" if whole else "indexing",
        "reason": file.reason,
        "warnings": list(file.warnings),
    }


def _place(passage: Passage | None, sources: Sources) -> dict[str, Any]:
    if passage is None:
        return {"source": "", "title": "", "headings": [], "page": None}
    source, title = sources.get(passage.document_id, ("", ""))
    return {"source": source, "title": title, "headings": list(passage.headings), "page": passage.page}

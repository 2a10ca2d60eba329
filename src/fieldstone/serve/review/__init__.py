"""What people said of answers, on one page for a person who decides what is learnt from it.

The page is one HTML file that opens from a disk. What was decided there comes back as a JSON file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fieldstone.errors import FeedbackError
from fieldstone.evaluate.grading.page import pieces, place_of, render_page
from fieldstone.feedback import (
    CHARACTERS,
    Entry,
    Proposal,
    keep_reviews,
    propose,
    read_entries,
    reviewed,
)
from fieldstone.library import Library
from fieldstone.records import Passage

PASSAGES = 6
"""So many of the passages that were cited or found are shown, to choose the one that answers."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the page says of an answer: learn this answer from this passage, or throw it away.

    `question` is what was asked, where that was put right.
    """

    take: bool
    answer: str = ""
    passage: str | None = None
    question: str = ""


@dataclass(frozen=True, slots=True)
class Decisions:
    """A file that the page exported; `library` is the id of the library that it was made from."""

    fieldstone: Literal["review"]
    version: Literal[1]
    library: str
    reviewer: str
    saved: str = ""
    decisions: Mapping[str, Decision] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of decisions; `left_out` are questions (or ids) with why."""

    accepted: int
    corrected: int
    discarded: int
    left_out: tuple[tuple[str, str], ...]


def to_review(library: Library) -> list[Entry]:
    """What nobody has reviewed yet: first what somebody said something of, thumbs down before thumbs up."""
    waiting = [entry for entry in read_entries(library) if entry.review is None]
    return sorted(waiting, key=lambda its: 2 if its.said is None else int(its.said.good))


def render_review(library: Library, entries: list[Entry], name: str) -> str:
    """The page for these entries of the workspace `name`."""
    ids = {id_ for entry in entries for id_ in _near(entry)}
    passages = {p.id: p for p in library.passages(sorted(ids))}
    sources = library.sources({p.document_id for p in passages.values()})
    content = {
        "library": library.id,
        "workspace": name,
        "characters": CHARACTERS,
        "items": [_shown(entry, passages, sources) for entry in entries],
    }
    style = (files("fieldstone.evaluate.grading") / "sheet.css").read_text(encoding="utf-8")
    return render_page(_asset("review.html"), style + _asset("review.css"), _asset("review.js"), content)


def read_decisions(path: Path) -> Decisions:
    """What the page exported. Raises FeedbackError."""
    try:
        return TypeAdapter(Decisions).validate_json(path.read_bytes())
    except OSError as error:
        raise FeedbackError(f"{path} cannot be read: {error.strerror}; name the exported file") from None
    except ValidationError as error:
        what = error.errors(include_url=False)[0]
        place = ".".join(map(str, what["loc"]))
        raise FeedbackError(
            f"{path} holds no decisions of a review page ({f'{place}: ' if place else ''}{what['msg']}); "
            "name the file that the page exported"
        ) from None


def take_decisions(library: Library, decided: Decisions) -> Taken:
    """Keep what was decided, in one transaction; a second time changes nothing.

    Left out is what is not kept any more, and answers without a passage that is there to hold them. Raises
    FeedbackError for decisions about another workspace.
    """
    if decided.library != library.id:
        raise FeedbackError(
            f"these decisions are about another library than {library.path}; "
            "name the workspace that the page was made from"
        )
    entries = {entry.given.id: entry for entry in read_entries(library)}
    named = {its.passage for its in decided.decisions.values() if its.passage is not None}
    near = {id_ for id_ in decided.decisions if id_ in entries for id_ in _near(entries[id_])}
    passages = {p.id: p for p in library.passages(sorted(named | near))}
    sources = library.sources({p.document_id for p in passages.values()})
    reviews, left_out = {}, []
    for id_, decision in decided.decisions.items():
        if id_ not in entries:
            left_out.append((id_, "this answer is not kept any more"))
        elif why := _fault(decision, passages):
            left_out.append((entries[id_].given.question, why))
        else:
            at = passages[decision.passage].document_id if decision.passage else ""
            its = reviewed(
                entries[id_],
                passages,
                decision.answer.strip(),
                decision.passage or None,
                source=sources[at][0] if at else "",
                question=decision.question.strip(),
                who=decided.reviewer,
            )
            reviews[id_] = its if decision.take else replace(its, decision="discarded")
    keep_reviews(library, reviews)
    made = Counter(review.decision for review in reviews.values())
    return Taken(made["accepted"], made["corrected"], made["discarded"], tuple(left_out))


def _fault(decision: Decision, passages: Mapping[str, Passage]) -> str:
    if not decision.take:
        return ""
    for name, text in (("answer", decision.answer), ("question", decision.question)):
        if len(text) > CHARACTERS:
            return f"the {name} has {len(text):,} characters; {CHARACTERS:,} are allowed"
    if decision.passage and decision.passage not in passages:
        return "its passage is not there any more: the document was changed; look at it on a new page"
    if decision.answer.strip() and not decision.passage:
        return "no passage was chosen that holds the answer"
    return ""


def _near(entry: Entry) -> list[str]:
    """The passages that were cited, then those that were found, each once."""
    cited = [citation.passage_id for citation in entry.given.citations]
    return list(dict.fromkeys([*cited, *entry.given.found]))


def _shown(
    entry: Entry, passages: Mapping[str, Passage], sources: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """An entry as the page has it."""
    given, what = entry.given, entry.said
    proposal = propose(entry, passages)
    quotes = {citation.passage_id: citation.quote for citation in given.citations}
    marked = {} if what is not None and what.correction else quotes
    near = [passages[id_] for id_ in _near(entry) if id_ in passages]
    first = [p for p in near if p.id == proposal.passage_id or p.id in quotes]
    shown = [*first, *(p for p in near if p not in first)][:PASSAGES]
    return {
        "id": given.id,
        "day": given.time[:10],
        "why": _why(entry, proposal),
        "question": given.question,
        "asked": given.asked if given.asked != given.question else "",
        "answer": given.answer,
        "abstained": given.abstained,
        "said": None if what is None else [what.good, what.correction, what.comment, what.who],
        "clear": proposal.clear,
        "proposed": [proposal.answer, proposal.passage_id],
        "passages": [
            {
                "id": p.id,
                "place": place_of(sources[p.document_id][0], p),
                "cited": p.id in quotes,
                "pieces": pieces(marked.get(p.id) or proposal.answer, p.text),
            }
            for p in shown
        ],
    }


def _why(entry: Entry, proposal: Proposal) -> str:
    """Why a person should look at it."""
    if entry.said is not None and not entry.said.good:
        return "corrected" if proposal.answer == entry.said.correction else "thumbs down"
    if entry.said is not None:
        return "thumbs up"
    if entry.given.abstained:
        return "not answered"
    return "the citation does not stand in its document word for word"


def _asset(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")

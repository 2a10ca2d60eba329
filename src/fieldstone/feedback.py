"""Answers that were given, what people said of them, and the examples that come of it.

They are kept in the library, apart from the documents. Nothing is learnt from them before a person has
reviewed it, unless the settings say so: whoever may ask could otherwise teach the system what they like.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from fieldstone.errors import FeedbackError
from fieldstone.library import Library
from fieldstone.quotes import find, find_words, sentences
from fieldstone.records import Answer, Citation, Example, Passage, fingerprint
from fieldstone.search.words import index_words

CHARACTERS = 4000
"""A correction or a comment is no longer."""

ENOUGH = 0.6
"""A passage with such a share of a correction's words may hold it in other words."""

NEGATIVES = 4
"""Passages that were found and do not answer, kept for each example."""


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that was given. `asked` is the question after it was made self-contained.

    `found` are the passages that the search found, best first. `models` are the fingerprints of what
    answered; `time` is in ISO format.
    """

    id: str
    time: str
    workspace: str
    question: str
    asked: str
    answer: str
    abstained: bool
    confidence: float
    citations: tuple[Citation, ...] = ()
    found: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)

    @property
    def doubtful(self) -> bool:
        """Nothing was answered, or a citation does not stand word for word in its document."""
        return self.abstained or not self.citations or not all(c.verified for c in self.citations)


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody said of an answer; `who` is the name of their key."""

    good: bool
    correction: str = ""
    comment: str = ""
    who: str = ""
    time: str = ""


@dataclass(frozen=True, slots=True)
class Review:
    """What a reviewer decided; if it is not discarded, `answer` is right and stands in `passage_id`.

    Without both, the documents do not answer. `evidence` are the words of the passage that say so, from
    `source`: by them it is found again when the document is split otherwise. `question` is what was asked, if
    the reviewer has put that right too.
    """

    decision: Literal["accepted", "corrected", "discarded"]
    question: str = ""
    answer: str = ""
    passage_id: str | None = None
    evidence: str = ""
    source: str = ""
    who: str = ""
    time: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer that was given, with what was said and decided."""

    given: Given
    said: Said | None = None
    review: Review | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an example of an entry would say; `clear`: it could do without a reviewer.

    An empty answer without a passage says that the documents do not answer.
    """

    answer: str
    passage_id: str | None
    clear: bool


def now() -> str:
    """The time in ISO format, in UTC, to the microsecond: answers are kept in its order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_answer(workspace: str, question: str, asked: str, answer: Answer, models: Mapping[str, str]) -> Given:
    """An answer that was just given, with an id that nobody can guess."""
    return Given(
        id=uuid4().hex,
        time=now(),
        workspace=workspace,
        question=_plain(question),
        asked=_plain(asked),
        answer=answer.text,
        abstained=answer.abstained,
        confidence=answer.confidence,
        citations=answer.citations,
        found=tuple(hit.passage.id for hit in answer.hits),
        models=dict(models),
    )


def said(good: bool, correction: str = "", comment: str = "", who: str = "") -> Said:
    """Feedback as it is kept. Raises FeedbackError if it is too long."""
    for name, text in (("correction", correction), ("comment", comment)):
        if len(text) > CHARACTERS:
            raise FeedbackError(f"the {name} has {len(text):,} characters; {CHARACTERS:,} are allowed")
    return Said(good, _plain(correction).strip(), _plain(comment).strip(), who, now())


def keep_answers(library: Library, answers: Iterable[Given], most: int) -> None:
    """Keep answers; of all those that nobody has said anything of, the `most` newest stay."""
    library.put_answers([(its.id, its.time, _json(its)) for its in answers], most)


def keep_said(library: Library, id_: str, what: Said, given: Given | None = None) -> bool:
    """Keep what was said of an answer, and the answer where it is given; the last word counts.

    False: there is no such answer.
    """
    return library.put_said(id_, _json(what), (given.time, _json(given)) if given is not None else None)


def keep_reviews(library: Library, reviews: Mapping[str, Review]) -> None:
    """Keep what was decided about answers, by their ids."""
    library.put_reviews({id_: _json(review) for id_, review in reviews.items()})


def read_entries(library: Library) -> list[Entry]:
    """All answers that are kept, the newest first. Raises FeedbackError if one is damaged."""
    givens, saids, reviews = TypeAdapter(Given), TypeAdapter(Said), TypeAdapter(Review)
    try:
        return [
            Entry(
                givens.validate_json(given),
                None if what is None else saids.validate_json(what),
                None if review is None else reviews.validate_json(review),
            )
            for given, what, review in library.answers()
        ]
    except ValidationError as error:
        raise FeedbackError(
            f"an answer kept in {library.path} is damaged ({error.errors()[0]['msg']}); "
            "set feedback.learn=nothing to build without what is kept there"
        ) from None


def propose(entry: Entry, passages: Mapping[str, Passage]) -> Proposal:
    """The example that an entry would make, from the passages that it cites and that were found for it."""
    given, what = entry.given, entry.said
    near = [
        passages[id_] for id_ in (*(c.passage_id for c in given.citations), *given.found) if id_ in passages
    ]
    if what is not None and what.correction:
        holding = next((p for p in near if find_words(what.correction, p.text)), None)
        if holding is not None:
            return Proposal(what.correction, holding.id, True)
        likeliest = max(near, key=lambda p: _share(what.correction, p.text), default=None)
        close = likeliest is not None and _share(what.correction, likeliest.text) >= ENOUGH
        return Proposal(what.correction, likeliest.id if likeliest is not None and close else None, False)
    good = what is not None and what.good
    if given.abstained:
        return Proposal("", None, False)
    verified = next((c for c in given.citations if c.verified and c.passage_id in passages), None)
    about = verified.passage_id if verified else near[0].id if near else None
    return Proposal(given.answer, about, good and verified is not None)


def reviewed(
    entry: Entry,
    passages: Mapping[str, Passage],
    answer: str,
    passage_id: str | None,
    *,
    source: str = "",
    question: str = "",
    who: str = "",
) -> Review:
    """That an answer is right and stands in a passage of `source`, as a reviewer says."""
    proposal = propose(entry, passages)
    question = "" if question == entry.given.asked else question
    same = (answer, passage_id, question) == (proposal.answer, proposal.passage_id, "")
    return Review(
        "accepted" if same else "corrected",
        question,
        answer,
        passage_id,
        _evidence(answer, passages[passage_id].text) if passage_id else "",
        source,
        who,
        now(),
    )


def feedback_examples(
    library: Library, learn: Literal["nothing", "reviewed", "clear"] = "reviewed"
) -> list[Example]:
    """What can be learnt from feedback: what was reviewed, or what is clear as well; the newest of each.

    Left out is what a reviewer threw away, and what no document says any more.
    """
    if learn == "nothing":
        return []
    found: dict[tuple[str, ...], Example] = {}
    everything: dict[str, Passage] = {}
    for entry in read_entries(library):
        if entry.review is None and learn != "clear":
            continue
        everything = everything or {p.id: p for p in library.passages()}
        example = _example(library, entry, everything)
        if example is not None and (words := tuple(index_words(example.question))):
            found.setdefault(words, example)
    return list(found.values())


def _example(library: Library, entry: Entry, passages: Mapping[str, Passage]) -> Example | None:
    given, review = entry.given, entry.review
    if review is None:
        proposal = propose(entry, passages)
        if not proposal.clear:
            return None
        question, answer, about, decision = given.asked, proposal.answer, proposal.passage_id, "clear"
    elif review.decision == "discarded":
        return None
    else:
        question, answer, decision = review.question or given.asked, review.answer, review.decision
        about = _again(library, review, passages)
        if review.passage_id is not None and about is None:
            return None
    others = [passages[id_] for id_ in given.found if id_ in passages and id_ != about]
    wrong = [p.id for p in others if about is None or not find_words(answer, p.text)]
    made_by = {"answer": given.id, "by": decision, **{f"model: {k}": v for k, v in given.models.items()}}
    return Example(
        fingerprint("feedback", given.id, question, answer, about), question, answer if about else "", about,
        tuple(wrong[:NEGATIVES]), "answerable" if about else "unanswerable", "feedback", made_by,
    )  # fmt: skip


def _again(library: Library, review: Review, passages: Mapping[str, Passage]) -> str | None:
    """The reviewed passage, or the one of its document that holds the evidence now."""
    if review.passage_id is None or review.passage_id in passages:
        return review.passage_id
    for document in library.documents(review.source):
        for start, end in find(review.evidence, document.text):
            its = [p for p in passages.values() if p.document_id == document.id]
            if held := next((p for p in its if p.start < end and start < p.end), None):
                return held.id
    return None


def _evidence(answer: str, text: str) -> str:
    """The first sentence of a passage that holds the answer, or has most of its words."""
    spans = sentences(text) or [(0, len(text))]
    start, end = max(
        spans, key=lambda s: (bool(find_words(answer, text[s[0] : s[1]])), _share(answer, text[s[0] : s[1]]))
    )
    return text[start:end]


def _share(answer: str, text: str) -> float:
    words, held = index_words(answer), set(index_words(text))
    return sum(word in held for word in words) / len(words) if words else 0.0


def _json(record: Given | Said | Review) -> str:
    return json.dumps(asdict(record), ensure_ascii=False)


def _plain(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode()

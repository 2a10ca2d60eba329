"""What people say of answers: taken in, and shown to those who may see it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from fieldstone.errors import RequestError
from fieldstone.feedback import CHARACTERS, Entry, said
from fieldstone.serve.documents import Named
from fieldstone.serve.served import Here, reply
from fieldstone.serve.shapes import Short

routes = APIRouter(prefix="/api", tags=["feedback"])


class FeedbackRequest(BaseModel):
    """What somebody says of an answer; said again, the last word counts."""

    model_config = ConfigDict(extra="forbid")

    answer_id: Short = Field(description="The `id` of the answer.", examples=["ans-0123456789abcdef01234567"])
    good: bool = Field(description="Thumb up, or down.")
    correction: str = Field("", max_length=CHARACTERS, description="What should have been answered.")
    comment: str = Field("", max_length=CHARACTERS)


@routes.post("/feedback")
def give(given: FeedbackRequest, request: Request, here: Here) -> Response:
    """Say what you think of an answer that was given lately; kept once this is answered."""
    here.engine(request, None)
    what = said(given.good, given.correction, given.comment, here.who(request))
    keeping = [engine for engine in here.opened(request) if engine.settings.feedback.keep != "nothing"]
    if not keeping:
        raise RequestError("no feedback is kept here; to keep it, set feedback.keep = rated", status=403)
    for engine in keeping:
        if here.answers[engine.name].say(given.answer_id, what):
            return reply({"workspace": engine.name, "answer_id": given.answer_id})
    raise RequestError(
        f"there is no answer {given.answer_id[:100]!r}; it may be too long ago",
        status=404,
        code="not_found",
        param="answer_id",
    )


@routes.get("/feedback")
def show(
    request: Request,
    here: Here,
    workspace: Named = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
) -> Response:
    """The answers that are kept, the newest first, with what was said of them. Takes a key that is admin."""
    engine = here.engine(request, workspace, admin=True)
    entries = here.answers[engine.name].entries()[:limit]
    return reply({"workspace": engine.name, "feedback": [_as_json(entry) for entry in entries]})


def _as_json(entry: Entry) -> dict[str, Any]:
    given, what, review = entry.given, entry.said, entry.review
    return {
        "answer_id": given.id,
        "time": given.time,
        "question": given.question,
        "asked": given.asked,
        "answer": None if given.abstained else given.answer,
        "confidence": given.confidence,
        "quotes": [citation.quote for citation in given.citations],
        "good": what.good if what else None,
        "correction": what.correction if what else "",
        "comment": what.comment if what else "",
        "who": what.who if what else "",
        "decision": review.decision if review else None,
    }
